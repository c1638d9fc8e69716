"""Delimited text: where records end, and their fields.

The grammar is strict where it matters: a quote opens only at the start of a field, it is doubled inside, and
after the closing quote comes a delimiter or the end of the record. A quote within an unquoted field is text.
If a record breaks the grammar (a quote that never closes, or not within `LONGEST_QUOTED`), only the line on
which it begins is malformed: a stray quote costs one line and not the rest of the file.

Almost all records are found by arithmetic on the places of quotes, delimiters and line ends. The few others
are left to `_merge_lines` and `_split_fields`, which define the grammar and give the same results.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from medallion_platform.contracts import options
from medallion_platform.contracts.codes import Damage
from medallion_platform.contracts.contract import Contract
from medallion_platform.errors import DeclarationError, Kind
from medallion_platform.sources.errors import UnreadableFile
from medallion_platform.sources.formats.blocks import TextFile
from medallion_platform.sources.formats.format import other_header_reason
from medallion_platform.sources.formats.records import (
    LONGEST,
    TOO_LONG,
    HeaderError,
    ParseResult,
    make_names_unique,
    split_lines,
)
from medallion_platform.sources.formats.slices import Block, Bools, Ints, replace_values
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
                raise DeclarationError(f"Csv {what} {mark!r} is not one ASCII character")
        options.flag("Csv header", self.header)
        options.text("Csv encoding", self.encoding)
        if self.delimiter == self.quote:
            raise DeclarationError(f"Csv delimiter and quote are both {self.quote!r}")
        if self.columns is not None:
            object.__setattr__(self, "columns", options.texts("Csv columns", self.columns))
            if not self.columns:
                raise DeclarationError("Csv columns name no field: leave the option out")
        super().__post_init__()

    def contradiction(self, contract: Contract) -> str | None:
        """Why the columns of a file without a header contradict the contract: a required one is missing."""
        if self.header or not self.columns:
            return None
        missing = [c.name for c in contract.columns if not c.nullable and c.name not in self.columns]
        given = ", ".join(self.columns)
        return f"column {missing[0]!r} must not be null, and Csv gives {given}" if missing else None

    def parser(self, declared: Collection[str] = (), columns: Sequence[str] | None = None) -> CsvParser:
        """A parser of one file; for records without their file, `columns` has the names of the fields."""
        return CsvParser(self, columns)

    def read_header(self, path: Path) -> tuple[str, ...] | None:
        """The names in the first record; without a header, the declared ones."""
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
                raise UnreadableFile(path, str(error), Kind.DATA, why=Damage.HEADER) from error
        return parser.names

    def not_its_header(self, header: Sequence[str], contract: Contract) -> str | None:
        """Why a file with this header belongs to another source; None for files without a header."""
        return other_header_reason(header, self.delimiter, contract.column_names) if self.header else None

    def parse(
        self, records: Sequence[bytes], columns: Sequence[str] | None = None, declared: Collection[str] = ()
    ) -> pl.DataFrame:
        """Records in their original form; columns: the names of their file's fields."""
        return super().parse(records, self._named(columns), declared)

    def parse_again(
        self, payloads: pl.Series, columns: Sequence[str] | None = None, declared: Collection[str] = ()
    ) -> pl.DataFrame:
        """The same for stored records."""
        return super().parse_again(payloads, self._named(columns), declared)

    def _named(self, columns: Sequence[str] | None) -> Sequence[str]:
        names = columns if columns is not None else self.columns
        if names is None:
            raise ValueError("payloads of CSV are parsed by the names of their file's fields")
        return names


