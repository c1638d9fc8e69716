"""Tables made anew by key: whatever keys and partitions are called, no row stays and none doubles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyspark.sql.types as T
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.table import Table, table
from medallion_platform.sources.source import FileSource, JsonLines

from .shop import bring, content, dead, rebuilt
from .toy import Row, Zone

TEXTS = (
    "Graz: West",
    "a%b",
    "%41",
    "ü",
    "e\u0301",
    "x=y",
    "a/b",
    "..",
    " ",
    "[x]{y}*",
    "a\\b",
    "a\tb\nc",
    "\x01",
)
"""Partition texts that someone spells in another way: the disk, the log, a URI, a pattern."""


class RawStock(ContractModel):
    place: T.StringType = Field(nullable=True)
    sku: T.StringType = Field(nullable=True)
    n: T.LongType = Field(nullable=True)


class Stock(ContractModel):
    place: T.StringType = Field(nullable=True)
    sku: T.StringType = Field()
    n: T.LongType = Field(nullable=True, ge=0)

    class Config:
        metadata = {"key": ["sku"], "partitioned_by": ["place"]}  # noqa: RUF012


RAW = FileSource("stock", "bronze.stock", RawStock.contract, JsonLines(), "toy", claims=("stock/**",))


def newest(rows: DataFrame) -> DataFrame:
    """The last row of each key."""
    last = rows.groupBy("sku").agg(F.max_by(F.struct("place", "n"), "_offset").alias("last"))
    return last.select("sku", "last.*")


STOCK = table(
    "silver.stock", contract=Stock.contract, made_from={"rows": "bronze.stock"},
    recompute="keys", keyed_by=("sku",),
)(newest)  # fmt: skip


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    return Zone(tmp_path / "häus chen;+{y}*")


def arrive(zone: Zone, source: FileSource, *rows: dict[str, object]) -> None:
    lines = [Row(json.dumps(row).encode(), True) for row in rows]
    zone.json(f"{source.name}/{zone.clock}", lines)
    zone.take(source)


def rows_of(lake: Lake, name: str, columns: Sequence[str]) -> list[tuple[object, ...]]:
    found = lake.open(name)
    assert found
    return sorted(pl.scan_delta(found).select(columns).collect().rows(), key=repr)


def bring_as_rebuilt(t: Table, source: FileSource, zone: Zone, spark: SparkSession) -> None:
    """An increment, then compared with the table made from scratch."""
    catalog = Catalog((source,), (t,))
    bring(t, zone.lake, spark, catalog)
    fresh = rebuilt(zone.lake, spark, zone.root / f"fresh-{zone.clock}", catalog)
    assert content(fresh, t.name) == content(zone.lake, t.name)
    assert dead(fresh, t.name) == dead(zone.lake, t.name)


def test_a_changed_key_is_replaced_in_a_partition_of_any_text(zone: Zone, spark: SparkSession) -> None:
    t, catalog = STOCK, Catalog((RAW,), (STOCK,))
    first = [{"place": text, "sku": f"{side}{n}", "n": 1} for n, text in enumerate(TEXTS) for side in "xy"]
    arrive(zone, RAW, *first, {"place": None, "sku": "xz", "n": 1})
    bring(t, zone.lake, spark, catalog)
    changed = [{**row, "n": 2} for row in first if str(row["sku"]).startswith("x")]
    arrive(zone, RAW, *changed, {"place": "moved", "sku": "xz", "n": 2})
    bring(t, zone.lake, spark, catalog)
    want = [(row["place"], row["sku"], 2 if str(row["sku"])[0] == "x" else 1) for row in first]
    assert rows_of(zone.lake, t.name, ["place", "sku", "n"]) == sorted([*want, ("moved", "xz", 2)], key=repr)


class RawParted(RawStock):
    class Config:
        metadata = {"partitioned_by": ["place"]}  # noqa: RUF012


PARTED = FileSource("parted", "bronze.stock", RawParted.contract, JsonLines(), "toy", claims=("parted/**",))
NAMES_FOLDER = "place: names a folder (not empty, at most 249 bytes)"
NOT_ONE = ("", "x" * 300, "ß" * 125, "%" * 84, "__HIVE_DEFAULT_PARTITION__", "nul\0")


def test_a_text_that_no_folder_can_be_called_is_a_dead_letter_and_the_rest_goes_on(
    zone: Zone, spark: SparkSession
) -> None:
    """In bronze where that is parted by it, else where it first names a partition."""
    rows = [
        {"place": text, "sku": f"s{n}", "n": n} for n, text in enumerate((*NOT_ONE, None, "fine", "y" * 249))
    ]
    arrive(zone, PARTED, *rows)
    assert rows_of(zone.lake, "bronze.stock", ["place"]) == [("fine",), ("y" * 249,), (None,)]
    letters = dead_letters.read(zone.lake, "bronze.stock")
    assert letters["violations"].to_list() == [[NAMES_FOLDER]] * len(NOT_ONE)
    assert [json.loads(p)["place"] for p in letters.sort("offset")["payload"]] == list(NOT_ONE)

    other = Zone(zone.root / "other")
    arrive(other, RAW, *rows)
    bring_as_rebuilt(STOCK, RAW, other, spark)
    arrive(other, RAW, {"place": "now", "sku": "s0", "n": 9}, {"place": "z" * 250, "sku": "s7", "n": 9})
    bring_as_rebuilt(STOCK, RAW, other, spark)
    assert rows_of(other.lake, STOCK.name, ["place", "n"]) == [("now", 9), ("y" * 249, 8), (None, 6)]
    assert dead_letters.count(other.lake, STOCK.name) == len(NOT_ONE)
