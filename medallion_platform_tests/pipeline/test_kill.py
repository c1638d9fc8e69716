"""SIGKILL at any instant, and two processes at once: every record is there once."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from medallion_platform.sources.connectors.files import record_offset

from .toy import CSV, Row, Zone, bad, check, good, letters, table_rows

DRIVER = Path(__file__).with_name("driver.py")


def dirty(zone: Zone, files: int, seed: int) -> None:
    """Files with good, bad and repeated rows."""
    chance = random.Random(seed)
    for n in range(files):
        rows: list[Row] = []
        for i in range(chance.randint(0, 4)):
            key = f"k{chance.randint(0, 60)}"
            rows.append(
                bad(f"{n}-{i},never,5,") if chance.random() < 0.3 else good(key, chance.randint(0, 30))
            )
        zone.csv(f"events/{n:03}.csv", rows)


def drive(root: Path, turns: int, seed: int, mode: str) -> list[str]:
    ended = subprocess.run(
        [sys.executable, str(DRIVER), str(root), str(turns), str(seed), mode],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "failed" not in ended.stdout, ended.stderr
    return ended.stdout.split()


@pytest.mark.parametrize("seed", [int(os.environ.get("MEDALLION_TEST_SEED", "1"))])
def test_killed_at_any_instant_nothing_is_lost_or_doubled(tmp_path: Path, seed: int) -> None:
    zone = Zone(tmp_path)
    dirty(zone, 60, seed)
    ends = drive(tmp_path, 20, seed, "kill")
    assert ends.count("killed") >= 5, ends
    zone.take()
    check(zone)
    assert zone.take().counts.read == 0


def test_processes_that_race_are_right_or_fenced(tmp_path: Path) -> None:
    zone = Zone(tmp_path)
    dirty(zone, 20, 2)
    ends = drive(tmp_path, 3, 2, "race")
    assert set(ends) <= {"done", "fenced"}
    zone.take()
    check(zone)


def test_killed_with_files_that_cannot_be_read(tmp_path: Path) -> None:
    zone = Zone(tmp_path)
    for n in range(12):
        zone.put(f"events/torn{n}.csv.gz", gzip.compress(os.urandom(500))[:-20])
        zone.csv(f"events/whole{n}.csv", [good(f"k{n}")])
    drive(tmp_path, 8, 3, "kill")
    zone.take(CSV)
    rows, dead = table_rows(zone.lake), letters(zone.lake)
    assert rows["event_id"].sort().to_list() == sorted(f"k{n}" for n in range(12))
    assert dead["offset"].to_list() == [record_offset(s, 0) for s in range(1, 24, 2)]
    assert len(list((zone.lake.root / "quarantine").rglob("*.gz"))) == 12
