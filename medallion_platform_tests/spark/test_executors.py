"""Executors of Spark as pods: real drivers and executors, in a stand-in for Kubernetes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import pyspark
import pytest

from medallion_platform.errors import Kind
from medallion_platform.installation.local_spark import jars_of
from medallion_platform.spark.java import find_java
from medallion_platform_tests.command import REPOSITORY
from medallion_platform_tests.spark.api_server import Cluster, Pod, served
from medallion_platform_tests.spark.secrets import make_secrets
from medallion_platform_tests.waiting import until

TEMPLATE = """\
apiVersion: v1
kind: Pod
spec:
  containers:
  - name: executor
    volumeMounts:
    - {name: spark-local-dir-1, mountPath: /tmp}
  volumes:
  - {name: spark-local-dir-1, emptyDir: {sizeLimit: 1Gi}}
"""


class Driver:
    """A driver of its own process in a cluster."""

    def __init__(self, cluster: Cluster, process: subprocess.Popen[str]) -> None:
        self.cluster = cluster
        self._process = process

    def look(self, meanwhile: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """What it saw. meanwhile: what happens while it works."""
        assert self._process.stdout
        said = self._process.stdout.readline()
        if said == "works\n":
            meanwhile()
            said = self._process.stdout.readline()
        return json.loads(said)

    def look_again(
        self, patience: float = 120, meanwhile: Callable[[], object] = lambda: None
    ) -> dict[str, Any]:
        """What it sees now. patience: seconds to wait. meanwhile: what happens while it works."""
        assert self._process.stdin
        self._process.stdin.write(f"{patience}\n")
        self._process.stdin.flush()
        return self.look(meanwhile)


@contextmanager
def driver(cluster: Cluster, patience: float, wanted: int) -> Iterator[Driver]:
    """A driver that looks once it has so many executors."""
    with served(cluster) as url:
        folder, address = cluster.logs.parent, f"{cluster.network}.1"
        command = [sys.executable, "-m", "medallion_platform_tests.spark.driver_of_pods"]
        with subprocess.Popen(
            [*command, str(folder), url, address, str(patience), str(wanted)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "KUBECONFIG"},
        ) as process:
            yield Driver(cluster, process)
            process.communicate()


def own_network() -> str:
    """Of the loopback network a part that no other test has."""
    return f"127.{random.randint(1, 254)}.{random.randint(1, 254)}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """What starts executors as the image does, with a pod for the driver."""
    folder = tmp_path_factory.mktemp("pods")
    (folder / "executor.yaml").write_text(TEMPLATE)
    make_secrets(folder / "secrets", "known to both")
    jars = [*sorted(Path(pyspark.__file__).parent.glob("jars/*.jar")), *jars_of("")]
    quick = ("-XX:+IgnoreUnrecognizedVMOptions", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
    options = "\n".join([*quick, "-cp", os.pathsep.join(map(str, jars))])
    (folder / "executor.options").write_text(f"{options}\n")
    (folder / "logs").mkdir()
    path = f"{Path(find_java().program).parent}:{os.environ['PATH']}"
    program = ["env", f"MEDALLION_CACHE={folder}", f"PATH={path}", str(REPOSITORY / "image" / "executor")]
    found = Cluster(own_network(), program, folder / "logs")
    found.pods["driver"] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "driver", "namespace": "lake", "uid": "of-the-driver"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    return found


def another(cluster: Cluster, **changed: Any) -> Cluster:
    """A cluster of a test of its own."""
    fresh = {"pods": dict(cluster.pods), "made": [], "requests": [], "processes": {}, "lock": Lock()}
    return replace(cluster, network=own_network(), **fresh, **changed)


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[tuple[Driver, dict[str, Any]]]:
    """A driver that has used its two executors, and what it saw."""
    with driver(another(cluster), 120, 2) as found:
        yield found, found.look()


SUMS = [[k, sum(range(k, 1000, 10))] for k in range(10)]


def test_two_executors_share_the_work(world: tuple[Driver, dict[str, Any]]) -> None:
    found, seen = world
    assert seen["sums"] == SUMS
    assert seen["hosts"] == [f"{found.cluster.network}.2", f"{found.cluster.network}.3"]


def test_what_may_list_pods_sees_no_secret(world: tuple[Driver, dict[str, Any]]) -> None:
    cluster = world[0].cluster
    shown = json.dumps(cluster.made)
    secrets = cluster.logs.parent / "secrets"
    assert str(secrets) in shown
    secret = (secrets / "secret").read_text()
    body = (secrets / "tls.key").read_text().splitlines()[1]
    for hidden in (secret, b64encode(secret.encode()).decode(), body, "_SPARK_AUTH_SECRET"):
        assert hidden not in shown


def test_executors_belong_to_their_driver(world: tuple[Driver, dict[str, Any]]) -> None:
    made = world[0].cluster.made
    owners = [pod["metadata"]["ownerReferences"] for pod in made]
    assert [[owner["uid"] for owner in one] for one in owners] == [["of-the-driver"]] * 2
    (container,) = made[0]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "1024Mi"}
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["/usr/local/bin/decommission"]
    assert made[0]["spec"]["terminationGracePeriodSeconds"] == 60
    assert [volume["name"] for volume in made[0]["spec"]["volumes"]] == ["spark-local-dir-1"]


def test_after_one_is_killed_for_its_memory_the_next_ones_take_one_task_each(
    world: tuple[Driver, dict[str, Any]],
) -> None:
    """Spark's own recovery begins with a kill; switched on by its setting, it would from the start."""
    found, _ = world
    cluster = found.cluster
    for number in (3, 4):  # the third can be asked for before Spark knows what became of the first
        first = cluster.executors[0]
        cluster.processes[first].kill()
        until(lambda killed=first: killed not in cluster.executors, 240)
        until(lambda made=number: len(cluster.made) >= made, 240)
    cores = [variable(pod, "SPARK_EXECUTOR_CORES") for pod in cluster.made[:4]]
    assert (cores[:2], cores[3]) == (["2", "2"], "1")
    assert found.look_again()["sums"] == SUMS


