"""The newest dead letters, without reading all of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyspark.sql.types as T
import pytest

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.queries import letters
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.formats.jsonlines import JsonLines

TABLE = "bronze.orders"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def add(lake: Lake, sequence: int, *written: tuple[int, datetime]) -> None:
    """Letters of one commit, by their offsets and when they were written."""
    rows = [
        {
            "source": "shop.orders",
            "offset": offset,
            "file": "a.jsonl",
            "row": offset,
            "payload": b"{}",
            "violations": ["id: not null", "total: above 0"] if offset % 2 else ["id: not null"],
            "at": at,
            "run_id": f"run {sequence}",
        }
        for offset, at in written
    ]
    dead_letters.append(lake, TABLE, pl.DataFrame(rows), CommitRecord("intake", "r", "", sequence=sequence))


def test_the_newest_are_shown_first_and_the_others_counted(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.ensure(TABLE, pl.DataFrame({"id": [1]}).to_arrow().schema)
    assert letters.newest_dead_letters(lake, TABLE, 5) == letters.DeadLetters((), 0)
    assert letters.count_by_expectation(lake) == []
    for day in range(8):
        at = NOON + timedelta(days=day)
        add(lake, day + 1, (10 * day + 2, at), (10 * day + 1, at))
    add(lake, 9, (99, NOON + timedelta(days=2, microseconds=1)), (98, NOON))  # written anew by a replay
    read = _files_read(monkeypatch)
    found = letters.newest_dead_letters(lake, TABLE, 3)
    assert [letter.offset for letter in found.letters] == [71, 72, 61]
    assert found.left_out == 15
    assert len(read) == 2, "files are read from the newest on"
    newest = found.letters[0]
    assert (newest.log, newest.file, newest.row, newest.code) == ("shop.orders", "a.jsonl", 71, "violates")
    assert (newest.violations, newest.payload) == (("id: not null", "total: above 0"), b"{}")
    assert (newest.at, newest.run_id, newest.detail) == (NOON + timedelta(days=7), "run 8", {})
    everything = letters.newest_dead_letters(lake, TABLE, 100)
    assert everything.left_out == 0
    assert [letter.offset for letter in everything.letters][10:] == [99, 21, 22, 11, 12, 1, 2, 98]
    assert newest.broken == ()
    assert {(c.code, c.columns) for c in letters.count_by_expectation(lake)} == {("violates", ())}, (
        "older letters"
    )
    assert [(c.table, c.expectation, c.dead_letters, c.last) for c in letters.count_by_expectation(lake)] == [
        (TABLE, "id: not null", 18, NOON + timedelta(days=7)),
        (TABLE, "total: above 0", 9, NOON + timedelta(days=7)),
    ]


def test_letters_are_counted_by_rule_and_columns(lake: Lake) -> None:
    lake.ensure(TABLE, pl.DataFrame({"id": [1]}).to_arrow().schema)
    add(lake, 1, (1, NOON))  # without fields, as older letters are
    entries = [
        {"code": "not_null", "columns": ["id"], "bound": None, "values": [None]},
        {"code": "above", "columns": ["total"], "bound": "0", "values": ["-1"]},
    ]
    row = {
        **{"source": "shop.orders", "offset": 3, "file": "a.jsonl", "row": 3, "at": NOON, "run_id": "run 2"},
        **{"payload": b"{}", "violations": ["id: not null", "total: above 0"], "broken": entries},
    }
    torn = {**row, "offset": 4, "violations": ["record: not JSON"], "code": "malformed", "broken": []}
    dead_letters.append(lake, TABLE, pl.DataFrame([row, torn]), CommitRecord("intake", "r", "", sequence=2))
    found = letters.count_by_expectation(lake)
    assert sorted((c.code, c.columns, c.dead_letters) for c in found) == [
        ("above", ("total",), 1),
        ("malformed", (), 1),
        ("not_null", ("id",), 1),
        ("violates", (), 1),
        ("violates", (), 1),
    ]
    (shown,) = (
        letter for letter in letters.newest_dead_letters(lake, TABLE, 9).letters if letter.offset == 3
    )
    assert shown.broken[1] == letters.Violation("above", ("total",), 0, ("-1",))


class Order(ContractModel):
    id: T.LongType = Field(unique=True)
    total: T.DoubleType = Field(gt=0, le=9.5)


def test_letters_of_older_versions_are_counted_by_the_names_of_today(lake: Lake) -> None:
    lake.ensure(TABLE, pl.DataFrame({"id": [1]}).to_arrow().schema)
    source = FileSource("orders", TABLE, Order.contract, JsonLines(), "shop", claims=("*",))
    row = {"source": "orders", "file": "a", "payload": b"{}", "at": NOON, "run_id": "r"}
    former = ["total: greater_than(0.0)", "total: less_than_or_equal_to(9.5)"]
    rows = [
        {**row, "offset": 1, "row": 1, "violations": former[:1]},
        {**row, "offset": 2, "row": 2, "violations": ["total: above 0"]},
        {**row, "offset": 3, "row": 3, "violations": [former[1], "total: less_than(100.0)"]},
    ]
    dead_letters.append(lake, TABLE, pl.DataFrame(rows), CommitRecord("intake", "r", "", sequence=1))
    catalog = Catalog((source,), ())
    assert [
        (c.expectation, c.dead_letters) for c in letters.count_by_expectation(lake, [TABLE], catalog)
    ] == [
        ("total: above 0", 2),
        ("total: at most 9.5", 1),
        ("total: less_than(100.0)", 1),  # the contract has it no more
    ]
    shown = {
        letter.offset: letter.violations
        for letter in letters.newest_dead_letters(lake, TABLE, 9, catalog).letters
    }
    assert shown[1] == shown[2] == ("total: above 0",)


def _files_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    scan = pl.scan_parquet

    def counting(source: Any, **options: Any) -> pl.LazyFrame:
        read.append(Path(source).name)
        return scan(source, **options)

    monkeypatch.setattr(pl, "scan_parquet", counting)
    return read
