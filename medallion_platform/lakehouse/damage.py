"""Data files that are missing or damaged: finds out which one, and says so.

Parquet stores a CRC32 of each page ("Checksumming" in its format). Everything that the platform writes has
it, and Spark and the maintenance verify it when they read. In files of other software without it, only damage
that prevents decoding is detected.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import PurePosixPath

from medallion_platform.errors import Kind, MedallionError, classify
from medallion_platform.lakehouse.delta_log import FileEntry
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.storage import store

_UNDECODABLE = re.compile(
    r"^(ComputeError|ArrowInvalid): parquet: |Parquet error|Parquet magic bytes|Couldn't deserialize thrift"
    r"|^PanicException: .*range\.end"
)
"""What readers say of a file that they cannot decode, without its name: Polars, delta-rs, Arrow."""


class DamagedFile(MedallionError):
    """A data file is gone or damaged; the text says which, and what to do."""

    kind = Kind.CORRUPT

    def __init__(self, table: str, path: str, why: str) -> None:
        fix = "its rows exist nowhere else: restore the file from a backup"
        if table.startswith(("silver.", "gold.")):
            fix = f"materialize {table} with `rebuild: true`, which recomputes it from its inputs"
        super().__init__(
            f"{table}: its data file {path} {why}. Nothing was written; {fix}, and run again", table=table
        )


@contextmanager
def telling_damage(lake: Lake, tables: Iterable[str]) -> Generator[None]:
    """Where what is done in the `with` fails because of a data file of one of the tables, say which.

    Raises:
        DamagedFile: where one is gone or damaged.
    """
    try:
        yield
    except BaseException as error:  # Polars panics over a file that is shorter than its log says
        if told := _told(error):
            files = [(table, file) for table in tables for file in files_of_newest(lake, table)]
            # Of one whose reader names no file, any may be the damaged one.
            undecodable = any(map(_UNDECODABLE.search, told))
            for table, file in files:
                if undecodable or any(PurePosixPath(file["path"]).name in text for text in told):
                    verify(lake, table, file)
        raise


def verify_all(lake: Lake, table: str) -> None:
    """Read every data file of a table's newest version, where there is one.

    Raises:
        DamagedFile: the first one that is not as it was written.
    """
    for file in files_of_newest(lake, table):
        verify(lake, table, file)


def files_of_newest(lake: Lake, table: str) -> list[FileEntry]:
    """The lines of `files_of` of a table's newest version; none where there is no table."""
    opened = lake.open(table)
    return files_of(opened) if opened else []


def verify(lake: Lake, table: str, file: FileEntry) -> None:
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
        if not classify(error).of_content:
            raise
        raise DamagedFile(table, f"{root}/{path}", f"is damaged ({error})") from error


def _told(error: BaseException | None) -> list[str]:
    """The texts of an error and of what caused it; none where that is nothing in a file."""
    found: list[str] = []
    if error is not None and not classify(error).of_content:
        return found
    while error is not None:
        found.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return found
