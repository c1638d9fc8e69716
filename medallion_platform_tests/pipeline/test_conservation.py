"""A refresh whose transform loses or doubles rows commits nothing, however it does so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyspark.sql.types as T
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.errors import DeclarationError
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.spark_tables import DEAD
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.refresh import plan
from medallion_platform.pipeline.refresh.errors import RefreshFailed
from medallion_platform.pipeline.refresh.reconcile import count_read_by_key
from medallion_platform.pipeline.table import Table, daily, table

from .shop import EVENTS, USERS, bring, change, content, dead, event, rebuilt
from .toy import Zone


class Number(ContractModel):
    event_id: T.StringType = Field()
    event_date: T.DateType = Field()
    amount: T.LongType = Field(nullable=True, lt=90)

    class Config:
        metadata = {"key": ["event_id"], "partitioned_by": ["event_date"]}  # noqa: RUF012


def rows_table(transform: Callable[..., DataFrame], source_row_count: str = "1") -> Table:
    return table(
        "silver.numbers", contract=Number.contract, inputs={"events": "bronze.events"},
        incremental="append", partition=daily("event_date"), source_row_count=source_row_count,
    )(transform)  # fmt: skip


def right(events: DataFrame) -> DataFrame:
    return events.select("event_id", "event_date", "amount")


def dropping(events: DataFrame) -> DataFrame:
    return right(events).where("amount <> 1")


def doubling(events: DataFrame) -> DataFrame:
    return right(events).crossJoin(events.sparkSession.range(2).drop("id"))


def moving(events: DataFrame) -> DataFrame:
    """To a day that is not asked for."""
    return right(events).withColumn("event_date", F.date_add("event_date", 7))


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    return Zone(tmp_path)


def take(zone: Zone, *amounts: int, day: int = 0) -> None:
    zone.json(f"events/{zone.clock}.json", [event(f"{zone.clock}-{a}", day, amount=a) for a in amounts])
    zone.take(EVENTS)


def refused(t: Table, lake: Lake, spark: SparkSession, *, match: str, **options: Any) -> None:
    """Whatever code the last refresh had: an increment is looked at as well."""
    before = content(lake, t.name), dead(lake, t.name)
    last = lake.last_record(t.name)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RefreshFailed, match=match):
        if last:
            patch.setattr(plan, "code_version", lambda _: int(last.code, 16))
        bring(t, lake, spark, Catalog((EVENTS, USERS), (t,)), **options)
    assert (content(lake, t.name), dead(lake, t.name)) == before


@pytest.mark.failure("permanent")
def test_rows_that_are_dropped_or_doubled_are_not_committed(zone: Zone, spark: SparkSession) -> None:
    known = Catalog((EVENTS,), (rows_table(right),))
    take(zone, 0, 1, 2, 99)
    refused(
        rows_table(dropping), zone.lake, spark, match=r"silver.numbers: .* 3 rows where 4 .*bronze.events"
    )
    refused(rows_table(doubling), zone.lake, spark, match="8 rows where 4")
    done = bring(known.tables[0], zone.lake, spark, known)
    assert done.record
    assert (done.record.counts.read, done.record.counts.written, done.record.counts.dead_lettered) == (
        4,
        3,
        1,
    )
    take(zone, 1)
    for wrong, why in (
        (dropping, "0 rows where 1"),
        (doubling, "2 rows where 1"),
        (moving, "0 rows where 1"),
    ):
        refused(rows_table(wrong), zone.lake, spark, match=why)
    bring(known.tables[0], zone.lake, spark, known)


def test_a_table_says_which_rows_it_is_made_of(zone: Zone, spark: SparkSession) -> None:
    """A filter, or several rows of one: declared, it is counted; and held to what was declared."""
    filtered = rows_table(dropping, source_row_count="amount <> 1")
    known = Catalog((EVENTS,), (filtered,))
    take(zone, 0, 1, 2, 99)
    done = bring(filtered, zone.lake, spark, known)
    assert done.record
    assert (done.record.counts.read, done.record.counts.written, done.record.counts.dead_lettered) == (
        3,
        2,
        1,
    )
    take(zone, 1, 4)
    refused(replace(filtered, transform=right), zone.lake, spark, match="2 rows where 1")
    refused(
        replace(filtered, source_row_count="_nope > 1"),
        zone.lake,
        spark,
        match="source_row_count='_nope > 1' says nothing",
    )
    done = bring(filtered, zone.lake, spark, known)
    assert done.record
    assert done.record.counts.read == 1
    assert content(rebuilt(zone.lake, spark, zone.root / "fresh", known), filtered.name) == content(
        zone.lake, filtered.name
    )
    twice = rows_table(doubling, source_row_count="2")
    done = bring(twice, zone.lake, spark, Catalog((EVENTS,), (twice,)))
    assert done.record
    assert done.record.counts.read == 12


class Day(ContractModel):
    user_id: T.StringType = Field()
    event_date: T.DateType = Field()

    class Config:
        metadata = {"key": ["user_id"], "partitioned_by": ["event_date"]}  # noqa: RUF012


def test_a_day_made_anew_of_a_table_without_days_is_looked_at_too(zone: Zone, spark: SparkSession) -> None:
    def by_day(changes: DataFrame) -> DataFrame:
        return changes.select("user_id", F.to_date("changed_at").alias("event_date"))

    t = table(
        "silver.changes", contract=Day.contract, inputs={"changes": "bronze.users"},
        incremental="append", partition=daily("event_date"),
    )(by_day)  # fmt: skip
    known = Catalog((USERS,), (t,))
    zone.json("users/1", [change(f"u{n}", n, n % 2, None) for n in range(5)])
    zone.take(USERS)
    bring(t, zone.lake, spark, known)
    (day, *_) = sorted(zone.lake.partitions(t.name, "event_date"))
    done = bring(t, zone.lake, spark, known, partitions=[day], rebuild=True)
    assert done.record
    assert (done.record.counts.read, done.record.counts.written) == (3, 3)
    wrong = replace(t, transform=lambda changes: by_day(changes).where("user_id <> 'u2'"))
    refused(wrong, zone.lake, spark, match="2 rows where 3", partitions=[day], rebuild=True)


class Version(ContractModel):
    k: T.LongType = Field()
    at: T.LongType = Field()

    class Config:
        metadata = {"key": ["k", "at"]}  # noqa: RUF012


def versions_table(source_row_count: str = "1") -> Table:
    def versions(rows: DataFrame) -> DataFrame:
        return rows

    return table(
        "silver.versions", contract=Version.contract, inputs={"rows": "bronze.rows"},
        incremental="merge_by_key", recompute_key=("k",), source_row_count=source_row_count,
    )(versions)  # fmt: skip


PendingRefresh = list[tuple[Any, Any, bool]]
PLAIN = [("1", 0), ("1", 1), ("2", 0), (" 3", 0)]
EVENT = [("1", "c", 1), ("1", "u", 2), ("2", "c", 3), ("2", "d", 4), (None, "tombstone", 0)]
TRUNCATED = [("1", "c", 1), (None, "t", 2), ("2", "c", 3)]
ALL_OF_PLAIN: PendingRefresh = [(1, 0, False), (2, 0, False), (None, 0, True)]


@pytest.mark.parametrize(
    ("came", "made", "source_row_count", "said"),
    [
        (PLAIN, ALL_OF_PLAIN, "1", 4),
        (PLAIN, [*ALL_OF_PLAIN, (1, 1, False)], "1", 4),
        (PLAIN, ALL_OF_PLAIN[1:], "1", "leaves out 1 key (k) of bronze.rows"),
        (PLAIN, ALL_OF_PLAIN[:-1], "1", "leaves out 1 key (k) of bronze.rows"),
        (PLAIN, [*ALL_OF_PLAIN, (7, 0, False)], "1", "1 key (k) that bronze.rows does not have"),
        (PLAIN, [*ALL_OF_PLAIN, (2, 1, False)], "1", "more rows of 1 key "),
        (PLAIN, [*ALL_OF_PLAIN, (1, 0, False)], "1", "several rows of one key (k, at), 1 time"),
        (PLAIN, ALL_OF_PLAIN[1:], "k <> '1'", 2),
        (PLAIN, [*ALL_OF_PLAIN, (2, 1, False)], "2", 8),
        (EVENT, [(1, 1, False)], "1", 5),
        (EVENT, [(2, 1, False)], "1", "leaves out 1 key (k) of bronze.rows"),
        (TRUNCATED, [(2, 3, False)], "1", 3),
        (TRUNCATED, [], "1", "leaves out 1 key (k) of bronze.rows"),
    ],
)  # fmt: skip
def test_each_key_is_accounted_for(
    spark: SparkSession,
    came: list[tuple[Any, ...]],
    made: PendingRefresh,
    source_row_count: str,
    said: int | str,
) -> None:
    """A key that the table cannot read is another one than its neighbour."""
    t = versions_table(source_row_count)
    if len(came[0]) == 2:
        upstream = spark.createDataFrame(came, "k string, at int")
    else:
        facts = [(k, op, f"{place:020}", place, "topic/0") for k, op, place in came]
        upstream = spark.createDataFrame(
            facts, "k string, _op string, _sequence string, _offset long, _source string"
        )
    written = spark.createDataFrame(
        [(k, at, is_dead, " 3" if is_dead else None) for k, at, is_dead in made],
        f"k long, at long, {DEAD} boolean, kept string",
    )
    if isinstance(said, int):
        assert count_read_by_key(t, upstream, written, {"k": "kept"}, merging=False) == said
    else:
        with pytest.raises(RefreshFailed) as error:
            count_read_by_key(t, upstream, written, {"k": "kept"}, merging=False)
        assert said in str(error.value)


def test_a_key_that_a_former_truncate_deleted_is_not_lost_when_it_is_told_again(spark: SparkSession) -> None:
    """Rows of the changed keys alone are read, and rows without a key."""
    facts = [("1", "c", f"{1:020}", 1, "topic/0"), (None, "t", f"{2:020}", 2, "topic/0")]
    upstream = spark.createDataFrame(
        facts, "k string, _op string, _sequence string, _offset long, _source string"
    )
    written = spark.createDataFrame([], f"k long, at long, {DEAD} boolean, kept string")
    assert count_read_by_key(versions_table(), upstream, written, {"k": "kept"}, merging=True) == 1


def test_what_is_declared_in_vain_is_refused() -> None:
    class Person(ContractModel):
        email: T.StringType = Field(pii="email")

        class Config:
            metadata = {"key": ["email"]}  # noqa: RUF012

    with pytest.raises(DeclarationError, match="the contract names none"):
        table(
            "gold.n", contract=Number.contract, inputs={"events": "bronze.events"},
            incremental="replace_partitions", source_row_count="amount > 1",
        )(right)  # fmt: skip
    with pytest.raises(DeclarationError, match="'email' is masked"):
        table(
            "silver.people", contract=Person.contract, inputs={"rows": "bronze.rows"},
            incremental="merge_by_key", recompute_key=("email",),
        )(lambda rows: rows)  # fmt: skip
