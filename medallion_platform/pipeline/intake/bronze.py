"""Checks of the bronze table before a batch, by either engine: its column types and its positions."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import polars as pl

from medallion_platform.errors import Kind
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit import commit_files, next_sequence, writer_sequence
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.evolution import evolve_schema
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.polars_writer import scan_rows
from medallion_platform.pipeline.intake.batch_commit import IntakeFailed, intake_record
from medallion_platform.pipeline.intake.triage import bronze_schema
from medallion_platform.sources.source import Source

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from medallion_platform.pipeline.run import Run

_LOG = logging.getLogger(__name__)


def refuse_other_types(source: Source, table: DeltaTable) -> None:
    """Refuse a contract that changes the table's types; it may narrow them (other rows are dead letters)."""
    import pyarrow as pa
    from deltalake import Schema

    wanted = pa.schema(Schema.from_arrow(bronze_schema(source)))
    have = pa.schema(table.schema())
    for column in evolve_schema(wanted, have).refused:
        raise IntakeFailed(
            f"{source.table}: column {column} is {have.field(column).type} in the table, and the contract "
            f"of source {source.name} says {wanted.field(column).type}, which the table cannot hold yet. "
            "Nothing was taken in",
            remedy="materialize the table first, which parses its stored records anew",
            kind=Kind.PERMANENT,
            table=source.table,
        )


def recover_positions(source: Source, table: DeltaTable, lake: Lake, run: Run) -> None:
    """Restore the positions of a table that has rows but no positions, from the provenance of its rows.

    A table that was copied by other software has no transaction identifiers, and its records would be taken
    in again. (A source that repeats records needs no positions: each of its records is identified.)

    Raises:
        CommitConflict: another intake did so at the same time.
    """
    if source.repeats or writer_sequence(table) >= 0 or not table.count():
        return
    letters = lake.open(dead_letters.name(source.table))
    reached = _offsets_after_last_rows(table, "_source", "_offset")
    record = intake_record(
        "recover",
        run,
        Counts(),
        reached,
        next_sequence(table, letters),
        notes=["the table had lost its positions: they were restored from the last offset of each log"],
    )
    if letters is not None and writer_sequence(letters) < 0:
        further = _offsets_after_last_rows(letters, "source", "offset")
        commit_files(letters, record, positions=further, guard=run.guard)
    commit_files(table, record, positions=source.recovered(reached), guard=run.guard)
    fields = {"table": source.table, "run_id": run.run_id, "version": table.version(), "positions": reached}
    _LOG.info("%s: positions restored from its rows", source.table, extra=fields)


def _offsets_after_last_rows(table: DeltaTable, source: str, offset: str) -> dict[str, int]:
    """The offset after the last row of each log."""
    last = scan_rows(table).group_by(source).agg(pl.col(offset).max() + 1).collect()
    return dict(zip(last[source], last[offset], strict=True))
