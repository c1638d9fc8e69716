"""What runs beside the platform: charts of others at pinned versions, with values that bound them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from dagster._config import process_config

from medallion_platform.orchestration.launcher import Launcher
from medallion_platform_tests.cluster.tools import NoTool, helm, kubectl

from .pods import containers, pods_of
from .rendering import CHART, NAMESPACE, VALUES, Manifest, documents, lack, render
from .schemas import CUSTOM, NoSchema, why_wrong

CHARTS = Path(os.environ.get("MEDALLION_TEST_CHARTS") or VALUES.parent.parent / "shared" / "charts")
"""A folder of unpacked charts by their names. No registry of packages has them, so CI may lack them, too: the
suite says at its end what was not tested."""
MANIFESTS = ("admin", "istio", "kafka-cluster", "postgres-cluster", "secrets", "snapshots")
OF_THE_CHART = ("spark-history",)
ROOT = {"opentelemetry-collector": "log files of a node belong to root"}
"""Containers that are root, and why."""
ROOT_BY_VALUES = {"otel"}
"""Whose values say so."""


@dataclass(frozen=True)
class Pinned:
    chart: str
    version: str
    repository: str


def pinned(file: Path) -> Pinned:
    """What the first lines of a values file say of its chart."""
    lines = file.read_text().splitlines()
    words = " ".join(line.removeprefix("# ") for line in lines[:3] if line.startswith("#"))
    found = re.match(r"Chart: (\S+) (v?\d+\.\d+\.\d+) of ((?:https|oci)://[^\s,]+)", words)
    assert found, f"{file.name} does not say its chart, version and repository"
    return Pinned(*found.groups())


NEIGHBOURS = {
    file.stem if file.parent == VALUES else "argo-cd": file
    for file in (*sorted(VALUES.glob("*.yaml")), VALUES / "argo-cd" / "values.yaml")
    if file.stem not in (*MANIFESTS, *OF_THE_CHART)
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_a_neighbour_is_pinned_and_holds_no_secret(name: str) -> None:
    pinned(NEIGHBOURS[name])
    for path, value in leaves(yaml.safe_load(NEIGHBOURS[name].read_text())):
        named = path[-1].lower()
        if named.endswith("_secret"):  # the name of one
            continue
        if "password" in named or named in ("token", "secretkey", "accesskey", "key"):
            assert not value or re.fullmatch(r"[a-z]+|[A-Z_]+", str(value)), path  # the name of a key


def leaves(value: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for name, below in value.items():
            yield from leaves(below, *path, str(name))
    elif isinstance(value, list):
        for below in value:
            yield from leaves(below, *path)
    else:
        yield path, value


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_what_a_neighbour_is_given_is_bounded_and_no_root(name: str) -> None:
    """What can be told without its chart."""
    found = list(mappings(yaml.safe_load(NEIGHBOURS[name].read_text())))
    bounds = [(path, told) for path, told in found if told.keys() & {"limits", "requests"}]
    of_pods = [(path, told) for path, told in bounds if told.get("requests", {}).keys() != {"storage"}]
    assert of_pods
    for path, told in of_pods:
        # A run takes what nobody else uses of the processor.
        bounded = {"memory"} if "runLauncher" in path else {"cpu", "memory"}
        assert told["limits"].keys() >= bounded, path
        assert told["requests"].keys() >= {"cpu", "memory"}, path
        assert told["requests"]["memory"] == told["limits"]["memory"], path
    for path, told in found:
        of_root = told.get("runAsUser") == 0 or told.get("runAsNonRoot") is False
        assert not of_root or name in ROOT_BY_VALUES, path
        assert not any(told.get(right) for right in ("privileged", "hostNetwork", "hostPID")), path


def mappings(value: Any, *path: str) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Each mapping in values, and where it is."""
    if isinstance(value, dict):
        yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, below in inner:
        yield from mappings(below, *path, str(name))


