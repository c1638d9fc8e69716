"""Read a file, or stored payloads again, into records."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl

from medallion_platform.contracts.codes import Code
from medallion_platform.sources.formats import avro, parquet
from medallion_platform.sources.formats.blocks import BLOCK, TextFile, overlong
from medallion_platform.sources.formats.csv import CsvParser, HeaderError
from medallion_platform.sources.formats.debezium import DebeziumParser
from medallion_platform.sources.formats.jsonlines import JsonLinesParser
from medallion_platform.sources.formats.records import (
    CODE,
    DETAIL,
    FURTHER,
    TOO_LONG,
    Parser,
    ParseResult,
    in_frame,
    undecodable,
)
from medallion_platform.sources.formats.slices import Block, Ints, patched
from medallion_platform.sources.source import (
    Avro,
    Csv,
    Debezium,
    Format,
    JsonLines,
    Parquet,
    UnreadableFile,
)

__all__ = ["UnreadableFile", "header", "read", "reparse"]


def read(
    path: Path | str,
    format: Format,
    first_row: int = 1,
    block: int = BLOCK,
    declared: Collection[str] = (),
) -> Iterator[pl.DataFrame]:
    """The records of a file from `first_row` on, in frames of about `block` bytes of text each.

    Columns: `_row` (Int64, counted from 1, a header is none), `_payload` (the record's exact text),
    `_payload_bytes` (Binary: the record as it came where it does not decode, and `_payload` is
    null; both are where a record is too long, of which `_code` and `_detail` tell),
    `_malformed` (why it does not parse, else null), then one of String per field; for
    Parquet the file's typed columns, and no payload. A frame has the fields that were met in it; where
    these are too many for a frame, all that are `declared`, and what is left in `FURTHER`.

    Raises UnreadableFile; for a compressed file, or one smaller than a block, before any frame.
    """
    path = Path(path)
    if isinstance(format, Parquet):
        for row, frame in parquet.read(path, first_row):
            yield _framed(row, len(frame), ParseResult(frame.to_dict(), {}), None, None)
        return
    if isinstance(format, Avro):
        raise TypeError("Avro is read from topics, not from files")
    text = TextFile(path, format.encoding, block)
    parser = _parser(format, declared)
    row, started = 1, False
    blocks = iter(text)
    rest, ahead, pull = b"", next(blocks, b""), 1
    while ahead or rest:
        data = [ahead, *islice(blocks, pull - 1)]
        ahead = next(blocks, b"")
        final = not ahead
        piece = Block(rest, *data)
        # within a record longer than a block, take more at once
        pull = min(2 * pull, 8)
        start: int | None = 0
        if not started:
            try:
                start = parser.begin(piece, final)
            except HeaderError as error:
                raise UnreadableFile(path, str(error)) from error
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
            yield _records(parser, piece, starts, ends, row - len(starts), text)
        if final:
            return


def header(path: Path | str, format: Format) -> tuple[str, ...] | None:
    """The names of a file's fields in their order, where the file says so before its first record.

    `reparse` wants them for payloads of a CSV file. None for JSON, whose records name their fields.
    """
    path = Path(path)
    if isinstance(format, Parquet):
        return parquet.columns(path)
    if not isinstance(format, Csv):
        return None
    parser, data = CsvParser(format), b""
    blocks = iter(TextFile(path, format.encoding, BLOCK))
    ahead = next(blocks, b"")
    while ahead:
        data, ahead = data + ahead, next(blocks, b"")
        try:
            if parser.begin(Block(data), final=not ahead) is not None:
                return parser.names
        except HeaderError as error:
            raise UnreadableFile(path, str(error)) from error
    return parser.names


def reparse(
    payloads: pl.Series,
    format: Format,
    columns: Sequence[str] | None = None,
    declared: Collection[str] = (),
) -> pl.DataFrame:
    """The same parsing as `read` of payloads that were stored: one row for each.

    Payloads are text (String; of Avro the JSON text), or the bytes of records as they came (Binary), which
    are decoded as the format says. `columns` are the names of a CSV file's fields (`header`). `_row` counts
    the payloads from 1.
    """
    records = payloads.cast(pl.Binary).fill_null(b"").to_list()
    if payloads.dtype == pl.Binary:
        return parse(records, format, columns, declared)
    return _parsed(records, format, columns, None, declared)


def parse(
    records: Sequence[bytes],
    format: Format,
    columns: Sequence[str] | None = None,
    declared: Collection[str] = (),
) -> pl.DataFrame:
    """The same parsing of records as bytes, such as messages: one row for each.

    Raises:
        Unavailable: the registry of an Avro format gives no schema now.
    """
    if isinstance(format, Parquet):
        raise TypeError("Parquet rows have no payload to parse again")
    if isinstance(format, Avro):
        return _parsed_avro(records, format, declared)
    source = TextFile(Path(), format.encoding)
    if source.encoding != "utf-8":
        records = [source.decoded(record) for record in records]
    return _parsed(records, format, columns, source, declared)


def _parsed_avro(records: Sequence[bytes], format: Avro, declared: Collection[str]) -> pl.DataFrame:
    """Records by their JSON text; one that does not decode is kept as its bytes."""
    texts, undecoded = avro.texts(records, format)
    frame = _parsed(texts, format, None, None, declared)
    rows = list(undecoded)
    return frame.with_columns(
        patched(frame["_payload"], rows, [None] * len(rows)),
        patched(frame["_payload_bytes"], rows, [records[row] for row in rows]),
        patched(frame["_malformed"], rows, [f"not valid Avro: {why}" for why in undecoded.values()]),
        *([_texts(dict.fromkeys(rows, Code.UNDECODED.value), len(records)).alias(CODE)] if rows else ()),
    )


def _parsed(
    records: Sequence[bytes],
    format: Format,
    columns: Sequence[str] | None,
    source: TextFile | None,
    declared: Collection[str],
) -> pl.DataFrame:
    if isinstance(format, Csv):
        names = columns if columns is not None else format.columns
        if names is None:
            raise ValueError("payloads of CSV are parsed by the names of their file's fields")
        parser: Parser = CsvParser(format, names)
    else:
        parser = _parser(format, declared)
    lengths = np.fromiter(map(len, records), np.int64, len(records))
    ends = np.cumsum(lengths)
    return _records(parser, Block(*records), ends - lengths, ends, 1, source)


def _parser(format: Format, declared: Collection[str]) -> Parser:
    if isinstance(format, Csv):
        return CsvParser(format)
    if isinstance(format, JsonLines | Avro):
        return JsonLinesParser(declared)
    if isinstance(format, Debezium):
        return DebeziumParser(declared, format.unavailable_value_placeholder)
    raise TypeError(f"{format!r} is not text")


def _records(
    parser: Parser, block: Block, starts: Ints, ends: Ints, row: int, source: TextFile | None
) -> pl.DataFrame:
    """The frame of the records at (starts, ends) of a block."""
    count = len(starts)
    bad = undecodable(block, starts, ends)
    if not bad.any():
        parsed = parser.parse(block, starts, ends)
        return _framed(row, count, parsed, block.texts(starts, ends - starts), None)
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
        if left_out := overlong(record):
            codes[i], malformed[i] = Code.TOO_LONG.value, TOO_LONG
            details[i] = json.dumps(dict(zip(("bytes", "at"), left_out, strict=True)))
            continue
        raw[i] = record if source is None else source.raw(record)
        malformed[i] = f"not valid {'utf-8' if source is None else source.encoding}"
    facts[CODE] = _texts(codes, count)
    facts |= {DETAIL: _texts(details, count)} if details else {}
    parsed = ParseResult(columns, malformed, further, facts)
    return _framed(row, count, parsed, payload, pl.Series(raw, dtype=pl.Binary))


def _framed(
    row: int, count: int, parsed: ParseResult, payload: pl.Series | None, raw: pl.Series | None
) -> pl.DataFrame:
    further = {i: json.dumps(fields, ensure_ascii=False) for i, fields in parsed.further.items()}
    nothing = pl.Series([None], dtype=pl.Binary).new_from_index(0, count)
    return pl.DataFrame(
        {
            "_row": np.arange(row, row + count, dtype=np.int64),
            "_payload": payload if payload is not None else nothing.cast(pl.String),
            "_payload_bytes": raw if raw is not None else nothing,
            "_malformed": _texts(parsed.malformed, count),
            **({FURTHER: _texts(further, count)} if further else {}),
            **parsed.facts,
            **{in_frame(name): column for name, column in parsed.columns.items()},
        }
    )


def _texts(texts: Mapping[int, str], count: int) -> pl.Series:
    """A column with some texts, by their place, and nulls."""
    if not texts:
        return pl.Series([None], dtype=pl.String).new_from_index(0, count)
    return pl.Series([texts.get(i) for i in range(count)], dtype=pl.String)
