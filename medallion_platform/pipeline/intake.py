"""Intake: append what arrived to a bronze table, every record once, bad ones to its dead letters.

Lean: Polars reads and judges, delta-rs commits, no JVM starts. What arrived comes by one interface,
`sources.arrivals`, whatever the source is. The steps of one batch, each safe to be the last one
before a crash:

1. the positions are read from the bronze table, records from there on are read and judged;
2. dead letters are committed; 3. good rows are committed together with the new positions.

A crash between 2 and 3 leaves the dead letters ahead of the table. The next intake leaves out what
they already hold: the table's commit is the truth.

Of a source that gives a record again after it was taken in, what is there already is counted as a
duplicate, be it a row or a dead letter; dead letters of an intake that died are counted by the next one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from medallion_platform.contracts import lean as contracts
from medallion_platform.contracts.contract import (
    Contract,
    Expectation,
    IsType,
    NotNull,
    Severity,
)
from medallion_platform.lakehouse import dead_letters, lean
from medallion_platform.lakehouse.commit import Fenced, next_sequence, sequence_of
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.evolution import evolve
from medallion_platform.lakehouse.keys import Keys
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.record import WHOLE, Record
from medallion_platform.pipeline.duplicates import duplicates
from medallion_platform.sources import files, parquet
from medallion_platform.sources.arrivals import Arrivals, Batch, Unread
from medallion_platform.sources.source import Debezium, Parquet, Source

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

    from medallion_platform.pipeline.refresh import Run

BATCH_ROWS = 250_000
BATCH_BYTES = 96 * 1024 * 1024
CLOCKS_DIFFER = timedelta(hours=1)
"""How far in the future a row may lie before it is taken for wrong."""

PROVENANCE: dict[str, Any] = {
    "_payload": pl.String,
    "_source": pl.String,
    "_file": pl.String,
    "_row": pl.Int64,
    "_offset": pl.Int64,
    "_ingested_at": pl.Datetime("us", "UTC"),
}
"""Where a bronze row came from: its exact text, log, file, record number, offset, and when.

Of a source that gives a record again, the record number is a fingerprint of the record."""

CHANGE: dict[str, Any] = {
    "_op": pl.String,
    "_sequence": pl.String,
    "_changed_at": pl.Datetime("us", "UTC"),
    "_snapshot": pl.Boolean,
}
"""What a change event says of itself, in the bronze tables of Debezium sources."""

_ATTEMPTS = 6
_STEP_BACK = 0.02
"""Seconds, doubled every time, within which to try again: several workers write to one table."""

_IMAGE_OPS = ("c", "u", "r")
PLACE = ("_source", "_offset", "_row")
LETTER_PLACE = ("source", "offset", "row")
"""What a record is known by, in a frame and as a dead letter; row 0 is a whole piece."""


@dataclass
class Taken:
    """What one intake of a source did, summed over its batches."""

    source: str
    table: str
    counts: Counts = field(default_factory=Counts)
    units: dict[str, int] = field(default_factory=dict)
    violations: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    pieces: int = 0
    notes: list[str] = field(default_factory=list)
    version: int = -1
    seconds: float = 0.0

    @property
    def record(self) -> Record:
        """The account of all batches together."""
        return Record(
            "intake",
            "",
            "",
            self.counts,
            units=self.units,
            violations=self.violations,
            warnings=self.warnings,
            notes=self.notes,
            seconds=self.seconds,
        )

    def add(self, record: Record) -> None:
        """Add one batch's account."""
        self.counts += record.counts
        self.notes += record.notes
        for mine, theirs in (
            (self.units, record.units),
            (self.violations, record.violations),
            (self.warnings, record.warnings),
        ):
            for name, n in theirs.items():
                mine[name] = mine.get(name, 0) + n


class IntakeFailed(Exception):
    """An intake that stopped before its commit; nothing of the batch is visible."""


