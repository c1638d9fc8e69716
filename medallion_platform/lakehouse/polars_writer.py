"""The table writer of the polars engine: frames into Delta tables, without a JVM."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from medallion_platform.lakehouse import paths
from medallion_platform.lakehouse.commit import (
    CommitConflict,
    StagedFile,
    commit_files,
    is_conflict,
    stage_parquet_file,
    write_parquet_file,
    writer_sequence,
    writer_transaction,
)
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.damaged_files import verify_file_ends
from medallion_platform.lakehouse.guard import UNGUARDED, Guard
from medallion_platform.lakehouse.lake import files_of, path_of
from medallion_platform.lakehouse.log_archive import put_back_commits
from medallion_platform.storage import delta_storage_options, store

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from deltalake import DeltaTable

    from medallion_platform.lakehouse.delta_log import FileEntry


def append_rows(
    table: DeltaTable,
    rows: pl.DataFrame,
    record: CommitRecord,
    positions: Mapping[str, int],
    guard: Guard = UNGUARDED,
    wrote: Callable[[], object] = lambda: None,
) -> int:
    """Append rows with their record and positions in one commit; returns its version.

    table: opened before the work began, so that a second writer is detected. New columns are added. guard: as
    in `writer_transaction`, here and below. wrote: is called after each file.

    Raises:
        CommitConflict: another writer committed first.
    """
    if any((table.transaction_version(source) or -1) > position for source, position in positions.items()):
        raise CommitConflict(f"{table.metadata().name}: another writer committed first")
    add_columns(table, rows.clear().to_arrow().schema, guard)
    root, partition_by = path_of(table), table.metadata().partition_columns
    files: list[StagedFile] = []
    for path, values, part in split_by_partition(rows, partition_by):
        files.append(write_partition_file(root, path, part, values))
        wrote()
    return commit_files(table, record, add=files, positions=positions, guard=guard)


def split_by_partition(
    rows: pl.DataFrame, partition_by: Sequence[str], folder: str = ""
) -> Iterator[tuple[str, dict[str, str | None], pl.DataFrame]]:
    """For each partition: the path of a new file below `folder`, the partition's values, and its rows."""
    if rows.is_empty():
        return
    for part in rows.partition_by(list(partition_by), maintain_order=True) if partition_by else [rows]:
        values = {c: paths.partition_value_text(part[c].item(0)) for c in partition_by}
        file = paths.partition_file_path(values, f"{uuid4().hex}.parquet")
        yield f"{folder}/{file}" if folder else file, values, part


def write_partition_file(
    root: str, path: str, rows: pl.DataFrame, partition: Mapping[str, str | None] | None = None
) -> StagedFile:
    """Write the rows of one partition as a file to be committed (see `write_parquet_file`)."""
    table = _in_arrow(rows, partition)
    return write_parquet_file(root, path, table, partition, **_as_written(table))


def stage_partition_file(
    root: str, path: str, rows: pl.DataFrame, partition: Mapping[str, str | None] | None = None
) -> None:
    """Write the rows of one partition as a file below a staged folder (see `move_staged_files`)."""
    table = _in_arrow(rows, partition)
    stage_parquet_file(root, path, table, **_as_written(table))


def _in_arrow(rows: pl.DataFrame, partition: Mapping[str, str | None] | None) -> pa.Table:
    import polars as pl

    return rows.drop(partition or ()).to_arrow(compat_level=pl.CompatLevel.oldest())


def _as_written(table: pa.Table) -> dict[str, Any]:
    """Options of a file: little compression, no dictionaries, and bounds except for text.

    Clustering compresses better later; dictionaries of payloads and keys would be of no use.
    """
    import pyarrow as pa

    bounded = [f.name for f in table.schema if pa.types.is_primitive(f.type)]
    return {"compression": "snappy", "use_dictionary": False, "write_statistics": bounded}


def read_file_batches(root: str, path: str) -> Iterator[pl.DataFrame]:
    """The rows of a Parquet file in pieces of bounded size (see `storage.pieces`)."""
    import obstore
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    from medallion_platform.storage import pieces

    def opened(**options: Any) -> pq.ParquetFile:
        reader = obstore.open_reader(store(root), path)
        return pq.ParquetFile(pa.PythonFile(_ObjectFile(reader), mode="r"), **options)

    for piece in pieces.of_file(opened):
        yield pl.DataFrame(pl.from_arrow(pa.Table.from_batches([piece])))


