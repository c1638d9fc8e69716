"""Runs of which nothing is heard: those that hang are ended, and no others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress

import dagster as dg
import psutil
import pytest
from dagster._core.events import EngineEventData
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.errors import Kind
from medallion_platform.healing.classify import classify
from medallion_platform.orchestration import pools
from medallion_platform.orchestration.failed_runs import evidence_of, failed_runs
from medallion_platform.orchestration.failures import CLASS
from medallion_platform.orchestration.heartbeats import BEATS
from medallion_platform.orchestration.hung_runs import (
    Silence,
    Silences,
    end_hung_runs,
    end_processes,
    hung_run,
    listen,
)
from medallion_platform.orchestration.memory_reports import ENDED_BY, WORKING_ON
from medallion_platform.orchestration.retries import OURS
from medallion_platform_tests.waiting import until

TABLE = "silver.events"
LONGEST = 60.0


# what is heard --------------------------------------------------------------------------------------


def heard_of(looks: Iterable[tuple[float, int]]) -> Silence:
    """What is left after looks: when each was, and the newest event that it found."""
    found = None
    for now, heard in looks:
        found = listen(found, heard, now, LONGEST)
    assert found
    return found


def test_silence_is_counted_from_the_first_look_that_hears_nothing_new() -> None:
    assert heard_of([(0, 7)]).lasted == 0
    assert heard_of([(0, 7), (5, 7), (10, 7)]).lasted == 10
    assert heard_of([(0, 7), (50, 7), (55, 8), (60, 8)]).lasted == 5


def test_what_nobody_listened_to_is_no_silence() -> None:
    """The machine slept for a night, and whoever looks with it; or the daemon was away."""
    assert heard_of([(0, 7), (30_000, 7), (30_005, 7)]).lasted == LONGEST + 5


@given(st.lists(st.floats(0, 1e6), min_size=1), st.lists(st.integers(0, 3), min_size=1))
def test_no_silence_is_longer_than_the_looks_that_heard_nothing_new(
    times: list[float], events: list[int]
) -> None:
    looks = list(zip(times, sorted(events), strict=False))
    found = heard_of(looks)
    same = sum(heard == looks[-1][1] for _, heard in looks)
    assert 0 <= found.lasted <= (same - 1) * LONGEST


# which runs hang ------------------------------------------------------------------------------------


@dg.op(pool="silver_events", tags=OURS)
def work() -> None: ...


@dg.op
def own_work() -> None: ...


@dg.job
def job() -> None:
    work()


@dg.job
def mixed_job() -> None:
    work()
    own_work()


@pytest.fixture
def run(on: dg.DagsterInstance) -> dg.DagsterRun:
    """A run at work that has heartbeats."""
    return on.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags={BEATS: "yes"})


def look(
    on: dg.DagsterInstance, run: dg.DagsterRun, silences: Silences, seconds: Iterable[float]
) -> list[bool]:
    """At which of these instants it hangs."""
    return [hung_run(on, run, silences, at) is not None for at in seconds]


def minutes(first: int, last: int) -> list[float]:
    return [60.0 * n for n in range(first, last + 1)]


def test_a_run_hangs_after_ten_minutes_without_an_event(on: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    silences: Silences = {}
    assert look(on, run, silences, minutes(0, 11)) == [False] * 10 + [True] * 2


def test_each_event_of_a_run_says_that_it_does_not_hang(on: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    silences: Silences = {}
    assert not any(look(on, run, silences, minutes(0, 9)))
    on.report_engine_event("It works", run, EngineEventData())
    assert look(on, run, silences, minutes(10, 20)) == [False] * 10 + [True]


def test_a_run_that_waits_for_a_pool_does_not_hang_and_then_has_all_its_time(
    on: dg.DagsterInstance, run: dg.DagsterRun
) -> None:
    silences: Silences = {}
    storage = on.event_log_storage
    storage.initialize_concurrency_limit_to_default("silver_events")
    storage.claim_concurrency_slot("silver_events", "another", "work")
    storage.claim_concurrency_slot("silver_events", run.run_id, "work")
    assert not any(look(on, run, silences, minutes(0, 60)))
    storage.free_concurrency_slots_for_run("another")
    assert run.run_id not in pools.runs_waiting_for_pools(on)
    assert not any(look(on, run, silences, minutes(61, 65)))
    assert look(on, run, silences, minutes(66, 80))[-1]


def test_a_run_without_heartbeats_is_not_judged(on: dg.DagsterInstance) -> None:
    run = on.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert not any(look(on, run, {}, minutes(0, 60)))


def test_a_run_with_a_step_of_the_user_s_own_is_not_judged(on: dg.DagsterInstance) -> None:
    run = on.create_run_for_job(mixed_job, status=dg.DagsterRunStatus.STARTED, tags={BEATS: "yes"})
    assert not any(look(on, run, {}, minutes(0, 60)))


def test_with_the_setting_at_zero_no_run_hangs(
    on: dg.DagsterInstance, run: dg.DagsterRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDALLION_HUNG_AFTER_MINUTES", "0")
    assert not any(look(on, run, {}, minutes(0, 60)))


# what is done about them ----------------------------------------------------------------------------

VICTIM = f"""
import subprocess, sys
from threading import Event
import dagster as dg
from medallion_platform.orchestration.pools import PID_TAG
from medallion_platform.orchestration.retries import OURS, only_attempt
import os

