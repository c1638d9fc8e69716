"""How long the launch of this process's run took, told once, when its first piece of work is done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import dagster as dg

from medallion_platform.kubernetes.own_pod import annotate_own_pod, own_pod_instants
from medallion_platform.observability.launch import launch_of
from medallion_platform.spark.started import spark_instants

if TYPE_CHECKING:
    from dagster import EventLogEntry

LAUNCH = "medallion/launch"
"""The tag of a run, for people, and the annotation of its pod, for who counts launches."""

_QUEUED, _STARTING, _BEGAN = (
    dg.DagsterEventType.RUN_ENQUEUED,
    dg.DagsterEventType.RUN_STARTING,
    dg.DagsterEventType.RUN_START,
)
_told: set[str] = set()


def report_launch(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> None:
    """Tag the run with its launch, and annotate its pod; only the first time that a process is asked to.

    The work does not fail for it.
    """
    run_id = context.run.run_id
    if run_id in _told:
        return
    _told.add(run_id)
    try:
        events = context.instance.all_logs(run_id, of_type={_QUEUED, _STARTING, _BEGAN})
        asked, ended = run_instants(events)
        launch = launch_of(asked, {**ended, **own_pod_instants(), **spark_instants()})
        context.instance.add_run_tags(run_id, {LAUNCH: str(launch)})
        annotate_own_pod(LAUNCH, launch.to_json())
    except Exception as error:
        context.log.warning(f"how long the launch took is not told: {error}")


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
