"""What the launcher makes of a run: the job that Dagster's own launcher would send to the API server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher import LaunchRunContext
from dagster._core.origin import DEFAULT_DAGSTER_ENTRY_POINT, JobPythonOrigin, RepositoryPythonOrigin
from kubernetes.client import CoreV1Api

from medallion_platform.installation.settings import Settings
from medallion_platform.kubernetes.shape import GB, Shape, Work
from medallion_platform.orchestration import runs
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.lakehouse_resource import lakehouse_of
from medallion_platform.orchestration.launcher import (
    DECIDED_TAG,
    REASON_TAG,
    SHAPE_TAG,
    Launcher,
    container_config,
    work_of,
)
from medallion_platform.orchestration.names import BRING_UP, CATCH_UP, INTAKE
from medallion_platform.orchestration.needs import LAUNCHER, are_read, publish_needs
from medallion_platform.orchestration.partitions import range_tags
from medallion_platform.pipeline.need import Need
from medallion_platform_tests.in_kubernetes.server import Objects, api_server
from medallion_platform_tests.pipeline.shop import SHOP

NAMESPACE = "here"

KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "nowhere",
    "clusters": [{"name": "nowhere", "cluster": {"server": "https://127.0.0.1:1"}}],
    "contexts": [{"name": "nowhere", "context": {"cluster": "nowhere", "user": "nobody"}}],
    "users": [{"name": "nobody", "user": {}}],
}
NEEDS = {
    "bronze.events": Need("bronze"),
    "silver.events": Need("silver", 41 * GB, GB, 900 * GB),
    "silver.users": Need("silver"),
    "gold.days": Need("gold", 2 * GB, GB, 30 * GB),
}


class Batch:
    """The API server's part that takes jobs."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def create_namespaced_job(self, *, body: Any, namespace: str, **_: Any) -> None:
        assert namespace == NAMESPACE
        self.jobs.append(body)


class World:
    """An installation whose runs are pods."""

    def __init__(self, home: Path, on: dg.DagsterInstance, objects: Objects) -> None:
        self.on, self.batch, self.objects = on, Batch(), objects
        objects.put("configmaps", "dagster-instance", metadata={"uid": "of-the-release"})
        self.defs = build_defs(SHOP, lakehouse_of(Settings(home=home), SHOP))
        self.context: dict[str, Any] = {}
        config = home / "kubeconfig"
        config.write_text(json.dumps(KUBECONFIG))
        self.options: dict[str, Any] = {
            "service_account_name": "run-worker",
            "instance_config_map": "dagster-instance",
            "dagster_home": "/opt/dagster",
            "job_namespace": NAMESPACE,
            "load_incluster_config": False,
            "kubeconfig_file": str(config),
            "k8s_client_batch_api": self.batch,
            "k8s_client_core_api": CoreV1Api(objects.cluster.client),
        }

    def launch(self, job: str = CATCH_UP, needs: dict[str, Need] | None = None, **run: Any) -> Any:
        """The pod's specification, of a run of a job (or of assets), and its run."""
        if needs is not None:
            publish_needs(self.on, needs, datetime.now(UTC), None)
        launcher = Launcher(**self.options)
        launcher.register_instance(self.on)
        repository = RepositoryPythonOrigin(
            sys.executable,
            ModuleCodePointer("shop", "defs"),
            container_image="medallion:1",
            entry_point=DEFAULT_DAGSTER_ENTRY_POINT,
            container_context={"k8s": self.context} if self.context else None,
        )
        made = self.on.create_run_for_job(
            self.defs.resolve_job_def(job), job_code_origin=JobPythonOrigin(job, repository), **run
        )
        launcher.launch_run(LaunchRunContext(made, None))
        found = self.on.get_run_by_id(made.run_id)
        assert found
        return self.batch.jobs[-1].spec.template.spec, found

    def of_assets(self, *tables: str, **run: Any) -> Any:
        keys = frozenset(dg.AssetKey(name.replace(".", "_")) for name in tables)
        return self.launch("__ASSET_JOB", asset_selection=keys, **run)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with runs.open_instance(tmp_path / "dagster") as on, api_server() as objects:
        yield World(tmp_path, on, objects)


