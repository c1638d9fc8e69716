"""Times in Parquet's old type INT96: 96 bits that hold a day and the nanoseconds within it.

Their range is five million years. Arrow reads them into 64 bits, and takes day 0 for 1970. So their bytes are
read unchanged, at any depth of a value, and converted here: a copy of the file's footer declares the columns
as 12 bytes each, which are stored in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from medallion_platform.contracts.casts import MICROSECONDS_A_DAY
from medallion_platform.sources.formats.typed import instants_in_json, values_as_text
from medallion_platform.storage import pieces

_PARTS = np.dtype([("nanoseconds", "<i8"), ("day", "<u4")])
_WIDTH = _PARTS.itemsize
_JULIAN_DAY_OF_1970 = 2_440_588
_FARTHEST = 2**63 // MICROSECONDS_A_DAY - 1
"""Days from 1970 whose microseconds have 64 bits."""

_MARK = b"PAR1"
_SCHEMA = 2
"""Of the fields of `FileMetaData` in parquet.thrift: a list of `SchemaElement`, whose first two are these."""
_TYPE, _TYPE_LENGTH = 1, 2
_INT96, _FIXED_LENGTH_BYTES = 3, 7
# Types of Thrift's compact protocol.
_STOP, _BYTE, _DOUBLE, _BINARY, _STRUCT = 0, 3, 7, 8, 12
_NEXT_NUMBER = 0x15
"""The head of a field that follows the one before it and is a number of 32 bits."""
_BOOLEANS, _INTEGERS, _LISTS = (1, 2), (4, 5, 6), (9, 10)


def as_bytes(path: Path, file: pq.ParquetFile) -> pq.FileMetaData | None:
    """What to read the file by so that its INT96 are 12 bytes; None where it has none."""
    leaves = map(file.schema.column, range(len(file.schema)))
    if all(leaf.physical_type != "INT96" for leaf in leaves):
        return None
    with path.open("rb") as raw:
        end = raw.seek(-8, 2)
        length = int.from_bytes(raw.read(4), "little")
        raw.seek(end - length)
        footer = _Footer(raw.read(length)).with_bytes()
    return pq.read_metadata(pa.BufferReader(_MARK + footer + len(footer).to_bytes(4, "little") + _MARK))


class _Footer:
    """The metadata of a file in Thrift's compact protocol, read from its begin."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def with_bytes(self) -> bytes:
        """The same with 12 bytes in the place of INT96 in its schema."""
        parts, begin = list[bytes](), 0
        for start, end in list(self._int96()):
            # `type` and `type_length`; the next field counts from the one before it.
            number = bytes([_NEXT_NUMBER])
            parts += [self.data[begin:start], number, _number(_FIXED_LENGTH_BYTES), number, _number(_WIDTH)]
            head, begin = self.data[end], end + 1
            if head == _NEXT_NUMBER:  # a length, which some writers say of INT96, too
                self.at = begin
                self._varint()
                begin = self.at
            else:
                parts.append(bytes([head - 0x10]) if head >> 4 else bytes([head]))
        return b"".join([*parts, self.data[begin:]])

    def _int96(self) -> Iterator[tuple[int, int]]:
        """Where the field `type` of each such column stands in the schema."""
        for field, kind in self._fields():
            if field != _SCHEMA:
                self._skip(kind)
                continue
            for _ in range(self._length()):
                for inner, inner_kind in self._fields():
                    start = self.at - 1
                    self._skip(inner_kind)
                    if inner == _TYPE and self.data[start + 1 : self.at] == _number(_INT96):
                        yield start, self.at
            return

    def _fields(self) -> Iterator[tuple[int, int]]:
        """Number and type of each field of a struct; whoever asks reads its value."""
        field = 0
        while (head := self._byte()) != _STOP:
            field = field + (head >> 4) if head >> 4 else self._varint() >> 1
            yield field, head & 0xF

    def _length(self) -> int:
        """How many a list has."""
        size = self._byte() >> 4
        return self._varint() if size == 0xF else size

    def _skip(self, kind: int) -> None:
        if kind in _INTEGERS:
            self._varint()
        elif kind == _BINARY:
            length = self._varint()
            self.at += length
        elif kind == _STRUCT:
            for _, inner in self._fields():
                self._skip(inner)
        elif kind in _LISTS:
            inner = self.data[self.at] & 0xF
            for _ in range(self._length()):
                self._skip(_BYTE if inner in _BOOLEANS else inner)
        elif kind not in _BOOLEANS:
            self.at += {_BYTE: 1, _DOUBLE: 8}[kind]

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value, shift = value | (byte & 0x7F) << shift, shift + 7
        return value | byte << shift


def _number(value: int) -> bytes:
    """A small number as Thrift writes it, zigzag."""
    return bytes([2 * value])


def decoded(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column read by `as_bytes`, with instants where the file's own type `kind` has them.

    Microseconds, as in all tables; as text all of them where one is so far that 64 bits do not hold it.
    """
    as_text = instants_in_json if pa.types.is_nested(kind) else values_as_text
    kinds = _leaves(kind)

    def counted(values: pa.Array) -> pa.Array:
        return _instants(values, as_text) if pa.types.is_timestamp(next(kinds)) else values

    return pieces.with_leaves(column, counted)


def _leaves(kind: pa.DataType) -> Iterator[pa.DataType]:
    """The types within all nesting, in the order of the file's columns."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if not pa.types.is_nested(kind):
        yield kind
        return
    for i in range(kind.num_fields):
        yield from _leaves(kind.field(i).type)


def _instants(raw: pa.FixedSizeBinaryArray, as_text: Callable[[pl.Series], pl.Series]) -> pa.Array:
    """The instants of 12 bytes each."""
    kind = pa.timestamp("us")
    if not pa.types.is_fixed_size_binary(raw.type):  # of another kind in the same file
        return raw
    if raw.null_count == len(raw):
        return pa.nulls(len(raw), kind)
    parts = np.frombuffer(raw.buffers()[1], _PARTS, len(raw), raw.offset * _WIDTH)
    nulls = raw.is_null().to_numpy(zero_copy_only=False)
    # Nanoseconds below zero, or more than a day has, count on.
    further, rest = np.divmod(parts["nanoseconds"] // 1_000, MICROSECONDS_A_DAY)
    days = parts["day"].astype(np.int64) - _JULIAN_DAY_OF_1970 + further
    far = (np.abs(days) > _FARTHEST) & ~nulls
    held = pa.array(np.where(far, 0, days) * MICROSECONDS_A_DAY + rest, mask=nulls).cast(kind)
    if not far.any():
        return held
    texts = as_text(pl.Series("v", held)).to_list()
    for i in np.flatnonzero(far).tolist():
        seconds, microseconds = divmod(int(rest[i]), 1_000_000)
        fraction = f".{microseconds:06}" if microseconds else ""
        texts[i] = f"{int(days[i]) * 86_400 + seconds}{fraction} s since 1970-01-01"
    return pa.array(texts, pa.string())
