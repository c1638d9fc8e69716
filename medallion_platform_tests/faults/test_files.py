"""Data files that vanish, or in which a bit turns over: one error that names table and file, no damage."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medallion_platform.lakehouse import file_ends, maintenance
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.damaged_files import DamagedFile, verify_table
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.storage import store
from medallion_platform_tests.pipeline.shop import (
    EVENTS,
    USERS,
    assert_same,
    bring,
    bring_all,
    change,
    days,
    event,
    events,
    history,
    rebuilt,
    take_all,
)
from medallion_platform_tests.pipeline.toy import Zone, check, good
from medallion_platform_tests.s3.conftest import bucket
from medallion_platform_tests.s3.zone import BucketZone

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["bucket"]

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
SHOP = Catalog((EVENTS, USERS), (history, events, days))


@pytest.fixture(scope="module")
def opened(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop of some days, brought up to date and clustered; not to be written to."""
    zone = Zone(tmp_path_factory.mktemp("shop"))
    for n in range(2):
        zone.json(f"users/{n}.json", [change("u", n, 0, "gold")])
        rows = [event(f"{n}-{i}", i % 3, i, user_id="u", amount=i % 90) for i in range(300)]
        zone.json(f"events/{n}.json", rows)
        take_all(zone)
    bring_all(zone.lake, spark, SHOP)
    for table in ("bronze.events", "bronze.users"):
        maintenance.optimize(zone.lake, table)
    return zone.root


@pytest.fixture
def zone(opened: Path, tmp_path: Path) -> Iterator[Zone]:
    """A copy of it, to which an event came since."""
    shutil.copytree(opened, tmp_path / "shop")
    copy = Zone(tmp_path / "shop")
    copy.json("events/late.json", [event("late", 0, user_id="u", amount=1)])
    copy.take(EVENTS)
    return copy


def data_files(lake: Lake, table: str) -> list[Path]:
    """The data files of the newest version."""
    found = lake.open(table)
    assert found
    return [Path(lake.path(table)) / f["path"] for f in files_of(found)]


