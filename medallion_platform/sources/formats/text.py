"""Formats of text: files are read in blocks, and a parser of each kind splits them into records."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl

from medallion_platform.contracts.codes import Code, Damage
from medallion_platform.errors import Kind
from medallion_platform.sources.errors import UnreadableFile
from medallion_platform.sources.formats.blocks import TextFile, overlong_record, refuse_unknown_encoding
from medallion_platform.sources.formats.format import BLOCK, Format
from medallion_platform.sources.formats.records import (
    CODE,
    DETAIL,
    TOO_LONG,
    HeaderError,
    Parser,
    ParseResult,
    is_not_utf8,
    records_frame,
    sparse_text_column,
    unparsed_records,
)
from medallion_platform.sources.formats.slices import Block, Ints

_Piece = tuple[Parser, Block, Ints, Ints, int, TextFile]
"""The parser of a file; a block of it, where records start and end there, the number of the first one; the
file."""


class TextFormat(Format):
    """A text format with one record after the other: a kind adds its options and its `parser`.

    One of the options is `encoding`; another is `quote`, if line ends may occur between quotes.

    Example:
        >>> from medallion_platform import Csv, JsonLines, TextFormat
        >>> issubclass(Csv, TextFormat), issubclass(JsonLines, TextFormat)
        (True, True)
    """

    encoding: str
    quote: str | None = None

    compressions = (".gz", ".bz2", ".xz", ".zst", ".zip")

    def __post_init__(self) -> None:
        refuse_unknown_encoding(type(self).__name__, self.encoding)

    def parser(self, declared: Collection[str] = (), columns: Sequence[str] | None = None) -> Parser:
        """The parser for the records of one file.

        declared: fields that always have a column. columns: the names of the fields, if stored records are
        parsed again.
        """
        raise NotImplementedError

    def read(
        self, path: Path, first_row: int = 1, declared: Collection[str] = (), block: int = BLOCK
    ) -> Iterator[pl.DataFrame]:
        """The records of a file, block by block."""
        for found in self._split(path, first_row, declared, block):
            yield records_of_block(*found)

    def count(self, path: Path, first_row: int = 1) -> int:
        """The number of a file's records from `first_row` on; none is parsed."""
        return sum(len(starts) for _, _, starts, _, _, _ in self._split(path, first_row))

    def read_few(
        self, path: Path, first_row: int, declared: Collection[str], most: int
    ) -> Iterator[pl.DataFrame]:
        """Records from `first_row` on, `most` at the most; the parser sees no byte of the others."""
        for parser, piece, starts, ends, row, text in self._split(path, first_row, declared):
            places = zip(starts[:most].tolist(), ends[:most].tolist(), strict=True)
            records = [piece.get(start, end) for start, end in places]
            yield parsed(records, parser, text, row)
            most -= len(records)
            if not most:
                return

    def unparsed(self, path: Path, row: int) -> pl.DataFrame:
        """One record that ended whatever parsed it, with its original bytes; nobody parses it."""
        parser, piece, starts, ends, _, text = next(self._split(path, row))
        record = piece.get(int(starts[0]), int(ends[0]))
        if overlong_record(record):  # that nobody parses says more
            return records_of_block(parser, piece, starts[:1], ends[:1], row, text)
        return unparsed_records([text.raw(record)], row, text.encoding if text.marked else None)

    def _split(
        self, path: Path, first_row: int, declared: Collection[str] = (), block: int = BLOCK
    ) -> Iterator[_Piece]:
        """The places of a file's records, block by block."""
        text = TextFile(path, self.encoding, block, self.quote)
        parser = self.parser(declared)
        row, started = 1, False
        blocks = iter(text)
        rest, ahead, pull = b"", next(blocks, b""), 1
        while ahead or rest:
            data = [ahead, *islice(blocks, pull - 1)]
            ahead = next(blocks, b"")
            final = not ahead
            piece = Block(rest, *data, returns=text.by_returns)
            # within a record longer than a block, take more at once
            pull = min(2 * pull, 8)
            start: int | None = 0
            if not started:
                try:
                    start = parser.begin(piece, final)
                except HeaderError as error:
                    raise UnreadableFile(path, str(error), Kind.DATA, why=Damage.HEADER) from error
            if start is None:
                rest = piece.get(0, piece.size)
                continue
            started = True
            starts, ends, after = parser.split(piece, start, final)
            rest = piece.get(after, piece.size)
            pull = 1 if len(starts) else pull
            skipped = min(max(first_row - row, 0), len(starts))
            row += len(starts)
            starts, ends = starts[skipped:], ends[skipped:]
            if len(starts):
                if skipped:  # no parser sees what was taken in, or ended one
                    before = int(starts[0])
                    piece = Block(piece.get(before, piece.size), returns=text.by_returns)
                    starts, ends = starts - before, ends - before
                yield parser, piece, starts, ends, row - len(starts), text
            if final:
                return

    def parse(
        self, records: Sequence[bytes], columns: Sequence[str] | None = None, declared: Collection[str] = ()
    ) -> pl.DataFrame:
        """Records in their original form, decoded by the encoding."""
        source = TextFile(Path(), self.encoding)
        if source.encoding != "utf-8":
            records = [source.decoded(record) for record in records]
        return parsed(records, self.parser(declared, columns), source)

    def parse_again(
        self, payloads: pl.Series, columns: Sequence[str] | None = None, declared: Collection[str] = ()
    ) -> pl.DataFrame:
        """Stored text needs no decoding; stored bytes do."""
        if payloads.dtype == pl.Binary:
            return super().parse_again(payloads, columns, declared)
        records = payloads.cast(pl.Binary).fill_null(b"").to_list()
        return parsed(records, self.parser(declared, columns), None)


