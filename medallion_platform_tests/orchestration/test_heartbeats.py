"""What counts as work of a run, and that it is said."""

import time

import dagster as dg
import pytest

from medallion_platform.orchestration.heartbeats import (
    BEATS,
    JAVA_IDLES,
    PYTHON_IDLES,
    CpuSeconds,
    Process,
    beat_seconds,
    work_between,
)
from medallion_platform.orchestration.retries import only_attempt

OURS, JAVA, LATER = Process(1, 10.0), Process(2, 11.0, java=True), Process(1, 50.0)


@pytest.mark.parametrize(
    ("before", "now", "work"),
    [
        pytest.param({OURS: 5.0, JAVA: 9.0}, {OURS: 5.0, JAVA: 9.0}, 0.0, id="nothing"),
        pytest.param({OURS: 5.0}, {OURS: 5.0 + 60 * PYTHON_IDLES / 2}, 0.0, id="idle"),
        pytest.param({OURS: 5.0}, {OURS: 5.0 + 60 * PYTHON_IDLES * 2}, 0.12, id="a slow download"),
        pytest.param(
            {OURS: 5.0, JAVA: 9.0}, {OURS: 5.0, JAVA: 9.0 + 60 * JAVA_IDLES / 2}, 0.0, id="a JVM idles"
        ),
        pytest.param({OURS: 5.0, JAVA: 9.0}, {OURS: 5.0, JAVA: 39.0}, 30.0, id="Spark works, Python waits"),
        pytest.param({OURS: 5.0}, {OURS: 5.0, JAVA: 3.0}, 3.0, id="a process began"),
        pytest.param({OURS: 5.0, JAVA: 9.0}, {OURS: 5.0}, 0.0, id="a process ended"),
        pytest.param({OURS: 5.0}, {LATER: 2.0}, 2.0, id="its number is another's"),
    ],
)
def test_what_processes_use_beyond_what_they_use_idle_is_work(
    before: CpuSeconds, now: CpuSeconds, work: float
) -> None:
    assert work_between(before, now, 60) == pytest.approx(work)


def test_a_run_says_it_every_minute_or_more_often_where_less_silence_means_that_it_hangs() -> None:
    assert [beat_seconds(s) for s in (10, 600, 7200)] == [2, 60, 60]


def events_of(on: dg.DagsterInstance, *, seconds: float, busy: bool) -> tuple[list[str], bool]:
    """What a run says of its work while its step is busy, or sleeps, and whether it has the tag."""

    @dg.op
    def step(context: dg.OpExecutionContext) -> None:
        with only_attempt(context, "silver.x"):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(0 if busy else seconds)

    @dg.job(executor_def=dg.in_process_executor)
    def job() -> None:
        step()

    done = job.execute_in_process(instance=on)
    run = on.get_run_by_id(done.run_id)
    assert run
    said = on.all_logs(done.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    return [e.dagster_event.message or "" for e in said if e.dagster_event], BEATS in run.tags


@pytest.mark.parametrize("busy", [True, False])
def test_a_run_that_works_says_so_and_one_that_waits_does_not(
    on: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    monkeypatch.setenv("MEDALLION_HUNG_AFTER_MINUTES", str(1 / 60))
    said, tagged = events_of(on, seconds=1, busy=busy)
    assert tagged
    assert any(text.startswith("It works: ") for text in said) == busy


def test_nothing_is_said_where_no_run_counts_as_hung(
    on: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDALLION_HUNG_AFTER_MINUTES", "0")
    said, tagged = events_of(on, seconds=0.5, busy=True)
    assert not tagged
    assert not any(text.startswith("It works: ") for text in said)
