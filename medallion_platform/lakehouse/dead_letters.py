"""Rows that broke their contract, kept whole: one Delta table `dead_letters/<table>` per table.

A dead letter knows where it came from (`source`, `offset`, `file`, `row`), what it broke
(`violations`, for people; `code` and `detail` say it to code), and the `unit` (partition or key) of the
table that it would have gone to.
`payload` holds the bytes as they came; for silver and gold, the masked row as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from medallion_platform.contracts.codes import Code
from medallion_platform.lakehouse import lean, old_letters
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
    """Columns of every dead-letter table; `code` is a `Code`, `detail` a JSON object or null."""
    import polars as pl

    return {
        "source": pl.String,
        "offset": pl.Int64,
        "file": pl.String,
        "row": pl.Int64,
        "payload": pl.Binary,
        "violations": pl.List(pl.String),
        "code": pl.String,
        "detail": pl.String,
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
    return _scan(found).collect()


def details(lake: Lake, table: str, source: str, code: Code) -> list[tuple[int, dict[str, Any]]]:
    """The (offset, detail) of each dead letter of a source that stands for a whole piece, by its code."""
    import polars as pl

    found = lake.open(name(table))
    if found is None:
        return []
    mine = (pl.col("source") == source) & (pl.col("row") == 0) & (pl.col("code") == code)
    rows = _scan(found).filter(mine).select("offset", "detail").collect()
    return [(offset, json.loads(detail or "{}")) for offset, detail in rows.iter_rows()]


def _scan(letters: DeltaTable) -> pl.LazyFrame:
    """The letters with their `columns`, also of a table that is older than some of these."""
    import polars as pl

    have = {field.name for field in letters.schema().fields}
    missing = [pl.lit(None, kind).alias(c) for c, kind in columns().items() if c not in have]
    return old_letters.coded(pl.scan_delta(letters).with_columns(missing).select(list(columns())))


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


def bring_up(letters: DeltaTable) -> None:
    """Give an older table the columns that it lacks, for who commits files of letters by itself.

    Raises:
        Fenced: another writer committed meanwhile.
    """
    import polars as pl

    lean.add_columns(letters, pl.DataFrame(schema=columns()).to_arrow().schema)


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
    """Dead letters with their columns, in order; of which nothing else is said, they break the contract."""
    import polars as pl

    told = rows.with_columns(pl.col("code").fill_null(pl.lit(Code.VIOLATES)))
    return told.select(list(columns())).cast(columns())  # type: ignore[arg-type]
