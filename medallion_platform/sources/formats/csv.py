"""Delimited text: where records end, and their fields.

The grammar is strict where it matters: a quote opens only at the start of a field, inside it is
doubled, and behind the closing quote comes a delimiter or the end of the record. A quote amid an
unquoted field is text. A record that breaks the grammar (a quote that never closes, or not within
`LONGEST_QUOTED`) is the one line it begins on, so that a stray quote costs that line and not the
rest of the file.

All but the odd records are handled by arithmetic on the places of quotes, delimiters and line ends;
`_record` and `_fields` define the grammar for the few that are left, and give the same answers.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from medallion_platform.contracts.contract import Contract
from medallion_platform.errors import Kind
from medallion_platform.sources.errors import UnreadableFile
from medallion_platform.sources.formats.blocks import TextFile
from medallion_platform.sources.formats.format import other_header
from medallion_platform.sources.formats.records import (
    LONGEST,
    TOO_LONG,
    HeaderError,
    ParseResult,
    lines,
    unrepeated,
)
from medallion_platform.sources.formats.slices import Block, Bools, Ints, patched
from medallion_platform.sources.formats.text import TextFormat

LONGEST_QUOTED = 2**20
"""A quoted field with line ends in it must close within this many bytes of its record's start."""

UNTERMINATED = "unterminated quote"
AFTER_QUOTE = "text after a closing quote"


@dataclass(frozen=True)
class Csv(TextFormat, kind="csv"):
    """Delimited text. An empty field is null.

    Example:
        >>> from medallion_platform import Csv
        >>> Csv(delimiter="|", header=False, columns=("station", "wind")).suffixes
        ('.csv', '.tsv', '.txt')
    """

    delimiter: str = ","
    """The character between two fields; ASCII."""
    header: bool = True
    """Whether the first record names the fields."""
    columns: tuple[str, ...] | None = None
    """Without a header: the names of the fields. With one: the expected columns; fields are matched by the
    header's names, missing ones are null, further ones are passed on."""
    encoding: str = "utf-8"
    """The encoding of the text; a byte order mark in a file takes precedence."""
    quote: str | None = '"'
    """The character around fields with delimiters or line ends, doubled inside; None: there is none."""

    suffixes = (".csv", ".tsv", ".txt")
    needs_header = True

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
        super().__post_init__()

    def contradiction(self, contract: Contract) -> str | None:
        """A column that must not be null, and is not among those of a file without a header."""
        if self.header or not self.columns:
            return None
        missing = [c.name for c in contract.columns if not c.nullable and c.name not in self.columns]
        given = ", ".join(self.columns)
        return f"column {missing[0]!r} must not be null, and Csv gives {given}" if missing else None

    def parser(self, declared: Collection[str] = (), columns: Sequence[str] | None = None) -> CsvParser:
        """A parser of one file; of records without their file, `columns` names the fields."""
        return CsvParser(self, columns)

    def read_header(self, path: Path) -> tuple[str, ...] | None:
        """The names in the first record; without a header, those that stand for them."""
        parser, data = CsvParser(self), b""
        text = TextFile(path, self.encoding, quote=self.quote)
        blocks = iter(text)
        ahead = next(blocks, b"")
        while ahead:
            data, ahead = data + ahead, next(blocks, b"")
            try:
                if parser.begin(Block(data, returns=text.by_returns), final=not ahead) is not None:
                    return parser.names
            except HeaderError as error:
                raise UnreadableFile(path, str(error), Kind.DATA) from error
        return parser.names

    def not_its_header(self, header: Sequence[str], contract: Contract) -> str | None:
        """Why a file with this header is another source's: only where it is a header."""
        return other_header(header, self.delimiter, contract.column_names) if self.header else None

    def parse(
        self, records: Sequence[bytes], columns: Sequence[str] | None = None, declared: Collection[str] = ()
    ) -> pl.DataFrame:
        """Records as they came, by the names of their file's fields."""
        return super().parse(records, self._named(columns), declared)

    def parse_again(
        self, payloads: pl.Series, columns: Sequence[str] | None = None, declared: Collection[str] = ()
    ) -> pl.DataFrame:
        """The same of stored records."""
        return super().parse_again(payloads, self._named(columns), declared)

    def _named(self, columns: Sequence[str] | None) -> Sequence[str]:
        names = columns if columns is not None else self.columns
        if names is None:
            raise ValueError("payloads of CSV are parsed by the names of their file's fields")
        return names


