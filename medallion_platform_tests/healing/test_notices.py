"""What people are told of incidents, and how often."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.errors import Kind
from medallion_platform.healing.decide import Look, Want, decide, pause, resume
from medallion_platform.healing.evidence import Evidence, Work
from medallion_platform.healing.notices import APART, LEDGER, Due, Rules, due, due_without_ledger, without_old
from medallion_platform.healing.told import Told, may_send
from medallion_platform_tests.healing.small_ledger import NOON, TABLE, SmallLedger, evidence

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
TABLES = tuple(f"silver.t{n:03}" for n in range(200))
RULES = Rules(
    10 * MINUTE, {TABLE: "team:shop", **dict.fromkeys(TABLES, "team:shop")}, "https://dagster.example"
)


@dataclass
class World:
    """A ledger, and one channel which takes what it is given while it works."""

    silent: bool = False
    ledger: SmallLedger = field(default_factory=SmallLedger)
    told: Told = field(default_factory=Told)
    now: datetime = NOON
    sent: list[tuple[str, str]] = field(default_factory=list)
    """The key and the state of each message, in their order."""
    broken: set[str] = field(default_factory=set)

    def fails(
        self, *tables: str, kind: Kind = Kind.NETWORK, work: Work = "refresh", again: bool = False
    ) -> None:
        """Tables fail now, and are not made; again: the sensor has asked for them."""
        found = [evidence(f"run/{self.now}/{t}", kind, t, self.now, work) for t in tables or [TABLE]]
        self.broken |= {e.table for e in found if e.table}
        self._look(found)

    def heals(self, *tables: str) -> None:
        """Tables are tried again, and made."""
        self._look()
        self.now += MINUTE
        self.broken -= set(tables or [TABLE])
        self._look()

    def _look(self, found: Iterable[Evidence] = ()) -> None:
        wanted = {t: Want("refresh", "1", "1", "1") for t in self.broken}
        look = Look(self.now, wanted, (), list(found), unharmed=self.broken)
        rows = decide(self.ledger.known, look).rows
        self.ledger.decide(rows, self.ledger.seen)

    def ready(self) -> list[Due]:
        self.told = without_old(self.told, self.ledger.known, self.now)
        return due(self.ledger.known, self.told, RULES, self.now, silent=self.silent)

    def look(self, after: timedelta = timedelta()) -> list[tuple[str, str]]:
        """What is sent after some time."""
        self.now += after
        ready = self.ready()
        for message, notice in ready:
            self.told = Told.from_text(self.told.sent(message, notice, f"handle of {message.key}").to_text())
        new = [(message.key, notice.state) for message, notice in ready]
        self.sent += new
        return new

    def pass_by(self, time: timedelta) -> None:
        """Looks every minute."""
        end = self.now + time
        while self.now < end:
            self.look(MINUTE)

    @property
    def states(self) -> list[str]:
        return [state for _, state in self.sent]


@pytest.mark.parametrize("silent", [True, False])
def test_what_heals_within_its_tries_is_not_told(silent: bool) -> None:
    world = World(silent)
    world.fails()
    world.pass_by(8 * MINUTE)
    world.heals()
    world.pass_by(DAY)
    assert world.sent == []


def test_what_lasts_is_told_once_and_its_end_when_it_stays() -> None:
    world = World()
    world.fails()
    world.pass_by(3 * HOUR)
    assert world.states == ["trying"]
    world.heals()
    world.look(4 * MINUTE)
    assert world.states == ["trying"]
    world.pass_by(DAY)
    assert world.states == ["trying", "ended"]


def test_what_needs_a_person_is_told_at_once_and_whose_it_is() -> None:
    world = World()
    world.fails(kind=Kind.DATA)
    ((_, notice),) = world.ready()
    assert (notice.state, notice.owner, notice.tables) == ("person", "team:shop", (TABLE,))
    assert notice.title == f"{TABLE}: data, needs a person"
    assert f"medallion incidents resume {TABLE}" in notice.facts["to do"]


def test_a_message_says_more_where_that_disturbs_nobody() -> None:
    loud, silent = World(), World(silent=True)
    for world in (loud, silent):
        world.fails()
        world.look(11 * MINUTE)
        for _ in range(3):
            world._look()  # tried again
            world.look(MINUTE)
            world.fails()
            world.look(MINUTE)
    assert loud.states == ["trying"]
    assert len(silent.sent) > 3
    assert {key for key, _ in silent.sent} == {loud.sent[0][0]}


def test_it_is_told_again_when_it_gets_worse() -> None:
    world = World()
    world.fails(kind=Kind.UNKNOWN)
    world.look(11 * MINUTE)
    for _ in range(2):
        world._look()
        world.now += 10 * MINUTE
        world.fails(kind=Kind.UNKNOWN)
        world.now += 10 * MINUTE
    world.look()
    assert world.states == ["trying", "person"]


def flap(world: World, times: int, every: timedelta) -> None:
    for _ in range(times):
        world.fails(kind=Kind.EVICTED)
        world.pass_by(every / 2)
        world.heals()
        world.pass_by(every / 2)


@pytest.mark.parametrize("every", [2 * MINUTE, 20 * MINUTE, 40 * MINUTE])
def test_what_comes_and_goes_is_one_message_that_seldom_changes(every: timedelta) -> None:
    world = World()
    flap(world, 30, every)
    hours = (world.now - NOON) / HOUR
    assert len({key for key, _ in world.sent}) == 1
    assert len(world.sent) <= 4 + 2 * hours
    world.pass_by(2 * HOUR)
    assert world.states[-1] == "ended"


@pytest.mark.parametrize("silent", [True, False])
def test_what_comes_back_and_heals_within_its_tries_is_not_told_again(silent: bool) -> None:
    world = World(silent)
    world.fails()
    world.pass_by(HOUR)
    world.heals()
    world.pass_by(HOUR)
    told = list(world.sent)
    assert told[-1][1] == "ended"
    world.fails()
    world.pass_by(5 * MINUTE)
    world.heals()
    world.pass_by(DAY)
    assert world.sent == told


def test_after_a_person_took_over_the_next_failure_is_a_message_of_its_own() -> None:
    world = World()
    world.fails(kind=Kind.DATA)
    world.look()
    world.ledger.decide(resume(world.ledger.known, TABLE, world.now, "ann"), world.ledger.seen)
    assert [state for _, state in world.look()] == ["ended"]
    world.now += MINUTE
    world.fails(kind=Kind.DATA)
    world.look()
    assert world.states == ["person", "ended", "person"]
    assert len({key for key, _ in world.sent}) == 2


def test_a_table_that_a_person_paused_is_not_told_of() -> None:
    world = World()
    world.ledger.decide(pause(TABLE, world.now, "ann"), world.ledger.seen)
    world.fails(kind=Kind.DATA)
    world.pass_by(HOUR)
    assert world.sent == []


def test_lost_records_are_told_and_stay_lost() -> None:
    world = World()
    world.fails(kind=Kind.GAP)
    world.look()
    world.broken.clear()
    world.now += HOUR
    world._look()
    world.pass_by(2 * DAY)
    assert world.states == ["person", "lost"]
    ended = World(ledger=world.ledger, now=world.now - 2 * DAY)
    ended.pass_by(2 * DAY)
    assert ended.states == ["lost"]  # also where nobody was told before


def test_work_that_is_done_again_by_itself_is_told_when_it_fails_again() -> None:
    world = World()
    world.fails("gold.a", kind=Kind.DISK, work="maintenance")
    world.broken.clear()
    world.pass_by(6 * HOUR)
    assert world.sent == []
    world.fails("gold.a", kind=Kind.DISK, work="maintenance")
    world.broken.clear()
    world.look()
    assert world.states == ["trying"]


def test_a_storm_is_a_few_messages() -> None:
    world = World()
    for n, table in enumerate(TABLES):  # not all at once
        world.fails(table)
        world.now += timedelta(seconds=n % 7)
        world.look()
    world.pass_by(HOUR)
    assert len({key for key, _ in world.sent}) <= APART + 1
    assert set(world.states) == {"trying"}
    world.heals(*TABLES)
    world.pass_by(HOUR)
    assert world.states.count("ended") == len({key for key, _ in world.sent})


def test_a_storm_names_some_tables_and_counts_the_rest() -> None:
    world = World(silent=True)
    world.fails(*TABLES)
    world.now += 11 * MINUTE
    ((message, notice),) = world.ready()
    assert set(message.episodes) == world.ledger.known.incidents.keys()
    assert notice.title.endswith(f"{TABLES[2]} and 197 more: network, being tried again")
    world.look()
    world.heals(*TABLES[:-1])
    ((_, notice),) = world.ready()
    assert notice.title == f"{TABLES[-1]}: network, being tried again"


def test_nothing_is_told_twice_by_another_process_nor_forgotten() -> None:
    world = World()
    world.fails(kind=Kind.DATA)
    before = world.ready()
    assert world.ready() == before  # nobody remembers that it was sent
    world.look()
    world.told = Told.from_text(world.told.to_text())
    assert world.ready() == []


def test_another_text_is_nothing_that_was_told() -> None:
    world = World()
    world.fails(kind=Kind.DATA)
    world.look()
    assert Told.from_text(world.told.to_text()) == world.told
    for text in (None, "", "{", "[]", "7", '{"messages": {"a": {}}}', '{"messages": 1, "not_before": "x"}'):
        assert Told.from_text(text) == Told()


def test_a_channel_that_cannot_be_reached_is_tried_after_growing_pauses() -> None:
    told, now, pauses = Told(), NOON, []
    for _ in range(8):
        told = told.unreachable("refused", now)
        assert told.not_before
        pauses.append((told.not_before - now) / MINUTE)
        now = told.not_before
    assert pauses == [0.5, 1, 2, 4, 8, 10, 10, 10]
    asked = told.unreachable("429", now, 1800.0).not_before
    assert asked == now + 30 * MINUTE
    assert told.unreachable("429", now, 1e9).not_before == now + HOUR
    assert not may_send(asked, now)
    assert may_send(asked, now - DAY)  # the clock went back


def test_what_a_channel_refuses_waits_and_the_rest_does_not() -> None:
    world = World()
    world.fails(TABLES[0], kind=Kind.DATA)
    ((message, _),) = world.ready()
    world.told = world.told.refused(message, world.now)
    world.fails(TABLES[1], kind=Kind.DATA)
    assert [notice.tables for _, notice in world.ready()] == [(TABLES[1],)]
    world.look(10 * MINUTE)
    assert world.states == ["person", "person"]


def test_without_a_ledger_that_is_told_once_and_its_end() -> None:
    world = World()
    ((message, notice),) = due_without_ledger(world.told, "damaged", NOON, NOON + HOUR)
    assert notice.state == "person"
    world.told = world.told.sent(message, notice, "x")
    assert due_without_ledger(world.told, "damaged", NOON, NOON + HOUR) == []
    assert world.look(HOUR) == [(LEDGER, "ended")]
    assert world.look(HOUR) == []
    assert not world.told.messages


def test_a_ledger_that_was_deleted_ends_what_was_told() -> None:
    world = World()
    world.fails(kind=Kind.DATA)
    world.look()
    world.ledger = SmallLedger()
    world.pass_by(HOUR)
    assert world.states == ["person", "ended"]
    assert not world.told.messages


def test_the_run_that_failed_is_linked() -> None:
    world = World()
    found = replace(evidence("run/1", Kind.DATA), run_id="abc")
    world._look([found])
    ((_, notice),) = world.ready()
    assert (notice.facts["run"], notice.link) == ("abc", "https://dagster.example/runs/abc")


@given(
    st.lists(
        st.tuples(st.sampled_from(("fails", "heals", "look")), st.sampled_from((0, 1, 7, 90))), max_size=40
    ),
    st.booleans(),
)
def test_whatever_happens_all_that_is_told_ends(steps: list[tuple[str, int]], silent: bool) -> None:
    world = World(silent)
    for what, minutes in steps:
        if what == "fails":
            world.fails(kind=Kind.UNKNOWN)
        elif what == "heals":
            world.heals()
        world.look(minutes * MINUTE)
    world.heals()
    world.pass_by(3 * HOUR)
    last = dict(world.sent)
    assert set(last.values()) <= {"ended"}
    loud = [state for _, state in world.sent]
    if not silent:  # each message tells something else than the one before
        by_key = {key: [s for k, s in world.sent if k == key] for key in last}
        assert all(a != b for told in by_key.values() for a, b in pairwise(told)), loud
