"""What Dagster alone and Spark alone do about faults: printed, with seconds, and not judged.

Five days of rows are appended, one commit for each; the fault comes after the second one. Dagster has the
monitoring and the retries of its chart, a Job of Spark those of Kubernetes, each with one further try.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml

from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.cluster.bare.append import DAYS, ROWS
from medallion_platform_tests.cluster.graphql import Dagster, Run
from medallion_platform_tests.cluster.installation import Installation, namespace, web_server
from medallion_platform_tests.cluster.kube import Kube
from medallion_platform_tests.cluster.servers import Servers
from medallion_platform_tests.cluster.test_faults import figure
from medallion_platform_tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(1500)]

HERE = Path(__file__).parent
TOO_MUCH = 2900
"""MiB that Python holds: with a JVM more than the pod's 3 GiB."""
ENOUGH = 900
"""Seconds in which either gives up or succeeds."""


@dataclass
class Bare:
    """A namespace with Dagster, and with what a Job of Spark needs."""

    place: Installation
    image: str

    @property
    def admin(self) -> Kube:
        return self.place.admin

    def apply(self, manifests: str, **values: object) -> None:
        text = Template((HERE / manifests).read_text()).substitute(image=self.image, **values)
        self.admin.apply(*(document for document in yaml.safe_load_all(text)))

    def days_written(self, name: str) -> int:
        """Commits of a table."""
        return Lake(self.place.lake).version(f"bare.{name}") + 1

    def rows(self, name: str) -> str:
        """What is in a table, in words."""
        table = Lake(self.place.lake).open(f"bare.{name}")
        days = table.to_pyarrow_table(columns=["day"])["day"].to_pylist() if table else []
        right = Counter(dict.fromkeys(range(DAYS), ROWS))
        return "rows right" if Counter(days) == right else f"{len(days):,} rows instead of {DAYS * ROWS:,}"


@pytest.fixture(scope="module")
def bare(
    admin: Kube, image: str, servers_of_tests: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bare]:
    servers = servers_of_tests
    with namespace(admin, servers, tmp_path_factory.mktemp("bare"), image) as place:
        found = Bare(place, image)
        files = [
            f"--from-file={HERE / name}" for name in ("append.py", "job.py", "spark.py", "executor.yaml")
        ]
        place.admin.run("create", "configmap", "code", *files)
        found.apply(
            "pods.yaml",
            lake=place.lake,
            endpoint=f"http://{servers.s3.host}:{servers.s3.port}",
            namespace=place.admin.namespace,
            **{name: place.values["postgres"][name] for name in ("host", "port", "database")},
        )
        place.admin.run("rollout", "status", "deployment/bare", "--timeout=180s", seconds=200)
        yield found


@pytest.fixture
def dagster(bare: Bare) -> Iterator[Dagster]:
    with web_server(bare.admin, "bare", bare.place.says) as url:
        found = Dagster(url, bare.place.says, "bare")
        # The web server may have looked for the code before that was there, and would look again later.
        until(found.reloaded, 180, bare.place.says)
        yield found


def delete(bare: Bare, pod: dict[str, Any]) -> None:
    bare.admin.run("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")


def at_work(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [pod for pod in pods if pod["status"]["phase"] == "Running"]


def of_dagster(bare: Bare, dagster: Dagster, name: str, megabytes: int, fault: Callable[[str], None]) -> str:
    """What became of a run; the first try is given so much memory to hold, and then has a fault."""
    config = {"table": f"{bare.place.lake}/bare/{name}", "megabytes": megabytes}
    run_id = dagster.launch("bare", config={"ops": {"days": {"config": config}}})
    fault(run_id)
    since = time.time()

    def ended() -> list[Run]:
        tries = [dagster.run(run_id), *reversed(dagster.runs(dagster__root_run_id=run_id))]
        last = tries[-1]
        over = last.status == "SUCCESS" or (last.status == "FAILURE" and len(tries) > 1)
        return tries if over else []

    tries = until(ended, ENOUGH, bare.place.says, pause=2)
    first = (tries[0].end or 0) - since
    became = f"{', '.join(run.status for run in tries)}; noticed after {first:.0f} s; {bare.rows(name)}"
    figure(f"bare Dagster, {name}: {became}", round((tries[-1].end or 0) - since, 1), len(tries))
    return became


def test_dagster_alone_and_a_deleted_run_pod(bare: Bare, dagster: Dagster) -> None:
    def fault(run_id: str) -> None:
        until(lambda: bare.days_written("deleted") > 1, 300, bare.place.says)
        (pod,) = at_work(bare.admin.pods(dagster__run_id=run_id))
        delete(bare, pod)

    of_dagster(bare, dagster, "deleted", 0, fault)


def test_dagster_alone_and_a_run_pod_that_is_killed_for_its_memory(bare: Bare, dagster: Dagster) -> None:
    def fault(run_id: str) -> None:
        until(lambda: at_work(bare.admin.pods(dagster__run_id=run_id)), 300, bare.place.says)

    of_dagster(bare, dagster, "killed", TOO_MUCH, fault)


def of_spark(bare: Bare, name: str, megabytes: int, fault: Callable[[], None]) -> None:
    """What became of a Job of Spark."""
    values = {
        "name": f"spark-{name}",
        "table": f"{bare.place.lake}/bare/spark_{name}",
        "megabytes": megabytes,
    }
    bare.apply("job.yaml", **values)
    fault()
    since = time.time()

    def ended() -> dict[str, Any] | None:
        (job,) = bare.admin.get("jobs", f"--field-selector=metadata.name=spark-{name}")
        return job if job["status"].get("succeeded") or _failed(job) else None

    status = until(ended, ENOUGH, bare.place.says, pause=1)["status"]
    end = "SUCCESS" if status.get("succeeded") else "FAILURE"
    tries = status.get("failed", 0) + status.get("succeeded", 0)
    became = f"{end} with {tries} tries; {bare.rows(f'spark_{name}')}"
    figure(f"bare Spark, {name}: {became}", round(time.time() - since, 1), tries)


def _failed(job: dict[str, Any]) -> bool:
    return any(c["type"] == "Failed" and c["status"] == "True" for c in job["status"].get("conditions", ()))


def test_spark_alone_and_a_deleted_driver(bare: Bare) -> None:
    def fault() -> None:
        until(lambda: bare.days_written("spark_deleted") > 1, 400, bare.place.says)
        (pod,) = at_work(bare.admin.pods(spark="spark-deleted"))
        delete(bare, pod)

    of_spark(bare, "deleted", 0, fault)


def test_spark_alone_and_a_driver_that_is_killed_for_its_memory(bare: Bare) -> None:
    def fault() -> None:
        until(lambda: at_work(bare.admin.pods(spark="spark-killed")), 300, bare.place.says)

    of_spark(bare, "killed", TOO_MUCH, fault)


def test_spark_alone_and_a_deleted_executor(bare: Bare) -> None:
    def fault() -> None:
        until(lambda: bare.days_written("spark_executor") > 1, 400, bare.place.says)
        delete(bare, at_work(bare.admin.pods(spark_role="executor"))[0])

    of_spark(bare, "executor", 0, fault)
