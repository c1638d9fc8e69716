"""Which run holds the pool of a table: runs whose process is gone are closed and release it.

Dagster leaves this to its daemon, which may itself be dead. Everything here is read from the instance,
whether the daemon, the UI, Dagster's command line or the platform's started the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING

import dagster as dg
import psutil
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.launcher import DefaultRunLauncher

from medallion_platform.orchestration.memory_reports import ENDED_BY
from medallion_platform.orchestration.progress import report_progress

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
    """A run that holds a pool that another run waits for."""

    pool: str
    run_id: str


def close_dead_runs(on: dg.DagsterInstance) -> list[str]:
    """Mark runs without a process as failed, and free the pools of finished runs; logs both.

    Returns the ids of the closed runs. Otherwise a run that was killed with its process stays "started" and
    keeps its table's pool and its places in the queues of other pools. If runs are on other machines,
    their launcher is responsible and nothing is done here.
    """
    if not isinstance(on.run_launcher, DefaultRunLauncher):
        return []
    closed = []
    for record in on.get_run_records(dg.RunsFilter(statuses=list(_OPEN))):
        run = record.dagster_run
        if _process_is_gone(on, record):
            on.add_run_tags(run.run_id, {ENDED_BY: "killed"})
            on.report_run_failed(run, "The process that ran this is gone; nothing was lost.")
            closed.append(run.run_id)
            report_progress(
                run.job_name.strip("_").lower(), f"run {run.run_id[:8]} died with its process: closed"
            )
    for run_id in {i for _, i in _slots_in_pools(on)}:
        run = on.get_run_by_id(run_id)
        if run is None or run.is_finished:
            on.event_log_storage.free_concurrency_slots_for_run(run_id)
    return closed


def runs_waiting_for_pools(on: dg.DagsterInstance) -> set[str]:
    """The runs of which a step waits for its turn in a pool."""
    waiting = (step for info in _pool_infos(on) for step in info.pending_steps)
    return {step.run_id for step in waiting if step.assigned_timestamp is None}


def process_of(on: dg.DagsterInstance, record: RunRecord) -> psutil.Process | None:
    """The process of a run; None if it is not known, or gone."""
    worker = _worker_process(on, record)
    if worker is None or not _process_is_alive(*worker):
        return None
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(worker[0])
    return None


def runs_holding_pools(on: dg.DagsterInstance, run_ids: Sequence[str]) -> list[PoolHolder]:
    """The runs that hold pools which these runs wait for."""
    found = []
    for info in _pool_infos(on):
        if any(step.run_id in run_ids for step in info.pending_steps):
            found += [PoolHolder(info.concurrency_key, i) for i in info.active_run_ids if i not in run_ids]
    return found


def own_runs(on: dg.DagsterInstance, pid: int) -> list[DagsterRun]:
    """Active runs of this process."""
    ours = on.get_runs(dg.RunsFilter(tags={PID_TAG: str(pid)}))
    return [run for run in ours if not run.is_finished]


def sleep_while_waiting() -> None:
    """Let a step that waits for a pool sleep until its next try.

    Dagster 1.13 takes the minimum of zero and the remaining times, so it never sleeps and uses a whole core.
    """

    def seconds(self: InstanceConcurrencyContext) -> float:
        left = [at - time() for at in self._pending_timeouts.values()]
        return min(_LONGEST_SLEEP, max(0.01, min(left, default=0.0)))

    InstanceConcurrencyContext.interval_to_next_pending_claim_check = seconds  # type: ignore[method-assign]


def _pool_infos(on: dg.DagsterInstance) -> list[ConcurrencyKeyInfo]:
    storage = on.event_log_storage
    keys = sorted(storage.get_concurrency_keys())
    return list(storage.get_concurrency_infos(keys).values())


def _slots_in_pools(on: dg.DagsterInstance) -> Iterator[tuple[str, str]]:
    """(pool, run id) for each slot in use and each place in a queue."""
    for info in _pool_infos(on):
        for held in (*info.claimed_slots, *info.pending_steps):
            yield info.concurrency_key, held.run_id


def _process_is_gone(on: dg.DagsterInstance, record: RunRecord) -> bool:
    """Whether the process of a run is known and no longer exists."""
    worker = _worker_process(on, record)
    return worker is not None and not _process_is_alive(*worker)


def _worker_process(on: dg.DagsterInstance, record: RunRecord) -> tuple[int, float] | None:
    """(process id, time when it was seen) of a run; None if it is not known yet."""
    run = record.dagster_run
    if pid := run.tags.get(PID_TAG):
        return int(pid), record.create_timestamp.timestamp()
    events = on.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT).records
    for entry in reversed([r.event_log_entry for r in events]):
        event = entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event else None
        if pid is not None:
            return int(str(pid.value)), entry.timestamp
    return None


def _process_is_alive(pid: int, seen: float) -> bool:
    """Whether a process that existed at `seen` still exists, and its number was not reused by another one."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= seen + _BEFORE_ITS_EVENT
    except psutil.NoSuchProcess:
        return False
