"""Reading by the log's list of files gives what Delta's own reader gives."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import DataFrame, SparkSession

from medallion_platform.lakehouse import spark as engine
from medallion_platform.lakehouse.lake import Lake
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
    assert rows(engine.read(spark, lake, NAME, version)) == rows(by_delta(spark, lake, version))
    assert engine.appended(spark, lake, NAME, 0, version).count() == 3


def test_every_version_with_columns_that_came_later(lake: Lake, spark: SparkSession) -> None:
    day = [date(2026, 1, 5), date(2026, 1, 6)]
    write(lake, pl.DataFrame({"n": [1, 2], "d": day}), "d")
    write(lake, pl.DataFrame({"n": [3, 4], "d": day, "later column": ["x", None]}), "d")
    DeltaTable(lake.path(NAME)).delete("n = 1")
    for version in range(lake.version(NAME) + 1):
        mine, theirs = engine.read(spark, lake, NAME, version), by_delta(spark, lake, version)
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
    assert rows(engine.appended(spark, lake, NAME, 2, after)) == rows(
        by_delta(spark, lake, after).where("n >= 2")
    )
    assert engine.appended(spark, lake, NAME, before, after).count() == 0
    assert engine.rows_appended(lake.path(NAME), 2, after, "d", {str(day)}) == 2


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
    assert engine.read(spark, lake, NAME, 1).count() == 90
    assert engine.read(spark, lake, NAME, 0).count() == 100
    assert engine.appended(spark, lake, NAME, -1, 1).count() == 100
