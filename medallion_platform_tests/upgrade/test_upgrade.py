"""A lake that an older version wrote goes on: tables, positions, dead letters, registered files."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import polars as pl
import pytest

from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.command import MEDALLION

OLD = Path(__file__).with_name("lake-of-0.1.tar.xz")
BEFORE = {"bronze.events": (551, 12), "bronze.users": (797, 0), "bronze.hired_employees": (1170, 8)}
"""(rows, dead letters) as version 0.1 left them."""
AFTER = {
    "bronze.departments": (8, 0),
    "bronze.events": (979, 22),
    "bronze.hired_employees": (1170, 8),
    "bronze.jobs": (12, 0),
    "bronze.regions": (11, 0),
    "bronze.users": (1575, 0),
    "silver.departments": (8, 0),
    "silver.events": (979, 0),
    "silver.hired_employees": (595, 5),
    "silver.jobs": (12, 0),
    "silver.regions": (4, 0),
    "silver.regions_history": (9, 0),
    "silver.users": (590, 0),
    "silver.users_history": (795, 0),
    "gold.users_history": (795, 0),
    "gold.employee_analytics": (595, 0),
}
"""What version 0.1 itself made of the whole landing zone from here on."""


def holdings(lake: Lake, tables: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {name: (lake.rows(name), dead_letters.count(lake, name)) for name in tables}


@pytest.fixture
def old_home(tmp_path: Path) -> Path:
    """A home with the old lake, and its landing zone."""
    with tarfile.open(OLD) as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.mark.timeout(600)
def test_a_lake_of_the_first_version_goes_on_under_todays_code(old_home: Path) -> None:
    lake = Lake(old_home / "lake")
    assert holdings(lake, BEFORE) == BEFORE
    old = dead_letters.read(lake, "bronze.events")
    first = {name: lake.version(name) for name in AFTER}

    command = [*MEDALLION, "run", "--json", "--home", str(old_home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)

    assert done.returncode == 0, done.stderr
    told = {row["table"]: row for row in json.loads(done.stdout.splitlines()[-1])}
    # It goes on behind what was taken in, and does not begin again.
    assert told["bronze.events"]["read"] == 438
    assert told["bronze.users"]["read"] == 778
    assert told["bronze.hired_employees"]["read"] == 0
    assert holdings(lake, AFTER) == AFTER
    assert all(lake.version(name) >= first[name] for name in AFTER)
    events = pl.scan_delta(lake.open("bronze.events")).collect()  # type: ignore[arg-type]
    assert events["event_id"].n_unique() == events.height
    places = ["source", "offset", "row"]
    kept = dead_letters.read(lake, "bronze.events").join(old, on=places, how="semi")
    assert kept.height == old.height
    assert kept.sort(places)["payload"].to_list() == old.sort(places)["payload"].to_list()
    history = [record.verb for _, record in lake.records("bronze.events")]
    assert history[-1] == "intake", "what the old version did is on record still"

    replay = [*MEDALLION, "dead-letters", "replay", "bronze.events", "--json", "--home", str(old_home)]
    again = subprocess.run(replay, capture_output=True, text=True, timeout=100)
    assert again.returncode == 0, again.stderr
    assert holdings(lake, {"bronze.events": (0, 0)}) == {"bronze.events": AFTER["bronze.events"]}
