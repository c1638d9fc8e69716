"""A small gold table of features, written without Spark."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

from medallion_platform.contracts.contract import Column, ColumnType, Contract
from medallion_platform.lakehouse import polars_writer
from medallion_platform.lakehouse.commit import writer_sequence
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.run import Run
from medallion_platform.pipeline.table import Table, Upstream, daily

TABLE = "gold.user_features"
FIRST = date(2026, 3, 1)
RUN = Run("a run", datetime(2026, 11, 21, tzinfo=UTC))
SCHEMA = {
    "event_date": pl.Date,
    "user_id": pl.String,
    "feature_timestamp": pl.Datetime("us", "UTC"),
    "events_7d": pl.Int64,
    "spend_30d": pl.Decimal(18, 2),
    "share": pl.Float64,
    "top_page": pl.String,
}
CONTRACT = Contract(
    name="UserFeatures",
    columns=(
        Column("event_date", ColumnType("date")),
        Column("user_id", ColumnType("string")),
        Column("feature_timestamp", ColumnType("timestamp")),
        Column("events_7d", ColumnType("long"), nullable=True),
        Column("spend_30d", ColumnType("decimal", 18, 2), nullable=True),
        Column("share", ColumnType("double"), nullable=True),
        Column("top_page", ColumnType("string"), nullable=True),
    ),
    key=("event_date", "user_id"),
    event_time="feature_timestamp",
    partitioned_by=("event_date",),
)
GOLD = Table(
    TABLE,
    CONTRACT,
    lambda metrics: metrics,
    {"metrics": Upstream("gold.metrics")},
    "partitions",
    daily("event_date"),
)
"""The declaration; its transform is never run."""

Day = dict[str, int | None]
"""User to a number from which all feature values of a row follow."""


def features_of(number: int | None) -> dict[str, Any]:
    """Feature values that tell numbers apart, with a null for every kind."""
    if number is None:
        return dict.fromkeys(("events_7d", "spend_30d", "share", "top_page"))
    page = None if number % 3 == 0 else f"/päge {number}"
    return {
        "events_7d": number,
        "spend_30d": Decimal(number * 25).scaleb(-2),
        "share": number / 7,
        "top_page": page,
    }


def frame(day: int, users: Day) -> pl.DataFrame:
    """The rows of one day after FIRST."""
    at = FIRST + timedelta(days=day)
    known = datetime(at.year, at.month, at.day, tzinfo=UTC) + timedelta(days=1)
    rows = [
        {"event_date": at, "user_id": user, "feature_timestamp": known, **features_of(number)}
        for user, number in users.items()
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def lake_of(root: Path) -> Lake:
    """A lake with the empty table."""
    lake = Lake(root)
    lake.ensure(TABLE, pl.DataFrame(schema=SCHEMA).to_arrow().schema, ["event_date"])
    return lake


def write(lake: Lake, days: dict[int, Day]) -> int:
    """Put these days in the place of what was there for them, in one commit."""
    target = lake.open(TABLE)
    assert target is not None
    rows = pl.concat([frame(day, users) for day, users in days.items()])
    names = ", ".join(f"'{FIRST + timedelta(days=day)}'" for day in days)
    record = CommitRecord("refresh", "r", "", sequence=max(writer_sequence(target), 0) + 1)
    return polars_writer.replace_rows(target, rows, record, f"event_date IN ({names})")
