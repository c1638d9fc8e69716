"""Clickstream, gold: what analysts and models read."""

from __future__ import annotations

from datetime import timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from medallion_platform import Upstream, daily, table, weekly
from medallion_platform.transforms import as_of
from medallion_sample.clickstream.contracts import (
    GoldDailyUserMetrics,
    GoldRegionalRollupsDaily,
    GoldRegionalRollupsHourly,
    GoldRegionalRollupsWeekly,
    GoldUserFeatures,
    GoldUsersHistory,
)

_DOLLARS = "decimal(18,2)"


@table(
    "gold.daily_user_metrics",
    contract=GoldDailyUserMetrics.contract,
    inputs={"events": "silver.events"},
    incremental="replace_partitions",
    partition=daily("event_date"),
    cluster_by=("user_id",),
)
def daily_user_metrics(events: DataFrame) -> DataFrame:
    """One row per date, user and region: activity, spend, and its percentile of spend that day."""
    metrics = events.groupBy("event_date", "user_id", "region_code").agg(
        F.max("region_name").alias("region_name"),
        F.count(F.lit(1)).alias("event_count"),
        _how_many("page_view").alias("page_views"),
        _how_many("click").alias("clicks"),
        _how_many("search").alias("searches"),
        _how_many("add_to_cart").alias("cart_adds"),
        _how_many("purchase").alias("purchases"),
        F.count_distinct("session_id").alias("sessions"),
        F.max("session_seconds").alias("longest_session_seconds"),
        _sum_of("amount_usd").alias("spend"),
        F.min("event_timestamp").alias("first_event_at"),
        F.max("event_timestamp").alias("last_event_at"),
    )
    of_the_day = Window.partitionBy("event_date").orderBy("spend")
    ranked = metrics.withColumn("spend_percentile", F.percent_rank().over(of_the_day))
    return ranked.select(*GoldDailyUserMetrics.contract.column_names)


@table(
    "gold.regional_rollups_hourly",
    contract=GoldRegionalRollupsHourly.contract,
    inputs={"events": "silver.events"},
    incremental="replace_partitions",
    partition=daily("event_date"),
    fresh_within=timedelta(hours=2),
)
def regional_rollups_hourly(events: DataFrame) -> DataFrame:
    """One row per hour and region with events."""
    by_user = events.groupBy(
        "event_date", F.date_trunc("hour", "event_timestamp").alias("hour"), "region_code", "user_id"
    ).agg(
        F.max("region_name").alias("region_name"),
        F.count(F.lit(1)).alias("event_count"),
        F.count_distinct("session_id").alias("sessions"),
        _how_many("purchase").alias("purchases"),
        _sum_of("amount_usd").alias("spend"),
    )
    # Two steps, because two distinct counts in one would multiply the rows.
    return by_user.groupBy("event_date", "hour", "region_code").agg(*_of_users())


@table(
    "gold.regional_rollups_daily",
    contract=GoldRegionalRollupsDaily.contract,
    inputs={"metrics": "gold.daily_user_metrics"},
    incremental="replace_partitions",
    source_row_count="event_count",
    partition=daily("event_date"),
)
def regional_rollups_daily(metrics: DataFrame) -> DataFrame:
    """One row per day and region with events. A user has one row of metrics in each."""
    return metrics.groupBy("event_date", "region_code").agg(*_of_users())


@table(
    "gold.regional_rollups_weekly",
    contract=GoldRegionalRollupsWeekly.contract,
    inputs={"metrics": "gold.daily_user_metrics"},
    incremental="replace_partitions",
    source_row_count="event_count",
    partition=weekly("week"),
    fresh_within=timedelta(days=7),
)
def regional_rollups_weekly(metrics: DataFrame) -> DataFrame:
    """One row per week (from Monday) and region with events."""
    week = F.to_date(F.date_trunc("week", "event_date")).alias("week")
    return metrics.groupBy(week, "region_code").agg(
        F.max("region_name").alias("region_name"),
        F.sum("event_count").alias("event_count"),
        F.count_distinct("user_id").alias("active_users"),
        F.bit_count(F.bit_or(F.expr("shiftleft(1, weekday(event_date))"))).cast("long").alias("active_days"),
        F.sum("sessions").alias("sessions"),
        F.sum("purchases").alias("purchases"),
        _sum_of("spend").alias("revenue"),
    )


