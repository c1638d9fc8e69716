"""What is done now about what failed: rows for the ledger, tables to try, tables to leave out. Pure.

Whoever decides commits the rows (`lakehouse.incidents.decide`) before anything is asked for; after a conflict
nothing of a decision holds, and one looks again. So two that decide ask for no try twice, and one that is
killed in between has made a try of which nothing is heard: the next look notices that.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from medallion_platform.errors import Kind
from medallion_platform.healing.classify import DIED, cause, classify, fingerprint, signature
from medallion_platform.healing.evidence import Evidence, Work
from medallion_platform.healing.incident import (
    ASKED_FOR,
    WINDOW,
    Closed,
    Event,
    Incident,
    Known,
    Next,
    advance,
    breaker,
    next_of,
    number_in,
)
from medallion_platform.healing.policy import AT_ONCE, NOTHING_CAME, POLICY, Act
from medallion_platform.lakehouse.incidents import Row


@dataclass(frozen=True)
class Want:
    """A table that is to be made now.

    state: changes with what it would be made from. code_version: changes with its code. written: changes with
    each write that the table's log has, and whose counts add up: of a table the number of its last write, of
    a source's table its positions in what waits.
    """

    work: Work
    state: str
    code_version: str = ""
    written: str = ""


@dataclass(frozen=True)
class Asked:
    """That a table was asked for: when, as what, and of which run.

    times: how often in a row, since runs ended without a failure and without having made it.
    """

    at: datetime
    want: Want
    run: str = ""
    times: int = 1


@dataclass(frozen=True)
class Look:
    """What is seen at one moment.

    wanted: by table, also those at work. at_work: tables that a run works on, or may still begin with; looked
    at before the evidence was read. evidence: new or told before. asked: what earlier looks asked for, as
    `Decisions.asked` told it. unharmed: tables whose run has ended and did not fail at them, whether it made
    them or left them to another. damaged: incidents whose data files are not whole, whatever was made. by:
    who looks.
    """

    now: datetime
    wanted: Mapping[str, Want]
    at_work: Collection[str] = ()
    evidence: Sequence[Evidence] = ()
    asked: Mapping[str, Asked] = field(default_factory=dict[str, Asked])
    unharmed: Collection[str] = ()
    damaged: Collection[str] = ()
    by: str = "sensor"


@dataclass(frozen=True)
class Held:
    """Why a table is left out.

    state: it waits for its next try, its turn has not come among those that failed in the same way, its
    breaker is open, or a person paused it. since: when that began. why: what failed. next_try: when it is
    tried at the latest, or its turn can come; None: when a person says so. command: tries it at once.
    """

    table: str
    state: Literal["waiting", "queued", "open", "paused"]
    since: datetime
    why: str
    next_try: datetime | None = None

    @property
    def command(self) -> str:
        """What a person types to try it at once."""
        return f"medallion incidents resume {self.table}"

    def __str__(self) -> str:
        if self.next_try is None:
            return f"{self.table}: {self.why} ({_time(self.since)}); `{self.command}` goes on with it"
        told = (
            f"{self.table}: {self.why} since {_time(self.since)}; it is tried again at {_time(self.next_try)}"
        )
        if self.state == "open":
            told += ", sooner if what it is made from changes, and at once if its code does"
        elif self.state == "queued":
            told += " or later: some that failed in the same way are tried first"
        return f"{told}. `{self.command}` tries it now"


@dataclass(frozen=True)
class Decisions:
    """What follows from a look.

    rows: to be committed first. try_now: tables to ask for, what failed longest ago first, each with the ids
    of its open incidents. repair: those of them whose try repairs, with the incident for which. held: tables
    that nobody may ask for now, whether they are wanted or not. asked: for the next look.
    """

    rows: tuple[Row, ...] = ()
    try_now: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    held: Mapping[str, Held] = field(default_factory=dict[str, Held])
    asked: Mapping[str, Asked] = field(default_factory=dict[str, Asked])
    repair: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def closed(self) -> frozenset[str]:
        """The incidents that end."""
        return frozenset(row.incident for row in self.rows if row.event == Event.CLOSED)


def decide(known: Known, look: Look) -> Decisions:
    """What is done now. Each table is decided by itself: the trouble of one holds no other.

    But tables that failed by the same server do not come back to it all at once.
    """
    asked = {table: found for table in look.wanted if (found := _last_asked(known, look, table))}
    new = _new_evidence(known, look, asked)
    rows: list[Row] = []
    for evidence in new:
        row = _detected(known, look, evidence, asked.get(evidence.table))
        rows.append(row)
        known = advance(known, [row])
    failed = _tables_failed(new)
    closed = [row for i in known.incidents.values() if i.table not in failed for row in _closed(i, look)]
    closed += [_close(i, "passed", look.now, look.by) for i in _explained(known, failed)]
    known = advance(known, closed)
    held = {table: found for table in _troubled(known, look) if (found := _held(known, table, look))}
    later = {
        table: of for table, of in asked.items() if table not in failed and _comes_later(table, of, look)
    }
    held |= _queued(known, look, look.wanted.keys() - set(look.at_work) - held.keys() - later.keys())
    ready = sorted(look.wanted.keys() - set(look.at_work) - held.keys() - later.keys())
    try_now = {table: known.open_of(table) for table in ready}
    tried = [_tried(known, i, look) for incidents in try_now.values() for i in incidents]
    still = later | {t: a for t, a in look.asked.items() if t in look.at_work and t not in failed}
    return Decisions(
        (*rows, *closed, *tried),
        {t: tuple(i.id for i in try_now[t]) for t in sorted(ready, key=lambda t: _oldest(try_now[t], look))},
        held,
        still | {table: _ask(table, asked.get(table), look) for table in try_now},
        {i.table: i.id for found in try_now.values() for i in found if next_of(i, known).act is Act.REPAIR},
    )


def pause(table: str, now: datetime, by: str) -> tuple[Row, ...]:
    """A person takes a table out of automation."""
    return (Row(Event.PAUSED, now, by, table),)


def resume(known: Known, table: str, now: datetime, by: str) -> tuple[Row, ...]:
    """A person lets a table be tried at once, and all its tries begin anew."""
    still_open = [i for i in known.incidents.values() if i.table == table and not i.closed]
    return Row(Event.RESUMED, now, by, table), *(_close(i, "person", now, by) for i in still_open)


def label(incident: Incident, kind: Kind, now: datetime, by: str) -> tuple[Row, ...]:
    """A person says what a failure is that no rule tells; it is tried again as one of that class.

    incident: one of the class `unknown`, with something in its evidence to know it by.
    """
    said = _row(Event.LABELLED, incident, now, by, {"signature": label_of(incident)})
    said = replace(said, kind=kind.value)
    return (said,) if incident.closed else (said, _close(incident, "person", now, by))


def undo(known: Known, incident: Incident, now: datetime, by: str) -> tuple[Row, ...]:
    """A person takes back what was done about an incident and can be undone: the class that people gave it.

    It is `unknown` again, and so is all that fails in the same way; what is open begins anew. Nothing without
    such a class.
    """
    of = label_of(incident)
    if of not in known.labels:
        return ()
    labelled = [i for i in known.incidents.values() if not i.closed and i.rule == f"label:{of}"]
    taken_back = _row(Event.UNDONE, incident, now, by, {"signature": of})
    return taken_back, *(_close(i, "person", now, by) for i in labelled)


def propose(incident: Incident, url: str, now: datetime, by: str) -> tuple[Row, ...]:
    """A lasting change was proposed for an incident, at an address."""
    return (_row(Event.PROPOSED, incident, now, by, {"url": url}),)


def label_of(incident: Incident) -> str:
    """What a label of an incident is given to; "" where its evidence says nothing at all."""
    return next((found for e in incident.evidence if (found := signature(e))), "")


def _new_evidence(known: Known, look: Look, asked: Mapping[str, Asked]) -> list[Evidence]:
    """What has failed and belongs to no incident yet: reported, seen now, or a try that ended silently."""
    told = {e.occurrence: e for e in (*known.reported, *look.evidence)}
    new = [e for e in told.values() if e.occurrence not in known.occurrences]
    failed = _tables_failed(new)
    silent = (_silent(table, of, look) for table, of in asked.items() if table not in failed)
    new += [e for e in silent if e and e.occurrence not in known.occurrences]
    return sorted(new, key=lambda e: (e.at, e.occurrence))


def _tables_failed(found: Iterable[Evidence]) -> set[str]:
    """The tables at which work failed that is asked for: what else failed there ends no try of it."""
    return {evidence.table for evidence in found if evidence.work in ASKED_FOR}


def _silent(table: str, asked: Asked, look: Look) -> Evidence | None:
    """Evidence that a table was asked for, and nobody works on it, has made it or says why not."""
    if table in look.at_work or table in look.unharmed or look.wanted[table].written != asked.want.written:
        return None
    return Evidence(f"asked/{table}/{asked.at.isoformat()}", look.now, asked.want.work, table)


def _came_to_nothing(table: str, asked: Asked, look: Look) -> bool:
    """Whether the last run neither made a table nor failed at it, and nothing has changed since."""
    want = look.wanted[table]
    same = (want.state, want.written) == (asked.want.state, asked.want.written)
    return same and table in look.unharmed and table not in look.at_work


def _comes_later(table: str, asked: Asked, look: Look) -> bool:
    """Whether a table of which nothing came (another run worked on it) is not asked for again yet."""
    pause = timedelta(seconds=NOTHING_CAME[min(asked.times, len(NOTHING_CAME)) - 1])
    return _came_to_nothing(table, asked, look) and -pause < look.now - asked.at < pause


def _ask(table: str, before: Asked | None, look: Look) -> Asked:
    times = before.times + 1 if before and _came_to_nothing(table, before, look) else 1
    return Asked(look.now, look.wanted[table], times=times)


def _last_asked(known: Known, look: Look, table: str) -> Asked | None:
    """When a table was last asked for, if that has not ended as far as is known.

    The look before knows it, unless it was stopped before it remembered; the ledger knows of tries.
    """
    incidents = known.open_of(table)
    found = look.asked.get(table)
    if found and all(incident.failed < found.at for incident in incidents):
        return found
    pending = [i for i in incidents if i.pending]
    if not pending:
        return None
    last, work = pending[-1].tries[-1], look.wanted[table].work
    return Asked(last.at, Want(work, last.state, pending[-1].code_version, last.written))


def _detected(known: Known, look: Look, evidence: Evidence, asked: Asked | None) -> Row:
    """That evidence is part of an incident: of an open one with its fingerprint, or of a new one."""
    finding = classify(evidence, known.labels)
    of = fingerprint(evidence, finding)
    same = [i for i in known.incidents.values() if i.fingerprint == of]
    still_open = next((i.id for i in same if not i.closed), "")
    number = 1 + max((number_in(i.id) for i in same), default=0)
    failed = asked.want if asked else look.wanted.get(evidence.table)
    body = {
        "evidence": json.loads(evidence.to_json()),
        "code": finding.code,
        "rule": finding.rule,
        "state": failed.state if failed else "",
        "code_version": failed.code_version if failed else "",
    }
    id, kind = still_open or f"{of}-{number}", finding.kind.value
    return Row(Event.DETECTED, look.now, look.by, evidence.table, id, of, kind, json.dumps(body))


def _closed(incident: Incident, look: Look) -> Iterable[Row]:
    """That an open incident has ended, if it has."""
    if incident.closed or incident.table in look.at_work or incident.id in look.damaged:
        return
    want = look.wanted.get(incident.table)
    # What was made without a try of ours, somebody else has made.
    ended: Closed = "lost" if incident.kind is Kind.GAP else "healed" if incident.tries else "passed"
    if not incident.asked_for:  # nobody asks for it again, so nothing shows that it is done
        if look.now - incident.failed >= WINDOW:
            gone = incident.kind is Kind.GAP
            yield _close(incident, "lost" if gone else "passed", look.now, look.by)
    elif want is None or (incident.pending and want.written != incident.tries[-1].written):
        yield _close(incident, ended, look.now, look.by)
    elif incident.code_version and want.code_version not in ("", incident.code_version):
        yield _close(incident, "passed", look.now, look.by)


def _explained(known: Known, failed: Collection[str]) -> Iterable[Incident]:
    """Open incidents of processes that died, where they are known now to have died over the same records."""
    for table in failed:
        incidents = known.open_of(table)
        if any(i.rule == DIED for i in incidents):
            yield from (i for i in incidents if i.rule != DIED and i.told_nothing)


def _close(incident: Incident, how: Closed, now: datetime, by: str) -> Row:
    return _row(Event.CLOSED, incident, now, by, {"how": how})


def _row(event: Event, incident: Incident, now: datetime, by: str, body: Mapping[str, object]) -> Row:
    """A decision about an incident."""
    of, kind = incident.fingerprint, incident.kind.value
    return Row(event, now, by, incident.table, incident.id, of, kind, json.dumps(body))


def _troubled(known: Known, look: Look) -> set[str]:
    """Tables that may have to be left out."""
    return (known.open.keys() | known.paused.keys()) - set(look.at_work)


def _held(known: Known, table: str, look: Look) -> Held | None:
    """Why a table is left out, if it is."""
    if paused := known.paused.get(table):
        return Held(table, "paused", paused.at, f"paused by {paused.by}")
    waiting = [
        (i, follows) for i in known.open_of(table) if not _is_due(i, follows := next_of(i, known), look)
    ]
    if not waiting:
        return None
    incident, follows = max(waiting, key=lambda found: found[1].at)
    stopped = breaker(incident, known) != "closed"
    return Held(table, "open" if stopped else "waiting", incident.failed, _reason(incident), follows.at)


def _queued(known: Known, look: Look, due: Collection[str]) -> dict[str, Held]:
    """The tables that could be tried, and whose turn has not come. What failed longest ago comes first.

    Of what failed by one error of a server that is away, one is tried first; then one more at a time for
    each that has healed since the last failure, which doubles them in each round (the "slow start" of TCP,
    RFC 5681), up to `AT_ONCE`.
    """
    causes = {table: {_cause(i) for i in known.open_of(table) if POLICY[i.kind].endless} for table in due}
    free = _free(known, look, set().union(*causes.values()))
    found: dict[str, Held] = {}
    for table in sorted(filter(causes.__getitem__, causes), key=lambda table: _turn(known.open_of(table))):
        if all(free[of] > 0 for of in causes[table]):
            free |= {of: free[of] - 1 for of in causes[table]}
        else:
            last = max(known.open_of(table), key=lambda i: next_of(i, known).at)
            found[table] = Held(table, "queued", last.failed, _reason(last), next_of(last, known).at)
    return found


def _free(known: Known, look: Look, causes: Collection[str]) -> dict[str, int]:
    """How many more tables may be tried now, by what they failed by."""
    alike: dict[str, list[Incident]] = {of: [] for of in causes}
    for incident in known.incidents.values() if causes else ():
        if POLICY[incident.kind].endless and (of := _cause(incident)) in alike:
            alike[of].append(incident)
    return {of: _most_at_once(found) - _under_way(found, look) for of, found in alike.items()}


def _most_at_once(alike: Sequence[Incident]) -> int:
    failed = max(i.failed for i in alike)
    healed = sum(bool(i.verified and i.verified > failed) for i in alike)
    return min(1 + healed, AT_ONCE)


def _under_way(alike: Iterable[Incident], look: Look) -> int:
    return len({i.table for i in alike if i.pending and i.table in look.at_work})


def _cause(incident: Incident) -> str:
    return cause(incident.evidence[0], incident.kind, incident.code)


def _turn(incidents: Sequence[Incident]) -> tuple[datetime, datetime, str]:
    """By what tables come one after the other: no table that keeps failing is always before another."""
    return max(i.failed for i in incidents), min(i.began for i in incidents), incidents[0].table


def _is_due(incident: Incident, follows: Next, look: Look) -> bool:
    """Whether the next try of an incident may be made now."""
    want = look.wanted.get(incident.table)
    changed = want is not None and want.state != incident.state
    wait = (follows.if_changed if changed else follows.at) - incident.failed
    # A clock that went back by more than the pause would make it wait for long.
    return not -wait < look.now - incident.failed < wait


def _reason(incident: Incident) -> str:
    """What failed, in a few words."""
    times = len(incident.evidence)
    code = f" ({incident.code})" if incident.code else ""
    return f"failed {f'{times} times, ' if times > 1 else ''}{incident.kind}{code}"


def _tried(known: Known, incident: Incident, look: Look) -> Row:
    follows, want = next_of(incident, known), look.wanted[incident.table]
    body = {
        "number": follows.number,
        "act": follows.act.value,
        "half_open": follows.half_open,
        "state": want.state,
        "code_version": want.code_version,
        "written": want.written,
    }
    return _row(Event.TRIED, incident, look.now, look.by, body)


def _oldest(incidents: Sequence[Incident], look: Look) -> datetime:
    return min((i.detected for i in incidents), default=look.now)


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}Z"


def asked_to_text(asked: Mapping[str, Asked]) -> str:
    """What was asked for, as text for the next look."""
    return json.dumps({t: [a.at.isoformat(), asdict(a.want), a.run, a.times] for t, a in asked.items()})


def asked_from_text(text: str | None) -> dict[str, Asked]:
    """What was asked for, of a text of `asked_to_text`; nothing if it is none."""
    try:
        told = json.loads(text or "{}")
        return {
            table: Asked(datetime.fromisoformat(at), Want(**want), str(run), int(times))
            for table, (at, want, run, times) in told.items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}
