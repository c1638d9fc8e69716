"""A run is paused at a step, Dagster ends it, and it wakes up: it writes nothing, whoever did its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest

from medallion_platform.lakehouse import dead_letters, file_registry
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration import runs
from medallion_platform_tests.faults import paused_run
from medallion_platform_tests.faults.paused_run import INTAKE_STEPS, REFRESH_STEPS, bring_up
from medallion_platform_tests.pipeline.shop import EVENTS, change, event, take_all
from medallion_platform_tests.pipeline.toy import Zone, bad, check

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SILVER = ("silver.history", "silver.events")


def arrive(zone: Zone, name: str) -> None:
    """Good and bad events, and who made them."""
    zone.json(f"users/{name}.json", [change(name, 1, 0, "gold"), change(name, 2, 1, "wrong")])
    rows = [event(f"{name}-{n}", n % 3, n, user_id=name, amount=n * 30) for n in range(9)]
    zone.json(f"events/{name}.json", [*rows, bad(b"{")])


def versions(lake: Lake) -> dict[str, int]:
    """The version of each table, and of those beside it."""
    tables = (EVENTS.table, *SILVER)
    registry = file_registry.registry_table(EVENTS.name)
    return {t: lake.version(t) for t in (*tables, *map(dead_letters.name, tables), registry)}


def paused(zone: Zone, step: str, *tables: str) -> subprocess.Popen[str]:
    """A run that has come to a step, and stands there."""
    command = [sys.executable, paused_run.__file__, str(zone.root), step, *tables]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    return process


def end_its_run(zone: Zone) -> str:
    """End the run that goes on in a zone, as Dagster does when it hears nothing of it; gives its id."""
    with runs.open_instance(zone.root / "dagster") as on:
        (run,) = on.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        on.report_run_failed(run, "The worker does not answer.")
        return run.run_id


def woken(process: subprocess.Popen[str]) -> str:
    """What a paused process says once it goes on, to its end."""
    os.kill(process.pid, signal.SIGCONT)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0, told
    return told


def test_an_intake_that_was_ended_writes_nothing(tmp_path: Path) -> None:
    zone = Zone(tmp_path)
    arrive(zone, "first")
    zone.take(EVENTS)
    for n, step in enumerate(INTAKE_STEPS):
        arrive(zone, step)
        process = paused(zone, step, EVENTS.table)
        try:
            ended = end_its_run(zone)
            if n % 2:  # another run does its work; else nobody yet
                assert not bring_up(zone, EVENTS.table).failed
            before, told = versions(zone.lake), woken(process)
        finally:
            process.kill()
        assert versions(zone.lake) == before, step
        assert told.startswith(f"{EVENTS.table}: ")
        assert f"run {ended[:8]} was ended meanwhile (FAILURE); nothing was written" in told or n % 2, told
    assert not bring_up(zone, EVENTS.table).failed
    check(zone, EVENTS)


def test_a_refresh_that_was_ended_writes_nothing(tmp_path: Path, long: bool) -> None:
    zone = Zone(tmp_path)
    arrive(zone, "first")
    take_all(zone)
    for step in REFRESH_STEPS if long else REFRESH_STEPS[-1:]:
        process = paused(zone, step)
        try:
            ended = end_its_run(zone)
            before, told = versions(zone.lake), woken(process)
        finally:
            process.kill()
        assert {t: v for t, v in versions(zone.lake).items() if v > max(before[t], 0)} == {}, step
        assert f"run {ended[:8]} was ended meanwhile (FAILURE); nothing was written" in told
    assert not bring_up(zone).failed
    assert zone.lake.rows(SILVER[1]) + dead_letters.count(zone.lake, SILVER[1]) == 9
