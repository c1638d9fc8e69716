"""What the readers of all text formats share: the records found in a block of text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import polars as pl

from medallion_platform.contracts.codes import Code
from medallion_platform.sources.formats.slices import Block, Bools, Ints

LONGEST = 64 * 2**20
"""Bytes from which on a line is one malformed record without a payload, to bound memory."""

TOO_LONG = "longer than 64 MiB"

FATAL = "ended every process that read it"


FURTHER = "_further"
"""The column of a frame that holds fields beyond those that have a column there: a JSON object of texts.

There are few such frames: of records that name thousands of fields, or each others.
"""

CODE, DETAIL = "_code", "_detail"
"""Columns of a frame that has records of which more is to be told than that they are malformed: the `Code`,
and a JSON object of what it says. Null for all others."""

OURS = frozenset(
    {
        *("_row", "_payload", "_payload_bytes", "_malformed", "_violations", "_broken"),
        *(CODE, DETAIL, FURTHER),
        *("_source", "_file", "_offset", "_ingested_at"),
        *("_op", "_sequence", "_changed_at", "_snapshot"),
        *("_key", "_headers", "_timestamp"),
    }
)
"""The columns of frames that are no fields of a record, whatever its format."""


def frame_column(field: str) -> str:
    """The column of a frame for a field: its name, with another `_` if the platform uses this name."""
    return f"{field}_" if field.rstrip("_") in OURS else field


def field_of_column(column: str) -> str:
    """The field of a column that is not the platform's own: the reverse of `frame_column`."""
    return column[:-1] if column.rstrip("_") in OURS else column


def make_names_unique(names: Iterable[str]) -> tuple[str, ...]:
    """The names of a file's fields, made unique: `v`, `v` -> `v`, `v (2)`.

    No contract declares such a name, so a repeated field never replaces a declared one.
    """
    given = list(names)
    unique: dict[str, None] = {}
    for name in given:
        one, n = name, 1
        while one in unique or (n > 1 and one in given):
            n += 1
            one = f"{name} ({n})"
        unique[one] = None
    return tuple(unique)


@dataclass
class ParseResult:
    """Parsed records: one text column for each field, and the reasons why some records are malformed.

    further: fields of some records without a column. facts: the platform's own columns that the format fills.

    Example:
        >>> import polars as pl
        >>> from medallion_platform import ParseResult
        >>> wind = pl.Series("wind", ["3.2", None])
        >>> ParseResult({"wind": wind}, malformed={1: "a field without a label"}).malformed
        {1: 'a field without a label'}
    """

    columns: dict[str, pl.Series]
    malformed: dict[int, str]
    further: Mapping[int, Mapping[str, str | None]] = field(default_factory=dict)
    facts: Mapping[str, pl.Series] = field(default_factory=dict)


class HeaderError(ValueError):
    """The text before the first record of a file is not a valid header."""


class Parser(Protocol):
    """Finds and parses the records of one format."""

    def begin(self, block: Block, final: bool) -> int | None:
        """Read the text before the first record; returns where the record starts, or None if it is cut short.

        Raises:
            HeaderError: it is not what this format has there.
        """
        ...

    def split(self, block: Block, start: int, final: bool) -> tuple[Ints, Ints, int]:
        """The complete records from `start` on, and the start of the next one."""
        ...

    def parse(self, block: Block, starts: Ints, ends: Ints) -> ParseResult:
        """Parse records. All are valid UTF-8."""
        ...


