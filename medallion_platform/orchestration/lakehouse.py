"""The one resource: where the lake and the landing zone are, and the Spark session of this run."""

from typing import TYPE_CHECKING

import dagster as dg

from medallion_platform import storage
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.lake_format import open_lake
from medallion_platform.pipeline.catalog import Catalog

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from medallion_platform.settings import Settings


class Lakehouse(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Paths of an installation; `session` starts the JVM on first use."""

    lake_root: str
    landing: str
    feature_repo: str
    settle_seconds: float = 5.0
    spark_reads_topics: bool = False
    keep_runs_days: float = 30.0

    @property
    def lake(self) -> Lake:
        """All tables.

        Raises:
            NewerLake: a newer version of the platform has written them.
        """
        return open_lake(self.lake_root)

    def session(self, *, quick: bool = True) -> "SparkSession":
        """The Spark session of this process; quick: for a short run, which compiles as little as it can."""
        from medallion_platform.runtime import local_spark

        return local_spark(self.lake_root, topics=self.spark_reads_topics).session(quick=quick)


def lakehouse_of(settings: "Settings", catalog: Catalog) -> Lakehouse:
    """The resource that these settings describe, with what this catalog needs."""
    return Lakehouse(
        lake_root=str(settings.lake),
        landing=str(settings.landing),
        feature_repo=str(settings.feature_repo),
        settle_seconds=settings.settle_seconds,
        spark_reads_topics=catalog.spark_reads_topics,
        keep_runs_days=settings.keep_runs_days,
    )


def resources(lakehouse: Lakehouse) -> dict[str, dg.ResourceDefinition]:
    """What runs are given: where an installation lies is said by its settings, not at launch.

    A run refuses storage that loses commits, and a lake of a newer version, before anything is read or
    written.
    """

    def proven(_: dg.InitResourceContext) -> Lakehouse:
        storage.prove(lakehouse.lake_root)
        open_lake(lakehouse.lake_root)
        return lakehouse

    return {
        "lakehouse": dg.ResourceDefinition(proven, config_schema={}),
        # Each step asks Dagster for a place to keep its output, though none of ours has one.
        "io_manager": dg.IOManagerDefinition(lambda _: dg.InMemoryIOManager(), config_schema={}),
    }
