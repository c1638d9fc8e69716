"""A shop's sales, for tests that declare tables of their own: contracts, a source, the sum of a day."""

from __future__ import annotations

from datetime import date
from typing import ClassVar

import pyspark.sql.types as T
from pandera.api.pyspark.model_config import BaseConfig
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.formats.csv import Csv


class Sales(ContractModel):
    """One sale."""

    till: T.StringType = Field()
    sold_at: T.TimestampType = Field()
    euros: T.LongType = Field(ge=0)

    class Config(BaseConfig):
        """Table options."""

        metadata: ClassVar = {"event_time": "sold_at", "partitioned_by": ["event_date"]}


class DailySales(ContractModel):
    """A day's sales."""

    event_date: T.DateType = Field()
    sales: T.LongType = Field(ge=1)
    euros: T.LongType = Field(ge=0)

    class Config(BaseConfig):
        """Table options."""

        metadata: ClassVar = {
            "key": ["event_date"],
            "partitioned_by": ["event_date"],
            "row_count_column": "sales",
        }


def source(first_day: date) -> FileSource:
    """Files of sales below `shop/`, from a day on."""
    return FileSource(
        name="shop.sales",
        table="bronze.sales",
        contract=Sales.contract,
        claims=("shop/**",),
        format=Csv(),
        domain="shop",
        first_day=first_day,
    )


def summed(sales: DataFrame) -> DataFrame:
    """The sum of each day."""
    return sales.groupBy("event_date").agg(F.count("*").alias("sales"), F.sum("euros").alias("euros"))
