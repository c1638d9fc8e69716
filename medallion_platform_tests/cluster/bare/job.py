"""A job of Dagster that works with Spark in its own process."""

import os

import dagster as dg
from append import append

from medallion_platform.installation.local_spark import local_spark


class AppendConfig(dg.Config):
    """What is appended to."""

    table: str
    megabytes: int = 0


@dg.op
def days(config: AppendConfig) -> None:
    """The rows of all days."""
    append(local_spark(os.environ["LAKE"]).session(), config.table, config.megabytes)


@dg.job(executor_def=dg.in_process_executor)
def bare() -> None:
    """The rows of all days."""
    days()


defs = dg.Definitions(jobs=[bare])