def variables(pod: Any) -> dict[str, str]:
    """Those that the launcher gives, with the field that Kubernetes reads them from."""
    found = {}
    for variable in pod.containers[0].env:
        source = variable.value_from
        field = source and (source.field_ref or source.resource_field_ref)
        found[variable.name] = (
            field and (getattr(field, "field_path", "") or field.resource)
        ) or variable.value
    return {name: value for name, value in found.items() if name.startswith("MEDALLION_")}


def memory(pod: Any) -> tuple[str, str]:
    resources = pod.containers[0].resources
    return resources.requests["memory"], resources.limits["memory"]


# the job ------------------------------------------------------------------------------------------


def test_the_pod_has_what_the_needs_of_what_is_due_ask_for(world: World) -> None:
    pod, run = world.launch(needs=NEEDS)
    reason = "silver.events: 41 GB planned, more than 10 GB: 7 executors of 10 GiB"
    assert (run.tags[SHAPE_TAG], run.tags[REASON_TAG]) == ("7 executors of 10 GiB", reason)
    assert memory(pod) == ("4608Mi", "4608Mi")
    assert pod.containers[0].resources.requests["cpu"] == "500m"
    assert "cpu" not in pod.containers[0].resources.limits
    assert variables(pod) == {
        "MEDALLION_RUN_EXECUTORS": "7",
        "MEDALLION_RUN_SPARK": "1",
        "MEDALLION_RUN_EXECUTOR_CORES": "4",
        "MEDALLION_RUN_EXECUTOR_MEMORY": str(10 << 30),
        "MEDALLION_RUN_IMAGE": "medallion:1",
        "MEDALLION_RUN_POD": "metadata.name",
        "MEDALLION_RUN_NAMESPACE": "metadata.namespace",
        "MEDALLION_RUN_ADDRESS": "status.podIP",
        "MEDALLION_SPARK_CORES": "requests.cpu",
    }
    assert pod.containers[0].image == "medallion:1"
    told = [e for e in world.on.all_logs(run.run_id) if e.dagster_event and reason in (e.message or "")]
    assert told[0].dagster_event.engine_event_data.metadata["executors"].value == "7"


def test_the_job_is_deleted_with_the_release(world: World) -> None:
    world.launch()
    (owner,) = world.batch.jobs[-1].metadata.owner_references
    assert (owner.kind, owner.name, owner.uid) == ("ConfigMap", "dagster-instance", "of-the-release")


def test_without_the_right_to_know_the_release_the_run_is_launched_all_the_same(world: World) -> None:
    world.objects.refused.add("GET")
    _, run = world.launch()
    assert not world.batch.jobs[-1].metadata.owner_references
    told = [
        str(entry.dagster_event and entry.dagster_event.message) for entry in world.on.all_logs(run.run_id)
    ]
    assert any("stays when the installation is deleted" in text for text in told)


def test_without_executors_the_pod_knows_that_too(world: World) -> None:
    pod, run = world.of_assets("gold.days", needs=NEEDS)
    assert run.tags[SHAPE_TAG] == "threads in a pod of 3 GiB"
    told = {"MEDALLION_RUN_EXECUTORS": "0", "MEDALLION_SPARK_CORES": "requests.cpu"}
    assert variables(pod) == {**told, "MEDALLION_RUN_SPARK": "1"}
    pod, _ = world.launch("intake", needs={"bronze.events": Need("bronze", 1)})
    assert variables(pod) == told


def test_before_anything_is_known_the_pod_is_small(world: World) -> None:
    pod, run = world.launch()
    assert memory(pod) == ("3072Mi", "3072Mi")
    assert run.tags[REASON_TAG].startswith("nothing is known")


