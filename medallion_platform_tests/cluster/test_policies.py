"""NetworkPolicies that are enforced: each flow of the table works and is used, all else is refused.

Only the first node of the cluster of the tests enforces them, so there it has one.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from medallion_platform import storage
from medallion_platform.kubernetes.flows import API_SERVER, CHANNELS, DNS, FLOWS, KAFKA, POSTGRES, REDIS, S3
from medallion_platform.kubernetes.rights import RIGHTS
from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.cluster import local, sample
from medallion_platform_tests.cluster.conftest import (
    HOST,
    Arrival,
    everything_arrived,
    images_in_nodes,
    serving,
)
from medallion_platform_tests.cluster.graphql import Dagster
from medallion_platform_tests.cluster.installation import RELEASE, Installation, namespace
from medallion_platform_tests.cluster.kube import Kube
from medallion_platform_tests.cluster.test_install import REBUILD, WEEK
from medallion_platform_tests.cluster.test_streams import USUAL
from medallion_platform_tests.test_demo import content
from medallion_platform_tests.waiting import meanwhile, until

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(1800)]

Reached = set[tuple[str, str]]
"""Who reaches whom: a component, and what a flow leads to (`code:4000`)."""

COMPONENTS = tuple(RIGHTS)
NEIGHBOURS = ("ui", "prometheus", "stranger")
"""Pods of another namespace, of which the chart is told the first two."""
STRAY = "stray"
"""A pod of the namespace that is no part of the release."""
PORTS = sorted({flow.port for flow in FLOWS if flow.target in COMPONENTS} | {8080})
"""Of each probe: those of all components, and one that nobody has."""
BY_UDP = f"dns:{DNS} by UDP"
ALLOWED: Reached = {(flow.source, f"{flow.target}:{flow.port}") for flow in FLOWS}
ALLOWED |= {(source, BY_UDP) for source, target in ALLOWED if target == f"dns:{DNS}"}
PROBE = "medallion-tests/probe"
"""The label of pods that only ask and listen."""

LISTEN = """
import signal, socket, sys
# Nobody takes the connections: they are made all the same, and wait in a queue that is long enough for all.
listening = [socket.create_server(("", int(port)), backlog=4096) for port in sys.argv[1:]]
signal.pause()
"""
ASK = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

# RFC 1035, 4.1: a question for the address of a name.
NAME = b"".join(bytes([len(part)]) + part for part in b"kubernetes.default.svc.cluster.local".split(b"."))
QUESTION = bytes.fromhex("2a2a01000001000000000000") + NAME + bytes.fromhex("0000010001")

def answers(name, address, port):
    try:
        if name.endswith("by UDP"):
            with socket.socket(type=socket.SOCK_DGRAM) as asking:
                asking.settimeout(2)
                asking.connect((address, port))
                asking.send(QUESTION)
                asking.recv(512)
        else:
            socket.create_connection((address, port), 2).close()
        return True
    except OSError:
        return False

targets = json.loads(sys.argv[1])
with ThreadPoolExecutor(len(targets)) as pool:
    answered = pool.map(lambda target: answers(*target), targets)
    print(json.dumps([name for (name, *_), yes in zip(targets, answered) if yes]))
"""


@dataclass(frozen=True)
class Probes:
    """Pods with the labels of each component that ask, and others that listen."""

    sources: Mapping[str, tuple[Kube, str]]
    """The pod that asks, by the name of its component."""
    targets: Mapping[str, tuple[str, int]]
    """Where to ask: each port of each pod that listens, and the places outside."""

    def reached(self) -> Reached:
        """Who reaches whom now."""
        with ThreadPoolExecutor(4) as pool:
            found = pool.map(self.reached_by, self.sources)
        return {
            (source, target)
            for source, targets in zip(self.sources, found, strict=True)
            for target in targets
        }

    def reached_by(self, source: str) -> list[str]:
        """Whom one of them reaches now."""
        kube, pod = self.sources[source]
        asked = json.dumps([[name, *where] for name, where in self.targets.items()])
        return json.loads(kube.run("exec", pod, "--", "python", "-c", ASK, asked))


