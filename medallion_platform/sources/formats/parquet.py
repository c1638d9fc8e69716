"""Parquet: columns keep their types, row groups are read in pieces of bounded size."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medallion_platform import pieces
from medallion_platform.sources.errors import LostFile, UnreadableFile, is_lost
from medallion_platform.sources.formats.format import BLOCK, Format
from medallion_platform.sources.formats.jsonlines import JsonLines
from medallion_platform.sources.formats.records import OURS, ParseResult, field_of, framed, unrepeated
from medallion_platform.sources.formats.typed import payloads, text

_EPOCH = date(1970, 1, 1)
_FIRST_DAY, _LAST_DAY = (date.min - _EPOCH).days, (date.max - _EPOCH).days


@dataclass(frozen=True)
class Parquet(Format, kind="parquet"):
    """Parquet: columns keep their types, and are the payload.

    Example:
        >>> from medallion_platform import Parquet
        >>> Parquet().suffixes
        ('.parquet',)
    """

    suffixes = (".parquet",)

    def read(
        self, path: Path, first_row: int = 1, declared: Collection[str] = (), block: int = BLOCK
    ) -> Iterator[pl.DataFrame]:
        """The rows of a file, in pieces of bounded size; no payload."""
        for row, frame in read(path, first_row):
            yield framed(row, len(frame), ParseResult(frame.to_dict(), {}))

    def read_header(self, path: Path) -> tuple[str, ...]:
        """The names of the file's columns."""
        return columns(path)

    def payloads(self, rows: pl.DataFrame) -> pl.Series:
        """Each row as JSON."""
        fields = {field_of(c.name): c for c in rows if c.name not in OURS}
        return payloads(pl.DataFrame(fields)).cast(pl.Binary)

    @property
    def stored(self) -> JsonLines:
        """JSON, as rows are kept."""
        return JsonLines()


