"""Runs that hold a table's pool: dead ones give it back whoever started them, living ones are waited for."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Timer

import dagster as dg
import pytest

from medallion_platform.orchestration import pools, progress, runs
from medallion_platform_tests.command import MEDALLION
from medallion_platform_tests.waiting import until

POOL = "bronze_departments"

HOLDER = f"""
import sys, time
import dagster as dg
@dg.op(pool={POOL!r}, out=dg.Out(dg.Nothing))
def hold():
    print("has it", flush=True)
    time.sleep(600)
@dg.job(executor_def=dg.in_process_executor)
def foreign():
    hold()
with dg.DagsterInstance.from_config(sys.argv[1]) as on:
    foreign.execute_in_process(instance=on)
"""


@contextmanager
def foreign_run(on: dg.DagsterInstance, *, holding: bool) -> Generator[subprocess.Popen[str]]:
    """A run of no command of ours, as Dagster starts them; it has the pool or queues for it."""
    before = queue(on)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, on.root_directory],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout
        if holding:
            assert process.stdout.readline() == "has it\n"
        else:
            until(lambda: queue(on) > before, 60)
        yield process
    finally:
        process.kill()
        process.wait()


def queue(on: dg.DagsterInstance) -> int:
    return len(on.event_log_storage.get_concurrency_info(POOL).pending_steps)


def take_the_pool(on: dg.DagsterInstance) -> runs.Outcome:
    @dg.op(pool=POOL, out=dg.Out(dg.Nothing))
    def work() -> None: ...

    @dg.job(executor_def=dg.in_process_executor)
    def ours() -> None:
        work()

    outcome = runs.Outcome()
    pools.sleep_while_waiting()
    runs.run_attended(on, lambda: runs._execute_job(ours, on, outcome, {}))
    return outcome


def statuses(on: dg.DagsterInstance) -> list[str]:
    return sorted(run.status.value for run in on.get_runs())


def test_a_run_that_died_holding_a_pool_and_one_that_died_queueing_are_closed(on: dg.DagsterInstance) -> None:
    with ExitStack() as stack:
        stack.enter_context(foreign_run(on, holding=True))
        stack.enter_context(foreign_run(on, holding=False))
    assert statuses(on) == ["STARTED", "STARTED"]
    assert queue(on) > 0
    assert len(pools.close_dead_runs(on)) == 2
    assert queue(on) == 0
    assert not take_the_pool(on).failed
    assert statuses(on) == ["FAILURE", "FAILURE", "SUCCESS"]


def test_a_run_that_dies_while_ours_waits_for_it_is_noticed_and_said(
    on: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(progress, "_listeners", [lambda _, text: said.append(text)])
    with foreign_run(on, holding=True) as holder:
        (foreign,) = on.get_runs()
        Timer(4, holder.kill).start()
        spent = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        started = time.monotonic()
        assert not take_the_pool(on).failed
        share = (resource.getrusage(resource.RUSAGE_SELF).ru_utime - spent) / (time.monotonic() - started)
    assert said == [
        f"waits for run {foreign.run_id[:8]}, which works on the same table",
        f"run {foreign.run_id[:8]} died with its process: closed",
    ]
    assert share < 0.5, "it waits, and burns no core"


def test_a_living_run_is_left_alone_and_a_recycled_process_number_is_not_one(on: dg.DagsterInstance) -> None:
    with foreign_run(on, holding=True) as holder:
        assert pools.close_dead_runs(on) == []
        assert pools._process_is_alive(holder.pid, time.time())
        assert not pools._process_is_alive(holder.pid, time.time() - 3600), "that process was not there then"
    assert not pools._process_is_alive(holder.pid, time.time())


def test_what_an_ended_or_deleted_run_held_is_free(on: dg.DagsterInstance) -> None:
    with foreign_run(on, holding=True):
        (run,) = on.get_runs()
    on.report_run_failed(run)  # as a daemon without the look after slots would
    on.run_storage.delete_run(run.run_id)
    assert queue(on) > 0 or on.event_log_storage.get_concurrency_info(POOL).claimed_slots
    pools.close_dead_runs(on)
    assert not take_the_pool(on).failed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_waits_for_a_pool_ends_on_a_signal(
    on: dg.DagsterInstance, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    file = tmp_path / "landing" / "hr" / "departments" / "departments.csv"
    file.parent.mkdir(parents=True)
    file.write_text("1,Sales\n")
    with foreign_run(on, holding=True):
        command = [*MEDALLION, "run", "--home", str(tmp_path)]
        ours = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "MEDALLION_SETTLE_SECONDS": "0"},
        )
        assert ours.stderr
        assert any("waits for run" in line for line in iter(ours.stderr.readline, ""))
        ours.send_signal(number)
        rest = ours.stderr.read()
        assert ours.wait(30) == code
    said = [line for line in rest.splitlines() if "s  bronze." not in line]  # other tables went on
    assert said == ["medallion: stopped; run the same command again to continue, nothing is lost"]
    assert statuses(on) == ["CANCELED", "STARTED"]
