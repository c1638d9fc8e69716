"""Workers come quickly and go slowly, within bounds, whatever their lag does."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.kubernetes.scaling import (
    FEWER_AFTER,
    MORE_AFTER,
    MOST_AT_ONCE,
    Bounds,
    Lag,
    Pressure,
    decide_workers,
)

EVERY = 10.0

lags = st.none() | st.builds(
    Lag,
    st.sampled_from([0.0, 60.0, 119.0, 300.0, 601.0, 5000.0]),
    st.sampled_from([0, 50_000, 150_000, 250_000, 600_000]),
    st.integers(0, 6),
    st.booleans(),
)
# The same lag for some looks, as it is where nothing changes.
histories = st.lists(st.tuples(lags, st.integers(1, 40)), max_size=12)
bounds = st.builds(lambda least, more: Bounds(least, least + more), st.integers(0, 3), st.integers(0, 5))


@given(histories, bounds, st.integers(0, 12))
def test_whatever_happens_the_number_is_allowed_and_does_not_swing(
    history: list[tuple[Lag | None, int]], bounds: Bounds, workers: int
) -> None:
    now, pressure = 0.0, Pressure()
    changed = risen = -FEWER_AFTER
    for lag, looks in history:
        for _ in range(looks):
            now += EVERY
            done = decide_workers(now, workers, lag, pressure, bounds)
            allowed = bounds.least <= workers <= bounds.most
            assert bounds.least <= done.workers <= bounds.most
            assert bool(done.reason) == (done.workers != workers)
            if allowed and done.workers != workers:
                assert lag is not None, "nobody answers: nothing changes"
                if done.workers > workers:
                    assert done.workers - workers <= MOST_AT_ONCE
                    assert lag.seconds > 600 or lag.messages > 100_000
                    assert now - changed >= MORE_AFTER
                    assert not lag.complete or not lag.partitions or done.workers <= lag.partitions
                    risen = now
                else:
                    assert done.workers == workers - 1
                    assert lag.complete
                    assert lag.seconds < 120
                    assert now - changed >= FEWER_AFTER
                    assert now - risen >= FEWER_AFTER
            if done.workers != workers:
                changed = now
            workers, pressure = done.workers, done.pressure


def simulate(
    hours: float, arriving: float, burst: float, rate: float, bounds: Bounds
) -> list[tuple[float, int]]:
    """The changes of the number of workers (second, workers), with `burst` messages there at the beginning.

    arriving, rate: messages a second, in all and of one worker, which needs a minute to start.
    """
    behind, workers, pressure = burst, bounds.least, Pressure()
    starting: list[float] = []
    changes: list[tuple[float, int]] = []
    for look in range(int(hours * 3600 / EVERY)):
        now = look * EVERY
        ready = workers - len([s for s in starting if now < s + 60])
        behind = max(behind + EVERY * (arriving - rate * ready), 0)
        lag = Lag(behind / (rate * max(ready, 1)), int(behind), 6, ready == workers)
        done = decide_workers(now, workers, lag, pressure, bounds)
        starting += [now] * max(done.workers - workers, 0)
        if done.workers != workers:
            changes.append((now, done.workers))
        workers, pressure = done.workers, done.pressure
    return changes


def test_a_backlog_brings_workers_within_a_minute_and_they_leave_when_it_is_read() -> None:
    changes = simulate(3, arriving=500, burst=2_000_000, rate=1000, bounds=Bounds(1, 6))
    assert changes[0] == (30.0, 3)
    numbers = [n for _, n in changes]
    assert max(numbers) >= 5
    assert numbers[-1] == 1
    top = numbers.index(max(numbers))
    assert numbers[: top + 1] == sorted(numbers[: top + 1]), "up once"
    assert numbers[top:] == sorted(numbers[top:], reverse=True), "down once"


def test_what_one_worker_can_do_is_left_to_one() -> None:
    assert simulate(6, arriving=900, burst=0, rate=1000, bounds=Bounds(1, 6)) == []
    assert simulate(6, arriving=900, burst=50_000, rate=1000, bounds=Bounds(1, 6)) == []


def test_a_load_of_two_and_a_half_workers_is_not_answered_by_swinging() -> None:
    changes = simulate(6, arriving=2500, burst=0, rate=1000, bounds=Bounds(1, 6))
    assert max(n for _, n in changes) <= 4
    for (one, before), (then, after) in pairwise(changes):
        assert after > before or then - one >= FEWER_AFTER
    assert len(changes) < 6 * 8, "a change in eight minutes at the most, where no number of workers fits"