@dataclass(frozen=True)
class Connections:
    """What pods connected to, as the kernel keeps it: only connections that were let through."""

    log: Path
    pods: dict[str, str] = field(default_factory=dict[str, str])
    """The component of each pod that is no probe, by its address."""

    def look(self, admin: Kube) -> None:
        """See which pods there are."""
        for pod in admin.get("pods", f"--selector=!{PROBE}"):
            component = pod["metadata"].get("labels", {}).get("app.kubernetes.io/component")
            if component and (address := pod["status"].get("podIP")):
                self.pods[address] = component

    def used(self, places: Mapping[tuple[str, int], str]) -> Reached:
        """Which component connected to which, and to which of the places."""
        found: Reached = set()
        for line in self.log.read_text().rpartition("\n")[0].splitlines():
            # Who asked for what; then who answers, where a Service led to.
            (source, _), (answers, _) = re.findall(r"src=(\S+) dst=(\S+)", line)
            port = int(re.findall(r"sport=(\d+)", line)[1])
            if source in self.pods:
                other = self.pods.get(answers)
                place = places.get((answers, port), f"{answers}:{port}")
                found.add((self.pods[source], f"{other}:{port}" if other else place))
        return found


@contextmanager
def connections(folder: Path) -> Generator[Connections]:
    """Keep what is connected to in the `with` block; `addons policy` installs the command."""
    log = folder / "connections.log"
    command = ["conntrack", "--event", "--event-mask", "NEW", "--proto", "tcp", "--buffer-size", "16777216"]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL) as watch:
        try:
            yield Connections(log)
        finally:
            watch.terminate()


@pytest.fixture(scope="module")
def admin() -> Iterator[Kube]:
    """An administrator of the cluster of `KUBECONFIG`, or of one with one node, in place of one that runs."""
    if config := os.environ.get("KUBECONFIG"):
        yield Kube(Path(config))
        return
    if local.is_running():
        local.stop()
    try:
        started = local.start(nodes=1)
    except local.NoCluster as error:
        pytest.skip(f"no cluster: {error}")
    try:
        with local.enforcing_policies():
            yield Kube(started)
    finally:
        local.stop()


@dataclass(frozen=True)
class Enforcing:
    """An installation whose policies are enforced."""

    installed: Installation
    probes: Probes
    before: Reached
    """Who reached whom before there were policies."""
    connections: Connections | None
    """Those of its pods since it was installed, where the cluster is on this machine."""


@pytest.fixture(scope="module")
def enforcing(admin: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enforcing]:
    """An installation with each kind of pod that the chart has, whose policies are enforced."""
    folder = tmp_path_factory.mktemp("policies")
    image, _ = images_in_nodes()
    with ExitStack() as ends:
        servers = ends.enter_context(serving(folder))
        sample.produce(servers.broker)
        outside = ends.enter_context(_other_namespace(admin))
        other = ends.enter_context(socket.create_server((HOST, 0), backlog=4096))
        channels = [ends.enter_context(socket.create_server((HOST, 0), backlog=4096)) for _ in CHANNELS]
        network = _network(outside.namespace)
        network["channels"] = {"ports": [listening.getsockname()[1] for listening in channels]}
        installed = ends.enter_context(namespace(admin, servers, folder, image, network=network))
        probes = _probes(installed, outside, image, _places(installed, other, channels))
        before = probes.reached()
        seen = None if "KUBECONFIG" in os.environ else ends.enter_context(connections(folder))
        if seen:
            ends.enter_context(meanwhile(lambda: seen.look(installed.admin), every=3))
        events = f"s3://{installed.bucket}/events"
        storage.create_file(events, ".keep", b"")  # the history server wants a folder
        sample.land(installed.landing)
        installed.install(
            streams=[
                {
                    "source": sample.EVENTS,
                    "refresh": True,
                    "workers": {"min": 1, "max": 2},
                    "resources": USUAL,
                }
            ],
            history={"events": events.replace("s3:", "s3a:")},
        )
        _wait_until_enforced(probes)
        yield Enforcing(installed, probes, before, seen)