def parsed(
    records: Sequence[bytes], parser: Parser, source: TextFile | None = None, row: int = 1
) -> pl.DataFrame:
    """Records in UTF-8, one row each, from number `row` on; source: gives their original bytes, if these are
    different."""
    lengths = np.fromiter(map(len, records), np.int64, len(records))
    ends = np.cumsum(lengths)
    return records_of_block(parser, Block(*records), ends - lengths, ends, row, source)


def records_of_block(
    parser: Parser, block: Block, starts: Ints, ends: Ints, row: int, source: TextFile | None
) -> pl.DataFrame:
    """The frame of the records at (starts, ends) of a block."""
    count = len(starts)
    bad = is_not_utf8(block, starts, ends)
    if not bad.any():
        parsed = parser.parse(block, starts, ends)
        return records_frame(row, count, parsed, block.texts(starts, ends - starts), None)
    good = np.flatnonzero(~bad)
    parsed = parser.parse(block, starts[good], ends[good])
    places = np.full(count, -1, np.int64)
    places[good] = np.arange(len(good))
    index = pl.Series(places)
    index = index.set(index < 0, None)
    columns = {name: column.gather(index) for name, column in parsed.columns.items()}
    facts = {name: column.gather(index) for name, column in parsed.facts.items()}
    payload = block.texts(starts[good], (ends - starts)[good]).gather(index)
    raw: list[bytes | None] = [None] * count
    malformed = {int(good[i]): why for i, why in parsed.malformed.items()}
    further = {int(good[i]): fields for i, fields in parsed.further.items()}
    codes, details = dict.fromkeys(np.flatnonzero(bad).tolist(), Code.UNDECODED.value), dict[int, str]()
    for i in codes:
        record = block.get(int(starts[i]), int(ends[i]))
        if left_out := overlong_record(record):
            codes[i], malformed[i] = Code.TOO_LONG.value, TOO_LONG
            details[i] = json.dumps(dict(zip(("bytes", "at"), left_out, strict=True)))
            continue
        if source is not None and source.marked:  # another one than is declared
            details[i] = json.dumps({"encoding": source.encoding})
        raw[i] = record if source is None else source.raw(record)
        malformed[i] = f"not valid {'utf-8' if source is None else source.encoding}"
    facts[CODE] = sparse_text_column(codes, count)
    facts |= {DETAIL: sparse_text_column(details, count)} if details else {}
    parsed = ParseResult(columns, malformed, further, facts)
    return records_frame(row, count, parsed, payload, pl.Series(raw, dtype=pl.Binary))