def intake(
    arrivals: Arrivals,
    lake: Lake,
    run: Run,
    *,
    batch_rows: int = BATCH_ROWS,
    batch_bytes: int = BATCH_BYTES,
    keys: Keys | None = None,
) -> Taken:
    """Take in what arrived at a source.

    keys: what is known of the table's files from intakes before.

    Raises:
        Fenced: another intake of the same table ran at the same time; run it again.
        IntakeFailed: an expectation of severity `fail` was violated.
    """
    started = time.monotonic()
    source = arrivals.source
    taken = Taken(source.name, source.table)
    taken.notes += arrivals.notes
    table = lake.open(source.table)
    if table is None and not arrivals.waiting(lambda _: None):
        return taken  # nothing ever arrived: the table is made with its first batch
    # Opened before the positions are read, so that another writer is noticed.
    table = lake.ensure(source.table, bronze_schema(source), source.contract.partitioned_by)
    _refuse_other_types(source, table)
    begun = table
    reached: dict[str, int | None] = {}
    keys = keys or Keys()

    def position(log: str) -> int | None:
        return reached.setdefault(log, begun.transaction_version(log))

    taken.pieces = len(arrivals.waiting(position))
    for batch in arrivals.batches(position, batch_rows, batch_bytes):
        begins = {log: position(log) for log in batch.positions}
        taken.add(_take_after_others(source, table, lake, run, batch, begins, keys))
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
    keys: Keys,
) -> Record:
    """Take a batch; where others commit first, judge it again by what they wrote.

    Raises:
        Fenced: the positions are no longer where the batch begins, or others come first every time.
    """
    for attempt in range(_ATTEMPTS):
        if any(table.transaction_version(log) != begun for log, begun in begins.items()):
            raise Fenced(f"{source.table}: another intake has moved on; run it again")
        try:
            return _take(source, table, lake, run, batch, keys)
        except Fenced:
            if attempt + 1 == _ATTEMPTS:
                raise
            time.sleep(random.uniform(0, _STEP_BACK * 2**attempt))  # noqa: S311 no secret
            table.update_incremental()
    raise AssertionError


def _refuse_other_types(source: Source, table: DeltaTable) -> None:
    """The table keeps its types: a contract may narrow them (rows that do not fit are dead letters)."""
    import pyarrow as pa
    from deltalake import Schema

    wanted = pa.schema(Schema.from_arrow(bronze_schema(source)))
    have = pa.schema(table.schema())
    for column in evolve(wanted, have).refused:
        raise IntakeFailed(
            f"{source.table}: column {column} is {have.field(column).type} in the table, and the contract "
            f"of source {source.name} says {wanted.field(column).type}, which the table cannot hold yet. "
            "Nothing was taken in; materialize the table first, which parses its stored records anew."
        )


def bronze_schema(source: Source) -> pa.Schema:
    """Columns of a source's bronze table: the contract's, change columns, provenance."""
    return pl.DataFrame(schema=_bronze_columns(source)).to_arrow().schema


def _bronze_columns(source: Source) -> dict[str, Any]:
    columns: dict[str, Any] = dict(contracts.polars_schema(source.contract))
    if isinstance(source.format, Debezium):
        columns |= CHANGE
    if source.unit:
        columns[source.unit] = pl.Date
    return columns | PROVENANCE | dict(source.provenance())


