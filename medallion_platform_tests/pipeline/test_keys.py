"""Tables recomputed by key: whatever keys and partitions are called, no row stays and none doubles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyspark.sql.types as T
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit import StagedFile
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.refresh import plan
from medallion_platform.pipeline.refresh.errors import RefreshFailed
from medallion_platform.pipeline.table import Table, table
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.formats.jsonlines import JsonLines
from medallion_platform.storage import pieces

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
    "silver.stock", contract=Stock.contract, inputs={"rows": "bronze.stock"},
    incremental="merge_by_key", recompute_key=("sku",),
)(newest)  # fmt: skip


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    return Zone(tmp_path / "häus chen;+")


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


def test_a_changed_key_is_replaced_in_a_partition_of_any_text(tmp_path: Path, spark: SparkSession) -> None:
    """In a folder, too, that Spark reads by Delta's own reader alone, which is slow: in this test alone."""
    zone, t, catalog = Zone(tmp_path / "häus chen;+{y}*"), STOCK, Catalog((RAW,), (STOCK,))
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


def test_one_row_of_several_of_a_key_is_not_lost_by_a_mistake(zone: Zone, spark: SparkSession) -> None:
    """Rows that a transform drops are superseded only where another one of their key stands."""

    def some(rows: DataFrame) -> DataFrame:
        """Without the small ones, by mistake."""
        return newest(rows).where("n > 1 or n is null")

    def doubled(rows: DataFrame) -> DataFrame:
        """Twice, as a join makes them."""
        return newest(rows).crossJoin(rows.sparkSession.range(2).drop("id").select(F.lit(1).alias("x")))

    def renamed(rows: DataFrame) -> DataFrame:
        """Under another key."""
        return newest(rows).withColumn("sku", F.trim("sku"))

    arrive(zone, RAW, *({"place": "a", "sku": f"k{n}", "n": n % 3} for n in range(6)))
    for wrong, why in [
        (some, "leaves out 4 keys (sku) of bronze.stock"),
        (doubled, "more rows of 6 keys (sku) than bronze.stock has"),
    ]:
        t = replace(STOCK, transform=wrong)
        with pytest.raises(RefreshFailed) as failed:
            bring(t, zone.lake, spark, Catalog((RAW,), (t,)))
        assert why in str(failed.value)
        assert zone.lake.rows(t.name) == 0
    done = bring(STOCK, zone.lake, spark, Catalog((RAW,), (STOCK,)))
    assert done.record
    assert (done.record.counts.read, done.record.counts.written) == (6, 6)

    # An increment is held to the same.
    before = content(zone.lake, STOCK.name)
    arrive(zone, RAW, {"place": "b", "sku": " k1", "n": 7}, {"place": "b", "sku": "k2", "n": 1})
    for wrong, why in [(some, "1 key "), (renamed, "neither in the rows")]:
        t = replace(STOCK, transform=wrong)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(RefreshFailed, match=why):
            patch.setattr(plan, "code_version", lambda _: int(done.record.code, 16))  # type: ignore[union-attr]
            bring(t, zone.lake, spark, Catalog((RAW,), (t,)))
    assert content(zone.lake, STOCK.name) == before
    done = bring(STOCK, zone.lake, spark, Catalog((RAW,), (STOCK,)))
    assert done.record
    assert (done.record.counts.read, done.record.counts.superseded) == (3, 1)
    assert zone.lake.rows(STOCK.name) == 7


