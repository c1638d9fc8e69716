"""What facts say about an incident, and what a person is advised to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medallion_platform.errors import Kind
from medallion_platform.healing.advice import ADVICE
from medallion_platform.healing.incident import Incident
from medallion_platform.healing.report import Facts, InputChange, LastWrite, explain_incident
from medallion_platform_tests.healing.small_ledger import NOON, TABLE

INCIDENT = Incident("abc-1", TABLE, "abc", Kind.OOM, NOON, NOON, code_version="1a")
LAST = LastWrite(7, NOON, "run 1", "00000000001a", rows=90, usual_rows=100)


def changes(facts: Facts, incident: Incident = INCIDENT) -> list[tuple[str, str, str, str]]:
    return [(c.what, c.of, c.before, c.now) for c in explain_incident(incident, facts).changes]


def test_what_is_as_it_was_is_no_change() -> None:
    same = {"pyspark": "4.2.0", "MEDALLION_SPARK_MEMORY": "2g"}
    assert changes(Facts(LAST, before=same, now=same)) == []
    assert changes(Facts(LAST, before={}, now=same)) == [], "of the run before nothing is known"
    assert changes(Facts(replace(LAST, code="")), INCIDENT) == []
    assert changes(Facts(LAST), replace(INCIDENT, code_version="")) == []
    assert changes(Facts(before={"pyspark": "4.1.0"}, now=same)) == [], "it was never made"


def test_each_change_since_the_last_write_is_told() -> None:
    facts = Facts(
        replace(LAST, code="00000000001b"),
        (InputChange("bronze.a", 3, 5, 200, 1 << 20), InputChange("bronze.b", 1, 2)),
        before={"pyspark": "4.1.0", "polars": "2"},
        now={"pyspark": "4.2.0", "polars": "2"},
    )
    assert changes(facts) == [
        ("code", TABLE, "00000000001b", "00000000001a"),
        ("settings", "pyspark", "4.1.0", "4.2.0"),
        ("input", "bronze.a", "3", "5"),
        ("input", "bronze.b", "1", "2"),
    ]
    told = dict(explain_incident(INCIDENT, facts).lines())
    assert told["last good write"] == "2026-11-30 12:00:00Z, version 7, run run 1, 90 rows read"
    words = [text for about, text in explain_incident(INCIDENT, facts).lines() if about == "changed since"]
    assert told["rows at stake"] == "200", "of the other input the log no longer tells"
    assert "bronze.a went from version 3 to 5: 200 rows were added, 1.0 MiB" in words
    assert "bronze.b went from version 1 to 2" in words
    assert "pyspark is 4.2.0, and was 4.1.0" in words


@pytest.mark.parametrize(("came", "unusual"), [(299, False), (300, True)])
def test_only_unusually_many_rows_are_a_change_of_their_own(came: int, unusual: bool) -> None:
    inputs = (InputChange("bronze.a", 3, 5, came - 1), InputChange("bronze.b", 3, 5, 1))
    found = [change for change in changes(Facts(LAST, inputs)) if change[0] == "rows"]
    assert found == ([("rows", TABLE, "100", str(came))] if unusual else [])
    assert changes(Facts(replace(LAST, usual_rows=None), inputs))[0][0] == "input"


def test_the_advice_begins_with_the_likeliest_change_and_ends_with_that_of_the_class() -> None:
    inputs = (InputChange("bronze.a", 3, 5, 1000),)
    both = Facts(replace(LAST, code="00000000001b"), inputs)
    told = explain_incident(INCIDENT, both).advice
    assert told.startswith("look first at what changed: 1,000 rows came for silver.events, where 100")
    assert told.endswith(ADVICE[Kind.OOM].text)
    told = explain_incident(replace(INCIDENT, kind=Kind.PERMANENT), both).advice
    assert told.startswith("look first at what changed: the code of silver.events")
    away = explain_incident(replace(INCIDENT, kind=Kind.TRANSIENT), both).advice
    assert away == ADVICE[Kind.TRANSIENT].text, "of what is outside no change here is the reason"


@pytest.mark.parametrize(("skew", "uneven"), [(4.9, False), (5, True)])
def test_where_one_task_has_read_much_more_the_advice_says_so(skew: float, uneven: bool) -> None:
    facts = Facts(LAST, operators=("Exchange", "Window"), figures={"stage_skew": skew})
    told = explain_incident(INCIDENT, facts)
    assert told.advice.startswith("one task read 5 times as much as the mean") is uneven
    assert ("failed at", "Exchange, Window") in told.lines()
    assert not explain_incident(replace(INCIDENT, kind=Kind.DATA), facts).advice.startswith("one task")
    changed = replace(facts, last_write=replace(LAST, code="00000000001b"))
    assert explain_incident(INCIDENT, changed).advice.startswith("look first at what changed")


def test_each_class_has_an_advice_that_names_the_table_and_the_incident() -> None:
    assert ADVICE.keys() == set(Kind)
    told = {kind: explain_incident(replace(INCIDENT, kind=kind), Facts()).advice for kind in Kind}
    assert "`medallion restore --table silver.events`" in told[Kind.CORRUPT]
    assert "`medallion incidents label abc-1 CLASS`" in told[Kind.UNKNOWN]
    assert not any("{" in text for text in told.values())
