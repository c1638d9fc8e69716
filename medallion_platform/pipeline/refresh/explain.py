"""What the next refresh of a table would do, and why, without doing it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

from medallion_platform.lakehouse.delta_log import LogGone
from medallion_platform.lakehouse.lake import Size
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
    reads: Size | None = field(default_factory=Size)
    rewrites: Size | None = field(default_factory=Size)


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
        size_read(context),
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
    if lookups.waiting_partitions(context):
        yield Cause(Why.LOOKUP_WAS_STALE)


def _version_change(why: Why, context: RefreshContext, upstream: str) -> Cause:
    return Cause(why, upstream, context.base(upstream), context.upstreams.heads[upstream])


def size_read(context: RefreshContext) -> Size:
    """The size of the data files that a refresh by this plan reads of its inputs."""
    return sum((_size_read_of_input(context, source) for source in context.table.inputs.values()), Size())


def _size_read_of_input(context: RefreshContext, source: Upstream | Lookup) -> Size:
    """The size of what would be read of one input."""
    table, plan, main = context.table, context.plan, context.main_table
    column = context.partition_columns[source.table]
    by_days = isinstance(source, Upstream) and bool(table.partition) and bool(column) and not plan.whole
    found = Size()
    rest = plan.append | plan.replace
    if source.table == main and plan.append and not plan.whole:
        days = upstream_days(table, main, plan.append) if by_days else None
        found, rest = _size_appended(context, column, days), plan.replace
        if not rest:
            return found
    days = upstream_days(table, source.table, rest) if by_days else None
    return found + _total(context.lake.sizes(source.table, column), days)


def _size_appended(context: RefreshContext, column: str | None, days: Collection[str] | None) -> Size:
    """The size of what was added to the main upstream since the last refresh."""
    main = context.main_table
    with suppress(LogGone):
        return _total(context.lake.sizes_added(main, context.base(main), column), days)
    return Size()


def _size_rewritten(context: RefreshContext) -> Size:
    """The existing rows of the table that would be rewritten or removed; for a merge, the whole table."""
    table, plan = context.table, context.plan
    if not (plan.whole or plan.merge or plan.replace):
        return Size()
    column = table.partition.column if table.partition else None
    some = plan.replace if column and plan.replace and not plan.whole else None
    return _total(context.lake.sizes(table.name, column), some)


def _total(sizes: Mapping[str, Size], partitions: Collection[str] | None) -> Size:
    """The size of these partitions, of all if None."""
    return sum((s for name, s in sizes.items() if partitions is None or name in partitions), Size())