def test_where_the_sensor_is_off_all_may_be_due(world: World) -> None:
    publish_needs(world.on, NEEDS, datetime.now(UTC) - timedelta(minutes=6), None)
    _, run = world.of_assets("silver.events")
    assert "900 GB planned" in run.tags[REASON_TAG]


def test_the_settings_of_the_daemon_bound_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDALLION_MOST_EXECUTORS", "3")
    monkeypatch.setenv("MEDALLION_MOST_MEMORY", "4g")
    monkeypatch.setenv("MEDALLION_LOCAL_BYTES", "1GB")
    pod, _ = world.launch(needs=NEEDS)
    found = variables(pod)
    assert (found["MEDALLION_RUN_EXECUTORS"], found["MEDALLION_RUN_EXECUTOR_MEMORY"]) == ("3", str(4 << 30))
    assert "1.0 GB" in world.on.get_runs()[0].tags[REASON_TAG]


# settings of Kubernetes at every level ------------------------------------------------------------


def pod_settings(**selector: str) -> dict[str, Any]:
    return {"pod_spec_config": {"node_selector": selector}}


def test_the_more_special_setting_wins(world: World) -> None:
    def limits(memory: str) -> dict[str, Any]:
        return {"container_config": {"resources": {"limits": {"memory": memory}}}}

    world.options |= {
        "run_k8s_config": {
            **pod_settings(a="installation", b="installation", c="installation", d="installation"),
            **limits("1Gi"),
        }
    }
    pod, _ = world.launch(needs=NEEDS)
    assert memory(pod)[1] == "4608Mi"
    world.context = {"run_k8s_config": {**pod_settings(b="code", c="code", d="code"), **limits("5Gi")}}
    pod, _ = world.launch(needs=NEEDS)
    assert memory(pod) == ("4608Mi", "5Gi")
    of_table = {**pod_settings(c="table", d="table"), **limits("6Gi")}
    needs = {**NEEDS, "gold.days": Need("gold", 1, config=of_table)}
    pod, _ = world.launch(needs=needs)
    assert memory(pod)[1] == "6Gi"
    of_run = {**pod_settings(d="run"), **limits("7Gi")}
    pod, run = world.launch(needs=needs, tags={"dagster-k8s/config": json.dumps(of_run)})
    assert memory(pod) == ("4608Mi", "7Gi")
    assert pod.node_selector == {"a": "installation", "b": "code", "c": "table", "d": "run"}
    assert json.loads(run.tags[DECIDED_TAG])["config"] == [of_table]
    pod, _ = world.of_assets("silver.events", needs=needs)
    assert pod.node_selector["c"] == "code", "a table that the run does not work on asks for nothing"


def test_executors_take_the_image_of_their_drivers_pod_whoever_names_it(world: World) -> None:
    def images(**run: Any) -> tuple[str, str]:
        pod, _ = world.launch(needs=needs, **run)
        return pod.containers[0].image, variables(pod)["MEDALLION_RUN_IMAGE"]

    def named(image: str) -> dict[str, Any]:
        return {"container_config": {"image": image}}

    needs = NEEDS
    assert images() == ("medallion:1", "medallion:1")
    # A run that is tried again has the tag of the former one, which only told its image.
    assert images(tags={"docker/image": "medallion:0"}) == ("medallion:1", "medallion:1")
    world.options |= {"run_k8s_config": named("of-the-installation:1")}
    assert images() == ("of-the-installation:1",) * 2
    needs = {**NEEDS, "gold.days": Need("gold", 1, config=named("of-a-table:1"))}
    assert images() == ("of-a-table:1",) * 2
    assert images(tags={"dagster-k8s/config": json.dumps(named("of-the-run:1"))}) == ("of-the-run:1",) * 2


def test_what_an_installation_does_not_allow_is_refused_of_others_but_not_of_us(world: World) -> None:
    world.options |= {
        "only_allow_user_defined_k8s_config_fields": {"pod_spec_config": {"node_selector": True}}
    }
    assert memory(world.launch(needs=NEEDS)[0]) == ("4608Mi", "4608Mi")
    forbidden = json.dumps({"pod_spec_config": {"host_network": True}})
    with pytest.raises(Exception, match=r"pod_spec_config\.host_network"):
        world.launch(needs=NEEDS, tags={"dagster-k8s/config": forbidden})


