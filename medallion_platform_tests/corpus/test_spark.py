"""Failures that Spark tells: of rows, of declarations, of files, and of code of a user's own in Python."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest
from pyspark.sql import functions as F

from medallion_platform_tests.test_errors import full

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["full"]


def sql(text: str) -> Callable[[SparkSession], object]:
    return lambda spark: spark.sql(text).collect()


WRONG_ROWS: dict[str, Callable[[SparkSession], object]] = {
    "divided by zero": sql("SELECT 1 / id FROM range(2)"),
    "a cast": sql("SELECT cast(concat('x', id) AS int) FROM range(2)"),
    "overflow": sql("SELECT cast(id AS int) * 2147483647 FROM range(9)"),
    "too large": sql("SELECT cast(id * 100000 AS smallint) FROM range(9)"),
    "no date": sql("SELECT to_date(concat('2026-02-3', id), 'yyyy-MM-dd') FROM range(3)"),
    "no json": sql("SELECT from_json(concat('{', id), 'a int', map('mode', 'FAILFAST')) FROM range(3)"),
    "no such index": sql("SELECT array(1)[id] FROM range(3)"),
    "raised": sql("SELECT raise_error('x') FROM range(1)"),
    "asserted": sql("SELECT assert_true(id = 9) FROM range(1)"),
    "not one": sql("SELECT (SELECT id FROM range(2))"),
}


@pytest.mark.failure("data", work="refresh")
@pytest.mark.parametrize("wrong", WRONG_ROWS)
def test_rows_that_do_not_fit(spark: SparkSession, wrong: str) -> None:
    with pytest.raises(Exception) as caught:
        WRONG_ROWS[wrong](spark)
    assert caught.value


DECLARED_WRONGLY: dict[str, Callable[[SparkSession], object]] = {
    "table": sql("SELECT * FROM no_such_table"),
    "column": sql("SELECT no_such_column FROM range(1)"),
    "function": sql("SELECT no_such_function(id) FROM range(1)"),
    "syntax": sql("SELEC 1"),
    "types": sql("SELECT id + array(1) FROM range(1)"),
    "ambiguous": sql("SELECT id FROM range(1) a, range(1) b"),
    "grouping": sql("SELECT id, count(*) FROM range(1)"),
    "format": lambda spark: spark.read.format("no_such_format").load("/nowhere"),
    "class": lambda spark: spark._jvm.Class.forName("no.such.Class"),  # type: ignore[union-attr]
}


@pytest.mark.failure("permanent", work="refresh")
@pytest.mark.parametrize("wrong", DECLARED_WRONGLY)
def test_what_fails_whenever_it_is_tried(spark: SparkSession, wrong: str) -> None:
    with pytest.raises(Exception) as caught:
        DECLARED_WRONGLY[wrong](spark)
    assert caught.value


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "garbage": lambda file: file.write_bytes(b"PAR1 no parquet PAR1"),
    "flipped": lambda file: file.write_bytes(
        bytes(b ^ 0x55 if 4 < n < 90 else b for n, b in enumerate(file.read_bytes()))
    ),
    "gone": Path.unlink,
}


@pytest.mark.failure("corrupt", work="refresh")
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("format", ["parquet", "delta"])
def test_a_damaged_file(spark: SparkSession, tmp_path: Path, damage: str, format: str) -> None:
    place = tmp_path / "t"
    spark.range(1000).repartition(1).write.format(format).save(str(place))
    read = spark.read.format(format).load(str(place))
    read.schema  # noqa: B018 - before it is damaged
    (file,) = place.glob("*.parquet")
    for checksum in place.glob(".*.crc"):
        checksum.unlink()
    DAMAGE[damage](file)
    with pytest.raises(Exception) as caught:
        read.agg(F.sum("id")).collect()
    assert caught.value


@pytest.mark.failure("corrupt", work="refresh")
@pytest.mark.parametrize("version", [0, 1])
def test_a_damaged_log(spark: SparkSession, tmp_path: Path, version: int) -> None:
    place = str(tmp_path / "t")
    for _ in range(3):
        spark.range(10).write.format("delta").mode("append").save(place)
    for file in (tmp_path / "t/_delta_log").glob(f"*{version}.*"):
        file.unlink()
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]
    with pytest.raises(Exception) as caught:
        spark.read.format("delta").load(place).collect()
    assert caught.value


@pytest.mark.failure("position_lost", work="refresh")
@pytest.mark.parametrize("version", [0, 99])
def test_a_version_that_is_gone(spark: SparkSession, tmp_path: Path, version: int) -> None:
    place = str(tmp_path / "t")
    for _ in range(12):
        spark.range(1).write.format("delta").mode("append").save(place)
    for file in (tmp_path / "t/_delta_log").glob("*00[0-9].*"):
        file.unlink()
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]
    with pytest.raises(Exception) as caught:
        spark.read.format("delta").option("versionAsOf", version).load(place).collect()
    assert caught.value


@pytest.mark.failure("disk", work="refresh")
@pytest.mark.parametrize("format", ["parquet", "delta", "csv"])
def test_a_full_disk(spark: SparkSession, full: Path, format: str) -> None:
    with pytest.raises(Exception) as caught:
        spark.range(1_000_000).write.format(format).save(f"{full}/t")
    assert caught.value


@pytest.mark.failure("unknown", work="refresh")
@pytest.mark.parametrize("error", [KeyError, ValueError, ZeroDivisionError])
def test_an_error_of_a_user_s_function(spark: SparkSession, error: type[Exception]) -> None:
    def wrong(_: int) -> int:
        raise error

    with pytest.raises(Exception) as caught:
        spark.range(1).select(F.udf(wrong, "int")("id")).collect()
    assert caught.value


@pytest.mark.failure("poison", work="refresh")
@pytest.mark.parametrize("by", ["SIGSEGV", "SIGABRT"])
def test_a_row_that_ends_the_worker_of_a_function(spark: SparkSession, by: str) -> None:
    def fatal(value: int) -> int:
        os.kill(os.getpid(), getattr(signal, by))
        return value

    with pytest.raises(Exception) as caught:
        spark.range(1).select(F.udf(fatal, "long")("id")).collect()
    assert caught.value


@pytest.mark.failure("evicted", work="refresh")
def test_a_worker_of_a_function_that_is_killed(spark: SparkSession, tmp_path: Path) -> None:
    place = str(tmp_path / "pid")

    def waits(value: int) -> int:
        Path(place).write_text(str(os.getpid()))
        time.sleep(60)
        return value

    def kill() -> None:
        while not (Path(place).exists() and (pid := Path(place).read_text())):
            time.sleep(0.05)
        os.kill(int(pid), signal.SIGKILL)

    Thread(target=kill, daemon=True).start()
    with pytest.raises(Exception) as caught:
        spark.range(1).select(F.udf(waits, "long")("id")).collect()
    assert caught.value
