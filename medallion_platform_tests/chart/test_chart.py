"""The platform's chart, rendered: what a cluster accepts, what a pod may do, what a person may say."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster_postgres.utils import pg_url_from_config
from sqlalchemy import create_engine

from medallion_platform.doctor.checks import checks_of
from medallion_platform.installation.cluster_spark import SECRETS
from medallion_platform.installation.settings import Settings, misspelt
from medallion_platform.kubernetes.flows import FLOWS, METRICS, Flow
from medallion_platform.kubernetes.rights import RIGHTS, Right
from medallion_platform.kubernetes.shape import Shape
from medallion_platform.orchestration.instance import Instance
from medallion_platform.orchestration.launcher import container_config
from medallion_platform.spark.kubernetes import CERTIFICATE, CONTAINER, KEY, SECRET
from medallion_platform_tests.command import REPOSITORY

from .pods import containers, executor_pod, pods, pods_of, run_job
from .rendering import CHART, NAMESPACE, RELEASE, Manifest, Refused, dagster_yaml, lack, render, the
from .schemas import CUSTOM, why_wrong

RESOURCES = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
EVERYTHING: dict[str, Any] = {
    "image": {"tag": "1.2.3", "pullSecrets": ["registry"]},
    "project": {"module": "shop.catalog"},
    "settings": {"AWS_REGION": "eu-central-1", "MEDALLION_SPARK_CORES": 2},
    "secrets": {"s3": "s3", "kafka": "kafka", "tokenKey": "token-key", "project": "apis", "redis": "redis"},
    "certManager": {"issuer": {"kind": "ClusterIssuer", "name": "authority"}},
    "authority": "authorities",
    "roleAnnotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/lake"},
    "features": {"redis": "redis.databases:6379,ssl=true,password=${REDIS_PASSWORD}"},
    "web": {"replicas": {"min": 2, "max": 4}},
    "streams": [
        {
            "source": "clickstream.public_events",
            "refresh": True,
            "workers": {"min": 2, "max": 5},
            "resources": RESOURCES,
        },
        {"source": "clickstream.users", "workers": {"min": 1, "max": 1}, "resources": RESOURCES},
    ],
    "scaler": "keda",
    "monitoring": {"enabled": True},
    "history": {"events": "s3a://bucket/events"},
    "runs": {
        "nodeSelector": {"pool": "batch"},
        "tolerations": [{"key": "batch", "operator": "Exists"}],
        "config": {"pod_template_spec_metadata": {"annotations": {"team": "lake"}}},
    },
    "executors": {"nodeSelector": {"pool": "spot"}, "tolerations": [{"key": "spot", "operator": "Exists"}]},
}
"""Each part of the chart that a value switches on."""
CUSTOM_KINDS = {"Certificate", "PodMonitor", "ScaledObject"}
KINDS = [pytest.param({}, id="defaults"), pytest.param(EVERYTHING, id="everything")]


@pytest.mark.parametrize("values", KINDS)
def test_an_api_server_accepts_every_manifest(values: dict[str, Any], tmp_path: Path) -> None:
    manifests = render(values)
    of_kubernetes = [m for m in manifests if m["kind"] not in CUSTOM_KINDS]
    wrong = [why_wrong(m) for m in (*of_kubernetes, run_job(manifests, tmp_path), executor_pod(manifests))]
    assert [text for text in wrong if text] == []
    names = Counter((m["kind"], m["metadata"]["name"], hook(m)) for m in manifests)
    assert [name for name, n in names.items() if n > 1] == []
    assert all(m["metadata"].get("namespace", NAMESPACE) == NAMESPACE for m in manifests)


def hook(manifest: Manifest) -> str:
    """When Helm makes it, if that is not with the rest."""
    return manifest["metadata"].get("annotations", {}).get("helm.sh/hook", "")


def test_operators_accept_the_resources_that_are_meant_for_them() -> None:
    if not CUSTOM.exists():
        lack(f"no schemas of custom resources at {CUSTOM}: set MEDALLION_TEST_SCHEMAS")
    custom = [m for m in render(EVERYTHING) if m["kind"] in CUSTOM_KINDS]
    assert {m["kind"] for m in custom} == CUSTOM_KINDS
    assert [text for text in map(why_wrong, custom) if text] == []


@pytest.mark.parametrize("values", KINDS)
def test_no_pod_is_root_or_without_limits_or_can_write_but_where_it_must(
    values: dict[str, Any], tmp_path: Path
) -> None:
    """What Pod Security `restricted` demands (Kubernetes, "Pod Security Standards"), and more."""
    found = list(pods(render(values), tmp_path))
    assert {name for name, _ in found} >= {f"Deployment {RELEASE}-web", "a run", "an executor"}
    for name, pod in found:
        of_pod = pod["securityContext"]
        assert of_pod["runAsNonRoot"] and of_pod["runAsUser"] > 0 and of_pod["fsGroup"] > 0, name
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & {k for k, v in pod.items() if v}, name
        assert pod["enableServiceLinks"] is False, name
        for volume in pod["volumes"]:
            assert volume.keys() & {"configMap", "projected", "secret", "emptyDir"}, (name, volume)
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"], (name, volume)
        for container in containers(pod):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["readOnlyRootFilesystem"] is True, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert "privileged" not in own and "runAsUser" not in own, name
            resources = container["resources"]
            # A run takes what nobody else uses of the processor.
            bounded = {"memory"} if name in ("a run", f"Pod {RELEASE}-doctor") else {"cpu", "memory"}
            assert resources["limits"].keys() == bounded, name
            assert resources["requests"].keys() == {"cpu", "memory"}, name
            assert resources["requests"]["memory"] == resources["limits"]["memory"], name
            writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
            assert {path for path in writable if not path.startswith("/data/")} == {"/tmp", "/data"}, name
            assert not container["image"].endswith(":latest"), name


@pytest.mark.parametrize("values", KINDS)
def test_no_secret_is_in_a_specification(values: dict[str, Any], tmp_path: Path) -> None:
    """Only files: who may list pods reads their variables, and a reference among them is one step away."""
    manifests = render(values)
    assert {m["metadata"]["name"] for m in manifests if m["kind"] == "Secret"} == {f"{RELEASE}-spark"}
    for name, pod in pods(manifests, tmp_path):
        for container in containers(pod):
            names = [variable["name"] for variable in container["env"]]
            assert len(names) == len(set(names)), name
            assert all("valueFrom" not in v or "fieldRef" in v["valueFrom"] for v in container["env"]), name
            assert all("secretRef" not in source for source in container.get("envFrom", [])), name
    assert dagster_yaml(manifests)["storage"]["postgres"]["postgres_db"]["password"] == {
        "env": "DAGSTER_PG_PASSWORD"
    }


def test_each_pod_reads_the_secrets_that_it_needs_and_no_other(tmp_path: Path) -> None:
    read = {
        name: {
            source["secret"]["name"]
            for volume in pod["volumes"]
            if volume["name"] == "secrets"
            for source in volume["projected"]["sources"]
        }
        for name, pod in pods(render(EVERYTHING), tmp_path)
    }
    data = {"s3", "kafka", "apis"}
    everything = {"medallion-postgres", "token-key", *data}
    assert read == {
        f"Deployment {RELEASE}-web": {"medallion-postgres"},
        f"Deployment {RELEASE}-daemon": {"medallion-postgres"},
        f"Deployment {RELEASE}-code": everything,
        f"Deployment {RELEASE}-stream-clickstream-public-events": everything,
        f"Deployment {RELEASE}-stream-clickstream-users": everything,
        f"Deployment {RELEASE}-supervise": set(),
        f"Deployment {RELEASE}-history": {"s3"},
        f"Pod {RELEASE}-doctor": everything | {"redis"},
        "a run": everything | {"redis"},
        "an executor": data,
    }


@pytest.mark.parametrize(
    ("values", "from_secrets"),
    [
        ({}, {f"{RELEASE}-spark": None}),
        ({"secrets": {"spark": "mine"}}, {"mine": None}),
        (
            {"certManager": EVERYTHING["certManager"]},
            {f"{RELEASE}-spark": ["secret"], f"{RELEASE}-spark-tls": ["tls.key", "tls.crt"]},
        ),
    ],
)
def test_what_driver_and_executors_trust_each_other_by_are_files_of_theirs_alone(
    values: dict[str, Any], from_secrets: dict[str, list[str] | None], tmp_path: Path
) -> None:
    for name, pod in pods(render(values), tmp_path):
        (mounted,) = [v["projected"]["sources"] for v in pod["volumes"] if v["name"] == "spark"] or [[]]
        trusts = name in ("a run", "an executor", f"Pod {RELEASE}-doctor")
        told = {
            source["secret"]["name"]: [item["path"] for item in source["secret"].get("items", [])] or None
            for source in mounted
        }
        assert told == (from_secrets if trusts else {}), name
        folders = [m["mountPath"] for c in containers(pod) for m in c["volumeMounts"] if m["name"] == "spark"]
        assert folders == ([str(SECRETS)] if trusts else []), name


def test_every_pod_trusts_the_authorities_that_are_named(tmp_path: Path) -> None:
    for name, pod in pods(render(EVERYTHING), tmp_path):
        assert {"name": "authority", "configMap": {"name": "authorities"}} in pod["volumes"], name
        for container in containers(pod):
            (told,) = [v["value"] for v in container["env"] if v["name"] == "SSL_CERT_FILE"]
            mounts = {m["mountPath"] for m in container["volumeMounts"] if m["name"] == "authority"}
            assert mounts == {str(Path(told).parent)}, name
    history = the(render(EVERYTHING), "Deployment", "history")["spec"]["template"]["spec"]["containers"][0]
    # Java reads no PEM files.
    assert "javax.net.ssl.trustStore" in history["args"][-1]
    assert not [p for _, p in pods(render(), tmp_path) if any(v["name"] == "authority" for v in p["volumes"])]


def test_an_upgrade_changes_no_secret_and_an_uninstall_leaves_none() -> None:
    made = [m for m in render() if m["kind"] == "Secret"]
    install, delete = (next(m for m in made if hook(m) == when) for when in ("pre-install", "post-delete"))
    assert len(made) == 2
    assert install["metadata"]["name"] == delete["metadata"]["name"] == f"{RELEASE}-spark"
    assert install["data"].keys() == {SECRET, KEY, CERTIFICATE}
    policies = [m["metadata"]["annotations"]["helm.sh/hook-delete-policy"] for m in (install, delete)]
    assert policies == ["before-hook-creation", "before-hook-creation,hook-succeeded"]
    assert "data" not in delete
    assert [m for m in render({"secrets": {"spark": "mine"}}) if m["kind"] == "Secret"] == []


def test_cert_manager_writes_keys_as_spark_reads_them() -> None:
    spec = the(render(EVERYTHING), "Certificate", "spark-tls")["spec"]
    assert (spec["privateKey"]["algorithm"], spec["privateKey"]["encoding"]) == ("RSA", "PKCS8")
    assert (spec["secretName"], spec["issuerRef"]["name"]) == (f"{RELEASE}-spark-tls", "authority")
    assert [m for m in render() if m["kind"] == "Certificate"] == []


def test_a_command_is_given_the_mounted_secrets_as_variables(tmp_path: Path) -> None:
    script = the(render(), "ConfigMap", "start")["data"]["with-secrets"]
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "MEDALLION_KAFKA").write_text('{"sasl.password": "a \'b\' $c"}\n')
    (folder / "TWO").write_text("two\nlines")
    (folder / "..data").mkdir()  # as the kubelet has it
    start = tmp_path / "with-secrets"
    start.write_text(script.replace("/run/secrets/medallion", str(folder)))
    start.chmod(0o555)
    told = subprocess.run(
        [str(start), "sh", "-c", 'printf "%s|%s|%s" "$MEDALLION_KAFKA" "$TWO" "$*"', "x", "a b"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == '{"sasl.password": "a \'b\' $c"}|two\nlines|a b'
    start.chmod(0o755)
    start.write_text(script.replace("/run/secrets/medallion", str(tmp_path / "none")))
    assert subprocess.run([str(start), "true"]).returncode == 0


@pytest.mark.parametrize("values", KINDS)
def test_the_roles_are_those_of_the_table(values: dict[str, Any], tmp_path: Path) -> None:
    manifests = render(values)
    told = {
        m["metadata"]["name"].removeprefix(f"{RELEASE}-"): rights_of(m)
        for m in manifests
        if m["kind"] == "Role"
    }
    assert told == {component: set(rights) for component, rights in RIGHTS.items() if rights}
    assert [m for m in manifests if m["kind"].startswith("Cluster")] == []
    for component, rights in RIGHTS.items():
        account = the(manifests, "ServiceAccount", component)
        assert account["automountServiceAccountToken"] is False
        if rights:
            binding = the(manifests, "RoleBinding", component)
            assert binding["roleRef"]["name"] == f"{RELEASE}-{component}"
            assert binding["subjects"] == [
                {"kind": "ServiceAccount", "name": f"{RELEASE}-{component}", "namespace": NAMESPACE}
            ]
    for name, pod in pods(manifests, tmp_path):
        component = pod["serviceAccountName"].removeprefix(f"{RELEASE}-")
        assert pod["automountServiceAccountToken"] is bool(RIGHTS[component]), name


def rights_of(role: Manifest) -> set[Right]:
    return {
        Right(group, resource, tuple(rule["verbs"]))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


PLACES = {
    name: {"ipBlock": {"cidr": f"192.0.2.{n}/32"}}
    for n, name in enumerate(
        ("postgres", "s3", "kafka", "redis", "channels", "kubernetes", "dns", "prometheus", "ui")
    )
}
"""An address for each place outside, by which a policy's peer tells whom it means."""


