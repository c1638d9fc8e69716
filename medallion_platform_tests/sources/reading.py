"""What the tests of this folder share."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl

from medallion_platform.sources.formats.format import Format
from medallion_platform.sources.formats.records import CODE, DETAIL

BASE = ["_row", "_payload", "_payload_bytes", "_malformed"]


def frame_of(
    content: bytes, format: Format, block: int = 2**20, first_row: int = 1, name: str = "f"
) -> pl.DataFrame:
    """All records of a file with this content."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        return whole(list(format.read(path, first_row, block=block)))


def whole(frames: list[pl.DataFrame]) -> pl.DataFrame:
    """One frame of many."""
    if not frames:
        return pl.DataFrame(
            schema={
                "_row": pl.Int64,
                "_payload": pl.String,
                "_payload_bytes": pl.Binary,
                "_malformed": pl.String,
            }
        )
    return pl.concat(frames, how="diagonal")


def same(left: pl.DataFrame, right: pl.DataFrame) -> bool:
    """The same rows and values, whatever the order of columns; an absent column is null."""
    names = {*left.columns, *right.columns}

    def rows(frame: pl.DataFrame) -> list[dict[str, object]]:
        return [{n: row.get(n) for n in names} for row in frame.iter_rows(named=True)]

    return rows(left) == rows(right)


def fields(frame: pl.DataFrame) -> pl.DataFrame:
    """The columns of the data alone."""
    return frame.drop(*BASE, CODE, DETAIL, strict=False)


MAGIC = (
    *(b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"PK\x03\x04", b"PK\x05\x06", b"BZh"),
    *(b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\0\0\xfe\xff"),
)


def is_text(content: bytes) -> bool:
    """Whether content does not begin as a compressed file or with a byte order mark."""
    return not content.startswith(MAGIC)


def lines_kept(content: bytes, frame: pl.DataFrame, blank: bytes = b"\r\n") -> bool:
    """Whether the payloads hold all of the content but blanks."""
    payloads = zip(frame["_payload"].to_list(), frame["_payload_bytes"].to_list(), strict=True)
    raw = b"".join(b if p is None else p.encode() for p, b in payloads)
    same = bytes.maketrans(b"", b"")
    return raw.translate(same, blank) == content.translate(same, blank)
