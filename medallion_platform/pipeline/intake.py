"""Intake: append what arrived to a bronze table, every record once, bad ones to its dead letters.

Lean: Polars reads and judges, delta-rs commits, no JVM starts. The steps of one batch, each safe to
be the last one before a crash:

1. new complete files get their sequence numbers in the ledger (one commit);
2. the position is read from the bronze table, records from there on are read and judged;
3. dead letters are committed; 4. good rows are committed together with the new position.

A crash between 3 and 4 leaves the dead letters ahead of the table. The next intake leaves out what
they already hold: the table's commit is the truth.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
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
from medallion_platform.lakehouse import dead_letters, lean, ledger
from medallion_platform.lakehouse.commit import next_sequence
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.evolution import evolve
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.record import WHOLE, Record
from medallion_platform.pipeline.duplicates import duplicates
from medallion_platform.sources import files, landing, parquet
from medallion_platform.sources.source import (
    Debezium,
    FileSource,
    FileVersion,
    LostFile,
    Parquet,
    UnreadableFile,
    offset_of,
    place_of,
)

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
"""Where a bronze row came from: its exact text, source, file, record number, position, and when."""

CHANGE: dict[str, Any] = {
    "_op": pl.String,
    "_sequence": pl.String,
    "_changed_at": pl.Datetime("us", "UTC"),
    "_snapshot": pl.Boolean,
}
"""What a change event says of itself, in the bronze tables of Debezium sources."""

_VERSION_FIELDS = ("sequence", "path", "digest", "size", "modified_at", "state")
_UNSEEN = "unreadable-"
_IMAGE_OPS = ("c", "u", "r")


@dataclass
class Taken:
    """What one intake of a source did, summed over its batches."""

    source: str
    table: str
    counts: Counts = field(default_factory=Counts)
    units: dict[str, int] = field(default_factory=dict)
    violations: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    files: int = 0
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


@dataclass(frozen=True)
class _Batch:
    """Records of one position range: raw frame, whole files that cannot be read, next offset."""

    frame: pl.DataFrame
    unreadable: list[dict[str, Any]]
    next_offset: int


class IntakeFailed(Exception):
    """An intake that stopped before its commit; nothing of the batch is visible."""


def intake(
    source: FileSource,
    folder: Path,
    candidates: Sequence[landing.Seen],
    lake: Lake,
    run: Run,
    *,
    batch_rows: int = BATCH_ROWS,
    batch_bytes: int = BATCH_BYTES,
) -> Taken:
    """Take in the source's candidates (complete files below `folder`) and whatever was left over.

    Raises:
        Fenced: another intake of the same table ran at the same time; run it again.
        IntakeFailed: an expectation of severity `fail` was violated.
    """
    started = time.monotonic()
    taken = Taken(source.name, source.table)
    taken.notes += register(source, folder, candidates, lake, run)
    known = ledger.read(lake, source.name)
    if known.is_empty():
        return taken  # nothing ever landed: the table is made with its first file
    table = lake.ensure(source.table, bronze_schema(source), source.contract.partitioned_by)
    _refuse_other_types(source, table)
    position = position_of(source, table)
    pending = _pending(known, position).to_dicts()
    taken.files = len(pending)
    told = lost(lake, source)
    for batch in _batches(source, folder, lake, pending, told, position, batch_rows, batch_bytes):
        taken.add(_take(source, table, lake, run, batch))
        # A fresh look, so that the next batch sees the rows of this one.
        table = lake.open(source.table) or table
    taken.version = table.version()
    taken.seconds = round(time.monotonic() - started, 3)
    return taken


def waiting(source: FileSource, candidates: Sequence[landing.Seen], lake: Lake) -> list[str]:
    """What an intake would take up: candidates to be read, versions that are not taken whole."""
    registered = ledger.read(lake, source.name)
    known = [_version(r) for r in registered.iter_rows(named=True)]
    new = landing.wanted(known, candidates, landing.missing(known, lost(lake, source)))
    pending = _pending(registered, position_of(source, lake.open(source.table)))
    return [
        *(f"{f.path} {f.size} {f.modified_at.isoformat()}" for f in new),
        *(f"{source.name} {sequence}" for sequence in pending["sequence"]),
    ]


def position_of(source: FileSource, table: DeltaTable | None) -> int:
    """The offset up to which a table holds a source's records (or their dead letters do)."""
    return (table.transaction_version(source.name) or 0) if table else 0


