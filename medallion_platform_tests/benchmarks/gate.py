"""The contract gate on Spark: judge, split into table and dead letters, against a bare write.

Both read the same Parquet file of typed events in one warm session and write Parquet. The gate has
eight expectations, two of them regular expressions, and rejects none or 0.3 % of the rows.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import pyspark.sql.types as T
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts import spark as contracts
from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.jars import jars
from medallion_platform.lakehouse import spark as engine
from medallion_platform_tests.benchmarks.figure import Figure, spent

ROWS = 2_000_000


class Gated(ContractModel):
    """Eight expectations beside the types."""

    event_id: T.StringType = Field(str_matches=r"^evt-[0-9]+$")
    user_id: T.StringType = Field(str_length={"min_value": 2, "max_value": 20})
    event_type: T.StringType = Field(isin=["page_view", "click", "search", "purchase"])
    event_timestamp: T.TimestampType = Field()
    amount: T.DoubleType = Field(ge=0, lt=1_000_000)
    quantity: T.LongType = Field(ge=1, nullable=True)
    email: T.StringType = Field(nullable=True, str_matches=r"^[^@\s]+@[^@\s]+$")
    page: T.StringType = Field(nullable=True)


def measure(rounds: int, rows: int = ROWS) -> list[Figure]:
    """Paired runs, clean and with bad rows."""
    spark = engine.session(jars(), quick=False)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, share, goal in (("clean rows", 0.0, "1.25"), ("0.3 % bad rows", 0.003, "1.5")):
            source = f"{folder}/{share}"
            _events(spark, rows, share).write.parquet(source)
            gated, bare = [], []
            for n in range(-1, rounds):  # the first pair warms up the compiler
                one = spent(lambda s=source, n=n: _bare(spark.read.parquet(s), f"{s}-bare-{n}"))
                other = spent(lambda s=source, n=n: _gate(spark.read.parquet(s), f"{s}-gate-{n}"))
                if n >= 0:
                    bare.append(one)
                    gated.append(other)
            found.append(
                Figure(
                    f"Spark: contract gate and split, {name}, CPU seconds of a bare write",
                    [g / b for g, b in zip(gated, bare, strict=True)],
                    f"{median(gated):.1f} s against {median(bare):.1f} s for {rows:,} rows",
                    f"at most {goal}",
                )
            )
    return found


def _events(spark: SparkSession, rows: int, bad: float) -> DataFrame:
    number = F.col("id")
    wrong = (number % 1000) < int(bad * 1000)
    kinds = F.array(*(F.lit(k) for k in ("page_view", "click", "search", "purchase")))
    return spark.range(rows).select(
        F.concat(F.lit("evt-"), number).alias("event_id"),
        F.concat(F.lit("u"), F.hash(number) % 50_000).alias("user_id"),
        F.when(wrong, F.lit("teleport")).otherwise(kinds[(number % 4).cast("int")]).alias("event_type"),
        F.timestamp_seconds(F.lit(1_767_600_000) + number % 604_800).alias("event_timestamp"),
        ((number % 100_000) / 100).alias("amount"),
        (number % 7 + 1).alias("quantity"),
        F.concat(F.lit("user"), number % 50_000, F.lit("@example.com")).alias("email"),
        F.concat(F.lit("/products/"), number % 5_000).alias("page"),
    )


def _bare(rows: DataFrame, to: str) -> None:
    rows.write.parquet(to)


def _gate(rows: DataFrame, to: str) -> None:
    judged = contracts.judge(Gated.contract, rows)
    verdict = engine.Verdict(
        judged.ok, judged.violations, F.lit("*"), judged.was, judged.counters, judged.guard
    )
    Path(to).mkdir()
    engine.stage(judged.df, to, (), columns=judged.columns, verdict=verdict)