def variable(pod: Pod, name: str) -> str:
    (container,) = pod["spec"]["containers"]
    return next(one["value"] for one in container["env"] if one["name"] == name)


QUOTA = 'pods "medallion-exec-1" is forbidden: exceeded quota: small, requested: memory=1Gi'
NO_NODE = "0/2 nodes are available: 2 Insufficient cpu."


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"room": 0, "refusal": QUOTA}, f"the cluster refuses their pods: {QUOTA}"),
        ({"unschedulable": NO_NODE}, f"has no node: {NO_NODE}"),
    ],
)
def test_a_run_that_gets_no_executors_says_why_and_leaves_none(
    cluster: Cluster, changed: dict[str, Any], why: str
) -> None:
    without = another(cluster, **changed)
    with driver(without, 4, 1) as found:
        told = found.look()
        assert told["kind"] == Kind.RESOURCE
        assert told["error"].startswith("driver in lake: no executor came within 4 seconds: ")
        assert f"{why}. The pods it had asked for are withdrawn; make room for them" in told["error"]
        assert without.executors == []


def test_a_full_quota_ends_no_run_that_has_executors(cluster: Cluster) -> None:
    small = another(cluster, room=1, refusal=QUOTA)
    with driver(small, 120, 1) as found:
        assert found.look() == {"sums": SUMS, "hosts": [f"{small.network}.2"]}
        # More than Spark takes for failures of two executors unless it is told otherwise.
        until(lambda: small.refused > 8, 240)
        assert found.look_again()["sums"] == SUMS
        small.room = 0
        only = small.processes[small.executors[0]]
        only.send_signal(signal.SIGSTOP)
        lost = found.look_again(4, only.kill)
        assert lost["kind"] == Kind.RESOURCE
        assert f"the cluster refuses their pods: {QUOTA}" in lost["error"]
        small.room = 2
        assert found.look_again()["sums"] == SUMS, "what is done next asks for executors again"
