"""Commands that change tables: intake and refresh, rollback."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medallion_platform.cli import terminal
from medallion_platform.cli.exits import FAILED, FULL_DISK, INCOMPLETE, NOT_READY, USAGE, Stop
from medallion_platform.cli.options import (
    Home,
    Json,
    Quiet,
    Say,
    existing,
    export,
    known_table,
    quiet_libraries,
    ready_lake,
    settings_of,
)
from medallion_platform.project import MODULE, SAMPLE, project_above

if TYPE_CHECKING:
    from medallion_platform.orchestration.runs import Outcome
    from medallion_platform.settings import Settings

app = typer.Typer()


@app.command()
def demo(home: Home = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """Generate dirty sample data of two domains and bring it to gold tables; no row is lost."""
    from medallion_sample.sample import write_sample

    command = _become_the_sample()
    settings = settings_of(home)
    folder = settings.home / "landing"
    settings = settings.model_copy(update={"landing": folder, "settle_seconds": 0.0})
    ready_lake(settings)
    started = time.monotonic()
    sample = write_sample(folder)
    say = terminal.nothing if quiet else terminal.note
    say(f"{sample.files} sample files in {folder}")
    left = _take_in_and_refresh(settings, started, as_json, say, say_rejected=terminal.nothing)
    if not as_json:
        say(
            "Try next:\n"
            f"  {command} status                           all tables: fresh or stale\n"
            f"  {command} dead-letters list                what was rejected, and why\n"
            f"  {command} dead-letters show bronze.events  the rejected rows\n"
            f"  {command} dev                              the Dagster UI"
        )
    if left:
        raise typer.Exit(INCOMPLETE)


def _become_the_sample() -> str:
    """Use the sample's catalog, whatever project this folder belongs to; returns how to call it again."""
    os.environ[MODULE] = SAMPLE
    project = project_above(Path.cwd())
    ours = project is not None and project.module == SAMPLE
    return "./medallion" if ours else f"medallion --module {SAMPLE}"


