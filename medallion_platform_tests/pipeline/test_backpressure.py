"""How batches grow and shrink: the rule, and a worker under a tenfold spike, simulated."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform import container
from medallion_platform.pipeline.intake.backpressure import LEAST_ROWS, MOST_ROWS, next_rows
from medallion_platform.pipeline.intake.stream import WITHIN, _Pace, memory_is_short

FIXED = 0.5
"""Seconds that a batch costs, however small."""
RATE = 50_000
"""Rows that are validated and written in a second."""


@pytest.mark.parametrize(
    ("rows", "lag", "busy", "pressed", "then"),
    [
        (100_000, 301, 1.0, False, 150_000),
        (100_000, 300, 1.0, False, 100_000),
        (100_000, 60, 0.1, False, 100_000),
        (100_000, 59, 0.1, False, 80_000),
        (100_000, 59, 0.9, False, 100_000),
        (200_000, 900, 1.0, True, 100_000),
        (MOST_ROWS, 900, 1.0, False, MOST_ROWS),
        (LEAST_ROWS, 0, 0.0, True, LEAST_ROWS),
    ],
)
def test_the_rule(rows: int, lag: float, busy: float, pressed: bool, then: int) -> None:
    assert next_rows(rows, lag, busy, pressed=pressed) == then


@given(st.integers(0, 10**9), st.floats(0, 1e9), st.floats(0, 1), st.booleans())
def test_it_stays_between_its_bounds(rows: int, lag: float, busy: float, pressed: bool) -> None:
    assert LEAST_ROWS <= next_rows(rows, lag, busy, pressed=pressed) <= MOST_ROWS


@dataclass
class Simulated:
    """A worker on a topic: time passes as batches cost it."""

    now: float = 0.0
    arrived: float = 0.0
    taken: int = 0
    pace: _Pace = field(default_factory=_Pace)
    sizes: list[int] = field(default_factory=list)
    behind: list[float] = field(default_factory=list)

    def run(self, until: float, per_second: float) -> None:
        while self.now < until:
            waiting = int(self.arrived - self.taken)
            waited = 0.0 if waiting >= self.pace.rows else WITHIN
            batch = min(waiting + int(waited * per_second), self.pace.rows)
            worked = FIXED + batch / RATE
            self.now += waited + worked
            self.arrived += (waited + worked) * per_second
            self.taken += batch
            left = int(self.arrived - self.taken)
            self.pace.learn_from_batch(batch, left, worked, waited + worked)
            self.sizes.append(self.pace.rows)
            self.behind.append(left)


def test_a_tenfold_spike_is_caught_up_with_and_batches_do_not_swing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medallion_platform.pipeline.intake.stream.memory_is_short", lambda: False)
    worker = Simulated()
    worker.run(600, 4_000)
    calm = worker.behind[-1]
    worker.run(4000, 40_000)
    spike = max(worker.behind)
    assert max(worker.sizes) > LEAST_ROWS, "larger batches, which cost less per row"
    worker.run(12_000, 4_000)
    assert spike > 100 * calm
    assert worker.behind[-1] <= 2 * calm + 4_000, "it catches up"
    turns = [b - a for a, b in pairwise(worker.sizes) if b != a]
    swings = sum(1 for a, b in pairwise(turns) if a * b < 0)
    assert swings <= 2, "grows for the spike, shrinks after it"


def test_memory_that_runs_short_shrinks_a_batch_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = _Pace(rows=200_000)
    monkeypatch.setattr("medallion_platform.pipeline.intake.stream.memory_is_short", lambda: True)
    pace.learn_from_batch(200_000, 10**9, 4.0, 4.0)
    assert pace.rows == 100_000


@pytest.mark.parametrize(
    ("limit", "used", "free", "short"),
    [(100, 86, 100, True), (100, 85, 0, False), (None, 99, 16, False), (None, 0, 14, True)],
)
def test_memory_is_short_in_the_container_or_else_on_the_machine(
    monkeypatch: pytest.MonkeyPatch, limit: int | None, used: int, free: int, short: bool
) -> None:
    monkeypatch.setattr(container, "memory_limit", lambda: limit)
    monkeypatch.setattr(container, "memory_used", lambda: used)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=100, available=free))
    assert memory_is_short() is short
