"""At which stage of Spark work on a table failed: told by an event of its run, and read from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

import dagster as dg
from dagster._core.events import EngineEventData

from medallion_platform.orchestration.failures import Context
from medallion_platform.spark.failed_stage import FailedStage, failed_stage

T = TypeVar("T")

_TABLE, _OPERATORS = "failed_table", "operators"
"""Entries of the event's metadata beside the figures of the stage."""


def with_stage_report(context: Context, table: str, work: Callable[[], T]) -> T:
    """The result of `work` on a table; if it fails at a stage of Spark, an event of the run says which."""
    began = time.time()
    try:
        return work()
    except Exception:
        with suppress(Exception):  # its JVM may have ended; the run fails with what happened, not with this
            if stage := failed_stage(began):
                _tell(context, table, stage)
        raise


def stage_of(on: dg.DagsterInstance, run_id: str, table: str) -> FailedStage | None:
    """The stage at which a run's work on a table failed last, None if it says of none."""
    for entry in reversed(on.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)):
        if entry.dagster_event is None:
            continue
        told = {name: value.value for name, value in entry.dagster_event.engine_event_data.metadata.items()}
        if told.pop(_TABLE, None) == table:
            operators = str(told.pop(_OPERATORS, "")).split(", ")
            return FailedStage(tuple(filter(None, operators)), _numbers(told))
    return None


def _tell(context: Context, table: str, stage: FailedStage) -> None:
    operators = ", ".join(stage.operators)
    told = EngineEventData({_TABLE: table, _OPERATORS: operators, **stage.figures})
    text = f"{table}: Spark failed at a stage of {stage.figures['tasks']} tasks ({operators})"
    context.instance.report_engine_event(text, context.run, told)


def _numbers(told: Mapping[str, object]) -> dict[str, int | float]:
    return {name: value for name, value in told.items() if isinstance(value, int | float)}
