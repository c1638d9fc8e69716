"""What ends the pod of a run that is asked to end, told by the run itself.

A process that gets SIGTERM has Dagster report the failure at once. Then nobody asks what ended its pod, since
Dagster looks after those of runs at work. The sentence and the tag are those of `Launcher`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.events import EngineEventData

from medallion_platform.kubernetes.own_pod import own_pod_end
from medallion_platform.orchestration.failures import CLASS, class_of_end
from medallion_platform.orchestration.memory_reports import ENDED_BY

T = TypeVar("T")


def with_word_of_the_end(
    context: dg.OpExecutionContext | dg.AssetExecutionContext, work: Callable[[], T]
) -> T:
    """The result of `work`; where it is interrupted because its pod has to go, the run says why."""
    try:
        return work()
    except DagsterExecutionInterruptedError:
        _tell(context)
        raise


def _tell(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> None:
    """Nothing is told of a run that somebody ends through Dagster, whose pod may stay, nor of one that the
    launcher ends, which has told why."""
    try:
        run_id = context.run.run_id
        run = context.instance.get_run_by_id(run_id)
        if run and not run.tags.get(ENDED_BY) and (end := own_pod_end()):
            tags = {ENDED_BY: end.by, CLASS: class_of_end(run_id, end.by).value}
            context.instance.add_run_tags(run_id, tags)
            context.instance.report_engine_event(f"The run ends: {end.text}", context.run, EngineEventData())
    except Exception as error:
        context.log.warning(f"what ends the run is not told: {error}")
