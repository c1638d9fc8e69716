"""However processes are paused, killed and cut off, never do two of them lead, and one does soon."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from medallion_platform.kubernetes.lease import (
    DURATION,
    TURN_EVERY,
    Candidate,
    Lease,
    LeaseChanged,
    LeaseRecord,
)
from medallion_platform_tests.in_kubernetes.memory import Memory


class Process:
    """A candidate that takes its turns in pieces, with a clock that begins anywhere and runs as it likes."""

    def __init__(self, name: str, offset: float, rate: float) -> None:
        self.name, self.offset, self.rate, self.lives = name, offset, rate, 0
        self.start()

    def start(self) -> None:
        self.lives += 1
        self.candidate = Candidate(f"{self.name}{self.lives}")
        self.read: LeaseRecord | None = None
        self.bid: LeaseRecord | None = None
        self.answer: LeaseRecord | None = None
        self.asked = 0.0

    def clock(self, now: float) -> float:
        return self.offset + self.rate * now

    def leads(self, now: float) -> bool:
        return self.candidate.leads(self.clock(now))

    def go_on(self, api: Memory, now: float, *, lost: bool) -> None:
        """The next piece: ask, hear, bid, hear; lost: what it hears of its bid."""
        clock = self.clock(now)
        if self.answer:
            answer, self.answer = self.answer, None
            if not lost:
                self.candidate = self.candidate.holds(answer, self.asked)
        elif self.bid:
            bid, self.bid = self.bid, None
            with suppress(LeaseChanged):
                self.answer = api.write(bid)
        elif self.read:
            read, self.read = self.read, None
            self.candidate = self.candidate.sees(read, clock)
            self.bid, self.asked = self.candidate.bid(clock), clock
        else:
            self.read = api.read()


steps = st.tuples(
    st.sampled_from([0.0, 0.1, 1.0, 2.0, 4.0, 7.0, 9.7, 20.0]),
    st.sampled_from([0, 0, 1, 1, 2]),
    st.sampled_from(["turn"] * 16 + ["go on"] * 4 + ["lost", "killed"]),
)
rates = st.lists(st.sampled_from([0.95, 1.0, 1.05]), min_size=3, max_size=3)


@settings(max_examples=1000)
@given(st.lists(steps, min_size=5, max_size=100), rates)
def test_never_do_two_lead(happened: list[tuple[float, int, str]], rates: list[float]) -> None:
    api, now = Memory(), 0.0
    processes = [Process(name, 1000.0 * n, rates[n]) for n, name in enumerate("abc")]
    for passed, which, what in happened:
        now += passed
        process = processes[which]
        if what == "killed":
            process.start()
        elif what == "turn":
            for _ in range(4):
                process.go_on(api, now, lost=False)
        else:
            process.go_on(api, now, lost=what == "lost")
        leading = [p for p in processes if p.leads(now)]
        assert len(leading) <= 1
        for p in leading:
            assert p.candidate.term >= 1


@given(st.lists(st.floats(0.01, 1.99), min_size=3, max_size=3), st.integers(0, 60))
def test_one_leads_soon_after_the_leader_is_gone(begins: list[float], killed: int) -> None:
    api = Memory()
    clock = [0.0]
    leases = {n: Lease(api, f"p{n}", lambda: clock[0]) for n in range(3)}
    turns = {n: begins[n] for n in leases}
    without, leader = 0.0, None
    while clock[0] < killed + 60:
        n = min(turns, key=lambda n: turns[n])
        before, clock[0] = clock[0], turns[n]
        turns[n] += TURN_EVERY
        leases[n].turn()
        leading = [n for n, lease in leases.items() if lease.term() is not None]
        assert len(leading) <= 1
        without = 0.0 if leading else without + clock[0] - before
        assert without <= DURATION + 2 * TURN_EVERY
        if leader is None and leading and clock[0] > killed:
            (leader,) = leading
            del leases[leader], turns[leader]
    assert leader is not None
    assert len([lease for lease in leases.values() if lease.term() is not None]) == 1


def test_who_gets_it_back_begins_a_new_term() -> None:
    api, now = Memory(), [0.0]
    one, other = (Lease(api, name, lambda: now[0]) for name in ("one", "other"))
    one.turn()
    assert (one.term(), other.term()) == (1, None)
    now[0] = 5
    one.turn()
    other.turn()
    assert (one.term(), other.term()) == (1, None), "renewed"
    now[0] = 14
    assert one.term() is None, "it was paused, and cannot know"
    other.turn()
    assert other.term() is None
    now[0] = 15
    other.turn()
    assert other.term() == 1
    assert api.record.transitions == 2
    now[0] = 25
    one.turn()
    assert one.term() is None, "it has only now seen what it has to wait for"
    now[0] = 35
    one.turn()
    assert one.term() == 2


def test_who_does_not_hear_that_it_took_the_lease_leads_once_it_does() -> None:
    api, candidate = Memory(), Candidate("one")
    bid = candidate.bid(0)
    assert bid is not None
    api.write(bid)  # and the answer is lost
    candidate = candidate.sees(api.read(), 2)
    assert not candidate.leads(2)
    again = candidate.bid(2)
    assert again is not None
    candidate = candidate.holds(api.write(again), 2)
    assert candidate.leads(2)
    assert candidate.term == 1


def test_a_lease_that_is_given_up_is_taken_at_once() -> None:
    api = Memory()
    with Lease(api, "one") as one:
        assert one.term() == 1
        other = Lease(api, "other")
        other.turn()
        assert other.term() is None
    assert one.term() is None
    other.turn()
    assert other.term() == 1
