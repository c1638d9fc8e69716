"""Incidents, folded from the rows of the ledger; pure.

An incident is what failed with one fingerprint, until it is closed. Rows that are told twice count once.
Decisions are folded in the order of their numbers; clocks serve pauses and people alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property, lru_cache
from random import Random
from typing import Any, Literal, get_args

from medallion_platform.errors import ErrorChain, Kind, kind_named
from medallion_platform.healing.evidence import Evidence, Work
from medallion_platform.healing.policy import POLICY, Act, last_act, next_try, with_jitter
from medallion_platform.lakehouse.incidents import Ledger, Row


class Event(StrEnum):
    """What a row of the ledger tells: the first two are reports, all others are decisions."""

    EVIDENCE = "evidence"
    ACTED = "acted"
    DETECTED = "detected"
    TRIED = "tried"
    CLOSED = "closed"
    PAUSED = "paused"
    RESUMED = "resumed"
    LABELLED = "labelled"
    UNDONE = "undone"
    PROPOSED = "proposed"


Closed = Literal["healed", "person", "passed", "lost"]
"""How an incident ended: a try made the table from what failed or later; a person took over; it ended without
a try, as when somebody made the table; records are gone, and the rest was made."""
Breaker = Literal["closed", "open", "half-open"]

ASKED_FOR: frozenset[Work] = frozenset({"intake", "refresh", "publish", "run"})
"""Work that is asked for again. What else fails is done again by whoever does it, and is only recorded."""
WINDOW = timedelta(hours=24)
MOST = 3
"""So many incidents of one fingerprint in the window open the breaker."""
_LONGEST = timedelta(hours=24)
_KEPT = timedelta(days=90)


@dataclass(frozen=True)
class Try:
    """One try: decided and asked for at once.

    half_open: beyond what the policy allows, to see whether the reason has gone. state: of the inputs that it
    was to work on. written: how far the table had been written before.
    """

    number: int
    act: str
    at: datetime
    half_open: bool = False
    state: str = ""
    written: str = ""


@dataclass(frozen=True)
class Action:
    """What a try did about an incident besides its work, as the run that did it tells.

    table: to which it was done. what: in words. partitions: that were made again. seconds: that it took.
    undone: it made things worse, and was taken back.
    """

    at: datetime
    run_id: str
    table: str
    what: str
    files: int = 0
    bytes: int = 0
    partitions: tuple[str, ...] = ()
    seconds: float = 0.0
    undone: bool = False


@dataclass(frozen=True)
class Incident:
    """What failed with one fingerprint, and what was done about it.

    detected: when its first evidence was seen; failed: when the last one of its table was, from which pauses
    count. state, code_version: of the table's inputs and code as it failed or was tried. pending: the last
    try has neither failed nor been verified. closed: how it ended, "" while it is open; closed_at: when that
    was seen. proposal: the address at which a lasting change was proposed, "" without one.
    """

    id: str
    table: str
    fingerprint: str
    kind: Kind
    detected: datetime
    failed: datetime
    code: str = ""
    rule: str = ""
    state: str = ""
    code_version: str = ""
    evidence: tuple[Evidence, ...] = ()
    tries: tuple[Try, ...] = ()
    actions: tuple[Action, ...] = ()
    pending: bool = False
    closed: Closed | Literal[""] = ""
    closed_at: datetime | None = None
    proposal: str = ""

    @property
    def began(self) -> datetime:
        """When it failed first, by the clock of whoever met it."""
        return min((e.at for e in self.evidence), default=self.detected)

    @property
    def run_id(self) -> str:
        """The last run that failed by it, "" where none is known."""
        return next((e.run_id for e in reversed(self.evidence) if e.run_id), "")

    @property
    def asked_for(self) -> bool:
        """Whether automation asks for this work, and leaves the table out as the policy says."""
        return bool(self.table) and any(e.work in ASKED_FOR for e in self.evidence)

    @property
    def told_nothing(self) -> bool:
        """Whether whatever failed ended before it could say why."""
        return all(e.chain == ErrorChain() for e in self.evidence)

    @property
    def takes_in(self) -> bool:
        """Whether it failed while records of a source were taken in."""
        return any(e.work == "intake" for e in self.evidence)

    @property
    def tried(self) -> int:
        """How many tries were made of those that the policy allows."""
        return sum(not t.half_open for t in self.tries)

    @property
    def damaged(self) -> set[tuple[str, str]]:
        """The (table, name) of each data file that was damaged or missing."""
        return {(e.chain.table, e.chain.file) for e in self.evidence if e.chain.file}

    @property
    def acted(self) -> datetime | None:
        """When it was tried again first."""
        return self.tries[0].at if self.tries else None

    @property
    def verified(self) -> datetime | None:
        """When it was seen to be healed."""
        return self.closed_at if self.closed == "healed" else None

    @property
    def cost(self) -> float:
        """Seconds that it took: of the runs that failed by it, and of what was repaired."""
        runs = {e.run_id: e.seconds or 0.0 for e in self.evidence}
        return sum(runs.values()) + sum(action.seconds for action in self.actions)


@dataclass(frozen=True)
class Pause:
    """A table that a person took out of automation."""

    at: datetime
    by: str


@dataclass(frozen=True)
class Known:
    """All that the ledger says.

    incidents: by id, in the order of their begin. paused: by table. labels: the classes that people gave, by
    the signature of evidence. reported: evidence that belongs to no incident yet. occurrences: of the
    evidence of all incidents.
    """

    incidents: Mapping[str, Incident] = field(default_factory=dict[str, Incident])
    paused: Mapping[str, Pause] = field(default_factory=dict[str, Pause])
    labels: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    reported: tuple[Evidence, ...] = ()
    occurrences: frozenset[str] = frozenset()

    @cached_property
    def open(self) -> Mapping[str, list[Incident]]:
        """The open incidents for which automation leaves tables out, by table."""
        return _grouped((i for i in self.incidents.values() if not i.closed and i.asked_for), _table)

    @cached_property
    def alike(self) -> Mapping[str, list[Incident]]:
        """All incidents, by fingerprint."""
        return _grouped(self.incidents.values(), _fingerprint)

    def open_of(self, table: str) -> list[Incident]:
        """The open incidents for which automation leaves a table out."""
        return self.open.get(table, [])


@dataclass(frozen=True)
class Next:
    """The next try of an incident: not before `at`, or before `if_changed` once the inputs have changed."""

    act: Act
    number: int
    at: datetime
    if_changed: datetime
    half_open: bool


def report_of(evidence: Evidence, by: str) -> Row:
    """The row by which whoever met a failure tells of it."""
    return Row(Event.EVIDENCE, evidence.at, by, evidence.table, body=evidence.to_json())


def report_of_action(incident: str, of: str, action: Action, by: str) -> Row:
    """The row by which a run tells what it did about an incident of a table."""
    told = {**vars(action), "at": action.at.isoformat()}
    return Row(Event.ACTED, action.at, by, of, incident, body=json.dumps(told))


@lru_cache(maxsize=1)
def known_from(ledger: Ledger) -> Known:
    """All that a ledger says; folded again only after it changed."""
    return fold(ledger.rows)


def fold(rows: Iterable[Row]) -> Known:
    """All that the rows of the ledger say, in whatever order and how often they come."""
    reports: dict[str, Evidence] = {}
    decisions: dict[int, Row] = {}
    actions: dict[str, set[Action]] = {}
    for row in rows:
        if row.sequence:
            decisions[row.sequence] = row
        elif row.event == Event.ACTED:
            actions.setdefault(row.incident, set()).add(_action(row))
        elif row.event == Event.EVIDENCE and (found := Evidence.from_json(row.body)).occurrence:
            reports[found.occurrence] = found
    known = advance(Known(), [decisions[n] for n in sorted(decisions)])
    new = sorted((e for e in reports.values() if e.occurrence not in known.occurrences), key=_earliest)
    acted_on = {
        id: replace(known.incidents[id], actions=tuple(sorted(done, key=lambda action: action.at)))
        for id, done in actions.items()
        if id in known.incidents
    }
    incidents = {**known.incidents, **acted_on}
    return replace(known, incidents=incidents, reported=tuple(new))


def advance(known: Known, decisions: Iterable[Row]) -> Known:
    """What is known after these decisions, in their order."""
    incidents, paused, labels = dict(known.incidents), dict(known.paused), dict(known.labels)
    still_open = {table: [i.id for i in found] for table, found in known.open.items()}
    occurrences = set(known.occurrences)
    for row in decisions:
        body = _body(row)
        found = incidents.get(row.incident)
        match row.event:
            case Event.DETECTED:
                evidence = Evidence.from_json(json.dumps(body.get("evidence")))
                if evidence.occurrence in occurrences:
                    continue
                occurrences.add(evidence.occurrence)
                failed = incidents[row.incident] = _failed(found or _begun(row, body), row, body, evidence)
                if failed.asked_for:  # it ends the tries of all incidents of its table: they were one
                    of_table = still_open.setdefault(failed.table, [])
                    of_table += [] if failed.closed or failed.id in of_table else [failed.id]
                    for other in of_table:
                        incidents[other] = replace(incidents[other], failed=failed.failed, pending=False)
            case Event.TRIED if found:
                incidents[row.incident] = replace(
                    found,
                    tries=(*found.tries, _try(row, body)),
                    state=_text(body, "state"),
                    code_version=_text(body, "code_version") or found.code_version,
                    pending=True,
                )
            case Event.CLOSED if found and not found.closed:
                how = next((how for how in get_args(Closed) if how == body.get("how")), "passed")
                incidents[row.incident] = replace(found, closed=how, closed_at=row.at, pending=False)
                if row.incident in (of_table := still_open.get(found.table, [])):
                    of_table.remove(row.incident)
            case Event.PROPOSED if found:
                incidents[row.incident] = replace(found, proposal=_text(body, "url"))
            case Event.PAUSED:
                paused[row.table] = Pause(row.at, row.by)
            case Event.RESUMED:
                paused.pop(row.table, None)
            case Event.LABELLED:
                labels[_text(body, "signature")] = kind_named(row.kind)
            case Event.UNDONE:
                labels.pop(_text(body, "signature"), None)
            case _:  # of a newer version
                pass
    reported = tuple(e for e in known.reported if e.occurrence not in occurrences)
    return Known(incidents, paused, labels, reported, frozenset(occurrences))


def breaker(incident: Incident, known: Known) -> Breaker:
    """Whether automation stops at an incident: its tries are used up, or it comes back again and again.

    Incidents before the last one that a person closed, or that ended with its code, do not count.
    """
    if incident.closed or POLICY[incident.kind].endless:
        return "closed"
    if _planned(incident) and _came_back(incident, known) < MOST:
        return "closed"
    if not incident.pending:
        return "open"
    return "half-open" if incident.tries[-1].half_open else "closed"


def next_of(incident: Incident, known: Known) -> Next:
    """The next try of an open incident.

    A half-open one comes after 1, 2, 4, ... 24 hours, or minutes where the inputs have changed.
    """
    planned = _planned(incident)
    number = len(incident.tries) + 1
    if breaker(incident, known) != "closed" or planned is None:
        times = 2 ** min(len(incident.tries) - incident.tried, 11)
        at, sooner = (min(times * unit, _LONGEST) for unit in (timedelta(hours=1), timedelta(minutes=1)))
        last = last_act(incident.kind)
        act = Act.AGAIN if last is Act.ISOLATE and not incident.takes_in else last
        act = _harmless(act, incident, known)
        return Next(act, number, incident.failed + at, incident.failed + sooner, True)
    act, pause = planned
    chance = Random(f"{incident.id} {number}")  # noqa: S311  # the same for whoever asks
    at = incident.failed + timedelta(seconds=with_jitter(pause, chance))
    return Next(_harmless(act, incident, known), number, at, at, False)


def _harmless(act: Act, incident: Incident, known: Known) -> Act:
    """An act, but no repair where one of this fingerprint made things worse, and no person went on since."""
    alike = known.alike.get(incident.fingerprint, [])
    person = max((_number(i) for i in alike if i.closed == "person"), default=0)
    worse = any(done.undone for i in alike if _number(i) > person for done in i.actions)
    return Act.AGAIN if act is Act.REPAIR and worse else act


def _planned(incident: Incident) -> tuple[Act, float] | None:
    """The next try that the policy has for an incident; records are isolated where they are taken in."""
    planned = next_try(incident.kind, incident.tried)
    return None if planned and planned[0] is Act.ISOLATE and not incident.takes_in else planned


def next_try_of_table(table: str, known: Known) -> datetime:
    """When a table with open incidents is tried at the latest: with several, not before all may be."""
    return max(next_of(incident, known).at for incident in known.open_of(table))


def state_of(incident: Incident, known: Known) -> tuple[str, datetime | None]:
    """What becomes of an incident, in a word or two, and when it is tried again at the latest."""
    if incident.closed:
        return incident.closed, None
    if not incident.asked_for:
        return "recorded", None
    if incident.pending:
        return "trying", None
    if incident.table in known.paused:
        return "paused", None
    state = "breaker open" if breaker(incident, known) == "open" else "waiting"
    return state, next_try_of_table(incident.table, known)


def worth_keeping(rows: Sequence[Row], now: datetime) -> list[Row]:
    """The rows that still decide something, or tell of the last 90 days.

    Reports that belong to an incident are in its rows, and what a person said of a table holds until they say
    something else. While an incident of a table is open its others stay, since their failures ended tries.
    What a repair made worse is not forgotten.
    """
    known = fold(rows)
    closed = ((i, i.closed_at) for i in known.incidents.values() if not known.open_of(i.table))
    worse = {i.id for i in known.incidents.values() if any(done.undone for done in i.actions)}
    old = {i.id for i, at in closed if at and now - at > _KEPT} - worse
    last = {row.table: row.sequence for row in rows if row.event in (Event.PAUSED, Event.RESUMED)}
    waiting = {e.occurrence for e in known.reported}
    kept: list[Row] = []
    for row in rows:
        if row.event == Event.ACTED:
            kept += [row] if row.incident in known.incidents.keys() - old else []
        elif not row.sequence:
            if (occurrence := Evidence.from_json(row.body).occurrence) in waiting:
                waiting.remove(occurrence)
                kept.append(row)
        elif row.event in (Event.PAUSED, Event.RESUMED):
            kept += [row] if row.event == Event.PAUSED and last[row.table] == row.sequence else []
        elif row.incident not in old or row.event in (Event.LABELLED, Event.UNDONE):
            kept.append(row)
    return kept


def _came_back(incident: Incident, known: Known) -> int:
    """How many incidents of its fingerprint there were in the window up to this one."""
    same = [i for i in known.alike.get(incident.fingerprint, []) if i.id != incident.id]
    count = 1
    for before in sorted(same, key=_number, reverse=True):
        if _number(before) > _number(incident):
            continue
        if before.closed in ("person", "passed") or incident.detected - before.detected >= WINDOW:
            break
        count += 1
    return count


def _grouped(incidents: Iterable[Incident], key: Callable[[Incident], str]) -> Mapping[str, list[Incident]]:
    found: dict[str, list[Incident]] = {}
    for incident in incidents:
        found.setdefault(key(incident), []).append(incident)
    return found


def _table(incident: Incident) -> str:
    return incident.table


def _fingerprint(incident: Incident) -> str:
    return incident.fingerprint


def _number(incident: Incident) -> int:
    """Which one of its fingerprint an incident is."""
    return number_in(incident.id)


def number_in(incident_id: str) -> int:
    """The n of `<fingerprint>-<n>`."""
    number = incident_id.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _begun(row: Row, body: Mapping[str, Any]) -> Incident:
    return Incident(
        row.incident,
        row.table,
        row.fingerprint,
        kind_named(row.kind),
        row.at,
        row.at,
        _text(body, "code"),
        _text(body, "rule"),
    )


def _failed(incident: Incident, row: Row, body: Mapping[str, Any], evidence: Evidence) -> Incident:
    return replace(
        incident,
        failed=row.at,
        state=_text(body, "state"),
        code_version=_text(body, "code_version"),
        evidence=(*incident.evidence, evidence),
    )


def _try(row: Row, body: Mapping[str, Any]) -> Try:
    number = body.get("number")
    return Try(
        number if isinstance(number, int) else 0,
        _text(body, "act"),
        row.at,
        body.get("half_open") is True,
        _text(body, "state"),
        _text(body, "written"),
    )


def _action(row: Row) -> Action:
    body = _body(row)
    listed = body.get("partitions")
    return Action(
        row.at,
        _text(body, "run_id"),
        _text(body, "table"),
        _text(body, "what"),
        int(_amount(body, "files")),
        int(_amount(body, "bytes")),
        tuple(map(str, listed)) if isinstance(listed, list) else (),
        _amount(body, "seconds"),
        body.get("undone") is True,
    )


def _amount(body: Mapping[str, Any], name: str) -> float:
    told = body.get(name)
    return float(told) if isinstance(told, int | float) else 0.0


def _body(row: Row) -> dict[str, Any]:
    try:
        told: Any = json.loads(row.body)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _text(body: Mapping[str, Any], name: str) -> str:
    told = body.get(name)
    return told if isinstance(told, str) else ""


def _earliest(evidence: Evidence) -> tuple[datetime, str]:
    return evidence.at, evidence.occurrence
