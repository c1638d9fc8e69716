"""Reads Parquet files in pieces of bounded size, whatever their rows and values are like.

A value that many rows share is stored once in a file but takes memory once per row: texts are read in their
stored form, and written out piece by piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROWS = 65_536
"""Rows of a piece: row groups are read in pieces of at most this many."""
BYTES = 64 * 2**20
"""Bytes of a piece: of fewer rows where these are large. One row may be larger."""
_NESTED_ROWS = 1_024
"""The same for row groups with nested values, of which one row may have many more than another."""
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}
"""Bytes of a value in memory, of a text that is stored once the number of it."""


def repeated(file: pq.ParquetFile) -> list[int]:
    """The texts, also those within lists and structs, that are to be read as they are stored, each value
    once (`read_dictionary`): numbers of columns of the file."""
    leaves = map(file.schema.column, range(len(file.schema)))
    return [i for i, leaf in enumerate(leaves) if _is_text(leaf)]


def _is_text(leaf: pq.ColumnSchema) -> bool:
    return leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type in ("NONE", "STRING", "UTF8", "ENUM")


def of_group(file: pq.ParquetFile, group: int, skip: int = 0) -> Iterator[pa.RecordBatch]:
    """A row group's rows behind the first `skip`; columns of text still as they are stored."""
    for batch in file.iter_batches(batch_size=_rows_at_once(file, group), row_groups=[group]):
        skipped = min(skip, len(batch))
        skip -= skipped
        yield from _of(batch.slice(skipped))


def written_out(column: pa.Array) -> pa.Array:
    """A column with each value where it belongs."""
    kind = _written_out(column.type)
    return column if kind == column.type else column.cast(kind)


def _written_out(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else with_inner(kind, _written_out)


def with_inner(kind: pa.DataType, of: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """The type with `of` applied to the types directly within it, if there are any."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(of(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(
            kind.key_field.with_type(of(kind.key_type)), kind.item_field.with_type(of(kind.item_type))
        )
    if not _is_list(kind):
        return kind
    inner = kind.value_field.with_type(of(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inner, kind.list_size)
    return pa.large_list(inner) if pa.types.is_large_list(kind) else pa.list_(inner)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _rows_at_once(file: pq.ParquetFile, group: int) -> int:
    """How many rows of a row group are decompressed at once."""
    facts = file.metadata.row_group(group)
    size = sum(_bytes(facts.column(i), file.schema.column(i)) for i in range(facts.num_columns))
    most = _NESTED_ROWS if any(pa.types.is_nested(field.type) for field in file.schema_arrow) else ROWS
    return max(1, min(most, BYTES * facts.num_rows // max(size, 1)))


def _bytes(facts: pq.ColumnChunkMetaData, leaf: pq.ColumnSchema) -> int:
    """What a column of a row group takes in memory: equal numbers take next to nothing in a file."""
    width = _WIDTHS.get(leaf.physical_type) or leaf.length
    return max(facts.total_uncompressed_size, facts.num_values * width)


def _of(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in pieces of at most `BYTES`, one row at least, once repeated values are written out."""
    sizes = _sum(batch, batch.columns)
    until, begin = np.cumsum(sizes), 0
    while begin < len(batch):
        before = int(until[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(until, before + BYTES, side="right")))
        yield batch.slice(begin, end - begin)
        begin = end


def _lengths(column: pa.Array) -> npt.NDArray[np.int64]:
    """The bytes of each row's texts, once they are written out; of those that are stored once only."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        lengths = pc.call_function("binary_length", [column.dictionary]).take(column.indices)
        return pc.fill_null(lengths, 0).cast(pa.int64()).to_numpy(zero_copy_only=False)
    if pa.types.is_struct(kind):
        return _sum(column, (column.field(i) for i in range(kind.num_fields)))
    if pa.types.is_fixed_size_list(kind):
        until = np.arange(column.offset, column.offset + len(column) + 1) * kind.list_size
        inner = _lengths(column.values)
    elif pa.types.is_map(kind):
        until, inner = column.offsets.to_numpy(), _sum(column.keys, (column.keys, column.items))
    elif _is_list(kind):
        until, inner = column.offsets.to_numpy(), _lengths(column.values)
    else:
        return np.zeros(len(column), np.int64)
    before = np.concatenate(([0], np.cumsum(inner)))
    return before[until[1:]] - before[until[:-1]]


def _sum(like: pa.Array | pa.RecordBatch, columns: Iterable[pa.Array]) -> npt.NDArray[np.int64]:
    """The same of several columns together, as long as `like`."""
    return sum(map(_lengths, columns), np.zeros(len(like), np.int64))
