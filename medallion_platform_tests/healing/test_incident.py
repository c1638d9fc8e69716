"""Rows of the ledger make the same incidents in whatever order and how often they are read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.errors import ErrorChain, Kind, Link
from medallion_platform.healing.decide import Look, Want, decide, label, pause, resume, undo
from medallion_platform.healing.incident import Action, Incident, fold, report_of_action, worth_keeping
from medallion_platform.lakehouse.incidents import Row
from medallion_platform_tests.healing.small_ledger import NOON, TABLE, SmallLedger, evidence

TABLES = ("silver.a", "silver.b")
STRANGE = ErrorChain(links=(Link(frozenset({"Strange"})),))


@st.composite
def ledgers(draw: st.DrawFn) -> SmallLedger:
    """What looks, reports and people wrote in some days, of which the memory of the looks was lost."""
    ledger, now = SmallLedger(), NOON
    steps = st.tuples(
        st.sampled_from(("look", "fails", "report", "pause", "resume", "label", "undo", "made")),
        st.sampled_from(TABLES),
        st.sampled_from((Kind.NETWORK, Kind.DATA, Kind.EVICTED)),
        st.sampled_from((0, 60, 3600, 86400)),
    )
    for n, (what, table, kind, seconds) in enumerate(draw(st.lists(steps, max_size=30))):
        now += timedelta(seconds=seconds)
        chain = STRANGE if n % 3 == 0 else None
        found = evidence(f"run/{n}", kind, table, now, chain=chain)
        wanted = {t: Want("refresh", str(n), "1", str(n)) for t in TABLES if (what, t) != ("made", table)}
        known = ledger.known
        match what:
            case "report":
                ledger.report(found)
            case "pause":
                ledger.decide(pause(table, now, "ann"), ledger.seen)
            case "resume":
                ledger.decide(resume(known, table, now, "ann"), ledger.seen)
            case "undo" if known.incidents:
                said = undo(known, [*known.incidents.values()][-1], now, "ann")
                ledger.decide(said, ledger.seen)
            case "label" if known.incidents:
                ledger.decide(label([*known.incidents.values()][-1], kind, now, "ann"), ledger.seen)
            case _:
                look = Look(now, wanted, (), [found] if what == "fails" else [])
                ledger.decide(decide(known, look).rows, ledger.seen)
    return ledger


def numbered(rows: Sequence[Row]) -> list[int]:
    return [row.sequence for row in rows if row.sequence]


@given(ledgers(), st.data())
def test_any_order_and_repetition_of_rows_says_the_same(ledger: SmallLedger, data: st.DataObject) -> None:
    more = data.draw(st.lists(st.sampled_from(ledger.rows), max_size=10)) if ledger.rows else []
    shuffled = data.draw(st.permutations([*ledger.rows, *more]))
    assert fold(shuffled) == fold(ledger.rows)


@given(ledgers(), st.data())
def test_what_is_lost_at_the_end_is_what_is_not_known(ledger: SmallLedger, data: st.DataObject) -> None:
    """A look goes on from whatever is left, and makes one incident of what it sees again."""
    left = data.draw(st.integers(0, ledger.seen))
    part = SmallLedger([row for row in ledger.rows if row.sequence <= left], left)
    now = max((row.at for row in ledger.rows), default=NOON)
    seen = [e for i in ledger.incidents for e in i.evidence]
    ids = [i.id for i in part.incidents]
    assert ids == [i.id for i in ledger.incidents][: len(ids)]
    look = Look(now, {t: Want("refresh", "x", "1", "x") for t in TABLES}, (), seen)
    part.decide(decide(part.known, look).rows, left)
    told = [e.occurrence for i in part.incidents for e in i.evidence]
    assert len(told) == len(set(told))
    assert {e.occurrence for e in seen} <= set(told)


@given(ledgers(), st.integers(0, 200))
def test_what_is_kept_says_the_same_of_all_that_is_not_old(ledger: SmallLedger, days: int) -> None:
    before, now = ledger.known, NOON + timedelta(days=days)
    after = fold(worth_keeping(ledger.rows, now))
    gone = before.incidents.keys() - after.incidents.keys()
    ends = {name: before.incidents[name].closed_at for name in gone}
    assert all(at and now - at > timedelta(days=90) for at in ends.values())
    for name, kept in after.incidents.items():
        known = before.incidents[name]
        assert kept == (replace(known, failed=kept.failed) if known.closed else known)
    assert (after.paused, after.labels, after.reported) == (before.paused, before.labels, before.reported)
    numbers = numbered(worth_keeping(ledger.rows, now))
    assert numbers == sorted(numbers)


def test_reports_that_an_incident_has_make_room() -> None:
    ledger = SmallLedger()
    ledger.report(*[evidence("worker/1", work="stream")] * 9, evidence("worker/2", work="stream"))
    first = [e for e in ledger.known.reported if e.occurrence == "worker/1"]
    ledger.decide(decide(replace(ledger.known, reported=tuple(first)), Look(NOON, {})).rows, 0)
    kept = worth_keeping(ledger.rows, NOON)
    assert [row.event for row in kept] == ["evidence", "detected"]
    assert [e.occurrence for e in fold(kept).reported] == ["worker/2"]


def test_what_a_run_did_belongs_to_its_incident_as_long_as_that_is_kept() -> None:
    ledger = SmallLedger()
    ledger.decide(decide(ledger.known, Look(NOON, {}, (), [evidence("run/1", Kind.CORRUPT)])).rows, 0)
    (incident,) = ledger.incidents
    done = Action(NOON, "run 2", "silver.upstream", "it was put back", 1, 100, ("2026-01-05",), 0.5)
    told = report_of_action(incident.id, incident.table, done, "run 2")
    ledger.rows += [told, told, replace(told, incident="nobody knows it")]
    assert ledger.incidents == [replace(incident, actions=(done,))]
    kept = worth_keeping(ledger.rows, NOON)
    assert fold(kept).incidents == ledger.known.incidents
    assert [row.incident for row in kept if row.event == "acted"] == [incident.id] * 2
    ledger.decide(decide(ledger.known, Look(NOON + timedelta(days=2), {})).rows, ledger.seen)
    assert ledger.incidents[0].closed
    assert worth_keeping(ledger.rows, NOON + timedelta(days=100)) == []


def test_it_costs_what_the_runs_took_that_failed_by_it_and_what_repaired_it() -> None:
    found = [replace(evidence(f"run/{n}", Kind.CORRUPT), run_id=str(n), seconds=2.5) for n in (1, 2)]
    found.append(replace(evidence("worker/1", Kind.CORRUPT), seconds=None))
    done = Action(NOON, "run 3", "silver.upstream", "it was put back", seconds=0.5)
    incident = Incident("abc-1", TABLE, "abc", Kind.CORRUPT, NOON, NOON)
    assert replace(incident, evidence=(*found, found[0]), actions=(done,)).cost == 5.5


@pytest.mark.parametrize(
    "row",
    [
        Row("acted", NOON, "run", incident="nobody knows it", body='{"partitions": 1, "files": "many"}'),
        Row("of a later version", NOON, "sensor", incident="a-1", sequence=1),
        Row("tried", NOON, "sensor", incident="nobody knows it", sequence=1),
        Row("closed", NOON, "sensor", incident="nobody knows it", sequence=1),
        Row("detected", NOON, "sensor", incident="a-1", body="no JSON", sequence=1),
        Row("detected", NOON, "sensor", incident="a-1", body='{"evidence": 1}', kind="later", sequence=1),
        Row("evidence", NOON, "worker", body="[]"),
    ],
)
def test_rows_of_another_version_are_no_reason_to_stop(row: Row) -> None:
    known = fold([row])
    decide(known, Look(NOON, {"silver.a": Want("refresh", "1")}))
    worth_keeping([row], NOON)


def rows_of_many(count: int) -> list[Row]:
    """So many tables that failed, each twice in two days; the first incident of each has healed."""
    ledger = SmallLedger()
    for day, healed in ((0, True), (2, False)):
        now = NOON + timedelta(days=day)
        wanted = {f"silver.t{n}": Want("refresh", "1", "1", str(day)) for n in range(count)}
        found = [evidence(f"run/{day}/{table}", Kind.DISK, table, now) for table in wanted]
        ledger.decide(decide(ledger.known, Look(now, wanted, (), found)).rows, ledger.seen)
        if healed:
            ledger.decide(decide(ledger.known, Look(now + timedelta(hours=3), wanted)).rows, ledger.seen)
            ledger.decide(decide(ledger.known, Look(now + timedelta(hours=4), {})).rows, ledger.seen)
    return ledger.rows


def steps_of(work: Callable[[], object]) -> int:
    """How many steps of Python some work takes: lines, and passes of loops within them."""
    steps = 0

    def trace(_frame: FrameType, event: str, _told: object) -> Any:
        nonlocal steps
        steps += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return steps


def test_a_look_takes_no_more_for_each_incident_where_there_are_more_of_them() -> None:
    few, many = rows_of_many(50), rows_of_many(200)
    assert steps_of(lambda: fold(many)) < 4.5 * steps_of(lambda: fold(few))
    later = NOON + timedelta(days=2, hours=1)
    looks = [
        (fold(rows), Look(later, {t: Want("refresh", "1") for t in {row.table for row in rows}}))
        for rows in (few, many)
    ]
    of_few, of_many = (steps_of(partial(decide, known, look)) for known, look in looks)
    assert of_many < 4.5 * of_few