def scan_data_files(root: str, files: Iterable[str], schema: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    """These columns of a table's data files; null where they are newer than a file.

    schema: of columns that files hold, so of none by which the table is partitioned.
    """
    import polars as pl

    return pl.scan_parquet(
        [f"{root}/{file}" for file in files],
        schema=dict(schema) or None,
        missing_columns="insert",
        extra_columns="ignore",
        hive_partitioning=False,
        glob=False,
        storage_options=delta_storage_options(root),
        cast_options=pl.ScanCastOptions(datetime_cast=["nanosecond-downcast", "convert-timezone"]),
    )


class _ObjectFile:
    """An object in the form of a file for Arrow."""

    closed = False

    def __init__(self, reader: Any) -> None:
        self.seek, self.tell, self._read = reader.seek, reader.tell, reader.read

    def read(self, size: int = -1) -> bytes:
        return bytes(self._read(size if size >= 0 else None))

    def close(self) -> None:
        self.closed = True


def replace_rows(
    table: DeltaTable,
    rows: pl.DataFrame,
    record: CommitRecord,
    predicate: str | None,
    guard: Guard = UNGUARDED,
) -> int:
    """Replace the rows that match `predicate` (None: all rows); returns the version.

    If all rows are replaced, columns take the types of the new rows. No column is dropped.

    Raises:
        CommitConflict: another writer committed first.
    """
    import polars as pl
    from deltalake import write_deltalake

    schema_mode: Literal["merge", "overwrite"] | None = _schema_mode_for(table, rows)
    if predicate is None:
        have = pl.scan_delta(table).collect_schema()
        if any(rows.schema.get(name, kind) != kind for name, kind in have.items()):
            gone = [pl.lit(None, kind).alias(name) for name, kind in have.items() if name not in rows.columns]
            rows, schema_mode = rows.with_columns(gone), "overwrite"
    with writer_transaction(table, record.sequence, record, guard=guard) as properties:
        write_deltalake(
            table,
            rows,
            mode="overwrite",
            predicate=predicate,
            schema_mode=schema_mode,
            commit_properties=properties,
        )
    return table.version()


def delete_rows(table: DeltaTable, predicate: str, record: CommitRecord, guard: Guard = UNGUARDED) -> None:
    """Delete the rows that match a predicate; a commit is made even if none matches.

    Raises:
        CommitConflict: another writer committed first.
    """
    with writer_transaction(table, record.sequence, record, guard=guard) as properties:
        table.delete(predicate, commit_properties=properties)
    if writer_sequence(table) < record.sequence:
        commit_files(table, record, guard=guard)


def restore_version(
    table: DeltaTable,
    version: int,
    record: CommitRecord,
    positions: Mapping[str, int] | None = None,
    guard: Guard = UNGUARDED,
    *,
    missing_files: bool = False,
) -> None:
    """Restore the rows of an earlier version; does nothing if this is still the newest version.

    positions: of logs, where the rows that are gone now are to be read again. missing_files: whether files of
    that version may be gone; otherwise Delta refuses.

    Raises:
        CommitConflict: another writer committed first.
    """
    if table.version() > version:
        put_back_commits(path_of(table), version)
        with writer_transaction(table, record.sequence, record, positions, guard) as properties:
            table.restore(version, ignore_missing_files=missing_files, commit_properties=properties)


def add_columns(table: DeltaTable, fields: pa.Schema, guard: Guard = UNGUARDED) -> None:
    """Add the columns that a table lacks; they are null in existing rows.

    Raises:
        CommitConflict: another writer changed the table's columns, or committed first.
        NotAllowed: the guard refuses.
    """
    from deltalake import Field, Schema
    from deltalake.exceptions import CommitFailedError

    have = {f.name for f in table.schema().fields}
    new = [
        Field(f.name, f.type, nullable=True) for f in Schema.from_arrow(fields).fields if f.name not in have
    ]
    if not new:
        return
    guard.check()
    name, seen = table.metadata().name, writer_sequence(table)
    try:
        table.alter.add_columns(new)
    except CommitFailedError as error:
        if not is_conflict(error):
            raise
        raise CommitConflict(f"{name}: another writer added columns first ({error})") from error
    if writer_sequence(table) != seen:  # the table stands behind that writer now
        raise CommitConflict(f"{name}: another writer committed first")


def _schema_mode_for(table: DeltaTable, rows: pl.DataFrame) -> Literal["merge"] | None:
    """The schema mode for rows with more or fewer columns than the table."""
    return "merge" if set(rows.columns) != {f.name for f in table.schema().fields} else None


def scan_rows(table: DeltaTable, files: Iterable[FileEntry] | None = None) -> pl.LazyFrame:
    """The rows of a table, for work to which a column that is read as nulls would be a loss.

    files: those that have the rows to which the caller limits the result, None for all.

    Raises:
        DamagedFile: one of them is missing, or its end is damaged.
    """
    import polars as pl

    verify_file_ends(table, files_of(table) if files is None else files)
    return pl.scan_delta(table)


def read_key_columns(
    table: DeltaTable,
    key: Iterable[str],
    bounds: Mapping[str, tuple[object, object]],
    also: Iterable[str] = (),
) -> pl.DataFrame:
    """The key columns (and `also`) of rows with values within `bounds` (both ends included).

    Files with statistics outside the bounds are not opened.

    Raises:
        DamagedFile: a file is missing, or its end is damaged.
    """
    import polars as pl

    scan = scan_rows(table, files_of(table, bounds))
    for column, (low, high) in bounds.items():
        scan = scan.filter(pl.col(column).is_between(pl.lit(low), pl.lit(high)))
    return scan.select(*dict.fromkeys([*key, *also])).collect()
