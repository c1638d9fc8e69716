"""What the UI is told: surges, previews, lineage."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pyspark.sql.types as T
import pytest
from deltalake import write_deltalake

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.lakehouse.commit import commit_files
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration import checks, reports
from medallion_platform.queries import findings
from medallion_platform.queries.preview import preview_rows


def write(read: int, dead: int) -> CommitRecord:
    return CommitRecord(
        "intake", "r", "", Counts(read, read - dead, dead), violations={"amount: not null": dead}
    )


@pytest.mark.parametrize(
    ("newest", "before", "passed"),
    [
        (write(1000, 51), [], False),
        (write(1000, 50), [], True),
        (write(100, 9), [], True),  # a handful is no surge
        (write(1000, 250), [write(1000, 100)] * 5, True),  # a bad source, as bad as ever
        (write(1000, 350), [write(1000, 100)] * 5, False),
        (write(0, 0), [write(1000, 500)], False),  # a write of nothing cures nothing
    ],
)
def test_a_surge_of_dead_letters(
    lake: Lake, newest: CommitRecord, before: list[CommitRecord], passed: bool
) -> None:
    assert not findings.rejection_surge(findings.writes(lake, "bronze.events")).surges
    table = lake.ensure("bronze.events", pl.DataFrame({"n": [1]}).to_arrow().schema)
    for n, record in enumerate([*before, newest], start=1):
        commit_files(table, replace(record, sequence=n))
    told = checks.check_evaluation(
        checks.surge_result("bronze.events", findings.rejection_surge(findings.writes(lake, "bronze.events")))
    )
    assert told.passed is passed
    last = newest if newest.counts.read else before[-1]
    assert told.metadata["dead_lettered"].value == last.counts.dead_lettered
    assert told.asset_key == dg.AssetKey("bronze_events")


class People(ContractModel):
    id: T.LongType = Field()
    email: T.StringType = Field(nullable=True, pii="email")
    note: T.StringType = Field(nullable=True)


def test_a_preview_shows_rows_and_no_person(lake: Lake) -> None:
    assert reports.rows_as_markdown(preview_rows(lake, People.contract, "bronze.people", 5)) == "no rows yet"
    rows = {
        "id": [1, 2],
        "email": ["planted.name@example.com", None],
        "note": ["a|b\nc", "x" * 100],
        "_payload": ["planted.name@example.com", ""],
        "undeclared": ["planted.name@example.com", ""],
        "at": [datetime(2026, 1, 5, tzinfo=UTC)] * 2,
    }
    lake.ensure("bronze.people", pl.DataFrame(rows).to_arrow().schema)
    write_deltalake(lake.path("bronze.people"), pl.DataFrame(rows), mode="append")
    lines = reports.rows_as_markdown(preview_rows(lake, People.contract, "bronze.people", 5)).splitlines()
    assert lines[:2] == ["| id | email | note | undeclared | at |", "|---|---|---|---|---|"]
    masked = "pla***@example.com"
    assert lines[2] == f"| 1 | {masked} | a\\|b c | {masked} | 2026-01-05 00:00:00+00:00 |"
    assert "planted.name" not in "".join(lines)
    assert all(len(line) < 160 for line in lines)


def test_what_was_written_is_told_of_where_older_rows_cannot_be_shown(lake: Lake) -> None:
    rows = pl.DataFrame({"id": [1], "email": [None], "note": ["a"]}, schema_overrides={"email": pl.String})
    for _ in range(2):
        write_deltalake(lake.path("bronze.people"), rows, mode="append")
    file, *_ = sorted(Path(lake.path("bronze.people")).glob("*.parquet"))
    file.unlink()
    told = reports.table_metadata(lake, People.contract, "bronze.people", 1, None, "it was so")
    assert told["dagster/row_count"] == 2
    assert told["preview"].value == f"none: the data file {file.name} is gone"


def test_a_preview_is_in_order_of_partition_and_key(lake: Lake) -> None:
    class Days(ContractModel):
        shop: T.StringType = Field()
        day: T.DateType = Field()

        class Config:
            metadata = {"key": ["day", "shop"], "partitioned_by": ["day"]}  # noqa: RUF012

    rows = pl.DataFrame(
        {"shop": ["b", "a", "a"], "day": [date(2026, 2, 5), date(2026, 2, 5), date(2026, 2, 1)]}
    )
    write_deltalake(lake.path("gold.days"), rows, partition_by=["day"])
    shown = preview_rows(lake, Days.contract, "gold.days", 5)
    assert shown is not None
    assert shown.rows() == [("a", date(2026, 2, 1)), ("a", date(2026, 2, 5)), ("b", date(2026, 2, 5))]


def test_lineage_in_the_words_of_dagster() -> None:
    told = reports.column_lineage(
        {"amount_usd": [("bronze.events", "amount"), ("bronze.events", "currency")]}
    )
    found = told["dagster/column_lineage"].deps_by_column["amount_usd"]
    assert [(d.asset_key.path, d.column_name) for d in found] == [
        (["bronze_events"], "amount"),
        (["bronze_events"], "currency"),
    ]
    assert reports.column_lineage({}) == {}
