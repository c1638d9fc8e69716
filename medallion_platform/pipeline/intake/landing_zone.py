"""A landing zone as a log: new files are registered in the file registry, and read from a position on.

New complete files get their sequence numbers in one commit before anything is read from them; a record's
offset is `sequence * 2**32 + row`. The log has the name of its source.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import polars as pl

from medallion_platform.contracts.codes import Code, Damage
from medallion_platform.errors import Kind
from medallion_platform.lakehouse import dead_letters, file_registry
from medallion_platform.lakehouse.file_registry import RegisteredFile
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.sources.arrivals import Batch, PositionOf, Range, UnreadableRange
from medallion_platform.sources.connectors import landing_scan
from medallion_platform.sources.connectors.files import (
    FileSource,
    FileState,
    FileVersion,
    record_offset,
    sequence_and_row,
)
from medallion_platform.sources.connectors.landing_zones import FileInfo, zone_at
from medallion_platform.sources.errors import LostFile, StillGrowing, UnreadableFile
from medallion_platform.sources.formats.records import CODE, DETAIL, FATAL, OURS
from medallion_platform.sources.formats.text import TextFormat
from medallion_platform.sources.formats.typed import values_as_text
from medallion_platform.storage import file_exists, store

if TYPE_CHECKING:
    from medallion_platform.pipeline.run import Run

_LOG = logging.getLogger(__name__)
_UNSEEN = "unreadable-"
_SHOWN = 50
"""Names of columns that a dead letter of a whole file shows."""


def waiting_files(source: FileSource, candidates: Sequence[landing_scan.FileInfo], lake: Lake) -> list[str]:
    """What an intake would read: new candidates, and file versions that were not taken in completely."""
    registered = file_registry.read_registry(lake, source.name)
    known = [_file_version(row) for row in _as_rows(registered)]
    new = landing_scan.wanted(known, candidates, landing_scan.missing(known, lost(lake, source)))
    return [
        *(f"{f.path} {f.size} {f.modified_at.isoformat()} {f.etag or ''}".rstrip() for f in new),
        *_files_not_taken(source, registered, lake.positions(source.table)),
    ]


def landed_files(
    source: FileSource, root: Path | str, candidates: Sequence[FileInfo], lake: Lake, run: Run
) -> LandingZone:
    """What is waiting below `root`: the candidates (complete files), and what earlier intakes left over."""
    return LandingZone(source, str(root), lake, tuple(register_files(source, root, candidates, lake, run)))


@dataclass(frozen=True)
class LandingZone:
    """The registered files of a source below `root`."""

    source: FileSource
    root: str
    lake: Lake
    notes: Sequence[str] = ()
    pieces: str = "files"

    def waiting(self, position: PositionOf) -> list[str]:
        """The file versions that were not taken in completely."""
        return _files_not_taken(
            self.source, file_registry.read_registry(self.lake, self.source.name), position
        )

    def batches(self, position: PositionOf, rows: int, size: int) -> Iterator[Batch]:
        """Records from the position on, gathered over files until a batch is full.

        A lost file never shares a batch with its own records: its dead letter is committed first and names
        the first missing record, so all records before it must be committed already.
        """
        return self._batches(position, rows, size)

    def _batches(
        self, position: PositionOf, rows: int, size: int, until: Range | None = None
    ) -> Iterator[Batch]:
        """The same; until: the file, and the records of it, behind which nothing is read."""
        source, lake = self.source, self.lake
        begun = reached = position(source.name) or 0
        registered = file_registry.read_registry(lake, source.name)
        pending = _as_rows(_pending_versions(registered, begun))
        lost_rows = lost(lake, source)
        gathered = _PendingBatch(source)
        for file in pending:
            first = _first_row_not_taken(reached, file)
            most = _records_wanted(source, file, until)
            if most == 0:
                break
            if file["state"] == landing_scan.REPEATED:
                gathered.repeated += 1
                gathered.notes.append(
                    f"{file['path']}: same content as a file already taken in; nothing added"
                )
                reached = record_offset(file["sequence"] + 1, 0)
                continue
            begin = reached
            try:
                if file["sequence"] in lost_rows:
                    raise LostFile(file["path"], "it could not be opened before")
                for read in _read_records(source, self.root, file, first, most):
                    frame = _quarantine_long_records(lake, source, self.root, file, read)
                    if not gathered.has_same_types(frame):
                        yield gathered.take_batch(reached)
                    gathered.add(frame)
                    reached = record_offset(file["sequence"], int(frame["_row"][-1]) + 1)
                    if gathered.rows >= rows or gathered.size >= size:
                        yield gathered.take_batch(reached)
                if first == 1 and reached == begin and file["size"]:
                    gathered.notes.append(f"{file['path']}: no record in its {file['size']:,} bytes")
                if most is not None:
                    break
            except LostFile as error:
                if gathered.frames and _first_row_not_taken(reached, file) > first:
                    yield gathered.take_batch(reached)
                first = _first_row_not_taken(reached, file)
                why = f"lost from record {first} on: {error.reason}"
                detail = {"from_row": first, **error.detail}
                gathered.unread.append(_unreadable_file(source, file, Code.LOST, why, detail))
            except UnreadableFile as error:
                detail = {"kept": _quarantine(lake, source, self.root, file), **error.detail}
                gathered.unread.append(_unreadable_file(source, file, Code.UNREADABLE, error.reason, detail))
            reached = record_offset(file["sequence"] + 1, 0)
        if reached > begun and pending:
            yield gathered.take_batch(reached)

    def begins(self, position: PositionOf) -> Mapping[str, int]:
        """Where the next file begins, or what is left of it."""
        return {self.source.name: position(self.source.name) or 0}

    def ahead(self, position: PositionOf, rows: int) -> Sequence[Range]:
        """The records of the next files, up to whole ones; a file that is no text is one."""
        reached = position(self.source.name) or 0
        registered = file_registry.read_registry(self.lake, self.source.name)
        found: list[Range] = []
        for file in _as_rows(_pending_versions(registered, reached)):
            first = _first_row_not_taken(reached, file)
            begin, count = record_offset(file["sequence"], first), self._count(file, first)
            found += [Range(self.source.name, begin, begin + count)] if count else []
            if sum(r.end - r.begin for r in found) >= rows:
                break
        return found

    def within(self, ranges: Sequence[Range], position: PositionOf, rows: int, size: int) -> Iterator[Batch]:
        """The records of files; those that are no text as a whole."""
        return self._batches(position, rows, size, until=ranges[-1])

    def unparsed(self, fatal: Range, position: PositionOf) -> Iterator[Batch]:
        """The record as a dead letter; of a file that is no text the file, from there on."""
        source = self.source
        sequence, row = sequence_and_row(fatal.begin)
        registered = file_registry.read_registry(self.lake, source.name)
        (file,) = _as_rows(registered.filter(pl.col("sequence") == sequence))
        if isinstance(source.format, TextFormat):
            try:
                with zone_at(self.root).file(_require_same_content(self.root, file)) as path:
                    frame = _with_provenance(source, file, source.format.unparsed(path, row))
            except (StillGrowing, UnreadableFile):  # nobody can parse it any more
                yield from self.within([fatal], position, 1, 1)
            else:
                yield Batch(frame, (), {source.name: fatal.end})
        else:
            detail = {"kept": _quarantine(self.lake, source, self.root, file), "from_row": row}
            why = f"from record {row} on {FATAL}"
            piece = _unreadable_file(source, file, Code.POISON, why, detail)
            yield Batch(pl.DataFrame(), [piece], {source.name: record_offset(sequence + 1, 0)})

    def _count(self, file: RegisteredFile, first: int) -> int:
        """The records of a file from `first` on, without parsing any; 1 of what cannot be divided."""
        form = self.source.format
        if file["state"] == landing_scan.REPEATED:
            return 0
        if not isinstance(form, TextFormat) or file["unreadable"]:
            return 1
        try:
            with zone_at(self.root).file(_require_same_content(self.root, file)) as path:
                return form.count(path, first)
        except (StillGrowing, UnreadableFile):
            return 1


_CELL = 4
"""Bytes that a value or a null of a column counts at least."""


class _PendingBatch:
    """Records and unreadable files since the last batch."""

    def __init__(self, source: FileSource) -> None:
        self.source = source
        self.frames: list[pl.DataFrame] = []
        self.unread: list[UnreadableRange] = []
        self.notes: list[str] = []
        self.repeated = 0
        self.rows = self.bytes = 0
        self.types: dict[str, pl.DataType] = {}

    @property
    def size(self) -> int:
        """The bytes of the records in memory; if records have few fields in common, most of it is nulls."""
        return max(self.bytes, _CELL * self.rows * len(self.types))

    def has_same_types(self, frame: pl.DataFrame) -> bool:
        """Whether a frame may be validated with the others: each value is validated in its file's type."""
        return all(self.types.get(name, kind) == kind for name, kind in frame.schema.items())

    def add(self, frame: pl.DataFrame) -> None:
        """Add a frame to the batch."""
        self.frames.append(frame)
        self.rows += frame.height
        self.bytes += int(frame.estimated_size())
        self.types.update(frame.schema)

    def take_batch(self, reached: int) -> Batch:
        """The gathered records up to a position as a batch; the next batch starts empty."""
        frame = pl.concat(self.frames, how="diagonal_relaxed") if self.frames else pl.DataFrame()
        result = Batch(frame, self.unread, {self.source.name: reached}, self.notes, self.repeated)
        self.notes, self.repeated = [], 0
        self.frames, self.unread, self.rows, self.bytes, self.types = [], [], 0, 0, {}
        return result


