"""The data that flows in a drill: copies of files of the user's landing zone, or of the project's example."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medallion_platform.sources.connectors.files import FileSource, is_unfinished_name
from medallion_platform.sources.formats.csv import Csv
from medallion_platform.sources.formats.jsonlines import JsonLines

MOST_FILES = 20
"""Files of each source that are copied."""
MOST_BYTES = 20_000_000
"""Of each source."""
BROKEN = 3
"""Rows that are spoiled."""


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


def files_of(folder: Path, sources: Iterable[FileSource]) -> dict[str, list[Path]]:
    """The files of each source below a folder, in the order of their paths: the first ones, within bounds."""
    every = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()]
    found: dict[str, list[Path]] = {}
    for source in sources:
        size = 0
        for path in every:
            name = path.relative_to(folder).as_posix()
            if source.claims_path(name) and not is_unfinished_name(name):
                size += path.stat().st_size
                if size > MOST_BYTES or len(found.get(source.table, ())) == MOST_FILES:
                    break
                found.setdefault(source.table, []).append(path)
    return found


def traffic_of(folder: Path, sources: Sequence[FileSource]) -> Traffic:
    """The files of these sources in two parts, each with something of every source where that can be."""
    before: list[Piece] = []
    during: list[Piece] = []
    for source in sources:
        paths = files_of(folder, [source]).get(source.table, [])
        pieces = [Piece(source.table, p.relative_to(folder).as_posix(), p.read_bytes()) for p in paths]
        if len(pieces) == 1:
            pieces = halves(pieces[0], source)
        middle = len(pieces) // 2
        before += pieces[:middle]
        during += pieces[middle:]
    return Traffic(tuple(before), tuple(during))


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
    end = b"" if piece.content.endswith(b"\n") else b"\n"
    rows = b"".join(b"\xff\xfe broken by a drill %d\n" % n for n in range(BROKEN))
    return Piece(piece.source, piece.path, piece.content + end + rows)


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
