"""The file registry of a source: it turns a landing zone into a log.

Each new content of a file gets the next sequence number, in one commit, before anything is read from it. From
then on the source is a sequence of records with offsets, like a Kafka partition, and after a crash the same
files are found in the same order. Table: `files/<source>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypedDict
from uuid import uuid4

from medallion_platform.lakehouse.commit import (
    CommitConflict,
    add_actions,
    write_parquet_file,
    writer_sequence,
    writer_transaction,
)
from medallion_platform.lakehouse.guard import UNGUARDED, Guard
from medallion_platform.lakehouse.lake import Lake, path_of
from medallion_platform.lakehouse.polars_writer import add_columns, scan_rows

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable
    from polars._typing import PolarsDataType


class RegisteredFile(TypedDict):
    """A row of the file registry; see `registry_columns`."""

    sequence: int
    path: str
    digest: str
    size: int
    modified_at: datetime
    etag: str | None
    state: str
    header: list[str] | None
    unreadable: str | None
    damage: str | None
    first_row: int | None
    registered_at: datetime
    run_id: str


def registry_columns() -> dict[str, PolarsDataType]:
    """Columns of the file registry; `unreadable` says why a file cannot be read, else it is null.

    `damage` says the same for programs: a JSON object with `why`, a `Damage`, and what goes with it.

    `etag` is null for a local file. `first_row` is only set for a file whose first rows were taken in before.
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
        "damage": pl.String,
        "first_row": pl.Int64,
        "registered_at": pl.Datetime("us", "UTC"),
        "run_id": pl.String,
    }


def registry_table(source: str) -> str:
    """The file registry table of a source."""
    return f"files.{source}"


def read_registry(lake: Lake, source: str) -> pl.DataFrame:
    """All registered file versions of a source, in their order.

    Raises:
        DamagedFile: a data file of the registry is missing or damaged.
    """
    import polars as pl

    found = lake.table_state(registry_table(source))
    if found is None:
        return pl.DataFrame(schema=registry_columns())
    nothing = pl.DataFrame(schema=registry_columns())
    registered = found.ask(lambda table: scan_rows(table).collect())
    rows = pl.concat([nothing, registered], how="diagonal")
    return rows.select(list(registry_columns())).sort("sequence")


def count_file_versions(lake: Lake, source: str, state: str) -> int:
    """The number of file versions of a source with this state."""
    found = lake.table_state(registry_table(source))
    return found.fact(("count", state), partial(_count_in_table, state=state)) if found else 0


def _count_in_table(table: DeltaTable, state: str) -> int:
    import polars as pl

    files = pl.DataFrame(table.get_add_actions(flatten=True))
    if {"min.state", "max.state"} <= set(files.columns):
        excluded = (pl.col("min.state") > state) | (pl.col("max.state") < state)
        if files.select(excluded.fill_null(False).all()).item():
            return 0  # the log alone says it
    return pl.scan_delta(table).filter(pl.col("state") == state).select(pl.len()).collect().item()


def register_file_versions(
    lake: Lake, source: str, rows: Sequence[RegisteredFile], guard: Guard = UNGUARDED
) -> None:
    """Register file versions in one commit; two simultaneous registrations never share a sequence number.

    Raises:
        CommitConflict: another run registered files at the same time.
        NotAllowed: the guard refuses.
    """
    import polars as pl

    registered = pl.DataFrame(list(rows), schema=registry_columns()).to_arrow()
    target = lake.ensure(registry_table(source), registered.schema, properties={})
    first, last = rows[0]["sequence"], rows[-1]["sequence"]
    if writer_sequence(target) >= first:
        raise CommitConflict(f"{source}: another run is registering files")
    add_columns(target, registered.schema)
    file = write_parquet_file(path_of(target), f"{uuid4().hex}.parquet", registered)
    with writer_transaction(target, last, guard=guard) as properties:
        target.create_write_transaction(
            add_actions([file]),
            mode="append",
            schema=target.schema(),
            partition_by=[],
            commit_properties=properties,
        )