def test_the_policies_are_those_of_the_table() -> None:
    manifests = render({"network": {name: {"peers": [peer]} for name, peer in PLACES.items()}})
    policies = [m for m in manifests if m["kind"] == "NetworkPolicy"]
    (closed,) = (p for p in policies if not p["spec"]["podSelector"])
    assert closed["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    out: set[Flow] = set()
    into: set[Flow] = set()
    for policy in (p["spec"] for p in policies if p is not closed):
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        component = component_of(policy["podSelector"])
        out |= {Flow(component, peer, port) for peer, port in ends(policy["egress"], "to")}
        into |= {Flow(peer, component, port) for peer, port in ends(policy["ingress"], "from")}
    assert out | into == FLOWS
    assert out == {flow for flow in FLOWS if flow.source not in PLACES}
    assert into == {flow for flow in FLOWS if flow.target not in PLACES}


def component_of(selector: dict[str, Any]) -> str:
    labels = selector["matchLabels"]
    assert (labels["app.kubernetes.io/name"], labels["app.kubernetes.io/instance"]) == ("medallion", RELEASE)
    return labels["app.kubernetes.io/component"]


def ends(rules: list[dict[str, Any]], side: str) -> Iterator[tuple[str, int]]:
    """Each other end that the rules of a policy name, with its port."""
    for rule in rules:
        for peer in rule[side]:
            places = [name for name, place in PLACES.items() if place == peer]
            assert places or peer.keys() == {"podSelector"}
            for port in rule["ports"]:
                assert port["protocol"] == "TCP" or port["port"] == 53
                yield (places or [component_of(peer["podSelector"])])[0], port["port"]


def test_where_no_peers_are_named_anybody_is_reached_and_nobody_comes_in() -> None:
    manifests = render()
    assert the(manifests, "NetworkPolicy", "web")["spec"]["ingress"] == []
    egress = the(manifests, "NetworkPolicy", "code")["spec"]["egress"]
    assert {tuple(p["port"] for p in rule["ports"]) for rule in egress if not rule["to"]} == {
        (5432,),
        (443,),
        (9093,),
        (443, 587),
    }


def test_what_a_projects_sources_need_is_open_for_those_that_read_them() -> None:
    rule = {"to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}], "ports": [{"protocol": "TCP", "port": 8081}]}
    manifests = render({"network": {"sources": [rule]}})
    policies = [m for m in manifests if m["kind"] == "NetworkPolicy"]
    assert {p["metadata"]["name"] for p in policies if rule in p["spec"].get("egress", [])} == {
        f"{RELEASE}-{component}" for component in ("code", "run", "executor", "stream")
    }


def test_a_pod_has_the_labels_by_which_policies_know_it(tmp_path: Path) -> None:
    manifests = render(EVERYTHING)
    for manifest in (m for m in manifests if m["kind"] == "Deployment"):
        labels = manifest["spec"]["template"]["metadata"]["labels"]
        assert labels == manifest["spec"]["selector"]["matchLabels"]
        name = f"{RELEASE}-{component_of({'matchLabels': labels})}"
        assert manifest["metadata"]["name"] in (name, labels.get("medallion/stream"))
    job = run_job(manifests, tmp_path)
    # By this the supervisor finds the Jobs of runs.
    assert job["metadata"]["labels"]["app.kubernetes.io/component"] == "run_worker"
    of_run = job["spec"]["template"]["metadata"]["labels"]
    assert component_of({"matchLabels": of_run}) == "run"
    assert component_of({"matchLabels": executor_pod(manifests)["metadata"]["labels"]}) == "executor"


def test_a_pod_waits_for_what_it_cannot_work_without_and_for_nothing_else() -> None:
    manifests = render(EVERYTHING)
    waits: dict[str, set[str]] = {}
    for manifest in (m for m in manifests if m["kind"] == "Deployment"):
        (component, pod), *_ = [
            (component_of(manifest["spec"]["selector"]), *p[1:]) for p in pods_of(manifest)
        ]
        for doctor in pod.get("initContainers", []):
            wait, checks = doctor["args"][:4], doctor["args"][4:]
            assert wait == ["medallion", "doctor", "--wait", "60"]
            assert set(checks[::2]) == {"--only"}
            waits[component] = set(checks[1::2])
            assert waits[component] <= checks_of(component).keys()
    stored = {"Dagster's storage", "lake"}
    assert waits == {"code": stored, "stream": {*stored, "topics"}}


def test_each_source_has_workers_of_its_own_that_finish_what_they_began() -> None:
    manifests = render(EVERYTHING)
    told = {}
    for name in ("stream-clickstream-public-events", "stream-clickstream-users"):
        spec = the(manifests, "Deployment", name)["spec"]
        pod = spec["template"]["spec"]
        worker = pod["containers"][0]
        budget = the(manifests, "PodDisruptionBudget", name)["spec"]
        assert (budget["selector"], budget["minAvailable"]) == (spec["selector"], 1)
        assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        assert pod["terminationGracePeriodSeconds"] > worker["lifecycle"]["preStop"]["sleep"]["seconds"]
        told[worker["args"][2]] = (worker["args"][3:], spec.get("replicas"))
    listening = ["--host", "0.0.0.0", "--port", "9108"]
    # Where something scales, an upgrade must not set the number back.
    assert told == {
        "clickstream.public_events": ([*listening, "--refresh"], None),
        "clickstream.users": (listening, 1),
    }


def test_nothing_else_writes_while_a_backup_is_restored(tmp_path: Path) -> None:
    assert [m for m in render(EVERYTHING) if m["metadata"]["name"] == f"{RELEASE}-restore"] == []
    place = {"from": "s3://backups/shop", "at": "2026-11-30T02:00:00"}
    manifests = render({**EVERYTHING, "scaler": "own", "restore": place})
    assert the(manifests, "Deployment", "daemon")["spec"]["replicas"] == 0
    names = [m["metadata"]["name"] for m in manifests]
    assert [name for name in names if "-stream-" in name] == []
    assert (
        "--scale"
        not in the(manifests, "Deployment", "supervise")["spec"]["template"]["spec"]["containers"][0]["args"]
    )
    pod = the(manifests, "Pod", "restore")
    assert hook(pod) == "post-install,post-upgrade"
    assert component_of({"matchLabels": pod["metadata"]["labels"]}) == "run"
    (container,) = pod["spec"]["containers"]
    assert container["args"] == ["medallion", "restore", "--from", place["from"], "--at", place["at"]]
    mine, of_run = (
        {m["mountPath"] for m in containers(p)[0]["volumeMounts"]}
        for p in (pod["spec"], dict(pods(manifests, tmp_path))["a run"])
    )
    assert mine == of_run


def test_what_was_on_a_lost_node_is_soon_elsewhere(tmp_path: Path) -> None:
    manifests = render(EVERYTHING)
    services = [pod for m in manifests if m["kind"] == "Deployment" for pod in pods_of(m)]
    run = dict(pods(manifests, tmp_path))["a run"]
    for name, pod in [*services, ("a run", run), ("executor", executor_pod(manifests)["spec"])]:
        told = {
            t["key"]: t.get("tolerationSeconds") for t in pod["tolerations"] if t.get("effect") == "NoExecute"
        }
        assert told == {f"node.kubernetes.io/{why}": 30 for why in ("unreachable", "not-ready")}, name


def test_the_supervisor_waits_for_the_start_of_a_run_as_dagster_does() -> None:
    manifests = render({**EVERYTHING, "runs": {"startTimeout": 77}})
    supervise = the(manifests, "Deployment", "supervise")["spec"]["template"]["spec"]["containers"][0]
    assert supervise["args"][6:8] == ["--start-timeout", "77"]
    assert "start_timeout_seconds: 77" in yaml.safe_dump_all(manifests, width=1000)


def test_workers_are_scaled_by_one_alone() -> None:
    def scalers(scaler: str) -> tuple[int, list[str], int | None]:
        manifests = render({**EVERYTHING, "scaler": scaler})
        stream = the(manifests, "Deployment", "stream-clickstream-public-events")
        supervise = the(manifests, "Deployment", "supervise")["spec"]["template"]["spec"]["containers"][0]
        by_keda = [m for m in manifests if m["kind"] == "ScaledObject"]
        return len(by_keda), supervise["args"][8:], stream["spec"].get("replicas")

    fixed = f"{RELEASE}-stream-clickstream-users=1:1"
    own = ["--scale", f"{RELEASE}-stream-clickstream-public-events=2:5", "--scale", fixed]
    assert scalers("own") == (0, own, None)
    assert scalers("keda") == (1, [], None)
    assert scalers("none") == (0, [], 2)


def test_who_serves_metrics_can_be_scraped() -> None:
    manifests = render(EVERYTHING)
    (monitor,) = (m["spec"] for m in manifests if m["kind"] == "PodMonitor")
    (chosen,) = monitor["selector"]["matchExpressions"]
    scraped = {flow.target for flow in FLOWS if flow.source == "prometheus"}
    assert set(chosen["values"]) == scraped
    (endpoint,) = monitor["podMetricsEndpoints"]
    serving = set()
    for manifest in (m for m in manifests if m["kind"] == "Deployment"):
        component = component_of(manifest["spec"]["selector"])
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        for port in container.get("ports", []):
            if port["name"] == endpoint["port"]:
                serving.add(component)
                args = container["args"]
                assert port["containerPort"] == METRICS
                assert args[args.index("--host") + 1 : args.index("--host") + 4] == [
                    "0.0.0.0",
                    "--port",
                    str(METRICS),
                ]
    assert serving == scraped


def test_the_web_server_grows_only_where_it_may() -> None:
    fixed = render({"web": {"replicas": {"min": 2, "max": 2}}})
    assert the(fixed, "Deployment", "web")["spec"]["replicas"] == 2
    assert [m for m in fixed if m["kind"] == "HorizontalPodAutoscaler"] == []
    assert [m["metadata"]["name"] for m in fixed if m["kind"] == "PodDisruptionBudget"] == [f"{RELEASE}-web"]
    grows = render()
    assert "replicas" not in the(grows, "Deployment", "web")["spec"]
    assert the(grows, "HorizontalPodAutoscaler", "web")["spec"]["maxReplicas"] == 3
    # A budget of one for one pod would never let its node be drained.
    assert [m for m in grows if m["kind"] == "PodDisruptionBudget"] == []


def test_executors_are_given_what_spark_does_not_overwrite() -> None:
    pod = executor_pod(render(EVERYTHING))["spec"]
    assert pod["nodeSelector"] == {"pool": "spot"}
    assert "spot" in {toleration["key"] for toleration in pod["tolerations"]}
    assert pod["topologySpreadConstraints"][0]["topologyKey"] == "topology.kubernetes.io/zone"
    assert [one["name"] for one in pod["containers"]] == [CONTAINER], (
        "the name by which Spark finds its exit code"
    )
    mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
    # By this name Spark knows where to spill; else it mounts one of its own there, and the pod is refused.
    assert mounts["/tmp"].startswith("spark-local-dir-")


def test_feast_takes_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from feast.repo_config import load_repo_config

    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "of-postgres")
    monkeypatch.setenv("REDIS_PASSWORD", "of-redis")
    text = the(render(EVERYTHING), "ConfigMap", "dagster")["data"]["feature_store.yaml"]
    (tmp_path / "feature_store.yaml").write_text(text)
    told = load_repo_config(tmp_path, tmp_path / "feature_store.yaml")
    # The driver that Dagster has, too: of itself Feast takes another one, which is not installed.
    engine = create_engine(told.registry.path)
    assert (engine.driver, engine.url.password) == ("psycopg2", "of-postgres")
    assert told.online_store.connection_string.endswith("password=of-redis")


def test_without_a_redis_nothing_is_published() -> None:
    manifests = render({**EVERYTHING, "features": {"redis": ""}})
    text = the(manifests, "ConfigMap", "dagster")["data"]["feature_store.yaml"]
    told = yaml.safe_load(text)
    assert (told["project"], told["online_store"]) == (f"{NAMESPACE}_{RELEASE}", None)
    code = the(manifests, "Deployment", "code")["spec"]["template"]["spec"]["containers"][0]
    mounts = {mount["mountPath"]: mount.get("subPath") for mount in code["volumeMounts"]}
    assert mounts["/data/features/feature_store.yaml"] == "feature_store.yaml"


@pytest.mark.parametrize("values", KINDS)
def test_dagster_takes_its_configuration(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "not so secret")
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(dagster_yaml(render(values))))
    ref = InstanceRef.from_dir(str(tmp_path))
    coordinator = ref.run_coordinator
    assert isinstance(coordinator, QueuedRunCoordinator)
    assert coordinator.dequeue_interval_seconds == 1
    assert isinstance(ref.compute_log_manager, NoOpComputeLogManager)
    assert ref.custom_instance_class is Instance
    assert ref.run_launcher_data and ref.run_launcher_data.class_name == "Launcher"
    database = ref.storage_data.config_dict["postgres_db"]
    url = pg_url_from_config({"postgres_db": {**database, "password": "not so secret"}})
    told = urlsplit(url)
    assert (told.username, told.hostname, told.port, told.path) == (
        "dagster",
        "postgres.databases",
        5432,
        "/dagster",
    )
    assert parse_qs(told.query)["sslmode"] == ["verify-full"]
    # The launcher hands this to each run, among the arguments of its pod.
    assert "not so secret" not in str(ref.to_dict())


