"""Reads Parquet files in pieces of bounded size, whatever their rows and values are like.

A value that many rows share is stored once in a file but takes memory once per row: texts are read in their
stored form, and written out piece by piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROWS = 65_536
"""Rows of a piece: row groups are read in pieces of at most this many."""
BYTES = 64 * 2**20
"""Bytes of a piece: of fewer rows where these are large. One row may be larger."""
_NESTED_ROWS = 1_024
"""The same for row groups with nested texts, whose size is only known once they are read."""


def repeated(schema: pa.Schema) -> list[str]:
    """The columns of text that are to be read as they are stored (`read_dictionary`), each value once."""
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return [field.name for field in schema if any(is_text(field.type) for is_text in texts)]


def of_group(file: pq.ParquetFile, group: int, skip: int = 0) -> Iterator[pa.RecordBatch]:
    """A row group's rows behind the first `skip`; columns of text still as they are stored."""
    for batch in file.iter_batches(batch_size=_rows_at_once(file, group), row_groups=[group]):
        skipped = min(skip, len(batch))
        skip -= skipped
        yield from _of(batch.slice(skipped))


def written_out(column: pa.Array) -> pa.Array:
    """A column with each value where it belongs."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _rows_at_once(file: pq.ParquetFile, group: int) -> int:
    """How many rows of a row group are decompressed at once."""
    facts = file.metadata.row_group(group)
    size = sum(facts.column(i).total_uncompressed_size for i in range(facts.num_columns))
    most = _NESTED_ROWS if any(pa.types.is_nested(field.type) for field in file.schema_arrow) else ROWS
    return max(1, min(most, BYTES * facts.num_rows // max(size, 1)))


def _of(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in pieces of at most `BYTES`, one row at least, once repeated values are written out."""
    sizes = np.zeros(len(batch), np.int64)
    columns: Sequence[pa.Array] = batch.columns
    for column in columns:
        if pa.types.is_dictionary(column.type):
            lengths = pc.call_function("binary_length", [column.dictionary]).take(column.indices)
            sizes += pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False)
    until, begin = np.cumsum(sizes), 0
    while begin < len(batch):
        before = int(until[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(until, before + BYTES, side="right")))
        yield batch.slice(begin, end - begin)
        begin = end
