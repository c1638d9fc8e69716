"""Commands for incidents: what failed, what is done about it, and what a person says of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medallion_platform.cli import terminal
from medallion_platform.cli.exits import FAILED, USAGE, Stop
from medallion_platform.cli.shared_options import (
    Home,
    Json,
    known_table,
    lake_of,
    quiet_libraries,
    require_lake,
    settings_of,
    writable_lake,
)
from medallion_platform.errors import Kind, classify

if TYPE_CHECKING:
    from medallion_platform.healing.incident import Incident, Known
    from medallion_platform.healing.report import Report
    from medallion_platform.installation.settings import Settings
    from medallion_platform.kubernetes.pull_request import Repository
    from medallion_platform.lakehouse.incidents import Row

app = typer.Typer(help="Failures: what was done about them, and when they are tried again.")

_ATTEMPTS = 20
"""How often a person's word is written anew where somebody else decided at the same moment."""
_TABLE = "e.g. silver.events"
_ID = "As `list` shows it."


@app.command("list")
def list_incidents(
    by_class: Annotated[bool, typer.Option("--by-class", help="Count them, and how fast they heal.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show incidents, the newest first, and tables that a person paused."""
    from medallion_platform.healing.figures import figures_by_class

    known = _known(home)
    if by_class:
        by_kind = figures_by_class(known.incidents.values())
        rows = [{"class": kind.value, **asdict(figures)} for kind, figures in by_kind.items()]
        terminal.print_answer(
            "Incidents by class", rows, as_json=as_json, first=("class", "incidents", "healed_share")
        )
        return
    incidents = sorted(known.incidents.values(), key=lambda i: (i.detected, i.id), reverse=True)
    rows = [*_paused_rows(known), *(_summary(known, incident) for incident in incidents)]
    first = ("incident", "table", "class", "state", "next_try", "run", "tries")
    terminal.print_answer("Incidents", rows, as_json=as_json, first=first)


@app.command("show")
def show_incident(
    id: Annotated[str, typer.Argument(help=_ID)], home: Home = None, as_json: Json = False
) -> None:
    """Show what is known of an incident: its evidence, its tries, its end, and why it may have failed."""
    known = _known(home)
    incident = _incident(known, id)
    events, report = _events(incident), _report(home, incident)
    if as_json:
        answer = {**_summary(known, incident), "events": events, "report": asdict(report)}
        terminal.print_answer("", [answer], as_json=True)
        return
    terminal.print_answer(f"Incident {id}", [_summary(known, incident)], as_json=False, records=True)
    terminal.print_answer("What happened", events, as_json=False, first=("at", "event", "told"))
    lines = [{"about": about, "told": told} for about, told in report.lines()]
    terminal.print_answer("Why, as far as anything tells", lines, as_json=False, first=("about", "told"))
    if run := incident.run_id:
        terminal.print_note(f"`medallion logs {run}` shows the whole log of the run that failed.")
    if incident.table in known.open:
        terminal.print_note(f"`medallion incidents resume {incident.table}` tries it now.")


@app.command("pause")
def pause_table(table: Annotated[str, typer.Argument(help=_TABLE)], home: Home = None) -> None:
    """Take a table out of automation: nothing is tried until `resume`."""
    from medallion_platform.healing.decide import pause

    def rows(known: Known) -> Sequence[Row]:
        return pause(_table(known, table), datetime.now(UTC), _person())

    _say(home, rows)
    terminal.print_note(f"{table} is paused: `medallion incidents resume {table}` goes on with it.")


@app.command("resume")
def resume_table(table: Annotated[str, typer.Argument(help=_TABLE)], home: Home = None) -> None:
    """Let a table be tried at once, and count its tries from one again."""
    from medallion_platform.healing.decide import resume

    def rows(known: Known) -> Sequence[Row]:
        name = _table(known, table)
        held = name in known.paused or name in known.open
        return resume(known, name, datetime.now(UTC), _person()) if held else ()

    if _say(home, rows):
        told = f"{table} is tried as soon as the sensor looks, or by `medallion run`."
    else:
        told = f"{table} is not paused, and no incident of it is open: there is nothing to resume."
    terminal.print_note(told)


@app.command("label")
def label_incident(
    id: Annotated[str, typer.Argument(help=_ID)],
    of: Annotated[Kind, typer.Argument(metavar="CLASS", help="Its class from now on.")],
    home: Home = None,
) -> None:
    """Say which class a failure has that is `unknown`; all that fails in the same way has it from then on."""
    from medallion_platform.healing.decide import label, label_of

    def rows(known: Known) -> Sequence[Row]:
        incident = _incident(known, id)
        if incident.kind is not Kind.UNKNOWN:
            raise Stop(
                f"incident {id} has a class, {incident.kind}: only `unknown` ones are given one", USAGE
            )
        if not label_of(incident):
            raise Stop(f"nothing was heard of what ended the work of incident {id}: nothing to label", USAGE)
        return label(incident, of, datetime.now(UTC), _person())

    if of is Kind.UNKNOWN:
        raise Stop("`unknown` is what it is already", USAGE)
    _say(home, rows)
    terminal.print_note(f"What fails like {id} is treated as {of} from now on.")


@app.command("undo")
def undo_incident(id: Annotated[str, typer.Argument(help=_ID)], home: Home = None) -> None:
    """Take back the class that people gave to what fails like an incident; it is `unknown` again."""
    from medallion_platform.healing.decide import undo

    def rows(known: Known) -> Sequence[Row]:
        incident = _incident(known, id)
        found = undo(known, incident, datetime.now(UTC), _person())
        if not found:
            raise Stop(
                f"nobody gave incident {id} a class, and nothing else can be undone here: "
                "`medallion rollback RUN` takes back what a run wrote; `medallion history TABLE` names it",
                USAGE,
            )
        return found

    _say(home, rows)
    terminal.print_note(f"What fails like {id} is unknown again; a table that it holds is tried at once.")


@app.command("test-channels")
def test_channels(
    owner: Annotated[str, typer.Option(help="Whose, e.g. team:shop; by default nobody's.")] = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Send a test by each channel that people are told by, and say that it is over."""
    from medallion_platform.notifications.channel import reason, send_test
    from medallion_platform.orchestration.notifications import channels_of

    channels = channels_of(settings_of(home))
    if not channels:
        raise Stop("no channel is set up: docs/healing.md names the settings of each", USAGE)
    rows: list[dict[str, object]] = []
    for channel in channels:
        try:
            send_test(channel, owner, datetime.now(UTC))
            rows.append({"channel": channel.name, "told": True, "why": ""})
        except Exception as error:  # the other channels are tested all the same
            rows.append({"channel": channel.name, "told": False, "why": reason(error)})
    terminal.print_answer("Channels", rows, as_json=as_json)
    if not all(row["told"] for row in rows):
        raise typer.Exit(FAILED)


@app.command("propose")
def propose_change(id: Annotated[str, typer.Argument(help=_ID)], home: Home = None) -> None:
    """Open a pull request with the change of the chart's values that would heal an incident for good."""
    from medallion_platform.healing.decide import propose
    from medallion_platform.kubernetes.proposal import proposal_of
    from medallion_platform.kubernetes.pull_request import open_pull_request

    incident, repository = _incident(_known(home), id), _repository(settings_of(home))
    url = incident.proposal
    if not url:
        proposal = proposal_of(incident, _report(home, incident))
        if proposal is None:
            raise Stop(
                f"no lasting change is known for incident {id}: there is one for work that was killed with "
                "all the memory that a pod may have",
                USAGE,
            )
        url = open_pull_request(repository, proposal)
        _say(home, lambda known: propose(_incident(known, id), url, datetime.now(UTC), _person()))
    terminal.print_note(f"{url} waits for somebody who approves it; until it is deployed nothing changes.")


def _repository(settings: Settings) -> Repository:
    """The repository of the chart's values.

    Raises:
        Stop: the settings name none, or no token for it.
    """
    from medallion_platform.kubernetes.pull_request import Repository

    if not settings.git_repository or not settings.git_token:
        raise Stop(
            "set MEDALLION_GIT_REPOSITORY to the repository with the chart's values, MEDALLION_GIT_VALUES to "
            "their file in it, and MEDALLION_GIT_TOKEN to a token that may open pull requests there",
            USAGE,
        )
    token = settings.git_token.get_secret_value()
    return Repository(settings.git_repository, settings.git_values, settings.github_api, token)


def _known(home: Path | None) -> Known:
    from medallion_platform.healing.incident import known_from
    from medallion_platform.lakehouse import incidents

    return known_from(incidents.read(lake_of(home)))


def _report(home: Path | None, incident: Incident) -> Report:
    from medallion_platform.orchestration import runs
    from medallion_platform.orchestration.incident_report import report_incident

    lake = lake_of(home)
    quiet_libraries()
    try:
        with runs.open_instance(settings_of(home).dagster_home) as on:
            return report_incident(lake, on, incident)
    except Exception as error:  # what the lake knows is shown whatever happened to Dagster
        terminal.print_note(f"Dagster's storage cannot be read ({classify(error).kind}): the log is missing.")
        return report_incident(lake, None, incident)


def _say(home: Path | None, rows: Callable[[Known], Sequence[Row]]) -> bool:
    """Write what a person says; where somebody else decides at the same moment, once more after that.

    Returns whether there was anything to write.
    """
    from medallion_platform.healing.incident import known_from
    from medallion_platform.lakehouse import incidents
    from medallion_platform.lakehouse.commit import CommitConflict

    lake = writable_lake(require_lake(settings_of(home)))
    for attempt in range(_ATTEMPTS):
        ledger = incidents.read(lake)
        try:
            said = rows(known_from(ledger))
            incidents.decide(lake, said, ledger.seen)
            return bool(said)
        except CommitConflict:
            if attempt + 1 == _ATTEMPTS:
                raise
    raise AssertionError("the last attempt has raised")


def _incident(known: Known, id: str) -> Incident:
    """The incident of an id.

    Raises:
        Stop: there is none.
    """
    if found := known.incidents.get(id):
        return found
    raise Stop(f"there is no incident {id}; `medallion incidents list` shows all", USAGE)


def _table(known: Known, table: str) -> str:
    """The name of a table of the catalog, or of anything else that has failed.

    Raises:
        Stop: there is no such table; suggests similar names.
    """
    failed = {incident.table for incident in known.incidents.values()} | known.paused.keys()
    return table if table in failed else known_table(table)


def _person() -> str:
    try:
        return getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "a person"


def _summary(known: Known, incident: Incident) -> dict[str, object]:
    from medallion_platform.healing.incident import state_of

    state, next_try = state_of(incident, known)
    return {
        "incident": incident.id,
        "table": incident.table,
        "class": incident.kind.value,
        "code": incident.code,
        "why": incident.rule,
        "state": state,
        "tries": len(incident.tries),
        "began": incident.began,
        "detected": incident.detected,
        "next_try": next_try,
        "run": incident.run_id,
        "closed": incident.closed_at,
        "cost_seconds": round(incident.cost, 1),
        "proposal": incident.proposal,
    }


def _paused_rows(known: Known) -> list[dict[str, object]]:
    """A row like those of incidents for each table that a person paused."""
    return [
        {
            "incident": "",
            "table": table,
            "class": "",
            "code": "",
            "why": f"paused by {paused.by}",
            "state": "paused",
            "tries": 0,
            "began": paused.at,
            "detected": paused.at,
            "next_try": None,
            "run": "",
            "closed": None,
            "proposal": "",
        }
        for table, paused in sorted(known.paused.items())
    ]


def _events(incident: Incident) -> list[dict[str, object]]:
    """What happened, in its order."""
    events: list[dict[str, object]] = [
        {"at": e.at, "event": "failed", "told": json.loads(e.to_json())} for e in incident.evidence
    ]
    for one in incident.tries:
        told = {"number": one.number, "act": one.act, "half_open": one.half_open}
        events.append({"at": one.at, "event": "tried", "told": told})
    for action in incident.actions:
        told = {name: value for name, value in vars(action).items() if name != "at"}
        events.append({"at": action.at, "event": "acted", "told": told})
    if incident.closed_at:
        events.append({"at": incident.closed_at, "event": incident.closed, "told": {}})
    return sorted(events, key=lambda event: str(event["at"]))
