"""The age of a table's data, which is not the age of its last write.

- A table with an event time, or with partitions of days or weeks: the time of its newest event, or the end of
  its newest partition.
- A bronze table without these: the time of the last intake that brought a row.
- Any other table: how old its inputs were when it was made.

A bronze table is never newer than its last intake, and any other table than the newest of its inputs (lookups
aside: they bring no rows).

Maintenance, a rebuild, a refresh with nothing to do and an intake that only rejected rows do not make data
newer.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.lake import DamagedLog, Lake, files_of
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.table import Table, TimePartition, daily

if TYPE_CHECKING:
    from deltalake import DeltaTable

FRESH_WITHIN = timedelta(days=1)
"""Of a bronze table, whose source promises nothing."""

Known = dict[str, datetime | None]
"""As of when the data of tables are, by table."""


class Freshness(StrEnum):
    """Whether a table's data are as recent as declared."""

    NEVER = "never made"
    FRESH = "fresh"
    STALE = "stale"


def freshness_bound(catalog: Catalog, name: str) -> timedelta:
    """The allowed age of a table's data."""
    table = catalog.by_name.get(name)
    return table.fresh_within if table else FRESH_WITHIN


def freshness(
    catalog: Catalog, lake: Lake, name: str, now: datetime, known: Known | None = None
) -> tuple[Freshness, datetime | None]:
    """Whether a table is fresh at `now`, and as of when its data are; without rows it never is.

    known: what was found of other tables of the same snapshot; what is found now is added.
    """
    if lake.last_record(name) is None:
        return Freshness.NEVER, None
    at = data_as_of(catalog, lake, name, known)
    fresh = at is not None and now - at <= freshness_bound(catalog, name)
    return (Freshness.FRESH if fresh else Freshness.STALE), at


def data_as_of(catalog: Catalog, lake: Lake, name: str, known: Known | None = None) -> datetime | None:
    """Up to when a table's data tell; None where it holds none.

    known: as in `freshness`.
    """
    known = {} if known is None else known
    if name not in known:
        known[name] = _data_as_of(catalog, lake, name, known)
    return known[name]


def _data_as_of(catalog: Catalog, lake: Lake, name: str, known: Known) -> datetime | None:
    if not lake.rows(name):
        return None
    told = _newest_event(catalog, lake, name)
    table = catalog.by_name.get(name)
    came = (
        _last_intake(lake, name)
        if table is None
        else _as_of_inputs(table, catalog, lake, known, timed=told is not None)
    )
    return min((at for at in (told, came) if at is not None), default=None)


def _as_of_inputs(
    table: Table, catalog: Catalog, lake: Lake, known: Known, *, timed: bool
) -> datetime | None:
    """As of when the newest of the upstream tables was, as a table took them.

    timed: the rows tell it themselves; then it is when they were written where no upstream table tells more.
    """
    last = lake.last_record(table.name, ("refresh", "restore"))
    if last is None:
        return None
    made = _commit_time(last)
    found = []
    for upstream in dict.fromkeys(u.table for u in table.upstreams.values()):
        try:
            at = data_as_of(catalog, lake, upstream, known)
        except DamagedLog:  # told of that table; this one's own times are as good
            continue
        if at is None:
            continue
        position = last.position.get(upstream, {})
        # The rows tell their own time, also where only some partitions were refreshed since.
        taken = max(position.values(), default=None) if timed else position.get(UNPARTITIONED)
        if taken is not None and taken != lake.version(upstream):
            at = min(at, _newest_write(lake, upstream, taken) or made)
        found.append(min(at, made))
    return max(found, default=made if timed else None)


def _newest_event(catalog: Catalog, lake: Lake, name: str) -> datetime | None:
    """The newest event time, or the end of the newest partition, from the Delta log's statistics."""
    event_time = catalog.contract_of(name).event_time
    partition = _time_partition(catalog, name)
    found = lake.table_state(name) if event_time or partition else None
    if found is None:
        return None
    return found.fact(
        ("newest event", event_time, partition),
        partial(_newest_event_in_log, event_time=event_time, partition=partition),
    )


def _newest_event_in_log(
    table: DeltaTable, event_time: str | None, partition: TimePartition | None
) -> datetime | None:
    newest: list[datetime] = []
    for file in files_of(table):
        at = file.get(f"max.{event_time}") if event_time else None
        if isinstance(at, datetime):
            newest.append(at if at.tzinfo else at.replace(tzinfo=UTC))
        elif partition and (day := file.get(f"partition.{partition.column}")):
            newest.append(_end_of_partition(partition, date.fromisoformat(str(day))))
    return max(newest, default=None)


def _time_partition(catalog: Catalog, name: str) -> TimePartition | None:
    if table := catalog.by_name.get(name):
        return table.partition
    column = catalog.source_of[name].partition
    return daily(column) if column else None


def _end_of_partition(partition: TimePartition, first: date) -> datetime:
    return datetime.combine(first + timedelta(days=partition.days), time(), UTC)


def _last_intake(lake: Lake, name: str) -> datetime | None:
    """The time of the last intake; of the first commit, if the intake is no longer in the log."""

    def newer(until: int, before: CommitRecord | None) -> CommitRecord | None:
        oldest = None
        for _, record in lake.each_record(name, since=until):
            if record.verb == "intake" and record.counts.written:
                return record
            oldest = record
        return before or oldest

    last = lake.folded(name, lake.version(name), "last intake", newer)
    return _commit_time(last) if last else None


def _newest_write(lake: Lake, name: str, version: int) -> datetime | None:
    """The time when the newest rows of a version were written."""
    return next((_commit_time(r) for _, r in lake.each_record(name, until=version) if r.counts.written), None)


def _commit_time(record: CommitRecord) -> datetime:
    at = datetime.fromisoformat(record.at)
    return at if at.tzinfo else at.replace(tzinfo=UTC)
