"""Many tables fail by one server that was away: they come back a few at first, and each has its turn."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medallion_platform.errors import ErrorChain, Kind
from medallion_platform.healing.decide import Asked, Decisions, Look, Want, decide
from medallion_platform.healing.evidence import Evidence
from medallion_platform.healing.incident import Known, advance
from medallion_platform.healing.policy import AT_ONCE, POLICY
from medallion_platform_tests.healing.small_ledger import NOON, evidence

SECOND = timedelta(seconds=1)
SERVERS = [kind for kind in Kind if POLICY[kind].endless]
WANT = Want("refresh", "state", "code", "1")


def chain_of(kind: Kind, server: str = "") -> ErrorChain:
    """An error of a server, known by its name."""
    return ErrorChain(said=kind, own=(f"{server}Away",))


@dataclass
class Storm:
    """Tables that are wanted, of which those fail whose server is away; each try takes some seconds."""

    tables: tuple[str, ...]
    chains: Mapping[str, ErrorChain]
    known: Known = field(default_factory=Known)
    now: datetime = NOON
    asked: Mapping[str, Asked] = field(default_factory=dict[str, Asked])
    ends: dict[str, datetime] = field(default_factory=dict[str, datetime])
    failed: list[Evidence] = field(default_factory=list[Evidence])
    made: set[str] = field(default_factory=set[str])
    tries: dict[str, list[datetime]] = field(default_factory=dict[str, list[datetime]])
    most: int = 0

    def look(self, seconds: float, away: Collection[str], after: float = 5) -> Decisions:
        """Time goes by, tries end, and what is due is asked for. away: tables that cannot be made now."""
        self.now += after * SECOND
        for table in [table for table, at in self.ends.items() if at <= self.now]:
            del self.ends[table]
            self.end(table, away)
        wanted = {table: WANT for table in self.tables if table not in self.made}
        look = Look(self.now, wanted, set(self.ends), self.failed, self.asked)
        done = decide(self.known, look)
        self.known = advance(self.known, done.rows)
        self.asked, self.failed = done.asked, []
        for table, ids in done.try_now.items():
            self.ends[table] = self.now + seconds * SECOND
            if ids:
                self.tries.setdefault(table, []).append(self.now)
        tried_again = [table for table in self.ends if table in self.tries]
        self.most = max(self.most, len(tried_again))
        return done

    def end(self, table: str, away: Collection[str]) -> None:
        if table in away:
            n = len(self.tries.get(table, []))
            self.failed.append(
                evidence(f"run/{table}/{n}", table=table, at=self.now, chain=self.chains[table])
            )
        else:
            self.made.add(table)


def storm(count: int, kind: Kind = Kind.NETWORK) -> Storm:
    """So many tables at one server."""
    tables = tuple(f"silver.t{n:03}" for n in range(count))
    return Storm(tables, dict.fromkeys(tables, chain_of(kind)))


@pytest.mark.parametrize("kind", SERVERS)
def test_two_hundred_tables_come_back_one_then_more_and_never_all_at_once(kind: Kind) -> None:
    found = storm(200, kind)
    found.look(1, away=found.tables)
    for _ in range(20):
        found.look(1, away=found.tables)
        assert len(found.ends) <= 1 or not found.tries, "while it is away one at a time is enough"
    begins: list[int] = []
    while found.ends.keys() | found.failed or len(found.made) < 200:
        begins.append(len(found.look(1, away=()).try_now))
        assert len(begins) < 1000
    grew = [n for n in begins if n]
    assert grew[:6] == [2, 4, 8, 16, AT_ONCE, AT_ONCE], "the one that was under way was good"
    assert found.most == AT_ONCE
    assert not found.known.open
    assert {i.closed for i in found.known.incidents.values()} == {"healed"}


def test_while_it_is_away_each_has_its_turn() -> None:
    """The one that failed longest ago is next: none is tried twice as often as another."""
    found = storm(20)
    found.look(1, away=found.tables)
    for _ in range(200):
        in_turn(found.look(1, away=found.tables, after=30), found)
    counts = [len(found.tries[table]) for table in found.tables]
    assert max(counts) - min(counts) <= 1


def test_another_server_is_not_waited_for() -> None:
    found = storm(20)
    chains = {t: chain_of(Kind.NETWORK, "Other" if n % 2 else "") for n, t in enumerate(found.tables)}
    found.chains = chains
    found.look(1, away=found.tables)
    found.look(1, away=found.tables)
    of = {table: bool(n % 2) for n, table in enumerate(found.tables)}
    begun = found.look(1, away=found.tables, after=60).try_now
    assert sorted(of[table] for table in begun) == [False, True]


def test_one_that_never_comes_back_holds_no_other_for_long() -> None:
    found = storm(50)
    stuck = found.tables[:10]
    found.look(1, away=found.tables)
    for _ in range(400):
        found.look(1, away=stuck)
    assert found.made == set(found.tables) - set(stuck)


def test_a_try_of_which_nothing_came_is_no_reason_to_wait() -> None:
    found = storm(2)
    found.look(1, away=found.tables)
    found.look(1, away=found.tables)
    (first,) = found.look(1, away=(), after=60).try_now
    wanted = dict.fromkeys(found.tables, WANT)
    later = Look(found.now + 5 * SECOND, wanted, (), (), found.asked, unharmed=[first])
    (second,) = decide(found.known, later).try_now
    assert second != first


def test_a_page_says_why_a_table_waits_and_says_the_same_at_the_next_look() -> None:
    found = storm(3)
    found.look(1, away=found.tables)
    found.look(1, away=found.tables)
    told = {table: str(held) for table, held in found.look(99, away=(), after=60).held.items()}
    assert len(told) == 2
    for text in told.values():
        assert (
            "or later: some that failed in the same way are tried first. `medallion incidents resume" in text
        )
    assert {table: str(held) for table, held in found.look(99, away=()).held.items()} == told


@given(
    st.integers(1, 60),
    st.integers(0, 40),
    st.lists(st.tuples(st.integers(1, 600), st.integers(1, 40), st.floats(0, 1)), max_size=30),
    st.integers(1, 90),
)
@settings(max_examples=25, deadline=None)
def test_whatever_fails_for_however_long_none_is_forgotten_and_never_too_many(
    count: int, stuck: int, weather: list[tuple[int, int, float]], seconds: int
) -> None:
    """weather: seconds between looks, how often, and which share of the tables is away."""
    found = storm(count)
    found.look(seconds, away=found.tables)
    found.look(seconds, away=found.tables, after=seconds)
    for after, times, share in weather:
        away = set(found.tables[: round(share * count)])
        for _ in range(times):
            done = found.look(seconds, away, after)
            in_turn(done, found)
            assert found.most <= AT_ONCE
    never = set(found.tables[:stuck])
    for _ in range(2 * count + 2 * len(never)):  # at the most one round for each, and all pauses are over
        found.look(1, never, after=600)
    assert found.made >= set(found.tables) - never


def in_turn(done: Decisions, found: Storm) -> None:
    """None that could be tried has failed before one that is tried."""
    tried = [i.failed for table in done.try_now for i in found.known.open_of(table)]
    queued = [held.since for held in done.held.values() if held.state == "queued"]
    assert not tried or not queued or max(tried) <= min(queued)