def _pending(registered: pl.DataFrame, position: int) -> pl.DataFrame:
    """The file versions from the one on that `position` lies in."""
    return registered.filter(pl.col("sequence") >= place_of(position)[0])


def _refuse_other_types(source: FileSource, table: DeltaTable) -> None:
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


def register(
    source: FileSource,
    folder: Path,
    candidates: Sequence[landing.Seen],
    lake: Lake,
    run: Run,
) -> list[str]:
    """Give every new content of a file its place in the source's order; says what is worth saying.

    A file is known by its content: the same bytes again, under any name, add nothing; other bytes
    under a known name are a new version, also those that the name had before its present ones. A
    content that was lost before it was taken whole is taken up again where that was.
    """
    known = [_version(r) for r in ledger.read(lake, source.name).iter_rows(named=True)]
    latest = landing.latest(known)
    missing = landing.missing(known, lost(lake, source))
    found: list[tuple[landing.Seen, str]] = []
    unreadable: dict[str, str] = {}
    notes: list[str] = []
    for seen in landing.wanted(known, candidates, missing):
        try:
            found.append((seen, landing.digest_of(folder, seen)))
        except landing.StillGrowing:
            notes.append(f"{seen.path}: still being written; left for the next intake")
        except LostFile as error:
            if seen.path in latest and latest[seen.path].digest == _unseen(seen):
                continue  # that was told when it was so for the first time
            found.append((seen, _unseen(seen)))
            unreadable[seen.path] = error.reason
    versions, repeated = landing.register(known, found, missing)
    digests = {seen.path: digest for seen, digest in found}
    rows = [_ledger_row(source, folder, v, unreadable.get(v.path), run) for v in versions]
    if rows:
        ledger.append(lake, source.name, rows)
    notes += [
        f"{seen.path}: same content as a file already taken in; nothing added"
        for seen in repeated
        if seen.path not in latest or latest[seen.path].digest != digests[seen.path]
    ]
    said = {
        "new version": "changed since it was taken in; taken as a new version",
        "again": "was lost before it was taken whole; taken from record {0.first_row} on",
    }
    notes += [f"{v.path}: {said[v.state].format(v)}" for v in versions if v.state in said]
    return notes


_LOST = "file: lost from record {} on: "
_IS_LOST = re.compile(re.escape(_LOST).replace(r"\{\}", r"(\d+)"))


def lost(lake: Lake, source: FileSource) -> dict[int, int]:
    """The file versions that were lost before they were taken whole, and their first record wanting.

    Their dead letters are the account of it. What these say holds, also for an intake that finds the
    file again: it is committed before any other can take it for something else.
    """
    told = dead_letters.of_files(lake, source.table, source.name)
    return {
        place_of(offset)[0]: int(found[1])
        for offset, violation in told
        if (found := _IS_LOST.match(violation or ""))
    }


def _unseen(file: landing.Seen | FileVersion) -> str:
    """What stands for the digest of a content that could not be read."""
    return f"{_UNSEEN}{file.size}-{file.modified_at.timestamp()}"


def _version(row: dict[str, Any]) -> FileVersion:
    return FileVersion(**{f: row[f] for f in _VERSION_FIELDS}, first_row=row["first_row"] or 1)


