"""A landing zone as a log: new files are registered in the file registry, and read from a position on.

New complete files get their sequence numbers in one commit before anything is read from them; a record's
offset is `sequence * 2**32 + row`. The log has the name of its source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from medallion_platform.contracts.codes import Code
from medallion_platform.lakehouse import dead_letters, file_registry
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.sources.arrivals import Batch, PositionOf, UnreadableRange
from medallion_platform.sources.connectors import landing
from medallion_platform.sources.connectors.files import FileSource, FileVersion, offset_of, place_of
from medallion_platform.sources.connectors.zones import FileInfo, zone_at
from medallion_platform.sources.errors import LostFile, StillGrowing, UnreadableFile
from medallion_platform.sources.formats.records import DETAIL, OURS
from medallion_platform.sources.formats.typed import text
from medallion_platform.storage import exists, store

if TYPE_CHECKING:
    from medallion_platform.pipeline.run import Run

_VERSION_FIELDS = ("sequence", "path", "digest", "size", "modified_at", "state", "etag")


_UNSEEN = "unreadable-"


def waiting(source: FileSource, candidates: Sequence[landing.FileInfo], lake: Lake) -> list[str]:
    """What an intake would take up: candidates to be read, versions that are not taken whole."""
    registered = file_registry.read(lake, source.name)
    known = [_version(r) for r in registered.iter_rows(named=True)]
    new = landing.wanted(known, candidates, landing.missing(known, lost(lake, source)))
    return [
        *(f"{f.path} {f.size} {f.modified_at.isoformat()} {f.etag or ''}".rstrip() for f in new),
        *_not_taken(source, registered, lake.positions(source.table)),
    ]


def arrivals(
    source: FileSource, root: Path | str, candidates: Sequence[FileInfo], lake: Lake, run: Run
) -> LandingZone:
    """What waits below `root`: the candidates (complete files), and whatever was left over."""
    return LandingZone(source, str(root), lake, tuple(register(source, root, candidates, lake, run)))


@dataclass(frozen=True)
class LandingZone:
    """The registered files of a source below `root`."""

    source: FileSource
    root: str
    lake: Lake
    notes: Sequence[str] = ()
    pieces: str = "files"

    def waiting(self, position: PositionOf) -> list[str]:
        """The file versions that were not taken in whole."""
        return _not_taken(self.source, file_registry.read(self.lake, self.source.name), position)

    def batches(self, position: PositionOf, rows: int, size: int) -> Iterator[Batch]:
        """Records from the position on, gathered over files until a batch is full.

        A file that is lost (or was told to be) is in no batch with records of its own, so that its dead
        letter, which is committed first, never says of a record that it was taken when it was not yet.
        """
        source, lake = self.source, self.lake
        begun = reached = position(source.name) or 0
        pending = _pending(file_registry.read(lake, source.name), begun).to_dicts()
        told = lost(lake, source)
        gathered = _PendingBatch(source)
        for file in pending:
            first = _next_row(reached, file)
            if file["state"] == landing.REPEATED:
                gathered.repeated += 1
                gathered.notes.append(
                    f"{file['path']}: same content as a file already taken in; nothing added"
                )
                reached = offset_of(file["sequence"] + 1, 0)
                continue
            begin = reached
            try:
                if file["sequence"] in told:
                    raise LostFile(file["path"], "it could not be opened before")
                for read in _read(source, self.root, file, first):
                    frame = _keep_too_long(lake, source, self.root, file, read)
                    if gathered.frames and not _same_types(gathered.frames[0], frame):
                        yield gathered.batch(reached)
                    gathered.add(frame)
                    reached = offset_of(file["sequence"], int(frame["_row"][-1]) + 1)
                    if gathered.rows >= rows or gathered.size >= size:
                        yield gathered.batch(reached)
                if first == 1 and reached == begin and file["size"]:
                    gathered.notes.append(f"{file['path']}: no record in its {file['size']:,} bytes")
            except LostFile as error:
                if gathered.frames and _next_row(reached, file) > first:
                    yield gathered.batch(reached)
                first = _next_row(reached, file)
                why = f"lost from record {first} on: {error.reason}"
                gathered.unread.append(_unread(source, file, Code.LOST, why, {"from_row": first}))
            except UnreadableFile as error:
                kept = _quarantine(lake, source, self.root, file)
                gathered.unread.append(_unread(source, file, Code.UNREADABLE, error.reason, {"kept": kept}))
            reached = offset_of(file["sequence"] + 1, 0)
        if reached > begun and pending:
            yield gathered.batch(reached)


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
        self.names: set[str] = set()

    @property
    def size(self) -> int:
        """Bytes that the records take; of many with few fields in common, nulls take most."""
        return max(self.bytes, _CELL * self.rows * len(self.names))

    def add(self, frame: pl.DataFrame) -> None:
        """One frame more."""
        self.frames.append(frame)
        self.rows += frame.height
        self.bytes += int(frame.estimated_size())
        self.names.update(frame.columns)

    def batch(self, reached: int) -> Batch:
        """What was gathered up to a position; the next batch starts empty."""
        frame = pl.concat(self.frames, how="diagonal_relaxed") if self.frames else pl.DataFrame()
        made = Batch(frame, self.unread, {self.source.name: reached}, self.notes, self.repeated)
        self.notes, self.repeated = [], 0
        self.frames, self.unread, self.rows, self.bytes, self.names = [], [], 0, 0, set()
        return made


def _unread(
    source: FileSource, file: dict[str, Any], code: Code, why: str, detail: Mapping[str, object]
) -> UnreadableRange:
    """A file as a dead letter of row 0."""
    note = f"{file['path']}: {why}{'; kept in quarantine' if detail.get('kept') else ''}"
    place = offset_of(file["sequence"], 0)
    return UnreadableRange(source.name, place, file["path"], code, f"file: {why}", note, detail)


def _not_taken(source: FileSource, registered: pl.DataFrame, position: PositionOf) -> list[str]:
    pending = _pending(registered, position(source.name) or 0)
    return [f"{source.name} {sequence}" for sequence in pending["sequence"]]


def _pending(registered: pl.DataFrame, position: int) -> pl.DataFrame:
    """The file versions from the one on that `position` lies in."""
    return registered.filter(pl.col("sequence") >= place_of(position)[0])


def register(
    source: FileSource,
    root: Path | str,
    candidates: Sequence[FileInfo],
    lake: Lake,
    run: Run,
) -> list[str]:
    """Give every new content of a file its place in the source's order; says what is worth saying.

    A file is known by its content: the same bytes again, under any name, add nothing; other bytes
    under a known name are a new version, also those that the name had before its present ones. A
    content that was lost before it was taken whole is taken up again where that was.
    """
    known = [_version(r) for r in file_registry.read(lake, source.name).iter_rows(named=True)]
    latest = landing.latest(known)
    missing = landing.missing(known, lost(lake, source))
    found: list[tuple[FileInfo, str]] = []
    unreadable: dict[str, str] = {}
    notes: list[str] = []
    for seen in landing.wanted(known, candidates, missing):
        try:
            found.append((seen, landing.digest_of(root, seen)))
        except StillGrowing:
            notes.append(f"{seen.path}: still being written; left for the next intake")
        except LostFile as error:
            if seen.path in latest and latest[seen.path].digest == _unseen(seen):
                continue  # that was told when it was so for the first time
            found.append((seen, _unseen(seen)))
            unreadable[seen.path] = error.reason
    versions = landing.register(known, found, missing)
    rows = [_registry_row(source, root, v, unreadable.get(v.path), run) for v in versions]
    if rows:
        file_registry.append(lake, source.name, rows)
    said = {
        "new version": "changed since it was taken in; taken as a new version",
        "again": "was lost before it was taken whole; taken from record {0.first_row} on",
    }
    notes += [f"{v.path}: {said[v.state].format(v)}" for v in versions if v.state in said]
    return notes


_CHANGED = "the content changed before it could be read"


def lost(lake: Lake, source: FileSource) -> dict[int, int]:
    """The file versions that were lost before they were taken whole, and their first record wanting.

    Their dead letters are the account of it. What these say holds, also for an intake that finds the
    file again: it is committed before any other can take it for something else.
    """
    told = dead_letters.details(lake, source.table, source.name, Code.LOST)
    return {place_of(offset)[0]: detail["from_row"] for offset, detail in told}


def _unseen(file: FileInfo | FileVersion) -> str:
    """What stands for the digest of a content that could not be read."""
    return f"{_UNSEEN}{file.size}-{file.modified_at.timestamp()}"


def _version(row: dict[str, Any]) -> FileVersion:
    return FileVersion(**{f: row[f] for f in _VERSION_FIELDS}, first_row=row["first_row"] or 1)


def _registry_row(
    source: FileSource, root: Path | str, version: FileVersion, unreadable: str | None, run: Run
) -> dict[str, Any]:
    """One line of the file registry: the file version, its header, why it cannot be read if so."""
    header, digest = None, version.digest
    if unreadable is None and version.state != landing.REPEATED:
        try:
            seen = FileInfo(version.path, version.size, version.modified_at, version.etag)
            with zone_at(str(root)).file(seen) as path:
                names = source.format.read_header(path)
            header = list(names) if names is not None else None
            unreadable = source.format.not_its_header(names, source.contract) if names else None
        except StillGrowing:
            unreadable, digest = _CHANGED, _unseen(version)
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


def _next_row(reached: int, file: dict[str, Any]) -> int:
    """The number of the first record of a file that is not taken yet, where `reached` is."""
    sequence, row = place_of(reached)
    return max(row if sequence == file["sequence"] else 0, file["first_row"] or 1)


def _same_types(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    """Whether two frames may be validated as one: each value is validated in the type that its file gave
    it.
    """
    types = one.schema  # asked once: polars makes it anew each time
    return all(types.get(name, kind) == kind for name, kind in other.schema.items())


def _read(source: FileSource, root: str, file: dict[str, Any], first_row: int) -> Iterator[pl.DataFrame]:
    """A registered file's records with their provenance, as long as it is the registered content."""
    if file["unreadable"]:
        lost = file["digest"].startswith(_UNSEEN)
        raise (LostFile if lost else UnreadableFile)(file["path"], file["unreadable"])
    try:
        with zone_at(root).file(_same_content(root, file)) as path:
            for frame in source.format.read(path, first_row, source.contract.column_names):
                yield frame.with_columns(
                    *(text(frame[c]) for c, k in frame.schema.items() if _as_text(source, c, k)),
                    pl.lit(source.name).alias("_source"),
                    pl.lit(file["path"]).alias("_file"),
                    (pl.col("_row") + offset_of(file["sequence"], 0)).alias("_offset"),
                )
        _same_content(root, file)
    except StillGrowing:
        raise LostFile(file["path"], _CHANGED) from None


