"""How old data are: by their events, by their arrival, by what they were made from; never by a commit."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from medallion_platform.lakehouse import maintenance, polars_writer
from medallion_platform.lakehouse.commit import commit, next_sequence
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.freshness import Freshness, data_as_of, freshness
from medallion_platform.pipeline.out_of_date import waiting

from .shop import SHOP

END = datetime(2026, 3, 16, tzinfo=UTC)
NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=5)


def put(
    lake: Lake,
    table: str,
    verb: str,
    at: datetime,
    rows: pl.DataFrame,
    position: dict[str, int] | None = None,
) -> None:
    """Append rows by a commit of this verb and time."""
    partition = [c for c in ("event_date", "week") if c in rows.columns]
    there = lake.ensure(table, rows.to_arrow().schema, partition)
    told = {k: {UNPARTITIONED: v} for k, v in (position or {}).items()}
    record = CommitRecord(
        verb, "r", at.isoformat(), Counts(rows.height, rows.height), told, sequence=next_sequence(there, None)
    )
    polars_writer.append(there, rows, record, {})


def users(*names: str) -> pl.DataFrame:
    return pl.DataFrame({"user_id": list(names)})


def events(*at: datetime) -> pl.DataFrame:
    frame = pl.DataFrame({"event_timestamp": list(at)}, schema={"event_timestamp": pl.Datetime("us", "UTC")})
    return frame.with_columns(pl.col("event_timestamp").dt.date().alias("event_date"))


def test_upkeep_and_writes_without_rows_make_nothing_newer(lake: Lake) -> None:
    put(lake, "bronze.users", "intake", LONG_AGO, users("a"))
    put(lake, "bronze.users", "intake", LONG_AGO, users("b"))
    assert freshness(SHOP, lake, "bronze.users", LONG_AGO + timedelta(hours=1))[0] == Freshness.FRESH
    maintenance.maintain(lake, "bronze.users")
    table = lake.open("bronze.users")
    assert table
    rejected = CommitRecord(
        "intake", "r", NOW.isoformat(), Counts(3, 0, 3), sequence=next_sequence(table, None)
    )
    commit(table, rejected)
    put(lake, "bronze.users", "replay", NOW, users("c"))
    assert freshness(SHOP, lake, "bronze.users", NOW) == (Freshness.STALE, LONG_AGO)
    put(lake, "bronze.users", "intake", NOW, users("d"))
    assert freshness(SHOP, lake, "bronze.users", NOW) == (Freshness.FRESH, NOW)


def test_events_tell_their_own_age_and_none_is_newer_than_its_arrival(lake: Lake) -> None:
    put(lake, "bronze.events", "intake", NOW, events(LONG_AGO, LONG_AGO - timedelta(days=200)))
    assert freshness(SHOP, lake, "bronze.events", NOW) == (Freshness.STALE, LONG_AGO)
    put(lake, "bronze.events", "intake", NOW, events(NOW + timedelta(minutes=30)))
    assert freshness(SHOP, lake, "bronze.events", NOW) == (Freshness.FRESH, NOW)
    put(lake, "silver.events", "refresh", NOW, events(LONG_AGO), {"bronze.events": 2})
    assert data_as_of(SHOP, lake, "silver.events") == LONG_AGO


@pytest.mark.parametrize(
    ("table", "partition", "end"),
    [
        ("gold.days", pl.DataFrame({"event_date": [LONG_AGO.date()]}), END),
        (
            "gold.weeks",
            pl.DataFrame({"week": [datetime(2026, 3, 9).date()]}),
            datetime(2026, 3, 16, tzinfo=UTC),
        ),
        ("gold.weeks", pl.DataFrame({"week": [datetime(2026, 3, 16).date()]}), NOW),
    ],
)
def test_a_partition_tells_up_to_its_end_or_until_it_was_written(
    lake: Lake, table: str, partition: pl.DataFrame, end: datetime
) -> None:
    put(lake, table, "refresh", NOW, partition.with_columns(events=pl.lit(1)))
    assert data_as_of(SHOP, lake, table) == end


def test_a_rebuild_is_as_old_as_what_it_was_made_from(lake: Lake) -> None:
    put(lake, "bronze.users", "intake", LONG_AGO, users("a"))
    first = lake.version("bronze.users")
    put(lake, "silver.users", "refresh", NOW, users("a"), {"bronze.users": first})
    assert freshness(SHOP, lake, "silver.users", NOW) == (Freshness.STALE, LONG_AGO)
    put(lake, "bronze.users", "intake", NOW, users("b"))
    assert data_as_of(SHOP, lake, "silver.users") == LONG_AGO, "it has not taken that yet"
    put(lake, "silver.users", "refresh", NOW, users("b"), {"bronze.users": lake.version("bronze.users")})
    assert freshness(SHOP, lake, "silver.users", NOW) == (Freshness.FRESH, NOW)


def test_what_was_never_made_and_what_holds_nothing_is_never_fresh(lake: Lake) -> None:
    assert freshness(SHOP, lake, "silver.users", NOW) == (Freshness.NEVER, None)
    put(lake, "silver.users", "refresh", NOW, users("a").clear(), {"bronze.users": 0})
    assert freshness(SHOP, lake, "silver.users", NOW) == (Freshness.STALE, None)


def test_rows_that_wait_for_another_input_are_named_with_it(lake: Lake) -> None:
    assert waiting(SHOP, lake) == {}
    put(lake, "bronze.events", "intake", NOW, events(NOW))
    assert waiting(SHOP, lake) == {"silver.events": ["bronze.users"]}, "the input itself"
    put(lake, "bronze.users", "intake", NOW, users("a"))
    assert waiting(SHOP, lake) == {}, "nothing is missing that a refresh would not make"


def test_an_empty_table_keeps_nobody_waiting(lake: Lake) -> None:
    put(lake, "bronze.events", "intake", NOW, events())
    assert waiting(SHOP, lake) == {}
    assert waiting(replace(SHOP, tables=()), lake) == {}
