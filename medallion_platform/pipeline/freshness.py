"""The age of a table's data, which is not the age of its last write.

- A table with an event time, or with partitions of days or weeks: the time of its newest event, or the end of
  its newest partition; never later than the time when the rows were written.
- A bronze table without these: the time of the last intake that brought a row.
- Any other table: the age of its inputs when it was made.

Maintenance, a rebuild, a refresh with nothing to do and an intake that only rejected rows do not make data
newer.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.table import Table, TimePartition, daily

if TYPE_CHECKING:
    from deltalake import DeltaTable

FRESH_WITHIN = timedelta(days=1)
"""Of a bronze table, whose source promises nothing."""


class Freshness(StrEnum):
    """Whether a table's data are as new as it promises."""

    NEVER = "never made"
    FRESH = "fresh"
    STALE = "stale"


def within(catalog: Catalog, name: str) -> timedelta:
    """How old a table's data may be."""
    table = catalog.by_name.get(name)
    return table.fresh_within if table else FRESH_WITHIN


def freshness(catalog: Catalog, lake: Lake, name: str, now: datetime) -> tuple[Freshness, datetime | None]:
    """Whether a table is fresh at `now`, and as of when its data are; without rows it never is."""
    if lake.last_record(name) is None:
        return Freshness.NEVER, None
    at = data_as_of(catalog, lake, name)
    fresh = at is not None and now - at <= within(catalog, name)
    return (Freshness.FRESH if fresh else Freshness.STALE), at


def data_as_of(catalog: Catalog, lake: Lake, name: str) -> datetime | None:
    """Up to when a table's data tell; None where it holds none."""
    told = _newest_event(catalog, lake, name)
    table = catalog.by_name.get(name)
    came = (
        _last_intake(lake, name)
        if table is None
        else _as_of_inputs(table, catalog, lake, timed=told is not None)
    )
    known = [at for at in (told, came) if at is not None]
    return min(known) if known and lake.rows(name) else None


def _as_of_inputs(table: Table, catalog: Catalog, lake: Lake, *, timed: bool) -> datetime | None:
    """As of when the upstream tables' data were, as a table took them.

    timed: the rows tell it themselves; then it is just when they were written.
    """
    last = lake.last_record(table.name, ("refresh", "restore"))
    if last is None:
        return None
    made = _at(last)
    if timed:
        return made
    found = []
    for upstream in dict.fromkeys(u.table for u in table.upstreams.values()):
        at = data_as_of(catalog, lake, upstream)
        if at is None:
            continue
        taken = last.position.get(upstream, {}).get(UNPARTITIONED)
        if taken is not None and taken != lake.version(upstream):
            at = min(at, _written_by(lake, upstream, taken) or made)
        found.append(min(at, made))
    return max(found, default=None)


def _newest_event(catalog: Catalog, lake: Lake, name: str) -> datetime | None:
    """The newest event time, or the end of the newest partition, by the log's statistics."""
    event_time = catalog.contract_of(name).event_time
    partition = _partition(catalog, name)
    found = lake.table_state(name) if event_time or partition else None
    if found is None:
        return None
    return found.fact(
        ("newest event", event_time, partition),
        partial(_newest_in, event_time=event_time, partition=partition),
    )


def _newest_in(table: DeltaTable, event_time: str | None, partition: TimePartition | None) -> datetime | None:
    newest: list[datetime] = []
    for file in files_of(table):
        at = file.get(f"max.{event_time}") if event_time else None
        if isinstance(at, datetime):
            newest.append(at if at.tzinfo else at.replace(tzinfo=UTC))
        elif partition and (day := file.get(f"partition.{partition.column}")):
            newest.append(_end(partition, date.fromisoformat(str(day))))
    return max(newest, default=None)


def _partition(catalog: Catalog, name: str) -> TimePartition | None:
    if table := catalog.by_name.get(name):
        return table.partition
    column = catalog.source_of[name].partition
    return daily(column) if column else None


def _end(partition: TimePartition, first: date) -> datetime:
    return datetime.combine(first + timedelta(days=partition.days), time(), UTC)


def _last_intake(lake: Lake, name: str) -> datetime | None:
    """When rows were last taken in; the first commit tells where that is out of the log."""

    def newer(until: int, before: CommitRecord | None) -> CommitRecord | None:
        oldest = None
        for _, record in lake.each_record(name, since=until):
            if record.verb == "intake" and record.counts.written:
                return record
            oldest = record
        return before or oldest

    last = lake.folded(name, lake.version(name), "last intake", newer)
    return _at(last) if last else None


def _written_by(lake: Lake, name: str, version: int) -> datetime | None:
    """When the newest rows of a version were written."""
    return next((_at(r) for v, r in lake.each_record(name) if v <= version and r.counts.written), None)


def _at(record: CommitRecord) -> datetime:
    at = datetime.fromisoformat(record.at)
    return at if at.tzinfo else at.replace(tzinfo=UTC)
