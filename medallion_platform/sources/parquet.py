"""Parquet: columns keep their types, row groups are streamed."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from medallion_platform.sources.source import LostFile, UnreadableFile, is_lost

ROWS = 65_536
"""Rows of a frame: row groups are read in pieces of at most this many."""


def read(path: Path, first_row: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """Frames of the file from `first_row` on, each with the number of its first row."""
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            row = 1
            names = _names(file)
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if row + rows <= first_row:
                    row += rows
                    continue
                for batch in file.iter_batches(batch_size=ROWS, row_groups=[group]):
                    skipped = min(max(first_row - row, 0), len(batch))
                    row += len(batch)
                    if skipped < len(batch):
                        table = pa.Table.from_batches([batch.slice(skipped)]).rename_columns(names)
                        frame = pl.from_arrow(table)
                        assert isinstance(frame, pl.DataFrame)
                        yield row - len(frame), frame
    except UnreadableFile:
        raise
    except (
        *(pa.ArrowException, OSError, ValueError),
        *(pl.exceptions.PolarsError, pl.exceptions.PanicException),
    ) as error:
        raise _unreadable(path, error) from error


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
    texts = [
        json.dumps({k: _as_they_came(v) for k, v in row.items()}, default=_plain)
        for row in rows.iter_rows(named=True)
    ]
    return pl.Series("payload", texts, pl.String)


def text(values: pl.Series) -> pl.Series:
    """Typed values as text: nested ones as JSON, bytes in base64."""
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
    wrapped = values.alias("v").to_frame().select(pl.struct("v").struct.json_encode().alias("text"))
    told = wrapped["text"].str.strip_prefix('{"v":').str.strip_suffix("}").alias(values.name)
    return told.set(values.is_null(), None)


def _holds_bytes(kind: Any) -> bool:
    if isinstance(kind, pl.Struct):
        return any(_holds_bytes(field.dtype) for field in kind.fields)
    return kind == pl.Binary or (isinstance(kind, pl.List | pl.Array) and _holds_bytes(kind.inner))


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
    names: list[str] = []
    for name in file.schema_arrow.names:
        while name in names:
            name += "_"
        names.append(name)
    return names


def _unreadable(path: Path, error: BaseException) -> UnreadableFile:
    if is_lost(error):
        return LostFile(path, os.strerror(error.errno or 0))
    said = str(error).splitlines()[0] if str(error) else repr(error)
    return UnreadableFile(path, f"not readable as Parquet: {said}")
