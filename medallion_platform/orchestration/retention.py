"""Deletes old runs from Dagster's storage, so that a file every minute does not fill the disk.

Refreshes, rollbacks and audits need only the commits in the lake. The newest event of each table, partition
and check is kept, because pages and sensors use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sql
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionsFilter
from dagster._core.instance.utils import RUNLESS_RUN_ID
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.schema import BackfillTagsTable, BulkActionsTable, RunsTable, RunTagsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._core.storage.tags import BACKFILL_ID_TAG

from medallion_platform.orchestration.pools import close_dead_runs

MOST_RUNS = 10_000
"""Runs that one maintenance forgets: three days of a file a minute."""
_AT_ONCE = 200

_EVENTS, _CHECKS, _TAGS = SqlEventLogStorageTable, AssetCheckExecutionsTable, AssetEventTagsTable


def forget_runs(on: dg.DagsterInstance, before: datetime, most: int = MOST_RUNS) -> int:
    """Delete runs that ended before a time (at most `most`) with their logs, and older ticks and backfills.

    Active runs stay, however old they are. If this is killed, the next call continues: the run itself is
    deleted after everything else of it. Returns the number of runs.
    """
    close_dead_runs(on)  # and free what they held of pools
    runs, event_log = sql_storages(on)
    old = on.get_run_ids(dg.RunsFilter(statuses=list(FINISHED_STATUSES), updated_before=before), limit=most)
    newest = _newest_events(event_log)  # asked once: what is deleted is never among it
    for some in _split_in_parts(old):
        _forget_events(event_log, newest, _EVENTS.c.run_id.in_(some), _CHECKS.c.run_id.in_(some))
        for run_id in some:
            _forget_log(on, event_log, run_id)
        with runs.connect() as base:
            base.execute(RunTagsTable.delete().where(RunTagsTable.c.run_id.in_(some)))
            base.execute(RunsTable.delete().where(RunsTable.c.run_id.in_(some)))
    _forget_backfills(runs, before)
    _forget_events_without_run(event_log, newest, before.replace(tzinfo=None))
    _forget_ticks(on, before)
    return len(old)


def sql_storages(on: dg.DagsterInstance) -> tuple[SqlRunStorage, SqlEventLogStorage]:
    """The run and event storages of an instance, without Dagster's wrappers."""
    runs: Any = on.run_storage
    event_log: Any = on.event_log_storage
    runs = runs if isinstance(runs, SqlRunStorage) else runs._storage.run_storage
    event_log = (
        event_log if isinstance(event_log, SqlEventLogStorage) else event_log._storage.event_log_storage
    )
    return runs, event_log


_Newest = tuple[set[int], set[int]]
"""Ids of events, and of results of checks."""


def _newest_events(event_log: SqlEventLogStorage) -> _Newest:
    """The newest events of each table, partition and kind, and the newest results of each check."""
    e, c = _EVENTS.c, _CHECKS.c
    events = sql.select(sql.func.max(e.id)).where(e.asset_key.is_not(None))
    events = events.group_by(e.asset_key, e.partition, e.dagster_event_type)
    results = sql.select(sql.func.max(c.id))
    results = results.group_by(c.asset_key, c.check_name, c.partition, c.execution_status)
    with event_log.index_connection() as base:
        return {row[0] for row in base.execute(events)}, {row[0] for row in base.execute(results)}


def _forget_events(event_log: SqlEventLogStorage, newest: _Newest, doomed: Any, doomed_checks: Any) -> None:
    """Delete events and results of checks, except the `newest` ones."""
    e, c = _EVENTS.c, _CHECKS.c
    events, results = newest
    with event_log.index_connection() as base:
        found = {row[0] for row in base.execute(sql.select(e.id).where(doomed))}
        for ids in _split_in_parts(sorted(found - events)):
            base.execute(_TAGS.delete().where(_TAGS.c.event_id.in_(ids)))
            base.execute(_EVENTS.delete().where(e.id.in_(ids)))
        found = {row[0] for row in base.execute(sql.select(c.id).where(doomed_checks))}
        for ids in _split_in_parts(sorted(found - results)):
            base.execute(_CHECKS.delete().where(c.id.in_(ids)))


def _forget_log(on: dg.DagsterInstance, event_log: SqlEventLogStorage, run_id: str) -> None:
    """Delete the log of a run; SQLite has a file for each run, and copies of some events in its index."""
    on.compute_log_manager.delete_logs(prefix=[run_id])
    if isinstance(event_log, SqliteEventLogStorage):
        for end in ("", "-wal", "-shm"):
            Path(event_log.path_for_shard(run_id) + end).unlink(missing_ok=True)


def _forget_events_without_run(event_log: SqlEventLogStorage, keep: _Newest, before: datetime) -> None:
    """Delete old events of sensors and workers, except the newest ones."""
    doomed = sql.and_(_EVENTS.c.run_id == RUNLESS_RUN_ID, _EVENTS.c.timestamp < before)
    at = _CHECKS.c.evaluation_event_timestamp
    _forget_events(event_log, keep, doomed, sql.and_(_CHECKS.c.run_id == RUNLESS_RUN_ID, at < before))
    if event_log.is_run_sharded:
        with event_log.run_connection(RUNLESS_RUN_ID) as base:
            base.execute(_EVENTS.delete().where(doomed))


def _forget_backfills(runs: SqlRunStorage, before: datetime) -> None:
    """Delete finished backfills, once all of their runs are deleted."""
    filters = BulkActionsFilter(statuses=BULK_ACTION_TERMINAL_STATUSES, created_before=before)
    old = {backfill.backfill_id for backfill in runs.get_backfills(filters)}
    of_runs = sql.select(RunTagsTable.c.value).where(RunTagsTable.c.key == BACKFILL_ID_TAG)
    with runs.connect() as base:
        old -= {row[0] for row in base.execute(of_runs.distinct())}
        for some in _split_in_parts(sorted(old)):
            base.execute(BackfillTagsTable.delete().where(BackfillTagsTable.c.backfill_id.in_(some)))
            base.execute(BulkActionsTable.delete().where(BulkActionsTable.c.key.in_(some)))


def _forget_ticks(on: dg.DagsterInstance, before: datetime) -> None:
    """Delete ticks of sensors and schedules, except the last one of each: a schedule continues from it."""
    for state in on.all_instigator_state() if on.schedule_storage else ():
        origin, selector = state.instigator_origin_id, state.selector_id
        last = on.get_ticks(origin, selector, limit=1)
        if last:
            on.purge_ticks(origin, selector, min(before.timestamp(), last[0].timestamp))


def _split_in_parts(items: Sequence[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), _AT_ONCE):
        yield list(items[start : start + _AT_ONCE])
