"""The command line. Each command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

if TYPE_CHECKING:
    from medallion_platform.orchestration.runs import Outcome
    from medallion_platform.pipeline.behind import Behind
    from medallion_platform.settings import Settings

OK, FAILED, USAGE, NOT_READY, INCOMPLETE = 0, 1, 2, 3, 4
"""Exit codes: done; something failed; wrong call; the machine lacks something; some input was left."""

app = typer.Typer(
    name="medallion",
    help="A self-healing medallion lakehouse: files to gold on Delta, as Dagster assets.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong call, 3 the machine lacks something (Java, a "
    "port, disk space), 4 some input was left (files still being written, or claimed twice).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
letters_app = typer.Typer(help="Rows that broke their contract: look at them, take them back.")
app.add_typer(letters_app, name="dead-letters", no_args_is_help=True)

_FULL = "No space left on device"
_SUITES = {"integration": ("broker and not s3", "s3"), "faults": ("faults",)}
"""Tests that start real servers, by their markers: a process for each, as a JVM has one set of jars."""

_NUMBERS_TO_COPY = {"offset", "row", "version"}
_UUID = 36

Home = Annotated[
    Path | None,
    typer.Option(help="Folder of everything the platform keeps.", show_default="./.medallion"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script instead.")]


class Stop(Exception):
    """A reason to stop that a person can act on."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text)
        self.code = code


def main() -> None:
    """Run a command; whatever goes wrong ends in one sentence and an exit code."""
    try:
        app()
    except Stop as stop:
        _say_error(str(stop))
        sys.exit(stop.code)
    except KeyboardInterrupt:
        _say_error("stopped; run the same command again to go on, nothing is lost")
        sys.exit(FAILED)
    except Exception as error:
        if os.environ.get("MEDALLION_DEBUG"):
            raise
        _say_error(_in_words(error))
        sys.exit(NOT_READY if _is_full_disk(error) else FAILED)


@app.command()
def demo(home: Home = None, as_json: Json = False) -> None:
    """Make dirty sample data of both domains and take it to gold, with nothing lost."""
    from medallion_platform.domains.sample import write_sample

    settings = _settings(home)
    folder = settings.home / "landing"
    settings = settings.model_copy(update={"landing": folder, "settle_seconds": 0.0})
    started = time.monotonic()
    sample = write_sample(folder)
    _note(as_json, f"{sample.files} sample files in {folder}")
    _take_in_and_refresh(settings, started, as_json, next_steps=True)


