"""How much memory Spark holds: the heap of this process's JVM, and what its executors held."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

_RESERVED = 300 << 20
_FRACTION = 0.6
"""Of a heap less `_RESERVED`, what Spark gives to rows ("Memory Management Overview" of its tuning guide)."""


@dataclass(frozen=True)
class Heap:
    """The heap of a JVM in bytes: its most, what it has taken of the system, and what lives in it."""

    most: int
    taken: int
    live: int


def heap() -> Heap | None:
    """The heap of this process's JVM; None without one.

    What lives in it is what its last collections left. The old generation may have had none yet: then all of
    it counts, so that never too little is told.
    """
    if "pyspark" not in sys.modules:  # who has no JVM does not load it to ask
        return None
    from pyspark import SparkContext

    jvm: Any = SparkContext._jvm
    if jvm is None:
        return None
    gauges = dict(jvm.com.codahale.metrics.jvm.MemoryUsageGaugeSet().getMetrics())
    value = {str(name): int(gauge.getValue()) for name, gauge in gauges.items() if _is_size(str(name))}
    left = {name: size for name, size in value.items() if name.endswith(".used-after-gc")}
    live = sum(
        size or (value[name.removesuffix("-after-gc")] if _is_old(name) else 0) for name, size in left.items()
    )
    return Heap(value["heap.max"], value["heap.committed"], live)


def executor_heap() -> int:
    """The largest heap, in bytes, that one of this session's executors needed for what Spark held in it; 0
    without executors.

    Not counted is what transforms in Python or Java keep for themselves.
    """
    from pyspark import SparkContext

    spark: Any = SparkContext._active_spark_context
    if spark is None:
        return 0
    summaries = spark._jsc.sc().statusStore().executorList(False)
    peaks = [
        peak.get()
        for summary in (summaries.apply(n) for n in range(summaries.size()))
        if str(summary.id()) != "driver" and (peak := summary.peakMemoryMetrics()).isDefined()
    ]
    names = ("OnHeapExecutionMemory", "OnHeapStorageMemory")
    held = max((sum(int(peak.getMetricValue(name)) for name in names) for peak in peaks), default=0)
    return int(held / _FRACTION) + _RESERVED if peaks else 0


def _is_size(name: str) -> bool:
    return name.startswith(("heap.", "pools.")) and not name.endswith(".usage")


def _is_old(pool: str) -> bool:
    return "Old" in pool or "Tenured" in pool
