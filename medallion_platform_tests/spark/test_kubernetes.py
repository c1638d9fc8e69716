"""The settings with which Spark has its executors in pods."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pyspark
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.spark.kubernetes import (
    CERTIFICATE,
    KEY,
    SECRET,
    DriverPod,
    Executors,
    Pod,
    executor_settings,
    why_no_executor,
)

POD = DriverPod(
    name="dagster-run-1",
    namespace="lake",
    address="10.1.2.3",
    image="registry/medallion-platform:1.2",
    api="https://10.96.0.1:443",
)
EXECUTORS = Executors(most=6, cores=4, memory=8 << 30, template=Path("/etc/medallion/executor.yaml"))
SECRETS = Path("/run/secrets/spark")
SETTINGS = executor_settings(POD, EXECUTORS, SECRETS)
DECLARING = {
    "spark-core": (
        "org/apache/spark/internal/config/",
        "org/apache/spark/SSLOptions$",
        "org/apache/spark/launcher/",
    ),
    "spark-kubernetes": ("org/apache/spark/deploy/k8s/Config$",),
    "spark-launcher": ("org/apache/spark/launcher/SparkLauncher",),
}
"""Where Spark declares its settings: jars, and their classes."""


@pytest.fixture(scope="module")
def constants() -> bytes:
    """The classes in which Spark declares its settings, with the names of these in their constants."""
    found: list[bytes] = []
    for jar, classes in DECLARING.items():
        (path,) = Path(pyspark.__file__).parent.glob(f"jars/{jar}_*.jar")
        with ZipFile(path) as archive:
            found += (archive.read(name) for name in archive.namelist() if name.startswith(classes))
    return b"".join(found)


def test_spark_declares_each_setting(constants: bytes) -> None:
    """A misspelt setting would have no effect, and Spark says nothing of it."""
    unknown = [name for name in SETTINGS if not declares(constants, name)]
    assert unknown == []
    assert not declares(constants, "spark.kubernetes.executor.podTemplate")


def declares(constants: bytes, name: str) -> bool:
    """Whether a text is a whole constant; names of TLS are put together from a module and an option."""
    module, _, option = name.partition("spark.ssl.rpc")
    parts = [name] if module else [f"\1{option}"] if option else [name]
    return any(b"\1" + len(part).to_bytes(2, "big") + part.encode() in constants for part in parts)


def test_no_secret_is_among_them() -> None:
    """Whoever may list pods reads what Spark tells an executor: it may know of files alone."""
    assert not [name for name in SETTINGS if re.search("password|keystore|secret$", name, re.IGNORECASE)]
    files = {value for name, value in SETTINGS.items() if "secret" in name or name.endswith(("Key", "Chain"))}
    assert files == {f"{SECRETS}/{name}" for name in (SECRET, KEY, CERTIFICATE)}


def test_both_sides_are_authenticated_and_encrypted() -> None:
    assert SETTINGS["spark.authenticate"] == SETTINGS["spark.ssl.rpc.enabled"] == "true"


def test_executors_belong_to_the_pod_of_the_driver_and_reach_it() -> None:
    assert SETTINGS["spark.kubernetes.driver.pod.name"] == "dagster-run-1"
    assert SETTINGS["spark.kubernetes.namespace"] == "lake"
    assert SETTINGS["spark.driver.host"] == SETTINGS["spark.driver.bindAddress"] == "10.1.2.3"
    ports = {name: value for name, value in SETTINGS.items() if name.lower().endswith("port")}
    assert ports == {
        "spark.driver.port": "7078",
        "spark.driver.blockManager.port": "7079",
        "spark.blockManager.port": "7079",
    }
    assert SETTINGS["spark.kubernetes.container.image"] == "registry/medallion-platform:1.2"


@given(memory=st.integers(1 << 30, 1 << 40), most=st.integers(1, 100))
def test_a_pod_is_as_large_as_it_was_asked_for(memory: int, most: int) -> None:
    asked = executor_settings(POD, replace(EXECUTORS, memory=memory, most=most), SECRETS)
    heap, rest = (int(asked[f"spark.executor.{part}"][:-1]) for part in ("memory", "memoryOverhead"))
    assert heap + rest == memory >> 20
    # Less than this Spark adds itself, and the pod would be larger than was asked for.
    assert rest >= heap * 0.1
    fewest, first, largest = (
        int(asked[f"spark.dynamicAllocation.{part}Executors"]) for part in ("min", "initial", "max")
    )
    assert 1 <= fewest <= first == largest == most


def pod(**status: object) -> Pod:
    return {"metadata": {"name": "medallion-1-exec-1"}, "status": {"phase": "Pending", **status}}


def waiting(**state: object) -> Pod:
    return pod(containerStatuses=[{"name": "executor", "state": state}])


NO_NODE = pod(
    conditions=[
        {"type": "PodReadyToStartContainers", "status": "False"},
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/2 nodes are available: 2 Insufficient cpu.",
        },
    ]
)
OVER_QUOTA = """\
08:12:01 ERROR ExecutorPodsAllocator: Failed to create executor pod 1.
io.fabric8.kubernetes.client.KubernetesClientException: Failure executing: POST at: \
https://10.96.0.1:443/api/v1/namespaces/lake/pods. Message: pods "medallion-1-exec-1" is forbidden: exceeded \
quota: small, requested: limits.memory=1Gi, used: limits.memory=2Gi, limited: limits.memory=2Gi. Received \
status: Status(apiVersion=v1, code=403, details=null).
"""


@pytest.mark.parametrize(
    ("pods", "output", "told"),
    [
        ([], "", "the cluster made no pod for them"),
        (
            [],
            OVER_QUOTA,
            'the cluster refuses their pods: pods "medallion-1-exec-1" is forbidden: exceeded quota: small, '
            "requested: limits.memory=1Gi, used: limits.memory=2Gi, limited: limits.memory=2Gi",
        ),
        ([pod()], "", "medallion-1-exec-1 is still being started"),
        (
            [pod(), NO_NODE],
            "",
            "medallion-1-exec-1 has no node: 0/2 nodes are available: 2 Insufficient cpu.",
        ),
        (
            [waiting(waiting={"reason": "ImagePullBackOff", "message": 'Back-off pulling image "a:1"'})],
            "",
            'medallion-1-exec-1 waits: Back-off pulling image "a:1"',
        ),
        (
            [waiting(waiting={"reason": "ContainerCreating"})],
            "",
            "medallion-1-exec-1 is still being started",
        ),
        ([waiting(terminated={"exitCode": 1})], "", "medallion-1-exec-1 ended with exit code 1"),
        (
            [pod(phase="Running", containerStatuses=[{"state": {"running": {"startedAt": "now"}}}])],
            "",
            "medallion-1-exec-1 runs, but does not reach its driver",
        ),
    ],
)
def test_why_no_executor_came_is_told_in_the_words_of_the_cluster(
    pods: list[Pod], output: str, told: str
) -> None:
    assert why_no_executor(pods, output) == told
