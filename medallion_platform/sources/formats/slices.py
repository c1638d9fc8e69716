"""Columns of text as slices of one block of bytes.

A column of N texts is an Arrow string view: N pairs of length and place in the block. No byte is copied and
no Python loop runs, which is why the readers of these formats are fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]

PADDING = 4096
"""Bytes of zeros behind a block, so that reads of whole words and of short literals stay inside."""

_FRONT = 16
_U32 = np.uint64(32)
_UP_TO = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)
_HEAD = _UP_TO[:5] << _U32
_TAIL = _UP_TO[[0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]]


class Block:
    r"""A part of a file's text as UTF-8 bytes (with bytes that could not be decoded).

    returns: lines may also end with a lone `\r`, as in files of old Macs. Values keep theirs.
    """

    def __init__(self, *parts: bytes, returns: bool = False) -> None:
        data = b"".join((bytes(_FRONT), *parts, bytes(PADDING)))
        self.size = len(data) - _FRONT - PADDING
        self._data = data
        self.text = memoryview(data)[_FRONT:]
        self.in_lines = memoryview(data.replace(b"\r", b"\n"))[_FRONT:] if returns else self.text
        """The text in which every line ends by `\\n`: nothing else differs."""
        self.bytes: Bytes = np.frombuffer(data, np.uint8, offset=_FRONT)

    def find(self, byte: int) -> Ints:
        """The places of `byte`, ascending."""
        if not self.holds(byte):
            return np.zeros(0, np.int64)
        return np.flatnonzero(self.bytes[: self.size] == byte)

    def line_ends(self) -> Ints:
        """The places at which lines end, ascending."""
        if self.in_lines is self.text:
            return self.find(10)
        return np.flatnonzero(np.frombuffer(self.in_lines, np.uint8, self.size) == 10)

    def holds(self, byte: int) -> bool:
        """Whether `byte` occurs at all."""
        return self._data.find(byte, _FRONT, _FRONT + self.size) >= 0

    def is_utf8(self) -> bool:
        """Whether the whole block is valid UTF-8."""
        if self._data.isascii():
            return True
        try:
            str(self._data, "utf-8")
        except UnicodeDecodeError:
            return False
        return True

    def get(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`."""
        return self._data[_FRONT + start : _FRONT + end]

    def words(self, places: Ints, count: int, back: int = 0) -> Words:
        """The 8 byte words, `count` of them, that start `back` bytes before each place."""
        # one read of the machine for all: every overlapping stretch is an item of this array
        size = len(self._data) - _FRONT - 8 * count
        overlapping = np.ndarray((size,), f"V{8 * count}", self._data, offset=_FRONT - back, strides=(1,))
        return overlapping[places].view(np.uint64).reshape(len(places), count)

    def literal_at(self, places: Ints, literal: bytes) -> Bools:
        """For each place, whether `literal` (at most `PADDING` - 16 bytes) stands there."""
        same: Bools | None = None
        for begin in range(0, len(literal), 32):
            part = literal[begin : begin + 32]
            count = -(-len(part) // 8)
            words = self.words(places + begin if begin else places, count)
            for i in range(count):
                piece = part[8 * i : 8 * i + 8]
                word = words[:, i] if len(piece) == 8 else words[:, i] & _UP_TO[len(piece)]
                fits = word == np.uint64(int.from_bytes(piece, "little"))
                same = fits if same is None else same & fits
        return np.ones(len(places), np.bool_) if same is None else same

    def texts(
        self, starts: Ints, lengths: Ints, valid: Bools | None = None, binary: bool = False
    ) -> pl.Series:
        """A column of the slices (start, length) of this block; null where not `valid`.

        The slices must be valid UTF-8, unless `binary`.
        """
        count = len(starts)
        # a view is the length in 4 bytes, then 12 bytes: the text if it fits, else its beginning
        # in 4, the buffer's number (0) in 4 and the place in 4
        views = self.words(starts, 2, back=4)
        shortest, longest = lengths.min(initial=13), lengths.max(initial=0)
        if shortest < 4:
            views[:, 0] &= _HEAD[np.minimum(lengths, 4)]
        else:
            views[:, 0] &= _HEAD[4]
        views[:, 0] |= lengths.view(np.uint64)
        if shortest > 12:
            views[:, 1] = starts.view(np.uint64) << _U32
        else:
            tail = views[:, 1]
            tail &= _TAIL[np.minimum(lengths, 12)]
            if longest > 12:
                np.copyto(tail, starts.view(np.uint64) << _U32, where=lengths > 12)
        nulls = None
        if valid is not None and not valid.all():
            nulls = pa.py_buffer(np.packbits(valid, bitorder="little"))
            views[~valid] = 0
        buffers: list[Any] = [nulls, pa.py_buffer(views), pa.py_buffer(self.text)]
        kind = pa.binary_view() if binary else pa.string_view()
        made = pl.from_arrow(pa.Array.from_buffers(kind, count, buffers))
        assert isinstance(made, pl.Series)
        return made


def replace_values(
    column: pl.Series, rows: list[int] | Ints, values: Sequence[str | bytes | None] | pl.Series
) -> pl.Series:
    """`column` with `values` at `rows`."""
    if not len(rows):
        return column
    places = np.arange(len(column), dtype=np.int64)
    places[rows] = np.arange(len(column), len(column) + len(rows))
    return pl.concat([column, pl.Series(values=values, dtype=column.dtype)]).gather(places)
