"""The declaration of a source, and the arithmetic of its positions. Pure: opens no file."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from errno import EINVAL
from functools import lru_cache
from itertools import takewhile
from re import Pattern, compile
from typing import TYPE_CHECKING, Any, Literal, TypeGuard
from urllib.parse import urlsplit

from medallion_platform.contracts.contract import EVENT_DATE, Contract

if TYPE_CHECKING:
    from medallion_platform.sources.http import Token

_MARKS = frozenset("*?[")
ROWS_PER_FILE = 2**32
"""The positions a file version spans: a record's offset is `sequence * ROWS_PER_FILE + row`."""


class UnreadableFile(Exception):
    """A file cannot be read at all (torn, corrupt, not what it was declared to be)."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableFile], tuple[str, str]]:
        return (type(self), (self.path, self.reason))


class LostFile(UnreadableFile):
    """A file cannot be opened, or is not what it was: nothing is wrong with the content, which may
    be seen again."""


def is_lost(error: BaseException) -> TypeGuard[OSError]:
    """Whether the file system failed, and not the content (which makes a seek fail, if damaged)."""
    return isinstance(error, OSError) and error.errno not in (None, EINVAL)


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
class Csv:
    """Delimited text.

    `columns` names the fields where there is no header; where there is one, it is the columns that
    are expected: fields go by the header's names, a missing one is null, one more flows through.
    `quote=None` means that no character quotes. An empty field is null.
    """

    delimiter: str = ","
    header: bool = True
    columns: tuple[str, ...] | None = None
    encoding: str = "utf-8"
    quote: str | None = '"'

    def __post_init__(self) -> None:
        for what, mark in (("delimiter", self.delimiter), ("quote", self.quote)):
            if mark is not None and (len(mark) != 1 or not mark.isascii() or mark in "\r\n\0"):
                raise ValueError(f"Csv {what} {mark!r} is not one ASCII character")
        if self.delimiter == self.quote:
            raise ValueError(f"Csv delimiter and quote are both {self.quote!r}")
        if self.columns is not None:
            object.__setattr__(self, "columns", tuple(self.columns))
            if not self.columns or len(set(self.columns)) != len(self.columns):
                raise ValueError(f"Csv columns {self.columns!r} are empty or not unique")
        _known_encoding("Csv", self.encoding)


@dataclass(frozen=True)
class JsonLines:
    """One JSON object a line. Every field becomes a column of text, nested ones as JSON."""

    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        _known_encoding("JsonLines", self.encoding)


@dataclass(frozen=True)
class Parquet:
    """Parquet: columns keep their types, and are the payload."""


@dataclass(frozen=True)
class Debezium:
    """Debezium change events, one JSON envelope a line, with or without its schema.

    `key` names the columns that identify a row of the captured table. `unavailable_value_placeholder` is
    the connector's property of that name: what stands for a value that an update left alone.
    """

    key: tuple[str, ...] = ("id",)
    encoding: str = "utf-8"
    unavailable_value_placeholder: str = "__debezium_unavailable_value"

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", tuple(self.key))
        _known_encoding("Debezium", self.encoding)


@dataclass(frozen=True)
class Avro:
    """Messages in Avro, whose schemas a registry keeps; a record is what it would be as JSON.

    registry: the URL below which `/schemas/ids/1` is the first schema. credentials: what it asks for.
    """

    registry: str
    credentials: Token | None = None

    def __post_init__(self) -> None:
        from medallion_platform.sources.http import refuse_unsafe, shown

        url = urlsplit(self.registry)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"Avro registry {shown(self.registry)!r} is no URL of http or https")
        if shown(self.registry) != self.registry:
            raise ValueError(
                f"Avro registry {shown(self.registry)!r}: user, password and query are not part of its URL; "
                "name their variable of the environment, as credentials=EnvironmentUser(...)"
            )
        if self.credentials:
            refuse_unsafe(self.registry)
        object.__setattr__(self, "registry", self.registry.rstrip("/"))


Format = Csv | JsonLines | Parquet | Debezium | Avro


@dataclass(frozen=True)
class Source:
    """Records of one kind that become one bronze table, wherever they come from."""

    name: str
    table: str
    contract: Contract
    format: Format
    domain: str
    drop_repeated_text: bool = False
    """For rows without a key: a record with the very text of one taken in before is a duplicate."""
    first_day: date = date(2021, 1, 1)
    """Where the table is partitioned by event date: its first day. Earlier rows are dead letters."""

    def __post_init__(self) -> None:
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        """What is said of the format and has no meaning for the contract.

        Raises:
            ValueError: says which source, which column, and why.
        """
        declared = self.contract.by_name
        told, known = f"source {self.name!r}", f"{self.contract.name} knows {', '.join(declared)}"
        if isinstance(self.format, Debezium):
            if not self.format.key:
                raise ValueError(f"{told}: Debezium names no key: no change could be told from another row's")
            if missing := [c for c in self.format.key if c not in declared]:
                raise ValueError(f"{told}: Debezium's key {missing[0]!r} is in no contract: {known}")
        if isinstance(self.format, Csv) and self.format.columns and not self.format.header:
            given = self.format.columns
            if missing := [c.name for c in declared.values() if not c.nullable and c.name not in given]:
                given = ", ".join(given)
                raise ValueError(f"{told}: column {missing[0]!r} must not be null, and Csv gives {given}")
        if self.drop_repeated_text and self.contract.key:
            raise ValueError(
                f"{told}: drop_repeated_text is for rows without a key, and {self.contract.name} has the key "
                f"{', '.join(self.contract.key)}"
            )

    @property
    def partition(self) -> str | None:
        """The column of the day that a row belongs to, where the table is partitioned by it."""
        return EVENT_DATE if EVENT_DATE in self.contract.partitioned_by else None

    @property
    def where(self) -> str:
        """Where the records come from, for people."""
        return self.name

    @property
    def repeats(self) -> bool:
        """Whether it gives a record again, at the same place, after it was taken in."""
        return False

    def recovered(self, positions: Mapping[str, int]) -> Mapping[str, int]:
        """What the table is told where its positions were lost; positions: by its rows, the next offset."""
        return positions

    def provenance(self) -> Mapping[str, Any]:
        """Further columns that say where a record came from, with their Polars types."""
        return {}


@dataclass(frozen=True)
class FileSource(Source):
    """Files of one kind that land together and become one bronze table.

    `claims` are globs relative to the landing zone: `*` and `?` stay within a folder, `**` spans
    folders.

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

    def __post_init__(self) -> None:
        self._refuse_contradictions()
        object.__setattr__(self, "claims", tuple(self.claims))
        if not self.claims:
            raise ValueError(f"source {self.name!r} claims no file")
        if isinstance(self.format, Avro):
            raise ValueError(f"source {self.name!r}: Avro is read from topics, not from files")

    @property
    def where(self) -> str:
        """The files that it claims."""
        return "files " + ", ".join(f"`{c}`" for c in self.claims)

    def claims_path(self, path: str) -> bool:
        """Whether a file at `path` (relative to the landing zone, with `/`) is this source's."""
        return claims(self.claims, path)


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


def _known_encoding(what: str, encoding: str) -> None:
    try:
        info = codecs.lookup(encoding)
    except (LookupError, ValueError) as error:
        raise ValueError(f"{what}: no such encoding: {encoding!r}") from error
    if not getattr(info, "_is_text_encoding", True):
        raise ValueError(f"{what}: {encoding!r} is not a text encoding")
