"""Which columns a column is computed from, as the analyzed plan says."""

from __future__ import annotations

from threading import Thread
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from medallion_platform.pipeline.refresh.lineage import Lineage, column_lineage_of_plan


def found(rows: DataFrame, **sources: DataFrame) -> Lineage:
    plan = rows.select(*rows.columns)._jdf.queryExecution().analyzed().toString()
    return column_lineage_of_plan(
        plan, rows.columns, {name: frame.columns for name, frame in sources.items()}
    )


def of(table: str, *columns: str) -> list[tuple[str, str]]:
    return [(table, c) for c in columns]


@pytest.fixture(scope="module")
def frames(spark: SparkSession, tmp_path_factory: Any) -> tuple[DataFrame, DataFrame]:
    folder = tmp_path_factory.mktemp("lineage")
    spark.sql("select 1 id, 'x' key, 2 amount, 'usd' currency").write.parquet(f"{folder}/a")
    spark.sql("select 'x' key, 'name' name, 3 rate").write.parquet(f"{folder}/b")
    return spark.read.parquet(f"{folder}/a"), spark.read.parquet(f"{folder}/b")


def test_expressions_joins_and_renames(frames: tuple[DataFrame, DataFrame]) -> None:
    a, b = frames
    rows = a.join(b, "key").select(
        "id",
        F.col("name").alias("called"),
        (F.col("amount") * F.col("rate")).alias("value"),
        F.concat_ws(", AS (", "currency", F.lit("]")).alias("tricky text"),
        F.lit(1).alias("one"),
    )
    assert found(rows, a=a, b=b) == {
        "id": of("a", "id"),
        "called": of("b", "name"),
        "value": [("a", "amount"), ("b", "rate")],
        "tricky text": of("a", "currency"),
        "one": [],
    }


def test_a_wide_frame_planned_in_a_thread_that_did_not_start_spark(
    frames: tuple[DataFrame, DataFrame],
) -> None:
    from medallion_platform.installation.local_spark import local_spark
    from medallion_platform.pipeline.refresh.transform import analyzed_plan_text

    a, _ = frames
    wide = a.select("*", *(F.col("amount").alias(f"c{n}") for n in range(40)))
    told: list[Lineage] = []

    def plan() -> None:
        local_spark(cores=2).session()
        told.append(column_lineage_of_plan(analyzed_plan_text(wide), wide.columns, {"a": a.columns}))

    thread = Thread(target=plan)
    thread.start()
    thread.join()
    assert told[0]["c39"] == of("a", "amount")


def test_aggregates_windows_structs_and_explodes(frames: tuple[DataFrame, DataFrame]) -> None:
    a, _ = frames
    newest = a.groupBy("key").agg(F.max_by(F.struct("id", "currency"), "amount").alias("row"))
    assert found(newest.select("key", "row.currency"), a=a)["currency"] == of("a", "currency")
    ranked = a.withColumn("rank", F.row_number().over(Window.partitionBy("key").orderBy("amount")))
    assert found(ranked, a=a)["rank"] == of("a", "amount", "key")
    spread = a.withColumn("n", F.explode(F.sequence(F.lit(0), F.col("amount")))).select("id", "n")
    assert found(spread, a=a) == {"id": of("a", "id"), "n": of("a", "amount")}


def test_a_union_and_a_table_read_twice(frames: tuple[DataFrame, DataFrame]) -> None:
    a, b = frames
    twice = a.unionByName(a.where("id > 1"))
    assert found(twice, a=a)["amount"] == of("a", "amount")
    other = a.select(F.col("key"), F.col("amount").alias("theirs"))
    both = a.join(other, "key").withColumn("sum", F.col("amount") + F.col("theirs")).select("id", "sum")
    assert found(both, a=a, b=b)["sum"] == of("a", "amount")
