"""How many workers a source needs: quickly more when they are behind, slowly fewer once they are not. Pure.

Between what asks for more workers and what allows fewer is a wide range in which nothing changes, and after
each change the next one has to be asked for anew, so that the number does not swing.
"""

from __future__ import annotations

from dataclasses import dataclass

BEHIND_SECONDS = 600.0
"""A worker that needs longer than this to read what is behind gets help."""
BEHIND_MESSAGES = ((500_000, 5), (200_000, 3), (100_000, 2))
"""From how many messages on how many workers are wanted."""
CALM_SECONDS = 120.0
"""If all workers need less than this, one may go."""
MORE_AFTER, FEWER_AFTER = 30.0, 300.0
"""Seconds for which it has to be so without a pause."""
MOST_AT_ONCE = 2
"""Workers that are added at once."""


@dataclass(frozen=True)
class Lag:
    """How far the workers are behind.

    seconds: until the slowest has read what is behind. messages: of all. partitions: that they have
    together. complete: every worker was heard; else the others may be behind, too.
    """

    seconds: float
    messages: int
    partitions: int
    complete: bool


@dataclass(frozen=True)
class Bounds:
    """The fewest and the most workers."""

    least: int
    most: int


@dataclass(frozen=True)
class Pressure:
    """Since when, by a monotonic clock, more workers are wanted, or fewer would do; None: it is not so."""

    high_since: float | None = None
    calm_since: float | None = None


@dataclass(frozen=True)
class Scaling:
    """How many workers there should be, and why where it is another number; what to pass on the next time."""

    workers: int
    pressure: Pressure
    reason: str = ""


def decide_workers(now: float, workers: int, lag: Lag | None, pressure: Pressure, bounds: Bounds) -> Scaling:
    """The number of workers from now on. lag: None where no worker answers, which changes nothing."""
    if not bounds.least <= workers <= bounds.most:
        held = min(max(workers, bounds.least), bounds.most)
        return Scaling(held, Pressure(), f"from {bounds.least} to {bounds.most} are allowed")
    if lag is None:
        return Scaling(workers, Pressure(pressure.high_since))
    wanted = _wanted(workers, lag, bounds)
    if wanted > workers:
        since = now if pressure.high_since is None else pressure.high_since
        if now - since < MORE_AFTER:
            return Scaling(workers, Pressure(high_since=since))
        return Scaling(min(wanted, workers + MOST_AT_ONCE), Pressure(), _in_words(lag))
    calm = lag.complete and lag.seconds < CALM_SECONDS and lag.messages <= BEHIND_MESSAGES[-1][0]
    if not calm or workers == bounds.least:
        return Scaling(workers, Pressure())
    since = now if pressure.calm_since is None else pressure.calm_since
    if now - since < FEWER_AFTER:
        return Scaling(workers, Pressure(calm_since=since))
    return Scaling(workers - 1, Pressure(), _in_words(lag))


def _wanted(workers: int, lag: Lag, bounds: Bounds) -> int:
    """How many workers this lag asks for; no more than there are partitions, if all of these are known."""
    by_seconds = workers + MOST_AT_ONCE if lag.seconds > BEHIND_SECONDS else 0
    by_messages = next((n for messages, n in BEHIND_MESSAGES if lag.messages > messages), 0)
    most = min(bounds.most, lag.partitions) if lag.complete and lag.partitions else bounds.most
    return min(max(by_seconds, by_messages), most)


def _in_words(lag: Lag) -> str:
    return f"{lag.messages:,} messages, {lag.seconds:,.0f} s behind"
