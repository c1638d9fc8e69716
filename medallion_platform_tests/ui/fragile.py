"""A project of one source and a table that a test can let fail."""

from __future__ import annotations

import builtins
import os
from datetime import date
from pathlib import Path

from pyspark.sql import DataFrame

from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.table import daily, table
from medallion_platform_tests.sales import DailySales, source, summed

FAULT = "fault"
"""A file in the home that names the error of which the transform dies."""


@table(
    "gold.fragile",
    contract=DailySales.contract,
    inputs={"sales": "bronze.sales"},
    incremental="replace_partitions",
    partition=daily("event_date"),
)
def fragile(sales: DataFrame) -> DataFrame:
    """The sum of a day, unless a test is against it."""
    fault = Path(os.environ["MEDALLION_HOME"]) / FAULT
    if fault.exists():
        raise getattr(builtins, fault.read_text())("the test wants it so")
    return summed(sales)


catalog = Catalog((source(date(2026, 2, 1)),), (fragile,))
