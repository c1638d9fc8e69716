"""The size of a continuous worker's next batch. Pure.

A large batch costs less per row, a small one is faster and uses less memory. So the size follows the lag,
with a wide range between growing and shrinking in which it does not change. Together with the rule that a
batch only shrinks while the worker has spare time, this prevents oscillation.
"""

from __future__ import annotations

LEAST_ROWS = 50_000
MOST_ROWS = 250_000
GROW_LAG = 300.0
"""Seconds behind from which batches grow by half."""
SHRINK_LAG = 60.0
"""Seconds behind below which batches shrink by a fifth."""
BUSY = 0.7
"""A worker that works for a greater share of the time than this has no time to spare."""


SMOOTH = 0.2
"""How far a measure goes towards its newest value."""


def smoothed(before: float, now: float) -> float:
    """A measure that follows its last values. before: 0 where there was none."""
    return before + SMOOTH * (now - before) if before else now


def next_rows(rows: int, lag: float, busy: float, *, pressed: bool = False) -> int:
    """The bound of the next batch.

    lag: seconds needed to catch up at the present rate. busy: the share of time in which the worker works.
    pressed: memory is short.
    """
    if pressed:
        rows //= 2
    elif lag > GROW_LAG:
        rows += rows // 2
    elif lag < SHRINK_LAG and busy < BUSY:
        rows -= rows // 5
    return min(max(rows, LEAST_ROWS), MOST_ROWS)
