"""The commit of a batch, the same for both engines: first dead letters, then rows with the new positions.

After a crash between the two, there are dead letters beyond the table's position. The next intake does not
write these again: the table's commit decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit import CommitConflict, writer_sequence
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.counts import Counts, counted
from medallion_platform.lakehouse.delta_log import is_newest
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.sources.source import Source

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from medallion_platform.pipeline.observer import EventReporter
    from medallion_platform.pipeline.run import Run

WriteLetters = Callable[["DeltaTable", CommitRecord, Mapping[str, int]], object]
"""Commits a batch's dead letters to their table, with this account and these positions."""
WriteRows = Callable[[CommitRecord], int]
"""Commits a batch's rows with this account and the batch's positions; gives the version."""


ATTEMPTS = 6
"""Times that a batch is taken where others commit first."""


class IntakeFailed(MedallionError):
    """An intake that stopped before its commit; nothing of the batch is visible."""

    kind = Kind.DATA


@dataclass(frozen=True)
class PendingIntake:
    """A batch with its rows and dead letters, not committed yet.

    table, letters: opened before the work began (letters: None if there were none). positions: after the
    batch. record: the commit record. started: from `time.monotonic`.
    """

    source: Source
    lake: Lake
    table: DeltaTable
    letters: DeltaTable | None
    positions: Mapping[str, int]
    record: CommitRecord
    started: float = field(default_factory=time.monotonic)


def commit_batch(
    batch: PendingIntake, tell: EventReporter, write_rows: WriteRows, write_letters: WriteLetters | None
) -> tuple[int, CommitRecord]:
    """Make a batch visible; returns the version and the commit record.

    write_letters: None if no row was rejected.

    Raises:
        CommitConflict: another writer committed first.
        IntakeFailed: not every row is accounted for.
    """
    refuse_unaccounted(batch.source, batch.record.counts)
    tell.staged(batch.record.counts)
    if write_letters is not None:
        _refuse_other_writer(batch)
        letters = batch.letters or dead_letters.create(batch.lake, batch.source.table)
        write_letters(
            letters, replace(batch.record, partitions={}), _furthest_positions(letters, batch.positions)
        )
    record = replace(batch.record, seconds=round(time.monotonic() - batch.started, 3))
    version = write_rows(record)
    tell.committed(version, record)
    return version, record


def intake_record(
    verb: str, run: Run, counts: Counts, positions: Mapping[str, int], sequence: int, **further: Any
) -> CommitRecord:
    """The record of a commit that reaches these positions; further: other fields of a `CommitRecord`."""
    position = {log: {UNPARTITIONED: reached} for log, reached in positions.items()}
    return CommitRecord(verb, run.run_id, run.at.isoformat(), counts, position, sequence=sequence, **further)


def refuse_failures(source: Source, failures: Mapping[str, int]) -> None:
    """Stop if an expectation of severity `fail` was violated."""
    if failures:
        names = ", ".join(f"'{n}' ({counted(count, 'rows')})" for n, count in failures.items())
        raise IntakeFailed(
            f"{source.table}: source {source.name} violates {names} (severity fail). Nothing of "
            "this batch was taken in",
            remedy="fix the records or the contract and run again",
            table=source.table,
        )


def refuse_unaccounted(source: Source, counts: Counts) -> None:
    """Stop if rows are missing, before anything is committed."""
    if counts.missing:
        raise IntakeFailed(
            f"{source.table}: of {counts.read} records of source {source.name}, {counts.missing} are neither "
            "rows nor dead letters nor duplicates. Nothing was taken in",
            remedy="let all executors write to the same place; if they do, please report this as a bug",
            kind=Kind.PERMANENT,
            table=source.table,
        )


def letters_are_ahead(letters: DeltaTable | None, table: DeltaTable, logs: Iterable[str]) -> bool:
    """Whether an intake died after it committed its dead letters and before it committed its rows."""
    return letters is not None and any(
        _position_reached(letters, log) > _position_reached(table, log) for log in logs
    )


def _refuse_other_writer(batch: PendingIntake) -> None:
    """Stop before dead letters are written if another writer has committed rows since the table was opened.

    Raises:
        CommitConflict: the newest `CommitRecord.sequence` of the table is not the one that was there then.
    """
    lake, table, name = batch.lake, batch.table, batch.source.table
    if is_newest(lake.path(name), table.version()):
        return
    if writer_sequence(lake.open(name)) != writer_sequence(table):
        raise CommitConflict(f"{name}: another writer committed first")


def _furthest_positions(letters: DeltaTable, positions: Mapping[str, int]) -> dict[str, int]:
    """The positions of the dead letters after this batch; they never go back."""
    return {log: max(_position_reached(letters, log), to) for log, to in positions.items()}


def _position_reached(table: DeltaTable, log: str) -> int:
    """The offset up to which a table has the records of a log."""
    return table.transaction_version(log) or 0
