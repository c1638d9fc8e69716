"""The dead letters of tables: counts by kind, and the newest ones."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from medallion_platform.contracts.codes import Code
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.catalog import Catalog


@dataclass(frozen=True)
class BrokenExpectation:
    """The number of dead letters of a table that violate one expectation, and the time of the last one.

    expectation: its name, or the sentence of what else is wrong. code: the `Rule` that was broken, or the
    `Code` of what else is wrong (`violates` in letters that are older than rules). columns: of which columns.
    """

    table: str
    expectation: str
    code: str
    columns: tuple[str, ...]
    dead_letters: int
    last: datetime | None


@dataclass(frozen=True)
class Violation:
    """An expectation that a row violates, in the fields of `contracts.violation_fields`.

    bound: a value as JSON has it. values: of `columns`, in their order.
    """

    code: str
    columns: tuple[str, ...]
    bound: Any
    values: tuple[str | None, ...]


@dataclass(frozen=True)
class DeadLetter:
    """A record or row that was rejected.

    log: the source, or the one of its logs, that it came from. file: where it lay, None where it was no
    file. row: its number there; 0 for what stands for a whole piece. code: the `Code` of what is wrong;
    detail: what goes with it. violations: every expectation that it broke. broken: the same in fields;
    nothing where the code is not `violates`, and of older letters. payload: the bytes as they came, None
    where they were not kept. at: when it was written, by which run.
    """

    log: str
    offset: int
    file: str | None
    row: int
    code: str
    detail: Mapping[str, Any]
    violations: tuple[str, ...]
    broken: tuple[Violation, ...]
    payload: bytes | None
    at: datetime | None
    run_id: str | None


@dataclass(frozen=True)
class DeadLetters:
    """The newest dead letters of a table, newest first, and the number of older ones."""

    letters: tuple[DeadLetter, ...]
    left_out: int


def count_by_expectation(
    lake: Lake, tables: Collection[str] = (), catalog: Catalog | None = None
) -> list[BrokenExpectation]:
    """Dead letters counted by what they broke, most first in each table; of all tables if none is named.

    catalog: whose contracts tell by what name an older version called an expectation.
    """
    return [
        counted
        for table in tables or lake.tables()
        for counted in _count_in_table(lake, table, former_names(catalog, table))
    ]


def former_names(catalog: Catalog | None, table: str) -> dict[str, str]:
    """What expectations of a table are called, by what an older version called them."""
    if catalog is None or table not in catalog.names:
        return {}
    return {e.former_name: e.name for e in catalog.contract_of(table).expectations if e.former_name}


def _count_in_table(lake: Lake, table: str, former: Mapping[str, str]) -> Iterator[BrokenExpectation]:
    import polars as pl

    letters = dead_letters.scan(lake, table).select("violations", "broken", "code", "at")
    in_fields = pl.col("broken").list.len() == pl.col("violations").list.len()
    told = letters.filter(in_fields).explode("violations", "broken")
    entry = pl.col("broken").struct
    told = told.with_columns(entry.field("code"), entry.field("columns"))
    others = letters.filter(in_fields.not_().fill_null(value=True)).explode("violations")
    others = others.with_columns(pl.lit(None, pl.List(pl.String)).alias("columns"))
    by = ("violations", "code", "columns")
    counted = (
        pl.concat([told.select(*by, "at"), others.select(*by, "at")])
        .with_columns(pl.col("violations").replace(former))
        .group_by(by)
        .agg(pl.len().alias("n"), pl.col("at").max())
        .sort("n", "violations", "code", descending=[True, False, False])
        .collect()
    )
    for expectation, code, columns, n, last in counted.iter_rows():
        yield BrokenExpectation(table, expectation, code, tuple(columns or ()), n, last)


def unreadable_files(lake: Lake, table: str, run_ids: Collection[str]) -> list[str]:
    """The files that could not be read at all when these runs took them in; each is kept in quarantine."""
    import polars as pl

    mine = (pl.col("code") == Code.UNREADABLE) & pl.col("run_id").is_in(list(run_ids))
    found = dead_letters.scan(lake, table).filter(mine & pl.col("file").is_not_null()).select("file").unique()
    return found.collect()["file"].sort().to_list()


def newest_dead_letters(lake: Lake, table: str, limit: int, catalog: Catalog | None = None) -> DeadLetters:
    """The newest dead letters of a table, `limit` at the most: no more files are read than hold them.

    catalog: as in `count_by_expectation`.
    """
    found, former = dead_letters.newest(lake, table, limit), former_names(catalog, table)
    letters = tuple(_letter_of_row(row, former) for row in found.iter_rows(named=True))
    return DeadLetters(letters, dead_letters.count(lake, table) - len(letters))


def _violation_of(entry: Mapping[str, Any]) -> Violation:
    bound = None if entry["bound"] is None else json.loads(entry["bound"])
    return Violation(entry["code"], tuple(entry["columns"]), bound, tuple(entry["values"]))


def _letter_of_row(row: Mapping[str, Any], former: Mapping[str, str]) -> DeadLetter:
    return DeadLetter(
        log=row["source"],
        offset=row["offset"],
        file=row["file"],
        row=row["row"],
        code=row["code"],
        detail=json.loads(row["detail"] or "{}"),
        violations=tuple(former.get(name, name) for name in row["violations"] or ()),
        broken=tuple(map(_violation_of, row["broken"] or ())),
        payload=row["payload"],
        at=row["at"],
        run_id=row["run_id"],
    )
