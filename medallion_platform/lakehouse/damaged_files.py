"""Data files that are missing or damaged: finds out which one, and says so.

Parquet stores a CRC32 of each page ("Checksumming" in its format). Everything that the platform writes has
it, and Spark and the maintenance verify it when they read. In files of other software without it, only damage
that prevents decoding is detected. What no page's checksum guards is the end of a file: `verify_file_ends` is
called before a table's files are read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from medallion_platform.errors import Kind, MedallionError, classify, links
from medallion_platform.lakehouse import file_ends
from medallion_platform.lakehouse.delta_log import FileEntry
from medallion_platform.lakehouse.lake import Lake, files_of, path_of
from medallion_platform.storage import client_reason, in_bucket, run_in_parallel, store

if TYPE_CHECKING:
    from deltalake import DeltaTable


class DamagedFile(MedallionError):
    """A data file is missing or damaged; the text says which one, and what to do."""

    kind = Kind.CORRUPT

    def __init__(self, table: str, path: str, why: str, remedy: str = "") -> None:
        fix = f"`medallion restore --table {table}` puts a backup's good copy in its place"
        if table.startswith(("silver.", "gold.")):
            fix = f"materialize {table} with `rebuild: true`, which recomputes it from its inputs"
        super().__init__(
            f"{table}: its data file {path} {why}. Nothing was written",
            table=table,
            remedy=remedy or f"{fix}, and run again",
        )
        self.path, self.why, self.file = path, why, PurePosixPath(path).name


@contextmanager
def report_damage(lake: Lake, tables: Iterable[str]) -> Generator[None]:
    """If the work in the `with` block fails because of a data file of these tables, say which file it is.

    Raises:
        DamagedFile: a data file is missing or damaged.
    """
    try:
        yield
    except DamagedFile:
        raise
    except BaseException as error:  # Polars panics over a file that is shorter than its log says
        if told := _read_error_texts(error):
            files = [(table, file) for table in map(lake.open, tables) if table for file in files_of(table)]
            # Of one whose reader names no file, any may be the damaged one.
            undecodable = any("Undecodable" in link.names for link in links(error))
            for table, file in files:
                if undecodable or any(PurePosixPath(file["path"]).name in text for text in told):
                    verify_data_file(table, file)
        raise


def verify_table(lake: Lake, table: str) -> None:
    """Read every data file of a table's newest version, if the table exists.

    Raises:
        DamagedFile: a file is missing or damaged; the first one found.
    """
    if opened := lake.open(table):
        for file in files_of(opened):
            verify_data_file(opened, file)


def verify_data_file(table: DeltaTable, file: FileEntry) -> None:
    """Read a whole data file, given its row of `files_of`.

    Raises:
        DamagedFile: it is missing, its end or a page has a wrong checksum, or a page cannot be decoded.
    """
    with _explain_damage(table, file):
        content = store(path_of(table)).get(file["path"]).bytes().to_bytes()
        _verify_end(table, file, lambda length: content[-length:], names_in(table))
        _read_pages(content)


def verify_file_ends(table: DeltaTable, files: Iterable[FileEntry]) -> None:
    """Compare the end of each of these files with what its name tells of it, and read nothing else.

    files: with `path`, `size_bytes` and `num_records`, as in `files_of`. If a name tells nothing (an older
    version or other software wrote the file), the footer must not contradict the table and the Delta log.

    Raises:
        DamagedFile: a file is missing, or its end is damaged.
    """
    root, columns = path_of(table), names_in(table)

    def verify(file: FileEntry) -> None:
        with _explain_damage(table, file):
            _verify_end(table, file, file_ends.last_bytes(root, file["path"], file["size_bytes"]), columns)

    if in_bucket(root):
        run_in_parallel(verify, files)
    else:  # there threads cost more than the disk
        for file in files:
            verify(file)


def copy_damage(root: str, key: str, file: FileEntry, columns: file_ends.Names) -> str:
    """What is wrong with a copy of a data file, "" if nothing is known to be.

    Its size is compared with that of the Delta log, and its end with what the file's name tells of it.
    """
    return _reason_of(lambda: _damage_at_end(root, key, file, columns))


def damage_within(root: str, key: str, file: FileEntry, columns: file_ends.Names) -> str:
    """What is wrong with a data file, or with a copy of it, whose pages are all read; "" if nothing is."""

    def damage() -> str:
        if why := _damage_at_end(root, key, file, columns):
            return why
        _read_pages(store(root).get(key).bytes().to_bytes())
        return ""

    return _reason_of(damage)


def _damage_at_end(root: str, key: str, file: FileEntry, columns: file_ends.Names) -> str:
    if (size := store(root).head(key)["size"]) != file["size_bytes"]:
        return f"it has {size} bytes, and by the Delta log {file['size_bytes']}"
    return file_ends.damage(file["path"], file_ends.last_bytes(root, key, size), columns, file["num_records"])


def _reason_of(damage: Callable[[], str]) -> str:
    """What `damage` returns, or why what it reads cannot be read."""
    import pyarrow as pa
    from obstore.exceptions import BaseError

    try:
        return damage()
    except FileNotFoundError:
        return "it is gone"
    except (BaseError, OSError, UnicodeDecodeError, pa.ArrowException) as error:
        if not classify(error).of_content:
            raise
        return client_reason(error)


def _read_pages(content: bytes) -> None:
    """Read all pages of a data file; what is damaged raises."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for _ in pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).iter_batches():
        pass


