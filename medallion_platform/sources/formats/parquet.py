"""Parquet: columns keep their types, row groups are streamed in pieces of bounded size.

A value that no type of ours can hold (a day outside of the years 0001 to 9999, a decimal of more than 38
digits) is a violation of the contract and never another value; as text it says what stood there.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from medallion_platform import pieces
from medallion_platform.contracts import casts
from medallion_platform.sources.source import LostFile, UnreadableFile, is_lost


def read(path: Path, first_row: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """Frames of the file from `first_row` on, each with the number of its first row."""
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            repeated = pieces.repeated(file.schema_arrow)
        # INT96 counts nanoseconds since noon of a day, which in 64 bits reach from 1677 to 2262 only.
        with pq.ParquetFile(
            path, memory_map=False, coerce_int96_timestamp_unit="us", read_dictionary=repeated
        ) as file:
            row = 1
            names = _names(file)
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


def _frame(batch: pa.RecordBatch, names: list[str], seconds: Mapping[int, pa.ChunkedArray]) -> pl.DataFrame:
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
    column = pieces.written_out(column)
    if pa.types.is_decimal256(column.type):
        return column.cast(pa.string())
    kind = _in_known_zones(column.type)
    return column if kind == column.type else column.cast(kind)


def _in_known_zones(kind: pa.DataType) -> pa.DataType:
    """The type with UTC in the place of a zone that nobody knows: the instants are the same."""
    if pa.types.is_timestamp(kind):
        return kind if kind.tz is None or _is_zone(kind.tz) else pa.timestamp(kind.unit, "UTC")
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_in_known_zones(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_in_known_zones(field.type)) for field in kind])
    return kind


@cache
def _is_zone(name: str) -> bool:
    try:
        pl.from_arrow(pa.array([], pa.timestamp("us", name)))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return False
    return True


def _bounded(values: pl.Series) -> pl.Series:
    """Days and instants as they are, or as text where one lies outside of the years 0001 to 9999."""
    kind = values.dtype
    if kind == pl.Date:
        number, partition, first, last = (
            values.cast(pl.Int32),
            "days",
            *(instant // casts.MICROSECONDS_A_DAY for instant in (casts.FIRST_INSTANT, casts.LAST_INSTANT)),
        )
    elif isinstance(kind, pl.Datetime) and kind.time_unit != "ns":  # in which all lie inside
        parts = 1_000 if kind.time_unit == "ms" else 1
        number, partition = values.cast(pl.Int64), kind.time_unit
        first, last = casts.FIRST_INSTANT // parts, casts.LAST_INSTANT // parts
    else:
        return values
    inside = number.is_between(first, last)
    if inside.all():
        return values
    held = pl.select(pl.when(inside).then(values)).to_series()
    if isinstance(kind, pl.Datetime):
        if kind.time_zone is not None:
            held = held.dt.convert_time_zone("UTC")
        told = held.dt.strftime("%Y-%m-%dT%H:%M:%S%.6f") + ("" if kind.time_zone is None else "Z")
    else:
        told = held.cast(pl.String)
    outside = number.cast(pl.String) + f" {partition} since 1970-01-01"
    return pl.select(pl.when(inside).then(told).otherwise(outside).alias(values.name)).to_series()


def columns(path: Path) -> tuple[str, ...]:
    """The names of the file's columns."""
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            return tuple(_names(file))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def payloads(rows: pl.DataFrame) -> pl.Series:
    """Each row as JSON: what a dead letter keeps of it.

    Bytes that are no text stay what they are, and are no text either when the JSON is read again.
    """
    rows = rows.with_columns(_bounded(column) for column in rows.iter_columns())
    # Python's durations and dates within lists hold less than the file's.
    narrow = [c.name for c in rows.iter_columns() if c.dtype == pl.Duration or _holds_times(c.dtype)]
    rows = rows.with_columns(text(rows[name]) for name in narrow)
    texts = [
        json.dumps({k: _as_they_came(v) for k, v in row.items()}, default=_plain)
        for row in rows.iter_rows(named=True)
    ]
    return pl.Series("payload", texts, pl.String)


def text(values: pl.Series) -> pl.Series:
    """Typed values as text: nested ones as JSON, bytes in base64."""
    # Under a name that no method of polars takes for a pattern.
    return _text(values.alias("v")).alias(values.name)


def _text(values: pl.Series) -> pl.Series:
    values = _bounded(values)
    kind = values.dtype
    if kind == pl.Binary:
        return values.bin.encode("base64")
    if kind == pl.Duration:
        return values.dt.to_string("iso")
    if not kind.is_nested():
        return values.cast(pl.String)
    if _holds_bytes(kind):  # what polars has no JSON for
        told = [None if v is None else json.dumps(v, default=_plain) for v in values.to_list()]
        return pl.Series(values.name, told, pl.String)
    wrapped = values.to_frame().select(pl.struct("v").struct.json_encode().alias("text"))
    told = wrapped["text"].str.strip_prefix('{"v":').str.strip_suffix("}")
    return told.set(values.is_null(), None)


def _holds_bytes(kind: Any) -> bool:
    if isinstance(kind, pl.Struct):
        return any(_holds_bytes(field.dtype) for field in kind.fields)
    return kind == pl.Binary or (isinstance(kind, pl.List | pl.Array) and _holds_bytes(kind.inner))


def _holds_times(kind: Any) -> bool:
    """Whether a nested type has days or instants inside."""
    if isinstance(kind, pl.Struct):
        inner = [field.dtype for field in kind.fields]
    elif isinstance(kind, pl.List | pl.Array):
        inner = [kind.inner]
    else:
        return False
    return any(k.is_temporal() or _holds_times(k) for k in map(_type_of, inner))


def _type_of(kind: Any) -> pl.DataType:
    return kind() if isinstance(kind, type) else kind


def _as_they_came(value: Any) -> Any:
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)


def _names(file: pq.ParquetFile) -> list[str]:
    """The columns' names; one that comes again has a `_` behind it."""
    names: dict[str, None] = {}
    for name in file.schema_arrow.names:
        while name in names:
            name += "_"
        names[name] = None
    return list(names)


def _unreadable(path: Path, error: BaseException) -> UnreadableFile:
    if is_lost(error):
        return LostFile(path, os.strerror(error.errno or 0))
    said = str(error).splitlines()[0] if str(error) else repr(error)
    return UnreadableFile(path, f"not readable as Parquet: {said}")
