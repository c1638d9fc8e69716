"""The dead letters of tables: counts by kind, and the newest ones."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.lake import Lake


@dataclass(frozen=True)
class BrokenExpectation:
    """How many dead letters of a table broke one expectation, and when the last of them was written."""

    table: str
    expectation: str
    dead_letters: int
    last: datetime | None


@dataclass(frozen=True)
class DeadLetter:
    """A record or row that was rejected.

    log: the source, or the one of its logs, that it came from. file: where it lay, None where it was no
    file. row: its number there; 0 for what stands for a whole piece. code: the `Code` of what is wrong;
    detail: what goes with it. violations: every expectation that it broke. payload: the bytes as they came,
    None where they were not kept. at: when it was written, by which run.
    """

    log: str
    offset: int
    file: str | None
    row: int
    code: str
    detail: Mapping[str, Any]
    violations: tuple[str, ...]
    payload: bytes | None
    at: datetime | None
    run_id: str | None


@dataclass(frozen=True)
class DeadLetters:
    """The newest dead letters of a table, newest first, and how many older ones were left out."""

    letters: tuple[DeadLetter, ...]
    left_out: int


def by_expectation(lake: Lake, tables: Collection[str] = ()) -> list[BrokenExpectation]:
    """Dead letters counted by what they broke, most first in each table; of all tables if none is named."""
    return [counted for table in tables or lake.tables() for counted in _counted(lake, table)]


def _counted(lake: Lake, table: str) -> Iterator[BrokenExpectation]:
    import polars as pl

    counted = (
        dead_letters.scan(lake, table)
        .select("violations", "at")
        .explode("violations")
        .group_by("violations")
        .agg(pl.len().alias("n"), pl.col("at").max())
        .sort("n", "violations", descending=[True, False])
        .collect()
    )
    return (BrokenExpectation(table, broken, n, last) for broken, n, last in counted.iter_rows())


def newest(lake: Lake, table: str, limit: int) -> DeadLetters:
    """The newest dead letters of a table, `limit` at the most: no more files are read than hold them."""
    found = dead_letters.newest(lake, table, limit)
    letters = tuple(_letter(row) for row in found.iter_rows(named=True))
    return DeadLetters(letters, dead_letters.count(lake, table) - len(letters))


def _letter(row: Mapping[str, Any]) -> DeadLetter:
    return DeadLetter(
        log=row["source"],
        offset=row["offset"],
        file=row["file"],
        row=row["row"],
        code=row["code"],
        detail=json.loads(row["detail"] or "{}"),
        violations=tuple(row["violations"] or ()),
        payload=row["payload"],
        at=row["at"],
        run_id=row["run_id"],
    )
