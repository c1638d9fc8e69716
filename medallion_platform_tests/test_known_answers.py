"""Real data with known answers, taken through the platform as a user would."""

from __future__ import annotations

import json
import tarfile
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyspark.sql.types as T
import pytest

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.intake import landing_zone
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.pipeline.intake.result import IntakeResult
from medallion_platform.pipeline.run import Run
from medallion_platform.sources.connectors import landing_scan
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.formats.csv import Csv
from medallion_platform.sources.formats.debezium import Debezium
from medallion_platform.transforms.history import current, versions
from medallion_platform_tests.command import run_here

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class Sales(ContractModel):
    """A line of an invoice. It has no key: an exact copy of a line is a duplicate."""

    InvoiceNo: T.StringType = Field()
    StockCode: T.StringType = Field()
    Description: T.StringType = Field(nullable=True)
    Quantity: T.LongType = Field()
    InvoiceDate: T.TimestampType = Field()
    UnitPrice: T.DoubleType = Field()
    CustomerID: T.DoubleType = Field(nullable=True)
    Country: T.StringType = Field()


class Product(ContractModel):
    """A product as its database holds it."""

    id: T.LongType = Field()
    name: T.StringType = Field()
    description: T.StringType = Field(nullable=True)
    weight: T.DoubleType = Field(nullable=True)


def take_in(source: FileSource, folder: Path, lake: Lake) -> IntakeResult:
    now = datetime.now(UTC)
    seen, run = landing_scan.scan_landing_zone(folder, [source], now, 0), Run("test", now)
    return intake(landing_zone.landed_files(source, folder, seen.claimed[source.name], lake, run), lake, run)


