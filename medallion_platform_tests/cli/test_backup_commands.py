"""Backups by the command line and by Dagster: of a whole installation, into an empty one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from medallion_platform.installation.settings import Settings
from medallion_platform.lakehouse.backup_place import BackupPlace
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.observability.worker import WorkerMetrics
from medallion_platform.orchestration import runs
from medallion_platform.orchestration.location import definitions_of
from medallion_platform.serving.feature_repository import registry_file
from medallion_platform_tests.command import medallion
from medallion_platform_tests.lakehouse.small_lake import ALL, SmallLake
from medallion_platform_tests.orchestration.test_retention import run

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a small lake, a run in Dagster's storage, and what stands for Feast's registry."""
    made = tmp_path_factory.mktemp("installation") / "mein häuschen"
    small = SmallLake(str(made / "lake"))
    for _ in range(3):
        small.round()
    with runs.open_instance(made / "dagster") as on:
        run(on, "2026-01-01")
    registry_file(made / "features").parent.mkdir()
    registry_file(made / "features").write_bytes(b"a registry")
    return made


@pytest.fixture(scope="module")
def place(home: Path) -> Iterator[str]:
    """A place with a backup of it."""
    there = str(home.parent / "backups")
    (made,) = json.loads(call("backup", "--to", there, "--home", str(home), "--json"))
    assert made["damaged_files"] == 0
    assert made["copied_bytes"] == made["bytes"] > 0
    yield there


def call(*arguments: str, code: int = 0) -> str:
    done = medallion(*arguments, where=Path("/"), seconds=250)
    assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def content(home: Path) -> dict[str, Any]:
    """Version, rows and dead letters of every table, sorted."""
    lake, found = Lake(home / "lake"), {}
    for folder in sorted((home / "lake").glob("[a-z]*/*")):
        name = folder.relative_to(home / "lake").as_posix().replace("/", ".", 1)
        if table := lake.open(name):
            rows = pl.scan_delta(table).collect()
            found[name] = (table.version(), rows.shape, sorted(rows.hash_rows(seed=1)), lake.records(name))
    assert len(found) >= len(ALL)
    return found


def assert_same(one: Path, other: Path) -> None:
    """The same rows, history, runs and features in two homes."""
    assert content(one) == content(other)
    with runs.open_instance(one / "dagster") as before, runs.open_instance(other / "dagster") as after:
        assert [r.run_id for r in after.get_runs()] == [r.run_id for r in before.get_runs()] != []
    registries = [registry_file(home / "features").read_bytes() for home in (one, other)]
    assert registries[0] == registries[1]


