"""The lean side of the lakehouse: Polars frames into Delta tables, without a JVM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from medallion_platform.lakehouse.commit import WRITER, Fenced, sequence_of
from medallion_platform.lakehouse.record import Record

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable


def append(table: DeltaTable, rows: pl.DataFrame, record: Record, positions: Mapping[str, int]) -> int:
    """Append rows, their record and the positions they reach in one commit; gives its version.

    table: opened before the work began, so that a second writer is noticed. New columns are added.

    Raises:
        Fenced: another writer committed meanwhile.
    """
    from deltalake import CommitProperties, Transaction, write_deltalake
    from deltalake.exceptions import CommitFailedError

    behind = [s for s, v in positions.items() if (table.transaction_version(s) or -1) > v]
    if sequence_of(table) >= record.sequence or behind:
        raise Fenced(f"{table.metadata().name}: another writer has moved on; run it again")
    transactions = {WRITER: record.sequence, **positions}
    try:
        write_deltalake(
            table,
            rows,
            mode="append",
            schema_mode=_schema_mode(table, rows),
            commit_properties=CommitProperties(
                custom_metadata={"userMetadata": record.to_json()},
                app_transactions=[Transaction(a, v) for a, v in transactions.items()],
            ),
        )
    except CommitFailedError as error:
        raise Fenced(f"{table.metadata().name}: another writer committed first; run it again") from error
    table.update_incremental()
    return table.version()


def replace(table: DeltaTable, rows: pl.DataFrame, record: Record, predicate: str | None) -> int:
    """Put rows in the place of those that match `predicate` (None: of all); gives the version.

    Where all are replaced, columns take the types of the rows. No column goes.

    Raises:
        Fenced: another writer committed meanwhile.
    """
    import polars as pl
    from deltalake import CommitProperties, Transaction, write_deltalake
    from deltalake.exceptions import CommitFailedError

    if sequence_of(table) >= record.sequence:
        raise Fenced(f"{table.metadata().name}: another writer has moved on; run it again")
    schema_mode: Literal["merge", "overwrite"] | None = _schema_mode(table, rows)
    if predicate is None:
        have = pl.scan_delta(table).collect_schema()
        if any(rows.schema.get(name, kind) != kind for name, kind in have.items()):
            gone = [pl.lit(None, kind).alias(name) for name, kind in have.items() if name not in rows.columns]
            rows, schema_mode = rows.with_columns(gone), "overwrite"
    try:
        write_deltalake(
            table,
            rows,
            mode="overwrite",
            predicate=predicate,
            schema_mode=schema_mode,
            commit_properties=CommitProperties(
                custom_metadata={"userMetadata": record.to_json()},
                app_transactions=[Transaction(WRITER, record.sequence)],
            ),
        )
    except CommitFailedError as error:
        raise Fenced(f"{table.metadata().name}: another writer committed first; run it again") from error
    table.update_incremental()
    return table.version()


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
