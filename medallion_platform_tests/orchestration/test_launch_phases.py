"""What a run tells of its launch, off the events of real runs of Dagster."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.events import DagsterEvent
from dagster._core.execution.api import execute_run_iterator

from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration import launch_phases, runs
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.launch_phases import LAUNCH, run_instants
from medallion_platform.orchestration.work import RUN_EXECUTORS, work_on


@pytest.fixture
def on(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with runs.open_instance(tmp_path / "dagster") as found:
        yield found


def run_with(on: dg.DagsterInstance, lake: Lake, *, queued: bool) -> dg.DagsterRun:
    """A run that waits in the queue first, or not, and works on two tables."""

    lakehouse = Lakehouse(lake_root=str(lake.root), landing="", feature_repo="")

    @dg.op(out=dg.Out(dg.Nothing))
    def body(context: dg.OpExecutionContext) -> None:
        work_on(context, lakehouse, "silver.events", lambda: None)
        work_on(context, lakehouse, "gold.sums", lambda: None)

    @dg.job(executor_def=dg.in_process_executor)
    def job() -> None:
        body()

    origin = runs._repository_origin().get_job_origin("job")
    run = on.create_run_for_job(job, remote_job_origin=origin)
    if queued:
        on.report_dagster_event(DagsterEvent.job_enqueue(run), run.run_id)
        on.report_dagster_event(
            DagsterEvent(dg.DagsterEventType.RUN_STARTING.value, run.job_name), run.run_id
        )
        run = on.get_run_by_id(run.run_id)
        assert run
    assert all(not event.is_failure for event in execute_run_iterator(InMemoryJob(job), run, on))
    found = on.get_run_by_id(run.run_id)
    assert found
    return found


def test_phases_of_a_run_that_waited_in_the_queue(
    on: dg.DagsterInstance, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN_EXECUTORS, "0")
    run = run_with(on, lake, queued=True)
    assert "queued" in run.tags[LAUNCH]
    assert "code loaded" in run.tags[LAUNCH]
    events = on.all_logs(run.run_id)
    asked, ended = run_instants(events)
    assert list(ended) == ["queued", "code_loaded"]
    assert asked <= ended["queued"] <= ended["code_loaded"]
    assert asked == min(event.timestamp for event in events)


def test_a_run_without_a_queue_was_asked_for_when_it_began(
    on: dg.DagsterInstance, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN_EXECUTORS, "0")
    run = run_with(on, lake, queued=False)
    asked, ended = run_instants(on.all_logs(run.run_id))
    assert list(ended) == ["code_loaded"]
    assert asked <= ended["code_loaded"]
    assert "queued" not in run.tags[LAUNCH]


def test_it_is_told_once_and_the_work_does_not_fail_for_it(
    on: dg.DagsterInstance, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def refuse() -> dict[str, float]:
        asked.append(1)
        raise OSError("no API server answers")

    monkeypatch.setenv(RUN_EXECUTORS, "0")
    monkeypatch.setattr(launch_phases, "own_pod_instants", refuse)
    run = run_with(on, lake, queued=False)
    assert run.status is dg.DagsterRunStatus.SUCCESS
    assert LAUNCH not in run.tags
    assert asked == [1], "a run works on many tables"


def test_elsewhere_nothing_is_told(
    on: dg.DagsterInstance, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(RUN_EXECUTORS, raising=False)
    assert LAUNCH not in run_with(on, lake, queued=False).tags
