"""The data that flows in a drill: copies of files of the user's landing zone, or of the project's example."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medallion_platform.sources.connectors.files import FileSource, is_unfinished_name
from medallion_platform.sources.formats.csv import Csv
from medallion_platform.sources.formats.jsonlines import JsonLines
from medallion_platform.storage import explain_unreachable, in_bucket, store

MOST_FILES = 20
"""Files of each source that are copied."""
MOST_BYTES = 20_000_000
"""Of each source."""
BROKEN = 3
"""Rows that are spoiled."""
POISON = b"poison of a drill"
"""The row that kills whatever parses it."""


@dataclass(frozen=True)
class Piece:
    """A file that lands. path: below the landing zone."""

    source: str
    path: str
    content: bytes


@dataclass(frozen=True)
class Traffic:
    """What lands before the steady state, and what lands with the fault."""

    before: tuple[Piece, ...]
    during: tuple[Piece, ...]


def traffic_of(landing: str, sources: Sequence[FileSource]) -> Traffic:
    """The files of these sources in two parts, each with something of every source where that can be.

    landing: a folder, or a prefix of a bucket.

    Raises:
        Unusable: the bucket cannot be reached.
    """
    before: list[Piece] = []
    during: list[Piece] = []
    with explain_unreachable(landing):
        there = _files_below(landing)
        for source in sources:
            pieces = [Piece(source.table, n, _content(landing, n)) for n in first_files(there, source)]
            if len(pieces) == 1:
                pieces = halves(pieces[0], source)
            middle = len(pieces) // 2
            before += pieces[:middle]
            during += pieces[middle:]
    return Traffic(tuple(before), tuple(during))


def first_files(sizes: Mapping[str, int], source: FileSource) -> list[str]:
    """The files of a source in the order of their names: the first ones, within bounds. Pure.

    sizes: by the name of each file below the landing zone.
    """
    found: list[str] = []
    size = 0
    for name in sorted(sizes):
        if source.claims_path(name) and not is_unfinished_name(name):
            size += sizes[name]
            if size > MOST_BYTES or len(found) == MOST_FILES:
                break
            found.append(name)
    return found


def _files_below(landing: str) -> dict[str, int]:
    if in_bucket(landing):
        return {file["path"]: file["size"] for page in store(landing).list() for file in page}
    files = (path for path in Path(landing).rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(landing).as_posix(): path.stat().st_size for path in files}


def _content(landing: str, name: str) -> bytes:
    if in_bucket(landing):
        return bytes(store(landing).get(name).bytes())
    return Path(landing, name).read_bytes()


def halves(piece: Piece, source: FileSource) -> list[Piece]:
    """A file of text as two files with half of the rows each; the same where it cannot be cut. Pure."""
    stem, dot, ending = piece.path.partition(".")
    paths = [f"{stem}.{n}{dot}{ending}" for n in (1, 2)]
    lines = piece.content.splitlines(keepends=True)
    head = lines[:1] if isinstance(source.format, Csv) and source.format.header else []
    rows = lines[len(head) :]
    whole = isinstance(source.format, Csv | JsonLines) and not ending.endswith(source.format.compressions)
    if not whole or len(rows) < 2 or (b'"' in piece.content and isinstance(source.format, Csv)):
        return [piece]
    if not all(map(source.claims_path, paths)):
        return [piece]
    middle = len(rows) // 2
    parts = (b"".join([*head, *rows[:middle]]), b"".join([*head, *rows[middle:]]))
    return [Piece(piece.source, path, part) for path, part in zip(paths, parts, strict=True)]


def spoiled(piece: Piece) -> Piece:
    """The same file with rows more that nobody can read. Pure."""
    return _with_rows(piece, *(b"\xff\xfe broken by a drill %d" % n for n in range(BROKEN)))


def poisoned(piece: Piece) -> Piece:
    """The same file with a row more that kills whatever parses it. Pure."""
    return _with_rows(piece, POISON)


def _with_rows(piece: Piece, *rows: bytes) -> Piece:
    end = b"" if piece.content.endswith(b"\n") else b"\n"
    return Piece(piece.source, piece.path, piece.content + end + b"".join(row + b"\n" for row in rows))


def can_be_spoiled(source: FileSource, piece: Piece) -> bool:
    """Whether a row more can be added at the end of the text of a file."""
    return isinstance(source.format, Csv | JsonLines) and not piece.path.endswith(source.format.compressions)


def land(pieces: Iterable[Piece], landing: Path) -> None:
    """Put files into a landing zone, one after the other; each appears when it is whole."""
    for piece in pieces:
        target = landing / piece.path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        part.write_bytes(piece.content)
        now = time.time()
        os.utime(part, (now, now))
        part.replace(target)