@app.command()
def run(
    tables: Annotated[
        list[str] | None,
        typer.Argument(help="Only these and their upstream tables, e.g. silver.events; all if left out"),
    ] = None,
    landing: Annotated[
        str | None,
        typer.Option(
            help="The landing zone: a folder, or s3://bucket/prefix.",
            show_default="landing/ in the home",
        ),
    ] = None,
    home: Home = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take in the new files of a landing zone and refresh everything downstream, or the named tables."""
    from medallion_platform.storage import in_bucket

    settings = settings_of(home)
    if landing is not None and not in_bucket(landing) and not Path(landing).is_dir():
        raise Stop(f"{landing} is not a folder; --landing has to name the landing zone", USAGE)
    if landing is not None:
        zone = landing.rstrip("/") if in_bucket(landing) else Path(landing).resolve()
        settings = settings.model_copy(update={"landing": zone})
    say = terminal.nothing if quiet else terminal.note
    named = [known_table(table) for table in tables or ()]
    if _take_in_and_refresh(settings, time.monotonic(), as_json, say, named):
        raise typer.Exit(INCOMPLETE)


@app.command()
def rollback(
    run_id: Annotated[str, typer.Argument(help="Id of the Dagster run to undo, or its beginning.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Undo what a run did to all tables, and refresh everything downstream; both are recorded."""
    from medallion_platform.assembly import catalog, definitions_of, lakehouse_of
    from medallion_platform.orchestration import runs
    from medallion_platform.pipeline.rollback import CannotRollBack
    from medallion_platform.pipeline.run import UnknownRun

    settings = existing(settings_of(home))
    ready_lake(settings)
    quiet_libraries()
    export(settings)
    try:
        with runs.instance(settings.dagster_home) as on:
            place, defs = lakehouse_of(settings), definitions_of(settings)
            taken_back, outcome = runs.attended(on, lambda: runs.roll_back(defs, catalog, place, on, run_id))
    except UnknownRun as error:
        raise Stop(str(error), USAGE) from None
    except CannotRollBack as error:
        raise Stop(str(error)) from None
    terminal.answer(f"Run {run_id} was rolled back", [asdict(t) for t in taken_back], as_json=as_json)
    if outcome.failed:
        raise Stop("\n".join(f"{step}: {why}" for step, why in outcome.failed.items()))


def _take_in_and_refresh(
    settings: Settings,
    started: float,
    as_json: bool,
    say: Say,
    tables: Collection[str] = (),
    say_rejected: Say | None = None,
) -> bool:
    """Intake of all sources and refresh of all downstream tables, through Dagster, then the summary.

    say_rejected: says what was rejected; `say` where it is left out.

    Returns whether some input was left.
    """
    from medallion_platform.assembly import catalog, definitions_of, lakehouse_of
    from medallion_platform.orchestration import progress, runs

    quiet_libraries()
    ready_lake(settings)
    export(settings)  # a project's own definitions read the environment
    left = _look(settings, say)
    silent = as_json or say is terminal.nothing
    with _progress(silent) as show:
        progress.listen(show)
        with runs.instance(settings.dagster_home) as on:
            defs, place = partial(definitions_of, settings), lakehouse_of(settings)
            outcome = runs.attended(on, lambda: runs.run_everything(defs, catalog, place, on, tables))
    rows = _summary(settings, outcome)
    terminal.answer(f"Done in {time.monotonic() - started:.0f} s", rows, as_json=as_json)
    _say_rejected(settings, outcome, rows, say_rejected or say)
    for table, inputs in outcome.waiting.items():
        say(f"{table} waits for {', '.join(inputs)}: nothing has landed there yet")
    if outcome.failed:
        raise Stop(
            "\n".join(f"{step}: {why}" for step, why in outcome.failed.items())
            + "\nTables downstream of these wait, all others are up to date. Correct this and run the same "
            "command again.",
            NOT_READY if any(FULL_DISK in why for why in outcome.failed.values()) else FAILED,
        )
    return left


def _look(settings: Settings, say: Say) -> bool:
    """Report the files that will not be taken in; waits for those that may still be written to."""
    from medallion_platform.installation import catalog
    from medallion_platform.sources.connectors import landing
    from medallion_platform.sources.errors import Unavailable

    def look() -> landing.LandingScan:
        now = datetime.now(UTC)
        try:
            return landing.scan(settings.landing, catalog.file_sources, now, settings.settle_seconds)
        except Unavailable as error:
            raise Stop(str(error), NOT_READY) from None

    seen = look()
    if any(not landing.unfinished_name(p) for p in seen.unfinished):
        time.sleep(settings.settle_seconds)
        seen = look()
    for path in seen.unclaimed:
        say(f"no source claims {path}: left in place")
    for path, why in seen.left.items():
        say(f"{path}: {why}; left in place")
    for path, owners in seen.contested.items():
        say(f"{path} is claimed by {', '.join(owners)}: left in place")
    unfinished = [p for p in seen.unfinished if not landing.hidden(p)]
    for path in unfinished:
        say(f"{path} is not complete yet: left for the next run")
    return bool(seen.contested or unfinished)


def _summary(settings: Settings, outcome: Outcome) -> list[dict[str, Any]]:
    """What the runs of this command did to each table, from the commit records."""
    from medallion_platform.installation import catalog
    from medallion_platform.lakehouse.counts import Counts

    lake = ready_lake(settings).snapshot()
    rows = []
    for name in catalog.names:
        since = outcome.before.get(name)
        new = [] if since is None else lake.records(name, since=since)
        mine = [record for _, record in new if record.run_id in outcome.run_ids]
        counts = sum((r.counts for r in mine), Counts())
        rows.append(
            {
                "table": name,
                **counts.as_dict(),
                "seconds": round(sum(r.seconds for r in mine), 1),
            }
        )
    return rows


def _say_rejected(settings: Settings, outcome: Outcome, rows: list[dict[str, Any]], say: Say) -> None:
    """Name the files that could not be read at all, and what shows the other rejected rows."""
    from medallion_platform.queries.letters import unreadable_files

    rejected = [row["table"] for row in rows if row["dead_lettered"]]
    if not rejected:
        return
    lake = ready_lake(settings).snapshot()
    for table in rejected:
        for file in unreadable_files(lake, table, outcome.run_ids):
            say(f"{table}: {file} cannot be read at all and is in quarantine")
    say(f"Rejected rows, and why: `medallion dead-letters show {rejected[0]}`")


class _progress:
    """A status line about the current work; plain lines if there is no terminal."""

    def __init__(self, silent: bool) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._silent = silent
        self._started = time.monotonic()
        self._status: Any = None

    def __enter__(self) -> _progress:
        if not self._silent and self._console.is_terminal:
            self._status = self._console.status("starting")
            self._status.start()
        return self

    def __call__(self, table: str, text: str) -> None:
        from rich.text import Text

        if self._silent:
            return
        line = f"{time.monotonic() - self._started:5.1f} s  {table:34} {text}"
        if self._status is None:
            terminal.note(line)
        else:
            self._status.update(Text(terminal.printable(line)))

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