@dataclass(frozen=True)
class _Marks:
    """Where the marks of a block's records are.

    clean: which records are valid by themselves; the others are split one by one. delimiters: those between
    fields. opens: opening quotes. doubled: the first quote of each pair that stands for one.
    """

    clean: Bools
    delimiters: Ints
    opens: Ints
    doubled: Ints


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
        """Read the header, or without names the first record, for the number of fields."""
        if self.names is not None and not self.format.header:
            return 0
        starts, ends, after = self.split(block, 0, final)
        if not len(starts):
            return None if not final else block.size
        fields = self._split_fields(block.get(int(starts[0]), int(ends[0])))
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
        """The names of the fields; blank and repeated names get a number."""
        names = make_names_unique(
            name.strip().replace("\0", "") or f"column_{i}" for i, name in enumerate(header, 1)
        )
        wanted = self.format.columns
        if wanted and not set(wanted) & set(names):
            raise HeaderError("header: none of the declared columns is in it")
        return names

    def split(self, block: Block, start: int, final: bool) -> tuple[Ints, Ints, int]:
        """The complete records from `start` on; blank lines are skipped."""
        starts, ends, after = split_lines(block, start, final)
        if self.quote is not None and len(starts) and block.holds(self.quote):
            quotes = block.find(self.quote)
            clean, _, _ = _find_clean_stretches(block, quotes, starts, ends, self.delimiter, self.quote)
            if not clean.all():
                starts, ends, after = self._merge_lines(block, starts, ends, after, ~clean, final)
        not_blank = ends > starts
        return (starts, ends, after) if not_blank.all() else (starts[not_blank], ends[not_blank], after)

    def _merge_lines(
        self, block: Block, starts: Ints, ends: Ints, after: int, unclean: Bools, final: bool
    ) -> tuple[Ints, Ints, int]:
        """Join lines to records, if some lines are not a complete record."""
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
            if last == line or self._has_stray_quote(block, begin, stop, int(ends[last])):
                continue
            is_start[line + 1 : last + 1] = False
            ends[line] = ends[last]
            done = last
        return starts[is_start], ends[is_start], after

    def _has_stray_quote(self, block: Block, begin: int, stop: int, end: int) -> bool:
        """Whether a record over several lines is more likely a line with a stray quote.

        This is the case if it has the wrong number of fields, but its first line has the right number.
        """
        if self.names is None:
            return False
        marks = block.get(begin, stop).count(self.format.delimiter.encode())
        if marks + 1 != len(self.names):
            return False
        return len(self._split_fields(block.get(begin, end))) != len(self.names)

    def parse(self, block: Block, starts: Ints, ends: Ints) -> ParseResult:
        """The fields of records."""
        names, count = self.names or (), len(starts)
        marks = self._find_marks(block, starts, ends)
        first = np.searchsorted(marks.delimiters, starts)
        found = np.searchsorted(marks.delimiters, ends) - first
        long = ends - starts >= LONGEST
        good = marks.clean & (found == len(names) - 1) & ~long
        malformed: dict[int, str] = {}
        for row in np.flatnonzero(marks.clean & ~good & ~long).tolist():
            malformed[row] = _wrong_field_count(int(found[row]) + 1, len(names))
        for row in np.flatnonzero(long).tolist():
            malformed[row] = TOO_LONG
        odd: dict[int, list[str | None]] = {}
        for row in np.flatnonzero(~marks.clean & ~long).tolist():
            fields = self._split_fields(block.get(int(starts[row]), int(ends[row])))
            if isinstance(fields, str):
                malformed[row] = fields
            elif len(fields) != len(names):
                malformed[row] = _wrong_field_count(len(fields), len(names))
            else:
                odd[row] = [f.decode() if f else None for f in fields]
        columns: dict[str, pl.Series] = {}
        unread = None if good.all() else ~good
        slices = _field_slices(block, starts, ends, marks.delimiters, first, len(names))
        for i, (name, (begins, lengths)) in enumerate(zip(names, slices, strict=True)):
            column = self._fields(block, marks, unread, begins, lengths)
            columns[name] = replace_values(column, list(odd), [fields[i] for fields in odd.values()])
        for name in self.format.columns or ():
            if name not in columns:
                columns[name] = pl.Series(name, [None], pl.String).new_from_index(0, count)
        return ParseResult(columns, malformed)

    def _find_marks(self, block: Block, starts: Ints, ends: Ints) -> _Marks:
        """The marks of records."""
        delimiters, none = block.find(self.delimiter), np.zeros(0, np.int64)
        if len(starts):
            delimiters = delimiters[slice(*np.searchsorted(delimiters, [starts[0], ends[-1]]))]
        if self.quote is None or not block.holds(self.quote):
            return _Marks(np.ones(len(starts), np.bool_), delimiters, none, none)
        quotes = block.find(self.quote)
        clean, opens, closes = _find_clean_stretches(block, quotes, starts, ends, self.delimiter, self.quote)
        if not len(opens):
            return _Marks(clean, delimiters, none, none)
        if len(delimiters):
            inside = _is_between_quotes(block, opens, closes, delimiters)
            delimiters = delimiters[~inside] if inside.any() else delimiters
        return _Marks(clean, delimiters, opens, closes[:-1][closes[:-1] + 1 == opens[1:]])

    def _fields(
        self, block: Block, marks: _Marks, unread: Bools | None, begins: Ints, lengths: Ints
    ) -> pl.Series:
        """The fields of one column, without their quotes; null of unread records (None: there are none)."""
        if unread is not None:
            begins, lengths = np.where(unread, 0, begins), np.where(unread, 0, lengths)
        if len(marks.opens):
            quoted = (block.bytes[begins] == self.quote) & (lengths > 0)
            begins = begins + quoted
            lengths = lengths - 2 * quoted
        column = block.texts(begins, lengths, lengths > 0)
        doubled = marks.doubled
        if not len(doubled):
            return column
        with_pair = np.searchsorted(doubled, begins) < np.searchsorted(doubled, begins + lengths - 1)
        rows = np.flatnonzero(with_pair & (lengths > 0))
        if not len(rows):
            return column
        mark = self.format.quote or ""
        return replace_values(column, rows, column.gather(rows).str.replace_all(mark * 2, mark, literal=True))

    def _split_fields(self, record: bytes) -> list[bytes | None] | str:
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


