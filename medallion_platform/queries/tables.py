"""The current state of each table, and its history."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.freshness import Freshness, Known, freshness
from medallion_platform.pipeline.out_of_date import (
    OutOfDateTable,
    out_of_date_tables,
    tables_waiting_for_inputs,
)
from medallion_platform.queries import findings


@dataclass(frozen=True)
class TableStatus:
    """The current status of a table.

    data_as_of: the time up to which it has data, None without rows. waits_for: inputs without rows that it
    needs, if any. behind: what a refresh would work on, None if it is up to date or waits. rows and
    dead_letters: their current numbers. repeated_files: files of its source that were not read because their
    content was taken in before; None for silver and gold tables. version, last_commit and run_id: of the
    newest commit; -1 and None if there is none.
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
    """One commit of a table: its version, its time, and its commit record."""

    version: int
    at: datetime
    record: CommitRecord


class NoSuchVersion(MedallionError):
    """A table does not have the requested version; newest: its newest version, -1 if there is none."""

    kind = Kind.PERMANENT

    def __init__(self, table: str, newest: int) -> None:
        there = f"has no such version; its newest is {newest}" if newest >= 0 else "has not been made yet"
        super().__init__(f"{table} {there}", table=table)
        self.newest = newest


def table_status(
    catalog: Catalog, lake: Lake, now: datetime, tables: Collection[str] = ()
) -> list[TableStatus]:
    """The current status of tables, upstream tables first; all of them if none is named.

    Raises:
        DamagedLog: the log of a table cannot be read.
    """
    snapshot = lake.snapshot()
    late, waits = out_of_date_tables(catalog, snapshot), tables_waiting_for_inputs(catalog, snapshot)
    known: Known = {}

    def one(name: str) -> TableStatus:
        record, source = snapshot.last_record(name), catalog.source_of.get(name)
        fresh, as_of = freshness(catalog, snapshot, name, now, known)
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


def table_history(lake: Lake, table: str, limit: int) -> list[HistoryEntry]:
    """The newest commits of a table that are still in its Delta log, newest first, at most `limit`."""
    return [HistoryEntry(*found) for found in islice(lake.each_commit(table), limit)]


def resolve_version(lake: Lake, table: str, version: int | None = None, at: datetime | None = None) -> int:
    """The given version, or the newest one at a time, or else the newest.

    Raises:
        NoSuchVersion: the table does not exist, or has no such version.
    """
    newest = lake.version(table)
    wanted = lake.version_at(table, at) if at is not None else newest if version is None else version
    if not 0 <= wanted <= newest:
        raise NoSuchVersion(table, newest)
    return wanted
