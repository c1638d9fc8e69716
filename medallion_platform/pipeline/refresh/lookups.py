"""Which rows a change of a lookup's history affects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

from medallion_platform.errors import Kind, classify
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit_record import UNPARTITIONED
from medallion_platform.lakehouse.delta_log import LogGone, commits
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.refresh.context import VERBS, RefreshContext

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from medallion_platform.pipeline.table import Lookup, Table

_IGNORED = ("effective_to", "is_current")
_SAME_IN_JSON = ("string", "tinyint", "smallint", "int", "bigint", "boolean", "date")
"""Spark's names of types whose values are the same text in a dead letter as they are here."""


def stale_lookups(table: Table, lake: Lake) -> tuple[str, ...]:
    """Lookups that are behind their own upstream because their refresh failed; their last version is used."""
    found = []
    for lookup in table.lookups.values():
        record = lake.last_record(lookup.table, VERBS)
        for upstream, versions in (record.position if record else {}).items():
            if "." in upstream and _has_changed_rows(lake, upstream, versions.get(UNPARTITIONED, -1)):
                found.append(lookup.table)
                break
    return tuple(found)


def waiting_partitions(context: RefreshContext) -> set[str]:
    """Partitions that were made with a stale lookup, once none is: until then they would become the same."""
    waiting = set(context.last.stale_partitions) if context.last else set[str]()
    return waiting if waiting and not stale_lookups(context.table, context.lake) else set()


def lookups_moved(context: RefreshContext) -> bool:
    """Whether the plan is based on newer lookups than the last refresh, although there is nothing to do."""
    last, position = context.last, context.plan.position
    names = [u.table for u in context.table.lookups.values()]
    return last is not None and any(last.position.get(n) != position.get(n) for n in names)


def affected_partitions(context: RefreshContext, existing: set[str]) -> set[str]:
    """Partitions with rows that the newest versions of the lookups enrich differently."""
    found: set[str] = set()
    for lookup in context.table.lookups.values():
        before, now = context.base(lookup.table), context.upstreams.heads[lookup.table]
        if before == now:
            continue
        try:
            if not _rows_changed_between(context.lake, lookup.table, before, now):
                continue
        except LogGone:
            return existing
        found |= _partitions_affected_by(context, lookup, before, now, existing)
    return found


def changed_lookups(context: RefreshContext) -> Iterator[Lookup]:
    """The lookups whose rows changed since the last refresh, or may have because the log is too short."""
    for lookup in context.table.lookups.values():
        before, now = context.base(lookup.table), context.upstreams.heads[lookup.table]
        try:
            if before != now and _rows_changed_between(context.lake, lookup.table, before, now):
                yield lookup
        except LogGone:
            yield lookup


def _has_changed_rows(lake: Lake, table: str, since: int) -> bool:
    """Whether rows were added or removed since a version; maintenance and empty commits do not count."""
    try:
        return _rows_changed_between(lake, table, since, lake.version(table))
    except LogGone:
        return True


def _rows_changed_between(lake: Lake, table: str, before: int, now: int) -> bool:
    """Whether any row of a table changed between two versions.

    Raises:
        LogGone: the log no longer has these commits.
    """

    def go_on(until: int, moved: bool | None) -> bool:
        delta_commits = list(commits(lake.path(table), max(before, until), now, None))
        return bool(moved) or any(c.appended or c.rewritten for c in delta_commits)

    return lake.folded(table, now, ("moved", before), go_on)


def _partitions_affected_by(
    context: RefreshContext, lookup: Lookup, before: int, now: int, existing: set[str]
) -> set[str]:
    """Partitions with rows that the lookup's newest version enriches differently.

    A new or changed history row affects the rows of its key from its `effective_from` on; the earliest row of
    a key also affects those before it. All partitions, if the earlier history cannot be read.
    """
    spark = context.spark()
    from pyspark.sql import functions as F

    from medallion_platform.contracts.spark_engine import quoted
    from medallion_platform.lakehouse import spark_tables

    table, lake = context.table, context.lake
    assert table.partition is not None
    if before < 0 or not existing:
        return existing
    both = spark_tables.read_both(spark, lake, lookup.table, before, now)
    if both is None:
        return existing
    old, new = (history.drop(*_IGNORED) for history in both)
    if not {"effective_from", *(key for key, _ in lookup.pairs)} <= set(old.columns):
        return existing
    changed = new.exceptAll(old).unionByName(old.exceptAll(new))
    since = _changed_keys_since(changed, new.unionByName(old), lookup)
    rows = spark_tables.read(spark, lake, table.name, lake.version(table.name))
    event_time = F.col(str(table.contract.event_time))
    points = [quoted(by) == F.col(key) for key, (_, by) in zip(_key_names(lookup), lookup.pairs, strict=True)]
    hit = rows.join(
        F.broadcast(since),
        reduce(and_, points) & (F.col("_since").isNull() | (event_time >= F.col("_since"))),
    )
    partition = F.col(table.partition.column).cast("string")
    try:
        found = {str(r[0]) for r in hit.select(partition).distinct().collect()}
        return found | _rejected_partitions(table, lake, lookup, since)
    except Exception as error:  # some come by way of py4j alone
        if classify(error).kind is not Kind.CORRUPT:
            raise
        return existing  # a file of a former version; one of the newest fails whoever reads it next


def _changed_keys_since(changed: DataFrame, history: DataFrame, lookup: Lookup) -> DataFrame:
    """Each changed key (`_key_names`), and the time from which rows are affected (`_since`; null: all)."""
    from pyspark.sql import functions as F

    from medallion_platform.contracts.spark_engine import quoted

    def earliest(versions: DataFrame, name: str) -> DataFrame:
        columns = zip(_key_names(lookup), lookup.pairs, strict=True)
        keyed = versions.select(
            *(quoted(column).alias(key) for key, (column, _) in columns), "effective_from"
        )
        return keyed.groupBy(*_key_names(lookup)).agg(F.min("effective_from").alias(name))

    both = earliest(changed, "_since").join(earliest(history, "_first"), _key_names(lookup))
    return both.withColumn("_since", F.when(F.col("_since") > F.col("_first"), F.col("_since"))).drop(
        "_first"
    )


def _key_names(lookup: Lookup) -> list[str]:
    """Column names for a lookup's key that no table uses."""
    return [f"_lookup_key_{n}" for n, _ in enumerate(lookup.pairs)]


def _rejected_partitions(table: Table, lake: Lake, lookup: Lookup, since: DataFrame) -> set[str]:
    """Partitions with dead letters that point to one of these keys and may be valid now. All
    partitions, if a key may be written differently in a letter's JSON.
    """
    names = _key_names(lookup)
    by_text = all(kind in _SAME_IN_JSON for name, kind in since.dtypes if name in names)
    keys = {tuple(map(str, row)) for row in since.select(*names).collect()}
    found: set[str] = set()
    for letters in dead_letters.batches(lake, table.name):
        for partition, payload in zip(letters["partition"], letters["payload"], strict=True):
            # Not by a JSON path, for which a mark in a name has a meaning.
            row = json.loads(payload)
            key_values = tuple(row.get(by) for _, by in lookup.pairs)
            known = None not in key_values and (not by_text or tuple(map(str, key_values)) in keys)
            if known and partition != UNPARTITIONED:
                found.add(partition)
    return found