class LineParser:
    """A parser for formats in which each line is a record and there is no header.

    Example:
        >>> from medallion_platform import LineParser
        >>> class Words(LineParser):
        ...     def parse(self, block, starts, ends):
        ...         "Gives a `ParseResult` of the lines that stand at (starts, ends) of the block."
    """

    def begin(self, block: Block, final: bool) -> int | None:
        """There is nothing before the first record."""
        return 0

    def split(self, block: Block, start: int, final: bool) -> tuple[Ints, Ints, int]:
        """The complete lines from `start` on that are not blank."""
        starts, ends, after = split_lines(block, start, final)
        not_blank = ends > starts
        # a line that begins with space is looked at closely
        for i in np.flatnonzero(not_blank & (block.bytes[starts] <= 32)).tolist():
            not_blank[i] = bool(block.get(int(starts[i]), int(ends[i])).strip(b" \t\r\n"))
        return (starts, ends, after) if not_blank.all() else (starts[not_blank], ends[not_blank], after)


def split_lines(block: Block, start: int, final: bool) -> tuple[Ints, Ints, int]:
    """The lines from `start` on without their line ends, and the start of the next one."""
    stops = block.line_ends()
    if start:
        stops = stops[np.searchsorted(stops, start) :]
    count = len(stops)
    after = int(stops[-1]) + 1 if count else start
    starts = np.concatenate([[start], stops[:-1] + 1])[:count].astype(np.int64)
    ends = stops
    rest = block.size - after
    if rest and final:
        starts, ends = np.append(starts, after), np.append(ends, block.size)
        after = block.size
    ends = ends - ((ends > starts) & (block.bytes[np.maximum(ends - 1, 0)] == 13))
    return starts, ends, after


def is_not_utf8(block: Block, starts: Ints, ends: Ints) -> Bools:
    """Which records are not valid UTF-8."""
    bad = np.zeros(len(starts), np.bool_)
    if block.is_utf8():
        return bad
    beyond = np.flatnonzero(block.bytes[: block.size] >= 0x80)
    suspects = np.searchsorted(beyond, starts) < np.searchsorted(beyond, ends)
    for row in np.flatnonzero(suspects).tolist():
        try:
            block.get(int(starts[row]), int(ends[row])).decode()
        except UnicodeDecodeError:
            bad[row] = True
    return bad


def records_frame(
    row: int, count: int, parsed: ParseResult, payload: pl.Series | None = None, raw: pl.Series | None = None
) -> pl.DataFrame:
    """A frame of `count` records from number `row` on; payload: their texts. raw: bytes that are no text."""
    further = {i: json.dumps(fields, ensure_ascii=False) for i, fields in parsed.further.items()}
    nothing = pl.Series([None], dtype=pl.Binary).new_from_index(0, count)
    return pl.DataFrame(
        {
            "_row": np.arange(row, row + count, dtype=np.int64),
            "_payload": payload if payload is not None else nothing.cast(pl.String),
            "_payload_bytes": raw if raw is not None else nothing,
            "_malformed": sparse_text_column(parsed.malformed, count),
            **({FURTHER: sparse_text_column(further, count)} if further else {}),
            **parsed.facts,
            **{frame_column(name): column for name, column in parsed.columns.items()},
        }
    )


def unparsed_records(records: Sequence[bytes], row: int = 1, encoding: str | None = None) -> pl.DataFrame:
    """Records that ended whatever parsed them, from number `row` on, with their original bytes alone.

    encoding: of these, where it is another one than is declared.
    """
    count = len(records)
    facts = {CODE: pl.Series([Code.POISON.value], dtype=pl.String).new_from_index(0, count)}
    if encoding:
        told = json.dumps({"encoding": encoding})
        facts[DETAIL] = pl.Series([told], dtype=pl.String).new_from_index(0, count)
    malformed = dict.fromkeys(range(count), FATAL)
    return records_frame(
        row, count, ParseResult({}, malformed, facts=facts), raw=pl.Series(records, dtype=pl.Binary)
    )


def sparse_text_column(texts: Mapping[int, str], count: int) -> pl.Series:
    """A text column with some texts, given by index, and nulls elsewhere."""
    if not texts:
        return pl.Series([None], dtype=pl.String).new_from_index(0, count)
    return pl.Series([texts.get(i) for i in range(count)], dtype=pl.String)
