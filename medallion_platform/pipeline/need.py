"""What each table of a catalog needs of a run that works on it: bytes to read, by the Delta logs.

A table that is not out of date needs nothing, unless the same run refreshes one of its inputs first: then it
reads what that changes. Starts no JVM and reads no row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from medallion_platform.lakehouse import memory_uses
from medallion_platform.lakehouse.commit_record import UNPARTITIONED
from medallion_platform.lakehouse.lake import DamagedLog, Lake
from medallion_platform.pipeline.answer_cache import AnswerCache
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.memory import Learned, learned
from medallion_platform.pipeline.out_of_date import (
    NeedsRows,
    OutOfDateTable,
    refresh_state,
    refuse_reading_rows,
)
from medallion_platform.pipeline.refresh.changes import newest, planned
from medallion_platform.pipeline.refresh.errors import MissingUpstream
from medallion_platform.pipeline.refresh.explain import size_read
from medallion_platform.pipeline.refresh.plan import partitions_from
from medallion_platform.pipeline.table import Table

Layer = Literal["bronze", "silver", "gold"]


@dataclass(frozen=True)
class Need:
    """What a table needs of a run that works on it, in bytes.

    due_bytes: of the data files that a refresh would read now. partition_bytes: the most that one of its
    partitions is made from. whole_bytes: what a rebuild would read. driver_memory, executor_memory: of pods
    that were large enough after smaller ones were killed; None where none ever was. config: what its
    declaration asks of the pod of its run.
    """

    layer: Layer
    due_bytes: int = 0
    partition_bytes: int = 0
    whole_bytes: int = 0
    driver_memory: int | None = None
    executor_memory: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])


def needs_of_tables(
    catalog: Catalog, lake: Lake, late: Mapping[str, OutOfDateTable], cache: AnswerCache | None = None
) -> dict[str, Need]:
    """The need of each table of the catalog; `late` are those that are out of date.

    A bronze table needs no bytes: its intake reads in small batches. cache: cached answers for this catalog.
    """
    cache = cache or AnswerCache()
    needs = {source.table: Need("bronze") for source in catalog.sources}
    changing: dict[str, Collection[str] | None] = {}
    for table in catalog.in_order:
        if table.name in late:
            changing[table.name] = late[table.name].partitions
        try:
            needs[table.name] = _cached_need(table, catalog, lake, late.get(table.name), cache)
            if any(name in changing for name in table.upstream_names):
                exists = lake.exists(table.name)
                changing[table.name] = partitions_changing(table, changing) if exists else None
                needs[table.name] = after_inputs(
                    needs[table.name],
                    sum(needs[name].due_bytes for name in table.upstream_names),
                    changing[table.name],
                    adds=exists and table.incremental == "append",
                )
        except DamagedLog:  # nothing can be read of it, by a run neither
            needs[table.name] = _no_need(table)
    known = learned(memory_uses.read(lake))
    return {name: _with_memory(need, known.get(name, Learned())) for name, need in needs.items()}


def _with_memory(need: Need, known: Learned) -> Need:
    """The need of a table with what earlier runs of it showed."""
    return replace(need, driver_memory=known.driver, executor_memory=known.executor)


def partitions_changing(
    table: Table, changing: Mapping[str, Collection[str] | None]
) -> Collection[str] | None:
    """The partitions of a table that may change with it and its inputs; None for all. Pure.

    changing: the partitions that change of each table that does, None for all.
    """
    found = set(changing.get(table.name) or ())
    if table.partition is None or changing.get(table.name, ()) is None:
        return None
    for upstream in table.upstreams.values():
        days = changing.get(upstream.table, ())
        if days is None:
            return None
        found |= partitions_from(table, upstream.lookback_days, days)
    return found


def after_inputs(need: Need, arriving: int, partitions: Collection[str] | None, *, adds: bool) -> Need:
    """The need of a table whose inputs are refreshed first. Pure.

    arriving: bytes that these refreshes read, taken for what they add to the inputs. partitions: those of the
    table that change by it; None for all. adds: only what is new is read.
    """
    there = need.whole_bytes
    if adds:
        there = need.due_bytes
    elif partitions is not None:
        there = min(len(partitions) * need.partition_bytes, there)
    return replace(need, due_bytes=there + arriving)


def _cached_need(
    table: Table, catalog: Catalog, lake: Lake, late: OutOfDateTable | None, cache: AnswerCache
) -> Need:
    found_from = (late, refresh_state(table, lake))
    return cache.answer(("need", table.name), found_from, lambda: _need(table, catalog, lake, late))


def _need(table: Table, catalog: Catalog, lake: Lake, late: OutOfDateTable | None) -> Need:
    """The need of a table as its inputs are."""
    columns = catalog.partition_columns
    sizes = {
        name: {day: size.bytes for day, size in lake.sizes(name, columns[name]).items()}
        for name in table.upstream_names
    }
    whole = sum(sum(days.values()) for days in sizes.values())
    due = _due_bytes(table, columns, lake, sizes) if late else 0
    partition = largest_partition(table, columns, sizes)
    return replace(_no_need(table), due_bytes=due, partition_bytes=partition, whole_bytes=whole)


def _no_need(table: Table) -> Need:
    return Need(cast("Layer", table.layer), config=table.kubernetes)


def _due_bytes(
    table: Table, columns: Mapping[str, str | None], lake: Lake, sizes: Mapping[str, Mapping[str, int]]
) -> int:
    of_input = {name: sum(days.values()) for name, days in sizes.items()}
    try:
        context = planned(newest(table, lake, refuse_reading_rows, columns))
    except MissingUpstream:
        return 0
    except NeedsRows:
        # Which partitions a lookup's change concerns is told by its former rows, and the table's own.
        former = sum(of_input[lookup.table] for lookup in table.lookups.values())
        return sum(of_input.values()) + former + _bytes(lake, table.name)
    due = size_read(context).bytes
    if context.plan.merge:
        main = context.main_table
        change = context.upstreams.changed[main]
        # Rewritten rows are compared with the former ones; the keys that changed are looked for in the table.
        former = of_input[main] if change is None or change.rewritten else 0
        due += former + _bytes(lake, table.name)
    return due


def _bytes(lake: Lake, table: str) -> int:
    return sum(size.bytes for size in lake.sizes(table).values())


def largest_partition(
    table: Table, columns: Mapping[str, str | None], sizes: Mapping[str, Mapping[str, int]]
) -> int:
    """The most bytes that one partition of a table is made from. Pure.

    columns: the partition column of each table. sizes: bytes of each input, by its partitions.
    """
    every = sum(sum(days.values()) for days in sizes.values())
    if table.partition is None:
        return every
    made_from: dict[str, int] = {}
    divided = 0
    for upstream in table.upstreams.values():
        if columns[upstream.table] is None:
            continue
        for day, size in sizes[upstream.table].items():
            divided += size
            if day != UNPARTITIONED:
                for partition in partitions_from(table, upstream.lookback_days, (day,)):
                    made_from[partition] = made_from.get(partition, 0) + size
    return every - divided + max(made_from.values(), default=0)