def test_the_settings_are_those_of_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    data = the(render(EVERYTHING), "ConfigMap", "settings")["data"]
    assert misspelt(data) == []
    for name, value in data.items():
        monkeypatch.setenv(name, value)
    told = Settings()
    assert (told.profile.value, told.lake, told.landing, told.spark_cores) == (
        "cluster",
        "s3://bucket/lake",
        "s3://bucket/landing",
        2,
    )


def test_all_that_decide_how_large_a_run_is_are_told_the_same_limits(tmp_path: Path) -> None:
    usual, declared = Settings(), yaml.safe_load((CHART / "values.yaml").read_text())["runs"]["limits"]
    data = the(render(), "ConfigMap", "settings")["data"]
    assert limits(Settings(**{name: data[f"MEDALLION_{name.upper()}"] for name in LIMITS})) == limits(usual)
    assert len(declared) == len(LIMITS)
    larger = {"localBytes": "1.5GB", "ownRunBytes": "2TB", "mostMemory": "4g", "mostExecutors": 3}
    manifests = render({"runs": {"limits": larger}})
    data = the(manifests, "ConfigMap", "settings")["data"]
    told = Settings(**{name: data[f"MEDALLION_{name.upper()}"] for name in LIMITS})
    assert limits(told) == (1_500_000_000, 2 * 10**12, "4g", 3)
    for component in ("daemon", "code"):
        (container,) = the(manifests, "Deployment", component)["spec"]["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": f"{RELEASE}-settings"}}]
    (of_run,) = run_job(manifests, tmp_path)["spec"]["template"]["spec"]["containers"]
    assert f"{RELEASE}-settings" in {source["configMapRef"]["name"] for source in of_run["envFrom"]}