@table(
    "gold.user_features",
    contract=GoldUserFeatures.contract,
    inputs={"metrics": Upstream("gold.daily_user_metrics", lookback_days=30)},
    incremental="replace_partitions",
    partition=daily("event_date"),
    cluster_by=("user_id",),
)
def user_features(metrics: DataFrame) -> DataFrame:
    """A user's last 7 and 30 days as of the end of every day on which anybody was active.

    A user has a row as long as the 30 days hold any activity, and one of zeros on the day after
    them, so that nobody goes on with the last one. Each day of a user counts in the windows that it
    lies in; keeping one day of the result keeps one of these.
    """
    days = metrics.select(F.col("event_date").alias("as_of")).distinct()
    by_day = metrics.groupBy("user_id", F.col("event_date").alias("day")).agg(
        F.sum("event_count").alias("event_count"),
        F.sum("sessions").alias("sessions"),
        F.sum("purchases").alias("purchases"),
        _sum_of("spend").alias("spend"),
    )
    windows = F.explode(F.sequence("day", F.date_add("day", 30), F.expr("interval 1 day")))
    counted = by_day.withColumn("as_of", windows).join(F.broadcast(days), "as_of")
    age = F.date_diff("as_of", "day")

    def sum_of(column: str, days: int) -> Column:
        return F.coalesce(F.sum(F.when(age < days, F.col(column))), F.lit(0))

    def active_days(days: int) -> Column:
        return F.count_if(age < days)

    features = counted.groupBy("as_of", "user_id").agg(
        sum_of("event_count", 7).alias("events_7d"),
        sum_of("event_count", 30).alias("events_30d"),
        sum_of("sessions", 7).alias("sessions_7d"),
        sum_of("sessions", 30).alias("sessions_30d"),
        sum_of("purchases", 7).alias("purchases_7d"),
        sum_of("purchases", 30).alias("purchases_30d"),
        sum_of("spend", 7).cast(_DOLLARS).alias("spend_7d"),
        sum_of("spend", 30).cast(_DOLLARS).alias("spend_30d"),
        active_days(7).alias("active_days_7d"),
        active_days(30).alias("active_days_30d"),
        F.min(age).cast("long").alias("days_since_active"),
    )
    known_at = F.date_add("as_of", 1).cast("timestamp")
    return features.select(
        F.col("as_of").alias("event_date"),
        "user_id",
        known_at.alias("feature_timestamp"),
        *(c for c in features.columns if c not in ("as_of", "user_id")),
    )


@table(
    "gold.users_history",
    contract=GoldUsersHistory.contract,
    inputs={"users": "silver.users_history", "regions": "silver.regions_history"},
    incremental="replace_partitions",
)
def users_history(users: DataFrame, regions: DataFrame) -> DataFrame:
    """The conformed users dimension: every version, with its home region as of its beginning."""
    in_order = Window.partitionBy("user_id").orderBy("source_position")
    numbered = users.withColumn("version", F.row_number().over(in_order))
    resolved = as_of(
        numbered,
        regions,
        key="region_code",
        by="region_code",
        at="effective_from",
        take={"name": "region_name", "country": "country"},
        known="_region_known",
    ).drop("_region_known")
    declared = GoldUsersHistory.contract.column_names
    return resolved.select(*declared, *(c for c in resolved.columns if c not in declared))


def _how_many(event_type: str) -> Column:
    return F.count_if(F.col("event_type") == event_type)


def _sum_of(column: str) -> Column:
    """The sum, 0 where there is none. Of decimals, so that the order of rows cannot matter."""
    return F.coalesce(F.sum(column), F.lit(0)).cast(_DOLLARS)


def _of_users() -> tuple[Column, ...]:
    """What happened in a region, from one row per user there."""
    return (
        F.max("region_name").alias("region_name"),
        F.sum("event_count").alias("event_count"),
        F.count(F.lit(1)).alias("active_users"),
        F.sum("sessions").alias("sessions"),
        F.sum("purchases").alias("purchases"),
        _sum_of("spend").alias("revenue"),
    )


TABLES = (
    daily_user_metrics,
    regional_rollups_hourly,
    regional_rollups_daily,
    regional_rollups_weekly,
    user_features,
    users_history,
)
