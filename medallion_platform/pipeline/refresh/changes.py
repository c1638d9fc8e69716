"""What changed since a table's last refresh, from the Delta logs, and the resulting plan.

Starts a JVM only if a lookup's history changed: then only the rows show which partitions are affected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.delta_log import LogGone, PartitionChanges, commits, touched
from medallion_platform.lakehouse.lake import Lake, LakeSnapshot
from medallion_platform.pipeline.refresh import lookups
from medallion_platform.pipeline.refresh.context import VERBS, RefreshContext
from medallion_platform.pipeline.refresh.errors import MissingUpstream
from medallion_platform.pipeline.refresh.plan import (
    Upstreams,
    made_by_other_code,
    partitions_reached,
    plan_refresh,
    rebuilt_partitions,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from medallion_platform.pipeline.table import Table, Upstream


def planned(
    context: RefreshContext, requested: set[str] | None = None, *, rebuild: bool = False
) -> RefreshContext:
    """Read from the logs what changed, and make the plan; requested: partitions, None for all.

    Raises:
        MissingUpstream: an upstream table does not exist.
    """
    return with_plan(with_changes(context), requested, rebuild=rebuild)


def with_changes(context: RefreshContext) -> RefreshContext:
    """Read from the logs what changed since the table's last refresh.

    Raises:
        MissingUpstream: an upstream table does not exist.
    """
    recovering = _left_behind(context.table, context.lake)
    return replace(context, upstreams=_upstreams(context), recovering=recovering)


def with_plan(
    context: RefreshContext, requested: set[str] | None = None, *, rebuild: bool = False
) -> RefreshContext:
    """Make the plan from what changed. Starts Spark where a lookup's history changed."""
    table, lake = context.table, context.lake
    existing = lake.partitions(table.name, table.partition.column) if table.partition else set[str]()
    affected: set[str] = set()
    if context.last and table.lookups and not rebuild:
        affected = lookups.waiting_partitions(context) | lookups.affected_partitions(context, existing)
    plan = plan_refresh(
        table,
        context.last,
        context.upstreams,
        existing=existing,
        requested=requested,
        affected=affected,
        recovering=context.recovering,
        rebuild=rebuild,
    )
    return replace(context, plan=plan)


def newest(
    table: Table,
    lake: Lake,
    spark: Callable[[], SparkSession],
    partition_columns: Mapping[str, str | None],
) -> RefreshContext:
    """The context of a refresh from the newest versions of the upstream tables, not planned yet."""
    last = lake.last_record(table.name, VERBS)
    heads = {u: _reached(lake, u, last) for u in table.upstream_names}
    return RefreshContext(table, lake, spark, partition_columns, last, Upstreams(heads))


def out_of_date_partitions(
    table: Table,
    lake: Lake,
    spark: Callable[[], SparkSession],
    partition_columns: Mapping[str, str | None],
) -> set[str] | None:
    """The partitions that a refresh would work on now; None for a table without partitions that has work.

    An empty set means up to date.

    Raises:
        MissingUpstream: an upstream table does not exist.
    """
    return named_partitions(planned(newest(table, lake, spark, partition_columns)))


def named_partitions(context: RefreshContext) -> set[str] | None:
    """The partitions that a plan would work on; None for all of a table without partitions."""
    table, plan = context.table, context.plan
    if table.partition is None:
        return set() if plan.nothing else None
    if plan.whole:
        return rebuilt_partitions(table, context.upstreams.partitions) | context.lake.partitions(
            table.name, table.partition.column
        )
    return set(plan.append | plan.replace)


def of_other_code(table: Table, lake: Lake, partition_columns: Mapping[str, str | None]) -> set[str]:
    """The table's partitions (the whole table where it has none) that its former code made, also as empty
    ones.
    """
    last = lake.last_record(table.name, VERBS)
    if last is None:
        return set()
    if table.partition is None:
        return made_by_other_code(table, last, {UNPARTITIONED})
    upstream = {
        u.table: lake.partitions(u.table, column)
        for u in table.upstreams.values()
        if (column := partition_columns[u.table])
    }
    known = rebuilt_partitions(table, upstream) | lake.partitions(table.name, table.partition.column)
    return made_by_other_code(table, last, known)


def _reached(lake: Lake, upstream: str, last: CommitRecord | None) -> int:
    """The newest version of an upstream table, as new at least as what the last refresh was made from."""
    base_versions = last.position.get(upstream, {}) if last else {}
    if isinstance(lake, LakeSnapshot) and lake.version(upstream) < max(base_versions.values(), default=-1):
        lake.reload(upstream)  # it was looked at before that refresh began
    return lake.version(upstream)


def _left_behind(table: Table, lake: Lake) -> bool:
    """Whether the newest dead letters are those of a refresh that never committed its rows."""
    mine, theirs = lake.sequence(table.name), lake.sequence(dead_letters.name(table.name))
    if mine != theirs:
        return theirs > mine
    rows = lake.last_record(table.name)
    rejected = lake.last_record(dead_letters.name(table.name))
    if rows is None or rejected is None:
        return False
    return (rows.run_id, rows.at, rows.position) != (rejected.run_id, rejected.at, rejected.position)


def _upstreams(context: RefreshContext) -> Upstreams:
    """What changed in the upstream tables between the last refresh and the versions to make it from."""
    table, lake, heads = context.table, context.lake, context.upstreams.heads
    changed: dict[str, PartitionChanges | None] = {}
    partitions: dict[str, set[str]] = {}
    for name, head in heads.items():
        if head < 0:
            raise MissingUpstream(
                f"{table.name} is made from {name}, which does not exist yet",
                table=table.name,
                remedy=f"take in or refresh {name} first",
            )
    for upstream in table.upstreams.values():
        name, column = upstream.table, context.partition_columns[upstream.table]
        if table.partition and column:
            partitions[name] = lake.partitions(name, column)
        if context.last is None:
            continue
        try:
            changed[name] = _touched(context, upstream)
        except LogGone:
            changed[name] = None
    return Upstreams(heads, changed, partitions)


def _touched(context: RefreshContext, upstream: Upstream) -> PartitionChanges | None:
    """What changed in one upstream table; None where the version to make it from is older than the last.

    Raises:
        LogGone: the log no longer tells.
    """
    assert context.last is not None
    table, lake, head = context.table, context.lake, context.upstreams.heads[upstream.table]
    column = context.partition_columns[upstream.table]
    base, base_versions = context.base(upstream.table), context.last.position.get(upstream.table, {})
    if base < 0 or max(base_versions.values()) > head:  # back in time
        return None
    ahead = {u: v for u, v in base_versions.items() if u != UNPARTITIONED}

    def go_on(until: int, before: PartitionChanges | None) -> PartitionChanges:
        delta_commits = commits(lake.path(upstream.table), max(base, until), head, column)
        new = touched(delta_commits, base, ahead, partitions_reached(table, upstream))
        return new if before is None else before | new

    name = ("touched", column, base, tuple(sorted(ahead.items())), table.partition, upstream.lookback_days)
    return lake.folded(upstream.table, head, name, go_on)
