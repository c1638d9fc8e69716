"""Records once what Java loads for a refresh, so that later sessions start faster.

`python -m medallion_platform.installation.recording` does it, with real refreshes of a small lake of its own:
rows with duplicates and errors, a table of each kind of `incremental`, first created and then updated.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pyspark.sql.types as T
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.errors import MedallionError
from medallion_platform.installation.local_spark import local_spark
from medallion_platform.lakehouse.lake_format import open_lake
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake import landing_zone
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.pipeline.refresh import refresh
from medallion_platform.pipeline.run import Run
from medallion_platform.pipeline.table import daily, table
from medallion_platform.sources.connectors import landing_scan
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.formats.csv import Csv
from medallion_platform.spark import recording as spark_recording

_SECONDS = 900
"""The recording is given up after this time."""
_GENTLE = 19


class _Sales(ContractModel):
    """Sales as they come."""

    sale_id: T.StringType = Field()
    sold_at: T.TimestampType = Field()
    customer: T.StringType = Field(nullable=True)
    email: T.StringType = Field(nullable=True)
    amount: T.DoubleType = Field(nullable=True)

    class Config:
        metadata = {"key": ["sale_id"], "event_time": "sold_at"}  # noqa: RUF012


class _CleanSales(ContractModel):
    """Sales that keep the contract."""

    sale_id: T.StringType = Field()
    sold_at: T.TimestampType = Field()
    customer: T.StringType = Field(nullable=True)
    email: T.StringType = Field(nullable=True, pii="email")
    amount: T.DoubleType = Field(ge=0, nullable=True)
    sold_on: T.DateType = Field()

    class Config:
        metadata = {"key": ["sale_id"], "event_time": "sold_at", "partitioned_by": ["sold_on"]}  # noqa: RUF012


class _Customers(ContractModel):
    """The newest sale of each customer."""

    customer: T.StringType = Field()
    sale_id: T.StringType = Field()

    class Config:
        metadata = {"key": ["customer"]}  # noqa: RUF012


class _Days(ContractModel):
    """What was sold on a day."""

    sold_on: T.DateType = Field()
    sales: T.LongType = Field(ge=1)
    amount: T.DoubleType = Field(nullable=True)

    class Config:
        metadata = {  # noqa: RUF012
            "key": ["sold_on"],
            "partitioned_by": ["sold_on"],
            "row_count_column": "sales",
        }


@table(
    "silver.sales",
    contract=_CleanSales.contract,
    inputs={"rows": "bronze.sales"},
    incremental="append",
    partition=daily("sold_on"),
)
def _sales(rows: DataFrame) -> DataFrame:
    """Each sale with its day."""
    return rows.withColumn("sold_on", F.to_date("sold_at"))


@table(
    "silver.customers",
    contract=_Customers.contract,
    inputs={"sales": "silver.sales"},
    incremental="merge_by_key",
    recompute_key=("customer",),
)
def _customers(sales: DataFrame) -> DataFrame:
    """The newest sale of each customer."""
    known = sales.where("customer is not null")
    return known.groupBy("customer").agg(F.max_by("sale_id", "sold_at").alias("sale_id"))


@table(
    "gold.days",
    contract=_Days.contract,
    inputs={"sales": "silver.sales"},
    incremental="replace_partitions",
    partition=daily("sold_on"),
)
def _days(sales: DataFrame) -> DataFrame:
    """What was sold on a day."""
    return sales.groupBy("sold_on").agg(F.count("*").alias("sales"), F.sum("amount").alias("amount"))


_SOURCE = FileSource("sales", "bronze.sales", _Sales.contract, Csv(), "recording", claims=("*.csv",))
_CATALOG = Catalog((_SOURCE,), (_sales, _customers, _days))


def _refresh_all(spark: Callable[[], SparkSession], folder: Path) -> None:
    """Take in two files, one after the other, and refresh what follows from each."""
    lake, zone = open_lake(folder / "lake"), folder / "landing"
    zone.mkdir()
    for turn in range(2):
        lines = (
            f"{turn * 150 + n},2026-01-{n % 3 + 1:02}T10:00:{n % 60:02}Z,c{n % 40},c{n}@example.com,{n - 3}"
            for n in range(200)
        )
        text = "\n".join(["sale_id,sold_at,customer,email,amount", *lines])
        (zone / f"{turn}.csv").write_text(f"{text}\n")
        run = Run.now("recording")
        seen = landing_scan.scan_landing_zone(zone, [_SOURCE], run.at, 0).claimed[_SOURCE.name]
        intake(landing_zone.landed_files(_SOURCE, zone, seen, lake, run), lake, run)
        for one in _CATALOG.in_order:
            refresh(one, lake, spark, run, partition_columns=_CATALOG.partition_columns)


def record() -> bool:
    """Record, unless another process does; returns whether a recording exists now.

    Raises:
        JarsUnavailable: a jar is missing and cannot be fetched.
        SparkDidNotStart: the JVM ended before it was ready.
        OSError: the recording cannot be stored.
    """
    return spark_recording.record(local_spark(), _refresh_all) is not None


def main() -> None:
    """Record with low priority, so that other work on this machine is not slowed down."""
    os.nice(_GENTLE)
    signal.alarm(_SECONDS)
    begun = datetime.now()
    try:
        done = record()
    except (MedallionError, OSError) as error:
        sys.exit(f"medallion: starts stay as slow as they are: {error}")
    print(f"medallion: recorded in {datetime.now() - begun}" if done else "medallion: nothing was recorded")


if __name__ == "__main__":
    main()
