"""The settings with which Spark has its executors in pods."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from medallion_platform.spark.driver import _SETTINGS as OF_ALL
from medallion_platform.spark.executor_wait import Pod, why_no_executor
from medallion_platform.spark.kubernetes import (
    CERTIFICATE,
    KEY,
    SECRET,
    DriverPod,
    Executors,
    executor_settings,
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
UNREGISTERED = {
    "spark.master": "of the launcher",
    "spark.app.name": "of the launcher",
    "spark.hadoop.parquet.page.verify-checksum.enabled": "Parquet's",
    **dict.fromkeys(
        (f"spark.ssl.rpc.{name}" for name in ("enabled", "openSslEnabled", "privateKey", "certChain")),
        "made of a module and an option; `test_trust.py` has what they do",
    ),
}
"""What Spark reads without an entry in its registry."""


@pytest.fixture
def registry(spark: SparkSession) -> Any:
    """Of all settings that Spark and Delta know."""
    jvm: Any = spark._jvm
    config = jvm.org.apache.spark.internal.config
    for module in ("package$", "Python$", "UI$"):
        scala_object(config, module)
    scala_object(jvm.org.apache.spark.deploy.k8s, "Config$")
    scala_object(jvm.org.apache.spark.sql.delta.sources, "DeltaSQLConf$")
    return scala_object(config, "ConfigEntry$")


def scala_object(package: Any, name: str) -> Any:
    """An object of Scala, which registers what it declares once it is asked for."""
    return getattr(getattr(package, name), "MODULE$")


def test_spark_knows_each_setting_and_takes_its_value(registry: Any) -> None:
    """A misspelt setting would have no effect, and Spark says nothing of it."""
    given = {**OF_ALL, **SETTINGS}
    entries = {name: registry.findEntry(name) for name in given}
    assert {name for name, entry in entries.items() if entry is None} == set(UNREGISTERED)
    for name, entry in entries.items():
        if entry is not None:
            entry.valueConverter().apply(given[name])


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("spark.dynamicAllocation.shuffleTracking.enabled", "true"),
        ("spark.decommission.enabled", "true"),
        ("spark.storage.decommission.enabled", "true"),
        ("spark.storage.decommission.shuffleBlocks.enabled", "true"),
        ("spark.storage.decommission.rddBlocks.enabled", "true"),
        ("spark.kubernetes.executor.deleteOnTermination", "true"),
        # Spark sets it when an executor is killed for its memory; set before, it would hold from the start.
        ("spark.kubernetes.allocation.recoveryMode.enabled", "<undefined>"),
    ],
)
def test_what_executors_need_of_spark_holds_by_us_or_by_its_default(
    registry: Any, name: str, holds: str
) -> None:
    assert SETTINGS.get(name, registry.findEntry(name).defaultValueString()) == holds


@given(most=st.integers(1, 100))
def test_refusals_alone_never_count_as_too_many_failures(most: int) -> None:
    asked = executor_settings(POD, replace(EXECUTORS, most=most), SECRETS)
    assert asked["spark.kubernetes.allocation.batch.delay"] == "1s"
    assert asked["spark.executor.failuresValidityInterval"] == "1m"
    assert int(asked["spark.executor.maxNumFailures"]) > 60 * most


@given(most=st.integers(1, 100))
def test_all_executors_are_asked_for_when_the_session_starts(most: int) -> None:
    asked = executor_settings(POD, replace(EXECUTORS, most=most), SECRETS)
    at_once = ("spark.kubernetes.allocation.batch.size", "spark.dynamicAllocation.initialExecutors")
    assert [int(asked[name]) for name in at_once] == [most, most]


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
08:12:01 ERROR ExecutorPodsAllocator: Failed to create executor pod 1. Total failures: 1: Failure executing: \
POST at: https://10.96.0.1:443/api/v1/namespaces/lake/pods. Message: pods "medallion-1-exec-1" is forbidden: \
exceeded quota: small, requested: limits.memory=1Gi, used: limits.memory=2Gi, limited: limits.memory=2Gi. \
Received status: Status(apiVersion=v1, code=403, details=null).
"""


@pytest.mark.parametrize(
    ("pods", "output", "told"),
    [
        ([], "", "the cluster has no pod of theirs"),
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
