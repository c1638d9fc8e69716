"""One table takes memory of the driver's Python, the other one of the executors' JVMs."""

from __future__ import annotations

import pyspark.sql.types as T
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from medallion_platform import ContractModel, Csv, Field, FileSource, table

TASKS = 6


class Meals(ContractModel):
    """How much memory work on these rows takes."""

    meal: T.StringType = Field(str_length={"min_value": 1}, description="what the order is known by")
    megabytes: T.LongType = Field(ge=0, description="memory, in units of 1 MiB")

    class Config:
        """Table options."""

        metadata = {"key": ["meal"]}  # noqa: RUF012


class Hungry(ContractModel):
    """The meals that fitted."""

    meal: T.StringType = Field(description="what the order is known by")
    megabytes: T.LongType = Field(ge=0, description="memory, in units of 1 MiB")

    class Config:
        """Table options."""

        metadata = {"key": ["meal"]}  # noqa: RUF012


class Banquet(ContractModel):
    """What each of the tasks that work side by side had in its hands."""

    part: T.LongType = Field(ge=0, description="the number of the task")
    digest: T.StringType = Field(description="SHA-256 of what it had")

    class Config:
        """Table options."""

        metadata = {"key": ["part"]}  # noqa: RUF012


def _files(name: str) -> FileSource:
    return FileSource(
        name=f"hungry.{name}",
        table=f"bronze.{name}",
        contract=Meals.contract,
        claims=(f"{name}/**",),
        format=Csv(),
        domain="hungry",
    )


MEALS, BANQUETS = _files("meals"), _files("banquets")


@table(
    "silver.hungry",
    contract=Hungry.contract,
    inputs={"meals": "bronze.meals"},
    incremental="replace_partitions",
)
def hungry(meals: DataFrame) -> DataFrame:
    """Takes the memory of the largest meal in the driver's Python."""
    (most,) = meals.agg(F.max("megabytes")).collect()
    taken = b"x" * ((most[0] or 0) << 20)
    return meals.select("meal", "megabytes").where(F.lit(len(taken) >= 0))


@table(
    "silver.banquet",
    contract=Banquet.contract,
    inputs={"banquets": "bronze.banquets"},
    incremental="replace_partitions",
)
def banquet(banquets: DataFrame) -> DataFrame:
    """Each of six tasks holds as much as the largest meal says, while it makes a digest of it."""
    most = F.broadcast(banquets.agg(F.max("megabytes").alias("most")))
    tasks = banquets.sparkSession.range(0, TASKS, 1, TASKS).withColumnRenamed("id", "part")
    held = F.expr("repeat('x', cast(coalesce(most, 0) * 1048576 as int))")
    return tasks.crossJoin(most).select("part", F.sha2(held, 256).alias("digest"))