def test_a_key_is_gone_where_the_declaration_says_so(zone: Zone, spark: SparkSession) -> None:
    def there(rows: DataFrame) -> DataFrame:
        """What is not sold out."""
        return newest(rows).where("n > 0")

    t = replace(STOCK, transform=there, source_row_count="n <> 0")
    catalog = Catalog((RAW,), (t,))
    arrive(zone, RAW, *({"place": "a", "sku": f"k{n}", "n": n} for n in range(4)))
    bring_as_rebuilt(t, RAW, zone, spark)
    arrive(zone, RAW, {"place": "a", "sku": "k1", "n": 0}, {"place": "a", "sku": "k0", "n": 5})
    bring_as_rebuilt(t, RAW, zone, spark)
    assert rows_of(zone.lake, t.name, ["sku", "n"]) == [("k0", 5), ("k2", 2), ("k3", 3)]
    arrive(zone, RAW, {"place": "a", "sku": "k2", "n": -1})
    with pytest.raises(RefreshFailed, match="1 key "):
        bring(t, zone.lake, spark, catalog)


class Pair(ContractModel):
    pair: T.StringType = Field()
    place: T.StringType = Field(nullable=True)
    sku: T.LongType = Field()
    n: T.LongType = Field(nullable=True)

    class Config:
        metadata = {"key": ["pair"]}  # noqa: RUF012


def test_keys_that_are_null_in_part_or_cannot_be_read_are_made_once(zone: Zone, spark: SparkSession) -> None:
    """Incremental equals rebuild for keys of several columns, null ones and ones of another type."""

    def latest(rows: DataFrame) -> DataFrame:
        """The last row of each place and sku."""
        last = rows.groupBy("sku", "place").agg(F.max_by("n", "_offset").alias("n"))
        pair = F.to_json(F.struct("sku", "place")).alias("pair")
        return last.select(pair, "place", "sku", "n")

    t = table(
        "silver.pairs", contract=Pair.contract, inputs={"rows": "bronze.stock"},
        incremental="merge_by_key", recompute_key=("sku", "place"),
    )(latest)  # fmt: skip
    keys: list[tuple[str | None, str | None]] = [
        ("7", None),
        ("7", "a"),
        ("8", None),
        ("no", "a"),
        ("*", "b"),
    ]
    arrive(zone, RAW, *({"sku": s, "place": p, "n": 1} for s, p in keys))
    bring_as_rebuilt(t, RAW, zone, spark)
    assert len(dead(zone.lake, t.name)) == 2
    for again in ([("7", None), ("no", "b"), ("8", "x"), ("*", "b")], [(None, "a")]):
        arrive(zone, RAW, *({"sku": s, "place": p, "n": zone.clock} for s, p in again))
        bring_as_rebuilt(t, RAW, zone, spark)
    assert dead_letters.count(zone.lake, t.name) == 4


def test_rejected_rows_are_written_a_file_at_a_time(
    zone: Zone, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: none is lost, none doubled, and those of other keys stay."""
    monkeypatch.setattr(pieces, "ROWS", 7)
    monkeypatch.setattr(dead_letters, "FILE_BYTES", 1000)
    held: list[int] = []
    stage = dead_letters.stage

    def watched(lake: Lake, name: str, rows: pl.DataFrame) -> StagedFile:
        held.append(rows.height)
        return stage(lake, name, rows)

    monkeypatch.setattr(dead_letters, "stage", watched)
    rows = [{"place": "a", "sku": f"k{n}", "n": -1} for n in range(100)]
    arrive(zone, RAW, *rows)
    done = bring(STOCK, zone.lake, spark, Catalog((RAW,), (STOCK,)))
    assert done.record
    assert (done.record.counts.written, done.record.counts.dead_lettered) == (0, 100)
    assert done.record.violations == {"n: at least 0": 100}
    assert (sum(held), max(held) < 20) == (100, True)
    fields = {"code": "at_least", "columns": ["n"], "bound": "0", "values": ["-1"]}
    assert dead_letters.read(zone.lake, STOCK.name)["broken"].to_list() == [[fields]] * 100

    # One that holds rejected rows of keys that changed and of others is written anew in the same way.
    arrive(zone, RAW, *({**row, "n": n % 2 - 1} for n, row in enumerate(rows[5:35])))
    bring_as_rebuilt(STOCK, RAW, zone, spark)
    assert dead_letters.count(zone.lake, STOCK.name) == 85
    assert max(held) < 20
