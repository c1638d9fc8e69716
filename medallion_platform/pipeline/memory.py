"""The memory ladder: how much memory work on a table gets after it was killed for it, and when it gets less.

Pure. A step is half as much again as the one before, in whole pieces of 256 MiB, and the last one is the most
that an installation allows. What was killed gets the next step; what has long left a quarter unused gets
less, but never again, for a month, as little as it was killed with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import groupby

from medallion_platform.lakehouse.memory_uses import MemoryUse
from medallion_platform.spark.memory import Heap

PIECE = 256 << 20
"""Bytes of which every step is a multiple."""
RUNS = 10
"""Runs in a row that have to leave memory unused before the table gets less."""
REMEMBERED = timedelta(days=30)
"""How long a table does not get as little as it was killed with."""


@dataclass(frozen=True)
class Learned:
    """What runs of a table showed: how much memory they need, in bytes; None where none was ever killed.

    driver: of the run's own process and its JVM. executor: of one executor.
    """

    driver: int | None = None
    executor: int | None = None


def steps(first: int, most: int) -> tuple[int, ...]:
    """The steps of a ladder in bytes, from `first` to `most`."""
    found, step = [first], next_step(first, most)
    while step is not None:
        found.append(step)
        step = next_step(step, most)
    return tuple(found)


def next_step(memory: int, most: int) -> int | None:
    """The step after this much memory; None: the ladder ends."""
    return min(_step_after(memory), most) if memory < most else None


def learned(uses: Iterable[MemoryUse]) -> dict[str, Learned]:
    """What the rows of `_medallion/memory` teach, by table; it may be more than a pod may have."""
    found: dict[str, Learned] = {}
    for (table, where), of_table in _by_table(uses):
        *_, last = _states(of_table)
        known = found.get(table, Learned())
        if where == "driver":
            found[table] = replace(known, driver=last.memory)
        else:
            found[table] = replace(known, executor=last.memory)
    return found


def worth_keeping(uses: Iterable[MemoryUse]) -> list[MemoryUse]:
    """The rows that still decide something: `learned` finds the same in them, now and after further rows.

    These are, of each table, what it was killed with in the last month, what it learned, and the runs since
    then, of which only the last ones count.
    """
    kept: list[MemoryUse] = []
    for _, of_table in _by_table(uses):
        *_, last = _states(of_table)
        if last.memory is not None:
            since = [*last.killed[-1:], *last.fitted[:1], of_table[-1]][0]
            known = replace(since, limit=last.memory, peak=last.memory, outcome="learned")
            kept += [*last.killed, known, *last.fitted]
    return kept


def smallest_limit(used: int, heap: Heap | None, limit: int) -> int:
    """The smallest limit of a pod, in bytes, that its work would have fitted into.

    used: bytes that could not be taken from the pod's processes. limit: the pod's.

    A JVM fills its heap before it collects, so of the heap counts only what lives in it, and the heap's most
    is always the same share of a pod.
    """
    if heap is None:
        return min(used, limit)
    share = min(heap.most / limit, 0.9)
    beside = max(used - heap.taken, 0)
    return min(int(max(heap.live / share, beside / (1 - share))), limit)


@dataclass(frozen=True)
class _State:
    """What the rows up to one of them led to. killed: those that forbid a step. fitted: those in a row."""

    memory: int | None = None
    killed: tuple[MemoryUse, ...] = ()
    fitted: tuple[MemoryUse, ...] = ()


def _states(uses: Sequence[MemoryUse]) -> Iterator[_State]:
    """The state after each row of one table."""
    state = _State()
    for use in uses:
        if use.outcome == "learned":
            state = _State(use.limit, _remembered(state.killed, use))
        elif use.outcome == "killed":
            state = _killed(state, use)
        else:
            state = _fitted(state, use)
        yield state


def _killed(state: _State, use: MemoryUse) -> _State:
    needed = max(state.memory or 0, _step_after(use.limit))
    larger = tuple(k for k in state.killed if k.limit > use.limit)
    return _State(needed, (*_remembered(larger, use), use))


def _fitted(state: _State, use: MemoryUse) -> _State:
    if state.memory is None:
        return state
    killed, fitted = _remembered(state.killed, use), (*state.fitted, use)[-RUNS:]
    peak = max(f.peak for f in fitted)
    less = max(_step_before(state.memory), _with_room(peak))
    forbidden = max((k.limit for k in killed), default=0)
    unused = len(fitted) == RUNS and peak <= state.memory * 3 / 4
    if unused and forbidden < less < state.memory:
        return _State(less, killed)
    return _State(state.memory, killed, fitted)


def _remembered(killed: Iterable[MemoryUse], now: MemoryUse) -> tuple[MemoryUse, ...]:
    return tuple(k for k in killed if now.at - k.at < REMEMBERED)


def _step_after(memory: int) -> int:
    return _whole_pieces(memory * 3 / 2)


def _step_before(memory: int) -> int:
    return max(int(memory * 2 / 3) // PIECE, 1) * PIECE


def _with_room(peak: int) -> int:
    """An eighth more than was used: less than the quarter that would be taken away again."""
    return _whole_pieces(peak * 9 / 8)


def _whole_pieces(memory: float) -> int:
    return max(-int(-memory // PIECE), 1) * PIECE


def _by_table(uses: Iterable[MemoryUse]) -> Iterator[tuple[tuple[str, str], list[MemoryUse]]]:
    """The rows of each table, of its driver and its executors apart, the earliest first."""
    ordered = sorted(uses, key=lambda use: (use.table, use.where, use.at))
    for key, found in groupby(ordered, key=lambda use: (use.table, use.where)):
        yield key, list(found)
