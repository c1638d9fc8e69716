"""Undo what a run did to the lake. The caller refreshes the downstream tables afterwards.

A refresh or a reparse is undone by restoring the version before it. An intake is undone by removing its rows:
those of later intakes stay, and the position stays too, so that no file is read twice. The table's Delta log
records the rollback.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.lakehouse import dead_letters, polars_writer
from medallion_platform.lakehouse.commit import next_sequence
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.out_of_date import input_state
from medallion_platform.pipeline.run import Run, UnknownRun

if TYPE_CHECKING:
    from deltalake import DeltaTable

_LOG = logging.getLogger(__name__)


class CannotRollBack(MedallionError):
    """The run cannot be rolled back; nothing was changed; the text says why and what to do."""

    kind = Kind.PERMANENT


@dataclass(frozen=True)
class RollbackResult:
    """What happened to one table. rows: its current rows, compared with `rows_before`.

    version: of the rollback; None if nothing of the run was left, so that nothing was committed.
    """

    table: str
    how: str
    rows_before: int
    rows: int
    version: int | None


def rollback(catalog: Catalog, lake: Lake, run_id: str, run: Run) -> list[RollbackResult]:
    """Undo every commit of a run, upstream tables first; a table with nothing left of the run is unchanged.

    Raises:
        UnknownRun: no table has a commit of this run, or several runs begin with this id.
        CannotRollBack: a later commit depends on one of the run's commits.
        CommitConflict: another run committed to a table first; run it again.
    """
    run_id = _complete_run_id(catalog, lake, run_id)
    plans = [p for name in catalog.names for p in [_plan_rollback(catalog, lake, name, run_id)] if p]
    if not plans:
        raise UnknownRun(
            f"no table has a commit of run {run_id}",
            remedy="`medallion history TABLE` lists the runs of a table",
        )
    return [_logged(_roll_back_table(catalog, lake, plan, run), run_id, run) for plan in plans]


def _logged(done: RollbackResult, run_id: str, run: Run) -> RollbackResult:
    fields = {"run_id": run.run_id, "rolled_back": run_id, **asdict(done)}
    _LOG.info("%s: rolled back", done.table, extra=fields)
    return done


def _complete_run_id(catalog: Catalog, lake: Lake, run_id: str) -> str:
    """The complete id of the only run that begins with this text."""
    known = {r.run_id for name in catalog.names for _, r in lake.records(name)}
    meant = [r for r in known if r.startswith(run_id)] if run_id not in known else [run_id]
    if len(meant) > 1:
        raise UnknownRun(f"{len(meant)} runs begin with {run_id}", remedy="give more of the id")
    return meant[0] if meant else run_id


@dataclass(frozen=True)
class _Plan:
    """Either a version to restore, `then` its record, or ranges of offsets to remove."""

    table: str
    run_id: str
    version: int | None = None
    then: CommitRecord | None = None
    ranges: tuple[tuple[str, int, int], ...] = ()


def _plan_rollback(catalog: Catalog, lake: Lake, table: str, run_id: str) -> _Plan | None:
    """How to undo a run's commits to a table; None if it has none."""
    records = sorted(lake.records(table), key=lambda pair: pair[0])
    mine = [(version, r) for version, r in records if r.run_id == run_id]
    if not mine:
        return None
    if all(r.verb == "intake" for _, r in mine):
        if catalog.source_of[table].repeats:
            raise CannotRollBack(
                f"{table}: what run {run_id} took in would come again with the next pull of source "
                f"{catalog.source_of[table].name}. Nothing was changed",
                table=table,
            )
        whole_log = 0 in lake.committed_at(table)
        return _Plan(table, run_id, ranges=tuple(_offset_ranges(table, records, run_id, whole_log)))
    first, (_, last) = mine[0][0], records[-1]
    if table.startswith("bronze.") and last.run_id != run_id:
        raise CannotRollBack(
            f"{table}: run {last.run_id} wrote to it after run {run_id} and would be lost. Nothing was "
            "changed",
            table=table,
            remedy="roll that one back first",
        )
    before = [r for version, r in records if version < first]
    return _Plan(table, run_id, first - 1, before[-1] if before else None)


def _offset_ranges(
    table: str, records: list[tuple[int, CommitRecord]], run_id: str, whole_log: bool
) -> Iterator[tuple[str, int, int]]:
    """The offsets that each intake commit of a run took in: from the previous position to its own.

    whole_log: no commit is gone from the log, so a source without an earlier position began with the run.
    """
    reached: dict[str, int] = {}
    for _, record in records:
        if record.verb != "intake":
            continue
        for source, position in record.position.items():
            if record.run_id == run_id and source not in reached and not whole_log:
                raise CannotRollBack(
                    f"{table}: its log no longer says where run {run_id} began in {source}. Nothing was "
                    "changed",
                    table=table,
                )
            if record.run_id == run_id:
                yield source, reached.get(source, 0), position[UNPARTITIONED]
            reached[source] = position[UNPARTITIONED]


