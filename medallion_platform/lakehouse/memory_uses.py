"""How much memory work on tables took, and whether it was killed for it: one table of the lake for all.

Table: `_medallion/memory`, a row for each piece of work that taught something. Rows are only appended, by any
number of writers at once and without looking at each other; what follows from them is decided in
`pipeline/memory.py`. Maintenance replaces rows that decide nothing any more by fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from medallion_platform.lakehouse.commit import append_rows, condense_rows
from medallion_platform.lakehouse.guard import UNGUARDED, Guard
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.polars_writer import scan_rows

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

MEMORY_USES = "_medallion.memory"
"""The table of them."""

Where = Literal["driver", "executor"]
Outcome = Literal["fitted", "killed", "learned"]


@dataclass(frozen=True)
class MemoryUse:
    """What one piece of work on a table took, or that it was killed.

    where: in the run's own process and its JVM, or in an executor. limit, peak: bytes; the peak is the
    smallest limit that it would have fitted into. A row with the outcome `learned` is no work: it has as its
    limit what removed rows had led to.
    """

    table: str
    run_id: str
    at: datetime
    where: Where
    limit: int
    peak: int
    outcome: Outcome


def append(lake: Lake, uses: Sequence[MemoryUse]) -> None:
    """Add rows, whoever else adds some at the same moment; nothing happens without any."""
    if uses:
        rows = _in_arrow(uses)
        append_rows(lake.ensure(MEMORY_USES, rows.schema, properties={}), rows)


def read(lake: Lake) -> list[MemoryUse]:
    """Every row, the earliest first; it is read anew only after it changed.

    Raises:
        DamagedFile: a data file is missing or damaged.
    """
    found = lake.table_state(MEMORY_USES)
    return [] if found is None else list(found.fact("memory uses", _rows))


def condense(
    lake: Lake,
    kept: Callable[[Sequence[MemoryUse]], Iterable[MemoryUse]],
    run_id: str,
    at: datetime,
    guard: Guard = UNGUARDED,
) -> None:
    """Replace the rows by those that `kept` makes of them, if these are fewer; rows added meanwhile stay.

    guard: is asked last.

    Raises:
        CommitConflict: somebody else did the same at this moment; nothing was changed.
        NotAllowed: the guard refuses; nothing was changed.
        DamagedFile: a data file is missing or damaged.
    """
    table = lake.open(MEMORY_USES)
    if table is not None:
        condense_rows(table, _rows(table), kept, _in_arrow, run_id, at, guard)


def _rows(table: DeltaTable) -> tuple[MemoryUse, ...]:
    known = [field.name for field in fields(MemoryUse)]  # a newer version may have written more
    rows = scan_rows(table).select(known).sort("at", maintain_order=True).collect()
    return tuple(MemoryUse(**row) for row in rows.to_dicts())


def _in_arrow(uses: Iterable[MemoryUse]) -> pa.Table:
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    columns = {"table": text, "run_id": text, "at": pa.timestamp("us", "UTC"), "where": text}
    columns |= {"limit": number, "peak": number, "outcome": text}
    return pa.Table.from_pylist([asdict(use) for use in uses], schema=pa.schema(columns))
