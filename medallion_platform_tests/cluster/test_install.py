"""What `helm install` by a user without rights of the cluster gives: runs, executors, backfills, upgrades."""

from __future__ import annotations

import base64
import json
import time

import pytest

from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration.partitions import range_tags
from medallion_platform.orchestration.sensors import _LOOK_SECONDS
from medallion_platform_tests.cluster.conftest import Arrival
from medallion_platform_tests.cluster.graphql import Dagster, Run
from medallion_platform_tests.cluster.installation import RELEASE, Installation, image_values
from medallion_platform_tests.cluster.kube import CommandFailed
from medallion_platform_tests.test_demo import content
from medallion_platform_tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

DAYS = ["2026-01-06", "2026-01-07", "2026-01-08"]
REBUILD = {"ops": {"silver_events": {"config": {"rebuild": True}}}}
WEEK = range_tags("2026-01-05", "2026-01-11")
"""Of all events: it takes long enough to be disturbed."""


def test_what_has_arrived_is_brought_up_by_runs_in_pods(arrival: Arrival) -> None:
    assert {run.status for run in arrival.runs} == {"SUCCESS"}
    assert {run.job for run in arrival.runs} >= {"intake", "catch_up"}


def test_features_are_online_and_then_nothing_more_is_asked_for(
    installed: Installation, dagster: Dagster, arrival: Arrival
) -> None:
    assert arrival.tables["gold.user_features"]
    until(lambda: installed.servers.redis.client().dbsize() > 0, 120, installed.says)
    dagster.up_to_date()
    known = {run.id for run in dagster.runs()}
    time.sleep(4 * _LOOK_SECONDS)  # of the sensor, in the code location, which has another disk
    assert [run.tags for run in dagster.runs() if run.id not in known] == []


def test_jobs_are_launched_by_graphql(installed: Installation, dagster: Dagster, arrival: Arrival) -> None:
    for job in ("intake", "catch_up"):
        run = dagster.succeeded(dagster.launch(job))
        assert run.tags["medallion/shape_reason"]
        until(lambda run=run: phases(installed, run.id) == ["Succeeded"], 60, installed.says)
    assert content(Lake(installed.lake)) == arrival.tables


def test_a_large_backfill_of_three_days_is_one_run_with_executors_on_both_nodes(
    installed: Installation, dagster: Dagster, arrival: Arrival
) -> None:
    dagster.quiet()
    nodes, shown = set[str](), list[str]()
    backfill = dagster.backfill(["silver_events"], DAYS, REBUILD)

    def ended() -> list[Run]:
        pods = installed.admin.pods(spark_role="executor")
        nodes.update(pod["spec"]["nodeName"] for pod in pods if pod["status"]["phase"] == "Running")
        shown.extend(map(json.dumps, pods))
        runs = dagster.runs(dagster__backfill=backfill)
        return runs if all(run.ended for run in runs) else []

    (run,) = until(ended, 300, installed.says)
    assert run.status == "SUCCESS", dagster.messages(run.id)
    ends = [run.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end")]
    assert ends == [DAYS[0], DAYS[-1]]
    assert "2 executors" in run.tags["medallion/shape"]
    assert nodes == {"node1", "node2"}
    # spark#58010: who may list pods would see what they trust each other by.
    values = [value for secret in installed.admin.get("secrets") for value in secret["data"].values()]
    decoded = [base64.b64decode(value).decode(errors="ignore") for value in values]
    hidden = {line for text in decoded for line in text.splitlines() if len(line) > 8}
    assert [line for line in hidden if any(line in pod for pod in shown)] == []
    assert content(Lake(installed.lake)) == arrival.tables


def test_an_upgrade_and_a_rollback_in_the_middle_of_a_run_lose_nothing(
    installed: Installation, arrival: Arrival, images: tuple[str, str]
) -> None:
    def at_work() -> str:
        with installed.web() as url:
            dagster = Dagster(url, installed.says)
            dagster.quiet()
            run = dagster.launch("__ASSET_JOB", ["silver_events"], REBUILD, **WEEK)
        until(lambda: running(installed, run), 120, installed.says)
        return run

    def image(run_id: str) -> str:
        with installed.web() as url:
            return Dagster(url, installed.says).succeeded(run_id).tags["dagster/image"]

    first = at_work()
    installed.install(image=image_values(images[1]))
    assert image(first) == images[0]
    second = at_work()
    installed.user.helm("rollback", RELEASE, "--wait", "--timeout=3m")
    assert image(second) == images[1]
    assert image(at_work()) == images[0]
    assert content(Lake(installed.lake)) == arrival.tables


def running(installed: Installation, run: str) -> bool:
    return "Running" in phases(installed, run)


def phases(installed: Installation, run: str) -> list[str]:
    """Of the pods of a run."""
    return [pod["status"]["phase"] for pod in installed.admin.pods(dagster__run_id=run)]


def test_whoever_installs_has_no_rights_of_the_cluster(installed: Installation) -> None:
    for asked in (("get", "nodes"), ("get", "pods", "--all-namespaces"), ("get", "namespaces")):
        with pytest.raises(CommandFailed, match="forbidden"):
            installed.user.run(*asked)
