"""The table of what drills have shown."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from medallion_platform.lakehouse.drill_verdicts import DrillVerdict, append, last_of_each, read
from medallion_platform.lakehouse.lake import Lake

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
VERDICT = DrillVerdict(
    "killed-refresh",
    NOON,
    "Resilient",
    "",
    "silver.a",
    1.5,
    0.0,
    20.0,
    120.0,
    0,
    0,
    3,
    ("silver.a: evicted, tried again 1x, healed",),
)


def test_rows_come_back_as_they_were_the_earliest_first(lake: Lake) -> None:
    assert read(lake) == []
    late = replace(VERDICT, at=NOON + timedelta(days=7), detected_after=None, healed_after=None, done=())
    append(lake, [late])
    append(lake, [VERDICT])
    append(lake, [])
    assert read(lake) == [VERDICT, late]
    assert lake.tables() == [], "it is no table of the project"


def test_the_last_verdict_of_each_drill_counts() -> None:
    late = replace(VERDICT, at=NOON + timedelta(days=7), verdict="Failed")
    other = replace(VERDICT, drill="full-disk")
    assert last_of_each([VERDICT, other, late]) == [other, late]
