"""Which rows a change of a lookup's history affects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

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


def stale(table: Table, lake: Lake) -> tuple[str, ...]:
    """Lookups that are behind their own upstream: their refresh failed, the last good one serves."""
    found = []
    for lookup in table.lookups.values():
        record = lake.last_record(lookup.table, VERBS)
        for upstream, versions in (record.position if record else {}).items():
            if "." in upstream and _has_changed(lake, upstream, versions.get(UNPARTITIONED, -1)):
                found.append(lookup.table)
                break
    return tuple(found)


def moved(context: RefreshContext) -> bool:
    """Whether the plan, though nothing is to do, is based on newer lookups than the last refresh."""
    last, position = context.last, context.plan.position
    names = [u.table for u in context.table.lookups.values()]
    return last is not None and any(last.position.get(n) != position.get(n) for n in names)


def affected(context: RefreshContext, existing: set[str]) -> set[str]:
    """Partitions with rows whose enrichment is different under the lookups' newest history."""
    found: set[str] = set()
    for lookup in context.table.lookups.values():
        before, now = context.base(lookup.table), context.upstreams.heads[lookup.table]
        if before == now:
            continue
        try:
            if not _changed_between(context.lake, lookup.table, before, now):
                continue
        except LogGone:
            return existing
        found |= _affected_by(context, lookup, before, now, existing)
    return found


def changed(context: RefreshContext) -> Iterator[Lookup]:
    """The lookups whose rows changed since the last refresh, or whose log no longer says that."""
    for lookup in context.table.lookups.values():
        before, now = context.base(lookup.table), context.upstreams.heads[lookup.table]
        try:
            if before != now and _changed_between(context.lake, lookup.table, before, now):
                yield lookup
        except LogGone:
            yield lookup


def _has_changed(lake: Lake, table: str, since: int) -> bool:
    """Whether rows came or went since a version; upkeep and commits without rows do not count."""
    try:
        return _changed_between(lake, table, since, lake.version(table))
    except LogGone:
        return True


def _changed_between(lake: Lake, table: str, before: int, now: int) -> bool:
    """Whether any row of a table changed between two versions.

    Raises:
        LogGone: the log no longer tells.
    """

    def go_on(until: int, moved: bool | None) -> bool:
        delta_commits = list(commits(lake.path(table), max(before, until), now, None))
        return bool(moved) or any(c.appended or c.rewritten for c in delta_commits)

    return lake.folded(table, now, ("moved", before), go_on)


def _affected_by(
    context: RefreshContext, lookup: Lookup, before: int, now: int, existing: set[str]
) -> set[str]:
    """Partitions that hold rows which the lookup's newest history enriches differently.

    A history row that is new or changed at `effective_from` concerns the rows of its key from
    then on; the earliest one of a key also those before it.
    """
    spark = context.spark()
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    from medallion_platform.contracts.spark_engine import quoted
    from medallion_platform.lakehouse import spark as engine

    table, lake = context.table, context.lake
    assert table.partition is not None
    if before < 0 or not existing:
        return existing
    new = engine.read(spark, lake, lookup.table, now).drop(*_IGNORED)
    try:
        old = engine.read(spark, lake, lookup.table, before).drop(*_IGNORED)
        same = [quoted(c) for c in new.columns if c in old.columns]
        changed = (
            new.select(*same)
            .exceptAll(old.select(*same))
            .unionByName(old.select(*same).exceptAll(new.select(*same)))
        )
        since = _since(changed, new.select(*same).unionByName(old.select(*same)), lookup)
        rows = engine.read(spark, lake, table.name, lake.version(table.name))
        event_time = F.col(str(table.contract.event_time))
        points = [quoted(by) == F.col(key) for key, (_, by) in zip(_keys(lookup), lookup.pairs, strict=True)]
        hit = rows.join(
            F.broadcast(since),
            reduce(and_, points) & (F.col("_since").isNull() | (event_time >= F.col("_since"))),
        )
        partition = F.col(table.partition.column).cast("string")
        found = {str(r[0]) for r in hit.select(partition).distinct().collect()}
        return found | _rejected_partitions(table, lake, lookup, since)
    except PySparkException:
        return existing  # the old version is gone: whatever may be affected is recomputed


def _since(changed: DataFrame, history: DataFrame, lookup: Lookup) -> DataFrame:
    """Each key that changed (`_keys`), and from when on it concerns rows: `_since`, null for all of them."""
    from pyspark.sql import functions as F

    from medallion_platform.contracts.spark_engine import quoted

    def earliest(versions: DataFrame, name: str) -> DataFrame:
        columns = zip(_keys(lookup), lookup.pairs, strict=True)
        keyed = versions.select(
            *(quoted(column).alias(key) for key, (column, _) in columns), "effective_from"
        )
        return keyed.groupBy(*_keys(lookup)).agg(F.min("effective_from").alias(name))

    both = earliest(changed, "_since").join(earliest(history, "_first"), _keys(lookup))
    return both.withColumn("_since", F.when(F.col("_since") > F.col("_first"), F.col("_since"))).drop(
        "_first"
    )


def _keys(lookup: Lookup) -> list[str]:
    """Names for the columns of a lookup's key that no row has."""
    return [f"_lookup_key_{n}" for n, _ in enumerate(lookup.pairs)]


def _rejected_partitions(table: Table, lake: Lake, lookup: Lookup, since: DataFrame) -> set[str]:
    """Partitions of dead letters that point to one of these keys: what the lookup says now may make good
    rows of them. All of them where a key may be written otherwise in a letter's JSON.
    """
    names = _keys(lookup)
    by_text = all(kind in _SAME_IN_JSON for name, kind in since.dtypes if name in names)
    keys = {tuple(map(str, row)) for row in since.select(*names).collect()}
    found: set[str] = set()
    for letters in dead_letters.batches(lake, table.name):
        for partition, payload in zip(letters["partition"], letters["payload"], strict=True):
            # Not by a JSON path, for which a mark in a name has a meaning.
            row = json.loads(payload)
            told = tuple(row.get(by) for _, by in lookup.pairs)
            known = None not in told and (not by_text or tuple(map(str, told)) in keys)
            if known and partition != UNPARTITIONED:
                found.add(partition)
    return found