def _take(source: Source, table: DeltaTable, lake: Lake, run: Run, batch: Batch, keys: Keys) -> Record:
    """Judge one batch and commit it: dead letters first, then the rows with the new positions."""
    started = time.monotonic()
    letters = lake.open(dead_letters.name(source.table))
    frame = batch.frame
    read = frame.height + len(batch.unread)
    left = 0
    if source.repeats:
        left = _left_behind(lake, source, table)
        frame = _first_time(frame, table, letters)
    again = batch.frame.height - frame.height
    ahead = any(_reached(letters, log) > _reached(table, log) for log in batch.positions)
    held = _held(letters if ahead or source.repeats else None, frame, batch.unread)
    if held.height and frame.height:
        frame = frame.join(held, left_on=PLACE, right_on=LETTER_PLACE, how="anti", maintain_order="left")
    judged = judge(source, frame, run.at)
    if judged.failures:
        names = ", ".join(f"'{n}' ({count} rows)" for n, count in judged.failures.items())
        raise IntakeFailed(
            f"{source.table}: source {source.name} violates {names} (severity fail). Nothing of "
            "this batch was taken in; mend the records or the contract and run again."
        )
    twice = duplicates(judged.good, source.contract, table, identity_of(source), keys)
    rows = judged.good.filter(~twice)
    bad = dead_rows(source, run, judged.bad, batch.unread)
    bad = bad.join(held, on=LETTER_PLACE, how="anti", maintain_order="left")
    rows = finish(source, run, rows, pl.scan_delta(table).collect_schema())
    record = Record(
        verb="intake",
        run_id=run.run_id,
        at=run.at.isoformat(),
        counts=Counts(read + left, rows.height, bad.height + held.height + left, again + int(twice.sum()), 0),
        position={log: {WHOLE: reached} for log, reached in batch.positions.items()},
        sequence=next_sequence(table, letters),
        units=units_of(source, rows),
        violations=judged.violations,
        warnings=judged.warnings,
        notes=[piece.note for piece in batch.unread],
    )
    if not bad.is_empty():
        reached = {log: max(_reached(letters, log), to) for log, to in batch.positions.items()}
        told = replace(record, units={})
        dead_letters.append(lake, source.table, bad, told, reached, seen=sequence_of(letters))
    record = replace(record, seconds=round(time.monotonic() - started, 3))
    lean.append(table, rows, record, batch.positions)
    return record


def _reached(table: DeltaTable | None, log: str) -> int:
    """The offset up to which a table holds a log's records."""
    return (table.transaction_version(log) or 0) if table else 0


def _first_time(frame: pl.DataFrame, table: DeltaTable, letters: DeltaTable | None) -> pl.DataFrame:
    """The records that are neither rows of the table nor among its dead letters, each once."""
    if frame.is_empty():
        return frame
    frame = frame.unique(PLACE, keep="first", maintain_order=True)
    offsets = {"_offset": (frame["_offset"].min(), frame["_offset"].max())}
    rows = lean.key_rows(table, PLACE, offsets)
    known = pl.concat([rows, _letters_at(letters, frame.select(PLACE))])
    return frame.join(known, on=PLACE, how="anti", maintain_order="left")


def _left_behind(lake: Lake, source: Source, table: DeltaTable) -> int:
    """The dead letters of intakes that died before they committed their rows, which nobody counted yet."""
    last = lake.last_record(dead_letters.name(source.table), ("intake",))
    return last.counts.dead_lettered if last and last.sequence > sequence_of(table) else 0


def _held(letters: DeltaTable | None, frame: pl.DataFrame, unread: Sequence[Unread]) -> pl.DataFrame:
    """The places of a batch that are dead letters already: an intake before died ahead of its rows.

    Only this batch's: the one that was not committed may have been larger.
    """
    places = pl.DataFrame(
        [(piece.log, piece.offset, 0) for piece in unread],
        schema={c: PROVENANCE[c] for c in PLACE},
        orient="row",
    )
    if frame.height:
        places = pl.concat([places, frame.select(PLACE)])
    return _letters_at(letters, places).rename(dict(zip(PLACE, LETTER_PLACE, strict=True)))


def _letters_at(letters: DeltaTable | None, places: pl.DataFrame) -> pl.DataFrame:
    """Those of `places` that are dead letters."""
    if letters is None or places.is_empty():
        return places.clear()
    offsets = {"offset": (places["_offset"].min(), places["_offset"].max())}
    told = lean.key_rows(letters, LETTER_PLACE, offsets)
    return places.join(told, left_on=PLACE, right_on=LETTER_PLACE, how="semi").unique()


def identity_of(source: Source) -> tuple[str, ...]:
    """The columns that make two records the same: the contract's key, or the record's own text."""
    return source.contract.key or (("_payload",) if source.drop_repeated_text else ())


@dataclass(frozen=True)
class Judged:
    """Good rows and bad ones, and how many rows each expectation concerned."""

    good: pl.DataFrame
    bad: pl.DataFrame
    violations: dict[str, int]
    warnings: dict[str, int]
    failures: dict[str, int]


