"""Files of a landing zone: the declaration of a source, which files it claims, and their positions. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import takewhile
from re import Pattern, compile
from typing import Literal

from medallion_platform.sources.arrivals import Arrivals, SourceContext
from medallion_platform.sources.source import Source

_MARKS = frozenset("*?[")
ROWS_PER_FILE = 2**32
"""The positions a file version spans: a record's offset is `sequence * ROWS_PER_FILE + row`."""


def offset_of(sequence: int, row: int) -> int:
    """The position of a record among all records of its source; row 0 is the file itself."""
    if not 0 <= row < ROWS_PER_FILE:
        raise ValueError(f"row {row} is outside 0..{ROWS_PER_FILE - 1}")
    if not 0 <= sequence < 2**31:
        raise ValueError(f"sequence {sequence} is outside 0..{2**31 - 1}")
    return sequence * ROWS_PER_FILE + row


def place_of(offset: int) -> tuple[int, int]:
    """The (sequence, row) that `offset` stands for; the inverse of `offset_of`."""
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
        if isinstance(self.claims, str):
            raise ValueError(f"source {self.name!r}: claims is one text, and not a tuple of them")
        object.__setattr__(self, "claims", tuple(self.claims))
        for claim in self.claims:
            if ".." in claim.split("/"):
                raise ValueError(f"source {self.name!r}: {claim!r} leads out of the landing zone")
        if not self.claims:
            raise ValueError(f"source {self.name!r} claims no file")
        if not self.format.suffixes:
            raise ValueError(f"source {self.name!r}: {self.format.kind} is read from topics, not from files")

    @property
    def where(self) -> str:
        """The files that it claims."""
        return "files " + ", ".join(f"`{c}`" for c in self.claims)

    def claims_path(self, path: str) -> bool:
        """Whether a file at `path` (relative to the landing zone, with `/`) is this source's."""
        return claims(self.globs, path)

    @cached_property
    def globs(self) -> tuple[str, ...]:
        """The claims, each folder as the endings that are claimed in it."""
        endings = [e + c for e in self.format.suffixes for c in ("", *self.format.compressions)]
        return tuple(
            glob
            for claim in self.claims
            for glob in ([f"{claim}**/*{e}" for e in endings] if claim.endswith("/") else [claim])
        )

    def arrivals(self, context: SourceContext) -> Arrivals:
        """The files that are complete; each new content gets its place in the order of the source."""
        from medallion_platform.sources.connectors.landing import scan

        found = scan(context.landing, [self], context.at, context.settle_seconds, claimed_only=True)
        left = [f"{path}: {why}; left in place" for path, why in found.left.items()]
        return context.register(self, found.claimed[self.name], left)


def that_land(sources: Iterable[Source]) -> tuple[FileSource, ...]:
    """Those of some sources whose records land as files: a landing zone is looked at for all at once."""
    return tuple(source for source in sources if isinstance(source, FileSource))


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
    state: Literal["new", "new version", "again", "repeated"] = "new"
    first_row: int = 1
    etag: str | None = None


def folders_of(globs: Iterable[str]) -> list[str]:
    """The folders in which all lies that `globs` match, none within another: `a/2026-*/b.csv` -> `a`."""
    found = {
        "/".join(takewhile(lambda folder: not set(folder) & _MARKS, glob.strip("/").split("/")[:-1]))
        for glob in globs
    }
    return sorted(f for f in found if not any(f != other and _is_below(f, other) for other in found))


def _is_below(folder: str, other: str) -> bool:
    return not other or folder.startswith(f"{other}/")


def claims(globs: Iterable[str], path: str) -> bool:
    """Whether one of `globs` matches `path`."""
    return any(_pattern(glob).match(path) for glob in globs)


@lru_cache(maxsize=1024)
def _pattern(glob: str) -> Pattern[str]:
    *folders, name = glob.strip("/").split("/")
    head = "".join("(?:[^/]+/)*" if f == "**" else _segment(f) + "/" for f in folders)
    return compile(rf"(?s:{head}{'.+' if name == '**' else _segment(name)})\Z")


def _segment(text: str) -> str:
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
