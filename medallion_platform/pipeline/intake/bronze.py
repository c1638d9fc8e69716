"""Checks of the bronze table before a batch, by either engine: its column types and its positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from medallion_platform.errors import Kind
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit import commit, next_sequence, sequence_of
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.evolution import evolve
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.intake.commit import IntakeFailed, record_of
from medallion_platform.pipeline.intake.triage import bronze_schema
from medallion_platform.sources.source import Source

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from medallion_platform.pipeline.run import Run


def refuse_other_types(source: Source, table: DeltaTable) -> None:
    """The table keeps its types: a contract may narrow them (rows that do not fit are dead letters)."""
    import pyarrow as pa
    from deltalake import Schema

    wanted = pa.schema(Schema.from_arrow(bronze_schema(source)))
    have = pa.schema(table.schema())
    for column in evolve(wanted, have).refused:
        raise IntakeFailed(
            f"{source.table}: column {column} is {have.field(column).type} in the table, and the contract "
            f"of source {source.name} says {wanted.field(column).type}, which the table cannot hold yet. "
            "Nothing was taken in; materialize the table first, which parses its stored records anew.",
            kind=Kind.PERMANENT,
            table=source.table,
        )


def recover_positions(source: Source, table: DeltaTable, lake: Lake, run: Run) -> None:
    """Where a table has rows but lost what it says of its positions, tell them by its rows' provenance.

    A table that other software copied has no transaction identifiers any more, and its records would be
    taken in again. (A source that gives records again needs none: its records are known one by one.)

    Raises:
        CommitConflict: another intake did so at the same time.
    """
    if source.repeats or sequence_of(table) >= 0 or not table.count():
        return
    letters = lake.open(dead_letters.name(source.table))
    reached = _after_last(table, "_source", "_offset")
    record = record_of(
        "recover",
        run,
        Counts(),
        reached,
        next_sequence(table, letters),
        notes=["the table had lost its positions: they were restored from the last offset of each log"],
    )
    if letters is not None and sequence_of(letters) < 0:
        commit(letters, record, positions=_after_last(letters, "source", "offset"))
    commit(table, record, positions=source.recovered(reached))


def _after_last(table: DeltaTable, source: str, offset: str) -> dict[str, int]:
    """The offset behind the last row of each log."""
    last = pl.scan_delta(table).group_by(source).agg(pl.col(offset).max() + 1).collect()
    return dict(zip(last[source], last[offset], strict=True))