class CsvParser:
    """Finds and takes apart the records of one file. `names` are its fields, once known."""

    def __init__(self, format: Csv, names: Iterable[str] | None = None) -> None:
        self.format = format
        self.delimiter = ord(format.delimiter)
        self.quote = None if format.quote is None else ord(format.quote)
        self.names: tuple[str, ...] | None = None if names is None else tuple(names)
        if self.names is None and not format.header:
            self.names = format.columns
        d = re.escape(format.delimiter.encode())
        if format.quote is None:
            self.field = re.compile(b"([^" + d + rb"]*+)(?:" + d + rb"|(\Z))")
            self.record = re.compile(rb"[^\n]*")
        else:
            q = re.escape(format.quote.encode())
            quoted = q + b"[^" + q + b"]*+(?:" + q + q + b"[^" + q + b"]*+)*+" + q
            bare = b"(?!" + q + b")"
            end = rb"(?=\r?\n|\Z)"
            any_field = b"(?:" + quoted + b"|" + bare + b"[^" + d + rb"\n]*+)"
            self.record = re.compile(any_field + b"(?:" + d + any_field + b")*+" + end)
            self.field = re.compile(b"(" + quoted + b"|" + bare + b"[^" + d + b"]*+)(?:" + d + rb"|(\Z))")

    def begin(self, block: Block, final: bool) -> int | None:
        """Read the header, or the first record where there are no names to tell the width."""
        if self.names is not None and not self.format.header:
            return 0
        starts, ends, after = self.split(block, 0, final)
        if not len(starts):
            return None if not final else block.size
        fields = self._fields(block.get(int(starts[0]), int(ends[0])))
        if isinstance(fields, str):
            if self.format.header:
                raise HeaderError(f"header: {fields}")
            fields = [None]
        if not self.format.header:
            self.names = tuple(f"column_{i + 1}" for i in range(len(fields)))
            return 0
        try:
            self.names = self.named([f.decode() if f else "" for f in fields])
        except UnicodeDecodeError:
            raise HeaderError("header: does not decode") from None
        return int(starts[1]) if len(starts) > 1 else after

    def named(self, header: list[str]) -> tuple[str, ...]:
        """The fields' names: a blank one is numbered, one that was there already as well."""
        names = unrepeated(
            name.strip().replace("\0", "") or f"column_{i}" for i, name in enumerate(header, 1)
        )
        wanted = self.format.columns
        if wanted and not set(wanted) & set(names):
            raise HeaderError("header: none of the declared columns is in it")
        return names

    def split(self, block: Block, start: int, final: bool) -> tuple[Ints, Ints, int]:
        """The whole records from `start` on. Blank lines are none."""
        starts, ends, after = lines(block, start, final)
        if self.quote is not None and len(starts) and block.holds(self.quote):
            quotes = block.find(self.quote)
            clean, _, _ = _clean(block, quotes, starts, ends, self.delimiter, self.quote)
            if not clean.all():
                starts, ends, after = self._merged(block, starts, ends, after, ~clean, final)
        kept = ends > starts
        return (starts, ends, after) if kept.all() else (starts[kept], ends[kept], after)

    def _merged(
        self, block: Block, starts: Ints, ends: Ints, after: int, unclean: Bools, final: bool
    ) -> tuple[Ints, Ints, int]:
        """Lines to records, where some lines are not a record by themselves."""
        is_start = np.ones(len(starts), np.bool_)
        ends = ends.copy()
        view = block.in_lines
        places: list[int] = starts.tolist()
        done = -1
        for line in np.flatnonzero(unclean).tolist():
            if line <= done:
                continue
            begin, stop = places[line], int(ends[line])
            # the window is the same wherever a block ends, so that blocks never change the records
            window = max(begin + LONGEST_QUOTED, stop + 2)
            limit = min(window, block.size)
            match = self.record.match(view, begin, limit)
            if limit < window and not final and (match is None or match.end() >= limit - 1):
                return starts[:line][is_start[:line]], ends[:line][is_start[:line]], begin
            if match is None or match.end() <= stop or match.end() >= min(window, after + 1):
                continue
            last = bisect_right(places, match.end(), lo=line) - 1
            if last == line or self._stray(block, begin, stop, int(ends[last])):
                continue
            is_start[line + 1 : last + 1] = False
            ends[line] = ends[last]
            done = last
        return starts[is_start], ends[is_start], after

    def _stray(self, block: Block, begin: int, stop: int, end: int) -> bool:
        """Whether a record over several lines is more likely a line with a stray quote.

        So it is if it has the wrong number of fields, while its first line has the right one.
        """
        if self.names is None:
            return False
        marks = block.get(begin, stop).count(self.format.delimiter.encode())
        if marks + 1 != len(self.names):
            return False
        return len(self._fields(block.get(begin, end))) != len(self.names)

    def parse(self, block: Block, starts: Ints, ends: Ints) -> ParseResult:
        """The fields of records."""
        names = self.names or ()
        width, count = len(names), len(starts)
        malformed: dict[int, str] = {}
        delimiters = block.find(self.delimiter)
        if count:
            delimiters = delimiters[slice(*np.searchsorted(delimiters, [starts[0], ends[-1]]))]
        doubled = np.zeros(0, np.int64)
        clean = np.ones(count, np.bool_)
        opens = closes = np.zeros(0, np.int64)
        if self.quote is not None and block.holds(self.quote):
            quotes = block.find(self.quote)
            clean, opens, closes = _clean(block, quotes, starts, ends, self.delimiter, self.quote)
        if len(opens):
            if len(delimiters):
                inside = _inside(block, opens, closes, delimiters)
                delimiters = delimiters[~inside] if inside.any() else delimiters
            doubled = closes[:-1][closes[:-1] + 1 == opens[1:]]
        first = np.searchsorted(delimiters, starts)
        found = np.searchsorted(delimiters, ends) - first
        long = ends - starts >= LONGEST
        good = clean & (found == width - 1) & ~long
        for row in np.flatnonzero(clean & ~good & ~long).tolist():
            malformed[row] = _ragged(int(found[row]) + 1, width)
        for row in np.flatnonzero(long).tolist():
            malformed[row] = TOO_LONG
        odd: list[int] = []
        values: list[list[str | None]] = []
        for row in np.flatnonzero(~clean & ~long).tolist():
            fields = self._fields(block.get(int(starts[row]), int(ends[row])))
            if isinstance(fields, str):
                malformed[row] = fields
            elif len(fields) != width:
                malformed[row] = _ragged(len(fields), width)
            else:
                odd.append(row)
                values.append([f.decode() if f else None for f in fields])

        columns: dict[str, pl.Series] = {}
        everything = bool(good.all())
        padded = np.concatenate([delimiters, np.full(width + 1, block.size, np.int64)])
        begin = starts
        for i, name in enumerate(names):
            end = padded[first + i] if i < width - 1 else ends
            a, length = begin, end - begin
            begin = end + 1
            if not everything:
                a, length = np.where(good, a, 0), np.where(good, length, 0)
            if len(opens):
                quoted = (block.bytes[a] == self.quote) & (length > 0)
                a = a + quoted
                length = length - 2 * quoted
            column = block.texts(a, length, length > 0)
            if len(doubled):
                with_pair = np.searchsorted(doubled, a) < np.searchsorted(doubled, a + length - 1)
                rows = np.flatnonzero(with_pair & (length > 0))
                if len(rows):
                    mark = self.format.quote or ""
                    fixed = column.gather(rows).str.replace_all(mark * 2, mark, literal=True)
                    places = np.arange(count, dtype=np.int64)
                    places[rows] = np.arange(count, count + len(rows))
                    column = pl.concat([column, fixed]).gather(places)
            columns[name] = patched(column, odd, [v[i] for v in values])
        for name in self.format.columns or ():
            if name not in columns:
                columns[name] = pl.Series(name, [None], pl.String).new_from_index(0, count)
        return ParseResult(columns, malformed)

    def _fields(self, record: bytes) -> list[bytes | None] | str:
        """The fields of one record, or why it is malformed. An empty field is None."""
        if self.quote is None:
            return [f or None for f in record.split(self.format.delimiter.encode())]
        mark = bytes([self.quote])
        fields: list[bytes | None] = []
        place = 0
        while match := self.field.match(record, place):
            value = match[1]
            if value.startswith(mark):
                value = value[1:-1].replace(mark * 2, mark)
            fields.append(value or None)
            if match[2] is not None:
                return fields
            place = match.end()
        rest = record[place + 1 :].replace(mark * 2, b"")
        return AFTER_QUOTE if mark in rest else UNTERMINATED