def _unreadable_file(
    source: FileSource, file: RegisteredFile, code: Code, why: str, detail: Mapping[str, object]
) -> UnreadableRange:
    """The dead letter (row 0) for a whole file."""
    note = f"{file['path']}: {why}{'; kept in quarantine' if detail.get('kept') else ''}"
    place = record_offset(file["sequence"], 0)
    return UnreadableRange(source.name, place, file["path"], code, f"file: {why}", note, detail)


def _files_not_taken(source: FileSource, registered: pl.DataFrame, position: PositionOf) -> list[str]:
    pending = _pending_versions(registered, position(source.name) or 0)
    return [f"{source.name} {sequence}" for sequence in pending["sequence"]]


def _pending_versions(registered: pl.DataFrame, position: int) -> pl.DataFrame:
    """The file versions from the one at `position` on."""
    return registered.filter(pl.col("sequence") >= sequence_and_row(position)[0])


def register_files(
    source: FileSource,
    root: Path | str,
    candidates: Sequence[FileInfo],
    lake: Lake,
    run: Run,
) -> list[str]:
    """Give every new content of a file the next sequence number of the source; returns notes for people.

    A file is identified by its content: the same bytes under any name add nothing; other bytes under a known
    name are a new version, even if the name had this content before. A content that was lost before it was
    taken in completely continues where it stopped.
    """
    known = _read_file_versions(lake, source)
    latest = landing_scan.latest_versions(known)
    missing = landing_scan.missing(known, lost(lake, source))
    found: list[tuple[FileInfo, str]] = []
    unreadable: dict[str, UnreadableFile] = {}
    notes: list[str] = []
    for seen in landing_scan.wanted(known, candidates, missing):
        try:
            found.append((seen, landing_scan.file_digest(root, seen)))
        except StillGrowing:
            notes.append(f"{seen.path}: still being written; left for the next intake")
        except LostFile as error:
            if seen.path in latest and latest[seen.path].digest == _placeholder_digest(seen):
                continue  # that was told when it was so for the first time
            found.append((seen, _placeholder_digest(seen)))
            unreadable[seen.path] = error
    versions = landing_scan.new_file_versions(known, found, missing)
    rows = [_registry_row(source, root, v, unreadable.get(v.path), run) for v in versions]
    if rows:
        file_registry.register_file_versions(lake, source.name, rows, run.guard)
        _say_registered(source, rows, run)
    said = {
        "new version": "changed since it was taken in; taken as a new version",
        "again": "was lost before it was taken whole; taken from record {0.first_row} on",
    }
    notes += [f"{v.path}: {said[v.state].format(v)}" for v in versions if v.state in said]
    return notes


