"""Damaged data files that heal by themselves: afterwards all is as in a lake that nothing happened to."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.backup import back_up
from medallion_platform.lakehouse.backup_place import BackupPlace
from medallion_platform.lakehouse.damaged_files import DamagedFile, verify_table
from medallion_platform.lakehouse.guard import Guard, NotAllowed
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.pipeline.repair import Repaired, repair, repair_what_is_met
from medallion_platform.pipeline.table import Table
from medallion_platform.storage import store
from medallion_platform_tests.faults.shop_driver import MENDING, STEPS, Killed, Shop, small_shop
from medallion_platform_tests.faults.test_files import spoil
from medallion_platform_tests.faults.victim import Aim
from medallion_platform_tests.pipeline.shop import (
    SHOP,
    assert_same,
    bring,
    bring_all,
    change,
    days,
    event,
    events,
    rebuilt,
    take_all,
    weeks,
)
from medallion_platform_tests.pipeline.toy import NOW, RUN, Zone

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
DAMAGE = ("gone", "cut", "a bit flipped", "a name")
LETTERS = dead_letters.name("silver.events")
DAY = "2026-01-06"


@pytest.fixture(scope="module")
def opened(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop of three days with rejected rows on each, brought up to date; not to be written to."""
    zone = Zone(tmp_path_factory.mktemp("shop"))
    zone.json("users/0.json", [change("u", 0, 0, "gold"), change("v", 0, 1, "wrong")])
    rows = [event(f"{i}", i % 3, i, user_id="u", amount=i % 110) for i in range(330)]
    zone.json("events/0.json", rows)
    take_all(zone)
    bring_all(zone.lake, spark)
    return zone.root


