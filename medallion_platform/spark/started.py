"""When this process's Spark was ready, and began to work; whether it has work for executors."""

from __future__ import annotations

import sys
from typing import Any


def spark_instants() -> dict[str, float]:
    """When this process's Spark reached what it has reached, in seconds since the epoch.

    session: its driver was ready. first_executor: an executor came. first_task: it began its first task.
    """
    spark = _active_context()
    if spark is None:
        return {}
    store = spark._jsc.sc().statusStore()
    came = {str(executor.id()): _seconds(executor.addTime()) for executor in _each(store.executorList(False))}
    quantiles = spark._gateway.new_array(spark._jvm.double, 0)
    stages = _each(store.stageList(None, False, False, quantiles, None))
    began = [
        _seconds(first.get()) for stage in stages if (first := stage.firstTaskLaunchedTime()).isDefined()
    ]
    others = [at for name, at in came.items() if name != "driver"]
    found = {"session": came.get("driver"), "first_executor": min(others, default=None)}
    found["first_task"] = min(began, default=None)
    return {name: at for name, at in found.items() if at is not None}


def has_stages_at_work() -> bool:
    """Whether stages of this process's Spark are at work, in its own threads or in executors."""
    spark = _active_context()
    return spark is not None and bool(spark.statusTracker().getActiveStageIds())


def _active_context() -> Any:
    if "pyspark" not in sys.modules:  # who has no JVM does not load it to ask
        return None
    from pyspark import SparkContext

    return SparkContext._active_spark_context


def _each(sequence: Any) -> list[Any]:
    return [sequence.apply(n) for n in range(sequence.size())]


def _seconds(date: Any) -> float:
    return int(date.getTime()) / 1000
