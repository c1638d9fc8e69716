"""Rows that broke their contract, kept whole: one Delta table `dead_letters/<table>` per table.

A dead letter knows where it came from (`source`, `offset`, `file`, `row`), what it broke
(`violations`), and the `unit` (partition or key) of the table that it would have gone to.
`payload` holds the bytes as they came; for silver and gold, the masked row as JSON.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from medallion_platform.lakehouse import lean
from medallion_platform.lakehouse.commit import Fenced, sequence_of
from medallion_platform.lakehouse.lake import RETENTION, Lake
from medallion_platform.lakehouse.record import Record

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable


def name(table: str) -> str:
    """The dead-letter table of a table: `silver.events` -> `dead_letters.silver.events`."""
    return f"dead_letters.{table}"


def columns() -> dict[str, Any]:
    """Columns of every dead-letter table."""
    import polars as pl

    return {
        "source": pl.String,
        "offset": pl.Int64,
        "file": pl.String,
        "row": pl.Int64,
        "payload": pl.Binary,
        "violations": pl.List(pl.String),
        "unit": pl.String,
        "at": pl.Datetime("us", "UTC"),
        "run_id": pl.String,
    }


def read(lake: Lake, table: str) -> pl.DataFrame:
    """All dead letters of a table, with their `columns` (empty where there are none)."""
    import polars as pl

    found = lake.open(name(table))
    if found is None:
        return pl.DataFrame(schema=columns())
    return pl.scan_delta(found).collect().select(list(columns()))


def of_files(lake: Lake, table: str, source: str) -> list[tuple[int, str]]:
    """The (offset, violation) of each dead letter of a source that is a whole file."""
    import polars as pl

    found = lake.open(name(table))
    if found is None:
        return []
    rows = pl.scan_delta(found).filter((pl.col("source") == source) & (pl.col("row") == 0))
    return rows.select("offset", pl.col("violations").list.first()).collect().rows()


def count(lake: Lake, table: str) -> int:
    """How many dead letters a table has now."""
    return lake.rows(name(table))


def append(
    lake: Lake,
    table: str,
    rows: pl.DataFrame,
    record: Record,
    positions: Mapping[str, int] | None = None,
    letters: DeltaTable | None = None,
) -> None:
    """Add dead letters in one commit, fenced like every writer.

    letters: the table as it was when what is there already was left out of `rows`.

    Raises:
        Fenced: another writer committed meanwhile, be it since these were looked at.
    """
    lean.append(letters or _ensure(lake, table), fit(rows), record, positions or {})


def create(lake: Lake, table: str) -> DeltaTable:
    """The table of dead letters, for who looked and found none.

    Raises:
        Fenced: another writer has added some meanwhile.
    """
    made = _ensure(lake, table)
    if sequence_of(made) >= 0:
        raise Fenced(f"{name(table)}: another writer has moved on; run it again")
    return made


def replace(
    lake: Lake, table: str, units: Collection[str] | None, rows: pl.DataFrame, record: Record
) -> None:
    """Put `rows` in the place of all dead letters of `units` (None: of the whole table).

    Does nothing where there neither are nor were any.
    """
    if rows.is_empty() and not count(lake, table):
        return
    predicate = None
    if units is not None:
        quoted = ", ".join("'" + str(u).replace("'", "''") + "'" for u in sorted(units))
        predicate = f"unit IN ({quoted})"
    lean.replace(_ensure(lake, table), fit(rows), record, predicate)


def _ensure(lake: Lake, table: str) -> DeltaTable:
    import polars as pl

    schema = pl.DataFrame(schema=columns()).to_arrow().schema
    return lake.ensure(name(table), schema, properties=RETENTION)


def fit(rows: pl.DataFrame) -> pl.DataFrame:
    """Dead letters with their columns, in order."""
    return rows.select(list(columns())).cast(columns())  # type: ignore[arg-type]
