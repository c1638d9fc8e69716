"""Reads Parquet files in pieces of bounded size, whatever their rows and values are like.

A value that many rows share is stored once in a file but takes memory once per row. A look at a row group's
stored values tells how large its texts can be at most. Where that is much, texts are read in their stored
form, and written out piece by piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medallion_platform.storage.arrow_types import (
    decoded_type,
    is_bytes,
    is_list,
    is_text,
    map_inner_types,
    width_in_bytes,
)

ROWS = 65_536
"""Rows of a piece: row groups are read in pieces of at most this many."""
BYTES = 64 * 2**20
"""Bytes of a piece: of fewer rows where these are large. One row may be larger."""
_FEW_ROWS = 1_024
"""Rows of a piece where nothing tells how large a row may be."""
_LOOKED_AT = 128
"""Rows of a row group that are read to see its stored values; of small ones nothing is worth a look."""
_READ_AHEAD = 2**20
"""Bytes of a column that are in memory before they are decompressed."""
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}
"""Bytes of a value in memory, of a text that is stored once the number of it."""
_SHARED = "DICTIONARY"
"""Within the name of an encoding: each value is stored once for all rows."""
_TEXTS = ("NONE", "STRING", "UTF8", "ENUM", "JSON", "BSON")
"""Logical types of texts and bytes."""
_PREFIXED = "DELTA_BYTE_ARRAY"
"""An encoding that leaves out what a text has in common with the one before it."""

Opened = Callable[..., pq.ParquetFile]


def of_file(opened: Opened, skip: int = 0) -> Iterator[pa.RecordBatch]:
    """A file's rows behind the first `skip`.

    opened: opens the file, with the options of `ParquetFile` that it is given.
    """
    # Texts that are JSON are texts.
    options = {"buffer_size": _READ_AHEAD, "arrow_extensions_enabled": False}
    with opened(**options) as file:
        texts = _texts(file)
        with opened(**options, metadata=file.metadata, read_dictionary=texts) as stored:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if skip >= rows:
                    skip -= rows
                    continue
                for batch in _read(file, stored, group, texts):
                    skipped = min(skip, len(batch))
                    skip -= skipped
                    yield from _split_batch(batch.slice(skipped))


def _texts(file: pq.ParquetFile) -> list[int]:
    """The texts, also those within lists and structs, of which one value may be stored once for many rows
    (and can be read so, by `read_dictionary`): numbers of columns of the file."""
    groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    return [
        i
        for i in range(len(file.schema))
        if _is_text_column(file.schema.column(i)) and any(_shares(group.column(i)) for group in groups)
    ]


def _is_text_column(leaf: pq.ColumnSchema) -> bool:
    return leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type in _TEXTS


def _shares(chunk: pq.ColumnChunkMetaData) -> bool:
    return any(_SHARED in encoding for encoding in chunk.encodings)


def _read(
    file: pq.ParquetFile, stored: pq.ParquetFile, group: int, texts: list[int]
) -> Iterator[pa.RecordBatch]:
    """A row group, its texts as they are stored where they could be much larger written out."""
    facts = file.metadata.row_group(group)
    chunks = [facts.column(i) for i in range(facts.num_columns)]
    size = sum(_bytes_in_memory(chunk, file.schema.column(i)) for i, chunk in enumerate(chunks))
    in_full = size + _repeated(stored, group, size, texts)
    nested = any(pa.types.is_nested(field.type) for field in file.schema_arrow)
    # Of rows that hold lists, one batch may have most values of the group.
    if in_full <= 4 * max(BYTES, size) if nested else in_full * _FEW_ROWS <= BYTES * facts.num_rows:
        stored, size = file, int(in_full)
    most = ROWS
    if any(_PREFIXED in chunk.encodings and chunk.physical_type == "BYTE_ARRAY" for chunk in chunks):
        most = _FEW_ROWS
    elif nested and size > 4 * BYTES:
        # Not fewer: with each batch come all values that are stored once.
        most = max(_FEW_ROWS, facts.num_rows // 32)
    rows = max(1, min(most, BYTES * facts.num_rows // max(size, 1)))
    yield from stored.iter_batches(batch_size=rows, row_groups=[group])


def _repeated(stored: pq.ParquetFile, group: int, size: int, texts: list[int]) -> float:
    """The most bytes that a row group's texts take beyond what is stored, as a look at it tells.

    Each value that is stored once is as large as the largest, at most.
    """
    facts = stored.metadata.row_group(group)
    chunks = [facts.column(i) for i in texts]
    if not any(map(_shares, chunks)):
        return 0
    if facts.num_rows <= 32 * _LOOKED_AT:
        return float("inf")
    rows = max(1, min(_LOOKED_AT, BYTES * facts.num_rows // max(size, 1)))
    look = next(stored.iter_batches(batch_size=rows, row_groups=[group]))
    longest = [length for column in look.columns for length in _longest(column)]
    if len(longest) != len(texts):
        return float("inf")
    return sum(chunk.num_values * length for chunk, length in zip(chunks, longest, strict=True))


def _longest(column: pa.Array) -> Iterator[float]:
    """The bytes of the longest stored value of each text within a column; none was seen: it may be any."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        longest = pc.call_function("max", [pc.call_function("binary_length", [column.dictionary])]).as_py()
        yield float("inf") if longest is None else longest
    elif pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            yield from _longest(column.field(i))
    elif pa.types.is_map(kind):
        yield from _longest(column.keys)
        yield from _longest(column.items)
    elif is_list(kind):
        yield from _longest(column.values)


