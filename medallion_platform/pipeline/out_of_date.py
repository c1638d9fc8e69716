"""What of a catalog is out of date, by the logs alone: the one answer for the sensor, `run` and `status`.

Nothing here is remembered: an event that was missed, a refresh that failed or was killed, and rows that
landed while it ran are seen at the next look.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.lake import DamagedLog, Lake
from medallion_platform.pipeline.answer_cache import AnswerCache, states
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.refresh.changes import out_of_date_partitions
from medallion_platform.pipeline.refresh.context import VERBS
from medallion_platform.pipeline.refresh.errors import MissingUpstream
from medallion_platform.pipeline.refresh.plan import code_version
from medallion_platform.pipeline.table import Table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class OutOfDateTable:
    """A table that a refresh would work on now.

    partitions: which of them; None for the whole table. state: what it would be made from (upstream
    versions and code): while that stays the same, a refresh that failed will fail again, unless its
    reason lies elsewhere. unsure: a lookup's history changed, and only the rows tell which partitions
    that concerns. taken_back: somebody took back what was made from this very state, so that only a person
    makes it again. problem: why its log or an upstream's cannot be read, else "".
    """

    table: str
    partitions: frozenset[str] | None
    state: str
    unsure: bool = False
    taken_back: bool = False
    problem: str = ""


def out_of_date_tables(
    catalog: Catalog, lake: Lake, kept: AnswerCache | None = None
) -> dict[str, OutOfDateTable]:
    """Every table that is out of date, in order of making. Starts no JVM, reads no row.

    A table whose upstream does not exist yet is none of them: there is nothing to make it from.
    kept: answers of earlier looks at this catalog.
    """
    kept = kept or AnswerCache()
    found = (_cached(table, catalog, lake, kept) for table in catalog.in_order)
    return {table.table: table for table in found if table is not None}


def _cached(table: Table, catalog: Catalog, lake: Lake, kept: AnswerCache) -> OutOfDateTable | None:
    tables = (table.name, dead_letters.name(table.name), *table.upstream_names)
    try:
        found_from = (code_version(table), states(lake, tables))
    except DamagedLog:
        return out_of_date_table(table, catalog, lake)
    return kept.answer(("behind", table.name), found_from, lambda: out_of_date_table(table, catalog, lake))


def waiting(catalog: Catalog, lake: Lake) -> dict[str, list[str]]:
    """Tables for which rows are there, and which cannot be made before the named inputs have any.

    A table of whose upstreams none exists waits for nothing that anybody could miss.
    """
    rows = {name: _rows(lake, name) for name in catalog.names}
    there = {name: found is not None for name, found in rows.items()}
    found = {}
    for table in catalog.in_order:
        missing = [name for name in table.upstream_names if not there[name]]
        waits = missing and any(rows[name] for name in table.upstream_names)
        if waits and (inputs := _inputs(missing, catalog, there)):
            found[table.name] = inputs
    return found


def _rows(lake: Lake, name: str) -> int | None:
    """How many rows a table holds, None where it does not exist; none of one whose log is damaged."""
    try:
        return lake.rows(name) if lake.exists(name) else None
    except DamagedLog:
        return 0


def _inputs(missing: list[str], catalog: Catalog, there: Mapping[str, bool]) -> list[str]:
    """The bronze tables behind missing ones in which nothing has landed."""
    found: set[str] = set()
    for name in missing:
        table = catalog.by_name.get(name)
        if table is None:
            found.add(name)
        else:
            found.update(_inputs([u for u in table.upstream_names if not there[u]], catalog, there))
    return sorted(found)


def out_of_date_table(table: Table, catalog: Catalog, lake: Lake) -> OutOfDateTable | None:
    """How far a table is behind; None where it is up to date, or has nothing to be made from."""
    state = ""
    try:
        state = state_of(table, lake)
        partitions = out_of_date_partitions(table, lake, no_rows, catalog.partition_columns)
    except MissingUpstream:
        return None
    except NeedsRows:
        return OutOfDateTable(table.name, None, state, unsure=True)
    except DamagedLog as error:
        # Once it is fixed, that is another state: what failed for it is tried at once.
        return OutOfDateTable(table.name, None, f"{state} damaged", problem=str(error))
    if partitions is not None and not partitions:
        return None
    last = lake.last_record(table.name, VERBS)
    taken_back = last is not None and last.taken_back == state
    return OutOfDateTable(
        table.name, None if partitions is None else frozenset(partitions), state, taken_back=taken_back
    )


def state_of(table: Table, lake: Lake) -> str:
    """A short text that changes when an upstream table or what makes the table changes."""
    versions = [f"{name}={lake.version(name)}" for name in table.upstream_names]
    told = "\n".join([f"{code_version(table):x}", *versions])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


class NeedsRows(Exception):
    """Only the rows themselves tell what a changed lookup concerns."""


def no_rows() -> SparkSession:
    """In the place of a session, for who reads no rows."""
    raise NeedsRows
