"""What is decided about failures: as often as the policy says, each table by itself, and never nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from medallion_platform.errors import ErrorChain, Kind, Link
from medallion_platform.healing.decide import (
    Asked,
    Decisions,
    Look,
    Want,
    asked_from_text,
    asked_to_text,
    decide,
    label,
    pause,
    resume,
    undo,
)
from medallion_platform.healing.evidence import Evidence
from medallion_platform.healing.incident import (
    Action,
    Incident,
    breaker,
    fold,
    report_of_action,
    worth_keeping,
)
from medallion_platform.healing.policy import POLICY, Act
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform_tests.healing.small_ledger import NOON, TABLE, SmallLedger, evidence

OTHER = "gold.days"
WANT = Want("refresh", "state 1", "code 1", "1")
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


class Sensor:
    """Looks, writes down what it decided, and remembers what it asked for."""

    def __init__(self, ledger: SmallLedger | None = None) -> None:
        self.ledger, self.asked, self.now = ledger or SmallLedger(), {}, NOON
        self.wanted: dict[str, Want] = {TABLE: WANT}

    def look(
        self,
        *found: Evidence,
        after: timedelta = timedelta(),
        at_work: Iterable[str] = (),
        wanted: Mapping[str, Want] | None = None,
    ) -> Decisions:
        self.now += after
        self.wanted = dict(wanted) if wanted is not None else self.wanted
        look = Look(self.now, self.wanted, set(at_work), found, self.asked)
        done = decide(self.ledger.known, look)
        self.ledger.decide(done.rows, self.ledger.seen)
        self.asked = asked_from_text(asked_to_text(done.asked))
        assert self.asked == done.asked
        return done

    @property
    def incident(self) -> Incident:
        return self.ledger.incidents[-1]


def tries_until(sensor: Sensor, kind: Kind, end: timedelta, step: timedelta) -> list[timedelta]:
    """When a table that always fails is tried, from its first failure on."""
    sensor.look()
    began, found = sensor.now, list[timedelta]()
    done = sensor.look(evidence("run/0", kind))
    while sensor.now - began < end:
        if TABLE in done.try_now:
            found.append(sensor.now - began)
            done = sensor.look(evidence(f"run/{len(found)}", kind))
        else:
            done = sensor.look(after=step)
    return found


def test_what_never_failed_is_asked_for_at_once_and_nothing_is_written() -> None:
    sensor = Sensor()
    done = sensor.look()
    assert done == Decisions((), {TABLE: ()}, {}, {TABLE: Asked(NOON, WANT)})
    assert sensor.look(at_work=[TABLE]) == Decisions(asked={TABLE: Asked(NOON, WANT)})
    assert sensor.look(wanted={}) == Decisions()


def test_a_failure_is_told_once_waits_and_is_closed_when_the_log_shows_it() -> None:
    sensor = Sensor()
    sensor.look()
    sensor.look(at_work=[TABLE])
    failed = evidence("run/1", Kind.NETWORK)
    held = sensor.look(failed, after=5 * SECOND).held[TABLE]
    assert held.state == "waiting"
    assert held.next_try and timedelta() < held.next_try - sensor.now <= 15 * SECOND
    assert "failed network" in str(held) and held.command in str(held)
    assert sensor.look(failed, failed).rows == (), "told again"
    assert sensor.look(after=7 * SECOND).try_now == {}, "less than half of the pause"
    assert sensor.look(after=8 * SECOND).try_now == {TABLE: (sensor.incident.id,)}
    assert sensor.look(at_work=[TABLE], after=MINUTE).held == {}
    (row,) = sensor.look(wanted={}).rows
    found = sensor.incident
    assert (row.event, found.closed, found.verified) == ("closed", "healed", sensor.now)
    assert found.id == f"{found.fingerprint}-1"
    assert (found.began, found.detected, found.acted) == (NOON, NOON + 5 * SECOND, NOON + 20 * SECOND)


def test_with_traffic_a_write_closes_it_though_more_is_wanted() -> None:
    sensor = Sensor()
    sensor.look(evidence("run/1"))
    sensor.look(after=15 * SECOND)
    sensor.look(at_work=[TABLE], wanted={TABLE: replace(WANT, state="state 2")})
    done = sensor.look(wanted={TABLE: replace(WANT, state="state 3", written="2")})
    assert [row.event for row in done.rows] == ["closed"]
    assert done.try_now == {TABLE: ()}, "new work, which has not failed"


def test_a_write_of_somebody_else_before_it_is_tried_closes_nothing() -> None:
    sensor = Sensor()
    sensor.look(evidence("run/1"))
    assert sensor.look(wanted={TABLE: replace(WANT, written="2")}).rows == ()


@pytest.mark.parametrize("kind", Kind)
def test_as_often_as_the_policy_says_whatever_arrives(kind: Kind) -> None:
    """New inputs with every look; only half-open tries come besides, and those later each time."""
    sensor, states = Sensor(), iter(range(10_000))
    policy = POLICY[kind]
    planned = [seconds for step in policy.steps for seconds in step.pauses]
    real = sensor.look

    def with_traffic(*found: Evidence, **named: object) -> Decisions:
        wanted = {TABLE: replace(WANT, state=str(next(states)))}
        return real(*found, **named, wanted=wanted)  # type: ignore[arg-type]

    sensor.look = with_traffic  # type: ignore[method-assign]
    tries_until(sensor, kind, 8 * HOUR, MINUTE)
    (found,) = sensor.ledger.incidents
    regular = [t for t in found.tries if not t.half_open]
    if policy.endless:
        assert len(regular) == len(found.tries) > 40
        assert all(b.at - a.at <= 12 * MINUTE for a, b in pairwise(found.tries))
        return
    assert len(regular) <= len(planned)
    half_open = found.tries[len(regular) :]
    if len(regular) == len(planned):
        assert half_open
        last = regular[-1].at if regular else found.detected
        for n, one in enumerate(half_open):
            assert one.half_open
            assert one.at - last >= 2**n * MINUTE
            last = one.at


def test_without_change_half_open_tries_come_after_hours() -> None:
    tries = tries_until(Sensor(), Kind.DATA, 120 * HOUR, 10 * MINUTE)
    hours = [1, 3, 7, 15, 31, 55, 79, 103]
    assert [round(t / HOUR) for t in tries] == hours, "1, 2, 4, 8, 16, 24, 24, 24 after each other"


def test_new_code_is_tried_at_once_and_counts_from_one() -> None:
    sensor = Sensor()
    done = sensor.look(evidence("run/1", Kind.PERMANENT))
    assert (done.held[TABLE].state, done.try_now) == ("open", {})
    assert "at once if its code does" in str(done.held[TABLE])
    done = sensor.look(wanted={TABLE: replace(WANT, code_version="code 2")})
    assert (done.try_now, sensor.incident.closed) == ({TABLE: ()}, "passed")
    sensor.look(evidence("run/2", Kind.PERMANENT))
    assert sensor.incident.id.endswith("-2")


def test_a_person_pauses_and_resumes() -> None:
    sensor = Sensor()
    sensor.look(evidence("run/1", Kind.DATA))
    sensor.ledger.decide(pause(OTHER, sensor.now, "ann"), sensor.ledger.seen)
    done = sensor.look(after=5 * HOUR, wanted={OTHER: WANT, TABLE: WANT})
    assert done.try_now.keys() == {TABLE}
    assert done.held[OTHER].state == "paused"
    assert "paused by ann" in str(done.held[OTHER])
    assert OTHER in sensor.look(wanted={}).held, "it may become out of date while a run is at work"
    sensor = Sensor()
    sensor.look(evidence("run/1", Kind.DATA))
    sensor.ledger.decide(resume(sensor.ledger.known, TABLE, sensor.now, "ann"), sensor.ledger.seen)
    assert sensor.look().try_now == {TABLE: ()}
    assert sensor.incident.closed == "person"


def test_the_third_incident_in_a_day_opens_the_breaker_and_a_person_begins_anew() -> None:
    sensor = Sensor()
    for state in ("waiting", "waiting", "open", "open"):
        held = sensor.look(evidence(f"run/{sensor.now}", Kind.HUNG), wanted={TABLE: WANT}).held
        assert held[TABLE].state == state
        assert breaker(sensor.incident, sensor.ledger.known) == state.replace("waiting", "closed")
        assert TABLE in sensor.look(after=HOUR).try_now
        assert breaker(sensor.incident, sensor.ledger.known) == ("half-open" if state == "open" else "closed")
        sensor.look(wanted={}, after=HOUR)
        assert sensor.incident.closed == "healed"
    sensor.look(evidence("run/5", Kind.HUNG), wanted={TABLE: WANT})
    sensor.ledger.decide(resume(sensor.ledger.known, TABLE, sensor.now, "ann"), sensor.ledger.seen)
    sensor.look(evidence("run/6", Kind.HUNG))
    assert breaker(sensor.incident, sensor.ledger.known) == "closed"
    sensor.look(wanted={})
    sensor.look(evidence("run/7", Kind.HUNG), wanted={TABLE: WANT}, after=30 * HOUR)
    assert breaker(sensor.incident, sensor.ledger.known) == "closed", "the day is over"


def test_what_is_outside_is_tried_on_however_often_it_fails() -> None:
    sensor = Sensor()
    for n in range(5):
        sensor.look(evidence(f"run/{n}", Kind.NETWORK), wanted={TABLE: WANT})
        assert TABLE in sensor.look(after=15 * SECOND).try_now
        sensor.look(wanted={})


def test_a_silent_death_is_evidence_once_whether_it_was_the_first_time_or_a_try() -> None:
    sensor = Sensor()
    sensor.look()
    sensor.look(at_work=[TABLE])
    (row,) = sensor.look().rows
    assert (row.event, row.kind) == ("detected", "unknown")
    assert sensor.look().rows == ()
    done = sensor.look(after=15 * SECOND)
    assert [row.event for row in done.rows] == ["tried"]
    remembered = sensor.asked
    (row,) = sensor.look().rows
    assert row.event == "detected"
    sensor.asked = remembered  # the ledger was written, and the memory of the look was not
    assert sensor.look().rows == ()
    assert len(sensor.incident.evidence) == 2
    assert sensor.look(after=5 * MINUTE).try_now
    sensor.asked = {}
    sensor.look()
    assert len(sensor.incident.evidence) == 3, "the ledger knows of a try"


def test_what_is_told_is_not_silent_for_a_look_that_forgot_it() -> None:
    sensor = Sensor()
    remembered = {TABLE: Asked(NOON, WANT)}
    sensor.look(evidence("run/1", Kind.DISK), after=5 * SECOND)
    sensor.asked = remembered  # the ledger was written, and the memory of the look was not
    assert sensor.look(after=5 * SECOND).rows == ()


def test_a_try_that_dies_of_something_else_is_over_for_both() -> None:
    sensor = Sensor()
    sensor.look(evidence("run/1", Kind.NETWORK))
    sensor.look(after=15 * SECOND)
    sensor.look(evidence("run/2", Kind.DISK))
    assert [i.pending for i in sensor.ledger.incidents] == [False, False]
    assert [i.failed for i in sensor.ledger.incidents] == [sensor.now] * 2
    assert sensor.look(after=29 * SECOND).try_now == {}, "the longer of both pauses, half of it at least"
    assert len(sensor.look(after=MINUTE).try_now[TABLE]) == 2


def test_code_that_changed_while_the_old_one_failed_is_tried_at_once() -> None:
    """However many failures the old one left."""
    sensor = Sensor()
    sensor.look()
    new = {TABLE: replace(WANT, code_version="code 2")}
    sensor.look(evidence("run/1", Kind.DATA), evidence("run/2", Kind.DISK), wanted=new, after=SECOND)
    assert sensor.look(after=SECOND).try_now == {TABLE: ()}
    assert [i.closed for i in sensor.ledger.incidents] == ["passed", "passed"]


DAMAGED = ErrorChain(Kind.CORRUPT, "silver.upstream", ("DamagedFile",), file="part-1.parquet")


def broken_and_tried(sensor: Sensor, times: int) -> list[Mapping[str, str]]:
    """What is repaired by each try of a table that fails again and again by a damaged file."""
    found: list[Mapping[str, str]] = []
    for n in range(times):
        done = sensor.look(evidence(f"run/{n}", chain=DAMAGED))
        while not done.try_now:
            done = sensor.look(after=MINUTE)
        found.append(done.repair)
    return found


def test_the_second_try_of_what_met_damage_repairs_and_each_one_after_it() -> None:
    sensor = Sensor()
    repaired = broken_and_tried(sensor, 5)
    assert repaired == [{}, *[{TABLE: sensor.incident.id}] * 4]
    assert [one.act for one in sensor.incident.tries] == ["again", *["repair"] * 4]
    assert [one.half_open for one in sensor.incident.tries] == [False] * 3 + [True] * 2


def test_a_repair_that_made_things_worse_is_never_done_again_for_its_fingerprint() -> None:
    sensor = Sensor()
    sensor.look(evidence("run/1", Kind.CORRUPT))
    sensor.look(after=15 * SECOND)
    sensor.look(evidence("run/2", Kind.CORRUPT))
    done = sensor.look(after=15 * SECOND)
    assert done.repair == {TABLE: sensor.incident.id}
    worse = Action(sensor.now, "run 3", TABLE, "made again; this was taken back", undone=True)
    sensor.ledger.rows.append(report_of_action(sensor.incident.id, TABLE, worse, "run 3"))
    sensor.look(evidence("run/3", Kind.CORRUPT))
    for n in range(4, 12):
        done = sensor.look(after=25 * HOUR)
        assert (list(done.try_now), done.repair) == ([TABLE], {})
        sensor.look(evidence(f"run/{n}", Kind.CORRUPT))
    assert {t.act for t in sensor.incident.tries[2:]} == {"again"}
    sensor.look(wanted={})
    later = sensor.now + timedelta(days=365)
    kept = worth_keeping(sensor.ledger.rows, later)
    assert [i.actions for i in fold(kept).incidents.values()] == [(worse,)]
    assert repairs_of_the_next(sensor) == [], "nor for the next incident"
    sensor.ledger.decide(resume(sensor.ledger.known, TABLE, sensor.now, "ann"), sensor.ledger.seen)
    sensor.look(wanted={})
    assert repairs_of_the_next(sensor) == [TABLE, TABLE]


def repairs_of_the_next(sensor: Sensor) -> list[str]:
    """What is repaired in the first three tries of a new incident."""
    found: list[str] = []
    sensor.look(evidence(f"run/again {sensor.now}", Kind.CORRUPT), wanted={TABLE: WANT})
    for n in range(3):
        found += sensor.look(after=10 * MINUTE).repair
        sensor.look(evidence(f"run/again {sensor.now} {n}", Kind.CORRUPT))
    return found


def test_a_repair_that_dies_of_something_else_is_done_by_the_next_try() -> None:
    sensor = Sensor()
    broken_and_tried(sensor, 2)
    sensor.look(evidence("run/killed", Kind.EVICTED))
    damage, killed = sensor.ledger.incidents
    assert sensor.look(after=5 * MINUTE).repair == {TABLE: damage.id}
    assert [i.tries[-1].act for i in sensor.ledger.incidents] == ["repair", "again"]
    assert killed.kind is Kind.EVICTED


def test_processes_that_died_over_the_same_records_are_one_incident_until_these_are_isolated() -> None:
    sensor = Sensor()
    want = replace(WANT, work="intake")
    sensor.look(wanted={TABLE: want})
    for deaths in range(1, 23):
        died = Evidence(f"run/{deaths}", NOON, "intake", TABLE, exit_code=-9, deaths=deaths)
        assert TABLE in sensor.look(died).try_now, "at once"
    first, poison = sensor.ledger.incidents
    assert (first.kind, first.closed) == (Kind.EVICTED, "passed")
    assert (poison.kind, poison.closed, len(poison.tries)) == (Kind.POISON, "", 21)
    assert {t.act for t in poison.tries} == {Act.ISOLATE}
    sensor.look(wanted={TABLE: replace(want, written="2")})
    assert sensor.incident.closed == "healed"


def test_a_row_that_ends_a_refresh_is_isolated_by_nobody() -> None:
    sensor = Sensor()
    done = sensor.look(evidence("run/1", Kind.POISON))
    assert done.held[TABLE].state == "open"
    sensor.look(after=HOUR)
    assert [t.act for t in sensor.incident.tries] == [Act.AGAIN]


def test_an_incident_ends_once_its_file_is_whole_and_its_table_is_made() -> None:
    sensor = Sensor()
    broken_and_tried(sensor, 2)
    assert sensor.incident.damaged == {("silver.upstream", "part-1.parquet")}
    known, made = sensor.ledger.known, Look(sensor.now, {})
    assert decide(known, made).closed == {sensor.incident.id}
    assert decide(known, replace(made, damaged={sensor.incident.id})).closed == set()
    sensor.look(wanted={})
    assert sensor.incident.closed == "healed"


def test_what_is_not_asked_for_again_holds_nothing_and_passes() -> None:
    sensor = Sensor()
    done = sensor.look(evidence("run/1", Kind.DISK, work="maintenance"), evidence("run/2", table=""))
    assert done.try_now == {TABLE: ()}
    assert done.held == {}
    sensor.look(wanted={}, after=23 * HOUR)
    assert [i.closed for i in sensor.ledger.incidents] == ["", ""]
    sensor.look(after=HOUR)
    assert [i.closed for i in sensor.ledger.incidents] == ["passed", "passed"]


def test_what_is_lost_is_not_called_healed() -> None:
    sensor = Sensor()
    sensor.look(evidence("run/1", Kind.GAP))
    sensor.look(wanted={})
    assert sensor.incident.closed == "lost"


def test_records_that_are_gone_keep_nothing_from_being_made_and_end_as_lost() -> None:
    sensor = Sensor()
    found = sensor.look(evidence("gap/clicks/0/17", Kind.GAP, work="reading"))
    assert (found.try_now, found.held) == ({TABLE: ()}, {})
    sensor.look(wanted={}, after=23 * HOUR)
    assert sensor.incident.closed == ""
    sensor.look(after=HOUR)
    assert sensor.incident.closed == "lost"


def test_what_fails_at_a_table_beside_its_refresh_ends_no_try_of_it() -> None:
    sensor = Sensor()
    sensor.look()
    at_work = sensor.look(evidence("worker/1", work="stream"), at_work={TABLE})
    assert TABLE in at_work.asked
    died = sensor.look(evidence("worker/2", work="stream"))
    assert [row.event for row in died.rows].count("detected") == 2, "the run of which nothing came, too"


def test_a_label_gives_the_unknown_a_class_from_then_on() -> None:
    sensor, chain = Sensor(), ErrorChain(links=(Link(frozenset({"Strange"})),))
    sensor.look(evidence("run/1", chain=chain))
    assert sensor.incident.kind is Kind.UNKNOWN
    said = label(sensor.incident, Kind.DISK, sensor.now, "ann")
    sensor.ledger.decide(said, sensor.ledger.seen)
    assert sensor.look().try_now == {TABLE: ()}
    sensor.look(evidence("run/2", chain=chain))
    assert (sensor.incident.kind, sensor.incident.rule.partition(":")[0]) == (Kind.DISK, "label")
    assert [i.closed for i in sensor.ledger.incidents] == ["person", ""]


def test_a_label_is_taken_back_for_all_that_fails_in_the_same_way() -> None:
    sensor, chain = Sensor(), ErrorChain(links=(Link(frozenset({"Strange"})),))
    sensor.look(evidence("run/1", chain=chain))
    assert undo(sensor.ledger.known, sensor.incident, sensor.now, "ann") == (), "nobody gave it one"
    sensor.ledger.decide(label(sensor.incident, Kind.DISK, sensor.now, "ann"), sensor.ledger.seen)
    unknown = sensor.ledger.incidents[0]
    sensor.look(evidence("run/2", chain=chain), evidence("run/3", Kind.DISK, chain=None))
    assert [i.kind for i in sensor.ledger.incidents if not i.closed] == [Kind.DISK, Kind.DISK]
    said = undo(sensor.ledger.known, unknown, sensor.now, "ann")
    sensor.ledger.decide(said, sensor.ledger.seen)
    assert sensor.ledger.known.labels == {}
    (other,) = (i for i in sensor.ledger.incidents if not i.closed)
    assert other.rule == "said", "its own error says that, and nobody took it back"
    sensor.look(evidence("run/4", chain=chain))
    assert sensor.ledger.incidents[-1].kind is Kind.UNKNOWN
    assert undo(sensor.ledger.known, unknown, sensor.now, "ann") == (), "it is taken back once"
    sensor.look(wanted={})
    assert all(i.closed for i in sensor.ledger.incidents)
    kept = worth_keeping(sensor.ledger.rows, sensor.now + timedelta(days=1000))
    assert fold(kept).labels == {}


def test_a_report_of_a_worker_becomes_an_incident_once() -> None:
    sensor = Sensor()
    told = evidence("worker/clicks/0/17", table=OTHER, work="stream")
    sensor.ledger.report(told, told)
    sensor.ledger.report(told)
    (row,) = sensor.look(told, wanted={}).rows
    assert (row.event, row.table) == ("detected", OTHER)
    assert sensor.look().rows == ()


def test_a_clock_that_goes_back_makes_nothing_wait_for_long() -> None:
    sensor = Sensor()
    sensor.look(evidence("run/1", Kind.NETWORK))
    assert sensor.look(after=-SECOND).try_now == {}, "a clock beside this one"
    assert TABLE in sensor.look(after=-HOUR).try_now


def test_what_failed_longest_ago_comes_first() -> None:
    sensor = Sensor()
    names = [f"silver.t{n}" for n in (3, 1, 2)]
    for n, name in enumerate(names):
        sensor.look(evidence(f"run/{n}", Kind.OOM, name), wanted=dict.fromkeys(names, WANT), after=SECOND)
    done = sensor.look(wanted=dict.fromkeys([*names, TABLE], WANT), after=MINUTE)
    assert list(done.try_now) == [*names, TABLE]


class AnyLife(RuleBasedStateMachine):
    """Two tables that fail, heal, are killed; two who decide, of whom one may be killed or forget."""

    TABLES = ("silver.a", "silver.b")

    def __init__(self) -> None:
        super().__init__()
        self.ledger, self.now = SmallLedger(), NOON
        self.wants = {t: Want("refresh", "0", "0", "0") for t in self.TABLES}
        self.wanted = set(self.TABLES)
        self.working: set[str] = set()
        self.told: list[Evidence] = []
        self.asked: dict[str, Asked] = {}
        self.paused: set[str] = set()
        self.starts: dict[str, list[tuple[str, ...]]] = {t: [] for t in self.TABLES}
        self.in_vain = dict.fromkeys(self.TABLES, 0)
        self.new_code: set[str] = set()
        self.forgotten: set[str] = set()
        self.failures = 0

    tables = st.sampled_from(TABLES)

    @rule(table=tables)
    def something_arrives(self, table: str) -> None:
        self.wants[table] = replace(self.wants[table], state=str(int(self.wants[table].state) + 1))
        self.wanted.add(table)

    @rule(table=tables)
    def the_code_changes(self, table: str) -> None:
        want = self.wants[table]
        self.wants[table] = replace(want, code_version=str(int(want.code_version) + 1))
        self.wanted.add(table)
        if table not in self.forgotten:
            self.new_code.add(table)
        self.in_vain[table] = 0

    @rule(seconds=st.sampled_from((0, 1, 10, 60, 600, 3600, 86400)))
    def time_goes_by(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(table=tables, person_pauses=st.booleans())
    def a_person_says_something(self, table: str, person_pauses: bool) -> None:
        known = self.ledger.known
        rows = pause(table, self.now, "ann") if person_pauses else resume(known, table, self.now, "ann")
        self.ledger.decide(rows, self.ledger.seen)
        (self.paused.add if person_pauses else self.paused.discard)(table)
        if not person_pauses:
            self.in_vain[table] = 0

    @precondition(lambda self: self.working)
    @rule(data=st.data(), how=st.sampled_from(("made", "silent", *Kind)))
    def a_run_ends(self, data: st.DataObject, how: str) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.working))), how)

    @rule(table=tables, how=st.sampled_from(("silent", *Kind)), hours=st.integers(1, 10))
    def it_fails_for_long(self, table: str, how: str, hours: int) -> None:
        for _ in range(hours):
            if table in self.working:
                self.end(table, how)
            self.now += HOUR
            self.somebody_looks(False, "", False, 0)

    def end(self, table: str, how: str) -> None:
        self.working.remove(table)
        if how == "made":
            want = self.wants[table]
            self.wants[table] = replace(want, written=str(int(want.written) + 1))
            self.wanted.discard(table)
            self.in_vain[table] = 0
        elif how != "silent":
            self.failures += 1
            self.told.append(evidence(f"run/{self.failures}", Kind(how), table, self.now))

    @rule(
        forgets=st.booleans(),
        killed=st.sampled_from(("", "before it writes", "before it asks", "before it remembers")),
        other=st.booleans(),
        again=st.integers(0, 3),
    )
    def somebody_looks(self, forgets: bool, killed: str, other: bool, again: int) -> None:
        seen = self.ledger.seen
        wanted = {t: self.wants[t] for t in self.wanted}
        asked = {} if forgets else self.asked
        if forgets:
            self.in_vain = dict.fromkeys(self.TABLES, 0)
        if forgets or killed:  # nobody may know which code a run has, or had
            self.new_code.clear()
            self.forgotten.update(self.TABLES)
        look = Look(self.now, wanted, frozenset(self.working), self.told * again + self.told, asked)
        done = decide(self.ledger.known, look)
        self.check(look, done)
        if other:  # somebody else decides from the same state, and is faster
            self.ledger.decide(done.rows, seen)
            if done.rows:
                with pytest.raises(CommitConflict):
                    self.ledger.decide(done.rows, seen)
        elif killed == "before it writes":
            return
        else:
            self.ledger.decide(done.rows, seen)
        if killed == "before it asks":
            return
        self.working |= done.try_now.keys()
        for table, ids in done.try_now.items():
            self.starts[table].append(ids)
            assert ids or not self.in_vain[table], "it was asked for before, in vain, and nobody noticed"
            # Whoever forgets the first time that it asked may ask once more.
            self.in_vain[table] += not killed
            self.new_code.discard(table)
            self.forgotten -= set() if killed else {table}
        if killed != "before it remembers":
            self.asked = dict(done.asked)

    def check(self, look: Look, done: Decisions) -> None:
        """Nobody's trouble holds another, and nobody is held without a reason that will pass."""
        after = SmallLedger(list(self.ledger.rows), self.ledger.seen)
        after.decide(done.rows, after.seen)
        failed = {e.table for e in look.evidence if e.occurrence not in self.ledger.known.occurrences}
        for table in look.wanted:
            still_open = after.known.open_of(table)
            if table in self.new_code - look.asked.keys() - self.paused - look.at_work - failed:
                assert table in done.try_now
            if table in look.at_work:
                assert table not in done.try_now
            elif table in self.paused:
                assert done.held[table].state == "paused"
            elif table in done.try_now:
                assert all(i.pending for i in still_open)
                assert done.try_now[table] == tuple(i.id for i in still_open)
            else:
                held = done.held[table]
                assert still_open, "nothing of this table has failed"
                assert held.next_try is not None
                most = timedelta(hours=24 if held.state == "open" else 6)
                assert held.next_try - look.now <= most
        for table in self.TABLES:
            self.check_alone(table, look, done)

    def check_alone(self, table: str, look: Look, done: Decisions) -> None:
        """The same is decided about a table where there is no other; with others it may have to queue."""
        alone = decide(
            fold(row for row in self.ledger.rows if row.table == table),
            replace(
                look,
                wanted={t: w for t, w in look.wanted.items() if t == table},
                evidence=[e for e in look.evidence if e.table == table],
                asked={t: a for t, a in look.asked.items() if t == table},
            ),
        )
        if table in done.held and done.held[table].state == "queued":
            assert table in alone.try_now
            return
        assert alone.rows == tuple(row for row in done.rows if row.table == table)
        assert alone.try_now.get(table) == done.try_now.get(table)
        assert alone.held.get(table) == done.held.get(table)

    @invariant()
    def tries_are_bounded(self) -> None:
        """By the policy, and half-open ones by the time that has gone by."""
        for incident in self.ledger.incidents:
            policy = POLICY[incident.kind]
            planned = sum(len(step.pauses) for step in policy.steps)
            assert policy.endless or incident.tried <= planned
            half_open = [t for t in incident.tries if t.half_open]
            for n, (before, after) in enumerate(pairwise(half_open), 1):
                assert after.at - before.at >= min(2**n * MINUTE, 24 * HOUR)
            started = sum(incident.id in ids for ids in self.starts[incident.table])
            assert started <= len(incident.tries), "each was decided before it was asked for"

    def teardown(self) -> None:
        """Left alone, with everything in order again, all that is wanted is made within a day."""
        self.working.clear()
        for _ in range(3):
            self.now += 25 * HOUR
            done = decide(
                self.ledger.known,
                Look(self.now, {t: self.wants[t] for t in self.wanted}, (), self.told, self.asked),
            )
            self.ledger.decide(done.rows, self.ledger.seen)
            self.wanted -= done.try_now.keys()
            self.asked = dict(done.asked)
        assert self.wanted <= self.paused
        decide(self.ledger.known, Look(self.now, {}))


AnyLife.TestCase.settings = settings(stateful_step_count=20, deadline=None, max_examples=40)
TestAnyLife = AnyLife.TestCase
