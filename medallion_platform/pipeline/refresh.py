"""Refresh: bring one table up to date with the tables it is made from. The one way there is.

A Dagster run, a backfill, a rebuild and the command line all call `refresh`. It asks the logs what
changed (`plan`), lets Spark make just that and stage it as files, writes the dead letters, and
commits. Nothing is visible before the commit; everything before it can be repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit import Fenced, commit, in_units, next_sequence, sequence_of
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.damage import DamagedFile, telling_damage
from medallion_platform.lakehouse.lake import Lake, Look, files_of
from medallion_platform.lakehouse.log import FilesGone, LogGone, Touched, commits, touched
from medallion_platform.lakehouse.record import WHOLE, Record
from medallion_platform.pipeline.lineage import Lineage
from medallion_platform.pipeline.plan import (
    CODE,
    Upstreams,
    Work,
    made_by_other_code,
    plan,
    reach,
    rebuilt_units,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from medallion_platform.pipeline import remake
    from medallion_platform.pipeline.table import Table, Upstream

VERBS = ("refresh", "restore")
"""Commits that tell what a table was made from."""


class RefreshFailed(Exception):
    """A refresh that stopped before its commit: the table is as it was; the text says what to do."""


class MissingUpstream(RefreshFailed):
    """A table that this one is made from does not exist yet."""


@dataclass(frozen=True)
class Run:
    """Who refreshes, and what time it is for them: the only clock a refresh knows."""

    run_id: str
    at: datetime

    @staticmethod
    def now(run_id: str = "local") -> Run:
        """A run that starts now."""
        return Run(run_id, datetime.now(UTC))


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did. `record` is the commit's own account; None where nothing had to be done.

    lineage: the upstream columns of each column, as the rows of this refresh were made.
    """

    table: str
    version: int
    reason: str
    record: Record | None = None
    lineage: Lineage = field(default_factory=Lineage)


def refresh(
    table: Table,
    lake: Lake,
    spark: Callable[[], SparkSession],
    run: Run,
    *,
    units: Iterable[str] | None = None,
    rebuild: bool = False,
    as_of: datetime | None = None,
    unit_columns: Mapping[str, str | None],
) -> Refreshed:
    """Bring `units` (None: all that is out of date) of the table up to date.

    spark: gives the session; not called where nothing has to be done. unit_columns: the unit
    column of every upstream table (None: it has no unit). rebuild: also what is up to date. as_of:
    from the upstream tables as they were at an instant, until the next refresh without it.

    Raises:
        MissingUpstream: an upstream table does not exist.
        RefreshFailed: the transform failed or a `fail` expectation was violated.
        DamagedFile: a data file that was to be read is gone or damaged.
        Fenced: another run committed to the table meanwhile; nothing was written.
    """
    started = time.monotonic()
    requested = None if units is None else set(units)
    target = lake.open(table.name)
    letters = lake.open(dead_letters.name(table.name))
    # Taken before the work begins: who commits in between makes this refresh too late.
    sequence = next_sequence(target, letters)
    last = lake.last_record(table.name, VERBS) if target else None
    heads = {u: lake.version(u) if as_of is None else lake.version_at(u, as_of) for u in table.upstream_names}
    upstreams, work = _decide(
        table, lake, spark, unit_columns, last, heads, requested=requested, rebuild=rebuild
    )
    if work.nothing:
        if target is not None and last is not None and _lookups_moved(table, last, work):
            # On record, so that the next refresh does not look for affected rows again.
            looked = replace(
                last,
                verb="refresh",
                run_id=run.run_id,
                at=run.at.isoformat(),
                counts=Counts(),
                position=work.position,
                sequence=sequence,
                units={},
                violations={},
                warnings={},
                masked={},
                notes=["lookups changed, no row is affected"],
                taken_back="",
                seconds=round(time.monotonic() - started, 3),
            )
            commit(target, looked)
        return Refreshed(table.name, target.version() if target else -1, work.reason)

    from medallion_platform.pipeline import remake

    stale = remake.stale_lookups(table, lake) if table.lookups else ()

    def make(upstreams: Upstreams, work: Work) -> remake.Made:
        return remake.remake(
            table, lake, spark(), work, last, upstreams, unit_columns, run, stale=bool(stale)
        )

    try:
        with telling_damage(lake, (*table.upstream_names, table.name)):
            try:
                made = make(upstreams, work)
            except (remake.Widening, FilesGone):
                upstreams, work = _decide(table, lake, spark, unit_columns, last, heads, rebuild=True)
                made = make(upstreams, work)
    except (RefreshFailed, DamagedFile):
        raise
    except remake.Refused as error:
        raise RefreshFailed(str(error)) from None
    except Exception as error:
        # Spark's texts hold values of rows: they stay out of what is stored and shown.
        cause = None if remake.is_about_rows(error) else error
        raise RefreshFailed(remake.explain(table.name, error)) from cause
    target = lake.open(table.name)
    assert target is not None
    record = Record(
        verb="refresh",
        run_id=run.run_id,
        at=run.at.isoformat(),
        counts=made.counts,
        position=work.position,
        code=f"{work.position[CODE][WHOLE]:012x}",
        sequence=sequence,
        units=made.units,
        violations=made.violations,
        warnings=made.warnings,
        stale_units=_stale_units(None if made.whole else last, work, made.units, bool(stale)),
        notes=[f"stale lookup: {name}" for name in stale] + made.notes,
        stands_for=made.stands_for,
        seconds=round(time.monotonic() - started, 3),
        masked=made.masked,
    )
    if sequence_of(target) >= sequence:
        raise Fenced(f"{table.name}: another run refreshed it meanwhile; nothing was written, run it again")
    _commit_dead_letters(table, lake, work, made, record)
    replaced = made.replaced_files
    if work.replace and not made.whole:
        column = table.unit.column if table.unit else None
        replaced = in_units(files_of(target), column, set(work.replace))
    version = commit(
        target, record, add=made.files, remove=replaced, whole=made.schema if made.whole else None
    )
    return Refreshed(table.name, version, work.reason, record, made.lineage)


