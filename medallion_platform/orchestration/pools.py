"""Which run holds the pool of a table: runs whose process is gone are closed and release it.

Dagster leaves this to its daemon, which may itself be dead. Everything here is read from the instance,
whether the daemon, the UI, Dagster's command line or the platform's started the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.launcher import DefaultRunLauncher

from medallion_platform.orchestration.progress import tell

if TYPE_CHECKING:
    from dagster import DagsterRun, RunRecord
    from dagster._utils.concurrency import ConcurrencyKeyInfo

PID_TAG = ".dagster/medallion_pid"
"""The process of a run that our command line started; a tag that the UI does not show."""

_OPEN = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING)
_BEFORE_ITS_EVENT = 2.0
"""Seconds that a process may seem younger than what it told: the clock of its start is a coarse one."""
_LONGEST_SLEEP = 1.0


@dataclass(frozen=True)
class PoolHolder:
    """A run that has a pool which another one waits for."""

    pool: str
    run_id: str


def close_dead_runs(on: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process is gone as failed, free what ended runs held of pools, and say so.

    Gives the ids of the runs that were closed. A run killed with its process stays "started" otherwise, and
    keeps its table's pool; so do its places in the queues of other pools. Where runs are
    processes of other machines, their launcher knows: nothing is done here.
    """
    if not isinstance(on.run_launcher, DefaultRunLauncher):
        return []
    closed = []
    for record in on.get_run_records(dg.RunsFilter(statuses=list(_OPEN))):
        run = record.dagster_run
        if _is_gone(on, record):
            on.report_run_failed(run, "The process that ran this is gone; nothing was lost.")
            closed.append(run.run_id)
            tell(run.job_name.strip("_").lower(), f"run {run.run_id[:8]} died with its process: closed")
    for run_id in {i for _, i in _in_pools(on)}:
        run = on.get_run_by_id(run_id)
        if run is None or run.is_finished:
            on.event_log_storage.free_concurrency_slots_for_run(run_id)
    return closed


def blocking(on: dg.DagsterInstance, run_ids: Sequence[str]) -> list[PoolHolder]:
    """The runs that hold pools which these runs wait for."""
    found = []
    for info in _pools(on):
        if any(step.run_id in run_ids for step in info.pending_steps):
            found += [PoolHolder(info.concurrency_key, i) for i in info.active_run_ids if i not in run_ids]
    return found


def own_runs(on: dg.DagsterInstance, pid: int) -> list[DagsterRun]:
    """Runs of this process that did not end."""
    ours = on.get_runs(dg.RunsFilter(tags={PID_TAG: str(pid)}))
    return [run for run in ours if not run.is_finished]


def sleep_while_waiting() -> None:
    """Let a step that waits for a pool sleep until it may ask again.

    Dagster 1.13 takes the least of zero and the times left, sleeps for less than nothing, and burns a core.
    """

    def seconds(self: InstanceConcurrencyContext) -> float:
        left = [at - time() for at in self._pending_timeouts.values()]
        return min(_LONGEST_SLEEP, max(0.01, min(left, default=0.0)))

    InstanceConcurrencyContext.interval_to_next_pending_claim_check = seconds  # type: ignore[method-assign]


def _pools(on: dg.DagsterInstance) -> list[ConcurrencyKeyInfo]:
    storage = on.event_log_storage
    keys = sorted(storage.get_concurrency_keys())
    return list(storage.get_concurrency_infos(keys).values())


def _in_pools(on: dg.DagsterInstance) -> Iterator[tuple[str, str]]:
    """(pool, run id) of each slot that is held and each place in a queue."""
    for info in _pools(on):
        for held in (*info.claimed_slots, *info.pending_steps):
            yield info.concurrency_key, held.run_id


def _is_gone(on: dg.DagsterInstance, record: RunRecord) -> bool:
    """Whether the process is known that runs it, and is not there any more."""
    worker = _worker(on, record)
    return worker is not None and not _is_alive(*worker)


def _worker(on: dg.DagsterInstance, record: RunRecord) -> tuple[int, float] | None:
    """(process id, when it was seen) of a run; None where it has not told yet."""
    run = record.dagster_run
    if pid := run.tags.get(PID_TAG):
        return int(pid), record.create_timestamp.timestamp()
    told = on.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT).records
    for entry in reversed([r.event_log_entry for r in told]):
        event = entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event else None
        if pid is not None:
            return int(str(pid.value)), entry.timestamp
    return None


def _is_alive(pid: int, seen: float) -> bool:
    """Whether a process that was there at `seen` still is: not another one that was given its number."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= seen + _BEFORE_ITS_EVENT
    except psutil.NoSuchProcess:
        return False
