"""A code location in which a user has Dagster try again whatever fails: a job over a table of the platform.

The table's refresh fails as it asks for Spark, so none starts; each attempt is counted in a file.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NoReturn

import dagster as dg
import pyspark.sql.types as T
from pyspark.sql import DataFrame

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.installation.settings import Settings
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.location import lakehouse_of
from medallion_platform.orchestration.names import asset_key
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.table import table
from medallion_platform_tests.pipeline import toy

ATTEMPTS, ASKED, HOLD = "attempts", "asked", "hold"
"""Files in the home: the process of each attempt, one a line; what is asked for; hold an attempt up."""
AWAY = "one whose server is away"
"""What is asked for and fails so that it passes in a moment."""


def home() -> Path:
    """The home of this process."""
    return Path(os.environ["MEDALLION_HOME"])


class Keys(ContractModel):
    """The keys of all events."""

    event_id: T.StringType = Field()


@table("silver.keys", contract=Keys.contract, inputs={"events": toy.CSV.table}, incremental="append")
def keys(events: DataFrame) -> DataFrame:
    """The key of each event."""
    return events.select("event_id")


class NoSpark:
    """A provider that counts who asks, and fails."""

    def session(self, *, quick: bool = True) -> NoReturn:
        with (home() / ATTEMPTS).open("a") as file:
            file.write(f"{os.getpid()}\n")
        while (home() / HOLD).exists():
            time.sleep(0.05)
        away = (home() / ASKED).read_text() == AWAY
        raise ConnectionError("the test wants it so") if away else Exception("the test wants it so")


theirs = dg.define_asset_job(
    "theirs",
    selection=[asset_key("silver.keys")],
    op_retry_policy=dg.RetryPolicy(max_retries=4),
    tags={"dagster/max_retries": "9", "dagster/retry_on_asset_or_op_failure": "true"},
)


@dg.sensor(job=theirs, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def asking() -> dg.RunRequest | dg.SkipReason:
    """Asks for a run for each text in the file."""
    file = home() / ASKED
    return dg.RunRequest(file.read_text()) if file.exists() else dg.SkipReason("nothing")


catalog = Catalog((toy.CSV,), (keys,))


def definitions() -> dg.Definitions:
    """The table and the user's job, without the platform's sensors, which would ask for it, too."""
    built = build_defs(catalog, lakehouse_of(Settings()), spark=NoSpark())
    return dg.Definitions(
        assets=built.assets,
        jobs=[theirs],
        sensors=[asking],
        resources=built.resources,
        executor=built.executor,
    )


defs = definitions()
