"""How long the launch of this process's run took, told once, as soon as its first task began."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, TypeVar

import dagster as dg
from dagster._core.events import EngineEventData

from medallion_platform.kubernetes.own_pod import LAUNCH, annotate_own_pod, own_pod_instants
from medallion_platform.observability.launch import launch_of
from medallion_platform.spark.started import spark_instants

if TYPE_CHECKING:
    from dagster import EventLogEntry

T = TypeVar("T")

Context = dg.OpExecutionContext | dg.AssetExecutionContext

_QUEUED, _STARTING, _BEGAN = (
    dg.DagsterEventType.RUN_ENQUEUED,
    dg.DagsterEventType.RUN_STARTING,
    dg.DagsterEventType.RUN_START,
)
_LOOK_EVERY = 0.5
"""Seconds between two looks whether a task began."""
_told: set[str] = set()


def with_launch_report(context: Context, work: Callable[[], T]) -> T:
    """The result of `work`; if it is the first of its run, how long the launch took is told meanwhile.

    It is told once Spark began a task, or the work ended without one. The work neither waits nor fails for
    it.
    """
    run_id = context.run.run_id
    if run_id in _told:
        return work()
    _told.add(run_id)
    ended = Event()

    def tell() -> None:
        while "first_task" not in _spark() and not ended.wait(_LOOK_EVERY):
            pass
        _report_launch(context)

    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        return work()
    finally:
        ended.set()
        teller.join()  # nobody else may write tags of the run meanwhile


def _spark() -> dict[str, float]:
    """What Spark reached; nothing while it is being started, or if it died."""
    with suppress(Exception):
        return spark_instants()
    return {}


def _report_launch(context: Context) -> None:
    """Tell the launch by a tag and an event of the run, and by an annotation of its pod."""
    on, run = context.instance, context.run
    try:
        asked, ended = run_instants(on.all_logs(run.run_id, of_type={_QUEUED, _STARTING, _BEGAN}))
        launch = launch_of(asked, {**ended, **own_pod_instants(), **_spark()})
        on.add_run_tags(run.run_id, {LAUNCH: str(launch)})
        on.report_engine_event(f"Launch of the run: {launch}", run, EngineEventData(dict(launch.seconds)))
        annotate_own_pod(LAUNCH, launch.to_json())
    except Exception as error:
        context.log.warning(f"how long the launch took is not told completely: {error}")


def run_instants(events: Iterable[EventLogEntry]) -> tuple[float, dict[str, float]]:
    """When a run was asked for, and when it reached what Dagster's events tell, in seconds since the epoch.

    queued: Dagster began to launch it, where it waited before. code_loaded: its process began to work.
    """
    at = {e.dagster_event.event_type: e.timestamp for e in events if e.dagster_event}
    ended: dict[str, float] = {}
    if _QUEUED in at and _STARTING in at:
        ended["queued"] = at[_STARTING]
    if _BEGAN in at:
        ended["code_loaded"] = at[_BEGAN]
    return min(at.values()), ended
