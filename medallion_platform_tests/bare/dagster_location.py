"""Two assets of Dagster that append by Spark, with a retry policy, and a sensor that asks for a file."""

import dagster as dg
from pyspark.sql import DataFrame

from medallion_platform_tests.bare.work import FILE, SCHEMA, WELL, home, spark, strike

AGAIN = dg.RetryPolicy(max_retries=3, delay=1)


class File(dg.Config):
    name: str


def append(rows: DataFrame, table: str) -> None:
    rows.write.format("delta").mode("append").save(str(home() / table))


def write(rows: DataFrame, table: str) -> None:
    """Dead letters, then rows."""
    good = rows.where(WELL[table]).cache()
    append(rows.where(f"NOT ({WELL[table]})"), f"{table}_letters")
    strike(table, lambda: append(good, table))
    append(good, table)


@dg.asset(retry_policy=AGAIN)
def bronze(config: File) -> None:
    write(spark().read.schema(SCHEMA).json(str(home() / "landing" / config.name)), "bronze")


@dg.asset(deps=[bronze], retry_policy=AGAIN)
def silver(config: File) -> None:
    rows = spark().read.format("delta").load(str(home() / "bronze"))
    write(rows.where(rows["file"] == config.name), "silver")


job = dg.define_asset_job("load", selection=[bronze, silver])


@dg.sensor(job=job, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def arrived() -> dg.RunRequest:
    config = {"config": {"name": FILE}}
    return dg.RunRequest(run_key=FILE, run_config={"ops": {"bronze": config, "silver": config}})


defs = dg.Definitions(assets=[bronze, silver], jobs=[job], sensors=[arrived])