LIMITS = ("local_bytes", "own_run_bytes", "most_memory", "most_executors")


def limits(settings: Settings) -> tuple[Any, ...]:
    return tuple(getattr(settings, name) for name in LIMITS)


@pytest.mark.parametrize("values", KINDS)
def test_the_platform_reads_every_variable_that_the_chart_sets(
    values: dict[str, Any], tmp_path: Path
) -> None:
    manifests = render(values)
    by_launcher = container_config(Shape(1 << 30, 1, executors=2, spark=True), "image")["container_config"][
        "env"
    ]
    told = {variable["name"] for variable in by_launcher}
    told |= the(manifests, "ConfigMap", "settings")["data"].keys()
    for _, pod in pods(manifests, tmp_path):
        told |= {variable["name"] for container in containers(pod) for variable in container["env"]}
    read = {f"MEDALLION_{name.upper()}" for name in Settings.model_fields}
    for file in (REPOSITORY / "medallion_platform").rglob("*.py"):
        if file.name != "launcher.py":  # it sets them
            read |= set(re.findall(r"""["']?(MEDALLION_\w+)["']""", file.read_text()))
    assert {name for name in told if name.startswith("MEDALLION_")} - read == set()


def test_the_code_location_tells_its_image_which_runs_take() -> None:
    args = the(render(EVERYTHING), "Deployment", "code")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[args.index("--container-image") + 1] == "medallion-platform:1.2.3"
    workspace = yaml.safe_load(the(render(), "ConfigMap", "dagster")["data"]["workspace.yaml"])
    assert workspace["load_from"][0]["grpc_server"]["host"] == f"{RELEASE}-code"