def read(path: Path, first_row: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """Frames of the file from `first_row` on, each with the number of its first row."""
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            repeated = pieces.repeated(file)
        # INT96 counts nanoseconds since noon of a day, which in 64 bits reach from 1677 to 2262 only.
        with pq.ParquetFile(
            path, memory_map=False, coerce_int96_timestamp_unit="us", read_dictionary=repeated
        ) as file:
            row = 1
            names = unrepeated(file.schema_arrow.names)
            far = _counted_in_days(file)
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if row + rows <= first_row:
                    row += rows
                    continue
                skipped = place = max(first_row - row, 0)
                row += skipped
                seconds = _seconds(path, group, far)
                for piece in pieces.of_group(file, group, skipped):
                    told = {i: column.slice(place, len(piece)) for i, column in seconds.items()}
                    yield row, _frame(piece, names, told)
                    row += len(piece)
                    place += len(piece)
    except UnreadableFile:
        raise
    except (
        *(pa.ArrowException, OSError, ValueError),
        *(pl.exceptions.PolarsError, pl.exceptions.PanicException),
    ) as error:
        raise _unreadable(path, error) from error


def _counted_in_days(file: pq.ParquetFile) -> list[int]:
    """The columns of INT96, which counts days, too: it reaches further than microseconds do."""
    kinds = {column.path: column.physical_type for column in map(file.schema.column, range(len(file.schema)))}
    return [i for i, name in enumerate(file.schema_arrow.names) if kinds.get(name) == "INT96"]


def _seconds(path: Path, group: int, far: list[int]) -> dict[int, pa.ChunkedArray]:
    """The same instants of a row group in seconds, by the column's number."""
    if not far:
        return {}
    with pq.ParquetFile(path, memory_map=False, coerce_int96_timestamp_unit="s") as file:
        read = file.read_row_group(group, columns=[file.schema_arrow.names[i] for i in far])
    return dict(zip(far, read.columns, strict=True))


def _told(instants: pa.Array, seconds: pa.ChunkedArray) -> pa.Array:
    """The instants; where one is further than microseconds reach, all as text."""
    count, told = (pl.Series(c.cast(pa.int64())) for c in (instants, seconds))
    reached = (count // 1_000_000).eq_missing(told)
    if reached.all():
        return instants
    near = text(pl.Series("v", instants))
    return near.set(~reached, None).fill_null(told.cast(pl.String) + " s since 1970-01-01").to_arrow()


def _frame(
    batch: pa.RecordBatch, names: Sequence[str], seconds: Mapping[int, pa.ChunkedArray]
) -> pl.DataFrame:
    """The rows; as text what no type of ours holds."""
    columns = [
        _told(column, seconds[i]) if i in seconds else _written_out(column)
        for i, column in enumerate(batch.columns)
    ]
    # Not by their names, of which some are no text on the way between libraries.
    numbers = [str(i) for i in range(len(names))]
    frame = pl.from_arrow(pa.Table.from_arrays(columns, names=numbers))
    assert isinstance(frame, pl.DataFrame)
    for column in frame.iter_columns():
        if column.dtype.is_nested():
            text(column)  # what it cannot tell, no later step can
    frame.columns = names
    return frame


def _written_out(column: pa.Array) -> pa.Array:
    """The column in a type that we hold: what has none as text, also within lists, structs and maps."""
    column = pieces.written_out(column)
    kind = _held(column.type)
    if pa.types.is_nested(kind) and _has_far_day(column):
        kind = _days_as_text(kind)
    return column if kind == column.type else column.cast(kind)


def _held(kind: pa.DataType) -> pa.DataType:
    """The type that holds the same values for us.

    A zone that nobody knows is UTC, for the instants are the same; a decimal of more than 38 digits is text.
    Keys of a map are text as in JSON; where they have none, the map is a list of keys and values.
    """
    if pa.types.is_timestamp(kind):
        return kind if kind.tz is None or _is_zone(kind.tz) else pa.timestamp(kind.unit, "UTC")
    if pa.types.is_decimal256(kind):
        return pa.string()
    if pa.types.is_map(kind):
        key, item = kind.key_type, kind.item_field.with_type(_held(kind.item_type))
        if pa.types.is_nested(key) or _held(key) != key or _is_bytes(key):
            return pa.list_(pa.struct([kind.key_field.with_type(_held(key)), item]))
        return pa.map_(pa.string(), item)
    return pieces.with_inner(kind, _held)


def _is_bytes(kind: pa.DataType) -> bool:
    kinds = (
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
        pa.types.is_fixed_size_binary,
    )
    return any(is_one(kind) for is_one in kinds)


def _days_as_text(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_date(kind) else pieces.with_inner(kind, _days_as_text)


def _has_far_day(column: pa.Array) -> bool:
    """Whether there is a day within the values that the years 0001 to 9999 do not have."""
    kind = column.type
    if pa.types.is_date(kind):
        days = column.cast(pa.date32()).cast(pa.int32())
        ends = pc.call_function("min_max", [days]).as_py()
        return days.null_count < len(days) and (ends["min"] < _FIRST_DAY or ends["max"] > _LAST_DAY)
    if pa.types.is_struct(kind):
        return any(_has_far_day(field) for field in column.flatten())
    if pa.types.is_map(kind):
        return _has_far_day(column.keys) or _has_far_day(column.items)
    return pa.types.is_nested(kind) and _has_far_day(column.flatten())


@cache
def _is_zone(name: str) -> bool:
    try:
        pl.from_arrow(pa.array([], pa.timestamp("us", name)))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return False
    return True


def columns(path: Path) -> tuple[str, ...]:
    """The names of the file's columns."""
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            return unrepeated(file.schema_arrow.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> UnreadableFile:
    if is_lost(error):
        return LostFile(path, os.strerror(error.errno or 0))
    said = str(error).splitlines()[0] if str(error) else repr(error)
    return UnreadableFile(path, f"not readable as Parquet: {said}")
