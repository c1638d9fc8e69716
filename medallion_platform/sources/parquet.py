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
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def columns(path: Path) -> tuple[str, ...]:
    """The names of the file's columns."""
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            return tuple(_names(file))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def payload(row: dict[str, Any]) -> str:
    """A row as JSON text: what a dead letter keeps of it."""
    return json.dumps(row, default=_plain, ensure_ascii=False)


def payloads(frame: pl.DataFrame) -> pl.Series:
    """Each row of `frame` as JSON text, columns that begin with `_` left out."""
    kept = frame.select(c for c in frame.columns if not c.startswith("_"))
    return pl.Series("_payload", [payload(r) for r in kept.iter_rows(named=True)], pl.String)


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