@pytest.fixture(scope="module")
def undisturbed(opened: Path, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """All tables made from scratch."""
    return rebuilt(Lake(opened / "lake"), spark, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def lake(opened: Path, tmp_path: Path) -> Lake:
    shutil.copytree(opened / "lake", tmp_path / "lake")
    return Lake(tmp_path / "lake")


def file_of(lake: Lake, table: str, day: str = DAY) -> str:
    """The path of the largest data file of a day, or of a table without days."""
    found = lake.open(table)
    assert found
    files = sorted(files_of(found), key=lambda f: f["size_bytes"])
    return next((f["path"] for f in files if day in f["path"]), files[-1]["path"])


def harm(lake: Lake, table: str, damage: str, day: str = DAY) -> str:
    column = {"gold.days": "events", LETTERS: "partition", "silver.history": "segment"}.get(table, "amount")
    path = file_of(lake, table, day)
    spoil(lake.path(table), path, damage, column)
    return path


def paths(lake: Lake, table: str) -> set[str]:
    found = lake.open(table)
    assert found
    return {f["path"] for f in files_of(found)}


def versions(lake: Lake) -> dict[str, int]:
    return {t: lake.version(t) for t in (*SHOP.names, *map(dead_letters.name, SHOP.names)) if lake.exists(t)}


def mend(
    reader: Table, lake: Lake, spark: SparkSession, place: BackupPlace | None = None, **options: Any
) -> list[Repaired]:
    """Make a table again, which meets what is damaged; returns what was repaired."""
    done: list[Repaired] = []
    kept = options.pop("kept", ())

    def mended(damage: DamagedFile) -> None:
        done.append(repair(damage, SHOP, lake, lambda: spark, RUN, place, kept))

    repair_what_is_met(partial(bring, reader, lake, spark, rebuild=True, **options), mended)
    return done


CASES: dict[str, tuple[Table, dict[str, Any], str]] = {
    "silver.events": (days, {}, DAY),
    "gold.days": (weeks, {}, DAY),
    "silver.history": (events, {}, ""),
    LETTERS: (events, {"partitions": [DAY]}, ""),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("table", CASES)
def test_what_has_inputs_is_made_again_and_nothing_else_is_touched(
    lake: Lake, undisturbed: Lake, spark: SparkSession, table: str, damage: str
) -> None:
    reader, options, day = CASES[table]
    file, before, others = harm(lake, table, damage), versions(lake), paths(lake, table)
    if table == LETTERS and damage == "a bit flipped":  # met by who reads the letters, not only their days
        with pytest.raises(DamagedFile) as met:
            verify_table(lake, LETTERS)
        done = [repair(met.value, SHOP, lake, lambda: spark, RUN)]
    else:
        done = mend(reader, lake, spark, **options)
    (one,) = done
    assert (one.table, file.endswith(one.file)) == (table, True)
    assert one.partitions == {"silver.events": (DAY,), "gold.days": (DAY,)}.get(table, one.partitions)
    assert one.made and one.made.record and one.made.record.counts.missing == 0
    assert file not in paths(lake, table)
    if day:
        assert {p for p in others if day not in p} <= paths(lake, table)
    of = table.removeprefix("dead_letters.")
    touched = {of, dead_letters.name(of), reader.name, dead_letters.name(reader.name)}
    assert {t for t, version in versions(lake).items() if version != before[t]} <= touched
    bring_all(lake, spark)
    assert_same(lake, undisturbed)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("table", ["bronze.events", "silver.events", "gold.days", LETTERS])
def test_a_whole_copy_of_the_backup_comes_first_and_is_no_commit(
    lake: Lake, undisturbed: Lake, spark: SparkSession, tmp_path: Path, table: str, damage: str
) -> None:
    place = BackupPlace(str(tmp_path / "backups"))
    back_up(lake, place, NOW)
    verify_table(lake, table)
    file, before = harm(lake, table, damage), versions(lake)
    with pytest.raises(DamagedFile) as met:
        verify_table(lake, table)
    done = repair(met.value, SHOP, lake, lambda: spark, RUN, place)
    assert (done.made, done.files, done.partitions) == (None, 1, ())
    assert done.bytes == Path(lake.path(table), file).stat().st_size
    assert versions(lake) == before
    verify_table(lake, table)
    assert repair(met.value, SHOP, lake, lambda: spark, RUN, place).files == 0, "done again it does nothing"
    bring(weeks, lake, spark, rebuild=True)
    assert_same(lake, undisturbed)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_copy_that_is_damaged_itself_is_not_put_back(
    lake: Lake, undisturbed: Lake, spark: SparkSession, tmp_path: Path, damage: str
) -> None:
    place = BackupPlace(str(tmp_path / "backups"))
    back_up(lake, place, NOW)
    file = harm(lake, "silver.events", "gone")
    (copy,) = (
        f["path"] for f in store(place.root).list("files/silver.events/").collect() if file in f["path"]
    )
    spoil(place.root, copy, damage)
    (done,) = mend(days, lake, spark, place)
    assert done.partitions == (DAY,)
    bring_all(lake, spark)
    assert_same(lake, undisturbed)


@pytest.mark.parametrize("backups", [False, True], ids=["no backups", "a backup without it"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_bronze_without_a_copy_is_left_to_a_person_and_as_it_was(
    lake: Lake, spark: SparkSession, tmp_path: Path, damage: str, backups: bool
) -> None:
    place = BackupPlace(str(tmp_path / "backups")) if backups else None
    file, before = harm(lake, "bronze.events", damage), versions(lake)
    with pytest.raises(DamagedFile) as told:
        mend(events, lake, spark, place)
    said = str(told.value)
    assert said.startswith(f"bronze.events: its data file {lake.path('bronze.events')}/{file} is ")
    assert ("has a good copy" in said) == backups
    assert "put a copy of your own in its place" in said
    assert "\n" not in said
    assert versions(lake) == before


def test_damage_behind_damage_is_repaired_first(
    lake: Lake, undisturbed: Lake, spark: SparkSession, tmp_path: Path
) -> None:
    """The day of silver can only be made again once its bronze is whole, and gold once silver is."""
    place = BackupPlace(str(tmp_path / "backups"))
    back_up(lake, place, NOW)
    shutil.rmtree(tmp_path / "backups" / "files" / "silver.events")
    for table, damage in (("bronze.events", "cut"), ("silver.events", "gone"), ("gold.days", "a name")):
        harm(lake, table, damage)
    shutil.rmtree(tmp_path / "backups" / "files" / "gold.days")
    done = mend(weeks, lake, spark, place)
    assert [(one.table, bool(one.made)) for one in done] == [
        ("bronze.events", False),
        ("silver.events", True),
        ("gold.days", True),
    ]
    bring_all(lake, spark)
    assert_same(lake, undisturbed)


def test_every_damaged_file_of_a_table_is_repaired(
    lake: Lake, undisturbed: Lake, spark: SparkSession
) -> None:
    for n, day in enumerate(("2026-01-05", "2026-01-06", "2026-01-07")):
        harm(lake, "silver.events", DAMAGE[n], day)
    done = mend(days, lake, spark)
    assert sorted(one.partitions for one in done) == [("2026-01-05",), ("2026-01-06",), ("2026-01-07",)]
    bring_all(lake, spark)
    assert_same(lake, undisturbed)


@pytest.mark.parametrize("why", ["paused", "rolled back"])
def test_a_table_that_a_person_keeps_as_it_is_is_not_made_again(
    lake: Lake, spark: SparkSession, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm(lake, "silver.events", "gone")
    before = versions(lake)
    if why == "rolled back":
        record = lake.last_record

        def taken_back(_: Lake, name: str, verbs: tuple[str, ...] = ()) -> Any:
            found = record(name, verbs)
            return replace(found, taken_back="state") if found and name == "silver.events" else found

        monkeypatch.setattr(Lake, "last_record", taken_back)
    with pytest.raises(DamagedFile, match=why):
        mend(days, lake, spark, kept=["silver.events"] if why == "paused" else [])
    assert versions(lake) == before


class Refusing(Guard):
    """A run that was ended."""

    def check(self) -> Any:
        raise NotAllowed("the run was ended")


@pytest.mark.parametrize("with_backup", [True, False])
def test_a_run_that_was_ended_repairs_nothing(
    lake: Lake, spark: SparkSession, tmp_path: Path, with_backup: bool
) -> None:
    place = BackupPlace(str(tmp_path / "backups")) if with_backup else None
    if place:
        back_up(lake, place, NOW)
    file = harm(lake, "silver.events", "gone")
    with pytest.raises(DamagedFile) as met:
        verify_table(lake, "silver.events")
    before = versions(lake)
    with pytest.raises(NotAllowed):
        repair(met.value, SHOP, lake, lambda: spark, replace(RUN, guard=Refusing()), place)
    assert versions(lake) == before
    assert not Path(lake.path("silver.events"), file).exists()


STEPS_OF_ALL = [Aim(step, 1, after) for step in STEPS for after in (False, True)]
STEPS_OF_COPY = [Aim(step, 1, after) for step in MENDING for after in (False, True)]


@pytest.mark.parametrize("backups", [False, True], ids=["made again", "put back"])
def test_killed_at_each_step_the_next_try_ends_it(
    tmp_path: Path, spark: SparkSession, long: bool, backups: bool
) -> None:
    zone, shop, chance = Zone(tmp_path), small_shop(), random.Random(7)
    zone.json("users/0.json", [change("u", 0, 0, "gold")])
    zone.json("events/0.json", [event(f"{i}", i % 3, i, user_id="u", amount=i) for i in range(150)])
    take_all(zone)
    lake, table = zone.lake, events.name
    bring_all(lake, spark, shop)
    place = BackupPlace(str(tmp_path / "backups")) if backups else None
    if place:
        back_up(lake, place, NOW)
    steps = STEPS_OF_ALL if long else chance.sample(STEPS_OF_ALL, 3)
    for n, aim in enumerate(STEPS_OF_COPY if backups else steps):
        harm(lake, table, DAMAGE[n % len(DAMAGE)])
        with Shop(tmp_path, aim=aim) as victim, pytest.raises(Killed):
            victim("repair")
        repair_what_is_met(
            lambda: verify_table(lake, table),
            lambda damage: repair(damage, shop, lake, lambda: spark, RUN, place),
        )
        bring_all(lake, spark, shop)
        assert_same(lake, rebuilt(lake, spark, tmp_path / f"rebuilt {n}", shop), shop.tables)
        assert not [r for _, r in lake.records(table) if r.counts.missing]