@app.command()
def run(
    landing: Annotated[
        str | None,
        typer.Option(
            help="The landing zone: one folder a source; s3://bucket/prefix as well.",
            show_default="landing/ in the home",
        ),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Take in what waits in a landing zone and refresh everything downstream."""
    from medallion_platform.storage import in_bucket

    settings = _settings(home)
    if landing is not None and not in_bucket(landing) and not Path(landing).is_dir():
        raise Stop(f"{landing} is no folder; --landing names the landing zone", USAGE)
    if landing is not None:
        zone = landing.rstrip("/") if in_bucket(landing) else Path(landing).resolve()
        settings = settings.model_copy(update={"landing": zone})
    _take_in_and_refresh(settings, time.monotonic(), as_json, next_steps=False)


@app.command()
def status(home: Home = None, as_json: Json = False) -> None:
    """Show each table: last commit and its age, what a refresh would make, rows, dead letters."""
    from datetime import UTC, timedelta

    from medallion_platform.definitions import catalog
    from medallion_platform.lakehouse import dead_letters
    from medallion_platform.lakehouse.lake import Lake
    from medallion_platform.pipeline.behind import behind

    settings = _settings(home)
    lake = Lake(settings.lake)
    late = behind(catalog, lake)
    rows = []
    for name in catalog.names:
        record = lake.last_record(name)
        table = catalog.by_name.get(name)
        within = table.fresh_within if table else timedelta(days=1)
        at = lake.committed_at(name)[lake.version(name)] if record else None
        age = datetime.now(UTC) - at if at else None
        fresh = "never made" if age is None else ("fresh" if age <= within else "stale")
        rows.append(
            {
                "table": name,
                "last commit": at,
                "run": record.run_id if record else None,
                "freshness": fresh,
                "out of date": _said_behind(late.get(name)),
                "rows": lake.rows(name),
                "dead letters": dead_letters.count(lake, name),
                "version": lake.version(name),
            }
        )
    _print_table("Tables", rows, as_json)


def _said_behind(found: Behind | None) -> str:
    """How much a refresh would make anew or add to."""
    if found is None:
        return "no"
    if found.unsure:
        return "where a lookup changed"
    if found.partitions is None:
        return "yes"
    return f"{len(found.partitions)} partition{'s' if len(found.partitions) > 1 else ''}"


@app.command()
def history(
    table: Annotated[str, typer.Argument(help="e.g. silver.events")],
    limit: Annotated[int, typer.Option(help="How many commits.", min=1)] = 20,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show what was done to a table, newest first: version, run, and what became of the rows."""
    from medallion_platform.lakehouse.lake import Lake

    lake = Lake(_settings(home).lake)
    at = lake.committed_at(_known(table))
    rows = [
        {
            "version": version,
            "committed": at[version],
            "what": record.verb,
            "run": record.run_id,
            **record.counts.as_dict(),
            "warned": sum(record.warnings.values()),
        }
        for version, record in lake.records(table)[:limit]
    ]
    _print_table(f"History of {table}", rows, as_json)


@app.command()
def show(
    table: Annotated[str, typer.Argument(help="e.g. silver.events")],
    version: Annotated[int | None, typer.Option(help="As of this version of the table.", min=0)] = None,
    at: Annotated[datetime | None, typer.Option(help="As of this instant (UTC).")] = None,
    limit: Annotated[int, typer.Option(help="How many rows.", min=1)] = 10,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show rows of a table, now or as of a version or an instant; personal data is masked."""
    from datetime import UTC

    from medallion_platform.definitions import catalog
    from medallion_platform.lakehouse.lake import Lake
    from medallion_platform.pipeline.preview import preview

    lake = Lake(_settings(home).lake)
    if at is not None:
        version = lake.version_at(_known(table), at.replace(tzinfo=at.tzinfo or UTC))
    newest = lake.version(_known(table))
    if at is not None and version == -1 < newest:
        raise Stop(f"{table} did not exist at {at}; `medallion history {table}` names its versions", USAGE)
    if newest < 0 or (version is not None and not 0 <= version <= newest):
        raise Stop(f"{table} has no such version; its newest is {newest}", USAGE)
    rows = preview(lake, catalog.contract_of(table), table, limit, version)
    title = f"{table} as of version {newest if version is None else version}"
    _print_table(title, rows.to_dicts() if rows is not None else [], as_json)


@app.command()
def rollback(
    run_id: Annotated[str, typer.Argument(help="The Dagster run to take back.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Take back what a run did to any table, and refresh what follows; both are recorded."""
    from medallion_platform.definitions import catalog, definitions_of, lakehouse_of
    from medallion_platform.orchestration import runs
    from medallion_platform.pipeline.rollback import CannotRollBack

    settings = _settings(home)
    _quiet()
    try:
        with runs.instance(settings.dagster_home) as on:
            place = lakehouse_of(settings)
            taken_back, outcome = runs.roll_back(definitions_of(settings), catalog, place, on, run_id)
    except CannotRollBack as error:
        raise Stop(str(error)) from None
    _print_table(f"Run {run_id} was taken back", [asdict(t) for t in taken_back], as_json)
    if outcome.failed:
        raise Stop("\n".join(f"{step}: {why}" for step, why in outcome.failed.items()))


@app.command()
def dev(
    home: Home = None,
    host: Annotated[str, typer.Option(help="Address that the UI listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the UI.")] = 3000,
) -> None:
    """Start the Dagster UI and daemon on this machine."""
    import socket

    from medallion_platform.orchestration import runs

    settings = _settings(home)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            raise Stop(f"port {port} on {host} is in use: give another one with --port", NOT_READY) from None
    _prove(settings)
    with runs.instance(settings.dagster_home):
        pass
    _export(settings)
    # `dg dev` is for projects of another layout; that this one still works is all one has to know.
    quiet = "ignore:Function `dev_command` is superseded:FutureWarning"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), quiet]))
    _note(False, f"Files that land in {settings.landing} are taken in by themselves.")
    _note(False, f"Dagster at http://{host}:{port} in a moment (Ctrl-C ends it)")
    command = ["dagster", "dev", "-m", "medallion_platform.definitions", "-h", host]
    os.execv(  # noqa: S606
        str(Path(sys.executable).with_name("dagster")), [*command, "-p", str(port)]
    )


