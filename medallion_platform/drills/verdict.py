"""What a drill has shown; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum

from medallion_platform.drills.drill import Drill
from medallion_platform.healing.incident import Incident
from medallion_platform.lakehouse.drill_verdicts import DrillVerdict


class Verdict(StrEnum):
    """What a drill has shown."""

    RESILIENT = "Resilient"
    """It healed within its time, and all is whole."""
    DEGRADED = "Degraded"
    """It healed, later than it should."""
    FAILED = "Failed"
    """It did not heal, or rows were lost or doubled, or more was disturbed than may be."""
    INCONCLUSIVE = "Inconclusive"
    """It shows nothing: the fault could not be made, or all was not well before."""


@dataclass(frozen=True)
class Observed:
    """What was seen. detected_after: seconds from the injection. lasted: seconds until the fault was over.
    healed_after: seconds from then. None: it never came.

    problem: why the drill shows nothing, "" if it does. still_wrong: what did not hold in the end. disturbed:
    tables that had an incident. lost, doubled: rows against an undisturbed copy, in all tables.
    """

    target: str = ""
    problem: str = ""
    detected_after: float | None = None
    lasted: float = 0.0
    healed_after: float | None = None
    still_wrong: tuple[str, ...] = ()
    disturbed: tuple[str, ...] = ()
    lost: int = 0
    doubled: int = 0
    dead_lettered: int = 0
    done: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """A drill, what was seen, and what that shows. at: when it began."""

    drill: Drill
    at: datetime
    observed: Observed
    verdict: Verdict
    reason: str
    unhealed: bool = False
    seconds: float = 0.0

    @property
    def kept(self) -> DrillVerdict:
        """What is kept of it."""
        seen = self.observed
        return DrillVerdict(
            self.drill.name,
            self.at,
            self.verdict.value,
            self.reason,
            seen.target,
            seen.detected_after,
            seen.lasted,
            seen.healed_after,
            self.drill.hypothesis.recovery_timeout,
            seen.lost,
            seen.doubled,
            seen.dead_lettered,
            seen.done,
        )

    def as_row(self) -> dict[str, object]:
        """For an answer of the command line."""
        at = self.at.isoformat().replace("+00:00", "Z")
        return {**asdict(self.kept), "at": at, "unhealed": self.unhealed}


def verdict_of(drill: Drill, seen: Observed, sources: Collection[str]) -> tuple[Verdict, str]:
    """The verdict, and why. sources: the tables of all sources of the world."""
    if seen.problem:
        return Verdict.INCONCLUSIVE, seen.problem
    if seen.healed_after is None:
        return Verdict.FAILED, "; ".join(seen.still_wrong) or "it did not heal in time"
    if seen.lost or seen.doubled:
        return Verdict.FAILED, f"{seen.lost} rows were lost, {seen.doubled} doubled"
    allowed = {"target": {seen.target}, "sources": set(sources)}.get(drill.blast_radius.tables)
    beyond = [] if allowed is None else sorted(set(seen.disturbed) - allowed)
    if beyond:
        return Verdict.FAILED, f"it disturbed more than it may: {', '.join(beyond)}"
    if seen.healed_after > drill.hypothesis.recovery_timeout:
        return Verdict.DEGRADED, f"it healed later than after {drill.hypothesis.recovery_timeout:g} s"
    return Verdict.RESILIENT, ""


Rows = Mapping[str, Counter[str]]
"""By table, also by that of its dead letters, how often each row is in it. What is compared has the same
tables."""


def differences(want: Rows, have: Rows, without: Collection[str] = ()) -> tuple[int, int]:
    """How many rows are lost, and how many are there that should not be, over all tables but some."""
    tables = want.keys() - set(without)
    lost = sum((want[name] - have[name]).total() for name in tables)
    doubled = sum((have[name] - want[name]).total() for name in tables)
    return lost, doubled


def differing(one: Rows, other: Rows) -> set[str]:
    """The tables whose rows are not the same."""
    return {name for name in one if one[name] != other[name]}


def done_in_words(incidents: Collection[Incident]) -> tuple[str, ...]:
    """What was done about each incident, of the ledger."""
    return tuple(
        f"{i.table}: {i.kind}, {_tries(i)}, {i.closed or 'open'}"
        for i in sorted(incidents, key=lambda i: (i.detected, i.id))
    )


def _tries(incident: Incident) -> str:
    acts = [one.act for one in incident.tries]
    return f"tried {' '.join(dict.fromkeys(acts))} {len(acts)}x" if acts else "not tried again"


def seconds_between(begin: datetime, end: datetime | None) -> float | None:
    """The seconds, to a tenth, None if it never came."""
    return None if end is None else max(round((end - begin).total_seconds(), 1), 0.0)
