"""A small shop for refresh tests: two sources, and tables of every kind of recomputation."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyspark.sql.types as T
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.refresh import refresh
from medallion_platform.pipeline.refresh.commit import RefreshResult
from medallion_platform.pipeline.table import Lookup, Table, Upstream, daily, table, weekly
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.formats.jsonlines import JsonLines

from .toy import MONDAY, RUN, Row, Zone

DAYS = 16


class RawEvents(ContractModel):
    event_id: T.StringType = Field()
    event_timestamp: T.TimestampType = Field()
    user_id: T.StringType = Field(nullable=True)
    amount: T.LongType = Field(ge=0, nullable=True)
    email: T.StringType = Field(nullable=True)
    phone: T.StringType = Field(nullable=True)

    class Config:
        metadata = {  # noqa: RUF012
            "key": ["event_id"],
            "event_time": "event_timestamp",
            "watermark": timedelta(minutes=10),
            "partitioned_by": ["event_date"],
        }


class RawUsers(ContractModel):
    user_id: T.StringType = Field()
    position: T.LongType = Field()
    changed_at: T.TimestampType = Field()
    segment: T.StringType = Field(nullable=True)


class SilverEvents(ContractModel):
    event_id: T.StringType = Field()
    event_date: T.DateType = Field()
    event_timestamp: T.TimestampType = Field()
    user_id: T.StringType = Field(nullable=True)
    amount: T.LongType = Field(lt=100, nullable=True)
    email: T.StringType = Field(nullable=True, pii="email")
    phone: T.StringType = Field(nullable=True, pii="phone")
    segment: T.StringType = Field(nullable=True, notin=["forbidden"])

    class Config:
        metadata = {  # noqa: RUF012
            "key": ["event_id"],
            "event_time": "event_timestamp",
            "partitioned_by": ["event_date"],
        }


class History(ContractModel):
    user_id: T.StringType = Field()
    segment: T.StringType = Field(nullable=True, ne="wrong")
    effective_from: T.TimestampType = Field()
    effective_to: T.TimestampType = Field(nullable=True)
    is_current: T.BooleanType = Field()
    source_position: T.LongType = Field()

    class Config:
        metadata = {"key": ["user_id", "source_position"]}  # noqa: RUF012


class Users(ContractModel):
    user_id: T.StringType = Field()
    segment: T.StringType = Field(nullable=True, ne="wrong")

    class Config:
        metadata = {"key": ["user_id"]}  # noqa: RUF012


class Day(ContractModel):
    event_date: T.DateType = Field()
    segment: T.StringType = Field()
    events: T.LongType = Field(ne=3)
    amount: T.LongType = Field(nullable=True)

    class Config:
        metadata = {"key": ["event_date", "segment"], "partitioned_by": ["event_date"]}  # noqa: RUF012


class Week(ContractModel):
    week: T.DateType = Field()
    events: T.LongType = Field()

    class Config:
        metadata = {"key": ["week"], "partitioned_by": ["week"]}  # noqa: RUF012


EVENTS = FileSource("events", "bronze.events", RawEvents.contract, JsonLines(), "shop", claims=("events/**",))
USERS = FileSource("users", "bronze.users", RawUsers.contract, JsonLines(), "shop", claims=("users/**",))


@table(
    "silver.history",
    contract=History.contract,
    inputs={"changes": "bronze.users"},
    incremental="merge_by_key",
    recompute_key=("user_id",),
)
def history(changes: DataFrame) -> DataFrame:
    """Versions of users, in order of their position in the source."""
    one = changes.groupBy("user_id", "position").agg(F.max(F.struct("changed_at", "segment")).alias("state"))
    order = Window.partitionBy("user_id").orderBy("position")
    started = one.withColumn("effective_from", F.max(F.col("state.changed_at")).over(order))
    return started.select(
        "user_id",
        F.col("state.segment").alias("segment"),
        "effective_from",
        F.lead("effective_from").over(order).alias("effective_to"),
        F.lead("position").over(order).isNull().alias("is_current"),
        F.col("position").alias("source_position"),
    )


@table(
    "silver.users",
    contract=Users.contract,
    inputs={"changes": "bronze.users"},
    incremental="merge_by_key",
    recompute_key=("user_id",),
)
def users(changes: DataFrame) -> DataFrame:
    """Users as they are now."""
    newest = F.max_by("segment", F.struct("position", "changed_at", "segment"))
    return changes.groupBy("user_id").agg(newest.alias("segment"))


@table(
    "silver.events",
    contract=SilverEvents.contract,
    inputs={"events": "bronze.events", "users": Lookup("silver.history", key="user_id", by="user_id")},
    incremental="append",
    partition=daily("event_date"),
)
def events(events: DataFrame, users: DataFrame) -> DataFrame:
    """Events with the segment their user had at their time; more columns flow through."""
    order = Window.partitionBy("_user").orderBy("effective_from", "source_position")
    spans = users.select(F.col("user_id").alias("_user"), "segment", "effective_from", "source_position")
    spans = spans.select(
        "_user",
        "segment",
        F.when(F.lag("_user").over(order).isNotNull(), F.col("effective_from")).alias("_from"),
        F.lead("effective_from").over(order).alias("_to"),
    )
    at = F.col("event_timestamp")
    valid = (
        (F.col("user_id") == F.col("_user"))
        & (F.col("_from").isNull() | (at >= F.col("_from")))
        & (F.col("_to").isNull() | (at < F.col("_to")))
    )
    found = events.drop("_payload").join(F.broadcast(spans), valid, "left")
    return found.drop("_user", "_from", "_to")


@table(
    "gold.days",
    contract=Day.contract,
    inputs={"events": "silver.events"},
    incremental="replace_partitions",
    partition=daily("event_date"),
)
def days(events: DataFrame) -> DataFrame:
    """Events by day and segment."""
    segment = F.coalesce("segment", F.lit("none")).alias("segment")
    return events.groupBy("event_date", segment).agg(
        F.count(F.lit(1)).alias("events"), F.sum("amount").alias("amount")
    )


@table(
    "gold.windows",
    contract=Day.contract,
    inputs={"days": Upstream("gold.days", lookback_days=2)},
    incremental="replace_partitions",
    partition=daily("event_date"),
)
def windows(days: DataFrame) -> DataFrame:
    """The last three days as of each day with events."""
    there = days.select(F.col("event_date").alias("as_of")).distinct()
    spread = days.select(
        "segment",
        "events",
        "amount",
        F.explode(F.sequence("event_date", F.date_add("event_date", 2))).alias("as_of"),
    )
    summed = spread.join(F.broadcast(there), "as_of").groupBy("as_of", "segment")
    return summed.agg(F.sum("events").alias("events"), F.sum("amount").alias("amount")).withColumnRenamed(
        "as_of", "event_date"
    )


@table(
    "gold.weeks",
    contract=Week.contract,
    inputs={"days": "gold.days"},
    incremental="replace_partitions",
    partition=weekly("week"),
)
def weeks(days: DataFrame) -> DataFrame:
    """Events by week."""
    week = F.to_date(F.date_trunc("week", "event_date")).alias("week")
    return days.groupBy(week).agg(F.sum("events").alias("events"))


SHOP = Catalog((EVENTS, USERS), (history, users, events, days, windows, weeks))


def event(key: str, day: int, minute: int = 0, **fields: Any) -> Row:
    """A line of an events file."""
    time = MONDAY + timedelta(days=day, minutes=minute)
    told = {"event_id": key, "event_timestamp": time.isoformat(), **fields}
    return Row(json.dumps(told).encode(), True, key, time)


def change(user: str, position: int, day: int, segment: str | None) -> Row:
    """A line of a users file."""
    time = MONDAY + timedelta(days=day)
    told = {"user_id": user, "position": position, "changed_at": time.isoformat(), "segment": segment}
    return Row(json.dumps(told).encode(), True)


def no_spark() -> SparkSession:
    """For refreshes that must not need one."""
    raise AssertionError("Spark was asked for, though there is nothing to do")


def bring(
    t: Table, lake: Lake, spark: SparkSession | None, catalog: Catalog = SHOP, **options: Any
) -> RefreshResult:
    """Refresh one table; its counts must conserve."""
    done = refresh(
        t,
        lake,
        (lambda: spark) if spark else no_spark,
        RUN,
        partition_columns=catalog.partition_columns,
        **options,
    )
    if done.record:
        assert done.record.counts.missing == 0, (t.name, done)
    return done


def bring_all(lake: Lake, spark: SparkSession | None, catalog: Catalog = SHOP) -> list[RefreshResult]:
    """Refresh every table in order."""
    return [bring(t, lake, spark, catalog) for t in catalog.in_order]


def with_transform(t: Table, transform: Callable[..., DataFrame]) -> Table:
    """The same table, made by another function."""
    return replace(t, transform=transform)


def content(lake: Lake, table: str) -> Counter[str]:
    """A table's rows without provenance."""
    found = lake.open(table)
    if found is None:
        return Counter()
    frame = pl.scan_delta(found).collect()
    columns = sorted(c for c in frame.columns if not c.startswith("_"))
    return Counter(map(repr, frame.select(columns).to_dicts()))


def dead(lake: Lake, table: str) -> Counter[str]:
    """A table's dead letters; a column that is null counts as one that is not there."""
    return Counter(
        repr(
            (
                sorted((k, v) for k, v in json.loads(r["payload"]).items() if v is not None),
                r["violations"],
                r["broken"],
                r["partition"],
            )
        )
        for r in dead_letters.read(lake, table).to_dicts()
    )


def rebuilt(lake: Lake, spark: SparkSession, root: Path, catalog: Catalog = SHOP) -> Lake:
    """The same bronze tables in a fresh lake, and all that follows made from scratch."""
    fresh = Lake(root)
    shutil.copytree(lake.root / "bronze", fresh.root / "bronze")
    bring_all(fresh, spark, catalog)
    return fresh


def assert_same(one: Lake, other: Lake, tables: Iterable[Table] = SHOP.tables) -> None:
    """Equal rows and dead letters in every table."""
    for t in tables:
        assert content(one, t.name) == content(other, t.name), t.name
        assert dead(one, t.name) == dead(other, t.name), f"dead letters of {t.name}"


def take_all(zone: Zone) -> None:
    """Take in what waits for both sources."""
    for source in (EVENTS, USERS):
        zone.take(source)
