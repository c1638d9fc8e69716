"""What a run tells of its launch, off the events of real runs of Dagster."""

import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.events import DagsterEvent
from dagster._core.execution.api import execute_run_iterator

from medallion_platform.kubernetes import api
from medallion_platform.kubernetes.own_pod import LAUNCH
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.observability.launch import Launch
from medallion_platform.orchestration import launch_phases, runs
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.launch_phases import run_instants
from medallion_platform.orchestration.work import RUN_EXECUTORS, work_on
from medallion_platform_tests.in_kubernetes.server import api_server
from medallion_platform_tests.in_kubernetes.test_own_pod import STATUS


def run_with(
    on: dg.DagsterInstance, lake: Lake, *, queued: bool, work: Callable[[str], object] = lambda _: None
) -> dg.DagsterRun:
    """A run that waits in the queue first, or not, and works on two tables; `work` gets its id."""

    lakehouse = Lakehouse(lake_root=str(lake.root), landing="", feature_repo="")

    @dg.op(out=dg.Out(dg.Nothing))
    def body(context: dg.OpExecutionContext) -> None:
        work_on(context, lakehouse, "silver.events", lambda: work(context.run.run_id))
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


def test_it_is_told_when_the_first_task_began_and_not_when_the_work_is_done(
    on: dg.DagsterInstance, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod may be killed before that."""
    reached: dict[str, float] = {}

    def spark() -> dict[str, float]:
        if not reached:
            raise AttributeError("_jsc")  # it is being started
        return reached

    def tag(run_id: str) -> str:
        found = on.get_run_by_id(run_id)
        return found.tags.get(LAUNCH, "") if found else ""

    def work(run_id: str) -> None:
        now = time.time()
        reached.update(session=now)
        assert not tag(run_id)
        reached.update(first_executor=now + 1, first_task=now + 2)
        until = time.monotonic() + 60
        while not tag(run_id):
            assert time.monotonic() < until
            time.sleep(0.01)

    monkeypatch.setenv(RUN_EXECUTORS, "2")
    monkeypatch.setattr(launch_phases, "_LOOK_EVERY", 0.01)
    monkeypatch.setattr(launch_phases, "spark_instants", spark)
    run = run_with(on, lake, queued=False, work=work)
    assert "first executor 1.0, first task 1.0" in run.tags[LAUNCH]
    (told,) = [e for e in on.all_logs(run.run_id) if "Launch of the run" in (e.message or "")]
    assert told.dagster_event
    assert told.dagster_event.engine_event_data.metadata["first_task"].value == pytest.approx(1, abs=0.01)


def test_of_work_that_fails_the_launch_is_told_too(
    on: dg.DagsterInstance, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(_: str) -> None:
        raise OSError("the source does not answer")

    monkeypatch.setenv(RUN_EXECUTORS, "0")
    with pytest.raises(AssertionError):
        run_with(on, lake, queued=False, work=work)
    (run,) = on.get_runs()
    assert "code loaded" in run.tags[LAUNCH]


def test_a_pod_that_may_not_be_annotated_is_warned_of_once_and_the_work_goes_on(
    on: dg.DagsterInstance, lake: Lake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(RUN_EXECUTORS, "0")
    monkeypatch.setenv("POD_NAME", "run-1a2b")
    (tmp_path / "namespace").write_text("here")
    monkeypatch.setattr(api, "_NAMESPACE", tmp_path / "namespace")
    with api_server() as objects:
        monkeypatch.setattr(api, "connect", lambda: objects.cluster)
        objects.put("pods", "run-1a2b", status=STATUS, metadata={"annotations": {}})
        annotations = objects.found["pods/run-1a2b"]["metadata"]["annotations"]
        objects.refused = {"PATCH"}
        run = run_with(on, lake, queued=False)
        assert run.status is dg.DagsterRunStatus.SUCCESS
        warned = [e for e in on.all_logs(run.run_id) if "not told completely" in (e.user_message or "")]
        assert len(warned) == 1, "a run works on many tables"
        assert "patch the pod run-1a2b" in warned[0].user_message
        assert "container" in run.tags[LAUNCH]
        assert annotations == {}
        objects.refused = set()
        run = run_with(on, lake, queued=False)
    launch = Launch.from_json(annotations[LAUNCH])
    assert (str(launch), launch.mode) == (run.tags[LAUNCH], "threads")
    assert {"scheduled", "container"} <= launch.seconds.keys()


def test_elsewhere_nothing_is_told(
    on: dg.DagsterInstance, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(RUN_EXECUTORS, raising=False)
    assert LAUNCH not in run_with(on, lake, queued=False).tags
