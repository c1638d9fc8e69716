"""What a drill has shown, by what was seen."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import pytest

from medallion_platform.drills.drill import BlastRadius
from medallion_platform.drills.junit import junit_of
from medallion_platform.drills.run import all_drills
from medallion_platform.drills.verdict import (
    Observed,
    Result,
    Verdict,
    differences,
    differing,
    done_in_words,
    seconds_between,
    verdict_of,
)
from medallion_platform.errors import Kind
from medallion_platform.healing.incident import Incident, Try

DRILL = next(drill for drill in all_drills() if drill.name == "killed-refresh")
GOOD = Observed("silver.a", detected_after=1.0, healed_after=20.0, disturbed=("silver.a",))
SOURCES = ("bronze.a", "bronze.b")
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def test_what_healed_in_time_and_whole_is_resilient() -> None:
    assert verdict_of(DRILL, GOOD, SOURCES) == (Verdict.RESILIENT, "")


def test_what_healed_later_is_degraded() -> None:
    late = replace(GOOD, healed_after=120.1)
    assert verdict_of(DRILL, late, SOURCES)[0] is Verdict.DEGRADED
    assert verdict_of(DRILL, replace(GOOD, healed_after=120.0), SOURCES)[0] is Verdict.RESILIENT


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (replace(GOOD, healed_after=None, still_wrong=("silver.a: late",)), "silver.a: late"),
        (replace(GOOD, healed_after=None), "it did not heal in time"),
        (replace(GOOD, lost=1), "1 rows were lost, 0 doubled"),
        (replace(GOOD, doubled=2), "0 rows were lost, 2 doubled"),
        (replace(GOOD, disturbed=("silver.a", "silver.b")), "it disturbed more than it may: silver.b"),
    ],
)
def test_what_did_not_heal_whole_has_failed(seen: Observed, reason: str) -> None:
    assert verdict_of(DRILL, seen, SOURCES) == (Verdict.FAILED, reason)


def test_a_drill_that_could_not_be_made_shows_nothing_whatever_else_was_seen() -> None:
    seen = replace(GOOD, problem="no root", lost=1)
    assert verdict_of(DRILL, seen, SOURCES) == (Verdict.INCONCLUSIVE, "no root")


@pytest.mark.parametrize(
    ("radius", "table", "allowed"),
    [
        ("target", "bronze.b", False),
        ("sources", "bronze.b", True),
        ("sources", "silver.b", False),
        ("lake", "silver.b", True),
    ],
)
def test_the_blast_radius_bounds_what_may_be_disturbed(radius: str, table: str, allowed: bool) -> None:
    drill = DRILL.model_copy(update={"blast_radius": BlastRadius.model_validate({"tables": radius})})
    verdict, _ = verdict_of(drill, replace(GOOD, disturbed=(table,)), SOURCES)
    assert (verdict is Verdict.RESILIENT) is allowed


def test_rows_are_counted_one_by_one() -> None:
    want = {"a": Counter({"x": 2, "y": 1}), "b": Counter({"z": 1})}
    have = {"a": Counter({"x": 3}), "b": Counter[str]()}
    assert differences(want, want) == (0, 0)
    assert differences(want, have) == (2, 1)
    assert differences(want, have, {"b"}) == (1, 1)
    assert differing(want, have) == {"a", "b"}
    assert differing(want, have | {"b": want["b"]}) == {"a"}


def test_what_was_done_is_told_of_each_incident() -> None:
    tried = Incident("f-1", "silver.a", "f", Kind.EVICTED, NOON, NOON, tries=(Try(1, "again", NOON),))
    healed = replace(tried, closed="healed")
    left = Incident("g-1", "gold.b", "g", Kind.PERMANENT, NOON + timedelta(seconds=1), NOON)
    assert done_in_words([left, healed]) == (
        "silver.a: evicted, tried again 1x, healed",
        "gold.b: permanent, not tried again, open",
    )


def test_seconds_are_never_negative_and_none_where_there_is_no_end() -> None:
    assert seconds_between(NOON, NOON + timedelta(seconds=1.26)) == 1.3
    assert seconds_between(NOON, NOON - timedelta(seconds=5)) == 0.0
    assert seconds_between(NOON, None) is None


def test_only_what_failed_makes_a_ci_server_red() -> None:
    seen = {
        Verdict.RESILIENT: GOOD,
        Verdict.DEGRADED: replace(GOOD, healed_after=199.0),
        Verdict.FAILED: replace(GOOD, lost=1),
        Verdict.INCONCLUSIVE: Observed(problem="no root"),
    }
    results = [
        Result(DRILL.model_copy(update={"name": verdict.value}), NOON, of, *verdict_of(DRILL, of, SOURCES))
        for verdict, of in seen.items()
    ]
    suite = ET.fromstring(junit_of(results))
    assert {k: suite.get(k) for k in ("tests", "failures", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "skipped": "1",
    }
    told = {case.get("name"): [child.tag for child in case] for case in suite}
    assert told == {
        "Resilient": ["system-out"],
        "Degraded": ["system-out"],
        "Failed": ["failure", "system-out"],
        "Inconclusive": ["skipped", "system-out"],
    }
    assert json.loads(str(suite[0].findtext("system-out")))["healed_after"] == 20.0