def out_of_date(
    table: Table,
    lake: Lake,
    spark: Callable[[], SparkSession],
    unit_columns: Mapping[str, str | None],
) -> set[str] | None:
    """The units that a refresh would work on now; None for a table without units that has work.

    An empty set means up to date.

    Raises:
        MissingUpstream: an upstream table does not exist.
    """
    last = lake.last_record(table.name, VERBS)
    heads = {u: _reached(lake, u, last) for u in table.upstream_names}
    upstreams, work = _decide(table, lake, spark, unit_columns, last, heads)
    if table.unit is None:
        return set() if work.nothing else None
    if work.whole:
        return rebuilt_units(table, upstreams.units) | lake.units(table.name, table.unit.column)
    return set(work.append | work.replace)


def of_other_code(table: Table, lake: Lake, unit_columns: Mapping[str, str | None]) -> set[str]:
    """The table's units (the whole table where it has none) that its former code made, also as empty ones."""
    last = lake.last_record(table.name, VERBS)
    if last is None:
        return set()
    if table.unit is None:
        return made_by_other_code(table, last, {WHOLE})
    upstream = {
        u.table: lake.units(u.table, column)
        for u in table.upstreams.values()
        if (column := unit_columns[u.table])
    }
    known = rebuilt_units(table, upstream) | lake.units(table.name, table.unit.column)
    return made_by_other_code(table, last, known)


def _decide(
    table: Table,
    lake: Lake,
    spark: Callable[[], SparkSession],
    unit_columns: Mapping[str, str | None],
    last: Record | None,
    heads: Mapping[str, int],
    *,
    requested: set[str] | None = None,
    rebuild: bool = False,
) -> tuple[Upstreams, Work]:
    """Ask the logs what changed and make the plan; Spark only where a lookup's history changed."""
    upstreams = _look_upstream(table, lake, last, heads, unit_columns)
    existing = lake.units(table.name, table.unit.column) if table.unit else set()
    affected: set[str] = set()
    if last and table.lookups:
        affected = set(last.stale_units) | _affected_by_lookups(
            table, lake, spark, last, upstreams.heads, existing
        )
    work = plan(
        table,
        last,
        upstreams,
        existing=existing,
        requested=requested,
        affected=affected,
        recovering=_left_behind(table, lake),
        rebuild=rebuild,
    )
    return upstreams, work


