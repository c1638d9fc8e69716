"""Where Spark runs: providers of a session, and everything that needs access to its JVM.

`LocalSpark` runs tasks in threads of this machine; `kubernetes.py` has the provider that runs them in pods.
Spark Connect (a remote session) would be a further one; outside of this package nothing knows of a JVM.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pyspark.sql import DataFrame, SparkSession

from medallion_platform import container
from medallion_platform.spark.driver import Driver, JavaObject


class SparkProvider(Protocol):
    """Gives the Spark session of this process, started on first use."""

    def session(self, *, quick: bool = True) -> SparkSession:
        """The session; quick: optimize for a short run, with as little compilation as possible."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocalSpark(Driver):
    """Spark in threads of the driver's own JVM."""

    cores: int | None = None
    """Threads; as many as the machine has, or the container may use, unless given."""

    def session(self, *, quick: bool = True) -> SparkSession:
        """The one Spark session of this process.

        Raises:
            SparkDidNotStart: the JVM ended before it was ready.
        """
        threads = self.cores or container.cores()
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        where = {
            "spark.master": f"local[{threads}]",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
        }
        return self.start(where, threads, quick)


def analyzed_plan(rows: DataFrame) -> str:
    """The plan of a frame; its first line has the columns. "" if its session has no JVM in this process."""
    frame: JavaObject = getattr(rows, "_jdf", None)
    return "" if frame is None else str(frame.queryExecution().analyzed().toString())


def spark_uri(spark: SparkSession, path: str) -> str:
    """The URI that Spark uses for a file or folder, also in `_metadata.file_path`."""
    found = _hadoop_path(spark, path)
    return str(_hadoop_file_system(spark, found).makeQualified(found).toUri().toString())


def delete_folder(spark: SparkSession, folder: str) -> None:
    """Delete a folder that Spark made; in a bucket, an object may represent an empty folder."""
    path = _hadoop_path(spark, folder)
    _hadoop_file_system(spark, path).delete(path, True)


def secret_row(spark: SparkSession, values: Mapping[str, bytes]) -> DataFrame:
    """One row of binary columns that never appears in plans, logs or files; a plan shows only its columns."""
    jvm: JavaObject = spark._jvm
    gateway: JavaObject = spark.sparkContext._gateway
    session: JavaObject = spark._jsparkSession
    cells = gateway.new_array(jvm.Object, len(values))
    for i, value in enumerate(values.values()):
        cells[i] = bytearray(value)
    rows = jvm.java.util.ArrayList()
    rows.add(jvm.org.apache.spark.sql.RowFactory.create(cells))
    schema = jvm.org.apache.spark.sql.types.StructType.fromDDL(", ".join(f"{n} BINARY" for n in values))
    return DataFrame(session.createDataFrame(rows, schema), spark)


def _hadoop_path(spark: SparkSession, path: str) -> JavaObject:
    jvm: JavaObject = spark._jvm
    return jvm.org.apache.hadoop.fs.Path(path)


def _hadoop_file_system(spark: SparkSession, path: JavaObject) -> JavaObject:
    session: JavaObject = spark._jsparkSession
    return path.getFileSystem(session.sessionState().newHadoopConf())