@contextmanager
def _other_namespace(admin: Kube) -> Generator[Kube]:
    other = Kube(admin.config, f"neighbours-{secrets.token_hex(4)}")
    admin.run("create", "namespace", other.namespace)
    try:
        yield other
    finally:
        admin.run("delete", "namespace", other.namespace, "--wait=false")


def _network(outside: str) -> dict[str, Any]:
    """The chart's value: who the neighbours are, and where the names of hosts are found."""

    def pod(name: str) -> dict[str, Any]:
        of_namespace = {"matchLabels": {"kubernetes.io/metadata.name": outside}}
        return {"peers": [{"namespaceSelector": of_namespace, "podSelector": {"matchLabels": {PROBE: name}}}]}

    of_cluster = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    return {
        "ui": pod("ui"),
        "prometheus": pod("prometheus"),
        "dns": {"peers": [of_cluster, {"ipBlock": {"cidr": f"{HOST}/32"}}]},
    }


def _places(
    installed: Installation, other: socket.socket, channels: Sequence[socket.socket]
) -> dict[str, tuple[str, int]]:
    """Where the places outside are, and a port of the same machine that is none of them."""
    servers, cluster = installed.servers, Kube(installed.admin.config)
    (service,) = cluster.get("services", "--field-selector=metadata.name=kubernetes")
    (behind,) = cluster.get("endpoints", "--field-selector=metadata.name=kubernetes")
    (names,) = Kube(cluster.config, "kube-system").get("services", "--field-selector=metadata.name=kube-dns")
    kafka = int(servers.broker.secured["bootstrap.servers"].rpartition(":")[2])
    dns = names["spec"]["clusterIP"], DNS
    return {
        f"kubernetes:{API_SERVER[0]}": (service["spec"]["clusterIP"], API_SERVER[0]),
        f"kubernetes:{API_SERVER[1]}": (behind["subsets"][0]["addresses"][0]["ip"], API_SERVER[1]),
        f"postgres:{POSTGRES}": (HOST, servers.postgres.port),
        f"s3:{S3}": (HOST, servers.s3.port),
        f"kafka:{KAFKA}": (HOST, kafka),
        f"redis:{REDIS}": (HOST, servers.redis.port),
        **{
            f"channels:{port}": (HOST, listening.getsockname()[1])
            for port, listening in zip(CHANNELS, channels, strict=True)
        },
        f"dns:{DNS}": dns,
        BY_UDP: dns,
        "something else there": (HOST, other.getsockname()[1]),
    }


def _probes(
    installed: Installation, outside: Kube, image: str, places: Mapping[str, tuple[str, int]]
) -> Probes:
    """Make the pods, and return when they work."""
    inside = installed.admin
    asking = {name: (inside, f"ask-{name}") for name in (*COMPONENTS, STRAY)}
    asking |= {name: (outside, f"ask-{name}") for name in NEIGHBOURS}
    for name, (kube, pod) in asking.items():
        kube.apply(_probe(pod, name, image))
    inside.apply(*(_probe(f"listen-{name}", name, image, PORTS) for name in (*COMPONENTS, STRAY)))
    for kube in (inside, outside):
        until(lambda kube=kube: all(map(_runs, kube.get("pods"))), 180, installed.says, pause=1)
    targets = {
        f"{pod['metadata']['labels'][PROBE]}:{port}": (pod["status"]["podIP"], port)
        for pod in inside.get("pods")
        if pod["metadata"]["name"].startswith("listen-")
        for port in PORTS
    }
    return Probes(asking, {**targets, **places})


def _runs(pod: dict[str, Any]) -> bool:
    return any("running" in status["state"] for status in pod["status"].get("containerStatuses", ()))


def _probe(name: str, component: str, image: str, ports: Iterable[int] = ()) -> dict[str, Any]:
    """A pod that policies take for one of a component, and that no Service sends anything to."""
    of_release = {
        "app.kubernetes.io/name": "medallion",
        "app.kubernetes.io/instance": RELEASE,
        "app.kubernetes.io/component": component,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {PROBE: component, **(of_release if component in COMPONENTS else {})},
        },
        "spec": {
            "readinessGates": [{"conditionType": "medallion-tests/never"}],
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "probe",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-c", LISTEN, *map(str, ports)],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "resources": {
                        "requests": {"cpu": "5m", "memory": "128Mi"},
                        "limits": {"memory": "128Mi"},
                    },
                }
            ],
        },
    }


