"""Commands that change tables: intake and refresh, rollback."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medallion_platform.cli import terminal
from medallion_platform.cli.exits import FAILED, INCOMPLETE, NOT_READY, USAGE, Stop
from medallion_platform.cli.shared_options import (
    Home,
    Json,
    Quiet,
    Say,
    export_settings,
    known_table,
    quiet_libraries,
    require_lake,
    settings_of,
    writable_lake,
)
from medallion_platform.errors import Kind
from medallion_platform.installation.project import MODULE, SAMPLE, project_above

if TYPE_CHECKING:
    from medallion_platform.installation.settings import Settings
    from medallion_platform.lakehouse.commit_record import CommitRecord
    from medallion_platform.orchestration.runs import Outcome

app = typer.Typer()

_AGGREGATES = 3
"""How many are told of by name."""


@app.command()
def demo(home: Home = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """Generate dirty sample data of two domains and bring it to gold tables; no row is lost."""
    from medallion_sample.sample import write_sample

    command = _become_the_sample()
    settings = settings_of(home)
    folder = settings.home / "landing"
    settings = settings.model_copy(update={"landing": folder, "settle_seconds": 0.0})
    writable_lake(settings)
    started = time.monotonic()
    sample = write_sample(folder)
    say = terminal.ignore_note if quiet else terminal.print_note
    say(f"{sample.files} sample files in {folder}")
    left, outcome, _ = _take_in_and_refresh(settings, started, as_json, say)
    _report_outcome(outcome, say)
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
    say = terminal.ignore_note if quiet else terminal.print_note
    named = [known_table(table) for table in tables or ()]
    left, outcome, rows = _take_in_and_refresh(settings, time.monotonic(), as_json, say, named)
    _say_rejected(settings, outcome, rows, say)
    _report_outcome(outcome, say)
    if left:
        raise typer.Exit(INCOMPLETE)


@app.command()
def rollback(
    run_id: Annotated[str, typer.Argument(help="Id of the Dagster run to undo, or its beginning.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Undo what a run did to all tables, and refresh everything downstream; both are recorded."""
    from medallion_platform.orchestration import runs
    from medallion_platform.orchestration.location import catalog, definitions_of, lakehouse_of
    from medallion_platform.pipeline.rollback import CannotRollBack
    from medallion_platform.pipeline.run import UnknownRun

    settings = require_lake(settings_of(home))
    writable_lake(settings)
    quiet_libraries()
    export_settings(settings)
    try:
        with runs.open_instance(settings.dagster_home) as on:
            place, defs = lakehouse_of(settings), definitions_of(settings)
            taken_back, outcome = runs.run_attended(
                on, lambda: runs.roll_back(defs, catalog, place, on, run_id)
            )
    except UnknownRun as error:
        raise Stop(str(error), USAGE) from None
    except CannotRollBack as error:
        raise Stop(str(error)) from None
    terminal.print_answer(f"Run {run_id} was rolled back", [asdict(t) for t in taken_back], as_json=as_json)
    if outcome.failed:
        raise Stop("\n".join(f"{name}: {failed.why}" for name, failed in outcome.failed.items()))


def _take_in_and_refresh(
    settings: Settings,
    started: float,
    as_json: bool,
    say: Say,
    tables: Collection[str] = (),
) -> tuple[bool, Outcome, list[dict[str, Any]]]:
    """Take in all sources and refresh all downstream tables through Dagster, then print the summary.

    Returns whether some input was left, what the runs did, and the rows of the summary.
    """
    from medallion_platform.lakehouse.known_facts import use_known_facts
    from medallion_platform.orchestration import progress, runs
    from medallion_platform.orchestration.location import catalog, definitions_of, lakehouse_of

    quiet_libraries()
    writable_lake(settings)
    export_settings(settings)  # a project's own definitions read the environment
    left = _report_landing_zone(settings, say)
    silent = as_json or say is terminal.ignore_note
    with _progress(silent) as show, use_known_facts(settings.known_facts):
        progress.listen_to_progress(show)
        with runs.open_instance(settings.dagster_home) as on:
            defs, place = partial(definitions_of, settings), lakehouse_of(settings)
            outcome = runs.run_attended(on, lambda: runs.run_everything(defs, catalog, place, on, tables))
    commits = _commits(settings, outcome)
    rows = _summary_rows(commits)
    terminal.print_answer(f"Done in {time.monotonic() - started:.0f} s", rows, as_json=as_json)
    if not as_json:
        _say_what_aggregates_read(commits, say)
    return left, outcome, rows


