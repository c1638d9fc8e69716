"""Executors of Spark as pods: real drivers and executors, in a stand-in for Kubernetes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyspark
import pytest

from medallion_platform.installation.local_spark import jars_of
from medallion_platform.spark.java import find_java
from medallion_platform_tests.command import REPOSITORY
from medallion_platform_tests.spark.api_server import Cluster, served
from medallion_platform_tests.spark.secrets import make_secrets

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


@dataclass
class World:
    """A driver with two executors, and what it saw."""

    folder: Path
    cluster: Cluster
    driver: subprocess.Popen[str]
    seen: dict[str, Any]

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"


@contextmanager
def driver(folder: Path, cluster: Cluster, patience: float) -> Iterator[subprocess.Popen[str]]:
    """A driver of its own process in a cluster."""
    with served(cluster) as url:
        address = f"{cluster.network}.1"
        command = [sys.executable, "-m", "medallion_platform_tests.spark.driver_of_pods"]
        with subprocess.Popen(
            [*command, str(folder), url, address, str(patience)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "KUBECONFIG"},
        ) as process:
            yield process


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


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[World]:
    """A driver that has used its two executors, and waits."""
    folder = cluster.logs.parent
    with driver(folder, cluster, 120) as process:
        assert process.stdout
        line = process.stdout.readline()
        yield World(folder, cluster, process, json.loads(line))
        process.communicate()


def test_two_executors_share_the_work(world: World) -> None:
    assert world.seen["sums"] == [[k, sum(range(k, 1000, 10))] for k in range(10)]
    assert world.seen["hosts"] == [f"{world.cluster.network}.2", f"{world.cluster.network}.3"]


def test_what_may_list_pods_sees_no_secret(world: World) -> None:
    shown = json.dumps(world.cluster.made)
    assert str(world.secrets) in shown
    secret = (world.secrets / "secret").read_text()
    body = (world.secrets / "tls.key").read_text().splitlines()[1]
    for hidden in (secret, b64encode(secret.encode()).decode(), body, "_SPARK_AUTH_SECRET"):
        assert hidden not in shown


def test_executors_belong_to_their_driver(world: World) -> None:
    owners = [pod["metadata"]["ownerReferences"] for pod in world.cluster.made]
    assert [[owner["uid"] for owner in one] for one in owners] == [["of-the-driver"]] * 2
    (container,) = world.cluster.made[0]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "1024Mi"}
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["/usr/local/bin/decommission"]
    assert world.cluster.made[0]["spec"]["terminationGracePeriodSeconds"] == 60
    assert [volume["name"] for volume in world.cluster.made[0]["spec"]["volumes"]] == ["spark-local-dir-1"]


def test_a_refusal_of_the_cluster_is_told(cluster: Cluster) -> None:
    why = 'pods "medallion-exec-1" is forbidden: exceeded quota: small, requested: memory=1Gi'
    refusing = replace(cluster, network=own_network(), refusal=why, pods=dict(cluster.pods), processes={})
    with driver(cluster.logs.parent, refusing, 3) as process:
        said, _ = process.communicate()
    told = json.loads(said)["error"]
    assert told == f"no executor came within 3 seconds: the cluster refuses their pods: {why}"
