"""The memory ladder: it only grows where something was killed, ends, and does not go up and down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.lakehouse.memory_uses import MemoryUse
from medallion_platform.pipeline.memory import (
    PIECE,
    REMEMBERED,
    RUNS,
    Learned,
    learned,
    next_step,
    smallest_limit,
    steps,
    worth_keeping,
)
from medallion_platform.spark.memory import Heap

GIB = 1 << 30
MOST = 16 * GIB
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
TABLE = "gold.sums"

sizes = st.integers(1, 64 * GIB)


def fitted(peak: int, at: datetime = NOON, limit: int = 4 * GIB) -> MemoryUse:
    return MemoryUse(TABLE, "r", at, "driver", limit, peak, "fitted")


def killed(limit: int, at: datetime = NOON) -> MemoryUse:
    return MemoryUse(TABLE, "r", at, "driver", limit, limit, "killed")


def needed(uses: Sequence[MemoryUse], most: int = MOST) -> int | None:
    found = learned(uses).get(TABLE, Learned()).driver
    return found and min(found, most)


@st.composite
def histories(draw: st.DrawFn) -> list[MemoryUse]:
    """Any rows of one table, in their order, some of them many times, minutes to weeks apart."""
    uses: list[MemoryUse] = []
    at = NOON
    some = st.tuples(sizes, sizes, st.integers(1, RUNS + 2), st.integers(1, 100))
    for limit, used, times, hours in draw(st.lists(some, max_size=12)):
        for _ in range(times):
            at += timedelta(hours=hours)
            uses.append(killed(limit, at) if used > limit else fitted(used, at, limit))
    return uses


def run(needs: Callable[[int], int], runs: int, start: int, apart: timedelta) -> list[MemoryUse]:
    """A table's runs one after the other, each with what was learned, `start` where nothing was."""
    uses: list[MemoryUse] = []
    kept: list[MemoryUse] = []
    for n in range(runs):
        limit, need = max(needed(kept) or 0, start), needs(n)
        at = NOON + n * apart
        uses.append(killed(limit, at) if need > limit else fitted(need, at, limit))
        kept = worth_keeping([*kept, uses[-1]])
    return uses


@given(sizes, sizes)
def test_a_ladder_grows_by_half_in_whole_pieces_and_ends_at_the_most(first: int, most: int) -> None:
    found = steps(first, most)
    assert found[0] == first
    assert found[-1] == max(first, most)
    assert next_step(found[-1], most) is None
    for lower, higher in pairwise(found):
        assert higher == most or (1.5 * lower <= higher < 1.5 * lower + PIECE and higher % PIECE == 0)
        assert lower < higher


def test_the_steps_of_a_small_pod() -> None:
    assert [step / GIB for step in steps(1 * GIB, 4 * GIB)] == [1, 1.5, 2.25, 3.5, 4]


def test_nothing_is_learned_of_what_was_never_killed() -> None:
    assert learned([fitted(3 * GIB, NOON + timedelta(days=n)) for n in range(20)]) == {TABLE: Learned()}


def test_driver_and_executor_learn_apart_and_so_do_tables() -> None:
    other = replace(killed(4 * GIB), table="silver.events", where="executor")
    assert learned([killed(2 * GIB), other]) == {
        TABLE: Learned(driver=3 * GIB),
        "silver.events": Learned(executor=6 * GIB),
    }


@given(histories(), sizes)
def test_a_kill_never_leads_to_less_and_nothing_above_the_most(uses: list[MemoryUse], limit: int) -> None:
    before, at = needed(uses), (uses[-1].at if uses else NOON) + timedelta(hours=1)
    after = needed([*uses, killed(limit, at)])
    assert after is not None
    assert (before or 0) <= after <= MOST
    assert after >= min(limit + 1, MOST), "the next run has more than the one that was killed"


