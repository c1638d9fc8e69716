"""A run whose pod has to go says what ends it."""

import dagster as dg
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError

from medallion_platform.kubernetes.api import ClusterError
from medallion_platform.kubernetes.pod_end import PodEnd
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration import interruptions
from medallion_platform.orchestration.failures import CLASS
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.memory_reports import ENDED_BY
from medallion_platform.orchestration.work import RUN_EXECUTORS, work_on
from medallion_platform_tests.orchestration.one_op import run_one_op


def interrupted(on: dg.DagsterInstance, lake: Lake) -> tuple[dg.DagsterRun, list[str]]:
    """A run that gets SIGTERM while it works on a table, and what its log says."""
    lakehouse = Lakehouse(lake_root=str(lake.root), landing="", feature_repo="")

    def work() -> None:
        raise DagsterExecutionInterruptedError

    found = run_one_op(on, lambda context: work_on(context, lakehouse, "silver.events", work))
    assert found.status is dg.DagsterRunStatus.FAILURE
    return found, [event.message for event in on.all_logs(found.run_id)]


def test_what_ends_the_pod_is_told(
    on: dg.DagsterInstance, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN_EXECUTORS, "0")
    end = PodEnd("evicted", "its pod p was evicted, as when a node is drained (node1)")
    monkeypatch.setattr(interruptions, "own_pod_end", lambda: end)
    run, said = interrupted(on, lake)
    assert (run.tags[ENDED_BY], run.tags[CLASS]) == ("evicted", "evicted")
    assert [text for text in said if text.endswith(f"The run ends: {end.text}")]


def test_who_ended_a_run_that_hung_has_told_why(
    on: dg.DagsterInstance, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse = Lakehouse(lake_root=str(lake.root), landing="", feature_repo="")
    monkeypatch.setenv(RUN_EXECUTORS, "0")
    monkeypatch.setattr(interruptions, "own_pod_end", lambda: PodEnd("deleted", "its pod p was deleted"))

    def ended_meanwhile(context: dg.OpExecutionContext) -> None:
        def work() -> None:
            context.instance.add_run_tags(context.run.run_id, {ENDED_BY: "hung"})
            raise DagsterExecutionInterruptedError

        work_on(context, lakehouse, "silver.events", work)

    assert run_one_op(on, ended_meanwhile).tags[ENDED_BY] == "hung"


def test_nothing_is_told_of_a_pod_that_stays(
    on: dg.DagsterInstance, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN_EXECUTORS, "0")
    monkeypatch.setattr(interruptions, "own_pod_end", lambda: None)
    run, said = interrupted(on, lake)
    assert ENDED_BY not in run.tags
    assert not [text for text in said if "The run ends" in text]


def test_a_silent_api_server_is_no_other_failure(
    on: dg.DagsterInstance, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent() -> None:
        raise ClusterError("it does not answer")

    monkeypatch.setenv(RUN_EXECUTORS, "0")
    monkeypatch.setattr(interruptions, "own_pod_end", silent)
    run, said = interrupted(on, lake)
    assert ENDED_BY not in run.tags
    assert [text for text in said if "what ends the run is not told: it does not answer" in text]