def _wait_until_enforced(probes: Probes) -> None:
    """Return when a pod that may reach nothing does so; a cluster of somebody else may not care."""
    since = time.monotonic()
    while reached := probes.reached_by(STRAY):
        if time.monotonic() - since > 60:
            said = f"NetworkPolicies are not enforced: a pod that may reach nothing reaches {reached}"
            (pytest.skip if "KUBECONFIG" in os.environ else pytest.fail)(said)
        time.sleep(1)


@pytest.fixture(scope="module")
def arrived(enforcing: Enforcing, tmp_path_factory: pytest.TempPathFactory) -> Arrival:
    return everything_arrived(enforcing.installed, tmp_path_factory.mktemp("undisturbed"))


def test_everything_works_while_policies_are_enforced(enforcing: Enforcing, arrived: Arrival) -> None:
    """Also executors, and the end of a run that somebody asks for."""
    installed = enforcing.installed
    # Executors send small results by themselves; of large ones the driver is told where to get them.
    pod = installed.with_executors(2, "-Dspark.task.maxDirectResultSize=1b")
    with installed.web() as url:
        dagster = Dagster(url, installed.says)
        dagster.quiet()
        ended, done = (
            dagster.launch("__ASSET_JOB", ["silver_events"], REBUILD, pod, **WEEK) for _ in range(2)
        )
        until(lambda: dagster.run(ended).status == "STARTED", 180, installed.says)
        dagster.end(ended)
        until(lambda: not installed.admin.pods(dagster__run_id=ended), 90, installed.says)
        dagster.succeeded(done)
        assert content(Lake(installed.lake)) == arrived.tables


def test_without_policies_everybody_reaches_everybody(enforcing: Enforcing) -> None:
    """Else a refusal would prove nothing."""
    probes = enforcing.probes
    assert enforcing.before == {(source, target) for source in probes.sources for target in probes.targets}


def test_pods_reach_what_the_table_names_and_nothing_else(enforcing: Enforcing) -> None:
    probes = enforcing.probes
    places = [name for name in probes.targets if name.partition(":")[0] not in (*COMPONENTS, STRAY)]
    # Nobody forbids the neighbours anything in their own namespace.
    allowed = ALLOWED | {(neighbour, place) for neighbour in NEIGHBOURS for place in places}
    reached = until(
        lambda: found if (found := probes.reached()) == allowed else None,
        60,
        lambda: _differs(probes.reached(), allowed),
    )
    asked = len(probes.sources) * len(probes.targets)
    print(f"\n{asked} pairs: {len(reached)} reach each other, {asked - len(reached)} are refused")


def _differs(reached: Reached, allowed: Reached) -> str:
    return (
        f"reached, though not allowed: {sorted(reached - allowed)}; not reached: {sorted(allowed - reached)}"
    )


UNUSED: Reached = {
    *((source, f"dns:{DNS}") for source in COMPONENTS),  # by UDP, and here most places have no name
    *((source, f"kubernetes:{API_SERVER[0]}") for source in COMPONENTS),  # the kernel keeps what is behind it
    *((source, target) for source, target in ALLOWED if source in NEIGHBOURS),
    *(("code", f"channels:{port}") for port in CHANNELS),  # here nobody is told of incidents
    ("executor", f"kafka:{KAFKA}"),  # for Spark's engine of topics alone
}
"""What this installation does not need."""


@pytest.mark.usefixtures("arrived")
def test_each_flow_is_used(enforcing: Enforcing) -> None:
    """A flow that nobody uses would be a door that nobody closes."""
    if enforcing.connections is None:
        pytest.skip("only where the nodes are this machine are their connections known")
    places = {where: name for name, where in enforcing.probes.targets.items()}
    used = enforcing.connections.used(places)
    wanted = {(source, target) for source, target in ALLOWED if target != BY_UDP}
    assert used & wanted == wanted - UNUSED, _differs(used, wanted - UNUSED)