def _ledger_row(
    source: FileSource, folder: Path, version: FileVersion, unreadable: str | None, run: Run
) -> dict[str, Any]:
    """One line of the ledger: the file version, its header, why it cannot be read if so."""
    header, digest = None, version.digest
    if unreadable is None:
        try:
            names = files.header(folder / version.path, source.format)
            header = list(names) if names is not None else None
        except UnreadableFile as error:
            unreadable = error.reason
            digest = _unseen(version) if isinstance(error, LostFile) else digest
    return {
        **{f: getattr(version, f) for f in _VERSION_FIELDS},
        "digest": digest,
        "header": header,
        "unreadable": unreadable,
        "first_row": version.first_row,
        "registered_at": run.at,
        "run_id": run.run_id,
    }


def bronze_schema(source: FileSource) -> pa.Schema:
    """Columns of a source's bronze table: the contract's, change columns, provenance."""
    return pl.DataFrame(schema=_bronze_columns(source)).to_arrow().schema


def _bronze_columns(source: FileSource) -> dict[str, Any]:
    columns: dict[str, Any] = dict(contracts.polars_schema(source.contract))
    if isinstance(source.format, Debezium):
        columns |= CHANGE
    if source.unit:
        columns[source.unit] = pl.Date
    return columns | PROVENANCE


def _batches(
    source: FileSource,
    folder: Path,
    lake: Lake,
    pending: Sequence[dict[str, Any]],
    told: Container[int],
    position: int,
    batch_rows: int,
    batch_bytes: int,
) -> Iterator[_Batch]:
    """Records from `position` on, gathered over files until a batch is full.

    A file that is lost (or was `told` to be) is in no batch with records of its own, so that its dead
    letter, which is committed first, never says of a record that it was taken when it was not yet.
    """
    frames: list[pl.DataFrame] = []
    unreadable: list[dict[str, Any]] = []
    rows = size = 0
    reached = position
    for file in pending:
        first = _next_row(reached, file)
        try:
            if file["sequence"] in told:
                raise LostFile(file["path"], "it could not be opened before")
            for frame in _read(source, folder, file, first):
                if frames and not _same_types(frames[0], frame):
                    yield _Batch(_concat(frames), unreadable, reached)
                    frames, unreadable, rows, size = [], [], 0, 0
                frames.append(frame)
                rows += frame.height
                size += int(frame.estimated_size())
                reached = offset_of(file["sequence"], int(frame["_row"][-1]) + 1)
                if rows >= batch_rows or size >= batch_bytes:
                    yield _Batch(_concat(frames), unreadable, reached)
                    frames, unreadable, rows, size = [], [], 0, 0
        except LostFile as error:
            if frames and _next_row(reached, file) > first:
                yield _Batch(_concat(frames), unreadable, reached)
                frames, unreadable, rows, size = [], [], 0, 0
            reason = _LOST.format(_next_row(reached, file)) + error.reason
            unreadable.append({**file, "reason": reason, "kept": False})
        except UnreadableFile as error:
            kept = _quarantine(lake, source, folder, file)
            unreadable.append({**file, "reason": f"file: {error.reason}", "kept": kept})
        reached = offset_of(file["sequence"] + 1, 0)
    if reached > position and (frames or unreadable or pending):
        yield _Batch(_concat(frames), unreadable, reached)


def _next_row(reached: int, file: dict[str, Any]) -> int:
    """The number of the first record of a file that is not taken yet, where `reached` is."""
    sequence, row = place_of(reached)
    return max(row if sequence == file["sequence"] else 0, file["first_row"] or 1)