def decode_dictionary(column: pa.Array) -> pa.Array:
    """A column with each value where it belongs."""
    kind = decoded_type(column.type)
    if kind == column.type:
        return column
    # A cast takes whole what a slice of nested values is a part of.
    return (pa.concat_arrays([column]) if pa.types.is_nested(kind) else column).cast(kind)


def with_leaves(column: pa.Array, of: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """The column with `of` applied to the values within all nesting, in the order of the file's columns."""
    kind = column.type
    if pa.types.is_struct(kind):
        fields = [with_leaves(column.field(i), of) for i in range(kind.num_fields)]
        return _struct(list(kind), fields, column)
    if pa.types.is_map(kind):
        keys, items = with_leaves(column.keys, of), with_leaves(column.items, of)
        entries = _struct([kind.key_field, kind.item_field], [keys, items])
        return _list(pa.map_(*entries.type), column, entries)
    if not is_list(kind):
        return of(column)
    values = with_leaves(column.values, of)
    return _list(map_inner_types(kind, lambda _: values.type), column, values)


def _struct(like: list[pa.Field], fields: list[pa.Array], whole: pa.Array | None = None) -> pa.Array:
    """Fields put together, named alike, null where `whole` is."""
    named = [field.with_type(values.type) for field, values in zip(like, fields, strict=True)]
    nulls = whole.is_null() if whole is not None and whole.null_count else None
    return pa.StructArray.from_arrays(fields, fields=named, mask=nulls)


def _list(kind: pa.DataType, like: pa.Array, values: pa.Array) -> pa.Array:
    """Other values in the same lists."""
    own = like.buffers()[: 1 if pa.types.is_fixed_size_list(kind) else 2]
    return pa.Array.from_buffers(kind, len(like), own, offset=like.offset, children=[values])


def list_ends(column: pa.Array) -> npt.NDArray[np.int64]:
    """Where each list or map of a column ends among all values; the first begins at the first number."""
    if pa.types.is_fixed_size_list(column.type):
        return np.arange(column.offset, column.offset + len(column) + 1) * column.type.list_size
    return column.offsets.to_numpy()


def sum_of_lists(values: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The sum of each list's values."""
    before = np.concatenate(([0], np.cumsum(values)))
    return before[ends[1:]] - before[ends[:-1]]


def _bytes_in_memory(facts: pq.ColumnChunkMetaData, leaf: pq.ColumnSchema) -> int:
    """What a column of a row group takes in memory: equal numbers take next to nothing in a file."""
    width = _WIDTHS.get(leaf.physical_type) or leaf.length
    return max(facts.total_uncompressed_size, facts.num_values * width)


def _split_batch(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in pieces of at most `BYTES`, one row at least, each value where it belongs."""
    if batch.nbytes <= BYTES and all(decoded_type(kind) == kind for kind in batch.schema.types):
        yield batch
        return
    until, begin = np.cumsum(_sum_text_bytes(batch, batch.columns)), 0
    while begin < len(batch):
        before = int(until[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(until, before + BYTES, side="right")))
        columns = [decode_dictionary(column) for column in batch.slice(begin, end - begin).columns]
        yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
        begin = end


def _text_bytes(column: pa.Array) -> npt.NDArray[np.int64]:
    """The bytes of each row's values, once they are written out."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        lengths = pc.call_function("binary_length", [column.dictionary])
        # Arrow reserves so much for each row, also for one that has less.
        usual = int(pc.call_function("mean", [lengths]).as_py() or 0)
        return np.maximum(_filled(lengths.take(column.indices)), usual)
    if (is_text(kind) or is_bytes(kind)) and not pa.types.is_fixed_size_binary(kind):
        if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):  # of which Arrow counts no bytes
            column = column.cast(pa.large_binary())
        return _filled(pc.call_function("binary_length", [column]))
    if pa.types.is_struct(kind):
        return _sum_text_bytes(column, (column.field(i) for i in range(kind.num_fields)))
    if pa.types.is_map(kind):
        return sum_of_lists(_sum_text_bytes(column.keys, (column.keys, column.items)), list_ends(column))
    if is_list(kind):
        return sum_of_lists(_text_bytes(column.values), list_ends(column))
    return np.full(len(column), width_in_bytes(kind), np.int64)


def _filled(lengths: pa.Array) -> npt.NDArray[np.int64]:
    return pc.fill_null(lengths, 0).cast(pa.int64()).to_numpy(zero_copy_only=False)


def _sum_text_bytes(like: pa.Array | pa.RecordBatch, columns: Iterable[pa.Array]) -> npt.NDArray[np.int64]:
    """The same of several columns together, as long as `like`."""
    return sum(map(_text_bytes, columns), np.zeros(len(like), np.int64))
