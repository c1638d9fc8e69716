"""What a table's own commits say of its health."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pyspark.sql.types as T
import pytest

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.lakehouse.commit import commit_files
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.queries import findings


class Orders(ContractModel):
    id: T.LongType = Field()

    class Config:
        metadata = {"tolerated_share": 0.1}  # noqa: RUF012


def write(read: int, dead: int, warned: int = 0) -> CommitRecord:
    return CommitRecord("intake", "r", "", Counts(read, read - dead, dead), {}, warnings={"odd": warned})


@pytest.mark.parametrize(
    ("writes", "share", "holds"),
    [
        ([], 0.0, True),
        ([write(100, 10)], 0.1, True),
        ([write(100, 11)], 0.11, False),
        ([write(100, 0, warned=11)], 0.11, False),
        ([write(100, 90), write(100, 1)], 0.01, True),  # what was bad once is not told for ever
        ([write(1000, 0), write(10, 9), write(0, 0)], 0.9, False),  # a write of nothing cures nothing
    ],
)
def test_a_contract_holds_while_a_write_has_no_more_bad_rows_than_it_tolerates(
    lake: Lake, writes: list[CommitRecord], share: float, holds: bool
) -> None:
    table = lake.ensure("bronze.orders", pl.DataFrame({"id": [1]}).to_arrow().schema)
    for n, record in enumerate(writes, start=1):
        commit_files(table, replace(record, sequence=n))
    found = findings.contract_health(
        lake, "bronze.orders", Orders.contract, findings.writes(lake, "bronze.orders")
    )
    assert found.worst_share == pytest.approx(share)
    assert (found.tolerated_share, found.holds) == (0.1, holds)


def test_a_partition_drifts_from_those_before_it() -> None:
    rows = {f"2026-01-{day:02}": 100 for day in range(1, 11)} | {"2026-01-11": 5}
    found = findings.unusual_partitions(rows, ["2026-01-10", "2026-01-11", "2026-02-01"])
    assert found.keys() == {"2026-01-11"}
    assert (found["2026-01-11"].value, found["2026-01-11"].usual) == (5, 100)