def _field_slices(
    block: Block, starts: Ints, ends: Ints, delimiters: Ints, first: Ints, width: int
) -> Iterator[tuple[Ints, Ints]]:
    """Where the fields of each column begin, and their lengths.

    first: of each record the number of its first delimiter. Of a record of another width they mean nothing.
    """
    padded = np.concatenate([delimiters, np.full(width + 1, block.size, np.int64)])
    begins = starts
    for i in range(width):
        stops = padded[first + i] if i < width - 1 else ends
        yield begins, stops - begins
        begins = stops + 1


def _wrong_field_count(found: int, expected: int) -> str:
    return f"ragged: {found} fields, {expected} expected"


def _find_clean_stretches(
    block: Block, quotes: Ints, starts: Ints, ends: Ints, delimiter: int, quote: int
) -> tuple[Bools, Ints, Ints]:
    """Which stretches are valid by themselves, and their opening and closing quotes.

    In such a stretch quotes open and close in turn: an opening quote is at the start of a field or directly
    after a closing one (a doubled quote), a closing quote is at the end of a field or before another quote.
    """
    first, last = np.searchsorted(quotes, starts), np.searchsorted(quotes, ends)
    clean = ((last - first) & 1) == 0
    used = _quotes_in_clean_stretches(quotes, first, last, clean)
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
        used = _quotes_in_clean_stretches(quotes, first, last, clean)
        opens, closes = used[0::2], used[1::2]
    return clean, opens, closes


def _is_between_quotes(block: Block, opens: Ints, closes: Ints, places: Ints) -> Bools:
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


def _quotes_in_clean_stretches(quotes: Ints, first: Ints, last: Ints, clean: Bools) -> Ints:
    """The `quotes` in stretches that are clean."""
    first, last = first[clean], last[clean]
    if len(first) and (first[1:] == last[:-1]).all():
        return quotes[first[0] : last[-1]]
    edges = np.zeros(len(quotes) + 1, np.int64)
    np.add.at(edges, first, 1)
    np.add.at(edges, last, -1)
    return quotes[np.cumsum(edges[:-1]) > 0]