def test_a_run_that_another_version_launched_is_found_where_it_is(world: World) -> None:
    launcher = Launcher(**world.options)
    launcher.register_instance(world.on)
    run = world.on.create_run_for_job(world.defs.resolve_job_def(CATCH_UP))
    assert launcher.get_container_context_for_run(run).namespace == NAMESPACE


# what a run was asked for -------------------------------------------------------------------------


def asked(world: World, job: str, **run: Any) -> Work:
    made = world.on.create_run_for_job(world.defs.resolve_job_def(job), **run)
    launcher = Launcher(**world.options)
    launcher.register_instance(world.on)
    return work_of(made, launcher._steps(made), NEEDS)


def assets(*tables: str) -> dict[str, Any]:
    return {"asset_selection": frozenset(dg.AssetKey(name.replace(".", "_")) for name in tables)}


def test_what_is_asked_for(world: World) -> None:
    def common(**config: Any) -> dict[str, Any]:
        return {"run_config": {"ops": {BRING_UP: {"config": config}}}}

    days = range_tags("2026-01-05", "2026-01-07")
    job = "__ASSET_JOB"
    assert asked(world, CATCH_UP) == Work({"silver.events": None, "gold.days": None})
    assert asked(world, CATCH_UP, **common(leave=["silver.events"])) == Work({"gold.days": None})
    assert asked(world, CATCH_UP, **common(held={"gold.days": "x"})) == Work({"silver.events": None})
    assert asked(world, CATCH_UP, **common(only=["gold.days"])) == Work({"gold.days": None})
    assert asked(world, INTAKE) == Work({"bronze.events": None})
    assert asked(world, "maintenance").tables.keys().isdisjoint(NEEDS)
    assert asked(world, job, **assets("silver.users")) == Work({"silver.users": None})
    assert asked(world, job, **assets("silver.users", "gold.days")).tables.keys() == {
        "silver.users",
        "gold.days",
    }
    assert asked(world, job, **assets("gold.days"), tags={"dagster/partition": "2026-01-05"}) == Work(
        {"gold.days": 1}
    )
    assert asked(world, job, **assets("gold.days"), tags=days) == Work({"gold.days": 3})
    own = world.on.get_runs(limit=1)[0].with_tags(range_tags("a", "b"))
    assert work_of(own, ["gold_days"], NEEDS) == Work({"gold.days": None}), "of an asset of one's own"
    rebuild = {"ops": {"gold_days": {"config": {"rebuild": True}}}}
    assert asked(world, job, **assets("gold.days"), run_config=rebuild) == Work(
        {"gold.days": None}, rebuild=True
    )
    former = {"ops": {"gold_days": {"config": {"as_of": "2026-01-05"}}}}
    assert asked(world, job, **assets("gold.days"), run_config=former).rebuild


def test_the_shape_is_what_the_pod_is_made_with() -> None:
    found = container_config(Shape(3 << 30, 1), "")["container_config"]
    assert found["resources"] == {
        "requests": {"cpu": "1", "memory": "3072Mi"},
        "limits": {"memory": "3072Mi"},
    }


def test_the_sensor_sees_that_needs_are_read(tmp_path: Path) -> None:
    """By what dagster.yaml names, which needs no cluster to be read."""
    module, name = LAUNCHER
    assert (Launcher.__module__, Launcher.__name__) == LAUNCHER
    settings = {"run_launcher": {"module": module, "class": name, "config": {"job_namespace": "lake"}}}
    (tmp_path / "dagster.yaml").write_text(json.dumps(settings))
    ref = InstanceRef.from_dir(str(tmp_path))
    with dg.DagsterInstance.from_ref(ref) as on:
        assert are_read(on)
