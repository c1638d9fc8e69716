"""What is lost while a run works: its tables become those of an undisturbed run, and no pod is left.

The seconds from fault to recovery are printed, and kept in the file that `MEDALLION_TEST_FIGURES` names.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.cluster import local
from medallion_platform_tests.cluster.conftest import Arrival
from medallion_platform_tests.cluster.graphql import Dagster, Run
from medallion_platform_tests.cluster.installation import RELEASE, Installation
from medallion_platform_tests.cluster.kube import CommandFailed
from medallion_platform_tests.cluster.test_install import REBUILD, WEEK
from medallion_platform_tests.test_demo import content
from medallion_platform_tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

RECOVERY = 420
"""Seconds in which a run that lost something, or the next try, ends."""


class Faults:
    """What a test does to an installation, and what it waits for."""

    def __init__(self, installed: Installation, arrival: Arrival) -> None:
        self.installed, self.arrival = installed, arrival
        self.admin = installed.admin

    def ask(self, question: Callable[[Dagster], Any]) -> Any:
        """What Dagster says, by a connection of its own: web server and database may have been away."""
        with self.installed.web() as url:
            return question(Dagster(url, self.installed.says))

    def begin(self, pod: Mapping[str, Any] | None = None, **tags: str) -> str:
        """Begin a run that reads all events with executors, once what an earlier fault took is back."""
        self.admin.run(
            "wait", "--for=condition=Available", "deployments", "--all", "--timeout=180s", seconds=200
        )
        until(lambda: _patient(lambda: self.ask(Dagster.is_loaded)), 120, self.installed.says, pause=1)

        def launch(dagster: Dagster) -> str:
            dagster.quiet()
            return dagster.launch("__ASSET_JOB", ["silver_events"], REBUILD, pod, **WEEK, **tags)

        return self.ask(launch)

    def driver(self, run_id: str) -> dict[str, Any]:
        """The pod of a run, as soon as its table is worked on with both executors."""

        def at_work() -> dict[str, Any] | None:
            pods = [p for p in self.admin.pods(dagster__run_id=run_id) if _runs(p)]
            return pods[0] if pods and len(self.executors(pods[0])) == 2 else None

        return until(at_work, 180, self.installed.says)

    def executors(self, driver: dict[str, Any]) -> list[dict[str, Any]]:
        """The pods of a run's executors that work."""
        owner = driver["metadata"]["name"]
        pods = self.admin.pods(spark_role="executor")
        return [
            p for p in pods if _runs(p) and p["metadata"].get("ownerReferences", [{}])[0].get("name") == owner
        ]

    def recovered(self, name: str, run_id: str, since: float) -> list[Run]:
        """All tries of a run, the first one first, as soon as one succeeded; and what it left is right."""

        def tries() -> list[Run]:
            def ask(dagster: Dagster) -> list[Run]:
                return [dagster.run(run_id), *reversed(dagster.runs(dagster__root_run_id=run_id))]

            found = _patient(lambda: self.ask(ask)) or []
            return found if found and found[-1].status == "SUCCESS" else []

        runs = until(tries, RECOVERY, self.installed.says, pause=2)
        seconds = round((runs[-1].end or time.time()) - since, 1)
        figure(name, seconds, len(runs))
        assert content(Lake(self.installed.lake)) == self.arrival.tables
        until(lambda: _patient(self.leaked) == [], 90, self.installed.says, pause=2)
        return runs

    def leaked(self) -> list[str]:
        """Pods that work for nobody, and are not about to go: executors, or of runs that have ended."""
        pods = [pod for pod in self.admin.get("pods") if "deletionTimestamp" not in pod["metadata"]]
        drivers = {p["metadata"]["name"] for p in pods if _runs(p)}
        found = []
        for pod in pods:
            labels = pod["metadata"].get("labels", {})
            owners = {o["name"] for o in pod["metadata"].get("ownerReferences", [])}
            alive = pod["status"]["phase"] in ("Pending", "Running")
            if labels.get("spark-role") == "executor" and alive and not owners & drivers:
                found.append(pod["metadata"]["name"])
            run = labels.get("dagster/run-id")
            if alive and run and self.ask(lambda d, run=run: d.run(run)).ended:
                found.append(pod["metadata"]["name"])
        return found