def _report_outcome(outcome: Outcome, say: Say) -> None:
    """Say which tables wait for inputs, and stop if tables failed."""
    for inputs in dict.fromkeys(map(tuple, outcome.waiting.values())):
        tables_behind = [table for table, needed in outcome.waiting.items() if tuple(needed) == inputs]
        verb = "waits" if len(tables_behind) == 1 else "wait"
        say(f"{', '.join(tables_behind)} {verb} for {', '.join(inputs)}: nothing has landed there yet")
    if outcome.failed:
        raise Stop(
            "\n".join(f"{name}: {failed.why}" for name, failed in outcome.failed.items())
            + "\nTables downstream of these wait, all others are up to date. Correct this and run the same "
            "command again.",
            NOT_READY if any(failed.kind is Kind.DISK for failed in outcome.failed.values()) else FAILED,
        )


def _report_landing_zone(settings: Settings, say: Say) -> bool:
    """Report the files that will not be taken in; waits once for files that are still being written."""
    from medallion_platform.installation.catalog import catalog
    from medallion_platform.sources.connectors import files, landing_scan
    from medallion_platform.sources.errors import Unavailable

    def look() -> landing_scan.LandingScan:
        now = datetime.now(UTC)
        try:
            return landing_scan.scan_landing_zone(
                settings.landing, catalog.file_sources, now, settings.settle_seconds
            )
        except Unavailable as error:
            raise Stop(str(error), NOT_READY) from None

    seen = look()
    if any(not files.is_unfinished_name(p) for p in seen.unfinished):
        time.sleep(settings.settle_seconds)
        seen = look()
    for path in seen.unclaimed:
        say(f"no source claims {path}: left in place")
    for path, why in seen.skipped.items():
        say(f"{path}: {why}; left in place")
    for path, owners in seen.contested.items():
        say(f"{path} is claimed by {', '.join(owners)}: left in place")
    unfinished = [p for p in seen.unfinished if not files.is_hidden_path(p)]
    for path in unfinished:
        say(f"{path} is not complete yet: left for the next run")
    return bool(seen.contested or unfinished)


def _commits(settings: Settings, outcome: Outcome) -> dict[str, list[CommitRecord]]:
    """What the runs of this command say that they did, by table."""
    from medallion_platform.installation.catalog import catalog

    lake = writable_lake(settings).snapshot()
    found: dict[str, list[CommitRecord]] = {}
    for name in catalog.names:
        since = outcome.before.get(name)
        new = [] if since is None else lake.records(name, since=since)
        found[name] = [record for _, record in new if record.run_id in outcome.run_ids]
    return found


def _summary_rows(commits: Mapping[str, Sequence[CommitRecord]]) -> list[dict[str, Any]]:
    """What became of the rows of each table."""
    from medallion_platform.lakehouse.counts import Counts

    return [
        {
            "table": name,
            **sum((r.counts for r in mine), Counts()).as_dict(),
            "seconds": round(sum(r.seconds for r in mine), 1),
        }
        for name, mine in commits.items()
    ]


def _say_what_aggregates_read(commits: Mapping[str, Sequence[CommitRecord]], say: Say) -> None:
    """Tell for how many source rows the rows of aggregates stand: they are not what `read` counts."""
    told = [
        f"{name} {sum(r.counts.read for r in mine):,} rows of {sum(sources):,}"
        for name, mine in commits.items()
        if (sources := [r.source_row_count for r in mine if r.source_row_count is not None])
    ]
    if told:
        more = f" and {len(told) - _AGGREGATES} more" if len(told) > _AGGREGATES else ""
        listed = ", ".join(told[:_AGGREGATES])
        say(f"An aggregate reads the rows that it made of its source rows: {listed}{more}")


def _say_rejected(settings: Settings, outcome: Outcome, rows: list[dict[str, Any]], say: Say) -> None:
    """Name the unreadable files, and the command that shows the other rejected rows."""
    from medallion_platform.queries.letters import unreadable_files

    rejected = [row["table"] for row in rows if row["dead_lettered"]]
    if not rejected:
        return
    lake = writable_lake(settings).snapshot()
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
            terminal.print_note(line)
        else:
            self._status.update(Text(terminal.printable_text(line)))

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()
