"""Refresh: bring one table up to date with the tables it is made from. The one way there is.

A Dagster run, a backfill, a rebuild and the command line all call `refresh`. It asks the logs what
changed (`plan_refresh`), lets Spark make just that and stage it as files, writes the dead letters, and
commits. Nothing is visible before the commit; everything before it can be repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit import (
    CommitConflict,
    commit,
    in_partitions,
    next_sequence,
    sequence_of,
)
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.damage import DamagedFile, telling_damage
from medallion_platform.lakehouse.delta_log import FilesGone, LogGone, PartitionChanges, commits, touched
from medallion_platform.lakehouse.lake import Lake, Look, files_of
from medallion_platform.pipeline.refresh.lineage import Lineage
from medallion_platform.pipeline.refresh.plan import (
    CODE,
    RefreshPlan,
    Upstreams,
    made_by_other_code,
    plan_refresh,
    reach,
    rebuilt_partitions,
)
from medallion_platform.pipeline.run import Run

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from medallion_platform.pipeline.refresh import remake
    from medallion_platform.pipeline.table import Table, Upstream

VERBS = ("refresh", "restore")
"""Commits that tell what a table was made from."""


class RefreshFailed(Exception):
    """A refresh that stopped before its commit: the table is as it was; the text says what to do."""


class MissingUpstream(RefreshFailed):
    """A table that this one is made from does not exist yet."""


@dataclass(frozen=True)
class RefreshResult:
    """What a refresh did. `record` is the commit's own account; None where nothing had to be done.

    lineage: the upstream columns of each column, as the rows of this refresh were made.
    """

    table: str
    version: int
    reason: str
    record: CommitRecord | None = None
    lineage: Lineage = field(default_factory=Lineage)


def refresh(
    table: Table,
    lake: Lake,
    spark: Callable[[], SparkSession],
    run: Run,
    *,
    partitions: Iterable[str] | None = None,
    rebuild: bool = False,
    as_of: datetime | None = None,
    partition_columns: Mapping[str, str | None],
) -> RefreshResult:
    """Bring `partitions` (None: all that is out of date) of the table up to date.

    spark: gives the session; not called where nothing has to be done. unit_columns: the partition
    column of every upstream table (None: it has no partition). rebuild: also what is up to date. as_of:
    from the upstream tables as they were at an instant, until the next refresh without it.

    Raises:
        MissingUpstream: an upstream table does not exist.
        RefreshFailed: the transform failed or a `fail` expectation was violated.
        DamagedFile: a data file that was to be read is gone or damaged.
        CommitConflict: another run committed to the table meanwhile; nothing was written.
    """
    started = time.monotonic()
    requested = None if partitions is None else set(partitions)
    target = lake.open(table.name)
    letters = lake.open(dead_letters.name(table.name))
    # IntakeResult before the work begins: who commits in between makes this refresh too late.
    sequence = next_sequence(target, letters)
    last = lake.last_record(table.name, VERBS) if target else None
    heads = {u: lake.version(u) if as_of is None else lake.version_at(u, as_of) for u in table.upstream_names}
    upstreams, plan = _decide(
        table, lake, spark, partition_columns, last, heads, requested=requested, rebuild=rebuild
    )
    if plan.nothing:
        if target is not None and last is not None and _lookups_moved(table, last, plan):
            # On record, so that the next refresh does not look for affected rows again.
            looked = replace(
                last,
                verb="refresh",
                run_id=run.run_id,
                at=run.at.isoformat(),
                counts=Counts(),
                position=plan.position,
                sequence=sequence,
                partitions={},
                violations={},
                warnings={},
                masked={},
                notes=["lookups changed, no row is affected"],
                taken_back="",
                seconds=round(time.monotonic() - started, 3),
            )
            commit(target, looked)
        return RefreshResult(table.name, target.version() if target else -1, plan.reason)

    from medallion_platform.pipeline.refresh import remake

    stale = remake.stale_lookups(table, lake) if table.lookups else ()

    def make(upstreams: Upstreams, plan: RefreshPlan) -> remake.PendingRefresh:
        return remake.remake(
            table, lake, spark(), plan, last, upstreams, partition_columns, run, stale=bool(stale)
        )

    try:
        with telling_damage(lake, (*table.upstream_names, table.name)):
            try:
                made = make(upstreams, plan)
            except (remake.Widening, FilesGone):
                upstreams, plan = _decide(table, lake, spark, partition_columns, last, heads, rebuild=True)
                made = make(upstreams, plan)
    except (RefreshFailed, DamagedFile):
        raise
    except remake.RefreshRefusal as error:
        raise RefreshFailed(str(error)) from None
    except Exception as error:
        # Spark's texts hold values of rows: they stay out of what is stored and shown.
        cause = None if remake.is_about_rows(error) else error
        raise RefreshFailed(remake.explain(table.name, error)) from cause
    target = lake.open(table.name)
    assert target is not None
    record = CommitRecord(
        verb="refresh",
        run_id=run.run_id,
        at=run.at.isoformat(),
        counts=made.counts,
        position=plan.position,
        code=f"{plan.position[CODE][UNPARTITIONED]:012x}",
        sequence=sequence,
        partitions=made.partitions,
        violations=made.violations,
        warnings=made.warnings,
        stale_partitions=_stale_partitions(None if made.whole else last, plan, made.partitions, bool(stale)),
        notes=[f"stale lookup: {name}" for name in stale] + made.notes,
        source_row_count=made.source_row_count,
        seconds=round(time.monotonic() - started, 3),
        masked=made.masked,
    )
    if sequence_of(target) >= sequence:
        raise CommitConflict(
            f"{table.name}: another run refreshed it meanwhile; nothing was written, run it again"
        )
    _commit_dead_letters(table, lake, plan, made, record)
    replaced = made.replaced_files
    if plan.replace and not made.whole:
        column = table.partition.column if table.partition else None
        replaced = in_partitions(files_of(target), column, set(plan.replace))
    version = commit(
        target, record, add=made.files, remove=replaced, whole=made.schema if made.whole else None
    )
    return RefreshResult(table.name, version, plan.reason, record, made.lineage)


def out_of_date(
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
    last = lake.last_record(table.name, VERBS)
    heads = {u: _reached(lake, u, last) for u in table.upstream_names}
    upstreams, plan = _decide(table, lake, spark, partition_columns, last, heads)
    if table.partition is None:
        return set() if plan.nothing else None
    if plan.whole:
        return rebuilt_partitions(table, upstreams.partitions) | lake.partitions(
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


def _decide(
    table: Table,
    lake: Lake,
    spark: Callable[[], SparkSession],
    partition_columns: Mapping[str, str | None],
    last: CommitRecord | None,
    heads: Mapping[str, int],
    *,
    requested: set[str] | None = None,
    rebuild: bool = False,
) -> tuple[Upstreams, RefreshPlan]:
    """Ask the logs what changed and make the plan; Spark only where a lookup's history changed."""
    upstreams = _look_upstream(table, lake, last, heads, partition_columns)
    existing = lake.partitions(table.name, table.partition.column) if table.partition else set()
    affected: set[str] = set()
    if last and table.lookups:
        affected = set(last.stale_partitions) | _affected_by_lookups(
            table, lake, spark, last, upstreams.heads, existing
        )
    plan = plan_refresh(
        table,
        last,
        upstreams,
        existing=existing,
        requested=requested,
        affected=affected,
        recovering=_left_behind(table, lake),
        rebuild=rebuild,
    )
    return upstreams, plan