def _runs(pod: dict[str, Any]) -> bool:
    return pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]


def _patient(ask: Callable[[], Any]) -> Any:
    """What somebody says who may be away for a moment."""
    try:
        return ask()
    except (AssertionError, OSError, KeyError, ValueError, CommandFailed):
        return None


def figure(name: str, seconds: float, tries: int) -> None:
    """Print and keep a measured recovery."""
    print(f"\nrecovered from: {name}: {seconds} s, {tries} tries")
    if file := os.environ.get("MEDALLION_TEST_FIGURES"):
        with Path(file).open("a") as out:
            out.write(json.dumps({"fault": name, "seconds": seconds, "tries": tries}) + "\n")


def seconds_since(since: float) -> float:
    """With one digit behind the point."""
    return round(time.time() - since, 1)


@pytest.fixture
def faults(installed: Installation, arrival: Arrival) -> Iterator[Faults]:
    yield Faults(installed, arrival)


def test_a_run_s_pod_is_deleted(faults: Faults) -> None:
    run = faults.begin()
    pod = faults.driver(run)
    since = time.time()
    faults.admin.run("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    tries = faults.recovered("run pod deleted by force", run, since)
    assert [t.status for t in tries] == ["FAILURE", "SUCCESS"]
    assert tries[0].tags["medallion/ended_by"] in ("deleted", "killed")


def test_an_executor_is_deleted(faults: Faults) -> None:
    run = faults.begin()
    executor = faults.executors(faults.driver(run))[0]["metadata"]["name"]
    since = time.time()
    faults.admin.run("delete", "pod", executor, "--grace-period=0", "--force")
    (only,) = faults.recovered("executor deleted by force", run, since)
    assert only.status == "SUCCESS"


@pytest.mark.long
def test_a_pod_that_starts_after_its_run_was_failed_writes_nothing(faults: Faults) -> None:
    """dagster#14833, #16535."""
    before = Lake(faults.installed.lake).version("silver.events")
    faults.admin.run("patch", "resourcequota", RELEASE, "--patch", '{"spec": {"hard": {"pods": "4"}}}')
    try:
        run = faults.begin(dagster__max_retries="0")
        ended = until(lambda: _ended(faults, run), 300, faults.installed.says, pause=2)
        assert (ended.status, ended.tags["medallion/ended_by"]) == ("FAILURE", "quota")
    finally:
        faults.admin.run("patch", "resourcequota", RELEASE, "--patch", '{"spec": {"hard": {"pods": "100"}}}')
    time.sleep(30)  # the job controller tries again with pauses
    until(lambda: _patient(faults.leaked) == [], 90, faults.installed.says, pause=2)
    assert Lake(faults.installed.lake).version("silver.events") == before


def _ended(faults: Faults, run: str) -> Run | None:
    found = faults.ask(lambda d: d.run(run))
    return found if found.ended else None


@pytest.mark.long
def test_a_run_s_pod_is_evicted(faults: Faults) -> None:
    run = faults.begin()
    pod = faults.driver(run)["metadata"]["name"]
    since = time.time()
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    path = f"/api/v1/namespaces/{faults.admin.namespace}/pods/{pod}/eviction"
    faults.admin.run("create", "--raw", path, "--filename=-", given=json.dumps(eviction))
    faults.recovered("run pod evicted", run, since)


@pytest.mark.long
def test_an_image_cannot_be_pulled(faults: Faults) -> None:
    config = {"container_config": {"image": "nobody-has-this:1"}}
    run = faults.begin(config, dagster__max_retries="0")
    ended = until(lambda: _ended(faults, run), 300, faults.installed.says, pause=2)
    assert (ended.status, ended.tags["medallion/ended_by"]) == ("FAILURE", "image")
    until(lambda: _patient(faults.leaked) == [], 90, faults.installed.says, pause=2)


@pytest.mark.long
def test_the_daemon_is_killed(faults: Faults) -> None:
    run = faults.begin()
    faults.driver(run)
    since = time.time()
    faults.admin.run(
        "delete", "pod", "--selector=app.kubernetes.io/component=daemon", "--grace-period=0", "--force"
    )
    (only,) = faults.recovered("daemon killed", run, since)
    assert only.status == "SUCCESS"


@pytest.mark.long
def test_postgres_is_restarted(faults: Faults) -> None:
    run = faults.begin()
    faults.driver(run)
    since = time.time()
    postgres = faults.installed.servers.postgres
    postgres.interrupt()
    time.sleep(5)
    postgres.again()
    faults.recovered("Postgres restarted, away for 5 s", run, since)


@pytest.mark.long
def test_the_api_server_is_restarted(faults: Faults) -> None:
    run = faults.begin()
    faults.driver(run)
    since = time.time()
    os.kill(local.process("apiserver"), signal.SIGKILL)
    time.sleep(5)
    local.start(nodes=2)
    faults.recovered("API server killed, away for 5 s", run, since)


@pytest.mark.long
def test_a_node_is_drained(faults: Faults) -> None:
    run = faults.begin()
    node = faults.driver(run)["spec"]["nodeName"]
    since = time.time()
    try:
        faults.admin.run(
            *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=180s"),
            seconds=200,
        )
        faults.recovered("node drained", run, since)
    finally:
        faults.admin.run("uncordon", node)


@pytest.mark.long
def test_a_node_is_lost_and_comes_back(faults: Faults) -> None:
    run = faults.begin()
    faults.driver(run)
    since = time.time()
    local.lose(2)
    try:
        faults.recovered("node lost", run, since)
    finally:
        local.start(nodes=2)
    until(lambda: _patient(faults.admin.about_to_go) == [], 120, faults.installed.says, pause=2)


IN_THREADS: Mapping[str, Any] = {"env": [{"name": "MEDALLION_RUN_EXECUTORS", "value": "0"}]}
"""A container whose run has no executors."""
LATE_SIGNAL: Mapping[str, Any] = {"lifecycle": {"pre_stop": {"exec": {"command": ["sleep", "800"]}}}}
"""A container that is not told that it shall end: as if its kubelet, which tells it, were cut off, too."""


@pytest.mark.long
@pytest.mark.parametrize("reaches", ["nothing", "the bucket alone"])
def test_a_worker_that_was_cut_off_writes_nothing_when_it_is_back(faults: Faults, reaches: str) -> None:
    lake = Lake(faults.installed.lake)
    run = faults.begin(
        {
            "container_config": {**IN_THREADS, **LATE_SIGNAL},
            "pod_spec_config": {"termination_grace_period_seconds": 900},
        }
    )
    with faults.installed.web() as url:
        dagster = Dagster(url, faults.installed.says)
        until(lambda: dagster.run(run).tags.get("medallion/working_on"), 180, faults.installed.says)
    (pod,) = faults.admin.pods(dagster__run_id=run)
    bucket = faults.installed.servers.s3.port if reaches == "the bucket alone" else None
    begun = lake.version("silver.events")
    with local.cut_off(pod["status"]["podIP"], but=bucket):
        since = time.time()
        faults.ask(lambda d: d.end(run))
        other = faults.begin({"container_config": IN_THREADS})
        faults.ask(lambda d: d.succeeded(other))
        figure(
            f"worker cut off ({reaches} in reach) and ended, until another one has written",
            seconds_since(since),
            2,
        )
        made = lake.version("silver.events")
        assert made > begun
        (pod,) = faults.admin.pods(dagster__run_id=run)
        assert pod["status"]["phase"] == "Running"
    since = time.time()
    until(lambda: not faults.admin.pods(dagster__run_id=run), 400, faults.installed.says, pause=1)
    figure(f"worker back ({reaches} was in reach), until its pod has ended", seconds_since(since), 2)
    said = [text for text in faults.ask(lambda d: d.messages(run)) if "nothing was written" in text]
    print(said)
    # Who could read nothing meanwhile may notice first that what it had planned is done.
    refused = "was ended meanwhile (CANCELED); nothing was written" if bucket else "nothing was written"
    assert any(refused in text for text in said), said
    assert faults.ask(lambda d: d.runs(dagster__root_run_id=run)) == [], "it was tried again"
    assert lake.version("silver.events") == made
    assert content(lake) == faults.arrival.tables
    until(lambda: _patient(faults.leaked) == [], 90, faults.installed.says, pause=2)
