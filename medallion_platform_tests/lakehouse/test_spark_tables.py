"""Reading by the log's list of files gives what Delta's own reader gives."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import DataFrame, SparkSession

from medallion_platform.lakehouse import spark_tables
from medallion_platform.lakehouse.damaged_files import DamagedFile
from medallion_platform.lakehouse.delta_log import FilesGone
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.lakehouse.maintenance import optimize

NAME = "silver.things"
TEXTS = ["plain", "with space", "a=b", "per%cent", "ü/slash", "colon:12", "q'uote", "", "{glob*}?[x]"]


def rows(frame: DataFrame) -> list[str]:
    return sorted(map(str, frame.collect()))


def by_delta(spark: SparkSession, lake: Lake, version: int) -> DataFrame:
    return spark.read.format("delta").option("versionAsOf", version).load(lake.path(NAME))


def write(lake: Lake, frame: pl.DataFrame, column: str) -> None:
    lake.ensure(NAME, frame.to_arrow().schema, [column])
    write_deltalake(lake.path(NAME), frame, mode="append", schema_mode="merge")


@pytest.mark.parametrize("text", TEXTS)
def test_partition_values_of_any_text(lake: Lake, spark: SparkSession, text: str) -> None:
    write(lake, pl.DataFrame({"n": [1, 2, 3], "p": [text, "other", None]}), "p")
    version = lake.version(NAME)
    assert rows(spark_tables.read(spark, lake, NAME, version)) == rows(by_delta(spark, lake, version))
    assert spark_tables.appended(spark, lake, NAME, 0, version).count() == 3


def test_every_version_with_columns_that_came_later(lake: Lake, spark: SparkSession) -> None:
    day = [date(2026, 1, 5), date(2026, 1, 6)]
    write(lake, pl.DataFrame({"n": [1, 2], "d": day}), "d")
    write(lake, pl.DataFrame({"n": [3, 4], "d": day, "later column": ["x", None]}), "d")
    DeltaTable(lake.path(NAME)).delete("n = 1")
    for version in range(lake.version(NAME) + 1):
        mine, theirs = spark_tables.read(spark, lake, NAME, version), by_delta(spark, lake, version)
        assert mine.schema.simpleString() == theirs.schema.simpleString()
        assert rows(mine) == rows(theirs)


def test_what_was_appended_is_found_after_upkeep(lake: Lake, spark: SparkSession) -> None:
    day = date(2026, 1, 5)
    for n in range(4):
        write(lake, pl.DataFrame({"n": [n], "d": [day]}), "d")
    before = lake.version(NAME)
    optimize(lake, NAME)
    after = lake.version(NAME)
    assert after > before
    assert rows(spark_tables.appended(spark, lake, NAME, 2, after)) == rows(
        by_delta(spark, lake, after).where("n >= 2")
    )
    assert spark_tables.appended(spark, lake, NAME, before, after).count() == 0
    assert spark_tables.rows_appended(lake.path(NAME), 2, after, "d", {str(day)}) == 2


def test_deletion_vectors_are_left_to_delta(lake: Lake, spark: SparkSession) -> None:
    path = lake.path(NAME)
    frame = spark.range(100).selectExpr("id as n", "date'2026-01-05' as d").coalesce(1)
    vectors = "delta.enableDeletionVectors"
    frame.write.format("delta").option(vectors, "true").option("delta.enableChangeDataFeed", "true").save(
        path
    )
    spark.sql(f"DELETE FROM delta.`{path}` WHERE n < 10")
    assert any(
        "deletionVector" in line for line in (Path(path) / "_delta_log").glob("*1.json").__next__().open()
    )
    assert spark_tables.read(spark, lake, NAME, 1).count() == 90
    assert spark_tables.read(spark, lake, NAME, 0).count() == 100
    assert spark_tables.appended(spark, lake, NAME, -1, 1).count() == 100


def test_two_versions_are_compared_while_both_can_be_read(lake: Lake, spark: SparkSession) -> None:
    write(lake, pl.DataFrame({"n": [1, 2], "p": ["a", "b"]}), "p")
    before = lake.version(NAME)
    write(lake, pl.DataFrame({"n": [3], "p": ["a"], "new": [1]}), "p")
    both = spark_tables.read_both(spark, lake, NAME, before, lake.version(NAME))
    assert both is not None
    assert [frame.columns for frame in both] == [["n", "p"]] * 2
    assert [frame.count() for frame in both] == [2, 3]
    optimize(lake, NAME)
    now = lake.version(NAME)
    assert spark_tables.read_both(spark, lake, NAME, before, now) is not None
    DeltaTable(lake.path(NAME)).vacuum(0, enforce_retention_duration=False, dry_run=False)
    assert spark_tables.read_both(spark, lake, NAME, before, now) is None, "its files are gone"
    write_deltalake(
        lake.path(NAME),
        pl.DataFrame({"n": ["1"], "p": ["a"]}),
        mode="overwrite",
        schema_mode="overwrite",
    )
    assert spark_tables.read_both(spark, lake, NAME, now, lake.version(NAME)) is None, "n is text now"
    DeltaTable(lake.path(NAME)).create_checkpoint()
    (Path(lake.path(NAME)) / "_delta_log" / f"{before:020}.json").unlink()
    assert spark_tables.read_both(spark, lake, NAME, before, now) is None, "its log is gone"
    newest = lake.version(NAME)
    for version in range(newest):
        (Path(lake.path(NAME)) / "_delta_log" / f"{version:020}.json").unlink(missing_ok=True)
    assert lake.open(NAME, before) is None
    assert spark_tables.read_both(spark, lake, NAME, before, newest) is None, "its log was cleaned up"


def spoil(lake: Lake, partition: str) -> None:
    """Flip a bit in the footers of a partition's files, in the name of the column `n`."""
    found = lake.open(NAME)
    assert found
    for file in (f for f in files_of(found) if f["partition.p"] == partition):
        path = Path(lake.path(NAME), file["path"])
        whole = path.read_bytes()
        footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
        path.write_bytes(whole[:footer] + whole[footer:].replace(b"\x01n", b"\x01o", 1))  # with its length


@pytest.mark.failure("corrupt")
def test_files_of_other_partitions_are_left_out_where_the_table_has_such(
    lake: Lake, spark: SparkSession
) -> None:
    write(lake, pl.DataFrame({"n": [1, 2], "p": ["a", "b"], "day": ["x", "y"]}), "p")
    version = lake.version(NAME)
    by_day = spark_tables.read(spark, lake, NAME, version, ("day", {"x"}))
    assert by_day.where("day = 'x'").count() == 1, "it is not partitioned by day"
    spoil(lake, "a")
    assert spark_tables.read(spark, lake, NAME, version, ("p", {"b"})).count() == 1
    with pytest.raises(DamagedFile):
        spark_tables.read(spark, lake, NAME, version, ("p", {"a"}))


@pytest.mark.failure("position_lost")
def test_former_files_that_are_damaged_are_as_good_as_gone(lake: Lake, spark: SparkSession) -> None:
    """Whoever needs them reads the newest version, which may be whole."""
    write(lake, pl.DataFrame({"n": [1, 2], "p": ["a", "b"]}), "p")
    before = lake.version(NAME)
    write(lake, pl.DataFrame({"n": [3, 4], "p": ["a", "b"]}), "p")
    now = lake.version(NAME)
    spoil(lake, "b")
    with pytest.raises(FilesGone, match="are whole"):
        spark_tables.appended(spark, lake, NAME, before, now)
    assert spark_tables.read_both(spark, lake, NAME, before, now) is None