def _lookups_moved(table: Table, last: CommitRecord, plan: RefreshPlan) -> bool:
    """Whether the work, though nothing is to do, is based on newer lookups than the last refresh."""
    return any(last.position.get(u.table) != plan.position.get(u.table) for u in table.lookups.values())


def _reached(lake: Lake, upstream: str, last: CommitRecord | None) -> int:
    """The newest version of an upstream table, as new at least as what the last refresh was made from."""
    base_versions = last.position.get(upstream, {}) if last else {}
    if isinstance(lake, Look) and lake.version(upstream) < max(base_versions.values(), default=-1):
        lake.look_again(upstream)  # it was looked at before that refresh began
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


def _missing(table: Table, upstream: str) -> MissingUpstream:
    return MissingUpstream(
        f"{table.name} is made from {upstream}, which does not exist yet: take in or refresh {upstream} first"
    )


def _look_upstream(
    table: Table,
    lake: Lake,
    last: CommitRecord | None,
    heads: Mapping[str, int],
    partition_columns: Mapping[str, str | None],
) -> Upstreams:
    """What changed in the upstream tables between the last refresh and their versions `heads`."""
    changed: dict[str, PartitionChanges | None] = {}
    partitions: dict[str, set[str]] = {}
    for name, head in heads.items():
        if head < 0:
            raise _missing(table, name)
    for upstream in table.upstreams.values():
        name, column = upstream.table, partition_columns[upstream.table]
        if table.partition and column:
            partitions[name] = lake.partitions(name, column)
        if last is None:
            continue
        try:
            changed[name] = _touched(table, upstream, lake, last.position.get(name, {}), heads[name], column)
        except LogGone:
            changed[name] = None
    return Upstreams(heads, changed, partitions)