def _lookups_moved(table: Table, last: Record, work: Work) -> bool:
    """Whether the work, though nothing is to do, is based on newer lookups than the last refresh."""
    return any(last.position.get(u.table) != work.position.get(u.table) for u in table.lookups.values())


def _reached(lake: Lake, upstream: str, last: Record | None) -> int:
    """The newest version of an upstream table, as new at least as what the last refresh was made from."""
    made_from = last.position.get(upstream, {}) if last else {}
    if isinstance(lake, Look) and lake.version(upstream) < max(made_from.values(), default=-1):
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
    last: Record | None,
    heads: Mapping[str, int],
    unit_columns: Mapping[str, str | None],
) -> Upstreams:
    """What changed in the upstream tables between the last refresh and their versions `heads`."""
    changed: dict[str, Touched | None] = {}
    units: dict[str, set[str]] = {}
    for name, head in heads.items():
        if head < 0:
            raise _missing(table, name)
    for upstream in table.upstreams.values():
        name, column = upstream.table, unit_columns[upstream.table]
        if table.unit and column:
            units[name] = lake.units(name, column)
        if last is None:
            continue
        try:
            changed[name] = _touched(table, upstream, lake, last.position.get(name, {}), heads[name], column)
        except LogGone:
            changed[name] = None
    return Upstreams(heads, changed, units)


def _touched(
    table: Table, upstream: Upstream, lake: Lake, made_from: Mapping[str, int], head: int, column: str | None
) -> Touched | None:
    """What changed in one upstream table up to version `head`; None where that is older than `made_from`.

    Raises:
        LogGone: the log no longer tells.
    """
    base = made_from.get(WHOLE, -1)
    if base < 0 or max(made_from.values()) > head:  # back in time
        return None
    ahead = {u: v for u, v in made_from.items() if u != WHOLE}

    def go_on(until: int, before: Touched | None) -> Touched:
        log = commits(lake.path(upstream.table), max(base, until), head, column)
        new = touched(log, base, ahead, reach(table, upstream))
        return new if before is None else before | new

    name = ("touched", column, base, frozenset(ahead.items()), table.unit, upstream.back)
    return lake.folded(upstream.table, head, name, go_on)


def _affected_by_lookups(
    table: Table,
    lake: Lake,
    spark: Callable[[], SparkSession],
    last: Record,
    heads: Mapping[str, int],
    existing: set[str],
) -> set[str]:
    """Units with rows whose enrichment is different under the lookups' newest history."""
    found: set[str] = set()
    for lookup in table.lookups.values():
        before = last.position.get(lookup.table, {}).get(WHOLE, -1)
        now = heads[lookup.table]
        if before == now:
            continue
        try:
            if not _moved(lake, lookup.table, before, now):
                continue
        except LogGone:
            return existing
        from medallion_platform.pipeline import remake

        found |= remake.units_affected(table, lake, spark(), lookup, before, now, existing)
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


def _stale_units(last: Record | None, work: Work, written: Mapping[str, int], stale: bool) -> list[str]:
    """Units that hold rows enriched from a lookup that was behind its own upstream."""
    before = set(last.stale_units) if last else set()
    return sorted((before - work.replace) | (set(written) if stale else set()))


def _commit_dead_letters(table: Table, lake: Lake, work: Work, made: remake.Made, record: Record) -> None:
    """Commit the rejected rows before the table's own commit, in the place of those they supersede."""
    # Units that only grow keep the dead letters they have.
    units = None if made.whole else made.keys or work.replace
    dead_letters.replace(lake, table.name, units, made.rejects.files, replace(record, units={}))