def _ragged(found: int, expected: int) -> str:
    return f"ragged: {found} fields, {expected} expected"


def _clean(
    block: Block, quotes: Ints, starts: Ints, ends: Ints, delimiter: int, quote: int
) -> tuple[Bools, Ints, Ints]:
    """Which stretches keep the grammar by themselves, and the quotes of these that open and close.

    In such a stretch every quote opens or closes in turn: one that opens stands at the start of a
    field or right behind one that closed (a doubled quote), one that closes at the end of a field
    or before another.
    """
    first, last = np.searchsorted(quotes, starts), np.searchsorted(quotes, ends)
    clean = ((last - first) & 1) == 0
    used = _within(quotes, first, last, clean)
    opens, closes = used[0::2], used[1::2]
    beside = np.zeros(256, np.bool_)
    beside[[delimiter, quote]] = True
    # what does not stand beside a delimiter or quote may stand at the edge of the stretch
    opened = opens[~beside[block.bytes[opens - 1]]]
    row = np.searchsorted(starts, opened, side="right") - 1
    wrong = row[starts[row] != opened]
    closed = closes[~beside[block.bytes[closes + 1]]]
    row = np.searchsorted(starts, closed, side="right") - 1
    wrong = np.concatenate([wrong, row[ends[row] != closed + 1]])
    if len(wrong):
        clean[wrong] = False
        used = _within(quotes, first, last, clean)
        opens, closes = used[0::2], used[1::2]
    return clean, opens, closes


def _inside(block: Block, opens: Ints, closes: Ints, places: Ints) -> Bools:
    """Which of `places`, all of delimiters, are between quotes."""
    if len(places) <= len(closes):
        behind = closes[block.bytes[closes + 1] == block.bytes[places[0]]] + 1
        if len(behind) == len(places) and (behind == places).all():
            return np.zeros(len(places), np.bool_)
    if len(opens) * 64 < block.size:
        return np.searchsorted(opens, places) > np.searchsorted(closes, places)
    turns = np.zeros(block.size, np.uint8)
    turns[opens] = 1
    turns[closes] = 255
    return np.cumsum(turns, dtype=np.uint8)[places] == 1


def _within(quotes: Ints, first: Ints, last: Ints, clean: Bools) -> Ints:
    """Those of `quotes` that are in stretches that are clean."""
    first, last = first[clean], last[clean]
    if len(first) and (first[1:] == last[:-1]).all():
        return quotes[first[0] : last[-1]]
    edges = np.zeros(len(quotes) + 1, np.int64)
    np.add.at(edges, first, 1)
    np.add.at(edges, last, -1)
    return quotes[np.cumsum(edges[:-1]) > 0]