@dg.op(tags=OURS)
def step(context):
    with only_attempt(context, {TABLE!r}):
        context.instance.add_run_tags(context.run.run_id, {{{WORKING_ON!r}: {TABLE!r}}})
        child = subprocess.Popen(["sleep", "600"])
        print(child.pid, flush=True)
        if sys.argv[2] == "busy":
            while True: pass
        Event().wait()

@dg.job(executor_def=dg.in_process_executor)
def victim():
    step()

with dg.DagsterInstance.from_config(sys.argv[1]) as on:
    victim.execute_in_process(instance=on, tags={{PID_TAG: str(os.getpid())}})
"""


@contextmanager
def victim(on: dg.DagsterInstance, how: str) -> Generator[tuple[subprocess.Popen[str], psutil.Process]]:
    """A run in a process of its own that is busy or waits for ever, and a process that it began."""
    command = [sys.executable, "-c", VICTIM, on.root_directory, how]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    child = None
    try:
        assert process.stdout
        child = psutil.Process(int(process.stdout.readline()))
        yield process, child
    finally:
        process.kill()
        process.wait()
        with suppress(psutil.Error):
            if child:
                child.kill()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run hangs after two seconds of silence."""
    monkeypatch.setenv("MEDALLION_HUNG_AFTER_MINUTES", str(2 / 60))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["stopped", "waits"])
def test_a_run_that_is_stopped_or_waits_for_ever_is_ended_with_all_that_it_began(
    on: dg.DagsterInstance, how: str
) -> None:
    with victim(on, how) as (process, child):
        if how == "stopped":
            os.kill(process.pid, signal.SIGSTOP)
        silences: Silences = {}
        ended: list[str] = []
        until(lambda: ended.extend(end_hung_runs(on, silences)) or ended, 60)
        assert process.wait(10) == -(signal.SIGKILL if how == "stopped" else signal.SIGTERM) or how == "waits"
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    (run,) = on.get_runs()
    assert ended == [run.run_id]
    assert run.status is dg.DagsterRunStatus.FAILURE
    assert (run.tags[ENDED_BY], run.tags[CLASS]) == ("hung", "hung")
    (failed,), _ = failed_runs(on, None)
    (evidence,) = evidence_of(failed, ())
    assert (evidence.table, classify(evidence).kind) == (TABLE, Kind.HUNG)
    assert end_hung_runs(on, silences) == []
    assert silences == {}


@pytest.mark.usefixtures("impatient")
def test_a_run_that_works_is_left_alone(on: dg.DagsterInstance) -> None:
    with victim(on, "busy") as (process, _):
        silences: Silences = {}
        seen: list[float] = []

        def three_times_its_silence() -> bool:
            assert end_hung_runs(on, silences) == []
            seen.extend(silence.looked for silence in silences.values())
            return seen[-1] - seen[0] > 6 if seen else False

        until(three_times_its_silence, 60)
        assert process.poll() is None


@pytest.mark.usefixtures("impatient")
def test_nobody_ends_a_run_of_the_process_that_looks(on: dg.DagsterInstance) -> None:
    tags = {BEATS: "yes", pools.PID_TAG: str(os.getpid())}
    run = on.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=tags)
    silences: Silences = {}
    assert end_hung_runs(on, silences) == []
    silences[run.run_id] = Silence(silences[run.run_id].heard, 0.0, 1e6)
    assert end_hung_runs(on, silences) == []


def test_a_process_whose_number_is_another_s_by_now_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen(["sleep", "600"])
    try:
        former = psutil.Process(process.pid)
        monkeypatch.setattr(former, "_ident", (process.pid, former.create_time() - 100))
        end_processes(former)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
