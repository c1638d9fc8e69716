"""At which stage Spark failed: its operators, how much it shuffled and spilled, how uneven its tasks were.

Read from the status store that feeds Spark's UI, which every driver keeps; its values are those of the REST
API ("Monitoring and Instrumentation" of Spark's manual).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_EVENTS_COME = 1000
"""Milliseconds that the store may be behind what the session was told."""
_INPUT, _SHUFFLED = "is", "stby"
"""What the store sorts tasks by (`TaskIndexNames`): bytes of input, bytes of all shuffle reads."""

_GENERATED = "WholeStageCodegen"


@dataclass(frozen=True)
class FailedStage:
    """A stage of Spark that failed.

    operators: of the physical plan, as Spark names them, without arguments. figures: by name; the number of
    its `tasks`; what these have read, written and spilled, as `input_bytes`, `shuffle_read_bytes`,
    `shuffle_written_bytes`, `spilled_bytes`; and `skew`: how many times the mean its largest one has read.
    """

    operators: tuple[str, ...]
    figures: dict[str, int | float]


def failed_stage(since: float) -> FailedStage | None:
    """The last stage of this process's session that failed since an instant, in seconds since the epoch."""
    if "pyspark" not in sys.modules:  # who has no JVM does not load it to ask
        return None
    from pyspark import SparkContext

    python: Any = SparkContext._active_spark_context
    if python is None:
        return None
    context = python._jsc.sc()
    with suppress(Exception):  # what it was told by then has to do
        context.listenerBus().waitUntilEmpty(_EVENTS_COME)
    store, jvm = context.statusStore(), python._jvm
    none = python._gateway.new_array(jvm.double, 0)
    failed = [
        (ended.get().getTime(), stage)
        for stage in _each(store.stageList(None, False, False, none, None))
        if str(stage.status()) == "FAILED" and (ended := stage.completionTime()).isDefined()
    ]
    if not failed or max(at for at, _ in failed) < since * 1000:
        return None
    _, last = max(failed, key=lambda found: found[0])
    return FailedStage(tuple(_operators(store, last)), _figures(store, jvm, last))


def _figures(store: Any, jvm: Any, stage: Any) -> dict[str, int | float]:
    found: dict[str, int | float] = {
        "tasks": int(stage.numTasks()),
        "input_bytes": int(stage.inputBytes()),
        "shuffle_read_bytes": int(stage.shuffleReadBytes()),
        "shuffle_written_bytes": int(stage.shuffleWriteBytes()),
        "spilled_bytes": int(stage.memoryBytesSpilled()),
    }
    whole = found["shuffle_read_bytes"] or found["input_bytes"]
    ended = int(stage.numCompleteTasks()) + int(stage.numFailedTasks()) + int(stage.numKilledTasks())
    if whole and ended:
        by = _SHUFFLED if found["shuffle_read_bytes"] else _INPUT
        found["skew"] = round(_largest(store, jvm, stage, by) * ended / whole, 1)
    return found


def _largest(store: Any, jvm: Any, stage: Any, by: str) -> int:
    """The most that one task of a stage has read.

    The store keeps what a task that failed has read as a negative number: such tasks are at the other end.
    """
    order, any_state = jvm.scala.Option.apply(by), jvm.java.util.ArrayList()
    ends = (
        task
        for ascending in (False, True)
        for task in _each(
            store.taskList(stage.stageId(), stage.attemptId(), 0, 1, order, ascending, any_state)
        )
    )
    return max(
        (_read(task.taskMetrics().get(), by) for task in ends if task.taskMetrics().isDefined()), default=0
    )


def _read(metrics: Any, by: str) -> int:
    if by == _INPUT:
        return int(metrics.inputMetrics().bytesRead())
    shuffled = metrics.shuffleReadMetrics()
    return int(shuffled.localBytesRead()) + int(shuffled.remoteBytesRead())


def _operators(store: Any, stage: Any) -> Iterator[str]:
    """The operators of a stage, what is read first; their arguments, which may hold values, are left out."""
    inside = _inside_generated_code(int(stage.stageId()))
    for cluster in _each(store.operationGraphForStage(stage.stageId()).rootCluster().childClusters()):
        for name in inside.get(str(cluster.name()), [str(cluster.name())]):
            yield re.sub(r"[^\w ].*", "", name).strip()


def _inside_generated_code(stage: int) -> dict[str, list[str]]:
    """The operators behind each `WholeStageCodegen (n)` of the query that a stage belongs to."""
    from pyspark.sql import SparkSession

    session: Any = SparkSession._instantiatedSession
    store = session._jsparkSession.sharedState().statusStore()
    for query in reversed(_each(store.executionsList())):
        if query.stages().contains(stage):
            nodes = _each(store.planGraph(query.executionId()).nodes())
            clusters = [node for node in nodes if str(node.name()).startswith(_GENERATED)]
            return {
                str(cluster.name()): [str(node.name()) for node in reversed(_each(cluster.nodes()))]
                for cluster in clusters
            }
    return {}


def _each(sequence: Any) -> list[Any]:
    return [sequence.apply(n) for n in range(sequence.size())]