def judge(source: Source, frame: pl.DataFrame, at: datetime) -> Judged:
    """Split records into good rows and bad ones with the names of what they violate.

    Beside the contract, a row must belong to a partition that is there at the time `at`.
    """
    if frame.is_empty() and not frame.columns:
        empty = pl.DataFrame(schema=_bronze_columns(source))
        return Judged(empty, pl.DataFrame(), {}, {}, {})
    broken = frame.filter(pl.col("_malformed").is_not_null()).with_columns(
        pl.concat_list(pl.lit("record: parses")).alias("violations")
        if frame.height
        else pl.lit(None).alias("violations")
    )
    parsed = frame.filter(pl.col("_malformed").is_null()).drop("_malformed")
    parts = [(parsed, source.contract)]
    if isinstance(source.format, Debezium):
        parsed = _changes(parsed)
        image, deleted = pl.col("_op").is_in(_IMAGE_OPS), pl.col("_op") == "d"
        parts = [
            (parsed.filter(image), source.contract),
            (parsed.filter(deleted), _keys_only(source.contract, source.format.key)),
            (parsed.filter(~image & ~deleted), _keys_only(source.contract, ())),
        ]
    verdicts = [_out_of_time(source, part, contracts.judge(contract, part), at) for part, contract in parts]
    sums: list[dict[str, int]] = [{}, {}, {}]
    for verdict in verdicts:
        for total, found in zip(sums, (verdict.violations, verdict.warnings, verdict.failures), strict=True):
            for name, n in found.items():
                if n:
                    total[name] = total.get(name, 0) + n
    if broken.height:
        sums[0]["record: parses"] = broken.height
    bad = pl.concat([broken, *(v.bad for v in verdicts)], how="diagonal_relaxed")
    good = pl.concat([v.good for v in verdicts], how="diagonal_relaxed").sort("_offset", maintain_order=True)
    return Judged(good, bad, *sums)


def _out_of_time(source: Source, came: pl.DataFrame, judged: contracts.Judged, at: datetime) -> Any:
    """Reject rows before the source's first day, and rows from the future (1 hour: clocks differ)."""
    if source.unit is None:
        return judged
    time = pl.col(str(source.contract.event_time))
    first = datetime.combine(source.first_day, datetime.min.time(), UTC)
    bounds = {
        f"{time.meta.output_name()}: not before {source.first_day}": time < first,
        f"{time.meta.output_name()}: not in the future": time > at + CLOCKS_DIFFER,
    }
    for name, outside in bounds.items():
        places = judged.good.filter(outside).select(PLACE)
        if places.is_empty():
            continue
        rejected = came.join(places, on=PLACE, how="semi", maintain_order="left")
        rejected = rejected.with_columns(pl.concat_list(pl.lit(name)).alias("violations"))
        judged = replace(
            judged,
            good=judged.good.filter(outside.not_().fill_null(value=True)),
            bad=pl.concat([judged.bad, rejected], how="diagonal_relaxed"),
            violations={**judged.violations, name: places.height},
        )
    return judged


def _changes(frame: pl.DataFrame) -> pl.DataFrame:
    """A change event's own columns with their types."""
    return frame.with_columns(
        pl.col("_changed_at").str.to_datetime(
            "%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us", time_zone="UTC", strict=False
        ),
        pl.col("_snapshot") == "true",
    )


def _keys_only(contract: Contract, key: Sequence[str]) -> Contract:
    """The contract of an event without a row image: types hold, and the key is there.

    A delete carries only what the source's replica identity gives; a truncate, a message and the
    tombstone behind a delete concern no row, and have no key.
    """
    columns = tuple(replace(c, nullable=True) for c in contract.columns)
    types = [e for e in contract.expectations if isinstance(e.test, IsType)]
    there = [
        Expectation(f"{name}: not null", (name,), Severity.REJECT, NotNull())
        for name in key
        if name in contract.by_name
    ]
    return replace(contract, columns=columns, expectations=(*types, *there))


