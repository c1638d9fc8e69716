"""The file registry of a source: it turns a landing zone into a log.

Each new content of a file gets the next sequence number, in one commit, before anything is read from it. From
then on the source is a sequence of records with offsets, like a Kafka partition, and after a crash the same
files are found in the same order. Table: `files/<source>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from medallion_platform.lakehouse.commit import CommitConflict, sequence_of, writer_transaction
from medallion_platform.lakehouse.lake import Lake

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable
    from polars._typing import PolarsDataType


def columns() -> dict[str, PolarsDataType]:
    """Columns of the file registry; `unreadable` says why a file cannot be read, else null.

    `etag` is null for a file of this machine, `first_row` but where a file goes on behind what was
    taken of its content before.
    """
    import polars as pl

    return {
        "sequence": pl.Int64,
        "path": pl.String,
        "digest": pl.String,
        "size": pl.Int64,
        "modified_at": pl.Datetime("us", "UTC"),
        "etag": pl.String,
        "state": pl.String,
        "header": pl.List(pl.String),
        "unreadable": pl.String,
        "first_row": pl.Int64,
        "registered_at": pl.Datetime("us", "UTC"),
        "run_id": pl.String,
    }


def name(source: str) -> str:
    """The file registry table of a source."""
    return f"files.{source}"


def read(lake: Lake, source: str) -> pl.DataFrame:
    """All registered file versions of a source, in their order."""
    import polars as pl

    found = lake.table_state(name(source))
    if found is None:
        return pl.DataFrame(schema=columns())
    nothing = pl.DataFrame(schema=columns())
    registered = found.ask(lambda table: pl.scan_delta(table).collect())
    rows = pl.concat([nothing, registered], how="diagonal")
    return rows.select(list(columns())).sort("sequence")


def count(lake: Lake, source: str, state: str) -> int:
    """How many file versions of a source have a state."""
    found = lake.table_state(name(source))
    return found.fact(("count", state), partial(_count, state=state)) if found else 0


def _count(table: DeltaTable, state: str) -> int:
    import polars as pl

    files = pl.DataFrame(table.get_add_actions(flatten=True))
    if {"min.state", "max.state"} <= set(files.columns):
        excluded = (pl.col("min.state") > state) | (pl.col("max.state") < state)
        if files.select(excluded.fill_null(False).all()).item():
            return 0  # the log alone says it
    return pl.scan_delta(table).filter(pl.col("state") == state).select(pl.len()).collect().item()


def append(lake: Lake, source: str, rows: Sequence[dict[str, Any]]) -> None:
    """Register file versions in one commit; two registrations at once never share a number.

    Raises:
        CommitConflict: another run registered files meanwhile.
    """
    import polars as pl
    from deltalake import write_deltalake

    frame = pl.DataFrame(list(rows), schema=columns())
    target = lake.ensure(name(source), frame.to_arrow().schema, properties={})
    first, last = rows[0]["sequence"], rows[-1]["sequence"]
    if sequence_of(target) >= first:
        raise CommitConflict(f"{source}: another run is registering files; run it again")
    with writer_transaction(target, last) as properties:
        write_deltalake(target, frame, mode="append", schema_mode="merge", commit_properties=properties)