@given(st.integers(1, MOST), sizes)
def test_a_table_that_always_needs_the_same_is_killed_once_a_step_and_then_never_again(
    need: int, start: int
) -> None:
    uses = run(lambda _: need, 100, start, timedelta(days=4))
    kills = [use.limit for use in uses if use.outcome == "killed"]
    assert kills == [step for step in steps(start, MOST) if step < need]
    assert all(use.outcome == "fitted" for use in uses[len(kills) :])
    limits = [use.limit for use in uses[len(kills) :]]
    assert limits == sorted(limits, reverse=True), "it only comes down"


@given(st.lists(st.integers(1, MOST), min_size=1, max_size=20), st.integers(1, 2 * GIB))
def test_whatever_it_needs_a_month_sees_no_step_killed_twice(needs: list[int], start: int) -> None:
    uses = run(lambda n: needs[n * len(needs) // 300], 300, start, timedelta(hours=2))
    kills = [use.limit for use in uses if use.outcome == "killed"]
    assert kills == sorted(set(kills))


def test_a_quarter_unused_over_ten_runs_takes_a_step_away_and_an_eighth_stays_free() -> None:
    uses = [killed(4 * GIB)] + [fitted(4 * GIB, NOON + timedelta(days=31 + n)) for n in range(RUNS)]
    assert needed(uses[:-1]) == 6 * GIB
    assert needed(uses) == int(4.5 * GIB), "4 GiB and an eighth; a step down would be 4"
    little = [*uses[:1], *(replace(use, peak=GIB) for use in uses[1:])]
    assert needed(little) == 4 * GIB
    assert needed([*uses[:5], fitted(5 * GIB, uses[5].at), *uses[6:]]) == 6 * GIB, "not all of them"


def test_for_a_month_it_does_not_get_as_little_as_it_was_killed_with() -> None:
    soon = [killed(4 * GIB)] + [fitted(GIB, NOON + timedelta(hours=n)) for n in range(RUNS)]
    assert needed(soon) == 6 * GIB
    assert needed([*soon, fitted(GIB, NOON + REMEMBERED)]) == 4 * GIB


@given(histories(), histories(), st.integers(1, 4))
def test_what_is_kept_teaches_the_same_now_and_later(
    uses: list[MemoryUse], later: list[MemoryUse], times: int
) -> None:
    start = uses[-1].at if uses else NOON
    later = [replace(use, at=use.at - NOON + start + timedelta(seconds=1)) for use in later]
    kept = uses
    for _ in range(times):
        kept = worth_keeping(kept)
    assert needed(kept) == needed(uses)
    assert len(kept) <= RUNS + 1 + len([use for use in kept if use.outcome == "killed"])
    for n in range(len(later)):
        assert needed([*kept, *later[: n + 1]]) == needed([*uses, *later[: n + 1]])


def test_what_is_kept_of_many_runs_is_little() -> None:
    uses = run(lambda _: 5 * GIB, 500, GIB, timedelta(minutes=1))
    assert len(worth_keeping(uses)) <= RUNS + 5


def test_of_a_heap_counts_what_lives_in_it() -> None:
    limit = 10 * GIB
    full = Heap(most=6 * GIB, taken=6 * GIB, live=GIB)
    assert smallest_limit(7 * GIB, full, limit) == int(GIB / 0.4)
    assert smallest_limit(7 * GIB, replace(full, live=3 * GIB), limit) == 5 * GIB
    assert smallest_limit(7 * GIB, None, limit) == 7 * GIB
    assert smallest_limit(12 * GIB, None, limit) == limit


@given(st.integers(GIB, 64 * GIB), st.floats(0, 1), st.floats(0, 1))
def test_the_same_work_measures_the_same_in_pods_of_any_size(limit: int, live: float, beside: float) -> None:
    heap = int(limit * 0.6)
    lives, others = int(min(live * GIB, heap)), int(min(beside * GIB, limit - heap))
    found = smallest_limit(heap + others, Heap(heap, heap, lives), limit)
    twice = smallest_limit(2 * heap + others, Heap(2 * heap, 2 * heap, lives), 2 * limit)
    assert abs(found - twice) <= 16
    assert found <= limit