def _say_registered(source: FileSource, rows: Sequence[RegisteredFile], run: Run) -> None:
    fields = {"source": source.name, "run_id": run.run_id}
    sequences = {"first": rows[0]["sequence"], "last": rows[-1]["sequence"]}
    extra = {
        **fields,
        "files": len(rows),
        "unreadable": sum(bool(r["unreadable"]) for r in rows),
        **sequences,
    }
    _LOG.info("%s: %s files registered", source.name, len(rows), extra=extra)
    for row in rows if _LOG.isEnabledFor(logging.DEBUG) else ():
        file = {"sequence": row["sequence"], "path": row["path"], "size": row["size"], "state": row["state"]}
        _LOG.debug("%s: %s registered", source.name, row["path"], extra=fields | file)


def _changed(path: str) -> LostFile:
    return LostFile(path, "the content changed before it could be read", why=Damage.CHANGED)


def _of_another(source: FileSource, path: str, names: Sequence[str]) -> UnreadableFile | None:
    """Why a file with this header is not the source's; None where it is."""
    reason = source.format.not_its_header(names, source.contract)
    if reason is None:
        return None
    columns = {"found": list(names[:_SHOWN]), "expected": list(source.contract.column_names)[:_SHOWN]}
    return UnreadableFile(path, reason, Kind.DATA, why=Damage.OTHER_COLUMNS, **columns)