def _touched(
    table: Table,
    upstream: Upstream,
    lake: Lake,
    base_versions: Mapping[str, int],
    head: int,
    column: str | None,
) -> PartitionChanges | None:
    """What changed in one upstream table up to version `head`; None where that is older than `base_versions`.

    Raises:
        LogGone: the log no longer tells.
    """
    base = base_versions.get(UNPARTITIONED, -1)
    if base < 0 or max(base_versions.values()) > head:  # back in time
        return None
    ahead = {u: v for u, v in base_versions.items() if u != UNPARTITIONED}

    def go_on(until: int, before: PartitionChanges | None) -> PartitionChanges:
        log = commits(lake.path(upstream.table), max(base, until), head, column)
        new = touched(log, base, ahead, reach(table, upstream))
        return new if before is None else before | new

    name = ("touched", column, base, frozenset(ahead.items()), table.partition, upstream.lookback_days)
    return lake.folded(upstream.table, head, name, go_on)


def _affected_by_lookups(
    table: Table,
    lake: Lake,
    spark: Callable[[], SparkSession],
    last: CommitRecord,
    heads: Mapping[str, int],
    existing: set[str],
) -> set[str]:
    """Partitions with rows whose enrichment is different under the lookups' newest history."""
    found: set[str] = set()
    for lookup in table.lookups.values():
        before = last.position.get(lookup.table, {}).get(UNPARTITIONED, -1)
        now = heads[lookup.table]
        if before == now:
            continue
        try:
            if not _moved(lake, lookup.table, before, now):
                continue
        except LogGone:
            return existing
        from medallion_platform.pipeline.refresh import remake

        found |= remake.partitions_affected(table, lake, spark(), lookup, before, now, existing)
    return found


def _moved(lake: Lake, table: str, before: int, now: int) -> bool:
    """Whether any row of a table changed between two versions.

    Raises:
        LogGone: the log no longer tells.
    """

    def go_on(until: int, moved: bool | None) -> bool:
        log = list(commits(lake.path(table), max(before, until), now, None))
        return bool(moved) or any(c.appended or c.rewritten for c in log)

    return lake.folded(table, now, ("moved", before), go_on)


def _stale_partitions(
    last: CommitRecord | None, plan: RefreshPlan, written: Mapping[str, int], stale: bool
) -> list[str]:
    """Partitions that hold rows enriched from a lookup that was behind its own upstream."""
    before = set(last.stale_partitions) if last else set()
    return sorted((before - plan.replace) | (set(written) if stale else set()))


def _commit_dead_letters(
    table: Table, lake: Lake, plan: RefreshPlan, made: remake.PendingRefresh, record: CommitRecord
) -> None:
    """Commit the rejected rows before the table's own commit, in the place of those they supersede."""
    # Partitions that only grow keep the dead letters they have.
    partitions = None if made.whole else made.keys or plan.replace
    dead_letters.replace(lake, table.name, partitions, made.rejects.files, replace(record, partitions={}))