def _same_types(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    """Whether two frames may be judged as one: each value is judged in the type that its file gave it."""
    return all(one.schema.get(name, kind) == kind for name, kind in other.schema.items())


def _read(source: FileSource, folder: Path, file: dict[str, Any], first_row: int) -> Iterator[pl.DataFrame]:
    """A registered file's records with their provenance, as long as it is the registered content."""
    path = folder / file["path"]
    if file["unreadable"]:
        raise (LostFile if file["digest"].startswith(_UNSEEN) else UnreadableFile)(path, file["unreadable"])
    _same_content(path, file)
    for frame in files.read(path, source.format, first_row):
        yield frame.with_columns(
            *(parquet.text(frame[c]) for c, k in frame.schema.items() if _as_text(source, c, k)),
            pl.lit(file["path"]).alias("_file"),
            (pl.col("_row") + offset_of(file["sequence"], 0)).alias("_offset"),
        )
    _same_content(path, file)


def _same_content(path: Path, file: dict[str, Any]) -> None:
    """The file is still what the ledger says, or it is lost to us and that must be told."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        raise LostFile(path, "the file was removed before it could be read") from None
    except OSError as error:
        raise LostFile(path, error.strerror or str(error)) from error
    modified = datetime.fromtimestamp(facts.st_mtime, UTC)
    if (facts.st_size, modified) == (file["size"], file["modified_at"]):
        return
    seen = landing.Seen(file["path"], facts.st_size, modified)
    try:
        same = landing.digest_of(path.parents[file["path"].count("/")], seen) == file["digest"]
    except landing.StillGrowing:
        same = False
    if not same:
        raise LostFile(path, "the content changed before it could be read")


def _take(source: FileSource, table: DeltaTable, lake: Lake, run: Run, batch: _Batch) -> Record:
    """Judge one batch and commit it: dead letters first, then the rows with the new position."""
    started = time.monotonic()
    letters = lake.open(dead_letters.name(source.table))
    position, ahead = position_of(source, table), position_of(source, letters)
    frame, files_read = batch.frame, len(batch.unreadable)
    read = frame.height + files_read
    already: set[int] = set()
    if ahead > position:
        # Only this batch's: the one that crashed may have been larger.
        already = _held(lake, source, position) & _offsets(batch)
    if already and frame.height:
        frame = frame.filter(~pl.col("_offset").is_in(list(already)))
    judged = judge(source, frame, run.at)
    if judged.failures:
        names = ", ".join(f"'{n}' ({count} rows)" for n, count in judged.failures.items())
        raise IntakeFailed(
            f"{source.table}: source {source.name} violates {names} (severity fail). Nothing of "
            "this batch was taken in; mend the files or the contract and run again."
        )
    twice = duplicates(judged.good, source.contract, table, identity_of(source))
    rows = judged.good.filter(~twice)
    bad = dead_rows(source, run, judged.bad, batch.unreadable)
    bad = bad.filter(~pl.col("offset").is_in(list(already)))
    dead = bad.height + len(already)
    rows = finish(source, run, rows, pl.scan_delta(table).collect_schema())
    record = Record(
        verb="intake",
        run_id=run.run_id,
        at=run.at.isoformat(),
        counts=Counts(read, rows.height, dead, int(twice.sum()), 0),
        position={source.name: {WHOLE: batch.next_offset}},
        sequence=next_sequence(table, letters),
        units=units_of(source, rows),
        violations=judged.violations,
        warnings=judged.warnings,
        notes=[_note(f) for f in batch.unreadable],
    )
    if not bad.is_empty():
        reached = {source.name: max(ahead, batch.next_offset)}
        dead_letters.append(lake, source.table, bad, replace(record, units={}), reached)
    record = replace(record, seconds=round(time.monotonic() - started, 3))
    lean.append(table, rows, record, {source.name: batch.next_offset})
    return record


def _note(file: dict[str, Any]) -> str:
    reason = file["reason"].removeprefix("file: ")
    return f"{file['path']}: {reason}{'; kept in quarantine' if file['kept'] else ''}"


def identity_of(source: FileSource) -> tuple[str, ...]:
    """The columns that make two records the same: the contract's key, or the record's own text."""
    return source.contract.key or (("_payload",) if source.drop_repeated_text else ())


def _held(lake: Lake, source: FileSource, position: int) -> set[int]:
    """Offsets that the dead letters already hold, from the file on that `position` lies in.

    That file itself (row 0) may be a dead letter though records of it were read before.
    """
    file = offset_of(place_of(position)[0], 0)
    held = dead_letters.read(lake, source.table).filter(
        (pl.col("source") == source.name) & (pl.col("offset") >= file)
    )
    return set(held["offset"])


def _offsets(batch: _Batch) -> set[int]:
    """The offsets of a batch's records, and of the files in it that cannot be read."""
    records = set(batch.frame["_offset"]) if batch.frame.height else set()
    return records | {offset_of(f["sequence"], 0) for f in batch.unreadable}


@dataclass(frozen=True)
class Judged:
    """Good rows and bad ones, and how many rows each expectation concerned."""

    good: pl.DataFrame
    bad: pl.DataFrame
    violations: dict[str, int]
    warnings: dict[str, int]
    failures: dict[str, int]


def judge(source: FileSource, frame: pl.DataFrame, at: datetime) -> Judged:
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
    good = pl.concat([v.good for v in verdicts], how="diagonal_relaxed").sort("_offset")
    return Judged(good, bad, *sums)


def _out_of_time(source: FileSource, came: pl.DataFrame, judged: contracts.Judged, at: datetime) -> Any:
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
        offsets = judged.good.filter(outside)["_offset"]
        if offsets.is_empty():
            continue
        inside = ~pl.col("_offset").is_in(offsets.implode())
        rejected = came.filter(~inside).with_columns(pl.concat_list(pl.lit(name)).alias("violations"))
        judged = replace(
            judged,
            good=judged.good.filter(inside),
            bad=pl.concat([judged.bad, rejected], how="diagonal_relaxed"),
            violations={**judged.violations, name: len(offsets)},
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


def dead_rows(
    source: FileSource, run: Run, bad: pl.DataFrame, unreadable: Sequence[dict[str, Any]]
) -> pl.DataFrame:
    """Dead letters of bad records (their bytes as they came) and of whole files (row 0)."""
    whole = pl.DataFrame(
        [
            {
                "source": source.name,
                "offset": offset_of(f["sequence"], 0),
                "file": f["path"],
                "row": 0,
                "payload": None,
                "violations": [f["reason"]],
                "unit": None,
                "at": run.at,
                "run_id": run.run_id,
            }
            for f in unreadable
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
        pl.lit(source.name).alias("source"),
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


def finish(
    source: FileSource, run: Run, rows: pl.DataFrame, known: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    """The bronze row: derived partition column, provenance, legal names, columns in order.

    known: the columns that the table has. A field that differs by case or punctuation goes there, and
    one that the contract declared once keeps the type it had then.
    """
    added = [
        pl.lit(source.name).alias("_source"),
        pl.lit(run.at, pl.Datetime("us", "UTC")).alias("_ingested_at"),
    ]
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


def _as_text(source: FileSource, column: str, kind: pl.DataType) -> bool:
    """Whether a field becomes text: its type in one Parquet file shall bind no other file."""
    if column in files.RESERVED or kind == pl.String:
        return False
    return column not in source.contract.by_name or kind.is_nested()


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


def units_of(source: FileSource, rows: pl.DataFrame) -> dict[str, int]:
    """Rows per unit; nothing where the table has no unit."""
    if source.unit is None or rows.is_empty():
        return {}
    counted = rows.group_by(pl.col(source.unit).cast(pl.String)).len()
    return dict(sorted(zip(counted[source.unit].fill_null(WHOLE), counted["len"], strict=True)))


def _concat(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()


def _quarantine(lake: Lake, source: FileSource, folder: Path, file: dict[str, Any]) -> bool:
    """Keep a copy of a file that cannot be read (a dead letter is kept whole); whether there is one."""
    original = folder / file["path"]
    target = lake.root / "quarantine" / source.name / file["digest"] / original.name
    if target.exists():
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        shutil.copyfile(original, part)
    except OSError:
        part.unlink(missing_ok=True)
        return False
    part.replace(target)
    return True
