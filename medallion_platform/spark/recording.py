"""Records what Java loads while Spark works, into the ahead-of-time cache of a provider."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pyspark.sql import SparkSession

from medallion_platform.spark.aot_cache import AlreadyRecording
from medallion_platform.spark.driver import end_spark
from medallion_platform.spark.provider import LocalSpark

Work = Callable[[Callable[[], SparkSession], Path], None]
"""Is given what starts the session, and an empty folder that is deleted afterwards."""


def record(spark: LocalSpark, work: Work) -> Path | None:
    """Record `work`, unless another process records; returns the cache, None if there is none now.

    It ends the session of this process.

    Raises:
        SparkDidNotStart: the JVM ended before it was ready.
        OSError: the recording cannot be stored.
    """
    cache = spark.aot_cache
    if cache is None:
        return None
    try:
        with cache.recorded() as options, TemporaryDirectory(prefix="medallion-recording-") as folder:
            recorded = replace(spark, options=(*spark.options, *options), kept=None)
            try:
                work(recorded.session, Path(folder))
            finally:
                end_spark()
    except AlreadyRecording:
        return None
    return cache.found()
