"""What the next refresh of a table would do, and why, without doing it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from medallion_platform.lakehouse.commit import files_in_partitions
from medallion_platform.lakehouse.commit_record import UNPARTITIONED
from medallion_platform.lakehouse.delta_log import FileEntry, LogGone, files_added
from medallion_platform.lakehouse.lake import files_of
from medallion_platform.pipeline.refresh import lookups
from medallion_platform.pipeline.refresh.changes import named_partitions
from medallion_platform.pipeline.refresh.context import RefreshContext
from medallion_platform.pipeline.refresh.plan import CODE, RefreshPlan, code_version, upstream_days
from medallion_platform.pipeline.table import Lookup, Upstream


class Action(StrEnum):
    """What a refresh would do."""

    NOTHING = "nothing"
    APPEND = "append"
    """Add what new upstream rows give."""
    REPLACE_PARTITIONS = "replace_partitions"
    """Compute some partitions again (and append to others)."""
    MERGE_BY_KEY = "merge_by_key"
    """Compute the rows of the keys that changed again."""
    REBUILD = "rebuild"
    """Compute the whole table again."""
    WAITS = "waits"
    """An input does not exist yet."""
    UNSURE = "unsure"
    """A lookup's history changed, and only rows tell which partitions that concerns."""


class Why(StrEnum):
    """Why a table is out of date."""

    FIRST_TIME = "first_time"
    CODE_CHANGED = "code_changed"
    UPSTREAM_CHANGED = "upstream_changed"
    LOOKUP_MOVED = "lookup_moved"
    LOOKUP_WAS_STALE = "lookup_was_stale"
    """Rows were made while a lookup was itself out of date."""
    REFRESH_DIED = "refresh_died"
    """A refresh wrote its dead letters and died before it committed its rows."""
    LOG_GONE = "log_gone"
    """The upstream's log no longer says what changed."""
    FOLLOWS = "follows"
    """An input is to be refreshed first; what that changes is known then."""
    INPUT_MISSING = "input_missing"


@dataclass(frozen=True)
class Cause:
    """One reason. table: the input concerned, with its old and new version; -1 if it had none."""

    why: Why
    table: str = ""
    before: int = -1
    now: int = -1

    def __str__(self) -> str:
        words = self.why.replace("_", " ")
        return (
            f"{words}: {self.table} {self.before} → {self.now}"
            if self.now >= 0
            else f"{words} {self.table}".strip()
        )


@dataclass(frozen=True)
class Size:
    """Rows and bytes of data files, from the statistics in Delta logs."""

    rows: int = 0
    bytes: int = 0

    def __add__(self, other: Size) -> Size:
        """The sum of both."""
        return Size(self.rows + other.rows, self.bytes + other.bytes)


@dataclass(frozen=True)
class Explanation:
    """What the next refresh of a table would do.

    partitions: those it would work on; None for a table without partitions, or if only the run can tell.
    reads: upstream rows that it would read. rewrites: existing rows of the table that would be rewritten or
    removed. For `MERGE_BY_KEY` both are upper bounds, because logs do not show which rows have a changed key;
    None if only the run can tell.
    """

    table: str
    action: Action
    causes: tuple[Cause, ...] = ()
    partitions: frozenset[str] | None = frozenset()
    reads: Size | None = Size()
    rewrites: Size | None = Size()


def explain_plan(context: RefreshContext) -> Explanation:
    """Explain a plan: partitions from the plan, sizes from the statistics in the Delta logs."""
    if context.plan.nothing:
        return Explanation(context.table.name, Action.NOTHING)
    named = named_partitions(context)
    return Explanation(
        context.table.name,
        planned_action(context.plan),
        tuple(causes(context)),
        None if named is None else frozenset(named),
        _size_read(context),
        _size_rewritten(context),
    )


def planned_action(plan: RefreshPlan) -> Action:
    """What a refresh by this plan does. Pure."""
    if plan.nothing:
        return Action.NOTHING
    if plan.whole:
        return Action.REBUILD
    if plan.merge:
        return Action.MERGE_BY_KEY
    return Action.REPLACE_PARTITIONS if plan.replace else Action.APPEND


def causes(context: RefreshContext) -> Iterator[Cause]:
    """Why the table is out of date: what changed since its last refresh."""
    last, upstreams = context.last, context.upstreams
    if last is None:
        yield Cause(Why.FIRST_TIME)
        return
    if set(last.position.get(CODE, {}).values()) != {code_version(context.table)}:
        yield Cause(Why.CODE_CHANGED)
    if context.recovering:
        yield Cause(Why.REFRESH_DIED)
    for source in context.table.upstreams.values():
        change = upstreams.changed.get(source.table)
        if change is None:
            yield _version_change(Why.LOG_GONE, context, source.table)
        elif change.all:
            yield _version_change(Why.UPSTREAM_CHANGED, context, source.table)
    for lookup in lookups.changed_lookups(context):
        yield _version_change(Why.LOOKUP_MOVED, context, lookup.table)
    if last.stale_partitions:
        yield Cause(Why.LOOKUP_WAS_STALE)


def _version_change(why: Why, context: RefreshContext, upstream: str) -> Cause:
    return Cause(why, upstream, context.base(upstream), context.upstreams.heads[upstream])


def _size_read(context: RefreshContext) -> Size:
    return sum((_size_read_of_input(context, source) for source in context.table.inputs.values()), Size())


def _size_read_of_input(context: RefreshContext, source: Upstream | Lookup) -> Size:
    """The size of what would be read of one input."""
    table, plan, main = context.table, context.plan, context.main_table
    column, head = context.partition_columns[source.table], context.upstreams.heads[source.table]
    by_days = isinstance(source, Upstream) and bool(table.partition) and bool(column) and not plan.whole
    found = Size()
    rest = plan.append | plan.replace
    if source.table == main and plan.append and not plan.whole:
        days = upstream_days(table, main, plan.append) if by_days else None
        found, rest = _size_appended(context, column, days), plan.replace
        if not rest:
            return found
    opened = context.lake.open(source.table, head)
    if opened is None:
        return found
    files = files_of(opened)
    if by_days:
        files = files_in_partitions(files, column, upstream_days(table, source.table, rest))
    return found + _size_of_files(files)


def _size_appended(context: RefreshContext, column: str | None, days: Collection[str] | None) -> Size:
    """The size of what was added to the main upstream since the last refresh."""
    main = context.main_table
    found = Size()
    with suppress(LogGone):
        for added in files_added(context.lake.path(main), context.base(main), context.upstreams.heads[main]):
            partition = (added.get("partitionValues") or {}).get(column) or UNPARTITIONED
            if days is None or partition in days:
                rows = json.loads(added.get("stats") or "{}").get("numRecords", 0)
                found += Size(rows, added["size"])
    return found


def _size_rewritten(context: RefreshContext) -> Size:
    """The existing rows of the table that would be rewritten or removed; for a merge, the whole table."""
    table, plan = context.table, context.plan
    opened = context.lake.open(table.name)
    if opened is None or not (plan.whole or plan.merge or plan.replace):
        return Size()
    files = files_of(opened)
    if plan.replace and not plan.whole:
        column = table.partition.column if table.partition else None
        files = files_in_partitions(files, column, set(plan.replace))
    return _size_of_files(files)


def _size_of_files(files: list[FileEntry]) -> Size:
    """The rows and bytes of data files, given their rows of `files_of`."""
    return Size(sum(f["num_records"] or 0 for f in files), sum(f["size_bytes"] for f in files))