def dead_rows(source: Source, run: Run, bad: pl.DataFrame, unread: Sequence[Unread]) -> pl.DataFrame:
    """Dead letters of bad records (their bytes as they came) and of whole pieces (row 0)."""
    whole = pl.DataFrame(
        [
            {
                "source": piece.log,
                "offset": piece.offset,
                "file": piece.file,
                "row": 0,
                "payload": None,
                "violations": [piece.reason],
                "unit": None,
                "at": run.at,
                "run_id": run.run_id,
            }
            for piece in unread
        ],
        schema=dead_letters.columns(),
    )
    if bad.is_empty():
        return whole
    payload = pl.coalesce(pl.col("_payload_bytes"), pl.col("_payload").cast(pl.Binary))
    if isinstance(source.format, Parquet):
        fields = [c for c in bad.columns if c not in files.RESERVED and c != "violations"]
        payload = pl.lit(parquet.payloads(bad.select(fields)).cast(pl.Binary))
    rows = bad.select(
        pl.col("_source").alias("source"),
        pl.col("_offset").alias("offset"),
        pl.col("_file").alias("file"),
        pl.col("_row").alias("row"),
        payload.alias("payload"),
        pl.when(pl.col("_malformed").is_not_null())
        .then(pl.concat_list(pl.lit("record: ") + pl.col("_malformed")))
        .otherwise(pl.col("violations"))
        .alias("violations")
        if "_malformed" in bad.columns
        else pl.col("violations"),
        pl.lit(None, pl.String).alias("unit"),
        pl.lit(run.at, pl.Datetime("us", "UTC")).alias("at"),
        pl.lit(run.run_id).alias("run_id"),
    )
    return pl.concat([whole, rows], how="vertical_relaxed")


def finish(source: Source, run: Run, rows: pl.DataFrame, known: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """The bronze row: derived partition column, provenance, legal names, columns in order.

    known: the columns that the table has. A field that differs by case or punctuation goes there, and
    one that the contract declared once keeps the type it had then.
    """
    added = [pl.lit(run.at, pl.Datetime("us", "UTC")).alias("_ingested_at")]
    if source.unit and source.unit not in source.contract.column_names:
        added.append(pl.col(str(source.contract.event_time)).dt.date().alias(source.unit))
    rows = rows.with_columns(added)
    wanted = _bronze_columns(source)
    extra = [c for c in rows.columns if c not in wanted and c not in files.RESERVED]
    legal = _legal_names(extra, list(wanted), list(known))
    for name, kind in wanted.items():
        if name not in rows.columns:
            rows = rows.with_columns(pl.lit(None, kind).alias(name))
    return rows.select(
        *(pl.col(c) for c in wanted if not c.startswith("_")),
        *(
            _as(known.get(name, pl.String()), rows.select(pl.coalesce(sorted(fields)).alias(name))[name])
            for name, fields in legal.items()
        ),
        *(pl.col(c).cast(k) for c, k in wanted.items() if c.startswith("_")),
    )


def _as(kind: pl.DataType, text: pl.Series) -> pl.Series:
    """An undeclared field in the type that its column has; null where the text does not fit it."""
    declared = contracts.type_of(kind)
    return text if declared is None else contracts.convert(text, declared)


def _legal_names(extra: Sequence[str], taken: Sequence[str], known: Sequence[str]) -> dict[str, list[str]]:
    """Undeclared columns by a name that Delta accepts: no blanks or punctuation, unlike only by case.

    A column that begins with `_` is ours, so that an undeclared field never does.
    Which fields share a column depends on their names alone, never on what came in one batch.
    """
    used = {c.lower() for c in taken}
    spelled = {c.lower(): c for c in known}
    names: dict[str, list[str]] = {}
    for column in extra:
        name = "".join("_" if c in " ,;{}()\n\t=" else c for c in column).lstrip("_") or "unnamed"
        while name.lower() in used:
            name += "_"
        names.setdefault(spelled.setdefault(name.lower(), name), []).append(column)
    return names


def units_of(source: Source, rows: pl.DataFrame) -> dict[str, int]:
    """Rows per unit; nothing where the table has no unit."""
    if source.unit is None or rows.is_empty():
        return {}
    counted = rows.group_by(pl.col(source.unit).cast(pl.String)).len()
    return dict(sorted(zip(counted[source.unit].fill_null(WHOLE), counted["len"], strict=True)))