def is_damaged(lake: Lake, table: str, name: str) -> bool:
    """Whether the newest version of a table has a data file of this name that is missing or damaged.

    name: without its folder; files of several partitions can have it. All pages are read.
    """
    opened = lake.open(table)
    if opened is None:
        return False
    root, columns = path_of(opened), names_in(opened)
    named = [file for file in files_of(opened) if PurePosixPath(file["path"]).name == name]
    return any(damage_within(root, file["path"], file, columns) for file in named)


def files_with_damage(table: DeltaTable, files: Iterable[FileEntry]) -> dict[str, str]:
    """What is wrong with each of a table's files that is missing or damaged, by path (see `copy_damage`)."""
    root, columns, entries = path_of(table), names_in(table), list(files)
    found = run_in_parallel(lambda file: copy_damage(root, file["path"], file, columns), entries)
    return {file["path"]: why for file, why in zip(entries, found, strict=True) if why}


def names_in(table: DeltaTable) -> file_ends.Names:
    """The names of the columns of a table, and of the fields within them."""
    import pyarrow as pa

    return file_ends.names_of(pa.schema(table.schema()))


def _verify_end(
    table: DeltaTable, file: FileEntry, last: file_ends.LastBytes, columns: file_ends.Names
) -> None:
    if why := file_ends.damage(file["path"], last, columns, file["num_records"]):
        raise _damaged(table, file["path"], f"is damaged ({why})")


@contextmanager
def _explain_damage(table: DeltaTable, file: FileEntry) -> Generator[None]:
    """Say of a data file that cannot be read in the `with` block that it is missing or damaged."""
    import pyarrow as pa
    from obstore.exceptions import BaseError

    path, expected = file["path"], file["size_bytes"]
    try:
        yield
    except FileNotFoundError:
        raise _damaged(table, path, "is gone") from None
    except (BaseError, OSError, UnicodeDecodeError, pa.ArrowException) as error:
        kind = classify(error).kind
        if kind not in (Kind.UNKNOWN, Kind.CORRUPT, Kind.PERMANENT):
            raise
        # What is read behind the end of a file is refused like any other wrong request.
        if (size := store(path_of(table)).head(path)["size"]) != expected:
            why = f"it has {size} bytes, and by the Delta log {expected}"
        elif kind is Kind.PERMANENT:
            raise
        else:
            why = client_reason(error)
        raise _damaged(table, path, f"is damaged ({why})") from error


def _damaged(table: DeltaTable, path: str, why: str) -> DamagedFile:
    root = path_of(table)
    return DamagedFile(".".join(root.rsplit("/", 2)[1:]), f"{root}/{path}", why)


def _read_error_texts(error: BaseException | None) -> list[str]:
    """The texts of an error and its causes; none if the error is not about a file."""
    found: list[str] = []
    if error is not None and not classify(error).of_content:
        return found
    while error is not None:
        found.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return found
