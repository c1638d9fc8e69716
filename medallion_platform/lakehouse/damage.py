"""Data files that are gone, or no longer what was written: which one it is, in words.

Parquet keeps a CRC32 of each page ("Checksumming" of its format). All that the platform writes
has it, and Spark and the maintenance verify it when they read. Of files that other software wrote
without, only what no longer decodes is noticed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.storage import of_request, store

_MARKS = ("FAILED_READ_FILE", "PATH_NOT_FOUND", "FileNotFound", "No such file", "NoSuchKey", "parquet")
"""What the engines say of a file that they cannot read."""


class DamagedFile(RuntimeError):
    """A data file is gone or damaged; the text says which, and what to do."""

    def __init__(self, table: str, path: str, why: str) -> None:
        mend = "its rows are nowhere else: bring the file back from a backup"
        if table.startswith(("silver.", "gold.")):
            mend = f"materialize {table} with `rebuild: true`, which makes it anew from what it is made of"
        super().__init__(f"{table}: its data file {path} {why}. Nothing was written; {mend}, and run again")


@contextmanager
def telling_damage(lake: Lake, tables: Iterable[str]) -> Generator[None]:
    """Where what is done in the `with` fails because of a data file of one of the tables, say which.

    Raises:
        DamagedFile: where one is gone or damaged.
    """
    try:
        yield
    except Exception as error:
        if _is_of_a_file(error):
            for table in tables:
                verify_all(lake, table)
        raise


def verify_all(lake: Lake, table: str) -> None:
    """Read every data file of a table's newest version, where there is one.

    Raises:
        DamagedFile: the first one that is not as it was written.
    """
    opened = lake.open(table)
    for file in files_of(opened) if opened else ():
        verify(lake, table, file)


def verify(lake: Lake, table: str, file: dict[str, Any]) -> None:
    """Read a data file whole, by its line of `files_of`.

    Raises:
        DamagedFile: it is gone, a page is not what its checksum says, or does not decode.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    root, path = lake.path(table), file["path"]
    try:
        content = pa.py_buffer(store(root).get(path).bytes())
        pages = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        for _ in pages.iter_batches():
            pass
    except FileNotFoundError:
        raise DamagedFile(table, f"{root}/{path}", "is gone") from None
    except (OSError, pa.ArrowException) as error:
        if of_request(error):
            raise
        raise DamagedFile(table, f"{root}/{path}", f"is damaged ({error})") from error


def _is_of_a_file(error: BaseException | None) -> bool:
    while error is not None:
        if of_request(error):
            return False
        if any(mark in str(error) for mark in _MARKS):
            return True
        error = error.__cause__ or error.__context__
    return False
