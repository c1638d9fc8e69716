"""The current state of each table, and its history."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.freshness import Freshness, freshness
from medallion_platform.pipeline.out_of_date import OutOfDateTable, out_of_date_tables, waiting
from medallion_platform.queries import findings


@dataclass(frozen=True)
class TableStatus:
    """How a table is now.

    data_as_of: up to when its data tell, None where it holds none. waits_for: the inputs without which it
    cannot be made, in which nothing has landed; empty where it waits for none. behind: what a refresh would
    work on, None where it is up to date (or waits). rows and dead_letters: how many there are now.
    repeated_files: how many files of its source repeated the content of one before, so that nothing was read
    of them; None of a table that is made from others. version, last_commit and run_id: of its newest commit;
    -1 and None where it was never made.
    """

    table: str
    freshness: Freshness
    data_as_of: datetime | None
    waits_for: tuple[str, ...]
    behind: OutOfDateTable | None
    rows: int
    dead_letters: int
    repeated_files: int | None
    version: int
    last_commit: datetime | None
    run_id: str | None


@dataclass(frozen=True)
class HistoryEntry:
    """One commit of a table: its version, when it was made, and its own account of what it did."""

    version: int
    at: datetime
    record: CommitRecord


class NoSuchVersion(LookupError):
    """A table has no version like the one that was asked for; newest: the newest it has, -1 without any."""

    def __init__(self, table: str, newest: int) -> None:
        super().__init__(f"{table} has no such version; its newest is {newest}")
        self.newest = newest


def status(catalog: Catalog, lake: Lake, now: datetime, tables: Collection[str] = ()) -> list[TableStatus]:
    """How tables are at this moment, bronze first, then in order of making; all of them if none is named.

    Raises:
        DamagedLog: the log of a table cannot be read.
    """
    snapshot = lake.snapshot()
    late, waits = out_of_date_tables(catalog, snapshot), waiting(catalog, snapshot)

    def one(name: str) -> TableStatus:
        record, source = snapshot.last_record(name), catalog.source_of.get(name)
        fresh, as_of = freshness(catalog, snapshot, name, now)
        return TableStatus(
            table=name,
            freshness=fresh,
            data_as_of=as_of,
            waits_for=tuple(waits.get(name, ())),
            behind=None if name in waits else late.get(name),
            rows=snapshot.rows(name),
            dead_letters=dead_letters.count(snapshot, name),
            repeated_files=findings.repeated_files(snapshot, source) if source else None,
            version=snapshot.version(name),
            last_commit=snapshot.last_commit(name) if record else None,
            run_id=record.run_id if record else None,
        )

    return [one(name) for name in tables or catalog.names]


def history(lake: Lake, table: str, limit: int) -> list[HistoryEntry]:
    """The newest commits of a table that are still in its log, newest first, `limit` at the most."""
    return [HistoryEntry(*found) for found in islice(lake.each_commit(table), limit)]


def version_of(lake: Lake, table: str, version: int | None = None, at: datetime | None = None) -> int:
    """The version that is meant: the named one, the newest one at an instant, or else the newest.

    Raises:
        NoSuchVersion: the table does not exist, or has none like that.
    """
    newest = lake.version(table)
    wanted = lake.version_at(table, at) if at is not None else newest if version is None else version
    if not 0 <= wanted <= newest:
        raise NoSuchVersion(table, newest)
    return wanted
