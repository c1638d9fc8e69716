"""The table writer of the polars engine: frames into Delta tables, without a JVM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from medallion_platform.lakehouse import paths
from medallion_platform.lakehouse.commit import (
    CommitConflict,
    StagedFile,
    commit,
    is_conflict,
    sequence_of,
    write_file,
    writer_transaction,
)
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.lake import path_of
from medallion_platform.lakehouse.log_archive import put_back
from medallion_platform.storage import store

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from deltalake import DeltaTable


def append(table: DeltaTable, rows: pl.DataFrame, record: CommitRecord, positions: Mapping[str, int]) -> int:
    """Append rows, their record and the positions they reach in one commit; gives its version.

    table: opened before the work began, so that a second writer is noticed. New columns are added.

    Raises:
        CommitConflict: another writer committed meanwhile.
    """
    if any((table.transaction_version(source) or -1) > position for source, position in positions.items()):
        raise CommitConflict(f"{table.metadata().name}: another writer committed first; run it again")
    add_columns(table, rows.clear().to_arrow().schema)
    root, partition_by = path_of(table), table.metadata().partition_columns
    files = [write(root, path, part, values) for path, values, part in parts(rows, partition_by)]
    return commit(table, record, add=files, positions=positions)


def parts(
    rows: pl.DataFrame, partition_by: Sequence[str], folder: str = ""
) -> Iterator[tuple[str, dict[str, str | None], pl.DataFrame]]:
    """The rows of each partition, with a new file's path below a folder, and the partition's values."""
    if rows.is_empty():
        return
    for part in rows.partition_by(list(partition_by), maintain_order=True) if partition_by else [rows]:
        values = {c: paths.text(part[c].item(0)) for c in partition_by}
        file = paths.below(values, f"{uuid4().hex}.parquet")
        yield f"{folder}/{file}" if folder else file, values, part


def write(
    root: str, path: str, rows: pl.DataFrame, partition: Mapping[str, str | None] | None = None
) -> StagedFile:
    """Rows of one partition as a file, written cheaply, with bounds of what is not text.

    Clustering compresses them for good; dictionaries of payloads and keys would be built for nothing.
    """
    import polars as pl
    import pyarrow as pa

    table = rows.drop(partition or ()).to_arrow(compat_level=pl.CompatLevel.oldest())
    bounded = [f.name for f in table.schema if pa.types.is_primitive(f.type)]
    return write_file(
        root,
        path,
        table,
        partition,
        compression="snappy",
        use_dictionary=False,
        write_statistics=bounded,
    )


def batches(root: str, path: str) -> Iterator[pl.DataFrame]:
    """The rows of a Parquet file, some at a time (see `pieces`)."""
    import obstore
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    from medallion_platform import pieces

    def opened(repeated: Sequence[int] = ()) -> pq.ParquetFile:
        reader = obstore.open_reader(store(root), path)
        return pq.ParquetFile(pa.PythonFile(_ObjectFile(reader), mode="r"), read_dictionary=list(repeated))

    with opened() as file:
        repeated = pieces.repeated(file)
    with opened(repeated) as file:
        names = file.schema_arrow.names
        for group in range(file.num_row_groups):
            for piece in pieces.of_group(file, group):
                columns = [pieces.written_out(column) for column in piece.columns]
                yield pl.DataFrame(pl.from_arrow(pa.Table.from_arrays(columns, names=names)))


class _ObjectFile:
    """An object as Arrow wants a file."""

    closed = False

    def __init__(self, reader: Any) -> None:
        self.seek, self.tell, self._read = reader.seek, reader.tell, reader.read

    def read(self, size: int = -1) -> bytes:
        return bytes(self._read(size if size >= 0 else None))

    def close(self) -> None:
        self.closed = True


def replace(table: DeltaTable, rows: pl.DataFrame, record: CommitRecord, predicate: str | None) -> int:
    """Put rows in the place of those that match `predicate` (None: of all); gives the version.

    Where all are replaced, columns take the types of the rows. No column goes.

    Raises:
        CommitConflict: another writer committed meanwhile.
    """
    import polars as pl
    from deltalake import write_deltalake

    schema_mode: Literal["merge", "overwrite"] | None = _schema_mode(table, rows)
    if predicate is None:
        have = pl.scan_delta(table).collect_schema()
        if any(rows.schema.get(name, kind) != kind for name, kind in have.items()):
            gone = [pl.lit(None, kind).alias(name) for name, kind in have.items() if name not in rows.columns]
            rows, schema_mode = rows.with_columns(gone), "overwrite"
    with writer_transaction(table, record.sequence, record) as properties:
        write_deltalake(
            table,
            rows,
            mode="overwrite",
            predicate=predicate,
            schema_mode=schema_mode,
            commit_properties=properties,
        )
    return table.version()


def delete(table: DeltaTable, predicate: str, record: CommitRecord) -> None:
    """Take away the rows that match a predicate; on record also where none does.

    Raises:
        CommitConflict: another writer committed meanwhile.
    """
    with writer_transaction(table, record.sequence, record) as properties:
        table.delete(predicate, commit_properties=properties)
    if sequence_of(table) < record.sequence:
        commit(table, record)


def restore(table: DeltaTable, version: int, record: CommitRecord) -> None:
    """Bring the rows back that the table had at a version, where it is not that one still.

    Raises:
        CommitConflict: another writer committed meanwhile.
    """
    if table.version() > version:
        put_back(path_of(table), version)
        with writer_transaction(table, record.sequence, record) as properties:
            table.restore(version, commit_properties=properties)


def add_columns(table: DeltaTable, fields: pa.Schema) -> None:
    """Give a table those of these columns that it lacks, null in the rows that are there.

    Raises:
        CommitConflict: another writer changed the table's columns meanwhile, or committed.
    """
    from deltalake import Field, Schema
    from deltalake.exceptions import CommitFailedError

    have = {f.name for f in table.schema().fields}
    new = [
        Field(f.name, f.type, nullable=True) for f in Schema.from_arrow(fields).fields if f.name not in have
    ]
    if not new:
        return
    name, seen = table.metadata().name, sequence_of(table)
    try:
        table.alter.add_columns(new)
    except CommitFailedError as error:
        if not is_conflict(error):
            raise
        raise CommitConflict(f"{name}: another writer added columns first ({error})") from error
    if sequence_of(table) != seen:  # the table stands behind that writer now
        raise CommitConflict(f"{name}: another writer committed first; run it again")


def _schema_mode(table: DeltaTable, rows: pl.DataFrame) -> Literal["merge"] | None:
    """Rows may have more columns than the table, and fewer."""
    return "merge" if set(rows.columns) != {f.name for f in table.schema().fields} else None


def key_rows(
    table: DeltaTable,
    key: Iterable[str],
    bounds: Mapping[str, tuple[object, object]],
    also: Iterable[str] = (),
) -> pl.DataFrame:
    """The key columns (and `also`) of rows whose columns lie within `bounds` (both ends included).

    Files whose statistics lie outside are not opened.
    """
    import polars as pl

    scan = pl.scan_delta(table)
    for column, (low, high) in bounds.items():
        scan = scan.filter(pl.col(column).is_between(pl.lit(low), pl.lit(high)))
    return scan.select(*dict.fromkeys([*key, *also])).collect()