def _roll_back_table(catalog: Catalog, lake: Lake, plan: _Plan, run: Run) -> RollbackResult:
    before = lake.rows(plan.table)
    table, letters = lake.open(plan.table), lake.open(dead_letters.name(plan.table))
    assert table is not None
    if _has_nothing_left(lake, plan, table, letters):
        return RollbackResult(plan.table, "nothing of it is left to take back", before, before, None)
    if plan.version is None:
        account = CommitRecord(
            "rollback",
            run.run_id,
            run.at.isoformat(),
            sequence=next_sequence(table, letters),
            notes=[f"withdrew run {plan.run_id}"],
        )
        if letters:
            letters_of_run = _range_predicate(plan.ranges, "source", "offset")
            polars_writer.delete_rows(letters, letters_of_run, account, guard=run.guard)
        rows_of_run = _range_predicate(plan.ranges, "_source", "_offset")
        polars_writer.delete_rows(table, rows_of_run, account, guard=run.guard)
        now = lake.rows(plan.table)
        return RollbackResult(plan.table, "its rows were withdrawn", before, now, lake.version(plan.table))
    table_made = catalog.by_name.get(plan.table)
    state = input_state(table_made, lake) if table_made else ""
    take_back(lake, plan.table, plan.version, plan.then, run, f"took back run {plan.run_id}", state)
    how, now = f"as of version {plan.version}", lake.rows(plan.table)
    return RollbackResult(plan.table, how, before, now, lake.version(plan.table))


def take_back(
    lake: Lake,
    table: str,
    version: int,
    then: CommitRecord | None,
    run: Run,
    note: str,
    taken_back: str = "",
    *,
    missing_files: bool = False,
) -> None:
    """Restore a version of a table, with the dead letters of that time. Can be killed and done again.

    then: the last record up to that version, if there is any. taken_back: as in `CommitRecord`.
    missing_files: whether data files of it may be gone.

    Raises:
        CommitConflict: another run committed to the table first.
        NotAllowed: the run's guard refuses.
    """
    opened, letters = lake.open(table), lake.open(dead_letters.name(table))
    assert opened is not None
    account = replace(
        then or CommitRecord("restore", run.run_id, ""),
        verb="restore",
        run_id=run.run_id,
        at=run.at.isoformat(),
        counts=Counts(),
        sequence=next_sequence(opened, letters),
        partitions={},
        notes=[note],
        taken_back=taken_back,
    )
    restore = partial(polars_writer.restore_version, guard=run.guard, missing_files=missing_files)
    if letters:
        # They go back to what they were with the rows: they carry the same sequence numbers.
        reached = then.sequence if then else 0
        versions = [v for v, r in lake.records(dead_letters.name(table)) if r.sequence <= reached]
        restore(letters, max(versions, default=0), account)
    restore(opened, version, account)


def _has_nothing_left(lake: Lake, plan: _Plan, table: DeltaTable, letters: DeltaTable | None) -> bool:
    """Whether the table has nothing of the run: it was rolled back before, or had no rows."""
    if plan.version is None:
        held = [(table, "_source", "_offset"), (letters, "source", "offset")]
        return not any(_has_rows_in(t, plan.ranges, *names) for t, *names in held if t is not None)
    last = lake.last_record(plan.table)
    if last is None or last.verb != "restore":
        return False
    then = lake.open(plan.table, plan.version)
    return then is not None and {f["path"] for f in files_of(table)} == {f["path"] for f in files_of(then)}


def _has_rows_in(
    table: DeltaTable, ranges: tuple[tuple[str, int, int], ...], source: str, offset: str
) -> bool:
    """Whether a row is in one of the ranges."""
    import polars as pl

    if not ranges:
        return False
    found = polars_writer.scan_rows(table).filter(
        pl.any_horizontal(
            (pl.col(source) == name) & pl.col(offset).is_between(first, end, closed="left")
            for name, first, end in ranges
        )
    )
    return not found.select(offset).head(1).collect().is_empty()


def _range_predicate(ranges: tuple[tuple[str, int, int], ...], source: str, offset: str) -> str:
    """An SQL predicate that contains only numbers and declared names."""
    parts = []
    for name, first, end in ranges:
        quoted = name.replace("'", "''")
        parts.append(f"({source} = '{quoted}' AND {offset} >= {first} AND {offset} < {end})")
    return " OR ".join(parts)
