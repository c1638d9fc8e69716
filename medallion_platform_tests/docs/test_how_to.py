"""What the how-to pages declare is declared so here, and does what they say."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyspark.sql.types as T
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts.contract import Severity
from medallion_platform.contracts.model import ContractModel, Field, expect
from medallion_platform.contracts.sql import SqlError, columns_in_sql
from medallion_platform.errors import DeclarationError
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake import landing_zone
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.pipeline.refresh import refresh
from medallion_platform.pipeline.run import Run
from medallion_platform.pipeline.table import Lookup, daily, table
from medallion_platform.sources.connectors import landing_scan
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.formats.csv import Csv
from medallion_platform.sources.formats.debezium import Debezium
from medallion_platform.sources.formats.jsonlines import JsonLines
from medallion_platform.transforms import as_of, current, versions
from medallion_platform_tests.command import REPOSITORY
from medallion_platform_tests.sources.reading import fields, frame_of

SPARK = {"T": T, "F": F, "DataFrame": DataFrame}
CONTRACTS = {"ContractModel": ContractModel, "Field": Field, "expect": expect}
SOURCES = {"Csv": Csv, "Debezium": Debezium, "FileSource": FileSource, "JsonLines": JsonLines}
TABLES = {"table": table, "daily": daily, "Lookup": Lookup}
HISTORIES = {"as_of": as_of, "current": current, "versions": versions}
NAMES = {**SPARK, **CONTRACTS, **SOURCES, **TABLES, **HISTORIES}


def declared(page: str) -> tuple[dict[str, Any], list[str]]:
    """What the page's Python declares, and its texts of files."""
    text = (REPOSITORY / "docs" / page).read_text()
    found = re.findall(r"^```(python|text)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {**NAMES, "__name__": f"docs.{page.removesuffix('.md')}"}
    source = "\n\n".join(body for kind, body in found if kind == "python")
    exec(compile(source, page, "exec", dont_inherit=True), names)
    return names, [body for kind, body in found if kind == "text"]


def test_severities_are_as_the_page_says() -> None:
    contract = declared("severities.md")[0]["Payments"].contract
    told = {e.name: e.severity for e in contract.expectations}
    assert told["amount: at most 10000"] is Severity.WARN
    assert told["amount: at least 0"] is Severity.REJECT
    assert told["amount: is a decimal(12,2)"] is told["payment_id: not null"] is Severity.REJECT
    assert told["till: one of north, south"] is told["till: is a string"] is Severity.WARN
    assert told["a refund names its till"] is Severity.WARN
    assert contract.tolerated_share == 0.2

    class OneCheck(ContractModel):
        """The names that a severity can be said of."""

        amount: T.LongType = Field(severity={"type": "warn", "nullable": "fail"})

    severities = [e.severity for e in OneCheck.contract.expectations]
    assert severities == [Severity.WARN, Severity.FAIL]


def test_the_sql_of_rules_is_understood_as_the_page_says() -> None:
    class Payments(ContractModel):
        """What the examples speak of."""

        till: T.StringType = Field(nullable=True)
        amount: T.DoubleType = Field(nullable=True)
        paid_at: T.TimestampType = Field(nullable=True)
        booked_at: T.TimestampType = Field(nullable=True)

    columns = Payments.contract.by_name
    section = (REPOSITORY / "docs" / "severities.md").read_text().partition("\n## Rules in SQL\n")[2]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    examples = [found for row in rows for found in re.findall(r"`` (.+?) ``|`([^`]+)`", row)]
    assert len(examples) > 20
    for quoted, plain in examples:
        assert columns_in_sql(quoted or plain, columns)
    with pytest.raises(SqlError):
        columns_in_sql("amount = 'north'", columns)


def test_csv_is_read_as_the_page_says(spark: SparkSession) -> None:
    page, (semicolons, no_header, fixed) = declared("csv.md")
    read = {
        "SEMICOLONS": frame_of(semicolons.encode("cp1252"), page["SEMICOLONS"]),
        "NO_HEADER": frame_of(no_header.encode(), page["NO_HEADER"]),
        "FIXED_WIDTH": frame_of(fixed.encode(), page["FIXED_WIDTH"]),
    }
    assert fields(read["SEMICOLONS"]).to_dicts() == [{"id": "1", "name": "Müller; Söhne", "city": "Köln"}]
    assert fields(read["NO_HEADER"]).rows() == [("1", "Meyer", "Ulm"), ("2", None, "Bonn")]
    assert fields(frame_of(b'a,b\nNA,""\n', Csv())).rows() == [("NA", None)]
    for wrong in ("::", "\N{BROKEN BAR}"):
        with pytest.raises(DeclarationError, match="delimiter"):
            Csv(delimiter=wrong)

    wind = spark.createDataFrame([("1.5",), ("NA",), ("n/a",), ("-",), ("calm",), (None,)], "wind string")
    assert [row.wind for row in page["wind"](wind).collect()] == [1.5, None, None, None, None, None]
    lines = spark.createDataFrame([(line,) for line in [*read["FIXED_WIDTH"]["line"], "cut"]], "line string")
    assert [tuple(row) for row in page["bookings"](lines).collect()] == [
        ("00001234", date(2026, 2, 1), Decimal("199.90")),
        ("00005678", date(2026, 2, 2), Decimal("50.00")),
        ("cut", None, None),
    ]
    odd = spark.createDataFrame([("1,5", "01.02.2026")], "amount string, day string").select(
        F.replace("amount", F.lit(","), F.lit(".")).alias("amount"),
        F.try_to_timestamp("day", F.lit("dd.MM.yyyy")).alias("day"),
    )
    assert [(row.amount, row.day.date()) for row in odd.collect()] == [("1.5", date(2026, 2, 1))]


def test_dimensions_are_made_as_the_page_says(spark: SparkSession, tmp_path: Path) -> None:
    page, _ = declared("dimensions.md")
    sources, made = (page["CUSTOMERS"], page["ORDERS"]), (page["customers"], page["customers_history"])
    catalog = Catalog(sources, (*made, page["orders"]))
    lake, zone = Lake(tmp_path / "lake"), tmp_path / "landing"

    def change(op: str, position: int, at: str, **row: str) -> dict[str, Any]:
        when = int(datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp() * 1000)
        return {
            "op": op,
            "before": row if op == "d" else None,
            "after": None if op == "d" else row,
            "source": {"connector": "postgresql", "lsn": position, "ts_ms": when},
            "ts_ms": when,
        }

    lines = {
        "customers/1.json": [
            change("c", 1, "2026-02-01", branch="x", customer_id="1", city="Ulm"),
            change("u", 2, "2026-02-10", branch="x", customer_id="1", city="Bonn"),
            change("c", 3, "2026-02-01", branch="y", customer_id="1", city="Linz"),
            change("d", 4, "2026-02-05", branch="y", customer_id="1", city="Linz"),
        ],
        "orders/1.json": [
            {"order_id": "1", "ordered_at": "2026-02-05T10:00:00Z", "sold_in": "x", "customer_id": "1"},
            {"order_id": "2", "ordered_at": "2026-02-15T10:00:00Z", "sold_in": "x", "customer_id": "1"},
            {"order_id": "3", "ordered_at": "2026-02-15T10:00:00Z", "sold_in": "y", "customer_id": "1"},
            {"order_id": "4", "ordered_at": "2026-02-15T10:00:00Z", "sold_in": "z", "customer_id": "1"},
            {"order_id": "5", "ordered_at": "2026-02-15T10:00:00Z", "sold_in": None, "customer_id": "1"},
        ],
    }
    for name, records in lines.items():
        file = zone / name
        file.parent.mkdir(parents=True)
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        os.utime(file, (0, 0))
    run = Run.now("docs")
    for source in sources:
        seen = landing_scan.scan_landing_zone(zone, [source], datetime.now(UTC), 0).claimed[source.name]
        assert (
            intake(landing_zone.landed_files(source, zone, seen, lake, run), lake, run).counts.dead_lettered
            == 0
        )
    for one in catalog.in_order:
        refresh(one, lake, lambda: spark, run, partition_columns=catalog.partition_columns)

    def rows(name: str, *columns: str) -> list[tuple[Any, ...]]:
        return sorted(pl.read_delta(lake.path(name)).select(columns).rows(), key=str)

    assert rows("silver.customers", "branch", "customer_id", "city") == [("x", "1", "Bonn")]
    assert rows("silver.customers_history", "branch", "customer_id", "city", "is_current") == [
        ("x", "1", "Bonn", True),
        ("x", "1", "Ulm", False),
        ("y", "1", "Linz", False),
    ]
    assert rows("silver.orders", "order_id", "city", "customer_known") == [
        ("1", "Ulm", True),
        ("2", "Bonn", True),
        ("3", "Linz", True),
        ("4", None, False),
        ("5", None, False),
    ]
