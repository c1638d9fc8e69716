"""Clickstream, silver: clean events, and the users and regions that they are enriched from."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from medallion_platform import Lookup, daily, table
from medallion_platform.transforms import as_of, current, trimmed, versions
from medallion_sample.clickstream.contracts import (
    UNKNOWN_REGION,
    SilverEvents,
    SilverRegions,
    SilverRegionsHistory,
    SilverUsers,
    SilverUsersHistory,
)

USD_PER_UNIT = {
    "USD": Decimal("1"),
    "EUR": Decimal("1.08"),
    "INR": Decimal("0.0116"),
    "BRL": Decimal("0.178"),
}
"""The shop's fixed rates: a rebuild gives the same sums, whatever the market did since."""


@table(
    "silver.users_history",
    contract=SilverUsersHistory.contract,
    inputs={"changes": "bronze.users"},
    incremental="merge_by_key",
    recompute_key=("user_id",),
)
def users_history(changes: DataFrame) -> DataFrame:
    """Every version of every user, from change events in order of their source position."""
    return versions(changes, "user_id")


@table(
    "silver.regions_history",
    contract=SilverRegionsHistory.contract,
    inputs={"changes": "bronze.regions"},
    incremental="merge_by_key",
    recompute_key=("region_code",),
)
def regions_history(changes: DataFrame) -> DataFrame:
    """Every version of every region, from change events in order of their source position."""
    return versions(changes, "region_code")


@table(
    "silver.users",
    contract=SilverUsers.contract,
    inputs={"changes": "bronze.users"},
    incremental="merge_by_key",
    recompute_key=("user_id",),
)
def users(changes: DataFrame) -> DataFrame:
    """Users as they are now; a deleted one is gone, also when an older update comes late."""
    return current(changes, "user_id")


@table(
    "silver.regions",
    contract=SilverRegions.contract,
    inputs={"changes": "bronze.regions"},
    incremental="merge_by_key",
    recompute_key=("region_code",),
)
def regions(changes: DataFrame) -> DataFrame:
    """Regions as they are now."""
    return current(changes, "region_code")


@table(
    "silver.events",
    contract=SilverEvents.contract,
    inputs={
        "events": "bronze.events",
        "users": Lookup("silver.users_history", key="user_id", by="user_id"),
        "regions": Lookup("silver.regions_history", key="region_code", by="region_code"),
    },
    incremental="append",
    partition=daily("event_date"),
    cluster_by=("user_id",),
    fresh_within=timedelta(hours=1),
)
def events(events: DataFrame, users: DataFrame, regions: DataFrame) -> DataFrame:
    """One row per event: trimmed, in dollars too, with its user and region as of its own time.

    An event of an unknown user or region stays, with nulls. Columns that bronze has beyond its
    contract flow through; the raw payload does not.
    """
    ordered = F.col("session_end") >= F.col("session_start")
    seconds = F.unix_seconds("session_end") - F.unix_seconds("session_start")
    region = F.upper(trimmed("region_code"))
    cleaned = events.drop("_payload").withColumns(
        {
            "user_id": trimmed("user_id"),
            "event_type": F.lower(trimmed("event_type")),
            "event_date": F.to_date("event_timestamp"),
            "page": trimmed("page"),
            "currency": F.upper(trimmed("currency")),
            "session_id": trimmed("session_id"),
            "session_seconds": F.when(ordered, seconds),
            "region_code": F.coalesce(region, F.lit(UNKNOWN_REGION)),
            "email": trimmed("email"),
            "phone": trimmed("phone"),
        }
    )
    priced = cleaned.withColumn("amount_usd", _in_dollars(F.col("amount"), F.col("currency")))
    with_user = as_of(
        priced,
        users,
        key="user_id",
        by="user_id",
        at="event_timestamp",
        take={"segment": "user_segment", "region_code": "user_region_code"},
        known="user_known",
    )
    enriched = as_of(
        with_user,
        regions,
        key="region_code",
        by="region_code",
        at="event_timestamp",
        take={"name": "region_name", "country": "country"},
        known="region_known",
    )
    declared = SilverEvents.contract.column_names
    return enriched.select(*declared, *(c for c in enriched.columns if c not in declared))


def _in_dollars(amount: Column, currency: Column) -> Column:
    """The amount at the shop's rates, to the cent; null where the currency has no rate."""
    rate = F.lit(None).cast("decimal(10,6)")
    for code, dollars in USD_PER_UNIT.items():
        rate = F.when(currency == code, F.lit(dollars).cast("decimal(10,6)")).otherwise(rate)
    return (amount.cast("decimal(12,2)") * rate).cast("decimal(18,2)")


TABLES = (users_history, regions_history, users, regions, events)