def rendered(name: str) -> list[Manifest]:
    """What the chart of a neighbour makes of its values."""
    if not CHARTS.is_dir():
        pytest.skip(f"there are no charts at {CHARTS} (MEDALLION_TEST_CHARTS names another place)")
    chart = CHARTS / pinned(NEIGHBOURS[name]).chart
    command = [str(helm()), "template", "it", str(chart), "--namespace", "it", "--values"]
    done = subprocess.run([*command, str(NEIGHBOURS[name])], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return list(documents(done.stdout))


@pytest.mark.parametrize("name", [n for n in NEIGHBOURS if n != "dagster"])
def test_every_pod_of_a_neighbour_has_limits_and_is_no_root(name: str) -> None:
    found = [(of, pod) for manifest in rendered(name) for of, pod in pods_of(manifest)]
    assert found or name == "prometheus"
    for of, pod in found:
        for container in containers(pod):
            where = f"{of}: {container['name']}"
            assert container.get("resources", {}).get("limits", {}).keys() >= {"cpu", "memory"}, where
            security = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
            root = not security.get("runAsNonRoot") and not security.get("runAsUser")
            assert not root or container["name"] in ROOT, where
            for variable in container.get("env", []):
                secret = re.search("password|secret_key|token", variable["name"], re.IGNORECASE)
                assert not (secret and variable.get("value")), where


OF_A_CHART = {("postgres-cluster", "Cluster"): "postgres"}
"""Custom resources without a schema among those of many operators, and whose chart brings it."""


@pytest.mark.parametrize("name", MANIFESTS)
def test_an_api_server_accepts_the_manifests(name: str) -> None:
    for manifest in documents((VALUES / f"{name}.yaml").read_text()):
        if (name, manifest["kind"]) in OF_A_CHART:
            continue
        try:
            assert not why_wrong(manifest), manifest
        except NoSchema as error:
            lack(str(error))


@pytest.mark.parametrize(("name", "kind"), OF_A_CHART)
def test_an_operator_accepts_what_only_its_chart_describes(name: str, kind: str) -> None:
    (manifest,) = (m for m in documents((VALUES / f"{name}.yaml").read_text()) if m["kind"] == kind)
    group, _, version = manifest["apiVersion"].rpartition("/")
    (declared,) = (
        m["spec"]
        for m in rendered(OF_A_CHART[name, kind])
        if m["kind"] == "CustomResourceDefinition"
        and (m["spec"]["group"], m["spec"]["names"]["kind"]) == (group, kind)
    )
    (schema,) = (v["schema"]["openAPIV3Schema"] for v in declared["versions"] if v["name"] == version)
    assert [e.message for e in jsonschema.Draft202012Validator(strict(schema)).iter_errors(manifest)] == []


def strict(schema: Any) -> Any:
    """The schema without leave for fields that it does not name, which an API server would drop."""
    if isinstance(schema, list):
        return [strict(below) for below in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(below) for name, below in schema.items()}
    named = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    # Of any object's own fields the schema says nothing more.
    free = free or schema.get("properties", {}).keys() == {"metadata"}
    return {**closed, "additionalProperties": False} if named and not free else closed


def test_each_secret_of_the_vault_has_the_name_and_the_keys_that_the_chart_wants() -> None:
    told = {
        m["spec"]["target"]["name"]: {
            *(d["secretKey"] for d in m["spec"]["data"] if "template" not in m["spec"]["target"]),
            *m["spec"]["target"].get("template", {}).get("data", {}),
        }
        for m in documents((VALUES / "secrets.yaml").read_text())
        if m["kind"] == "ExternalSecret"
    }
    assert told == {
        "medallion-postgres": {"DAGSTER_PG_PASSWORD"},
        "medallion-s3": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
        "medallion-kafka": {"MEDALLION_KAFKA"},
        "medallion-token-key": {"MEDALLION_TOKEN_KEY"},
        "medallion-channels": {"MEDALLION_SLACK_TOKEN", "MEDALLION_PAGERDUTY_KEY"},
        "medallion-redis": {"REDIS_PASSWORD"},
        "medallion-spark": {"secret", "tls.key", "tls.crt"},
    }
    chosen: set[str] = set()
    for environment in ENVIRONMENTS:
        values = yaml.safe_load(values_of(environment).read_text())
        chosen |= set(values["secrets"].values())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())["secrets"]
    assert told.keys() == chosen | {defaults["postgres"]}


