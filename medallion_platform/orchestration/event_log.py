"""Reports many events to Dagster in one transaction: five years of partitions take one, not 1,800.

Dagster's storages are imported where they are used: with SQLAlchemy they cost as much as the rest of
Dagster, and a process that only loads the definitions needs none.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import dagster as dg
from dagster._core.events import (
    ASSET_EVENTS,
    BATCH_WRITABLE_EVENTS,
    DagsterEvent,
    DagsterEventBatchMetadata,
    StepMaterializationData,
    generate_event_batch_id,
)
from dagster._core.events.log import EventLogEntry
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID
from dagster._time import get_current_timestamp

if TYPE_CHECKING:
    from dagster._core.storage.event_log.base import EventLogStorage
    from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

_LARGEST_BATCH = 1000

Told = TypeVar("Told", bound=dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation)


def store_events_in_batches() -> None:
    """Let Dagster store the partitions of a step in batches, also in SQLite.

    Dagster 1.13 uses batches only if this variable is set, and its SQLite storage writes each event in four
    transactions with a check of the schema; Postgres stores batches by itself. Whoever runs steps opens the
    storage before the definitions are loaded, so without it there is nothing to prepare.
    """
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", str(_LARGEST_BATCH))
    if sqlite := sys.modules.get("dagster._core.storage.event_log.sqlite.sqlite_event_log"):
        sqlite.SqliteEventLogStorage.store_event_batch = _store_batch


def log_partitions_in_bulk(context: dg.OpExecutionContext, events: Iterable[Told]) -> Iterator[Told]:
    """Log the partitions among a step's events in one batch; returns the events that the step must yield.

    The last partition is returned too, so that the step's events show that the table was written.
    """
    events = list(events)
    first = _partition_events(events)[:-1]
    step, batch = context.get_step_execution_context(), generate_event_batch_id()
    for event in first:
        ends = DagsterEventBatchMetadata(batch, event is first[-1])
        DagsterEvent.asset_materialization(step, event, ends)
    logged = {id(event) for event in first}
    yield from (event for event in events if id(event) not in logged)


def report_in_bulk(on: dg.DagsterInstance, events: Iterable[Told]) -> None:
    """Report events without a run: partitions in one batch, then the rest."""
    events = list(events)
    partitions = _partition_events(events)
    if partitions:
        _store_events(on.event_log_storage, [_event_without_run(event) for event in partitions])
    batched = {id(event) for event in partitions}
    for event in events:
        if id(event) not in batched:
            on.report_runless_asset_event(event)


def _partition_events(events: Sequence[object]) -> list[dg.AssetMaterialization]:
    return [e for e in events if isinstance(e, dg.AssetMaterialization) and e.partition]


def _event_without_run(event: dg.AssetMaterialization) -> EventLogEntry:
    return EventLogEntry(
        user_message="",
        level=logging.INFO,
        job_name=RUNLESS_JOB_NAME,
        run_id=RUNLESS_RUN_ID,
        error_info=None,
        timestamp=get_current_timestamp(),
        step_key=None,
        dagster_event=DagsterEvent(
            event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
            job_name=RUNLESS_JOB_NAME,
            event_specific_data=StepMaterializationData(event),
        ),
    )


def _store_events(storage: EventLogStorage, events: Sequence[EventLogEntry]) -> None:
    """Store the events in one batch, whether or not `store_events_in_batches` was called in this process."""
    from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

    if isinstance(storage, SqliteEventLogStorage):
        _store_batch(storage, events)
    else:
        storage.store_event_batch(events)


def _store_batch(self: SqliteEventLogStorage, events: Sequence[EventLogEntry]) -> None:
    """The work of `store_event` for all events, in one transaction of the run's log and one of the index."""
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

    kinds = {event.dagster_event_type for event in events}
    runs = {event.run_id for event in events}
    if len(runs) != 1 or not kinds <= ASSET_EVENTS & BATCH_WRITABLE_EVENTS:
        for event in events:
            self.store_event(event)
        return
    with self.run_connection(runs.pop()) as log:
        log.execute(SqlEventLogStorageTable.insert(), [self._event_to_row(event) for event in events])
    with self.index_transaction() as index:
        keys = [index.execute(self.prepare_insert_event(event)).inserted_primary_key for event in events]
        ids = [int(key[0]) for key in keys if key is not None]
        self._store_asset_event_tags(index, events, ids)
        newest = {(e.dagster_event_type, _asset_key(e)): (e, at) for e, at in zip(events, ids, strict=True)}
        for event, at in newest.values():
            self._store_asset_event(index, event, at)


def _asset_key(entry: EventLogEntry) -> dg.AssetKey | None:
    return entry.dagster_event.asset_key if entry.dagster_event else None
