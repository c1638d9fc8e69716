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
from medallion_platform.lakehouse.commit import CommitConflict, sequence_of
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.counts import Counts
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
    """A batch whose rows and dead letters are known, and not committed.

    table, letters: as they were opened before the work began (letters: None where there were none).
    positions: what the batch reaches. record: its account. started: of `time.monotonic`.
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
    """Make a batch visible; gives its version and its account as committed.

    write_letters: None where no row was rejected.

    Raises:
        CommitConflict: another writer came first.
        IntakeFailed: not every row is accounted for.
    """
    refuse_unaccounted(batch.source, batch.record.counts)
    tell.staged(batch.record.counts)
    if write_letters is not None:
        _refuse_moved(batch)
        letters = batch.letters or dead_letters.create(batch.lake, batch.source.table)
        write_letters(letters, replace(batch.record, partitions={}), _furthest(letters, batch.positions))
    record = replace(batch.record, seconds=round(time.monotonic() - batch.started, 3))
    version = write_rows(record)
    tell.committed(version, record)
    return version, record


def record_of(
    verb: str, run: Run, counts: Counts, positions: Mapping[str, int], sequence: int, **further: Any
) -> CommitRecord:
    """The account of a commit that reaches these positions; further: other fields of a `CommitRecord`."""
    position = {log: {UNPARTITIONED: reached} for log, reached in positions.items()}
    return CommitRecord(verb, run.run_id, run.at.isoformat(), counts, position, sequence=sequence, **further)


def refuse_failures(source: Source, failures: Mapping[str, int]) -> None:
    """Stop where an expectation of severity `fail` was violated."""
    if failures:
        names = ", ".join(f"'{n}' ({count} rows)" for n, count in failures.items())
        raise IntakeFailed(
            f"{source.table}: source {source.name} violates {names} (severity fail). Nothing of "
            "this batch was taken in; fix the records or the contract and run again.",
            table=source.table,
        )


def refuse_unaccounted(source: Source, counts: Counts) -> None:
    """Stop where rows are missing, before anything is committed."""
    if counts.missing:
        raise IntakeFailed(
            f"{source.table}: of {counts.read} records of source {source.name}, {counts.missing} are neither "
            "rows nor dead letters nor duplicates. Nothing was taken in. Do all executors write to the same "
            "place? Else this is a mistake of the platform: please tell it",
            kind=Kind.PERMANENT,
            table=source.table,
        )


def is_ahead(letters: DeltaTable | None, table: DeltaTable, logs: Iterable[str]) -> bool:
    """Whether an intake died between its dead letters and its rows."""
    return letters is not None and any(_reached(letters, log) > _reached(table, log) for log in logs)


def _refuse_moved(batch: PendingIntake) -> None:
    """Stop before dead letters are written where another intake has these records already."""
    lake, table, name = batch.lake, batch.table, batch.source.table
    if is_newest(lake.path(name), table.version()):
        return
    if sequence_of(lake.open(name)) != sequence_of(table):
        raise CommitConflict(f"{name}: another writer committed first; run it again")


def _furthest(letters: DeltaTable, positions: Mapping[str, int]) -> dict[str, int]:
    """How far the dead letters are with these positions; they never go back."""
    return {log: max(_reached(letters, log), to) for log, to in positions.items()}


def _reached(table: DeltaTable, log: str) -> int:
    """The offset up to which a table holds a log's records."""
    return table.transaction_version(log) or 0