@app.command()
def stream(
    source: Annotated[str, typer.Argument(help="A source of topics.")],
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Keep the silver tables behind it up to date as well.")
    ] = False,
    home: Home = None,
    host: Annotated[str, typer.Option(help="Address of /metrics, /health and /ready.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of these; 0 takes any free one.", min=0, max=65535)] = 9108,
) -> None:
    """Take in a topic's messages as they come, until Ctrl-C or SIGTERM; several workers share it."""
    import logging

    from medallion_platform.definitions import catalog, lakehouse_of
    from medallion_platform.lakehouse.damage import DamagedFile
    from medallion_platform.observability.worker import Vitals, serve
    from medallion_platform.orchestration import runs
    from medallion_platform.orchestration.stream import follow
    from medallion_platform.pipeline.intake import IntakeFailed
    from medallion_platform.sources.kafka import KafkaSource

    topics = {s.name: s for s in catalog.sources if isinstance(s, KafkaSource)}
    if source not in topics:
        there = f"there are {', '.join(topics)}" if topics else "this installation has none"
        raise Stop(f"no source of topics is named {source}; {there}", USAGE)
    settings = _settings(home)
    _prove(settings)
    _quiet()
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("medallion").setLevel(logging.INFO)
    vitals = Vitals(source)
    try:
        server = serve(vitals, host, port)
    except OSError as error:
        raise Stop(
            f"port {port} on {host}: {error.strerror}; give another one with --port", NOT_READY
        ) from None
    _note(
        True, f"Taking in {topics[source].where}; http://{host}:{server.server_port}/metrics (Ctrl-C ends it)"
    )
    with runs.instance(settings.dagster_home) as on:
        try:
            follow(topics[source], catalog, lakehouse_of(settings), on, vitals, refreshing=refresh)
        except (IntakeFailed, DamagedFile) as error:
            raise Stop(str(error)) from None