def flipped(content: bytes, at: int, bit: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


def within(content: bytes, column: str) -> int:
    """A byte of the values of a column: its last one. The checksum is not of a page's header."""
    group = pq.read_metadata(pa.BufferReader(content)).row_group(0)
    (chunk,) = (c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column)
    return (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 1


def named_at(content: bytes, column: str) -> int:
    """Where the name of a column stands in the schema of the footer, which no page's checksum guards."""
    return content.index(column.encode(), len(content) - 8 - int.from_bytes(content[-8:-4], "little"))


@contextmanager
def damaged(lake: Lake, table: str, damage: str, column: str = "amount") -> Iterator[str]:
    """Where a table's data file is that is gone, cut, or has a bit turned over in the `with` block."""
    root, path = lake.path(table), a_file(lake, table, new="new file" in damage)
    whole = spoil(root, path, damage, column)
    yield f"{root}/{path}"
    store(root).put(path, whole)


def a_file(lake: Lake, table: str, *, new: bool) -> str:
    """The path of a data file: the largest one that was clustered, where there is any, or just appended."""
    found = lake.open(table)
    assert found
    return max(files_of(found), key=lambda f: (("clustered" in f["path"]) != new, f["size_bytes"]))["path"]


def spoil(root: str, path: str, damage: str, column: str = "amount") -> bytes:
    """Delete a data file, cut it, or turn a bit over in it; returns what it was."""
    whole = store(root).get(path).bytes().to_bytes()
    if damage == "gone":
        store(root).delete(path)
    elif damage == "cut":
        store(root).put(path, whole[: len(whole) // 2])
    elif "a name" in damage:
        store(root).put(path, flipped(whole, named_at(whole, column), 0))
    else:
        store(root).put(path, flipped(whole, within(whole, column), 4))
    return whole


def log(lake: Lake, table: str) -> list[str]:
    return sorted(p.name for p in Path(lake.path(table), "_delta_log").iterdir())


@pytest.mark.parametrize(
    "damage",
    ["gone", "cut", "a bit flipped", "a bit flipped in a new file", "a name", "a name in a new file"],
)
@pytest.mark.parametrize("table", ["bronze.events", "silver.events"])
@pytest.mark.failure("corrupt")
def test_a_damaged_file_stops_with_its_name_and_no_damage(
    zone: Zone, spark: SparkSession, tmp_path: Path, table: str, damage: str
) -> None:
    """What is made from it is not made; put back, or recomputed, all is as if nothing had been."""
    lake = zone.lake
    reader = {"bronze.events": events, "silver.events": days}[table]
    if reader is days:
        bring(events, lake, spark, SHOP)
    with damaged(lake, table, damage) as file:
        before = log(lake, reader.name)
        with pytest.raises(DamagedFile) as caught:
            bring(reader, lake, spark, SHOP, rebuild=True)
        said = str(caught.value)
        assert said.startswith(f"{table}: its data file {file} is ")
        assert "Nothing was written" in said
        assert "\n" not in said
        assert log(lake, reader.name) == before
        if table == "bronze.events":
            assert "backup" in said
        else:
            assert "rebuild: true" in said
            bring(events, lake, spark, SHOP, rebuild=True)
    bring_all(lake, spark, SHOP)
    assert_same(lake, rebuilt(lake, spark, tmp_path / "rebuilt", SHOP), SHOP.tables)


@pytest.mark.parametrize("damage", ["gone", "cut", "a name"])
def test_a_damaged_file_that_was_replaced_since_stops_nobody(
    zone: Zone, spark: SparkSession, tmp_path: Path, damage: str
) -> None:
    """Where its rows are needed as the new ones they once were, all rows of the newest version are read."""
    lake, former = zone.lake, a_file(zone.lake, "bronze.events", new=True)
    maintenance.optimize(lake, "bronze.events")
    root = lake.path("bronze.events")
    assert Path(root, former) not in data_files(lake, "bronze.events")
    spoil(root, former, damage)
    bring_all(lake, spark, SHOP)
    assert_same(lake, rebuilt(lake, spark, tmp_path / "rebuilt", SHOP), SHOP.tables)


@pytest.mark.parametrize("damage", ["gone", "cut", "a name"])
@pytest.mark.parametrize("where", ["folder", "bucket"])
@pytest.mark.failure("corrupt")
def test_an_intake_that_looks_duplicates_up_in_a_damaged_file_stops_with_its_name(
    request: pytest.FixtureRequest, tmp_path: Path, where: str, damage: str
) -> None:
    toy: Any = BucketZone(request.getfixturevalue("bucket")) if where == "bucket" else Zone(tmp_path)
    toy.csv("events/1.csv", [good("a"), good("b", 1)])
    toy.take()
    toy.csv("events/2.csv", [good("a", 2), good("c", 3)])
    before = toy.lake.version("bronze.events")
    with damaged(toy.lake, "bronze.events", damage, "event_id") as file:
        with pytest.raises(DamagedFile) as caught:
            toy.take()
        assert str(caught.value).startswith(f"bronze.events: its data file {file} is ")
        assert toy.lake.version("bronze.events") == before
    assert toy.take().counts.duplicate == 1
    check(toy)


def test_no_bit_that_turned_over_becomes_a_row(zone: Zone, spark: SparkSession, long: bool) -> None:
    """Wherever it is, in a page or behind the last one; in files of Spark, and in clustered ones."""
    from medallion_platform.lakehouse.spark_tables import read

    lake, chance = zone.lake, random.Random(3)
    bring_all(lake, spark, SHOP)
    maintenance.optimize(lake, "bronze.events")
    for table in ("bronze.events", "silver.events"):
        (file, *_) = data_files(lake, table)
        whole, partition = file.read_bytes(), file.parent.name.partition("=")[2]
        end = file_ends.end_of_pages(pq.read_metadata(file))

        def rows(table: str = table, partition: str = partition) -> list[str]:
            day = ("event_date", [partition])
            return sorted(map(str, read(spark, lake, table, lake.version(table), day).collect()))

        good = rows()
        assert len(good) > 1
        for n in range(100 if long else 20):
            at = chance.randrange(end if n % 2 else 0, len(whole))
            file.write_bytes(flipped(whole, at, chance.randrange(8)))
            try:
                found = rows()
            except DamagedFile:
                found = None
            except Exception:
                assert at < end  # what is behind the pages is told by name before Spark begins
                found = None
            assert found in (None, good)
            file.write_bytes(whole)


@pytest.mark.failure("corrupt", work="maintenance")
def test_clustering_gives_no_new_checksum_to_what_is_damaged(zone: Zone) -> None:
    lake = zone.lake
    file = next(f for f in data_files(lake, "bronze.events") if "01-05/clustered" in str(f))
    verify_table(lake, "bronze.events")
    whole = file.read_bytes()
    file.write_bytes(flipped(whole, within(whole, "_payload"), 1))
    before = log(lake, "bronze.events")
    with pytest.raises(DamagedFile, match=file.name):
        maintenance.optimize(lake, "bronze.events", ("event_id",))
    assert log(lake, "bronze.events") == before


def test_a_merge_by_key_and_an_optimize_beside_each_other(
    zone: Zone, spark: SparkSession, tmp_path: Path
) -> None:
    """By clustering and by Spark's own OPTIMIZE: who comes second meets a commit conflict, and does it
    again.
    """
    lake, path = zone.lake, zone.lake.path(history.name)
    stop, done = Event(), {"clustered": 0, "optimized": 0}

    def optimize() -> None:
        while not stop.is_set():
            with suppress(CommitConflict):
                maintenance.optimize(lake, history.name, (), target_bytes=2**40)
                done["clustered"] += 1
            with suppress(Exception):  # a merge came first: Spark says so in many ways
                spark.sql(f"OPTIMIZE delta.`{path}`")
                done["optimized"] += 1

    thread = Thread(target=optimize)
    thread.start()
    merged = 0
    try:
        while merged < 4:
            zone.json(f"users/more{merged}.json", [change(f"u{merged % 3}", 10 + merged, merged % 3, "gold")])
            zone.take(USERS)
            while True:
                try:
                    bring(history, lake, spark, SHOP)
                    break
                except CommitConflict:
                    continue
            merged += 1
    finally:
        stop.set()
        thread.join()
    assert min(done.values()) > 0, done
    bring_all(lake, spark, SHOP)
    assert_same(lake, rebuilt(lake, spark, tmp_path / "rebuilt", SHOP), SHOP.tables)
    for _, record in lake.records(history.name):
        assert record.counts.missing == 0
