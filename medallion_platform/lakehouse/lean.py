"""The lean side of the lakehouse: Polars frames into Delta tables, without a JVM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from medallion_platform.lakehouse.commit import Fenced, commit, fenced, sequence_of
from medallion_platform.lakehouse.lake import path_of
from medallion_platform.lakehouse.record import Record
from medallion_platform.lakehouse.rolled_log import put_back

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from deltalake import DeltaTable, WriterProperties


def append(table: DeltaTable, rows: pl.DataFrame, record: Record, positions: Mapping[str, int]) -> int:
    """Append rows, their record and the positions they reach in one commit; gives its version.

    table: opened before the work began, so that a second writer is noticed. New columns are added.

    Raises:
        Fenced: another writer committed meanwhile.
    """
    from deltalake import write_deltalake

    if any((table.transaction_version(source) or -1) > position for source, position in positions.items()):
        raise Fenced(f"{table.metadata().name}: another writer has moved on; run it again")
    mode = _schema_mode(table, rows)
    with fenced(table, record.sequence, record, positions) as properties:
        write_deltalake(
            table,
            rows,
            mode="append",
            schema_mode=mode,
            commit_properties=properties,
            writer_properties=_appended(),
        )
    return table.version()


def replace(table: DeltaTable, rows: pl.DataFrame, record: Record, predicate: str | None) -> int:
    """Put rows in the place of those that match `predicate` (None: of all); gives the version.

    Where all are replaced, columns take the types of the rows. No column goes.

    Raises:
        Fenced: another writer committed meanwhile.
    """
    import polars as pl
    from deltalake import write_deltalake

    schema_mode: Literal["merge", "overwrite"] | None = _schema_mode(table, rows)
    if predicate is None:
        have = pl.scan_delta(table).collect_schema()
        if any(rows.schema.get(name, kind) != kind for name, kind in have.items()):
            gone = [pl.lit(None, kind).alias(name) for name, kind in have.items() if name not in rows.columns]
            rows, schema_mode = rows.with_columns(gone), "overwrite"
    with fenced(table, record.sequence, record) as properties:
        write_deltalake(
            table,
            rows,
            mode="overwrite",
            predicate=predicate,
            schema_mode=schema_mode,
            commit_properties=properties,
        )
    return table.version()


def delete(table: DeltaTable, predicate: str, record: Record) -> None:
    """Take away the rows that match a predicate; on record also where none does.

    Raises:
        Fenced: another writer committed meanwhile.
    """
    with fenced(table, record.sequence, record) as properties:
        table.delete(predicate, commit_properties=properties)
    if sequence_of(table) < record.sequence:
        commit(table, record)


def restore(table: DeltaTable, version: int, record: Record) -> None:
    """Bring the rows back that the table had at a version, where it is not that one still.

    Raises:
        Fenced: another writer committed meanwhile.
    """
    if table.version() > version:
        put_back(path_of(table), version)
        with fenced(table, record.sequence, record) as properties:
            table.restore(version, commit_properties=properties)


def add_columns(table: DeltaTable, fields: pa.Schema) -> None:
    """Give a table further columns, null in the rows that are there.

    Raises:
        Fenced: another writer changed the table's columns meanwhile.
    """
    from deltalake import Field, Schema
    from deltalake.exceptions import CommitFailedError

    new = [Field(f.name, f.type, nullable=True) for f in Schema.from_arrow(fields).fields]
    try:
        table.alter.add_columns(new)
    except CommitFailedError as error:
        raise Fenced(f"{table.metadata().name}: another writer added columns first ({error})") from error


def _schema_mode(table: DeltaTable, rows: pl.DataFrame) -> Literal["merge"] | None:
    """Rows may have more columns than the table, and fewer."""
    return "merge" if set(rows.columns) != {f.name for f in table.schema().fields} else None


def _appended() -> WriterProperties:
    """How appended files are written: cheaply; clustering compresses them for good.

    Dictionaries of payloads and keys are built and thrown away again.
    """
    from deltalake import ColumnProperties, WriterProperties

    plain = ColumnProperties(dictionary_enabled=False, statistics_enabled="CHUNK")
    return WriterProperties(compression="SNAPPY", default_column_properties=plain)


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
