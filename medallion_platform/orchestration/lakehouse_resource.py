"""The resource of every run: where the lake and the landing zone are, where Spark runs, and the tables."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import PrivateAttr

from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.lake_format import open_lake, open_to_write
from medallion_platform.pipeline.catalog import Catalog

if TYPE_CHECKING:
    from dagster_deltalake import DeltaTableResource
    from pyspark.sql import SparkSession

    from medallion_platform.installation.settings import Settings
    from medallion_platform.orchestration.spark_resources import PlatformSpark
    from medallion_platform.spark.provider import SparkProvider


class Lakehouse(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The paths of an installation and its Spark; `session` starts Spark on first use."""

    lake_root: str
    landing: str
    feature_repo: str
    settle_seconds: float = 5.0
    spark_reads_topics: bool = False
    spark_memory: str = ""
    """As the settings say unless given, like `spark_cores`."""
    spark_cores: int | None = None
    keep_runs_days: float = 30.0
    most_memory: str = "16g"
    backup: str = ""
    """Where backups are kept, "" if none are made."""
    _spark: "SparkProvider | None" = PrivateAttr(default=None)
    _of_a_run: bool = PrivateAttr(default=False)

    @property
    def lake(self) -> Lake:
        """All tables.

        Raises:
            NewerLake: a newer version of the platform has written them.
            storage.Unusable: in a run, it cannot be reached, or loses commits.
        """
        return (open_to_write if self._of_a_run else open_lake)(self.lake_root)

    def on(self, spark: "SparkProvider") -> "Lakehouse":
        """The same lakehouse with another Spark provider."""
        moved = self.model_copy()
        moved._spark = spark
        return moved

    @property
    def spark(self) -> "SparkProvider":
        """The Spark provider: the one that this process was started with, unless another was given."""
        if self._spark is None:
            from medallion_platform.installation.cluster_spark import spark_of_process

            self._spark = spark_of_process(
                self.lake_root,
                topics=self.spark_reads_topics,
                memory=self.spark_memory,
                cores=self.spark_cores,
            )
        return self._spark

    @property
    def executor_memory(self) -> int:
        """Bytes of the pod of each executor; 0 where Spark's tasks run in this process, or none ran yet."""
        if self._spark is None:  # who does not use it does not load it to ask
            return 0
        from medallion_platform.spark.kubernetes import KubernetesSpark

        return self._spark.executors.memory if isinstance(self._spark, KubernetesSpark) else 0

    @property
    def executor_peak(self) -> int:
        """Bytes of the smallest pod that each executor would have fitted into; 0 where that is not known."""
        if not self.executor_memory:
            return 0
        from medallion_platform.spark.kubernetes import JAVA_SHARE
        from medallion_platform.spark.memory import executor_heap

        return int(executor_heap() / JAVA_SHARE)

    def resize_executors(self, memory: int) -> None:
        """End the session; the next one has executors in pods of so many bytes."""
        from medallion_platform.spark.driver import end_spark
        from medallion_platform.spark.kubernetes import KubernetesSpark

        assert isinstance(self._spark, KubernetesSpark)
        end_spark()
        self._spark = replace(self._spark, executors=replace(self._spark.executors, memory=memory))

    def start_spark(self) -> None:
        """Start Spark, and ask for executors without waiting for them."""
        from medallion_platform.spark.kubernetes import KubernetesSpark

        if isinstance(self.spark, KubernetesSpark):
            self.spark.start()
        else:
            self.spark.session()

    def session(self, *, quick: bool = True) -> "SparkSession":
        """The Spark session of this process; quick: optimize for a short run, with little compilation."""
        return self.spark.session(quick=quick)


def lakehouse_of(settings: "Settings", catalog: Catalog) -> Lakehouse:
    """The resource for these settings and this catalog."""
    return Lakehouse(
        lake_root=str(settings.lake),
        landing=str(settings.landing),
        feature_repo=str(settings.feature_repo),
        settle_seconds=settings.settle_seconds,
        spark_reads_topics=catalog.spark_reads_topics,
        spark_memory=settings.spark_memory,
        spark_cores=settings.spark_cores,
        keep_runs_days=settings.keep_runs_days,
        most_memory=settings.most_memory,
        backup=str(settings.backup or ""),
    )


def run_resources(lakehouse: Lakehouse, tables: Iterable[str]) -> dict[str, dg.ResourceDefinition]:
    """The resources of runs; paths come from the settings and not from the launch.

    In addition to those of our own assets: the session as dagster-pyspark's resource, named `pyspark` and
    `spark`, and each table as dagster-deltalake's resource, named like `silver_events`. A run refuses storage
    that loses commits, and a lake of a newer version, when its steps ask for the lake: of a resource that
    fails, nobody could tell why.
    """
    of_runs = lakehouse.model_copy()
    of_runs._of_a_run = True

    def spark(_: dg.InitResourceContext) -> "PlatformSpark":
        from medallion_platform.orchestration.spark_resources import PlatformSpark

        return PlatformSpark(lakehouse.spark)

    def table(name: str) -> dg.ResourceDefinition:
        def opened(_: dg.InitResourceContext) -> "DeltaTableResource":
            from medallion_platform.orchestration.spark_resources import delta_table

            return delta_table(lakehouse.lake.path(name))

        return dg.ResourceDefinition(opened, config_schema={})

    return {
        **{name.replace(".", "_"): table(name) for name in tables},
        "pyspark": dg.ResourceDefinition(spark, config_schema={}),
        "spark": dg.ResourceDefinition(spark, config_schema={}),
        "lakehouse": dg.ResourceDefinition(lambda _: of_runs, config_schema={}),
        # Each step asks Dagster for a place to keep its output, though none of ours has one.
        "io_manager": dg.IOManagerDefinition(lambda _: dg.InMemoryIOManager(), config_schema={}),
    }
