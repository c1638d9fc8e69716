"""How far Spark is with what it works on."""

from __future__ import annotations

from pyspark.sql import SparkSession


def tasks_done(spark: SparkSession) -> list[tuple[int, int]]:
    """The stages that are at work, and how many tasks of each are done."""
    tracker = spark.sparkContext.statusTracker()
    found = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
    return [(stage.stageId, stage.numCompletedTasks) for stage in found if stage]