def _same_content(root: str, file: dict[str, Any]) -> FileInfo:
    """The file as it is now, still what the file registry says, or it is lost to us and that must be told."""
    seen = zone_at(root).seen(file["path"])
    if (
        landing.looks(seen) != landing.looks(_version(file))
        and landing.digest_of(root, seen) != file["digest"]
    ):
        raise LostFile(file["path"], _CHANGED)
    return seen


def _as_text(source: FileSource, column: str, kind: pl.DataType) -> bool:
    """Whether a field becomes text: its type in one Parquet file shall bind no other file."""
    if column in OURS or kind == pl.String:
        return False
    return column not in source.contract.by_name or kind.is_nested()


def _keep_too_long(
    lake: Lake, source: FileSource, root: str, file: dict[str, Any], frame: pl.DataFrame
) -> pl.DataFrame:
    """The records; where some are too long to be kept, with the place of the whole file instead."""
    if DETAIL not in frame.columns:
        return frame
    kept = {"kept": _quarantine(lake, source, root, file)}
    told = [detail and json.dumps(json.loads(detail) | kept) for detail in frame[DETAIL]]
    return frame.with_columns(pl.Series(DETAIL, told, dtype=pl.String))


def _quarantine(lake: Lake, source: FileSource, root: str, file: dict[str, Any]) -> str | None:
    """Keep a copy of a file that cannot be read (a dead letter is kept whole); its path below the lake."""
    from obstore.exceptions import BaseError

    zone, kept = zone_at(root), str(lake.root)
    key = f"quarantine/{source.name}/{file['digest']}/{file['path'].rpartition('/')[2]}"
    try:
        if not exists(kept, key):
            with zone.file(zone.seen(file["path"])) as path:
                store(kept).put(key, path)
    except (BaseError, LostFile, OSError, StillGrowing):
        return None
    return key
