"""Which tables of a catalog are out of date, from the Delta logs alone, for the sensor, `run` and `status`.

No state is kept: the next call also finds a missed event, a refresh that failed or was killed, and rows that
landed while it ran.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.lake import DamagedLog, Lake
from medallion_platform.pipeline.answer_cache import AnswerCache, table_states
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.refresh.changes import out_of_date_partitions
from medallion_platform.pipeline.refresh.context import VERBS
from medallion_platform.pipeline.refresh.errors import MissingUpstream
from medallion_platform.pipeline.refresh.plan import CODE, code_version
from medallion_platform.pipeline.table import Table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class OutOfDateTable:
    """A table that a refresh would work on now.

    partitions: those that are out of date; None for the whole table. state: identifies what it would be made
    from (upstream versions and code): while that stays the same, a failed refresh will probably fail again.
    unsure: a lookup's history changed, and only the rows show which partitions are affected. taken_back: a
    refresh from this state was rolled back, so it is not repeated automatically. problem: why its Delta log
    or an upstream table's cannot be read, else "".
    """

    table: str
    partitions: frozenset[str] | None
    state: str
    unsure: bool = False
    taken_back: bool = False
    problem: str = ""


def out_of_date_tables(
    catalog: Catalog, lake: Lake, cache: AnswerCache | None = None
) -> dict[str, OutOfDateTable]:
    """Every table that is out of date, upstream tables first. Starts no JVM, reads no row.

    A table whose upstream table does not exist yet is not included. cache: cached answers for this catalog.
    """
    cache = cache or AnswerCache()
    found = (_cached_answer(table, catalog, lake, cache) for table in catalog.in_order)
    return {table.table: table for table in found if table is not None}


def _cached_answer(table: Table, catalog: Catalog, lake: Lake, cache: AnswerCache) -> OutOfDateTable | None:
    try:
        found_from = refresh_state(table, lake)
    except DamagedLog:
        return out_of_date_table(table, catalog, lake)
    return cache.answer(("behind", table.name), found_from, lambda: out_of_date_table(table, catalog, lake))


def refresh_state(table: Table, lake: Lake) -> Hashable:
    """A value that changes whenever the plan of a table's refresh may.

    Raises:
        DamagedLog: the log of the table or of an upstream table cannot be read.
    """
    tables = (table.name, dead_letters.name(table.name), *table.upstream_names)
    return code_version(table), table_states(lake, tables)


def tables_waiting_for_inputs(catalog: Catalog, lake: Lake) -> dict[str, list[str]]:
    """Tables with rows upstream that cannot be made because the named inputs do not exist yet.

    Also those made from such. A table without rows anywhere upstream is not included.
    """
    rows = {name: _row_count(lake, name) for name in catalog.names}
    there = {name: found is not None for name, found in rows.items()}
    found: dict[str, list[str]] = {}
    for table in catalog.in_order:
        missing = [name for name in table.upstream_names if not there[name]]
        waits = missing and any(rows[name] or name in found for name in table.upstream_names)
        if waits and (inputs := _missing_bronze_inputs(missing, catalog, there)):
            found[table.name] = inputs
    return found


def _row_count(lake: Lake, name: str) -> int | None:
    """The number of rows of a table, None if it does not exist, 0 if its log is damaged."""
    try:
        return lake.rows(name) if lake.exists(name) else None
    except DamagedLog:
        return 0


def _missing_bronze_inputs(missing: list[str], catalog: Catalog, there: Mapping[str, bool]) -> list[str]:
    """The bronze tables behind missing ones in which nothing has landed."""
    found: set[str] = set()
    for name in missing:
        table = catalog.by_name.get(name)
        if table is None:
            found.add(name)
        else:
            found.update(
                _missing_bronze_inputs([u for u in table.upstream_names if not there[u]], catalog, there)
            )
    return sorted(found)


def out_of_date_table(table: Table, catalog: Catalog, lake: Lake) -> OutOfDateTable | None:
    """What of a table is out of date; None if it is up to date, or its upstream tables do not exist."""
    state = ""
    try:
        state = input_state(table, lake)
        partitions = out_of_date_partitions(table, lake, refuse_reading_rows, catalog.partition_columns)
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


def made_by_other_code(table: Table, lake: Lake) -> bool:
    """Whether a table was last made by other code than this process has loaded."""
    last = lake.last_record(table.name, VERBS)
    return last is not None and set(last.position.get(CODE, {}).values()) != {code_version(table)}


def input_state(table: Table, lake: Lake) -> str:
    """A short text that changes when an upstream table or the table's code changes."""
    versions = [f"{name}={lake.version(name)}" for name in table.upstream_names]
    state = "\n".join([f"{code_version(table):x}", *versions])
    return hashlib.sha256(state.encode()).hexdigest()[:16]


class NeedsRows(Exception):
    """A changed lookup requires reading rows to find the affected partitions."""


def refuse_reading_rows() -> SparkSession:
    """Used instead of a session by callers that must not read rows."""
    raise NeedsRows