def lost(lake: Lake, source: FileSource) -> dict[int, int]:
    """The file versions that were lost before they were taken in completely: sequence -> first missing row.

    This is recorded in their dead letters, which stay valid even if an intake finds the file again: they are
    committed before another intake can treat the file differently.
    """
    lost_letters = dead_letters.details(lake, source.table, source.name, Code.LOST)
    return {sequence_and_row(offset)[0]: detail["from_row"] for offset, detail in lost_letters}


def _placeholder_digest(file: FileInfo | FileVersion) -> str:
    """A placeholder for the digest of a content that could not be read."""
    return f"{_UNSEEN}{file.size}-{file.modified_at.timestamp()}"


def _read_file_versions(lake: Lake, source: FileSource) -> list[FileVersion]:
    return [_file_version(row) for row in _as_rows(file_registry.read_registry(lake, source.name))]


def _as_rows(registered: pl.DataFrame) -> list[RegisteredFile]:
    return cast(list[RegisteredFile], registered.to_dicts())


def _file_version(row: RegisteredFile) -> FileVersion:
    return FileVersion(
        sequence=row["sequence"],
        path=row["path"],
        digest=row["digest"],
        size=row["size"],
        modified_at=row["modified_at"],
        state=cast(FileState, row["state"]),
        first_row=row["first_row"] or 1,
        etag=row["etag"],
    )


def _registry_row(
    source: FileSource, root: Path | str, version: FileVersion, unreadable: UnreadableFile | None, run: Run
) -> RegisteredFile:
    """A row of the file registry: the file version, its header, and why it cannot be read (or null)."""
    header, digest = None, version.digest
    if unreadable is None and version.state != landing_scan.REPEATED:
        try:
            seen = FileInfo(version.path, version.size, version.modified_at, version.etag)
            with zone_at(str(root)).file(seen) as path:
                names = source.format.read_header(path)
            header = list(names) if names is not None else None
            unreadable = _of_another(source, version.path, names) if names else None
        except StillGrowing:
            unreadable, digest = _changed(version.path), _placeholder_digest(version)
        except UnreadableFile as error:
            unreadable = error
            digest = _placeholder_digest(version) if isinstance(error, LostFile) else digest
    return {
        "sequence": version.sequence,
        "path": version.path,
        "digest": digest,
        "size": version.size,
        "modified_at": version.modified_at,
        "etag": version.etag,
        "state": version.state,
        "header": header,
        "unreadable": unreadable.reason if unreadable else None,
        "damage": json.dumps(unreadable.detail) if unreadable else None,
        "first_row": version.first_row,
        "registered_at": run.at,
        "run_id": run.run_id,
    }


