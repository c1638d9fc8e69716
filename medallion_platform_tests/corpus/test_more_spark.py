"""Further failures that Spark and Delta in Spark tell: of writers, of streams, of limits, of what is gone."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import functions as F

from medallion_platform_tests.corpus.causes import ROW, causes, fails

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Cause = Callable[["SparkSession", Path], object]


def sql(*statements: str) -> Cause:
    """Statements; {t} is a table of ids, in Delta."""

    def work(spark: SparkSession, folder: Path) -> object:
        table = f"delta.`{folder}/t`"
        spark.range(3).write.format("delta").save(f"{folder}/t")
        return [spark.sql(said.format(t=table)).collect() for said in statements]

    return work


def set_so(spark: SparkSession, work: Callable[[], object], **settings: str) -> object:
    """Some work under other settings of the session."""
    names = {name.replace("__", "."): value for name, value in settings.items()}
    before = {name: spark.conf.get(name, None) for name in names}
    for name, value in names.items():
        spark.conf.set(name, value)
    try:
        return work()
    finally:
        for name, value in before.items():
            spark.conf.set(name, value) if value is not None else spark.conf.unset(name)


def cancelled(spark: SparkSession, _: Path) -> object:
    """By a person, or by a watch."""
    tag = "cancelled-by-another"
    spark.sparkContext.addJobTag(tag)

    def cancel() -> None:
        time.sleep(0.5)
        spark.sparkContext.cancelJobsWithTag(tag)

    Thread(target=cancel, daemon=True).start()
    try:
        slow = F.udf(lambda n: time.sleep(5) or n, "long")
        return spark.range(1).select(slow("id")).collect()
    finally:
        spark.sparkContext.removeJobTag(tag)


def of_python(body: Callable[[int], object]) -> Cause:
    def work(spark: SparkSession, _: Path) -> object:
        return spark.range(1).select(F.udf(body, "string")("id")).collect()

    return work


def takes_all_memory(_: int) -> object:
    return bytes(1 << 60)


def lacks_a_module(_: int) -> object:
    import no_such_module  # type: ignore[import-not-found]

    return no_such_module


def exits(_: int) -> object:
    os._exit(9)


def files(format: str, content: bytes, name: str = "a", **options: str) -> Cause:
    def work(spark: SparkSession, folder: Path) -> object:
        (folder / "files").mkdir()
        (folder / "files" / name).write_bytes(content)
        return spark.read.format(format).options(**options).load(f"{folder}/files").collect()

    return work


def vacuumed(spark: SparkSession, folder: Path) -> object:
    """A version of which a file is gone."""
    place = f"{folder}/t"
    for n in range(2):
        spark.range(n, n + 1).repartition(1).write.format("delta").mode("overwrite").save(place)
    now = {
        "spark__databricks__delta__retentionDurationCheck__enabled": "false",
        "spark__sql__sources__parallelPartitionDiscovery__parallelism": "2",
    }
    set_so(spark, lambda: spark.sql(f"VACUUM delta.`{place}` RETAIN 0 HOURS").collect(), **now)
    return spark.read.format("delta").option("versionAsOf", 0).load(place).collect()


def streamed(spark: SparkSession, folder: Path, between: Callable[[Path], object], **options: str) -> object:
    """A stream from one table to another one, which goes on after something happened to the first."""
    source, target = f"{folder}/t", f"{folder}/target"
    spark.range(3).write.format("delta").mode("append").save(source)
    for _ in range(2):
        if between and Path(target).exists():
            between(folder)
        stream = (
            spark.readStream.format("delta")
            .options(**options)
            .load(source)
            .writeStream.format("delta")
            .option("checkpointLocation", f"{folder}/checkpoint")
            .trigger(availableNow=True)
            .start(target)
        )
        stream.awaitTermination()
    return None


def stream_after(statement: str, **options: str) -> Cause:
    def work(spark: SparkSession, folder: Path) -> object:
        return streamed(
            spark, folder, lambda f: spark.sql(statement.format(t=f"delta.`{f}/t`")).collect(), **options
        )

    return work


def stream_of_which_the_log_is_gone(spark: SparkSession, folder: Path) -> object:
    def gone(folder: Path) -> None:
        place = f"{folder}/t"
        for _ in range(11):
            spark.range(1).write.format("delta").mode("append").save(place)
        for file in (folder / "t/_delta_log").glob("*00[0-9].*"):
            file.unlink()
        spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]

    return streamed(spark, folder, gone)


def stream_with_a_damaged_checkpoint(spark: SparkSession, folder: Path) -> object:
    def spoil(folder: Path) -> None:
        for file in (folder / "checkpoint/offsets").glob("*"):
            file.write_text("v9 nothing of the kind")
        for file in (folder / "checkpoint").rglob(".*.crc"):
            file.unlink()

    return streamed(spark, folder, spoil)


def stream_with_a_damaged_offset(spark: SparkSession, folder: Path) -> object:
    def spoil(folder: Path) -> None:
        for file in (folder / "checkpoint/offsets").glob("[0-9]*"):
            file.write_text("v1\n{\n{")
        for file in (folder / "checkpoint").rglob(".*.crc"):
            file.unlink()

    return streamed(spark, folder, spoil)


def before_the_log_begins(spark: SparkSession, folder: Path) -> object:
    spark.range(1).write.format("delta").save(f"{folder}/t")
    read = spark.read.format("delta").option("timestampAsOf", "2020-01-01")
    return read.load(f"{folder}/t").collect()


def two_who_write(first: str, second: str) -> Cause:
    """The second one began before the first, which ends while it works."""

    def work(spark: SparkSession, folder: Path) -> object:
        path = f"{folder}/t"
        spark.range(4).withColumn("p", F.col("id") % 2).write.format("delta").save(path)
        log = spark._jvm.org.apache.spark.sql.delta.DeltaLog.forTable(spark._jsparkSession, path)  # type: ignore[union-attr]
        failed: list[BaseException] = []
        slow = folder / "slow"

        def wait(n: int) -> int:
            slow.touch()
            time.sleep(1.5)
            return n

        spark.udf.register("slowly", wait, "long")

        def write() -> None:
            try:
                spark.sql(second.format(t=f"delta.`{path}`")).collect()
            except BaseException as error:
                failed.append(error)

        thread = Thread(target=write)
        thread.start()
        while thread.is_alive() and not slow.exists():
            time.sleep(0.02)
        spark.sql(first.format(t=f"delta.`{path}`")).collect()
        thread.join()
        assert log
        raise failed[0]

    return work


DEEP = b'{"a":' * 2000 + b"1" + b"}" * 2000
OF_SPARK: dict[str, dict[str, Cause]] = {
    "data": {
        "check": sql("ALTER TABLE {t} ADD CONSTRAINT c CHECK (id < 9)", "INSERT INTO {t} VALUES (10)"),
        "schema": lambda spark, f: (
            spark.range(1).write.format("delta").save(f"{f}/t"),
            spark.range(1).selectExpr("'x' AS id").write.format("delta").mode("append").save(f"{f}/t"),
        ),
        "column": lambda spark, f: (
            spark.range(1).write.format("delta").save(f"{f}/t"),
            spark.range(1).selectExpr("id", "1 AS more").write.format("delta").mode("append").save(f"{f}/t"),
        ),
        "merge": sql(
            "MERGE INTO {t} t USING (SELECT explode(array(1, 1)) id) s ON t.id = s.id"
            " WHEN MATCHED THEN UPDATE SET id = 9"
        ),
        "map": sql("SELECT map_from_arrays(array(1, 1), array(id, id)) FROM {t}"),
        "timestamp": sql(f"SELECT cast(concat('{ROW}', id) AS timestamp) FROM {{t}}"),
        "decimal": sql("SELECT cast(id + 1000 AS decimal(3, 1)) FROM {t}"),
        "ancient": lambda spark, f: set_so(
            spark,
            lambda: spark.createDataFrame([(date(1000, 1, 1),)], "d date").write.parquet(f"{f}/a"),
            spark__sql__parquet__datetimeRebaseModeInWrite="EXCEPTION",
        ),
        "parquet type": lambda spark, f: (
            spark.range(1).write.parquet(f"{f}/a"),
            spark.read.schema("id array<int>").parquet(f"{f}/a").collect(),
        ),
        "variant": sql("SELECT parse_json(concat('{{', id)) FROM {t}"),
    },
    "permanent": {
        "there already": lambda spark, f: [spark.range(1).write.parquet(f"{f}/a") for _ in range(2)],
        "no table in delta": lambda spark, f: spark.read.format("delta").load(str(f)).collect(),
        "aggregate": sql("SELECT sum(sum(id)) FROM {t}"),
        "setting": lambda spark, _: spark.conf.set("spark.sql.shuffle.partitions", "many"),
        "static setting": lambda spark, _: spark.conf.set("spark.sql.warehouse.dir", "x"),
        "function that cannot be sent": lambda spark, _: (
            spark.range(1).select(F.udf(lambda n, s=spark: s, "string")("id")).collect()
        ),
        "type of a function": lambda spark, _: F.udf(lambda n: n, "nonsense")("id"),
        "module": of_python(lacks_a_module),
        "stream without place": lambda spark, f: (
            spark.readStream.format("rate")
            .load()
            .groupBy("value")
            .count()
            .writeStream.format("delta")
            .outputMode("append")
            .start(f"{f}/t")
        ),
        "changes that are not kept": lambda spark, f: (
            spark.range(1).write.format("delta").save(f"{f}/t"),
            spark.read.format("delta")
            .options(readChangeFeed="true", startingVersion="0")
            .load(f"{f}/t")
            .collect(),
        ),
        "row level": sql("UPDATE {t} SET none = 1"),
        "python": lambda spark, _: spark.range(1).select(F.col("id").none()).collect(),  # type: ignore[operator]
    },
    "corrupt": {
        "gzip": files("csv", gzip.compress(os.urandom(5000))[:3000], "a.csv.gz"),
        "gzip of another": files("csv", b"nothing of the kind", "a.csv.gz"),
        "zstd of another": files("text", b"nothing of the kind", "a.zst"),
        "orc": files("orc", b"nothing of the kind" * 9, schema=""),
        "avro": files("avro", b"nothing of the kind" * 9, "a.avro"),
        "checkpoint of a stream": stream_with_a_damaged_checkpoint,
        "offset of a stream": stream_with_a_damaged_offset,
    },
    "position_lost": {
        "vacuumed": vacuumed,
        "before the log": before_the_log_begins,
        "stream": stream_of_which_the_log_is_gone,
    },
    "conflict": {
        "append and delete": two_who_write(
            "INSERT INTO {t} VALUES (9, 0)", "DELETE FROM {t} WHERE slowly(id) >= 0"
        ),
        "delete and delete": two_who_write(
            "DELETE FROM {t} WHERE id = 1", "DELETE FROM {t} WHERE slowly(id) >= 0"
        ),
        "schema": two_who_write("ALTER TABLE {t} ADD COLUMN c INT", "DELETE FROM {t} WHERE slowly(id) >= 0"),
        # doubtful: whoever changed what a stream reads
        "stream": stream_after("UPDATE {t} SET id = 7 WHERE id = 1"),
    },
    "evicted": {"cancelled": cancelled},
    "oom": {"function": of_python(takes_all_memory)},
    "poison": {
        "deep": files("json", DEEP, mode="FAILFAST"),
        "regex": sql("SELECT regexp_extract(repeat('ab', 20000), '(a|b)*c', 0) FROM {t}"),
        "exits": of_python(exits),
    },
}


@pytest.mark.faults
@pytest.mark.failure(of="kind", work="refresh")
@causes(OF_SPARK)
def test_what_else_spark_tells(spark: SparkSession, tmp_path: Path, kind: str, cause: Any) -> None:
    fails(cause, spark, tmp_path)
