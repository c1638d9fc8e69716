"""A run that hangs in a refresh is ended with its JVM, and the next one makes the table; one that computes is
left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
import psutil
import pytest

from medallion_platform.healing.incident import known_from
from medallion_platform.lakehouse import dead_letters, incidents
from medallion_platform.orchestration import runs
from medallion_platform.orchestration.hung_runs import Silences, end_hung_runs
from medallion_platform.orchestration.memory_reports import ENDED_BY
from medallion_platform_tests.faults import paused_run
from medallion_platform_tests.faults.paused_run import COMPUTES, PAUSE, REFRESH_STEPS, WAITS, bring_up
from medallion_platform_tests.pipeline.shop import change, event, take_all
from medallion_platform_tests.pipeline.toy import Zone, bad

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SILVER = ("silver.history", "silver.events")
SILENCE = 10
"""Seconds after which a run counts as hung."""


@pytest.fixture
def zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zone:
    """The small shop with nine events in bronze, of which nothing is in silver."""
    monkeypatch.setenv("MEDALLION_HUNG_AFTER_MINUTES", str(SILENCE / 60))
    zone = Zone(tmp_path)
    zone.json("users/a.json", [change("a", 1, 0, "gold"), change("a", 2, 1, "wrong")])
    rows = [event(f"a-{n}", n % 3, n, user_id="a", amount=n * 30) for n in range(9)]
    zone.json("events/a.json", [*rows, bad(b"{")])
    take_all(zone)
    return zone


@contextmanager
def refreshing(zone: Zone, pause: str) -> Generator[subprocess.Popen[str]]:
    """A run in a process of its own that is about to commit rows, and pauses."""
    command = [sys.executable, paused_run.__file__, str(zone.root), REFRESH_STEPS[-1]]
    env = {**os.environ, PAUSE: pause}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    began = psutil.Process(process.pid)
    try:
        if pause == "stop":
            while began.status() != psutil.STATUS_STOPPED:
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.05)
        else:
            assert process.stdout
            assert any(line.strip() == WAITS for line in iter(process.stdout.readline, ""))
        yield process
    finally:
        process.kill()
        process.wait()


def jvms_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [p for p in psutil.Process(process.pid).children(recursive=True) if p.name() == "java"]


def works(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize("pause", ["stop", "wait"])
def test_a_run_that_hangs_is_ended_and_the_next_one_makes_the_table(zone: Zone, pause: str) -> None:
    silences: Silences = {}
    with refreshing(zone, pause) as process, runs.open_instance(zone.root / "dagster") as on:
        jvms, began = jvms_of(process), time.monotonic()
        assert jvms
        while not (ended := end_hung_runs(on, silences)):
            assert time.monotonic() - began < 300, "it is never ended"
            time.sleep(1)
        process.wait(10)  # one that only waits ends by itself once it is asked to
        assert not any(map(works, jvms))
        (run,) = on.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        assert (ended, run.tags[ENDED_BY]) == ([run.run_id], "hung")
    assert not any(zone.lake.rows(table) for table in SILVER if zone.lake.exists(table)), "nothing is visible"
    assert not bring_up(zone).failed
    assert zone.lake.rows(SILVER[1]) + dead_letters.count(zone.lake, SILVER[1]) == 9
    known = known_from(incidents.read(zone.lake))
    assert {incident.kind for incident in known.incidents.values()} == {"hung"}


def test_a_run_whose_jvm_computes_is_left_alone(zone: Zone) -> None:
    assert COMPUTES > 3 * SILENCE
    silences: Silences = {}
    with refreshing(zone, "compute") as process, runs.open_instance(zone.root / "dagster") as on:
        while process.poll() is None:
            assert end_hung_runs(on, silences) == []
            time.sleep(1)
        assert process.returncode == 0
    assert zone.lake.rows(SILVER[1]) + dead_letters.count(zone.lake, SILVER[1]) == 9
