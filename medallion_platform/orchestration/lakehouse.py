"""The one resource: where the lake and the landing zone are, and the Spark session of this run."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from medallion_platform.lakehouse.lake import Lake

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class Lakehouse(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Paths of an installation; `session` starts the JVM on first use."""

    lake_root: str
    landing: str
    feature_repo: str
    settle_seconds: float = 5.0

    @property
    def lake(self) -> Lake:
        """All tables."""
        return Lake(Path(self.lake_root))

    def session(self) -> "SparkSession":
        """The Spark session of this process."""
        from medallion_platform.jars import jars
        from medallion_platform.lakehouse import spark

        return spark.session(jars())
