"""What the doctor finds in a pod: decisions alone, real sockets, and a real client of the API server."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from medallion_platform.doctor import checks, cluster
from medallion_platform.doctor.checks import ALL, ON_A_MACHINE, checks_of
from medallion_platform.installation.settings import Settings, misspelt
from medallion_platform.kubernetes.flows import FLOWS
from medallion_platform.kubernetes.rights import RIGHTS
from medallion_platform.kubernetes.shape import largest_shape
from medallion_platform_tests.doctor.looking import look, only
from medallion_platform_tests.kafka.broker import free_ports

PODS = {
    "run_launcher": {
        "module": "dagster_k8s",
        "class": "K8sRunLauncher",
        "config": {"resources": {"requests": {"cpu": "1", "memory": "3Gi"}, "limits": {"memory": "3Gi"}}},
    },
    "run_monitoring": {"enabled": True},
    "storage": {"postgres": {"postgres_url": "postgresql://user@127.0.0.1:1/dagster"}},
}
"""A `dagster.yaml` that fits a cluster."""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(cluster, "WORKSPACE", tmp_path / "workspace.yaml")
    monkeypatch.setattr(cluster, "sources_of_topics", list)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    found = Settings(home=tmp_path, lake="s3://bucket/lake")
    found.dagster_home.mkdir()
    (found.dagster_home / "dagster.yaml").write_text(json.dumps(PODS))
    return found


def test_each_component_is_looked_at_by_what_it_reaches() -> None:
    assert checks_of("") == ON_A_MACHINE
    components = {flow.source for flow in FLOWS} & RIGHTS.keys()
    assert {"web", "daemon", "code"} <= components
    for component in components:
        names = list(checks_of(component))
        assert names == [name for name in ALL if name in names], "the order is another one"
        assert {"settings", "versions", "disk", "ports"} <= set(names)
        assert ("rights" in names) == bool(RIGHTS[component])
    assert {"lake", "topics", "project"} <= checks_of("code").keys()
    assert not {"lake", "topics", "project", "Java"} & checks_of("web").keys()
    assert "Dagster's settings" in checks_of("web") and "Dagster's settings" not in checks_of("executor")
    assert {name for names in checks._ONLY_WITH.values() for name in names} < ALL.keys()
    assert misspelt([cluster.ROLE]) == []


@pytest.mark.parametrize(
    ("version", "ok"),
    [("v1.33.13", True), ("v1.30.0-gke.1", True), ("v1.29.15", False), ("v2.0.0", True), ("unknown", False)],
)
def test_versions_of_kubernetes(version: str, ok: bool) -> None:
    found = cluster.version_finding(version)
    assert (found.ok, bool(found.remedy)) == (ok, not ok)


LARGEST = largest_shape(8 << 30, 2)


def test_a_quota_has_room_for_one_more_run_or_not() -> None:
    wanted = cluster.resources_of_a_run(PODS)
    assert wanted["memory"] == wanted["requests.memory"] == wanted["limits.memory"] == "3Gi"
    hard = {"pods": "100", "requests.memory": "30Gi", "limits.memory": "30Gi", "secrets": "1"}

    def of(**used: str) -> list[tuple[bool | None, str]]:
        told = {name.replace("_", "."): amount for name, amount in used.items()}
        return [(f.ok, f.found) for f in cluster.quota_findings("most", hard, told, wanted, LARGEST)]

    ((ok, text),) = of(pods="99", requests_memory="22Gi", limits_memory="22528Mi", secrets="1")
    assert ok and text.startswith("quota most: 99 of 100 pods, 22Gi of 30Gi requests.memory")
    assert of(pods="100", limits_memory="7Gi") == [
        (False, "quota most: 100 of 100 pods used, and a run needs 1")
    ]
    assert [ok for ok, _ in of(requests_memory="27649Mi", limits_memory="27649Mi")] == [False, False]
    # An ordinary run has room, and one whose memory was raised as far as it goes has not.
    assert of(requests_memory="22529Mi") == [
        (
            False,
            "quota most: 22529Mi of 30Gi requests.memory used, and the largest pod of a run needs 8192Mi",
        )
    ]


def test_a_quota_allows_the_largest_run_or_says_how_much_it_may_ask_for() -> None:
    def wrong(**hard: str) -> list[tuple[str, str]]:
        found = cluster.quota_findings("most", hard, {}, {"pods": "1"}, LARGEST)
        return [(f.found, f.remedy) for f in found if not f.ok]

    # Its own pod of four cores, and two executors of eight.
    assert wrong(pods="3", memory="24Gi", cpu="20") == []
    for short in ({"pods": "2"}, {"memory": "24575Mi"}, {"cpu": "19500m"}):
        ((found, remedy),) = wrong(**short)
        assert "MEDALLION_MOST_EXECUTORS" in remedy and "MEDALLION_MOST_MEMORY" in remedy
        assert found.startswith("quota most allows ")
    assert wrong(cpu="19")[0][0] == "quota most allows 19 cpu, and a run may ask for 20"


def test_settings_of_dagster_that_do_not_fit_a_cluster(settings: Settings) -> None:
    assert only(cluster.dagster_settings, settings).ok
    assert list(cluster.wrong_dagster_settings(PODS)) == []
    by_web = {**PODS, "run_coordinator": {"module": "dagster", "class": "DefaultRunCoordinator"}}
    ((wrong, remedy),) = cluster.wrong_dagster_settings(by_web)
    assert "web server launches" in wrong and "QueuedRunCoordinator" in remedy
    assert len(list(cluster.wrong_dagster_settings({}))) == 3
    (settings.dagster_home / "dagster.yaml").unlink()
    assert [f.ok for f in look(cluster.dagster_settings, settings)] == [False] * 3


def test_brokers_are_told_apart() -> None:
    told = ["one:9093, SSL://two:9094", "one:9093", "[::1]:9095,three"]
    assert [(host, port) for _, host, port in cluster.brokers(told)] == [
        ("one", 9093),
        ("two", 9094),
        ("::1", 9095),
        ("three", 9092),
    ]


def test_ports_that_can_be_reached_and_those_that_cannot(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_SERVICE", "localhost")
    monkeypatch.setenv(cluster.ROLE, "daemon")
    (closed,) = free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        workspace = {"load_from": [{"grpc_server": {"host": "127.0.0.1", "port": port}}]}
        cluster.WORKSPACE.write_text(json.dumps(workspace))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(closed))
        found = {f.found.partition(" ")[0]: f for f in look(cluster.ports, settings)}
    assert {target: f.ok for target, f in found.items()} == {
        "code": True,
        "dns": True,
        "kubernetes": False,
        "postgres": False,
    }
    assert found["postgres"].found == "postgres at 127.0.0.1:1: Connection refused"
    assert "NetworkPolicy" in found["postgres"].remedy


def test_a_host_that_nobody_knows_and_one_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = cluster._reach(cluster.Address("s3", "nowhere.invalid", 443))
    assert unknown.ok is False and "no such host" in unknown.found and "DNS" in unknown.remedy
    assert cluster._resolve("nowhere.invalid").ok is False
    monkeypatch.setattr(cluster, "_SECONDS", 0.2)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:  # they fill what the system keeps of connections that nobody accepts
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        silent = cluster._reach(cluster.Address("s3", *full.getsockname()))
        for client in waiting:
            client.close()
    assert (
        silent.ok is False and "nothing within 0.2 s" in silent.found and "NetworkPolicies" in silent.remedy
    )


@contextmanager
def api_server(answers: dict[str, Any], seen: list[Any]) -> Iterator[int]:
    """What an API server answers, by the end of the path; what it is sent goes to `seen`."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append(json.loads(sent or "null"))
            answer = answers[self.path.rpartition("/")[2]]
            status, body = answer(seen[-1]) if callable(answer) else answer
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        yield listening.server_port
        listening.shutdown()


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the API server at a port that of this process, in the namespace `lake`."""

    def at(port: int) -> None:
        one = {"cluster": "c", "user": "u", "namespace": "lake"}
        told = {
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": one}],
            "current-context": "x",
        }
        file = tmp_path / f"{port}.kubeconfig"
        file.write_text(json.dumps(told))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
        monkeypatch.setenv(cluster.ROLE, "daemon")

    return at


def test_rights_are_asked_for_verb_by_verb(settings: Settings, account: Any) -> None:
    def review(asked: Any) -> tuple[int, Any]:
        wanted = asked["spec"]["resourceAttributes"]
        return 201, {"spec": asked["spec"], "status": {"allowed": wanted["verb"] != "delete"}}

    seen: list[Any] = []
    with api_server({"selfsubjectaccessreviews": review}, seen) as port:
        account(port)
        found = look(cluster.rights, settings)
    asked = [review["spec"]["resourceAttributes"] for review in seen]
    assert [(a["group"], a["resource"], a["subresource"], a["verb"]) for a in asked] == [
        (right.group, *right.resource.partition("/")[::2], verb)
        for right in RIGHTS["daemon"]
        for verb in right.verbs
    ]
    assert {a["namespace"] for a in asked} == {"lake"}
    assert len(found) == len(RIGHTS["daemon"])
    wrong = [f.found for f in found if not f.ok]
    assert wrong and all(text.startswith("daemon may not delete ") for text in wrong)
    assert all("Role" in f.remedy for f in found if not f.ok)


def test_version_clock_and_quotas_of_a_cluster(settings: Settings, account: Any) -> None:
    version = {"major": "1", "minor": "33", "gitVersion": "v1.33.13"}
    told = dict.fromkeys(("gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"), "")
    quota = {"metadata": {"name": "most"}, "status": {"hard": {"pods": "21"}, "used": {"pods": "21"}}}
    answers = {"": (200, {**told, **version}), "resourcequotas": (200, {"items": [quota]})}
    with api_server(answers, []) as port:
        account(port)
        kubernetes, clock = look(cluster.api_server, settings)
        full = only(cluster.quotas, settings)
    assert kubernetes.ok and kubernetes.found == "Kubernetes v1.33.13"
    assert clock.ok and "the API server" in clock.found
    assert full.ok is False and "21 of 21 pods used" in full.found


def test_an_api_server_that_refuses_or_does_not_answer(settings: Settings, account: Any) -> None:
    refused = {"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403}
    with api_server({"resourcequotas": (403, refused), "": (401, {})}, []) as port:
        account(port)
        quotas, version = only(cluster.quotas, settings), only(cluster.api_server, settings)
    assert quotas.ok is None and quotas.found == "daemon may not list resource quotas"
    assert version.ok is False and "answered 401" in version.found
    for check in (cluster.api_server, cluster.quotas, cluster.rights):
        gone = only(check, settings)
        assert gone.ok is False and "does not answer" in gone.found and "namespace lake" in gone.found
        assert "runs" in gone.remedy


def test_a_pod_without_an_account(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = str(tmp_path / "nowhere")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", nowhere)
    monkeypatch.setenv(cluster.ROLE, "daemon")
    found = only(cluster.rights, settings)
    assert (
        found.ok is False
        and "no Kubernetes cluster is known here" in found.found
        and "account" in found.remedy
    )
    monkeypatch.setenv(cluster.ROLE, "code")
    assert RIGHTS["code"] or only(cluster.rights, settings).ok
