"""What a look of the sensor does about failures: reads them, decides, writes it down, and tells people.

What failed is read from the runs, what was decided about it from the ledger; the decision is pure
(`healing/decide.py`). It is in the ledger before anything is asked for.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import itemgetter
from typing import Any

import dagster as dg

from medallion_platform.errors import ErrorChain, MedallionError
from medallion_platform.healing.decide import (
    Asked,
    Decisions,
    Held,
    Look,
    Want,
    asked_from_text,
    asked_to_text,
    decide,
)
from medallion_platform.healing.evidence import Evidence
from medallion_platform.healing.incident import Event, Incident, Known, advance, known_from
from medallion_platform.lakehouse import incidents
from medallion_platform.lakehouse.counts import counted
from medallion_platform.lakehouse.damaged_files import is_damaged
from medallion_platform.lakehouse.incidents import Row
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration import checks
from medallion_platform.orchestration.failed_runs import FailedRun, evidence_of, failed_runs, unharmed
from medallion_platform.orchestration.failures import CLASS, INCIDENT, NEXT_TRY
from medallion_platform.pipeline.intake.poison import deaths
from medallion_platform.storage import client_reason

_LOG = logging.getLogger(__name__)
_MOST_IN_A_TAG = 10


@dataclass(frozen=True)
class Memory:
    """What one look remembers for the next.

    asked: what it asked for. read: how far failed runs were read, None at first. told: by table, why its page
    says that it is not made.
    """

    asked: Mapping[str, Asked] = field(default_factory=dict[str, Asked])
    read: int | None = None
    told: Mapping[str, str] = field(default_factory=dict[str, str])

    def asking(self, runs: Mapping[str, str]) -> Memory:
        """The memory with the key of the run that each table was asked for by."""
        asked = {t: replace(a, run=runs[t]) if t in runs else a for t, a in self.asked.items()}
        return replace(self, asked=asked)

    def to_text(self) -> str:
        """The memory as text."""
        return json.dumps({"asked": asked_to_text(self.asked), "read": self.read, "told": dict(self.told)})

    @classmethod
    def from_text(cls, text: str | None) -> Memory:
        """The memory in a text of `to_text`; none if it is missing, or another version's."""
        try:
            found: dict[str, Any] = json.loads(text or "{}")
            return cls(asked_from_text(found["asked"]), int(found["read"]), dict(found["told"]))
        except (ValueError, TypeError, KeyError):
            return cls()


@dataclass(frozen=True)
class Turn:
    """What follows from a look: the decisions, what pages of tables are to say, and what to remember."""

    decisions: Decisions
    pages: tuple[dg.AssetCheckResult, ...]
    memory: Memory


def decide_and_record(
    on: dg.DagsterInstance,
    lake: Lake,
    wanted: Mapping[str, Want],
    at_work: Collection[str],
    memory: Memory,
    now: datetime,
) -> Turn:
    """Decide which of the wanted tables are made now, and write it down.

    at_work: tables that a run works on or may still begin with, as seen before this is called.

    Raises:
        CommitConflict: somebody else has decided at this moment; nothing holds.
        DamagedLedger: the ledger cannot be read.
    """
    failed, read = failed_runs(on, memory.read)
    told = [e for run in failed for e in evidence_of(run, asked_of(run, memory.asked))]
    evidence = [_with_deaths(lake, e) for e in told]
    asked = without_untouched(memory.asked, failed)
    idle = asked.keys() & wanted.keys() - set(at_work)
    ended = unharmed(on, {table: asked[table].run for table in idle})
    ledger = incidents.read(lake)
    known = known_from(ledger)
    look = Look(now, wanted, at_work, evidence, asked, ended)
    decisions = decide(known, look)
    if damaged := _still_damaged(lake, known, decisions):
        decisions = decide(known, replace(look, damaged=damaged))
    incidents.decide(lake, decisions.rows, ledger.seen)
    known = advance(known, decisions.rows)
    _tag_runs(on, decisions)
    why = {table: f.why for run in failed for table, f in run.failures.items()}
    told, pages = _pages(known, decisions, memory.told, why)
    return Turn(decisions, pages, Memory(decisions.asked, read, told))


def record_failures(on: dg.DagsterInstance, lake: Lake, wanted: Mapping[str, Want], now: datetime) -> None:
    """Write down what failed and what has been healed, where a person tries again and nothing else does."""
    try:
        decide_and_record(on, lake, wanted, wanted.keys(), Memory(), now)
    except MedallionError as error:  # whoever decides next reads the same runs
        _LOG.warning("what failed is not in the ledger yet: %s", error)


def asked_of(run: FailedRun, asked: Mapping[str, Asked]) -> set[str]:
    """The tables that a run was asked for. Pure."""
    return {table for table, request in asked.items() if run.key and request.run == run.key}