@pytest.mark.usefixtures("spark")
def test_hr_to_the_last_figure(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    rows = {row["table"]: row for row in run_here(monkeypatch, home, shared_data)}
    assert rows["bronze.hired_employees"]["written"] == 1999
    assert (rows["bronze.departments"]["written"], rows["bronze.jobs"]["written"]) == (12, 183)
    # Files that no source claims are named.
    said = capsys.readouterr().err
    assert "retail/online-retail-by-day.tar.xz" in said
    assert "debezium/postgres-products.jsonl" in said

    lake = Lake(home / "lake")
    record = lake.last_record("bronze.hired_employees")
    assert record is not None
    assert record.warnings["record is complete"] == 70
    missing = {c: record.warnings[f"{c}: not null"] for c in ("name", "hired_at", "department_id", "job_id")}
    assert missing == {"name": 19, "hired_at": 14, "department_id": 21, "job_id": 16}

    hires = pl.read_delta(lake.path("gold.quarterly_hires")).filter(pl.col("hire_year") == 2021)
    assert hires.height == 938
    assert hires["hires"].sum() == 1659
    assert [hires[f"q{q}"].sum() for q in (1, 2, 3, 4)] == [254, 458, 456, 491]
    metrics = pl.read_delta(lake.path("gold.department_metrics")).filter(pl.col("hire_year") == 2021)
    assert metrics.height == 12
    assert metrics["mean_hires"].unique().round(2).to_list() == [139.17]
    above = metrics.filter("above_mean").select("department", "hires")
    assert dict(above.iter_rows()) == {
        "Support": 221,
        "Engineering": 208,
        "Human Resources": 204,
        "Services": 204,
        "Business Development": 187,
        "Research and Development": 151,
        "Marketing": 143,
    }


def test_retail_every_row_is_in_the_table_a_dead_letter_or_a_duplicate(
    shared_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "landing" / "retail"
    with tarfile.open(shared_data / "retail" / "online-retail-by-day.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    lake = Lake(tmp_path / "lake")
    source = FileSource(
        "retail", "bronze.sales", Sales.contract, Csv(), "retail", True, claims=("retail/**",)
    )

    taken = take_in(source, tmp_path / "landing", lake)
    assert taken.pieces == 305
    assert taken.counts.read == 541_909
    assert taken.counts.missing == 0
    assert taken.counts.dead_lettered == 0
    assert taken.counts.duplicate == 5_268
    assert dead_letters.count(lake, "bronze.sales") == 0

    table = pl.read_delta(lake.path("bronze.sales"))
    assert table.height == 541_909 - 5_268
    assert table["Country"].n_unique() == 38
    assert table["CustomerID"].n_unique() - 1 == 4_372
    assert table["_file"].n_unique() == 305

    again = take_in(source, tmp_path / "landing", lake)
    assert again.counts.read == 0
    assert lake.rows("bronze.sales") == table.height


@pytest.mark.parametrize("one_by_one", [False, True])
def test_debezium_capture_to_final_table_and_history(
    shared_data: Path, tmp_path: Path, spark: SparkSession, one_by_one: bool
) -> None:
    capture = shared_data / "debezium" / "postgres-products.jsonl"
    folder = tmp_path / "landing" / "products"
    folder.mkdir(parents=True)
    lines = capture.read_text().splitlines()
    # One event a file, newest first, is the worst order of arrival.
    pieces = [[line] for line in reversed(lines)] if one_by_one else [lines]
    source = FileSource(
        "products", "bronze.products", Product.contract, Debezium(("id",)), "shop", claims=("products/**",)
    )
    lake = Lake(tmp_path / "lake")
    for n, piece in enumerate(pieces):
        (folder / f"{n:03}.jsonl").write_text("\n".join(piece) + "\n")
        if one_by_one and n % 4 == 0:
            take_in(source, tmp_path / "landing", lake)
    taken = take_in(source, tmp_path / "landing", lake)
    assert lake.rows("bronze.products") == 16
    assert taken.counts.missing == 0

    changes = spark.read.format("delta").load(lake.path("bronze.products"))
    table = {r["id"]: r.asDict() for r in current(changes, "id").collect()}
    assert sorted(table) == list(range(101, 111))
    assert table[106]["description"] == "18oz carpenter hammer"
    assert table[107]["weight"] == 5.1
    assert table[110]["description"] == "new water resistent white wind breaker"
    assert table[110]["weight"] == 0.5

    history: dict[int, list[Any]] = {}
    for row in versions(changes, "id").orderBy("id", "source_position").collect():
        history.setdefault(row["id"], []).append(row)
    assert {i: len(v) for i, v in history.items() if len(v) > 1} == {106: 2, 107: 2, 110: 2, 111: 2}
    # The deleted one has a closed history and no current row.
    created, updated = history[111]
    assert created["effective_to"] == updated["effective_from"]
    assert updated["effective_to"] == datetime.fromtimestamp(1596010988.168, UTC).replace(tzinfo=None)
    assert not created["is_current"]
    assert not updated["is_current"]
    assert [v["weight"] for v in history[111]] == [5.18, 5.17]
    for versions_of_one in history.values():
        for before, after in pairwise(versions_of_one):
            assert before["effective_to"] == after["effective_from"]


def test_a_failover_and_events_without_a_place_however_they_are_taken_in(
    tmp_path: Path, spark: SparkSession
) -> None:
    def event(n: int, name: str, op: str, **source: Any) -> str:
        told = {"connector": "mysql", "row": 0, "ts_ms": 1_767_571_200_000, "gtid": None, **source}
        row = {"id": n, "name": name}
        before = None if op == "c" else row
        return json.dumps({"before": before, "after": row, "source": told, "op": op, "ts_ms": 1})

    pieces = [
        event(8, "Wels", "c", file="", pos=0),
        event(9, "Graz", "c", file="mysql-bin.000150", pos=917),
        event(8, "Enns", "u", file="", pos=0),
        event(9, "Linz", "u", file="mysql-bin.000003", pos=157, ts_ms=1_767_571_260_000),
    ]
    source = FileSource(
        "products", "bronze.products", Product.contract, Debezium(("id",)), "shop", claims=("products/**",)
    )
    found = []
    for at_once in (True, False):
        lake, folder = Lake(tmp_path / f"lake{at_once}"), tmp_path / f"landing{at_once}" / "products"
        folder.mkdir(parents=True)
        for n, piece in enumerate(["\n".join(pieces)] if at_once else pieces):
            (folder / f"{n}.jsonl").write_text(piece + "\n")
            take_in(source, folder.parent, lake)
        changes = spark.read.format("delta").load(lake.path("bronze.products"))
        rows = versions(changes, "id").orderBy("id", "source_position").collect()
        found.append([(r["id"], r["name"], r["is_current"]) for r in rows])
    assert found[0] == [(8, "Wels", False), (8, "Enns", True), (9, "Graz", False), (9, "Linz", True)]
    assert found[1] == found[0]
