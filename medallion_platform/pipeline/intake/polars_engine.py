"""Intake: append what has arrived to a bronze table, every record once, bad ones to its dead letters.

The polars engine: Polars reads and validates, delta-rs commits, no JVM starts. Every kind of source provides
its records through the same interface, `sources.arrivals`. A crash after any step of a batch is safe:

1. the positions are read from the bronze table, records from these on are read and validated;
2. dead letters are committed; 3. good rows are committed together with the new positions (`commit`).

A record that is already a row or a dead letter is counted as a duplicate. Dead letters of an intake that died
are counted by the next one.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl

from medallion_platform.lakehouse import dead_letters, polars_writer
from medallion_platform.lakehouse.commit import CommitConflict, next_sequence, writer_sequence
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import Counts, counted
from medallion_platform.lakehouse.damaged_files import report_damage
from medallion_platform.lakehouse.key_index import Keys
from medallion_platform.lakehouse.lake import Lake, follow, is_in_log
from medallion_platform.pipeline.incident_reports import gaps_in, report
from medallion_platform.pipeline.intake.batch_commit import (
    ATTEMPTS,
    PendingIntake,
    commit_batch,
    intake_record,
    letters_are_ahead,
    refuse_failures,
)
from medallion_platform.pipeline.intake.bronze import recover_positions, refuse_other_types
from medallion_platform.pipeline.intake.duplicates import find_duplicates
from medallion_platform.pipeline.intake.poison import Notes, batches_of, noted
from medallion_platform.pipeline.intake.result import IntakeResult
from medallion_platform.pipeline.intake.triage import (
    LETTER_PLACE,
    PLACE,
    PROVENANCE,
    bronze_schema,
    count_by_partition,
    identity_columns,
    triage,
)
from medallion_platform.pipeline.intake.undeclared import count_further, notes_on_further
from medallion_platform.pipeline.observer import EventReporter
from medallion_platform.sources.arrivals import Arrivals, Batch, UnreadableRange
from medallion_platform.sources.source import Source

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from medallion_platform.pipeline.run import Run

_LOG = logging.getLogger(__name__)

BATCH_ROWS = 250_000
BATCH_BYTES = 96 * 1024 * 1024
_FOLLOWED = 50
"""Versions that a table is kept open for."""
_STEP_BACK = 0.02
"""Seconds, doubled every time, within which to try again: several workers write to one table."""


@dataclass
class OpenTables:
    """The tables that a worker keeps open between batches, so that logs and keys are read only once."""

    lake: Lake
    keys: Keys = field(default_factory=Keys)
    _tables: dict[str, DeltaTable] = field(default_factory=dict)
    _opened: dict[str, int] = field(default_factory=dict)

    def open(self, name: str) -> DeltaTable | None:
        """The current table; always the same object, so it must not be used in two places at once."""
        table = self._tables.pop(name, None)
        # Each version that it follows makes a table slower: after some it is read as a whole again.
        old = table is not None and table.version() > self._opened[name] + _FOLLOWED
        if table is None or old or not _bring_to_newest(table):
            table = self.lake.open(name)
            self._opened[name] = table.version() if table is not None else -1
        if table is not None:
            self._tables[name] = table
        return table


def _bring_to_newest(table: DeltaTable) -> bool:
    """Bring an opened table to its newest version; returns whether it still has the same Delta log."""
    from deltalake.exceptions import DeltaError

    if not is_in_log(table):
        return False
    try:
        follow(table)
    except DeltaError:  # whoever opens it anew says why
        return False
    return True


def intake(
    arrivals: Arrivals,
    lake: Lake,
    run: Run,
    *,
    batch_rows: int = BATCH_ROWS,
    batch_bytes: int = BATCH_BYTES,
    open_tables: OpenTables | None = None,
    report_end: bool = True,
    suspects: Notes | None = None,
) -> IntakeResult:
    """Take in what has arrived at a source.

    open_tables: left open by an earlier intake of the same source. report_end: tell the run's observer if the
    intake fails; False if the caller does that. suspects: the notes of a caller that takes in all but the
    records of which processes have died.

    Raises:
        DamagedFile: a data file that is searched for duplicates is missing or damaged.
        CommitConflict: another intake of the same table ran at the same time; run it again.
        IntakeFailed: an expectation of severity `fail` was violated.
        NotAllowed: the run's guard refuses; no row was written.
    """
    started = time.monotonic()
    source = arrivals.source
    taken = IntakeResult(source.name, source.table)
    taken.notes += arrivals.notes
    with EventReporter(run, source.table, _LOG).ended() if report_end else nullcontext():
        open_tables = open_tables or OpenTables(lake)
        table = open_tables.open(source.table)
        if table is None and not arrivals.waiting(lambda _: None):
            return taken  # nothing ever arrived: the table is created with its first batch
        # Opened before the positions are read, so that another writer is noticed.
        if table is None:
            table = lake.ensure(source.table, bronze_schema(source), source.contract.partitioned_by)
        refuse_other_types(source, table)
        recover_positions(source, table, lake, run)
        begun = table
        reached: dict[str, int | None] = {}

        def position(log: str) -> int | None:
            return reached.setdefault(log, begun.transaction_version(log))

        taken.pieces = len(arrivals.waiting(position))
        with noted(lake, source.table) if suspects is None else nullcontext(suspects) as notes:
            limits = (position, batch_rows, batch_bytes)
            if taken.pieces:
                batches = batches_of(arrivals, notes, *limits, suspects_only=suspects is not None)
            else:
                batches = arrivals.batches(*limits)
            for batch in batches:
                begins = {log: position(log) for log in batch.positions}
                taken.add(_take_after_others(source, table, lake, run, batch, begins, open_tables))
                reached |= batch.positions
        taken.version = table.version()
        taken.seconds = round(time.monotonic() - started, 3)
        return taken


def _take_after_others(
    source: Source,
    table: DeltaTable,
    lake: Lake,
    run: Run,
    batch: Batch,
    begins: Mapping[str, int | None],
    open_tables: OpenTables,
) -> CommitRecord:
    """Take in a batch; after a commit conflict, validate it again against the new rows.

    Raises:
        CommitConflict: the positions are no longer the start of the batch, or every attempt had a conflict.
    """
    from deltalake.exceptions import DeltaError

    tell = EventReporter(run, source.table, _LOG)
    tell.planned(f"{counted(batch.frame.height + len(batch.unread), 'records')} of {source.name}")
    for attempt in range(ATTEMPTS):
        if attempt and any(table.transaction_version(log) != begun for log, begun in begins.items()):
            raise CommitConflict(f"{source.table}: another intake committed first")
        try:
            with report_damage(lake, (source.table, dead_letters.name(source.table))):
                return _take_batch(source, table, lake, run, batch, open_tables, tell)
        except CommitConflict as error:
            if attempt + 1 == ATTEMPTS:
                raise
            tell.conflicted(error)
            time.sleep(random.uniform(0, _STEP_BACK * 2**attempt))  # noqa: S311 no secret
            table.update_incremental()
            tell.retried(attempt + 2, error)
        except DeltaError as error:
            if is_in_log(table):
                raise
            # As of a process that slept meanwhile: the commits that it would begin from are archived.
            raise CommitConflict(f"{source.table}: many commits were made meanwhile") from error
    raise AssertionError


def _take_batch(
    source: Source,
    table: DeltaTable,
    lake: Lake,
    run: Run,
    batch: Batch,
    open_tables: OpenTables,
    tell: EventReporter,
) -> CommitRecord:
    """Triage one batch and commit it."""
    started = time.monotonic()
    letters = open_tables.open(dead_letters.name(source.table))
    frame = batch.frame
    read = frame.height + len(batch.unread)
    left = 0
    if source.repeats:
        left = _count_orphaned_letters(lake, source, table)
        frame = _new_records(frame, table, letters)
    again = batch.frame.height - frame.height
    ahead = letters_are_ahead(letters, table, batch.positions)
    held = _letters_of_batch(letters if ahead or source.repeats else None, frame, batch.unread)
    triaged = triage(source, run, frame, batch.unread, held, pl.scan_delta(table).collect_schema())
    refuse_failures(source, triaged.failures)
    twice = find_duplicates(triaged.good, source.contract, table, identity_columns(source), open_tables.keys)
    rows, bad = triaged.good.filter(~twice), triaged.bad
    further = count_further(rows)
    record = intake_record(
        "intake",
        run,
        Counts(read + left, rows.height, bad.height + held.height + left, again + int(twice.sum()), 0),
        batch.positions,
        next_sequence(table, letters),
        partitions=count_by_partition(source, rows),
        violations=triaged.violations,
        warnings=triaged.warnings,
        looks_personal=triaged.looks_personal,
        notes=[*batch.notes, *(piece.note for piece in batch.unread), *notes_on_further(further)],
        further=further,
        repeated_files=batch.repeated,
    )

    def write_rows(record: CommitRecord) -> int:
        return polars_writer.append_rows(table, rows, record, batch.positions, run.guard, tell.working)

    def write_letters(letters: DeltaTable, record: CommitRecord, positions: Mapping[str, int]) -> None:
        dead_letters.append(lake, source.table, bad, record, positions, letters, run.guard)

    pending = PendingIntake(source, lake, table, letters, batch.positions, record, started)
    _, record = commit_batch(pending, tell, write_rows, None if bad.is_empty() else write_letters)
    for piece in batch.unread:
        _say_unread(source, piece, run)
    report(lake, gaps_in(batch.unread, source.table, run.run_id, run.at), "intake")
    return record


def _say_unread(source: Source, piece: UnreadableRange, run: Run) -> None:
    """Log what could not be read at all, once its dead letter is committed; what it found may be a row."""
    place = {"log": piece.log, "offset": piece.offset, "file": piece.file}
    told = {"code": piece.code.value, "detail": {k: v for k, v in piece.detail.items() if k != "found"}}
    fields = {"table": source.table, "source": source.name, "run_id": run.run_id, **place, **told}
    _LOG.info("%s: %s of %s", source.table, piece.code.value, piece.file, extra=fields)


def _new_records(frame: pl.DataFrame, table: DeltaTable, letters: DeltaTable | None) -> pl.DataFrame:
    """The records that are neither rows of the table nor among its dead letters, each once."""
    if frame.is_empty():
        return frame
    frame = frame.unique(PLACE, keep="first", maintain_order=True)
    offsets = {"_offset": (frame["_offset"].min(), frame["_offset"].max())}
    rows = polars_writer.read_key_columns(table, PLACE, offsets)
    known = pl.concat([rows, letters_at(letters, frame.select(PLACE))])
    return frame.join(known, on=PLACE, how="anti", maintain_order="left")


def _count_orphaned_letters(lake: Lake, source: Source, table: DeltaTable) -> int:
    """The number of dead letters of intakes that died before they committed their rows; not counted yet."""
    last = lake.last_record(dead_letters.name(source.table), ("intake",))
    return last.counts.dead_lettered if last and last.sequence > writer_sequence(table) else 0


def _letters_of_batch(
    letters: DeltaTable | None, frame: pl.DataFrame, unread: Sequence[UnreadableRange]
) -> pl.DataFrame:
    """The places of this batch that are dead letters already, because an earlier intake died before its rows.

    Limited to this batch, because the uncommitted batch may have been larger.
    """
    places = pl.DataFrame(
        [(piece.log, piece.offset, 0) for piece in unread],
        schema={c: PROVENANCE[c] for c in PLACE},
        orient="row",
    )
    if frame.height:
        places = pl.concat([places, frame.select(PLACE)])
    return letters_at(letters, places).rename(dict(zip(PLACE, LETTER_PLACE, strict=True)))


def letters_at(letters: DeltaTable | None, places: pl.DataFrame) -> pl.DataFrame:
    """The `places` that are dead letters."""
    if letters is None or places.is_empty():
        return places.clear()
    offsets = {"offset": (places["_offset"].min(), places["_offset"].max())}
    found = polars_writer.read_key_columns(letters, LETTER_PLACE, offsets)
    return places.join(found, left_on=PLACE, right_on=LETTER_PLACE, how="semi").unique()
