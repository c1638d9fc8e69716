"""The end of a data file, which no checksum of Parquet guards, and how its name tells what it must be.

Each page of a Parquet file has a CRC32. What follows the last page has none: the page index and the footer,
with the names and types of the columns, the numbers of rows, and the bounds by which readers leave rows out.
With a flipped bit in the name of a column there, readers find no such column and give nulls; with one in a
bound, they miss rows. So the name of a data file tells the length of this end and its CRC32, in hexadecimal
digits: `part-0.end-751-9ac31b02.parquet`. A name goes wherever its table goes: through checkpoints, copies
and rollbacks.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medallion_platform.storage import in_bucket, store

if TYPE_CHECKING:
    import pyarrow as pa

LastBytes = Callable[[int], bytes]
"""Gives the last so many bytes of a file; all of one that has fewer."""

Names = frozenset[tuple[str, ...]]
"""Of columns and of the fields within them, each with those above it."""

_TOLD = re.compile(r"(?:\.end-([0-9a-f]+)-([0-9a-f]{8}))?\.parquet$")
_AT_FIRST = 65_536
"""Bytes that are read at once: the end of a file is seldom longer."""
_MARK_BYTES = 8
"""The length of the footer and `PAR1`, with which every Parquet file ends."""


class FileEnd(NamedTuple):
    """What the name of a file tells of its end: bytes, and their CRC32."""

    length: int
    crc: int


def told_end(path: str) -> FileEnd | None:
    """What a file's name tells of its end, None if it tells nothing."""
    found = _TOLD.search(path)
    return FileEnd(int(found[1], 16), int(found[2], 16)) if found and found[1] else None


def path_with_end(path: str, end: bytes) -> str:
    """The path under which a file tells that it has this end."""
    return _TOLD.sub(f".end-{len(end):x}-{zlib.crc32(end):08x}.parquet", path)


def last_bytes(root: str, path: str, size: int) -> LastBytes:
    """The last bytes of a file of `size` bytes below a root, in a bucket by one request each time.

    What it gives raises FileNotFoundError if the file is gone, and OSError or an error of obstore if it is
    shorter, or cannot be read.
    """

    def last(length: int) -> bytes:
        start = max(size - length, 0)
        if in_bucket(root):
            return store(root).get_range(path, start=start, end=size).to_bytes()
        with Path(root, path).open("rb", buffering=0) as file:  # a quarter of what obstore needs
            file.seek(start)
            found = file.read(size - start)
        if len(found) < size - start:
            raise OSError(f"{path} has fewer than {size} bytes")
        return found

    return last


def read_end(last: LastBytes, size: int) -> tuple[Any, bytes]:
    """The metadata of a Parquet file of `size` bytes (as pyarrow has it), and its end.

    Raises:
        pyarrow.ArrowException: it has no footer that can be read.
    """
    footer, read = _read_footer(last)
    length = size - end_of_pages(footer)
    return footer, read[-length:] if length <= len(read) else last(length)


def _read_footer(last: LastBytes) -> tuple[Any, bytes]:
    """The metadata, and the last bytes of the file that were read for them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    read = last(_AT_FIRST)
    footer_bytes = int.from_bytes(read[-_MARK_BYTES:-4], "little") + _MARK_BYTES  # "File Format" of Parquet
    if footer_bytes > len(read):
        read = last(footer_bytes)
    return pq.read_metadata(pa.BufferReader(read[-footer_bytes:])), read


def end_of_pages(footer: Any) -> int:
    """Where the last page of a file ends, by its metadata."""
    chunks = (
        g.column(c) for g in map(footer.row_group, range(footer.num_row_groups)) for c in range(g.num_columns)
    )
    return max((_begin(c) + c.total_compressed_size for c in chunks), default=4)


def damage(path: str, last: LastBytes, columns: Names, rows: int | None) -> str:
    """What is wrong with the end of a file, "" if nothing is known to be.

    columns, rows: see `contradiction`, which decides if the name tells nothing.

    Raises:
        pyarrow.ArrowException: it has no footer that can be read.
    """
    told = told_end(path)
    if told is None:
        return contradiction(_read_footer(last)[0], columns, rows)
    whole = zlib.crc32(last(told.length)) == told.crc
    return "" if whole else "its end has another checksum than its name tells"


def names_of(columns: pa.Schema) -> Names:
    """The names in the columns of a table or a file."""
    return frozenset(_names(columns))


def contradiction(footer: Any, columns: Names, rows: int | None) -> str:
    """How the metadata of a file contradict its table and the Delta log, "" if they do not.

    It is what can be known of files whose names tell nothing. columns: `names_of` the table. rows: of the
    file by the log, None if it does not say. A file may lack columns that the table got later, and may have
    others.
    """
    grouped = sum(footer.row_group(g).num_rows for g in range(footer.num_row_groups))
    if rows is not None and (footer.num_rows, grouped) != (rows, rows):
        return f"its footer says {footer.num_rows} rows, and the Delta log {rows}"
    there = names_of(footer.schema.to_arrow_schema())
    for name in sorted(columns - there):
        for other in sorted(there - columns):
            if _is_misread(name, other):
                return f"its footer says {'.'.join(other)!r} for the column {'.'.join(name)!r}"
    return ""


def _begin(chunk: Any) -> int:
    return min(at for at in (chunk.dictionary_page_offset, chunk.data_page_offset) if at)


def _names(fields: Iterable[pa.Field[Any]], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for field in fields:
        name = (*above, field.name)
        yield name
        yield from _names(_fields_in(field.type), name)


def _fields_in(kind: pa.DataType) -> Iterable[pa.Field[Any]]:
    """The fields of a struct, also of one in lists or maps (engines differ in the names of their parts)."""
    import pyarrow as pa

    from medallion_platform.storage.arrow_types import is_list  # with it comes pyarrow

    if is_list(kind):
        return _fields_in(kind.value_type)
    if pa.types.is_map(kind):
        return [*_fields_in(kind.key_type), *_fields_in(kind.item_type)]
    return kind.fields if pa.types.is_struct(kind) else ()


def _is_misread(name: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two names in one place differ in one byte only: no column was renamed, a bit turned over."""
    if name[:-1] != other[:-1]:
        return False
    one, two = name[-1].encode(), other[-1].encode("utf-8", "surrogateescape")
    return len(one) == len(two) and sum(a != b for a, b in zip(one, two, strict=True)) == 1
