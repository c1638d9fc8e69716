"""A lake that an older version wrote goes on: tables, positions, dead letters, registered files."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import polars as pl
import pytest

from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit_record import FORMAT
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.lake_format import read_format, write_format
from medallion_platform_tests.command import medallion, run_here

OLD = Path(__file__).with_name("lake-of-0.1.tar.xz")
FORMAT_1 = Path(__file__).with_name("lake-of-format-1.tar.xz")
SILVER = "silver.hired_employees"
PLACE = ["source", "offset", "row"]
CODES_OF_1 = {"violates", "malformed", "undecoded", "too_long", "unreadable", "lost", "gap"}
CLICKS = "clickstream.events/clicks/0"
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
@pytest.mark.usefixtures("spark")
def test_a_lake_of_the_first_version_goes_on_under_todays_code(
    old_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(old_home / "lake")
    assert holdings(lake, BEFORE) == BEFORE
    old = dead_letters.read(lake, "bronze.events")
    first = {name: lake.version(name) for name in AFTER}

    told = {row["table"]: row for row in run_here(monkeypatch, old_home)}

    # It goes on behind what was taken in, and does not begin again.
    assert told["bronze.events"]["read"] == 438
    assert told["bronze.users"]["read"] == 778
    assert told["bronze.hired_employees"]["read"] == 0
    assert holdings(lake, AFTER) == AFTER
    assert all(lake.version(name) >= first[name] for name in AFTER)
    events = pl.scan_delta(lake.open("bronze.events")).collect()  # type: ignore[arg-type]
    assert events["event_id"].n_unique() == events.height
    kept = dead_letters.read(lake, "bronze.events").join(old, on=PLACE, how="semi")
    assert kept.height == old.height
    assert kept.sort(PLACE)["payload"].to_list() == old.sort(PLACE)["payload"].to_list()
    history = [record.verb for _, record in lake.records("bronze.events")]
    assert history[-1] == "intake", "what the old version did is on record still"

    again = medallion("dead-letters", "replay", "bronze.events", "--json", "--home", str(old_home))
    assert again.returncode == 0, again.stderr
    assert holdings(lake, {"bronze.events": (0, 0)}) == {"bronze.events": AFTER["bronze.events"]}


def letters_of(lake: Lake, table: str) -> pl.DataFrame:
    return dead_letters.read(lake, table).sort(PLACE)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("spark")
def test_a_lake_of_format_1_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All codes of dead letters, a replay, files in quarantine, an archived log, positions of a topic."""
    for archive in (OLD, FORMAT_1):
        with tarfile.open(archive) as packed:
            wanted = "landing" if archive == OLD else "lake"
            members = [m for m in packed if wanted in Path(m.name).parts]
            packed.extractall(tmp_path, filter="data", members=members)
    lake = Lake(tmp_path / "lake")
    assert read_format(str(lake.root)) == 1
    old = {name: letters_of(lake, name) for name in ("bronze.events", SILVER)}
    quarantined = sorted(p for p in (tmp_path / "lake/quarantine").rglob("*") if p.is_file())
    rows = {name: lake.rows(name) for name in AFTER}
    moved = {log: lake.positions("bronze.events")(log) for log in ("clickstream.events", CLICKS)}

    told = {row["table"]: row for row in run_here(monkeypatch, tmp_path)}

    assert read_format(str(lake.root)) == FORMAT
    # Nothing of the days that were there is taken in again.
    assert told["bronze.events"]["read"] == 584
    assert told["bronze.hired_employees"]["read"] == 609
    assert told["bronze.jobs"]["read"] == 0
    assert all(lake.rows(name) >= rows[name] for name in rows)
    events = pl.scan_delta(lake.open("bronze.events")).collect()  # type: ignore[arg-type]
    assert events["event_id"].n_unique() == events.height
    assert events.filter(pl.col("_source") == CLICKS).height == 1, "the replay of the old code"
    for log, position in moved.items():
        assert (lake.positions("bronze.events")(log) or 0) >= (position or 0) > 0
    before = old["bronze.events"]
    assert (
        letters_of(lake, "bronze.events").join(before, on=PLACE, how="semi").to_dicts() == before.to_dicts()
    )
    rejected = set(old[SILVER].select("partition", "payload").iter_rows())
    assert rejected <= set(letters_of(lake, SILVER).select("partition", "payload").iter_rows())
    assert set(before["code"]) == CODES_OF_1
    for path in filter(None, (json.loads(d or "{}").get("kept") for d in before["detail"])):
        assert tmp_path / "lake" / path in quarantined
    assert len(lake.records("bronze.jobs")) == 2_061, "with those that are archived"

    again = medallion("dead-letters", "replay", "bronze.events", "--json", "--home", str(tmp_path))
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)[0]["written"] == 0
    assert lake.rows("bronze.events") == events.height


def test_a_newer_lake_is_refused_by_every_command(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    write_format(str(lake), FORMAT + 1)
    before = sorted(lake.rglob("*"))
    for command in (
        ["run"],
        ["demo"],
        ["status"],
        ["history", "silver.events"],
        ["show", "silver.events"],
        ["dead-letters", "list"],
        ["dead-letters", "replay", "bronze.events"],
        ["rollback", "a-run"],
        ["dev"],
    ):
        done = medallion(*command, "--home", str(tmp_path))
        assert done.returncode == 3, (command, done.stderr)
        assert f"has format {FORMAT + 1}" in " ".join(done.stderr.split()), (command, done.stderr)
        assert "Traceback" not in done.stderr
    assert sorted(lake.rglob("*")) == before
    assert not (tmp_path / "landing").exists()
