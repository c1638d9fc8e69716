"""Why it failed, as far as anything tells: a report of an incident, made from facts. Pure.

Whoever asks gathers the facts when it is asked for; nothing of a report is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from medallion_platform.healing.advice import ADVICE, What
from medallion_platform.healing.incident import Incident
from medallion_platform.lakehouse.counts import counted

SKEWED = 5
"""So many times the mean is what one task of a stage has read told as uneven."""
UNUSUAL = 3
"""So many times the rows of a usual write are told as a change."""


@dataclass(frozen=True)
class LastWrite:
    """The last write of a table before it failed.

    code: the version of the code that made it, 12 hexadecimal digits, "" where the commit does not say. rows:
    that it read; usual_rows: the median of it and the writes before, None if they say of none.
    """

    version: int
    at: datetime
    run_id: str
    code: str = ""
    rows: int = 0
    usual_rows: int | None = None


@dataclass(frozen=True)
class InputChange:
    """What came into an input of a table.

    before: the version that the table was last made from. now: the one that it had when it failed. rows,
    bytes: of the files that were added between them, None where the Delta log no longer tells.
    """

    table: str
    before: int
    now: int
    rows: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Facts:
    """What is known about the failure of an incident.

    inputs: that have another version than when the table was last made. before, now: what the run of the last
    write and the one that failed worked with, settings and versions by their names. operators: those of the
    physical plan in the stage of Spark at which it failed. figures: numbers of the run that failed, by name
    (`driver_memory_limit_bytes`). log: the last lines of its log, the oldest first.
    """

    last_write: LastWrite | None = None
    inputs: tuple[InputChange, ...] = ()
    before: Mapping[str, str] = field(default_factory=dict[str, str])
    now: Mapping[str, str] = field(default_factory=dict[str, str])
    operators: tuple[str, ...] = ()
    figures: Mapping[str, int | float] = field(default_factory=dict[str, int | float])
    log: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """Something that is not as it was when the table was last made. of: the table or the setting."""

    what: What
    of: str
    before: str
    now: str
    rows: int | None = None
    bytes: int | None = None

    def __str__(self) -> str:
        """The change in words."""
        match self.what:
            case "code":
                return f"the code of {self.of} is another: {self.before} before, {self.now} now"
            case "rows":
                return f"{self.now} rows came for {self.of}, where {self.before} are usual"
            case "input":
                came = [] if self.rows is None else [f"{counted(self.rows, 'rows')} were added"]
                came += [] if self.bytes is None else [f"{self.bytes / (1 << 20):,.1f} MiB"]
                told = f"{self.of} went from version {self.before} to {self.now}"
                return f"{told}: {', '.join(came)}" if came else told
            case _:
                return f"{self.of} is {self.now or 'not set'}, and was {self.before or 'not set'}"


@dataclass(frozen=True)
class Report:
    """Why a table failed, and what to do.

    last_write: the last one before, None if nothing tells of any. changes: since then. rows_at_stake: that
    had come into its inputs and were not in the table when it failed, None where nothing tells of any.
    advice: one recommendation, in words. The others are those of the facts.
    """

    incident: str
    advice: str
    last_write: LastWrite | None = None
    changes: tuple[Change, ...] = ()
    operators: tuple[str, ...] = ()
    figures: Mapping[str, int | float] = field(default_factory=dict[str, int | float])
    log: tuple[str, ...] = ()
    rows_at_stake: int | None = None

    def lines(self) -> Iterator[tuple[str, str]]:
        """What it says for people, line by line, each with what it is about."""
        if last := self.last_write:
            read = "" if last.usual_rows is None else f", {counted(last.rows, 'rows')} read"
            yield (
                "last good write",
                f"{last.at:%Y-%m-%d %H:%M:%S}Z, version {last.version}, run {last.run_id}{read}",
            )
            for change in self.changes:
                yield "changed since", str(change)
            if not self.changes:
                yield "changed since", "nothing that is recorded"
        if self.rows_at_stake is not None:
            yield "rows at stake", f"{self.rows_at_stake:,}"
        if self.operators:
            yield "failed at", ", ".join(self.operators)
        for name, figure in self.figures.items():
            yield name.replace("_", " "), f"{figure:,}"
        for line in self.log:
            yield "log", line
        yield "do", self.advice


def explain_incident(incident: Incident, facts: Facts) -> Report:
    """What facts say about an incident."""
    changes = tuple(_changes(incident, facts))
    return Report(
        incident.id,
        _advice(incident, changes, facts.figures.get("stage_skew", 0)),
        facts.last_write,
        changes,
        facts.operators,
        facts.figures,
        facts.log,
        _at_stake(facts),
    )


def _at_stake(facts: Facts) -> int | None:
    rows = [change.rows for change in facts.inputs if change.rows is not None]
    return sum(rows) if rows else None


def _changes(incident: Incident, facts: Facts) -> Iterator[Change]:
    last = facts.last_write
    if last is None:
        return
    code = incident.code_version.zfill(12)
    if incident.code_version and last.code and code != last.code:
        yield Change("code", incident.table, last.code, code)
    for name in sorted(facts.before.keys() & facts.now.keys()):
        if facts.before[name] != facts.now[name]:
            yield Change("settings", name, facts.before[name], facts.now[name])
    came = sum(change.rows or 0 for change in facts.inputs)
    if last.usual_rows and came >= UNUSUAL * last.usual_rows:
        yield Change("rows", incident.table, f"{last.usual_rows:,}", f"{came:,}")
    for change in facts.inputs:
        yield Change("input", change.table, str(change.before), str(change.now), change.rows, change.bytes)


def _advice(incident: Incident, changes: tuple[Change, ...], skew: float) -> str:
    """What to do: first about what can be the reason, then about the class."""
    of_class = ADVICE[incident.kind]
    text = of_class.text.format(table=incident.table or "TABLE", id=incident.id)
    found = (change for what in of_class.suspects for change in changes if change.what == what)
    if suspect := next(found, None):
        return f"look first at what changed: {suspect}. Then: {text}"
    if of_class.uneven and skew >= SKEWED:
        return f"one task read {skew:g} times as much as the mean of its stage: {text}"
    return text