ENVIRONMENTS = ("dev", "staging", "prod")


def values_of(environment: str) -> Path:
    return VALUES / "argo-cd" / "overlays" / environment / "values.yaml"


def applications(environment: str) -> dict[str, Manifest]:
    """What the application of an environment makes of others, by their names."""
    try:
        program = kubectl()
    except NoTool as error:
        lack(str(error))
    done = subprocess.run(
        [str(program), "kustomize", str(values_of(environment).parent)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return {m["metadata"]["name"]: m for m in documents(done.stdout) if m["kind"] == "Application"}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_is_made_by_applications_that_argo_accepts(environment: str) -> None:
    found = applications(environment)
    if not CUSTOM.exists():
        lack(f"no schemas of custom resources at {CUSTOM}: set MEDALLION_TEST_SCHEMAS")
    root = yaml.safe_load(values_of(environment).with_name("root.yaml").read_text())
    project = yaml.safe_load((VALUES / "argo-cd" / "base" / "project.yaml").read_text())
    assert [t for t in map(why_wrong, (root, project, *found.values())) if t] == []
    assert root["spec"]["source"]["path"] == f"helm-values/argo-cd/overlays/{environment}"
    for name, application in found.items():
        spec = application["spec"]
        assert {d["namespace"] for d in project["spec"]["destinations"]} >= {spec["destination"]["namespace"]}
        for source in spec.get("sources", [spec.get("source")]):
            assert source["repoURL"] in project["spec"]["sourceRepos"], name


def test_argo_installs_each_neighbour_at_the_version_of_its_values() -> None:
    found = applications("prod")
    told: dict[str, Pinned] = {}
    for application in found.values():
        for source in application["spec"].get("sources", []):
            if "chart" in source:
                (values,) = source["helm"]["valueFiles"]
                file = VALUES / values.removeprefix("$git/helm-values/")
                told[file.stem] = pinned(file)
                repository = told[file.stem].repository.removeprefix("oci://")
                assert (source["chart"], source["targetRevision"], source["repoURL"]) == (
                    told[file.stem].chart,
                    told[file.stem].version,
                    repository,
                )
    # Argo CD does not install itself, and Dagster's own chart is for whoever has it already.
    assert told.keys() == NEIGHBOURS.keys() - {"argo-cd", "dagster"}


def test_production_takes_what_was_released_and_changes_nothing_by_itself() -> None:
    for name, application in applications("prod").items():
        assert "automated" not in application["spec"]["syncPolicy"], name
        sources = application["spec"].get("sources", [application["spec"].get("source")])
        assert all(source["targetRevision"] != "main" for source in sources), name
    by_itself = applications("dev")
    assert all("automated" in a["spec"]["syncPolicy"] for a in by_itself.values())
    assert "velero" not in by_itself


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_chart_takes_the_values_of_an_environment(environment: str) -> None:
    (file,) = applications(environment)["medallion"]["spec"]["source"]["helm"]["valueFiles"]
    values = (CHART / file).resolve()
    assert values == values_of(environment)
    manifests = render({}, values)
    assert [w for w in map(why_wrong, (m for m in manifests if "." not in m["apiVersion"])) if w] == []
    assert {m["metadata"].get("namespace", NAMESPACE) for m in manifests} == {NAMESPACE}


@pytest.mark.parametrize("name", OF_THE_CHART)
def test_the_chart_takes_further_values(name: str) -> None:
    assert len(render({}, VALUES / f"{name}.yaml")) > len(render())


def test_the_launcher_takes_what_dagster_s_own_chart_is_to_give_it() -> None:
    given = yaml.safe_load(NEIGHBOURS["dagster"].read_text())["runLauncher"]["config"]["customRunLauncher"]
    assert (given["module"], given["class"]) == (Launcher.__module__, Launcher.__name__)
    taken = process_config(Launcher.config_type(), given["config"])
    assert taken.success, taken.errors