def test_an_installation_is_brought_back_whole(home: Path, place: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    restored = json.loads(call("restore", "--from", place, "--home", str(other), "--json"))
    assert_same(home, other)
    lake = Lake(home / "lake")
    assert {row["table"]: row["rows"] for row in restored} == {name: lake.rows(name) for name in ALL}
    said = call("restore", "--from", place, "--home", str(other), code=1)
    assert "Dagster's storage is not empty" in said
    shutil.rmtree(other / "dagster")
    assert "is not empty (it has" in call("restore", "--from", place, "--home", str(other), code=1)


def test_the_demo_goes_on_from_its_backup(undisturbed: tuple[Path, Any], tmp_path: Path) -> None:
    one, other, place = tmp_path / "one", tmp_path / "other", str(tmp_path / "backups")
    shutil.copytree(undisturbed[0], one)
    call("backup", "--to", place, "--home", str(one))
    shutil.move(one / "landing", tmp_path / "landing")
    call("restore", "--from", place, "--home", str(other))
    assert_same(one, other)
    shutil.move(tmp_path / "landing", other / "landing")
    told = [json.loads(call("status", "--json", "--home", str(home))) for home in (one, other)]
    assert told[0] == told[1]
    before = content(other)
    call("run", "--home", str(other))
    assert content(other) == before, "there was nothing to do"


def test_the_next_one_copies_nothing(home: Path, place: str) -> None:
    (made,) = json.loads(call("backup", "--to", place, "--home", str(home), "--json"))
    assert made["copied_files"] == 0
    listed = json.loads(call("backup", "--list", "--to", place, "--json"))
    assert [row["lacks"] for row in listed] == ["", ""]
    assert listed[0]["time"] > listed[1]["time"]
    assert 0 <= listed[0]["age_hours"] < 1


def test_a_damaged_file_is_told_with_the_command_that_puts_it_back(
    home: Path, place: str, tmp_path: Path
) -> None:
    other = tmp_path / "home"
    shutil.copytree(home, other)
    lake = Lake(other / "lake")
    table = lake.open("bronze.orders")
    assert table is not None
    file = Path(lake.path("bronze.orders"), files_of(table)[0]["path"])
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    mine = str(tmp_path / "mine")
    shutil.copytree(place, mine)
    said = call("backup", "--to", mine, "--home", str(other), code=1)
    assert f"{file} is damaged" in said
    assert "`medallion restore --table bronze.orders` puts it in its place" in said
    arguments = ("restore", "--from", mine, "--table", "bronze.orders", "--home", str(other), "--json")
    (back,) = json.loads(call(*arguments))
    assert (back["how"], back["files"]) == ("damaged files were put back", 1)
    assert file.read_bytes() == whole
    assert content(other) == content(home)


def test_what_is_wrong_is_told_in_a_sentence(home: Path, place: str, tmp_path: Path) -> None:
    at = ("--home", str(home))
    assert "--to or MEDALLION_BACKUP names it" in call("backup", *at, code=2)
    assert "neither a folder nor s3://" in call("backup", "--to", "ftp://x/y", *at, code=2)
    assert "there is no such folder" in call("restore", "--from", str(tmp_path / "no"), *at, code=2)
    assert not (tmp_path / "no").exists()
    inside = call("backup", "--to", str(home / "lake" / "backups"), *at, code=1)
    assert "shares a folder with the lake" in inside
    early = ("restore", "--from", place, "--at", "2020-01-01", "--home", str(tmp_path / "other"))
    assert "the oldest one is of" in call(*early, code=1)
    unknown = call("restore", "--from", place, "--table", "gold.nothing", *at, code=1)
    assert "has no such table" in unknown
    nowhere = call("backup", "--to", place, "--home", str(tmp_path / "nowhere"), code=2)
    assert "there is no lake" in nowhere


def test_dagster_makes_one_every_six_hours_where_a_place_is_named(home: Path, tmp_path: Path) -> None:
    assert "backup_schedule" not in schedules(Settings(home=home))
    place = tmp_path / "by dagster"
    settings = Settings(home=home, backup=place)
    schedule = schedules(settings)["backup_schedule"]
    assert schedule.cron_schedule == "0 */6 * * *"
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    defs = definitions_of(settings)
    with runs.open_instance(tmp_path / "dagster") as on:
        result = defs.resolve_job_def("back_up").execute_in_process(instance=on)
        event = on.get_latest_materialization_event(dg.AssetKey("backup"))
    assert result.success
    assert event is not None and event.asset_materialization is not None
    told = event.asset_materialization.metadata
    (name,) = BackupPlace(str(place)).names()
    assert told["rows"].value == BackupPlace(str(place)).read(name).rows
    assert datetime.fromisoformat(str(told["time"].value)) == name.at


def schedules(settings: Settings) -> dict[str, Any]:
    return {s.name: s for s in definitions_of(settings).get_repository_def().schedule_defs}


def test_the_age_of_the_newest_one_is_a_metric(place: str, tmp_path: Path) -> None:
    metrics = WorkerMetrics("clicks")
    metrics.tell_newest_backup(BackupPlace(place).newest_time)
    name = "medallion_backup_timestamp_seconds"
    assert metrics.registry.get_sample_value(name) == BackupPlace(place).names()[0].at.timestamp()
    other = WorkerMetrics("clicks")
    other.tell_newest_backup(BackupPlace(str(tmp_path / "none")).newest_time)
    assert other.registry.get_sample_value(name) == 0
