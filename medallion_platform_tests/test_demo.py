"""`medallion demo` as a user runs it: undisturbed, again, and killed with SIGKILL in the middle."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import polars as pl
import pytest

from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration import runs
from medallion_platform_tests.command import MEDALLION, demo

PROVENANCE = {"_ingested_at", "at", "run_id"}


def killed_demo(home: Path, until: Path, seconds: float) -> None:
    """Start the demo and kill its whole process group `seconds` after `until` exists."""
    process = subprocess.Popen(
        [*MEDALLION, "demo", "--json", "--home", str(home)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while not until.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL


def content(lake: Lake) -> dict[str, list[tuple[object, ...]]]:
    """Every table and its dead letters, without what a run writes of itself."""
    found = {}
    for table in lake.tables():
        for name, frame in (
            (table, pl.read_delta(lake.open(table))),
            (dead_letters.name(table), dead_letters.read(lake, table)),
        ):
            columns = sorted(c for c in frame.columns if c not in PROVENANCE)
            found[name] = sorted(map(repr, frame.select(columns).iter_rows()))
    return found


@pytest.mark.timeout(400)
def test_every_row_is_accounted_for(undisturbed: tuple[Path, list[dict[str, int]]]) -> None:
    _, rows = undisturbed
    for row in rows:
        parts = ("written", "dead_lettered", "duplicate", "superseded")
        assert row["read"] == sum(row[p] for p in parts), row
        assert row["written"] > 0, row
    events = next(r for r in rows if r["table"] == "bronze.events")
    assert events["dead_lettered"] > 0
    assert events["duplicate"] > 0


@pytest.mark.timeout(400)
def test_killed_at_any_moment_and_run_again_gives_the_same_tables(
    undisturbed: tuple[Path, list[dict[str, int]]], tmp_path: Path
) -> None:
    home, _ = undisturbed
    lake = tmp_path / "lake"
    chance = random.Random(os.environ.get("MEDALLION_TEST_SEED"))
    killed_demo(tmp_path, lake / "files", chance.uniform(0, 0.5))
    killed_demo(tmp_path, lake / "silver", chance.uniform(0, 12))
    with runs.open_instance(tmp_path / "dagster") as on:
        # Nobody holds a table's pool any more, and no run looks as if it were still going.
        assert not [r for r in on.get_runs() if not r.is_finished]
    demo(tmp_path)
    again, expected = content(Lake(lake)), content(Lake(home / "lake"))
    assert again.keys() == expected.keys()
    for name, rows in expected.items():
        assert again[name] == rows, name
