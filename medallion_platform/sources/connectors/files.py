"""Files of a landing zone: the declaration of a source, which files it claims, and their positions. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import takewhile
from re import Pattern, compile
from typing import Literal

from medallion_platform.contracts import options
from medallion_platform.sources.arrivals import Arrivals, SourceContext
from medallion_platform.sources.source import Source

_MARKS = frozenset("*?[")
UNFINISHED_ENDINGS = (
    ".tmp",
    ".temp",
    ".part",
    ".partial",
    ".filepart",
    ".crdownload",
    ".download",
    ".uploading",
    ".inprogress",
    ".incomplete",
    ".swp",
    "._copying_",
    "~",
)
ROWS_PER_FILE = 2**32
"""The positions a file version spans: a record's offset is `sequence * ROWS_PER_FILE + row`."""


def record_offset(sequence: int, row: int) -> int:
    """The position of a record among all records of its source; row 0 is the file itself."""
    if not 0 <= row < ROWS_PER_FILE:
        raise ValueError(f"row {row} is outside 0..{ROWS_PER_FILE - 1}")
    if not 0 <= sequence < 2**31:
        raise ValueError(f"sequence {sequence} is outside 0..{2**31 - 1}")
    return sequence * ROWS_PER_FILE + row


def sequence_and_row(offset: int) -> tuple[int, int]:
    """The sequence number and the row of an offset; the inverse of `record_offset`."""
    if not 0 <= offset < 2**63:
        raise ValueError(f"{offset} is not an offset")
    return divmod(offset, ROWS_PER_FILE)


@dataclass(frozen=True)
class FileSource(Source, kind="files"):
    """Files of one kind that land together and become one bronze table.

    Example:
        >>> import pyspark.sql.types as T
        >>> from medallion_platform import ContractModel, Csv, Field, FileSource
        >>> class Readings(ContractModel):
        ...     station: T.StringType = Field()
        >>> readings = FileSource(
        ...     name="weather.readings",
        ...     table="bronze.readings",
        ...     contract=Readings.contract,
        ...     claims=("weather/**",),
        ...     format=Csv(delimiter=";"),
        ...     domain="weather",
        ... )
        >>> readings.claims_path("weather/2026/02-01.csv")
        True
    """

    claims: tuple[str, ...] = field(kw_only=True)
    """Globs relative to the landing zone: `*` and `?` match within a folder, `**` across folders. One that
    ends with `/` matches all files in and below that folder with an ending of the source's format."""

    def __post_init__(self) -> None:
        super().__post_init__()
        claims = options.texts(f"source {self.name!r}: claims", self.claims, once=False)
        object.__setattr__(self, "claims", claims)
        for claim in claims:
            if reason := _no_claim(claim):
                raise self.refused(f"the claim {claim!r} {reason}")
        if not claims:
            raise self.refused("claims no file")
        if not self.format.suffixes:
            raise self.refused(f"{self.format.kind} is read from topics, not from files")

    @property
    def where(self) -> str:
        """The files that it claims."""
        return "files " + ", ".join(f"`{c}`" for c in self.claims)

    def claims_path(self, path: str) -> bool:
        """Whether a file at `path` (relative to the landing zone, with `/`) is this source's."""
        return claims(self.globs, path)

    @cached_property
    def globs(self) -> tuple[str, ...]:
        """The claims as globs; a claimed folder becomes one glob for each file suffix of the format."""
        endings = [e + c for e in self.format.suffixes for c in ("", *self.format.compressions)]
        return tuple(
            glob
            for claim in self.claims
            for glob in ([f"{claim}**/*{e}" for e in endings] if claim.endswith("/") else [claim])
        )

    def arrivals(self, context: SourceContext) -> Arrivals:
        """The complete files; each new content gets the next sequence number of the source."""
        from medallion_platform.sources.connectors.landing_scan import scan_landing_zone

        found = scan_landing_zone(
            context.landing, [self], context.at, context.settle_seconds, claimed_only=True
        )
        skipped = [f"{path}: {why}; left in place" for path, why in found.skipped.items()]
        return context.register(self, found.claimed[self.name], skipped)


def _no_claim(claim: str) -> str | None:
    """Why a claim cannot be meant; None where it can."""
    folders = claim.removeprefix("/").removesuffix("/").split("/")
    if ".." in folders:
        return "leads out of the landing zone"
    if "" in folders and claim != "/":
        return "has a folder without a name"
    if is_unfinished_name("/".join(folders)):
        return "matches only names that are never taken in: of files that are hidden or not complete"
    return None


def is_unfinished_name(path: str) -> bool:
    """Whether a path says by itself that its file is hidden or not complete. Pure."""
    return is_hidden_path(path) or path.lower().endswith(UNFINISHED_ENDINGS)


def is_hidden_path(path: str) -> bool:
    """Whether a path is a marker that other tools leave (`_SUCCESS`, `.gitkeep`), or below one. Pure."""
    return any(part.startswith((".", "_")) for part in path.split("/"))


def file_sources_of(sources: Iterable[Source]) -> tuple[FileSource, ...]:
    """Those of some sources whose records land as files: a landing zone is looked at for all at once."""
    return tuple(source for source in sources if isinstance(source, FileSource))


FileState = Literal["new", "new version", "again", "repeated"]


@dataclass(frozen=True)
class FileVersion:
    """One content of one path, in the order in which a source took them in.

    `state` says why it has a sequence number: `new` (path not seen before), `new version` (the
    path was seen with another content), `again` (the content was lost before it was taken whole;
    its records from `first_row` on are still to be taken) or `repeated` (the content was taken in by
    another name: nothing is read of it).
    """

    sequence: int
    path: str
    digest: str
    size: int
    modified_at: datetime
    state: FileState = "new"
    first_row: int = 1
    etag: str | None = None


def folders_of_globs(globs: Iterable[str]) -> list[str]:
    """The folders that contain every match of `globs`, none inside another: `a/2026-*/b.csv` -> `a`."""
    found = {
        "/".join(takewhile(lambda folder: not set(folder) & _MARKS, glob.strip("/").split("/")[:-1]))
        for glob in globs
    }
    return sorted(f for f in found if found.isdisjoint(_folders_above(f)))


def _folders_above(folder: str) -> list[str]:
    """The folders that a folder is in, the landing zone (`""`) first: `a/b` -> `""`, `a`."""
    parts = folder.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts))] if folder else []


def claims(globs: Iterable[str], path: str) -> bool:
    """Whether one of `globs` matches `path`."""
    return any(_glob_pattern(glob).match(path) for glob in globs)


@lru_cache(maxsize=1024)
def _glob_pattern(glob: str) -> Pattern[str]:
    *folders, name = glob.strip("/").split("/")
    head = "".join("(?:[^/]+/)*" if f == "**" else _glob_segment_pattern(f) + "/" for f in folders)
    return compile(rf"(?s:{head}{'.+' if name == '**' else _glob_segment_pattern(name)})\Z")


def _glob_segment_pattern(text: str) -> str:
    """A regular expression for one path segment of a glob (no `/` is ever matched)."""
    out, i = "", 0
    while i < len(text):
        mark, i = text[i], i + 1
        if mark == "*":
            out += "[^/]*"
        elif mark == "?":
            out += "[^/]"
        elif mark == "[" and (end := text.find("]", i + 1)) > 0:
            inner = text[i:end].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
            out += "(?!/)[" + ("^" + inner[1:] if inner.startswith("!") else inner) + "]"
            i = end + 1
        else:
            out += "\\" + mark if not mark.isalnum() and mark.isascii() else mark
    return out