def test_a_changed_configuration_starts_new_pods_and_an_unchanged_one_none() -> None:
    def checksums(values: dict[str, Any]) -> set[str]:
        deployments = [m for m in render(values) if m["kind"] == "Deployment"]
        return {d["spec"]["template"]["metadata"]["annotations"]["checksum/config"] for d in deployments}

    assert checksums({"image": {"tag": "2"}}) == checksums({})
    assert checksums({"settings": {"AWS_REGION": "eu"}}).isdisjoint(checksums({}))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"web": {"replica": 2}}, "replica"),
        ({"lake": "/data/lake"}, "lake"),
        ({"postgres": {"host": ""}}, "host"),
        ({"image": {"tag": "latest"}}, "tag"),
        ({"settings": {"MEDALLION_TOKEN_KEY": "secret"}}, "MEDALLION_TOKEN_KEY"),
        ({"settings": {"MEDALLION_GIT_TOKEN": "secret"}}, "MEDALLION_GIT_TOKEN"),
        ({"settings": {"AWS_SECRET_ACCESS_KEY": "secret"}}, "AWS_SECRET_ACCESS_KEY"),
        ({"secrets": {"postgres": ""}}, "postgres"),
        ({"code": {"resources": {"limits": {"cpu": None}}}}, "limits"),
        ({"runs": {"config": {"podSpecConfig": {}}}}, "podSpecConfig"),
        ({"runs": {"resources": {"limits": {"cpu": "2"}}}}, "cpu"),
        ({"runs": {"limits": {"mostMemory": "16Gi"}}}, "mostMemory"),
        ({"runs": {"limits": {"localBytes": 10}}}, "localBytes"),
        ({"settings": {"MEDALLION_MOST_MEMORY": "4g"}}, "MEDALLION_MOST_MEMORY"),
        ({"scaler": "both"}, "scaler"),
        ({"history": {"events": "s3a://bucket/x'; rm -rf /tmp"}}, "events"),
        ({"streams": [{"source": "a b", "workers": {"min": 1, "max": 1}, "resources": RESOURCES}]}, "source"),
        ({"features": {"redis": "redis:6379,password=hunter2"}}, "redis"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_its_name(values: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused, match=says):
        render(values)


def test_each_setting_that_may_hold_a_secret_is_refused_among_those_that_all_can_read() -> None:
    held = {name for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)}
    assert {"slack_token", "mail_server", "token_key", "maven"} <= held
    for name in held:
        with pytest.raises(Refused, match=f"MEDALLION_{name.upper()}"):
            render({"settings": {f"MEDALLION_{name.upper()}": "secret"}})


def test_only_the_code_location_has_what_people_are_told_by(tmp_path: Path) -> None:
    manifests = render({"secrets": {"channels": "medallion-channels"}})
    told = {name for name, pod in pods(manifests, tmp_path) if "medallion-channels" in str(pod)}
    assert told == {f"Deployment {RELEASE}-code"}


def test_the_chart_has_the_version_of_the_platform() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (project["version"], project["version"])
