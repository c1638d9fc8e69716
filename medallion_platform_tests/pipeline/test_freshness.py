"""How old data are: by their events, by their arrival, by what they were made from; never by a commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from medallion_platform.lakehouse import delta_log, maintenance, polars_writer
from medallion_platform.lakehouse.commit import commit_files, next_sequence
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.freshness import Freshness, data_as_of, freshness
from medallion_platform.pipeline.out_of_date import tables_waiting_for_inputs

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
    position: Mapping[str, int | dict[str, int]] | None = None,
) -> None:
    """Append rows by a commit of this verb and time."""
    partition = [c for c in ("event_date", "week") if c in rows.columns]
    there = lake.ensure(table, rows.to_arrow().schema, partition)
    told = {k: v if isinstance(v, dict) else {UNPARTITIONED: v} for k, v in (position or {}).items()}
    record = CommitRecord(
        verb, "r", at.isoformat(), Counts(rows.height, rows.height), told, sequence=next_sequence(there, None)
    )
    polars_writer.append_rows(there, rows, record, {})


def users(*names: str) -> pl.DataFrame:
    return pl.DataFrame({"user_id": list(names)})


def events(*at: datetime) -> pl.DataFrame:
    frame = pl.DataFrame({"event_timestamp": list(at)}, schema={"event_timestamp": pl.Datetime("us", "UTC")})
    return frame.with_columns(pl.col("event_timestamp").dt.date().alias("event_date"))


def test_upkeep_and_writes_without_rows_make_nothing_newer(lake: Lake) -> None:
    put(lake, "bronze.users", "intake", LONG_AGO, users("a"))
    put(lake, "bronze.users", "intake", LONG_AGO, users("b"))
    assert freshness(SHOP, lake, "bronze.users", LONG_AGO + timedelta(hours=1))[0] == Freshness.FRESH
    maintenance.maintain_table(lake, "bronze.users")
    table = lake.open("bronze.users")
    assert table
    rejected = CommitRecord(
        "intake", "r", NOW.isoformat(), Counts(3, 0, 3), sequence=next_sequence(table, None)
    )
    commit_files(table, rejected)
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


def test_no_table_is_newer_than_the_newest_of_its_inputs(lake: Lake) -> None:
    """The day ends after the newest event, and a lookup that came later brings no rows."""
    put(lake, "bronze.users", "intake", NOW, users("a"))
    put(lake, "silver.history", "refresh", NOW, users("a"), {"bronze.users": 1})
    noon = NOW - timedelta(hours=3)
    put(lake, "bronze.events", "intake", NOW, events(noon))
    put(lake, "silver.events", "refresh", NOW, events(noon), {"bronze.events": 1, "silver.history": 1})
    day = pl.DataFrame({"event_date": [NOW.date()], "events": [1]})
    week = pl.DataFrame({"week": [datetime(2026, 3, 16).date()], "events": [1]})
    put(lake, "gold.days", "refresh", NOW + timedelta(hours=1), day, {"silver.events": 1})
    put(lake, "gold.weeks", "refresh", NOW + timedelta(hours=1), week, {"gold.days": 1})
    later = NOW + timedelta(days=1, hours=-2)
    chain = ("bronze.events", "silver.events", "gold.days", "gold.weeks")
    assert {name: data_as_of(SHOP, lake, name) for name in chain} == dict.fromkeys(chain, noon)
    assert {freshness(SHOP, lake, name, later)[0] for name in chain} == {Freshness.STALE}
    put(lake, "bronze.events", "intake", later, events(later))
    put(lake, "silver.events", "refresh", later, events(later), {"bronze.events": 2, "silver.history": 1})
    known: dict[str, datetime | None] = {}
    assert data_as_of(SHOP, lake, "gold.days", known) == NOW, "as of what it was made from"
    assert (known["silver.events"], known["bronze.events"]) == (later, later)


def test_a_day_that_was_asked_for_alone_is_as_new_as_its_rows(lake: Lake) -> None:
    put(lake, "bronze.events", "intake", LONG_AGO, events(LONG_AGO))
    put(lake, "silver.events", "refresh", LONG_AGO, events(LONG_AGO), {"bronze.events": 1})
    put(lake, "bronze.events", "intake", NOW, events(NOW))
    now = lake.version("bronze.events")
    position = {UNPARTITIONED: now - 1, NOW.date().isoformat(): now}
    put(lake, "bronze.events", "maintain", NOW, events())
    put(lake, "silver.events", "refresh", NOW, events(NOW), {"bronze.events": position})
    assert freshness(SHOP, lake, "silver.events", NOW) == (Freshness.FRESH, NOW)


def test_a_damaged_log_does_not_hide_how_old_the_tables_behind_it_are(lake: Lake) -> None:
    put(lake, "bronze.events", "intake", LONG_AGO, events(LONG_AGO))
    put(lake, "silver.events", "refresh", LONG_AGO, events(LONG_AGO), {"bronze.events": 1})
    for file in Path(lake.path("bronze.events"), "_delta_log").glob("*.json"):
        file.write_text("{")
    assert freshness(SHOP, lake, "silver.events", NOW) == (Freshness.STALE, LONG_AGO)


def test_of_a_backlog_no_commit_is_read_to_tell_what_was_taken(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream makes 170,000 commits a day."""
    put(lake, "bronze.events", "intake", LONG_AGO, events(LONG_AGO))
    put(lake, "silver.events", "refresh", LONG_AGO, events(LONG_AGO), {"bronze.events": 1})
    for _ in range(20):
        put(lake, "bronze.events", "intake", NOW, events(NOW))
    read: list[int] = []
    texts = delta_log.texts

    def counted(path: str, versions: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        for version, text in texts(path, versions):
            read.append(version)
            yield version, text

    monkeypatch.setattr(delta_log, "texts", counted)
    assert data_as_of(SHOP, lake, "silver.events") == LONG_AGO
    assert len(read) <= 4, read


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
    assert tables_waiting_for_inputs(SHOP, lake) == {}
    put(lake, "bronze.events", "intake", NOW, events(NOW))
    behind = ("silver.events", "gold.days", "gold.windows", "gold.weeks")
    assert tables_waiting_for_inputs(SHOP, lake) == {name: ["bronze.users"] for name in behind}, (
        "and all below"
    )
    put(lake, "bronze.users", "intake", NOW, users("a"))
    assert tables_waiting_for_inputs(SHOP, lake) == {}, "nothing is missing that a refresh would not make"


def test_an_empty_table_keeps_nobody_waiting(lake: Lake) -> None:
    put(lake, "bronze.events", "intake", NOW, events())
    assert tables_waiting_for_inputs(SHOP, lake) == {}
    assert tables_waiting_for_inputs(replace(SHOP, tables=()), lake) == {}
