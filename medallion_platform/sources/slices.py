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
_HEAD = np.array([(1 << (8 * min(n, 4))) - 1 for n in range(13)] + [0xFFFFFFFF], np.uint64)
_TAIL = np.array([(1 << (8 * max(0, min(n - 4, 8)))) - 1 for n in range(13)] + [0], np.uint64)


class Block:
    """A stretch of a file's text as UTF-8 bytes (bytes that did not decode may be among them)."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.size = len(data)
        self.bytes: Bytes = np.zeros(self.size + PADDING, np.uint8)
        self.bytes[: self.size] = np.frombuffer(data, np.uint8)
        # every overlapping 4 and 8 byte word of the block, by the place of its first byte
        self.words4 = np.ndarray((self.size + PADDING - 4,), "<u4", self.bytes.data, strides=(1,))
        self.words8 = np.ndarray((self.size + PADDING - 8,), "<u8", self.bytes.data, strides=(1,))

    def find(self, byte: int) -> Ints:
        """The places of `byte`, ascending."""
        return np.flatnonzero(self.bytes[: self.size] == byte)

    def holds(self, byte: int) -> bool:
        """Whether `byte` occurs at all."""
        return bool((self.bytes[: self.size] == byte).any())

    def is_utf8(self) -> bool:
        """Whether the whole block is valid UTF-8."""
        try:
            str(self.bytes[: self.size].data, "utf-8")
        except UnicodeDecodeError:
            return False
        return True

    def get(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`."""
        return self.bytes[start:end].tobytes()

    def literal_at(self, places: Ints, literal: bytes) -> Bools:
        """For each place, whether `literal` (at most `PADDING` - 16 bytes) stands there."""
        same = np.ones(len(places), np.bool_)
        for i in range(0, len(literal), 8):
            part = literal[i : i + 8]
            if len(part) <= 4:
                mask, words = (1 << (8 * len(part))) - 1, self.words4[places + i]
                wanted = np.uint32(int.from_bytes(part, "little"))
                same &= (words & np.uint32(mask)) == wanted
            else:
                mask, words = (1 << (8 * len(part))) - 1, self.words8[places + i]
                same &= (words & np.uint64(mask)) == np.uint64(int.from_bytes(part, "little"))
        return same

    def texts(
        self, starts: Ints, lengths: Ints, valid: Bools | None = None, binary: bool = False
    ) -> pl.Series:
        """A column of the slices (start, length) of this block; null where not `valid`.

        The slices must be valid UTF-8, unless `binary`.
        """
        count = len(starts)
        short = np.minimum(lengths, 13)
        views = np.empty((count, 2), np.uint64)
        views[:, 0] = lengths
        views[:, 0] |= (self.words4[starts] & _HEAD[short]) << _U32
        views[:, 1] = np.where(
            lengths > 12, starts.astype(np.uint64) << _U32, self.words8[starts + 4] & _TAIL[short]
        )
        nulls = None
        if valid is not None and not valid.all():
            nulls = pa.py_buffer(np.packbits(valid, bitorder="little"))
            views[~valid] = 0
        buffers: list[Any] = [nulls, pa.py_buffer(views), pa.py_buffer(self.bytes)]
        kind = pa.binary_view() if binary else pa.string_view()
        made = pl.from_arrow(pa.Array.from_buffers(kind, count, buffers))
        assert isinstance(made, pl.Series)
        return made


def joined(texts: list[bytes]) -> tuple[Block, Ints, Ints]:
    """A block that holds `texts` one after the other, with where each starts and ends."""
    ends = np.cumsum([len(t) for t in texts], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(texts)]
    return Block(b"".join(texts)), starts, ends


def patched(column: pl.Series, rows: list[int], values: list[str | None]) -> pl.Series:
    """`column` with `values` at `rows`."""
    if not rows:
        return column
    places = np.arange(len(column), dtype=np.int64)
    places[rows] = np.arange(len(column), len(column) + len(rows))
    return pl.concat([column, pl.Series(column.name, values, pl.String)]).gather(places)
