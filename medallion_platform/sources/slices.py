"""Columns of text as slices of one block of bytes.

A column of N texts is an Arrow string view of N (length, place) pairs over the block that was read:
no byte is copied and nothing loops in Python, which is what makes the readers of this room fast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

PADDING = 4096
"""Bytes of zeros behind a block, so that reads of whole words and of short literals stay inside."""

_U32 = np.uint64(32)
_HEAD = np.array([(1 << (8 * min(n, 4))) - 1 for n in range(14)], np.uint32)
_HEAD8 = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)
_TAIL = np.array([(1 << (8 * max(0, min(n - 4, 8)))) - 1 for n in range(13)] + [0], np.uint64)


def _word(literal: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(literal, "little"))


class Block:
    """A stretch of a file's text as UTF-8 bytes (bytes that did not decode may be among them)."""

    def __init__(self, *parts: bytes) -> None:
        data = b"".join((*parts, bytes(PADDING)))
        self.size = len(data) - PADDING
        self.bytes: Bytes = np.frombuffer(data, np.uint8)
        self.data = data
        # every overlapping 4 and 8 byte word of the block, by the place of its first byte
        self.words4 = np.ndarray((len(data) - 3,), "<u4", data, strides=(1,))
        self.words8 = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))

    def find(self, byte: int) -> Ints:
        """The places of `byte`, ascending."""
        if not self.holds(byte):
            return np.zeros(0, np.int64)
        return np.flatnonzero(self.bytes[: self.size] == byte)

    def holds(self, byte: int) -> bool:
        """Whether `byte` occurs at all."""
        return self.data.find(byte, 0, self.size) >= 0

    def is_utf8(self) -> bool:
        """Whether the whole block is valid UTF-8."""
        if self.data.isascii():
            return True
        try:
            str(self.data, "utf-8")
        except UnicodeDecodeError:
            return False
        return True

    def get(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`."""
        return self.data[start:end]

    def literal_at(self, places: Ints, literal: bytes) -> Bools:
        """For each place, whether `literal` (at most `PADDING` - 16 bytes) stands there."""
        size = len(literal)
        if size >= 8:
            same = self.words8[places] == _word(literal[:8])
            for i in range(8, size, 8):
                i = min(i, size - 8)  # the last word may overlap the one before
                same &= self.words8[places + i] == _word(literal[i : i + 8])
            return same
        if size > 4:
            return (self.words8[places] & _HEAD8[size]) == _word(literal)
        return (self.words4[places] & np.uint32(_HEAD[size])) == np.uint32(_word(literal))

    def texts(
        self, starts: Ints, lengths: Ints, valid: Bools | None = None, binary: bool = False
    ) -> pl.Series:
        """A column of the slices (start, length) of this block; null where not `valid`.

        The slices must be valid UTF-8, unless `binary`.
        """
        count = len(starts)
        views = np.empty((count, 2), np.uint64)
        shortest = lengths.min(initial=13)
        if shortest > 12:
            views[:, 0] = (self.words4[starts].astype(np.uint64) << _U32) | lengths.view(np.uint64)
            views[:, 1] = starts.view(np.uint64) << _U32
        else:
            short = np.minimum(lengths, 13)
            head = self.words4[starts] & _HEAD[short] if shortest < 4 else self.words4[starts]
            views[:, 0] = (head.astype(np.uint64) << _U32) | lengths.view(np.uint64)
            tail = self.words8[starts + 4] & _TAIL[short]
            if lengths.max(initial=0) > 12:
                tail = np.where(lengths > 12, starts.view(np.uint64) << _U32, tail)
            views[:, 1] = tail
        nulls = None
        if valid is not None and not valid.all():
            nulls = pa.py_buffer(np.packbits(valid, bitorder="little"))
            views[~valid] = 0
        buffers: list[Any] = [nulls, pa.py_buffer(views), pa.py_buffer(self.data)]
        kind = pa.binary_view() if binary else pa.string_view()
        made = pl.from_arrow(pa.Array.from_buffers(kind, count, buffers))
        assert isinstance(made, pl.Series)
        return made


def joined(texts: list[bytes]) -> tuple[Block, Ints, Ints]:
    """A block that holds `texts` one after the other, with where each starts and ends."""
    ends = np.cumsum([len(t) for t in texts], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(texts)]
    return Block(*texts), starts, ends


def patched(column: pl.Series, rows: list[int], values: list[str | None]) -> pl.Series:
    """`column` with `values` at `rows`."""
    if not rows:
        return column
    places = np.arange(len(column), dtype=np.int64)
    places[rows] = np.arange(len(column), len(column) + len(rows))
    return pl.concat([column, pl.Series(column.name, values, pl.String)]).gather(places)
