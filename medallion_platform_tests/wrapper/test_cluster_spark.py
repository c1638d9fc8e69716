"""Which Spark a process uses, by what it was started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from medallion_platform.installation import cluster_spark
from medallion_platform.installation.cluster_spark import executors_asked_for, spark_of_process
from medallion_platform.installation.settings import WrongSetting
from medallion_platform.spark.kubernetes import DriverPod, Executors, KubernetesSpark
from medallion_platform.spark.provider import LocalSpark

VARIABLES = {
    "MEDALLION_RUN_EXECUTORS": "6",
    "MEDALLION_RUN_EXECUTOR_CORES": "4",
    "MEDALLION_RUN_EXECUTOR_MEMORY": str(8 << 30),
    "MEDALLION_RUN_IMAGE": "registry/medallion-platform:1.2",
    "MEDALLION_RUN_POD": "dagster-run-1",
    "MEDALLION_RUN_NAMESPACE": "lake",
    "MEDALLION_RUN_ADDRESS": "10.1.2.3",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "KUBERNETES_SERVICE_PORT": "443",
}
POD = DriverPod(
    "dagster-run-1", "lake", "10.1.2.3", "registry/medallion-platform:1.2", "https://10.96.0.1:443"
)


@pytest.fixture(autouse=True)
def _nothing_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a recording here, and it would outlive the test."""
    monkeypatch.setattr(cluster_spark, "record_in_background", lambda _: None)


@pytest.mark.parametrize("executors", [None, "", "0"])
def test_a_process_runs_its_own_threads_unless_it_was_started_with_executors(
    executors: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if executors is None:
        monkeypatch.delenv("MEDALLION_RUN_EXECUTORS", raising=False)
    else:
        monkeypatch.setenv("MEDALLION_RUN_EXECUTORS", executors)
    assert isinstance(spark_of_process(cores=3), LocalSpark)


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the chart mounts into the pod of a run, and its variables."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    for file in ("executor.yaml", "secret", "tls.key", "tls.crt"):
        (tmp_path / file).touch()
    monkeypatch.setattr(cluster_spark, "TEMPLATE", tmp_path / "executor.yaml")
    monkeypatch.setattr(cluster_spark, "SECRETS", tmp_path)
    return tmp_path


def test_a_process_uses_the_executors_that_it_was_started_with(mounted: Path) -> None:
    spark = spark_of_process(memory="1500m")
    assert isinstance(spark, KubernetesSpark)
    assert (spark.pod, spark.secrets, spark.driver.memory) == (POD, mounted, "1500m")
    assert spark.executors == Executors(6, 4, 8 << 30, mounted / "executor.yaml")


@pytest.mark.parametrize("file", ["executor.yaml", "secret", "tls.key", "tls.crt"])
def test_executors_are_let_in_only_by_a_secret_and_a_certificate(mounted: Path, file: str) -> None:
    (mounted / file).unlink()
    with pytest.raises(WrongSetting, match=rf"/{file} is not there, .*; name the Secret"):
        spark_of_process()


def test_the_api_server_may_have_an_address_of_ipv6() -> None:
    pod, _ = executors_asked_for({**VARIABLES, "KUBERNETES_SERVICE_HOST": "fd00::1"})
    assert pod.api == "https://[fd00::1]:443"


@pytest.mark.parametrize("missing", sorted(VARIABLES))
@pytest.mark.failure("permanent")
def test_what_is_missing_is_named(missing: str) -> None:
    with pytest.raises(WrongSetting, match=rf"^{missing} is not set"):
        executors_asked_for({name: value for name, value in VARIABLES.items() if name != missing})


@pytest.mark.parametrize("value", ["8Gi", "-1", "1.5", "\u00b2", "0"])
def test_what_is_no_number_is_named(value: str) -> None:
    with pytest.raises(WrongSetting, match=r"^MEDALLION_RUN_EXECUTOR_MEMORY has to be a whole number"):
        executors_asked_for({**VARIABLES, "MEDALLION_RUN_EXECUTOR_MEMORY": value})
