"""The contract gate on Spark: validate, split into table and dead letters, against a bare write.

Both read the same Parquet files of typed rows in one warm session and write Parquet. The gate has
eight expectations, two of them regular expressions, and rejects none or 0.3 % of the rows. In rows of
eight narrow columns, all of them checked, it costs the largest share.
"""

from __future__ import annotations

import shutil
import tempfile
from itertools import product
from pathlib import Path
from statistics import median
from typing import ClassVar

import pyspark.sql.types as T
from pandera.api.pyspark.model_config import BaseConfig
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts import spark_engine as contracts
from medallion_platform.contracts.contract import Contract
from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.installation.local_spark import local_spark
from medallion_platform.lakehouse import spark_tables
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


class Event(Gated):
    """The same eight expectations in rows as wide as events are, partitioned by the day."""

    event_date: T.DateType = Field()
    session_id: T.StringType = Field(nullable=True)
    session_start: T.TimestampType = Field(nullable=True)
    session_seconds: T.LongType = Field(nullable=True)
    referrer: T.StringType = Field(nullable=True)
    user_agent: T.StringType = Field(nullable=True)
    ip_hash: T.StringType = Field(nullable=True)
    product_id: T.StringType = Field(nullable=True)
    currency: T.StringType = Field(nullable=True)
    region_code: T.StringType = Field(nullable=True)
    region_name: T.StringType = Field(nullable=True)
    country: T.StringType = Field(nullable=True)
    segment: T.StringType = Field(nullable=True)
    properties: T.StringType = Field(nullable=True)

    class Config(BaseConfig):
        """Table options."""

        metadata: ClassVar = {"event_time": "event_timestamp", "partitioned_by": ["event_date"]}


SHAPES = (("events of 22 columns by day", Event.contract), ("narrow rows of 8 columns", Gated.contract))
SHARES = (("clean", 0.0, "1.25"), ("0.3 % bad", 0.003, "1.5"))


def measure(rounds: int, rows: int = ROWS) -> list[Figure]:
    """Both shapes, clean and with bad rows."""
    spark = local_spark().session(quick=False)
    found = []
    for (shape, contract), (share, bad, goal) in product(SHAPES, SHARES):
        with tempfile.TemporaryDirectory() as folder:
            source = f"{folder}/source"
            _events(spark, rows, bad).select(*contract.column_names).write.parquet(source)
            bare, gated = _in_pairs(spark, contract, source, folder, rounds)
        found.append(
            Figure(
                f"Spark: contract gate and split, {shape}, {share}, CPU seconds of a bare write",
                [g / b for g, b in zip(gated, bare, strict=True)],
                f"{median(gated):.1f} s against {median(bare):.1f} s for {rows:,} rows",
                f"at most {goal}",
            )
        )
    return found


def _in_pairs(
    spark: SparkSession, contract: Contract, source: str, folder: str, rounds: int
) -> tuple[list[float], list[float]]:
    """CPU seconds of the bare write and of the gate; the first pairs warm up the compiler."""
    bare, gated = [], []
    for _ in range(rounds + 2):
        bare.append(spent(lambda: _bare(contract, spark.read.parquet(source), f"{folder}/bare")))
        gated.append(spent(lambda: _gate(contract, spark.read.parquet(source), f"{folder}/gated")))
        shutil.rmtree(f"{folder}/bare")
        shutil.rmtree(f"{folder}/gated")
    return bare[2:], gated[2:]


def _events(spark: SparkSession, rows: int, bad: float) -> DataFrame:
    number = F.col("id")
    wrong = (number % 1000) < int(bad * 1000)
    kinds = F.array(*(F.lit(k) for k in ("page_view", "click", "search", "purchase")))
    at = F.timestamp_seconds(F.lit(1_767_600_000) + number % 604_800)
    path = F.concat(F.lit("/products/"), number % 5_000)
    return spark.range(rows).select(
        F.concat(F.lit("evt-"), number).alias("event_id"),
        F.concat(F.lit("u"), F.hash(number) % 50_000).alias("user_id"),
        F.when(wrong, F.lit("teleport")).otherwise(kinds[(number % 4).cast("int")]).alias("event_type"),
        at.alias("event_timestamp"),
        ((number % 100_000) / 100).alias("amount"),
        (number % 7 + 1).alias("quantity"),
        F.concat(F.lit("user"), number % 50_000, F.lit("@example.com")).alias("email"),
        path.alias("page"),
        at.cast("date").alias("event_date"),
        F.sha1((number % 300_000).cast("string")).alias("session_id"),
        (at - F.expr("interval 5 minutes")).alias("session_start"),
        (number % 1800).alias("session_seconds"),
        F.concat(F.lit("https://search.example/?q="), number % 20_000).alias("referrer"),
        F.concat(F.lit("Mozilla/5.0 (X11; Linux x86_64) Build/"), number % 300).alias("user_agent"),
        F.md5((number % 40_000).cast("string")).alias("ip_hash"),
        F.concat(F.lit("p-"), number % 5_000).alias("product_id"),
        F.lit("EUR").alias("currency"),
        F.concat(F.lit("EU-"), number % 9).alias("region_code"),
        F.concat(F.lit("Region "), number % 9).alias("region_name"),
        F.lit("Germany").alias("country"),
        F.concat(F.lit("segment "), number % 5).alias("segment"),
        F.to_json(F.struct(path.alias("page"), (number % 97).alias("depth"))).alias("properties"),
    )


def _bare(contract: Contract, rows: DataFrame, to: str) -> None:
    rows.write.partitionBy(*contract.partitioned_by).parquet(to)


def _gate(contract: Contract, rows: DataFrame, to: str) -> None:
    validated = contracts.validate(contract, rows)
    verdict = spark_tables.ContractColumns(
        validated.ok,
        validated.violations,
        F.lit("*"),
        validated.original_columns,
        validated.counters_without_letters,
        validated.guard,
    )
    Path(to).mkdir()
    spark_tables.stage(validated.df, to, contract.partitioned_by, columns=validated.columns, checks=verdict)
