"""At which stage Spark failed, by failures of a real session."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pyspark.sql.functions as F
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from medallion_platform.spark.failed_stage import failed_stage

PARTS, ROWS = 8, 20_000


@pytest.fixture
def apart(spark: SparkSession) -> Iterator[SparkSession]:
    """The session, which leaves small partitions of a shuffle apart."""
    before = {
        name: spark.conf.get(name)
        for name in ("spark.sql.adaptive.coalescePartitions.enabled", "spark.sql.shuffle.partitions")
    }
    spark.conf.set("spark.sql.adaptive.coalescePartitions.enabled", "false")
    spark.conf.set("spark.sql.shuffle.partitions", str(PARTS))
    yield spark
    for name, value in before.items():
        spark.conf.set(name, str(value))


def write(rows: DataFrame) -> None:
    rows.write.mode("overwrite").format("noop").save()


def test_of_a_group_that_is_too_large_it_tells_operators_and_that_it_is_uneven(apart: SparkSession) -> None:
    began = time.time()
    last = F.pmod(F.hash(F.col("id")), F.lit(PARTS)) == PARTS - 1  # its task begins after all others
    heavy = apart.range(100).filter(last).first()
    assert heavy
    key = F.when(F.col("id") % 10 > 0, heavy["id"]).otherwise(F.col("id"))
    rows = apart.range(0, ROWS, 1, 4).select(
        key.alias("k"), F.sha2(F.col("id").cast("string"), 256).alias("t")
    )
    size = F.size(F.collect_list("t"))
    told = F.when(size > ROWS // 2, F.raise_error(F.concat(F.lit("jane "), size.cast("string"))))
    with pytest.raises(PySparkException):
        write(rows.groupBy("k").agg(told.alias("n")))
    stage = failed_stage(began)
    assert stage
    assert stage.figures["tasks"] == PARTS
    assert stage.figures["shuffle_read_bytes"] > ROWS * 32
    assert stage.figures["skew"] > PARTS / 2
    assert "ObjectHashAggregate" in stage.operators
    assert failed_stage(time.time()) is None, "what failed before is not the reason of what fails now"


def test_operators_in_generated_code_are_told_without_their_arguments(apart: SparkSession) -> None:
    began = time.time()
    rows = apart.range(0, 100, 1, 2).filter("id != 4711").select(F.raise_error(F.lit("jane")).alias("x"))
    with pytest.raises(PySparkException):
        write(rows)
    stage = failed_stage(began)
    assert stage
    assert stage.operators[:2] == ("Range", "Filter")
    assert not any("4711" in text or "jane" in text for text in stage.operators)
    assert "skew" not in stage.figures, "it has read nothing"


def test_what_went_well_is_no_failed_stage(spark: SparkSession) -> None:
    began = time.time()
    write(spark.range(10))
    assert failed_stage(began) is None