def _first_row_not_taken(reached: int, file: RegisteredFile) -> int:
    """The number of the first record of a file that was not taken in, if the position is `reached`."""
    sequence, row = sequence_and_row(reached)
    return max(row if sequence == file["sequence"] else 0, file["first_row"] or 1)


def _records_wanted(source: FileSource, file: RegisteredFile, until: Range | None) -> int | None:
    """How many records of a file may be read, where nothing is behind `until`; None for all of them."""
    if until is None:
        return None
    last, _ = sequence_and_row(until.begin)
    if file["sequence"] != last:
        return None if file["sequence"] < last else 0
    return until.end - until.begin if isinstance(source.format, TextFormat) else None


def _read_records(
    source: FileSource, root: str, file: RegisteredFile, first_row: int, most: int | None = None
) -> Iterator[pl.DataFrame]:
    """The records of a registered file with their provenance; stops if its content changes.

    most: so many of them at the most, of a text.
    """
    if file["unreadable"]:
        lost = file["digest"].startswith(_UNSEEN)
        known = (LostFile if lost else UnreadableFile)(file["path"], file["unreadable"])
        known.detail = json.loads(file["damage"] or "{}")
        raise known
    form, declared = source.format, source.contract.column_names
    try:
        with zone_at(root).file(_require_same_content(root, file)) as path:
            if most is not None and isinstance(form, TextFormat):
                frames = form.read_few(path, first_row, declared, most)
            else:
                frames = form.read(path, first_row, declared)
            for frame in frames:
                yield _with_provenance(source, file, frame)
        _require_same_content(root, file)
    except StillGrowing:
        raise _changed(file["path"]) from None


def _with_provenance(source: FileSource, file: RegisteredFile, frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(
        *(values_as_text(frame[c]) for c, k in frame.schema.items() if _becomes_text(source, c, k)),
        pl.lit(source.name).alias("_source"),
        pl.lit(file["path"]).alias("_file"),
        (pl.col("_row") + record_offset(file["sequence"], 0)).alias("_offset"),
    )


def _require_same_content(root: str, file: RegisteredFile) -> FileInfo:
    """The current file, if it still has the registered content; else raises LostFile."""
    seen = zone_at(root).seen(file["path"])
    if (
        landing_scan.file_fingerprint(seen) != landing_scan.file_fingerprint(_file_version(file))
        and landing_scan.file_digest(root, seen) != file["digest"]
    ):
        raise _changed(file["path"])
    return seen


def _becomes_text(source: FileSource, column: str, kind: pl.DataType) -> bool:
    """Whether a field becomes text, so that its type in one Parquet file does not bind other files."""
    if column in OURS or kind == pl.String:
        return False
    return column not in source.contract.by_name or kind.is_nested()


def _quarantine_long_records(
    lake: Lake, source: FileSource, root: str, file: RegisteredFile, frame: pl.DataFrame
) -> pl.DataFrame:
    """The records; those that are too long to be stored have the path of the whole file in quarantine."""
    if DETAIL not in frame.columns or not (long := frame[CODE] == Code.TOO_LONG.value).any():
        return frame
    kept = {"kept": _quarantine(lake, source, root, file)}
    details = [
        json.dumps(json.loads(detail) | kept) if is_long else detail
        for detail, is_long in zip(frame[DETAIL], long, strict=True)
    ]
    return frame.with_columns(pl.Series(DETAIL, details, dtype=pl.String))


def _quarantine(lake: Lake, source: FileSource, root: str, file: RegisteredFile) -> str | None:
    """Store a copy of an unreadable file in quarantine; returns its path below the lake."""
    from obstore.exceptions import BaseError

    zone, kept = zone_at(root), str(lake.root)
    key = f"quarantine/{source.name}/{file['digest']}/{file['path'].rpartition('/')[2]}"
    try:
        if not file_exists(kept, key):
            with zone.file(zone.seen(file["path"])) as path:
                store(kept).put(key, path)
    except (BaseError, LostFile, OSError, StillGrowing):
        return None
    return key
