"""A small code location for a real daemon: a source, three tables that follow, and 200 that wait for theirs.

A test holds up or fails the refresh of `gold.fragile` by a file, as a machine or a disk would.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pyspark.sql.types as T
from pandera.api.pyspark.model_config import BaseConfig
from pyspark.sql import DataFrame

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.installation.settings import Settings
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.location import lakehouse_of
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake import triage
from medallion_platform.pipeline.table import Upstream, daily, table
from medallion_platform_tests.sales import DailySales, source, summed

HOLD, HELD, FAIL = "hold", "held", "fail"
"""Files in the home: hold the refresh up; it is held up; let it fail."""

TOMORROW = "TOY_ACCEPTS_TOMORROW"
"""Set where rows of tomorrow are accepted at any time, as they are in the last hour of a day."""

TODAY = datetime.now(UTC).date()


class SilverSales(ContractModel):
    """One sale, by its day."""

    till: T.StringType = Field()
    euros: T.LongType = Field(ge=0)
    event_date: T.DateType = Field()

    class Config(BaseConfig):
        """Table options."""

        metadata: ClassVar = {"partitioned_by": ["event_date"]}


SOURCE = source(TODAY - timedelta(days=3))
NEVER = replace(SOURCE, name="shop.never", table="bronze.never", claims=("never/**",))


@table(
    "silver.sales",
    contract=SilverSales.contract,
    inputs={"sales": "bronze.sales"},
    incremental="append",
    partition=daily("event_date"),
)
def silver_sales(sales: DataFrame) -> DataFrame:
    """Every sale."""
    return sales.select("till", "euros", "event_date")


@table(
    "gold.fragile",
    contract=DailySales.contract,
    inputs={"sales": "silver.sales"},
    incremental="replace_partitions",
    partition=daily("event_date"),
)
def fragile(sales: DataFrame) -> DataFrame:
    """The sum of a day, unless a test is against it."""
    home = Path(os.environ["MEDALLION_HOME"])
    if (home / FAIL).exists():
        raise Exception("the test wants it so")  # of no class that anybody knows
    if (home / HOLD).exists():
        (home / HELD).touch()
        until = time.monotonic() + 120
        while (home / HOLD).exists() and time.monotonic() < until:
            time.sleep(0.05)
    return summed(sales)


@table(
    "gold.sums",
    contract=DailySales.contract,
    inputs={"sales": "silver.sales"},
    incremental="replace_partitions",
    partition=daily("event_date"),
)
def sums(sales: DataFrame) -> DataFrame:
    """The sum of a day."""
    return summed(sales)


_LATER = {"sales": Upstream("bronze.never")}
MANY = [replace(silver_sales, name=f"silver.never_{n:03}", inputs=_LATER) for n in range(200)]

catalog = Catalog((SOURCE, NEVER), (silver_sales, fragile, sums, *MANY))

if os.environ.get(TOMORROW):
    triage.CLOCKS_DIFFER = timedelta(days=2)

defs = build_defs(catalog, lakehouse_of(Settings()))
