"""The ledger of incidents: what failed, what was decided about it, and what became of it.

Table: `_medallion/incidents`; its rows are events, which are only added. Nothing here knows what a row means:
that is decided in `healing/`. Two kinds of rows are written in two ways:

- a report is appended blindly, by any number of processes at once, and conflicts with nobody;
- decisions follow from what was read, so they are committed together under the number of the last decision
  that their maker has seen: of two that decide at once one gets a conflict, and looks again.

Decisions are numbered, which gives them one order without a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.lakehouse.commit import (
    CommitConflict,
    append_rows,
    condense_rows,
    writer_sequence,
    writer_transaction,
)
from medallion_platform.lakehouse.damaged_files import DamagedFile, report_damage
from medallion_platform.lakehouse.guard import UNGUARDED, Guard
from medallion_platform.lakehouse.lake import DamagedLog, Lake
from medallion_platform.lakehouse.polars_writer import scan_rows

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

INCIDENTS = "_medallion.incidents"
"""The table of them."""
HEALER = "healer"
"""The transaction identifier of those who decide: the number of the newest decision."""


class DamagedLedger(MedallionError):
    """The ledger cannot be read; the text says why, and what to do: it is in no backup."""

    kind = Kind.CORRUPT

    def __init__(self, lake: Lake, error: MedallionError) -> None:
        super().__init__(
            str(error.args[0]),
            table=INCIDENTS,
            remedy=f"delete {lake.path(INCIDENTS)}: incidents are counted anew, and what people paused and "
            "labelled is forgotten, but no other table loses anything",
        )


@dataclass(frozen=True)
class Row:
    """One event.

    event: what happened. at: when, by the clock of whoever wrote the row. by: who that was. incident, table,
    fingerprint, kind: what it is about, "" where nobody has decided that yet. body: all else, as JSON.
    sequence: the number of a decision, 0 of a report.
    """

    event: str
    at: datetime
    by: str
    table: str = ""
    incident: str = ""
    fingerprint: str = ""
    kind: str = ""
    body: str = "{}"
    sequence: int = 0


@dataclass(frozen=True, eq=False)
class Ledger:
    """All rows: first the reports, the earliest first, then the decisions in their order.

    Each reading is equal to itself alone. seen: the number of the newest decision, 0 before there is one.
    """

    rows: tuple[Row, ...] = ()
    seen: int = 0


def report(lake: Lake, rows: Sequence[Row]) -> None:
    """Add reports, whoever else writes at the same moment; nothing happens without any.

    Raises:
        DamagedLedger: the ledger cannot be read.
    """
    if rows:
        reports = _in_arrow(replace(row, sequence=0) for row in rows)
        append_rows(_ensured(lake, reports), reports)


def decide(lake: Lake, rows: Sequence[Row], seen: int) -> None:
    """Add decisions in one commit, numbered from `seen + 1` on; nothing happens without any.

    seen: of the ledger that they follow from.

    Raises:
        CommitConflict: somebody has decided since; nothing was added.
        DamagedLedger: the ledger cannot be read.
    """
    if not rows:
        return
    numbered = _in_arrow(replace(row, sequence=seen + n) for n, row in enumerate(rows, 1))
    table = _ensured(lake, numbered)
    if _newest(table) != seen:
        raise CommitConflict(f"{INCIDENTS}: somebody else has decided meanwhile; nothing was written")
    with writer_transaction(table, seen + len(rows), writer=HEALER) as properties:
        append_rows(table, numbered, properties)


def read(lake: Lake) -> Ledger:
    """The ledger; it is read anew only after it changed.

    Raises:
        DamagedLedger: its Delta log or a data file is missing or damaged.
    """
    with _told_if_damaged(lake):
        found = lake.table_state(INCIDENTS)
        return Ledger() if found is None else found.fact("incidents", _ledger)


def condense(
    lake: Lake,
    kept: Callable[[Sequence[Row]], Iterable[Row]],
    run_id: str,
    at: datetime,
    guard: Guard = UNGUARDED,
) -> None:
    """Keep only those of the rows that `kept` chooses; rows added meanwhile stay, and so do the numbers.

    guard: is asked last.

    Raises:
        CommitConflict: somebody else did the same at this moment; nothing was changed.
        NotAllowed: the guard refuses; nothing was changed.
        DamagedLedger: its Delta log or a data file is missing or damaged.
    """
    with _told_if_damaged(lake):
        table = lake.open(INCIDENTS)
        before = () if table is None else _ledger(table).rows
    if table is not None:
        condense_rows(table, before, kept, _in_arrow, run_id, at, guard)


def _ensured(lake: Lake, rows: pa.Table) -> DeltaTable:
    with _told_if_damaged(lake):
        return lake.ensure(INCIDENTS, rows.schema, properties={})


@contextmanager
def _told_if_damaged(lake: Lake) -> Generator[None]:
    try:
        with report_damage(lake, [INCIDENTS]):
            yield
    except (DamagedLog, DamagedFile) as error:
        raise DamagedLedger(lake, error) from error


def _newest(table: DeltaTable) -> int:
    return max(writer_sequence(table, HEALER), 0)


def _ledger(table: DeltaTable) -> Ledger:
    known = [field.name for field in fields(Row)]  # a newer version may have written more
    rows = scan_rows(table).select(known).sort("sequence", "at", maintain_order=True).collect()
    return Ledger(tuple(Row(**row) for row in rows.to_dicts()), _newest(table))


def _in_arrow(rows: Iterable[Row]) -> pa.Table:
    import pyarrow as pa

    columns = dict.fromkeys((field.name for field in fields(Row)), pa.string())
    columns |= {"at": pa.timestamp("us", "UTC"), "sequence": pa.int64()}
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=pa.schema(columns))