def without_untouched(asked: Mapping[str, Asked], failed: Iterable[FailedRun]) -> Mapping[str, Asked]:
    """What was asked for, without the tables that runs had not begun when something ended them. Pure.

    One table that ends each run is no reason to count a failure of every other one.
    """
    untouched: set[str] = set()
    for run in failed:
        if run.working_on and not run.failures:
            untouched |= asked_of(run, asked) - {run.working_on}
    return {table: request for table, request in asked.items() if table not in untouched}


def _with_deaths(lake: Lake, found: Evidence) -> Evidence:
    """Evidence of an intake that died, with how often one has died where it began."""
    if found.work != "intake" or found.chain != ErrorChain():
        return found
    try:
        return replace(found, deaths=deaths(lake, found.table))
    except MedallionError:  # its table cannot be read, which whoever reads it says
        return found


def _still_damaged(lake: Lake, known: Known, decisions: Decisions) -> set[str]:
    """The incidents that would end though a damaged file of theirs is not whole, only not needed since."""
    ending = [known.incidents[id] for id in decisions.closed if id in known.incidents]
    return {i.id for i in ending if i.asked_for and any(_is_damaged(lake, *place) for place in i.damaged)}


def _is_damaged(lake: Lake, table: str, file: str) -> bool:
    try:
        return is_damaged(lake, table, file)
    except Exception as error:
        _LOG.warning("%s: whether %s is whole is not known: %s", table, file, client_reason(error))
        return True


def _tag_runs(on: dg.DagsterInstance, decisions: Decisions) -> None:
    """Say on the failed runs what they failed by, as which incidents, and when their tables are tried again.

    A run that was killed could not say its class, and of one that nobody knew a person may have said it.
    """
    found: dict[str, list[Row]] = {}
    for row in decisions.rows:
        if row.event == Event.DETECTED:
            run_id = json.loads(row.body)["evidence"].get("run_id", "")
            found.setdefault(run_id, []).append(row)
    for run_id, rows in found.items():
        nexts = {_next_in_words(decisions.held.get(row.table)) for row in rows}
        tags = {
            CLASS: ", ".join(sorted({row.kind for row in rows})),
            INCIDENT: _first_ones([row.incident for row in rows]),
            NEXT_TRY: _first_ones(sorted(nexts)),
        }
        try:
            if run_id and on.has_run(run_id):
                on.add_run_tags(run_id, tags)
        except Exception as error:  # what is decided is to be asked for: else its tries seem to have failed
            _LOG.warning("run %s does not say of which incidents it is part: %s", run_id, error)


def _first_ones(texts: Sequence[str]) -> str:
    """What a tag says of many: the list of all is that of incidents."""
    left = len(texts) - _MOST_IN_A_TAG
    return ", ".join(texts[:_MOST_IN_A_TAG]) + (f" and {left} more" if left > 0 else "")


def _next_in_words(held: Held | None) -> str:
    if held is None:
        return "at once"
    if held.next_try is None:
        return f"after {held.command}"
    told = f"{held.next_try:%Y-%m-%d %H:%M:%S}Z"
    return f"{told} (breaker open)" if held.state == "open" else told


def _pages(
    known: Known, decisions: Decisions, told: Mapping[str, str], why: Mapping[str, str]
) -> tuple[dict[str, str], tuple[dg.AssetCheckResult, ...]]:
    """What pages say now of tables that are not made, and the results that change them.

    By state: who is told twice is told the same, and what nobody was told of comes with the next look.
    """
    held = decisions.held
    open_ones = {table: found[-1] for table, found in known.open.items()}
    troubled = sorted(open_ones.keys() | held.keys())
    now = {table: str(held[table]) if table in held else told.get(table, "") for table in troubled}
    results = [
        _not_made(table, open_ones.get(table), held[table], why.get(table, ""))
        for table in troubled
        if table in held and now[table] != told.get(table)
    ]
    over = sorted(table for table in told if table not in now)
    results += [checks.refreshed_result(table, **_ended(known, table)) for table in over]
    return now, tuple(results)


def _not_made(table: str, incident: Incident | None, held: Held, why: str) -> dg.AssetCheckResult:
    return checks.not_refreshed_result(table, why or held.why, str(held), **_named(incident))


def _named(incident: Incident | None) -> dict[str, str]:
    return {"incident": incident.id, "class": incident.kind.value} if incident else {}


def _ended(known: Known, table: str) -> dict[str, str]:
    """What the page says of the incidents of a table that ended last, and of what was repaired for them."""
    over = [(i.closed_at, i) for i in known.incidents.values() if i.table == table and i.closed_at]
    if not over:
        return {}
    at, last = max(over, key=itemgetter(0))
    seconds = max(round((at - last.began).total_seconds()), 0)
    tried = f"tried {counted(len(last.tries), 'times')}"
    told = {**_named(last), "ended": f"{last.closed} {counted(seconds, 'seconds')} after it failed; {tried}"}
    repaired = [action.what for closed, i in over if closed == at for action in i.actions]
    return {**told, "repaired": "; ".join(repaired)} if repaired else told