@letters_app.command("list")
def list_letters(
    table: Annotated[str | None, typer.Argument(help="e.g. bronze.events; all if left out")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Count dead letters by table and violated expectation."""
    import polars as pl

    from medallion_platform.lakehouse import dead_letters
    from medallion_platform.lakehouse.lake import Lake

    lake = Lake(_settings(home).lake)
    found: list[dict[str, Any]] = []
    for name in [_known(table)] if table else lake.tables():
        letters = dead_letters.read(lake, name)
        counted = (
            letters.explode("violations")
            .group_by("violations")
            .agg(pl.len().alias("n"), pl.col("at").max())
            .sort("n", descending=True)
        )
        found += [
            {"table": name, "violates": v, "dead letters": n, "last": at} for v, n, at in counted.iter_rows()
        ]
    _print_table("Dead letters", found, as_json)


@letters_app.command("show")
def show_letters(
    table: Annotated[str, typer.Argument(help="e.g. bronze.events")],
    limit: Annotated[int, typer.Option(help="How many to show.", min=1)] = 20,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show dead letters whole: where each came from, what it violates, its text."""
    from medallion_platform.lakehouse import dead_letters
    from medallion_platform.lakehouse.lake import Lake

    lake = Lake(_settings(home).lake)
    letters = dead_letters.read(lake, _known(table)).head(limit)
    _print_table(
        f"Dead letters of {table}",
        [
            {
                "offset": r["offset"],
                "file": r["file"] or r["source"],
                "row": r["row"],
                "violates": "; ".join(r["violations"] or ()),
                "payload": (r["payload"] or b"").decode("utf-8", "backslashreplace"),
            }
            for r in letters.iter_rows(named=True)
        ],
        as_json,
    )


@letters_app.command("replay")
def replay_letters(
    table: Annotated[str, typer.Argument(help="A bronze table, e.g. bronze.events")],
    offset: Annotated[list[int] | None, typer.Option(help="Only these offsets.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Judge dead letters again and take those that pass into their table, each once."""
    from medallion_platform.definitions import catalog
    from medallion_platform.lakehouse.lake import Lake
    from medallion_platform.pipeline.refresh import Run
    from medallion_platform.pipeline.replay import replay

    source = catalog.source_of.get(_known(table))
    if source is None:
        raise Stop(
            f"{table} is made from other tables: mend its contract or its upstream rows and "
            "refresh it, its dead letters are judged again then",
            USAGE,
        )
    done = replay(source, Lake(_settings(home).lake), Run.now(f"replay-{uuid4().hex[:8]}"), offset)
    counts = done.counts
    _print_table(
        "Replayed",
        [
            {
                "table": table,
                "judged again": counts.read,
                "back in the table": counts.written,
                "duplicate": counts.duplicate,
                "still dead letters": done.still_dead,
            }
        ],
        as_json,
    )
    if counts.written and not as_json:
        typer.echo("Refresh what follows with: medallion run")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run the whole local test suite, or `integration` or `faults` (further arguments go to pytest)."""
    import pytest

    tests, args = str(_tests()), context.args
    if args and args[0] in _SUITES:
        command = [sys.executable, "-m", "pytest", tests, *args[1:]]
        codes = [subprocess.call([*command, "-m", marked]) for marked in _SUITES[args[0]]]  # noqa: S603
        raise typer.Exit(next(filter(None, codes), 0))
    named = any(Path(a.partition("::")[0]).exists() for a in args)
    raise typer.Exit(int(pytest.main([*([] if named else [tests]), *args])))


@app.command()
def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            help="intake, topics, duplicates, avro, gate, refresh, cdc, start, freshness, growth, "
            "batches, layout; all if left out"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the figures as markdown to this file.")] = None,
    rounds: Annotated[int, typer.Option(help="Paired runs of each figure.", min=1)] = 5,
    short: Annotated[bool, typer.Option("--short", help="A tenth of the rows: does it work at all?")] = False,
    as_json: Json = False,
) -> None:
    """Measure the cost of the promises, as ratios to the bare alternative in the same run."""
    _tests()
    from medallion_platform_tests.benchmarks import run

    if unknown := [p for p in parts or () if p not in run.PARTS]:
        raise Stop(f"no figures named {', '.join(unknown)}; there are {', '.join(run.PARTS)}", USAGE)
    found = run.measure(parts or run.PARTS, rounds, short=short)
    for title, rows in found.items():
        _print_table(title, rows, as_json)
    if out:
        out.write_text(run.as_markdown(found))


def _tests() -> Path:
    """The folder of the tests and benchmarks, which are not installed with the package."""
    found = Path(__file__).parent.parent / "medallion_platform_tests"
    if not found.is_dir():
        raise Stop("the tests and benchmarks are part of a checkout, not of the installed package", USAGE)
    return found


def _take_in_and_refresh(settings: Settings, started: float, as_json: bool, *, next_steps: bool) -> None:
    """Intake of all sources and refresh of all that follows, through Dagster, then the summary."""
    from medallion_platform.definitions import catalog, definitions_of, lakehouse_of
    from medallion_platform.orchestration import progress, runs

    _quiet()
    _prove(settings)
    left = _look(settings, as_json)
    with _progress(as_json) as show, runs.instance(settings.dagster_home) as on:
        progress.listen(show)
        outcome = runs.run_everything(definitions_of(settings), catalog, lakehouse_of(settings), on)
    rows = _summary(settings, outcome)
    _print_table(f"Done in {time.monotonic() - started:.0f} s", rows, as_json)
    if outcome.failed:
        raise Stop(
            "\n".join(f"{step}: {why}" for step, why in outcome.failed.items())
            + "\nWhat follows from these waits with them, all else is up to date. Mend this and run the same "
            "command again.",
            NOT_READY if any(_FULL in why for why in outcome.failed.values()) else FAILED,
        )
    if next_steps and not as_json:
        _note(
            as_json,
            "Try next:\n"
            "  ./medallion status                           every table, fresh or stale\n"
            "  ./medallion dead-letters list                what was rejected, and why\n"
            "  ./medallion dead-letters show bronze.events  the rows themselves\n"
            "  ./medallion dev                              the Dagster UI\n"
            "  ./medallion test                             every promise, tested",
        )
    if left:
        raise typer.Exit(INCOMPLETE)


def _look(settings: Settings, as_json: bool) -> bool:
    """Name the files that will not be taken in; waits for those that are still settling."""
    from datetime import UTC

    from medallion_platform.definitions import catalog
    from medallion_platform.sources import landing
    from medallion_platform.sources.arrivals import Unavailable

    def look() -> landing.Look:
        now = datetime.now(UTC)
        try:
            return landing.look(settings.landing, catalog.file_sources, now, settings.settle_seconds)
        except Unavailable as error:
            raise Stop(str(error), NOT_READY) from None

    seen = look()
    if any(not landing.unfinished_name(p) for p in seen.unfinished):
        time.sleep(settings.settle_seconds)
        seen = look()
    for path in seen.unclaimed:
        _note(as_json, f"no source claims {path}: left where it is")
    for path, owners in seen.contested.items():
        _note(as_json, f"{path} is claimed by {', '.join(owners)}: left where it is")
    unfinished = [p for p in seen.unfinished if not landing.hidden(p)]
    for path in unfinished:
        _note(as_json, f"{path} is not complete yet: left for the next run")
    return bool(seen.contested or unfinished)


def _summary(settings: Settings, outcome: Outcome) -> list[dict[str, Any]]:
    """Per table what this command's runs did, by the commits' own records."""
    from medallion_platform.definitions import catalog
    from medallion_platform.lakehouse.counts import Counts
    from medallion_platform.lakehouse.lake import Lake

    lake = Lake(settings.lake)
    rows = []
    for name in catalog.names:
        mine = [r for _, r in lake.records(name) if r.run_id in outcome.run_ids]
        counts = sum((r.counts for r in mine), Counts())
        rows.append(
            {
                "table": name,
                "read": counts.read,
                "written": counts.written,
                "dead-lettered": counts.dead_lettered,
                "duplicate": counts.duplicate,
                "superseded": counts.superseded,
                "seconds": round(sum(r.seconds for r in mine), 1),
            }
        )
    return rows


def _settings(home: Path | None) -> Settings:
    from pydantic import ValidationError

    from medallion_platform.settings import Settings

    try:
        return Settings(home=home.resolve()) if home else Settings()
    except ValidationError as error:
        wrong = (f"MEDALLION_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise Stop("; ".join(wrong), USAGE) from None


def _prove(settings: Settings) -> None:
    """Refuse to start on storage that loses commits, or that does not answer."""
    from medallion_platform.storage import Unusable, prove

    try:
        prove(str(settings.lake))
    except Unusable as error:
        raise Stop(str(error), NOT_READY) from None


def _export(settings: Settings) -> None:
    """Give the settings to child processes, which build their own from the environment."""
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)
    os.environ["MEDALLION_HOME"] = str(settings.home)
    os.environ["MEDALLION_LAKE"] = str(settings.lake)
    os.environ["MEDALLION_LANDING"] = str(settings.landing)


def _known(table: str) -> str:
    from medallion_platform.definitions import catalog

    if table not in catalog.names:
        near = get_close_matches(table, catalog.names, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise Stop(f"no table {table}{meant} There are {', '.join(catalog.names)}", USAGE)
    return table


def _quiet() -> None:
    """Keep Dagster's event log out of the terminal; it stands in the UI."""
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    for name in ("dagster", "py4j", "pyspark"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class _progress:
    """One line that says what is being worked on; plain lines where there is no terminal."""

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
        if self._silent:
            return
        line = f"{time.monotonic() - self._started:5.1f} s  {table:34} {text}"
        if self._status is None:
            self._console.print(line, highlight=False, soft_wrap=True)
        else:
            self._status.update(line)

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()


def _print_table(title: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, default=str))
        return
    from rich.console import Console
    from rich.table import Table

    if not rows:
        typer.echo(f"{title}: none")
        return
    shown = Table(title=title, title_justify="left")
    for column, value in rows[0].items():
        number = isinstance(value, int | float)
        shown.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(_cell(c, v) for c, v in row.items()))
    console = Console()
    console.print(shown) if console.is_terminal else Console(width=140).print(shown)


def _cell(column: str, value: Any) -> str:
    from rich.markup import escape

    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if column == "run" and len(value) == _UUID:
        return str(value)[:8]  # as much as `rollback` needs
    if isinstance(value, int | float) and column not in _NUMBERS_TO_COPY:
        return f"{value:,}"
    return escape(str(value))


def _note(as_json: bool, text: str) -> None:
    """Say something to a person; beside JSON it goes to stderr."""
    typer.echo(text, err=as_json)


def _say_error(text: str) -> None:
    typer.echo(f"medallion: {text}", err=True)


def _is_full_disk(error: BaseException | None) -> bool:
    while error is not None:
        if _FULL in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _in_words(error: Exception) -> str:
    if _is_full_disk(error):
        return "the disk is full: free some space and run the same command again, nothing is lost"
    from medallion_platform.storage import of_request, reason

    if of_request(error):
        return f"a request to the bucket failed: {reason(error)}; run the same command again, nothing is lost"
    return f"{type(error).__name__}: {error} (MEDALLION_DEBUG=1 shows where)"
