"""Clickstream transforms: events by hand, gold against brute force in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from medallion_platform_tests.frames import MONDAY, frame, minutes, rows, schema_of
from medallion_sample.clickstream import gold, silver
from medallion_sample.clickstream.contracts import (
    BronzeEvents,
    SilverEvents,
    SilverRegionsHistory,
    SilverUsersHistory,
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

BRONZE = schema_of(
    BronzeEvents.contract, "event_date date", "device string", "_payload string", "_offset bigint"
)

USERS = [
    {"user_id": "u1", "segment": "free", "region_code": "EU-W", "effective_from": minutes(10)},
    {"user_id": "u1", "segment": "pro", "region_code": "NA-E", "effective_from": minutes(20)},
]
REGIONS = [
    {"region_code": "EU-W", "name": "Europe", "country": "Ireland", "effective_from": minutes(0)},
]


def histories(spark: SparkSession) -> tuple[DataFrame, DataFrame]:
    def numbered(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"is_current": True, "source_position": f"{n}", **h} for n, h in enumerate(history)]

    return (
        frame(spark, schema_of(SilverUsersHistory.contract), numbered(USERS)),
        frame(spark, schema_of(SilverRegionsHistory.contract), numbered(REGIONS)),
    )


def test_events_are_trimmed_priced_and_enriched_as_of_their_own_time(spark: SparkSession) -> None:
    good = {
        "event_id": "e1",
        "user_id": "\t u1 ",
        "event_type": " Purchase",
        "event_timestamp": minutes(15),
        "event_date": MONDAY.date(),
        "page": "  /чай ",
        "amount": Decimal("10.05"),
        "currency": "eur ",
        "session_start": minutes(1),
        "session_end": minutes(3),
        "region_code": " eu-w\n",
        "email": " ana.lopez@example.com ",
        "device": "mobile",
        "_payload": "{}",
        "_offset": 7,
    }
    bronze = [
        good,
        good | {"event_id": "e2", "event_timestamp": minutes(20), "session_end": minutes(0)},
        good | {"event_id": "e3", "event_timestamp": minutes(2), "currency": "XTS"},
        good | {"event_id": "e4", "user_id": "nobody", "region_code": "AT-L"},
        good | {"event_id": "e5", "user_id": "  ", "region_code": None, "amount": None},
        # As large as bronze lets through: the product must not overflow.
        good | {"event_id": "e6", "amount": Decimal("9999999999.99")},
    ]
    users, regions = histories(spark)
    made = silver.events.transform(events=frame(spark, BRONZE, bronze), users=users, regions=regions)
    assert made.columns[: len(SilverEvents.contract.columns)] == list(SilverEvents.contract.column_names)
    assert "_payload" not in made.columns
    found = {r["event_id"]: r for r in rows(made)}
    assert sorted(found) == ["e1", "e2", "e3", "e4", "e5", "e6"]
    first = found["e1"]
    assert first["user_id"] == "u1"
    assert first["event_type"] == "purchase"
    assert first["page"] == "/чай"
    assert first["amount_usd"] == Decimal("10.85")  # 10.854
    assert first["session_seconds"] == 120
    assert first["region_code"] == "EU-W"
    assert (first["region_name"], first["country"], first["region_known"]) == ("Europe", "Ireland", True)
    assert (first["user_segment"], first["user_region_code"], first["user_known"]) == ("free", "EU-W", True)
    assert (first["device"], first["_offset"]) == ("mobile", 7)
    assert (found["e2"]["user_segment"], found["e2"]["session_seconds"]) == ("pro", None)
    # Before the first version that is known, the first one.
    assert (found["e3"]["user_segment"], found["e3"]["amount_usd"]) == ("free", None)
    unknown = found["e4"]
    assert (unknown["user_segment"], unknown["user_known"]) == (None, False)
    assert (unknown["region_code"], unknown["country"], unknown["region_known"]) == ("AT-L", None, False)
    assert (found["e5"]["user_id"], found["e5"]["region_code"]) == (None, "UNKNOWN")
    assert found["e6"]["amount_usd"] == Decimal("10799999999.99")


def test_what_silver_rejects_and_what_it_warns_of(spark: SparkSession) -> None:
    from pyspark.sql import functions as F

    from medallion_platform.contracts import spark_engine as contracts

    base = {
        "event_type": "click",
        "event_timestamp": minutes(15),
        "amount": Decimal("1.00"),
        "currency": "USD",
        "region_code": "EU-W",
        "user_id": "u1",
    }
    bronze = [
        base | {"event_id": "good"},
        base | {"event_id": "negative", "amount": Decimal("-0.01")},
        base | {"event_id": "absurd", "amount": Decimal("1000000.01")},
        base | {"event_id": "nobody", "user_id": " "},
        base | {"event_id": "nowhere", "region_code": "../EU-W"},
        base | {"event_id": "odd", "event_type": "teleport", "user_id": "x", "currency": "XTS"},
    ]
    users, regions = histories(spark)
    made = silver.events.transform(events=frame(spark, BRONZE, bronze), users=users, regions=regions)
    validated = contracts.validate(SilverEvents.contract, made)
    verdicts = validated.df.select("event_id", validated.ok.alias("ok"), validated.violations.alias("why"))
    found = {r["event_id"]: r["why"] for r in rows(verdicts.where(~F.col("ok")))}
    assert {k: len(v) for k, v in found.items()} == {"negative": 1, "absurd": 1, "nobody": 1, "nowhere": 1}
    assert found["nobody"] == ["user_id: not null"]


def test_the_conformed_users_dimension_resolves_the_region_of_each_version(spark: SparkSession) -> None:
    users, regions = histories(spark)
    found = rows(gold.users_history.transform(users=users, regions=regions), ["version"])
    assert [(r["version"], r["region_code"], r["region_name"], r["country"]) for r in found] == [
        (1, "EU-W", "Europe", "Ireland"),
        (2, "NA-E", None, None),
    ]


# --- gold against brute force ---------------------------------------------------------------------

CLEAN = (
    "event_date date, user_id string, region_code string, region_name string, event_type string, "
    "event_timestamp timestamp, session_id string, session_seconds bigint, amount_usd decimal(18,2)"
)
Row = dict[str, Any]


@st.composite
def weeks_of_events(draw: st.DrawFn) -> list[Row]:
    """Silver events of a few users over some six weeks, most days empty."""
    days = draw(st.lists(st.integers(0, 44), min_size=1, max_size=8, unique=True))
    event = st.builds(
        lambda day, minute, user, region, kind, session, cents: {
            "event_date": (MONDAY + timedelta(days=day)).date(),
            "event_timestamp": MONDAY + timedelta(days=day, minutes=minute),
            "user_id": user,
            "region_code": region,
            "region_name": None if region == "UNKNOWN" else region.lower(),
            "event_type": kind,
            "session_id": session and f"{user}-{session}",
            "session_seconds": session and session * 10,
            "amount_usd": None if cents is None else Decimal(cents) / 100,
        },
        st.sampled_from(days),
        st.sampled_from([0, 1, 59, 60, 61, 1439]),
        st.sampled_from("abcde"),
        st.sampled_from(["EU-W", "NA-E", "UNKNOWN"]),
        st.sampled_from(["page_view", "click", "purchase", "search", "add_to_cart", "other", None]),
        st.sampled_from([None, 1, 2]),
        st.sampled_from([None, 0, 1, 999, 1000]),
    )
    return draw(st.lists(event, min_size=40, max_size=120))


def grouped(rows: Iterable[Row], key: Callable[[Row], tuple[Any, ...]]) -> list[tuple[Any, list[Row]]]:
    return [(k, list(of_key)) for k, of_key in groupby(sorted(rows, key=key), key=key)]


def spend_of(rows: Iterable[Row], column: str) -> Decimal:
    return sum((r[column] for r in rows if r[column] is not None), Decimal("0.00"))


def how_many(rows: list[Row], kind: str) -> int:
    return sum(r["event_type"] == kind for r in rows)


def different(rows: Iterable[Row], column: str) -> int:
    return len({r[column] for r in rows} - {None})


def highest(rows: Iterable[Row], column: str) -> Any:
    return max((r[column] for r in rows if r[column] is not None), default=None)


def daily_user_metrics(events: list[Row]) -> list[Row]:
    made = [
        {
            "event_date": day,
            "user_id": user,
            "region_code": region,
            "region_name": highest(of, "region_name"),
            "event_count": len(of),
            "page_views": how_many(of, "page_view"),
            "clicks": how_many(of, "click"),
            "searches": how_many(of, "search"),
            "cart_adds": how_many(of, "add_to_cart"),
            "purchases": how_many(of, "purchase"),
            "sessions": different(of, "session_id"),
            "longest_session_seconds": highest(of, "session_seconds"),
            "spend": spend_of(of, "amount_usd"),
            "first_event_at": min(r["event_timestamp"] for r in of),
            "last_event_at": max(r["event_timestamp"] for r in of),
        }
        for (day, user, region), of in grouped(
            events, lambda r: (r["event_date"], r["user_id"], r["region_code"])
        )
    ]
    for row in made:
        of_day = [r["spend"] for r in made if r["event_date"] == row["event_date"]]
        below = sum(spend < row["spend"] for spend in of_day)
        row["spend_percentile"] = below / (len(of_day) - 1) if len(of_day) > 1 else 0.0
    return made


def rollups_hourly(events: list[Row]) -> list[Row]:
    return [
        {
            "event_date": hour.date(),
            "hour": hour,
            "region_code": region,
            "region_name": highest(of, "region_name"),
            "event_count": len(of),
            "active_users": different(of, "user_id"),
            "sessions": different(of, "session_id"),
            "purchases": how_many(of, "purchase"),
            "revenue": spend_of(of, "amount_usd"),
        }
        for (hour, region), of in grouped(
            events, lambda r: (r["event_timestamp"].replace(minute=0), r["region_code"])
        )
    ]


def rollups_daily(events: list[Row]) -> list[Row]:
    return [
        {
            "event_date": day,
            "region_code": region,
            "region_name": highest(of, "region_name"),
            "event_count": len(of),
            "active_users": different(of, "user_id"),
            "sessions": different(of, "session_id"),
            "purchases": how_many(of, "purchase"),
            "revenue": spend_of(of, "amount_usd"),
        }
        for (day, region), of in grouped(events, lambda r: (r["event_date"], r["region_code"]))
    ]


def rollups_weekly(events: list[Row]) -> list[Row]:
    def monday(day: date) -> date:
        return day - timedelta(days=day.weekday())

    return [
        {
            "week": week,
            "region_code": region,
            "region_name": highest(of, "region_name"),
            "event_count": len(of),
            "active_users": different(of, "user_id"),
            "active_days": different(of, "event_date"),
            "sessions": sum(different(d, "session_id") for _, d in grouped(of, lambda r: (r["event_date"],))),
            "purchases": how_many(of, "purchase"),
            "revenue": spend_of(of, "amount_usd"),
        }
        for (week, region), of in grouped(events, lambda r: (monday(r["event_date"]), r["region_code"]))
    ]


def user_features(metrics: list[Row]) -> list[Row]:
    found: list[Row] = []
    for day in sorted({r["event_date"] for r in metrics}):
        for user in sorted({r["user_id"] for r in metrics}):
            aged = [r | {"age": (day - r["event_date"]).days} for r in metrics if r["user_id"] == user]
            mine = [r for r in aged if 0 <= r["age"] <= 30]
            month = [r for r in mine if r["age"] < 30]
            week = [r for r in month if r["age"] < 7]
            if not mine:
                continue
            row: Row = {
                "event_date": day,
                "user_id": user,
                "feature_timestamp": datetime.combine(day + timedelta(days=1), time(), UTC),
                "days_since_active": min(r["age"] for r in mine),
            }
            for name, of in (("7d", week), ("30d", month)):
                row[f"events_{name}"] = sum(r["event_count"] for r in of)
                row[f"sessions_{name}"] = sum(r["sessions"] for r in of)
                row[f"purchases_{name}"] = sum(r["purchases"] for r in of)
                row[f"spend_{name}"] = spend_of(of, "spend")
                row[f"active_days_{name}"] = different(of, "event_date")
            found.append(row)
    return found


@given(events=weeks_of_events())
@settings(
    max_examples=3,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # every try is six Spark jobs: no shrinking
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_gold_is_what_counting_by_hand_gives(spark: SparkSession, events: list[Row]) -> None:
    clean = frame(spark, CLEAN, events)
    by_user = gold.daily_user_metrics.transform(events=clean)
    found_by_user = rows(by_user, ["event_date", "user_id", "region_code"])
    expected = daily_user_metrics(events)
    assert found_by_user == expected
    metrics = spark.createDataFrame(found_by_user, by_user.schema)
    for table, of, oracle, order in (
        (gold.regional_rollups_hourly, {"events": clean}, rollups_hourly(events), ["hour"]),
        (gold.regional_rollups_daily, {"metrics": metrics}, rollups_daily(events), ["event_date"]),
        (gold.regional_rollups_weekly, {"metrics": metrics}, rollups_weekly(events), ["week"]),
    ):
        assert rows(table.transform(**of), [*order, "region_code"]) == oracle
    features = gold.user_features.transform(metrics=metrics)
    expected_features = user_features(expected)
    assert rows(features, ["event_date", "user_id"]) == expected_features
    # A refresh makes one day from the 30 days before it: the same rows as from everything.
    last = max(r["event_date"] for r in events)
    window = metrics.where(metrics.event_date.between(last - timedelta(days=30), last))
    alone = gold.user_features.transform(metrics=window)
    assert rows(alone.where(alone.event_date == last), ["user_id"]) == [
        r for r in expected_features if r["event_date"] == last
    ]


def test_every_gold_table_has_the_columns_of_its_contract(spark: SparkSession) -> None:
    clean = frame(spark, CLEAN, [])
    metrics = gold.daily_user_metrics.transform(events=clean)
    users, regions = histories(spark)
    for table in gold.TABLES:
        given_frames = {"events": clean, "metrics": metrics, "users": users, "regions": regions}
        made = table.transform(**{name: given_frames[name] for name in table.inputs})
        kinds = dict(made.dtypes)
        told = {"integer": "int", "long": "bigint"}
        wanted = {c.name: told.get(c.type.kind, str(c.type)) for c in table.contract.columns}
        assert kinds == wanted, table.name
