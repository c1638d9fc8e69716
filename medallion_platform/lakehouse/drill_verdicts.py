"""What drills of an installation have shown, one after the other.

Table: `_medallion/drills`, a row for each drill that was run with the healer; rows are only appended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from medallion_platform.lakehouse.commit import append_rows
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.polars_writer import scan_rows

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

DRILL_VERDICTS = "_medallion.drills"
"""The table of them."""


@dataclass(frozen=True)
class DrillVerdict:
    """What one drill has shown; all but the first two are as docs/drills.md says. Times are seconds.

    drill: its name. at: when it began.
    """

    drill: str
    at: datetime
    verdict: str
    reason: str
    table: str
    detected_after: float | None
    fault_lasted: float
    healed_after: float | None
    target_seconds: float
    rows_lost: int
    rows_doubled: int
    dead_lettered: int
    done: tuple[str, ...]


def append(lake: Lake, verdicts: Sequence[DrillVerdict]) -> None:
    """Add rows, whoever else adds some at the same moment; nothing happens without any."""
    if verdicts:
        rows = _in_arrow(verdicts)
        append_rows(lake.ensure(DRILL_VERDICTS, rows.schema, properties={}), rows)


def read(lake: Lake) -> list[DrillVerdict]:
    """Every row, the earliest first.

    Raises:
        DamagedFile: a data file is missing or damaged.
    """
    table = lake.open(DRILL_VERDICTS)
    return [] if table is None else list(_rows(table))


def last_of_each(verdicts: Iterable[DrillVerdict]) -> list[DrillVerdict]:
    """The last verdict of each drill, by its name; verdicts: the earliest first. Pure."""
    last = {verdict.drill: verdict for verdict in verdicts}
    return [last[name] for name in sorted(last)]


def _rows(table: DeltaTable) -> Iterable[DrillVerdict]:
    known = [field.name for field in fields(DrillVerdict)]  # a newer version may have written more
    rows = scan_rows(table).select(known).sort("at", maintain_order=True).collect()
    return map(_verdict, rows.to_dicts())


def _verdict(row: Mapping[str, Any]) -> DrillVerdict:
    told: dict[str, Any] = {**row, "done": tuple(row["done"])}
    return DrillVerdict(**told)


def _in_arrow(verdicts: Iterable[DrillVerdict]) -> pa.Table:
    import pyarrow as pa

    text, seconds, number = pa.string(), pa.float64(), pa.int64()
    columns = {"drill": text, "at": pa.timestamp("us", "UTC"), "verdict": text, "reason": text, "table": text}
    columns |= dict.fromkeys(("detected_after", "fault_lasted", "healed_after", "target_seconds"), seconds)
    columns |= dict.fromkeys(("rows_lost", "rows_doubled", "dead_lettered"), number)
    columns |= {"done": pa.list_(text)}
    return pa.Table.from_pylist([asdict(verdict) for verdict in verdicts], schema=pa.schema(columns))
