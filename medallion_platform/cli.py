"""The command line. Each command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import asdict
from datetime import datetime
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from medallion_platform import terminal

if TYPE_CHECKING:
    from medallion_platform.lakehouse.lake import Lake
    from medallion_platform.orchestration.runs import Outcome
    from medallion_platform.pipeline.behind import Behind
    from medallion_platform.settings import Settings

OK, FAILED, USAGE, NOT_READY, INCOMPLETE = 0, 1, 2, 3, 4
"""Exit codes: done; something failed; wrong call; the machine lacks something; some input was left."""
_BY_SIGNAL = 128
"""Plus the signal's number: the exit code of what a signal ended."""

app = typer.Typer(
    name="medallion",
    help="A self-healing medallion lakehouse: files to gold on Delta, as Dagster assets.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong call, 3 the machine lacks something (Java, a "
    "port, disk space), 4 some input was left (files still being written, or claimed twice), "
    "130 ended by Ctrl-C, 143 ended by SIGTERM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("medallion-platform"))
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and end."),
    ] = False,
) -> None: ...


SHOWN_BYTES = 2_000
"""Of a dead letter's payload, unless the whole is asked for."""

letters_app = typer.Typer(help="Rows that broke their contract: look at them, take them back.")
app.add_typer(letters_app, name="dead-letters", no_args_is_help=True)

_FULL = "No space left on device"
_SUITES = {"integration": ("broker and not s3", "s3"), "faults": ("faults",)}
"""Tests that start real servers, by their markers: a process for each, as a JVM has one set of jars."""

Home = Annotated[
    Path | None,
    typer.Option(help="Folder of everything the platform keeps.", show_default="./.medallion"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script instead.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the answer and errors.")]


Say = Callable[[str], None]
"""Tells a person something beside the answer, or nobody."""


class Interruption(BaseException):
    """Ctrl-C or SIGTERM; Typer would end a KeyboardInterrupt in its own way, without a word."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Stop(Exception):
    """A reason to stop that a person can act on."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text)
        self.code = code


def main() -> None:
    """Run a command; whatever goes wrong ends in one sentence and an exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        app()
    except Stop as stop:
        terminal.error(str(stop))
        sys.exit(stop.code)
    except Interruption as interrupted:
        _end_at_once(interrupted.number)
    except Exception as error:
        from medallion_platform.settings import WrongSetting

        if isinstance(error, WrongSetting):
            for line in str(error).splitlines():
                terminal.error(line)
            sys.exit(USAGE)
        if os.environ.get("MEDALLION_DEBUG"):
            raise
        terminal.error(_in_words(error))
        sys.exit(NOT_READY if _is_full_disk(error) else FAILED)


def _interrupt(number: int, _: object) -> None:
    raise Interruption(number)


def _end_at_once(number: int) -> None:
    """Say so and go, without waiting for threads that still work: what is not committed was never visible."""
    terminal.error("stopped; run the same command again to go on, nothing is lost")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_BY_SIGNAL + number)


@app.command()
def demo(home: Home = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """Make dirty sample data of both domains and take it to gold, with nothing lost."""
    from medallion_platform.domains.sample import write_sample

    settings = _settings(home)
    folder = settings.home / "landing"
    settings = settings.model_copy(update={"landing": folder, "settle_seconds": 0.0})
    started = time.monotonic()
    sample = write_sample(folder)
    say = terminal.nothing if quiet else terminal.note
    say(f"{sample.files} sample files in {folder}")
    left = _take_in_and_refresh(settings, started, as_json, say)
    if not as_json:
        say(
            "Try next:\n"
            "  ./medallion status                           every table, fresh or stale\n"
            "  ./medallion dead-letters list                what was rejected, and why\n"
            "  ./medallion dead-letters show bronze.events  the rows themselves\n"
            "  ./medallion dev                              the Dagster UI\n"
            "  ./medallion test                             every promise, tested"
        )
    if left:
        raise typer.Exit(INCOMPLETE)


@app.command()
def run(
    tables: Annotated[
        list[str] | None,
        typer.Argument(help="Only these and what they are made from, e.g. silver.events; all if left out"),
    ] = None,
    landing: Annotated[
        str | None,
        typer.Option(
            help="The landing zone: one folder a source; s3://bucket/prefix as well.",
            show_default="landing/ in the home",
        ),
    ] = None,
    home: Home = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take in what waits in a landing zone and refresh everything downstream, or the named tables."""
    from medallion_platform.storage import in_bucket

    settings = _settings(home)
    if landing is not None and not in_bucket(landing) and not Path(landing).is_dir():
        raise Stop(f"{landing} is no folder; --landing names the landing zone", USAGE)
    if landing is not None:
        zone = landing.rstrip("/") if in_bucket(landing) else Path(landing).resolve()
        settings = settings.model_copy(update={"landing": zone})
    say = terminal.nothing if quiet else terminal.note
    named = [_known(table) for table in tables or ()]
    if _take_in_and_refresh(settings, time.monotonic(), as_json, say, named):
        raise typer.Exit(INCOMPLETE)


@app.command()
def status(
    tables: Annotated[list[str] | None, typer.Argument(help="e.g. silver.events; all if left out")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show each table: how old its data are, what a refresh would make, rows, dead letters, last commit."""
    from datetime import UTC

    from medallion_platform.installation import catalog
    from medallion_platform.lakehouse import dead_letters
    from medallion_platform.pipeline.behind import behind, waiting
    from medallion_platform.pipeline.freshness import freshness

    lake, now = _lake(home).look(), datetime.now(UTC)
    late, waits = behind(catalog, lake), waiting(catalog, lake)
    rows = []
    for name in [_known(t) for t in tables] if tables else catalog.names:
        record = lake.last_record(name)
        at = lake.last_commit(name) if record else None
        fresh, as_of = freshness(catalog, lake, name, now)
        rows.append(
            {
                "table": name,
                "freshness": fresh.value,
                "data_as_of": as_of,
                "out_of_date": _said_waiting(waits[name]) if name in waits else _said_behind(late.get(name)),
                "rows": lake.rows(name),
                "dead_letters": dead_letters.count(lake, name),
                "last_commit": at,
                "run": record.run_id if record else None,
                "version": lake.version(name),
            }
        )
    terminal.answer("Tables", rows, as_json=as_json)


def _said_waiting(inputs: list[str]) -> str:
    return f"waits for {', '.join(inputs)}"


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
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many commits.", min=1)] = 20,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show what was done to a table, newest first: version, run, and what became of the rows."""
    lake = _lake(home)
    at = lake.committed_at(_known(table))
    rows = [
        {
            "version": version,
            "committed": at[version],
            "what": record.verb,
            "run": record.run_id,
            **record.counts.as_dict(),
            "repeated_files": record.repeated_files,
            "warned": sum(record.warnings.values()),
        }
        for version, record in lake.records(table)[:limit]
    ]
    terminal.answer(f"History of {table}", rows, as_json=as_json)


@app.command()
def show(
    table: Annotated[str, typer.Argument(help="e.g. silver.events")],
    version: Annotated[int | None, typer.Option(help="As of this version of the table.", min=0)] = None,
    at: Annotated[datetime | None, typer.Option(help="As of this instant (UTC).")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many rows.", min=1)] = 10,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show rows of a table, now or as of a version or an instant; personal data is masked."""
    from datetime import UTC

    from medallion_platform.installation import catalog
    from medallion_platform.pipeline.preview import preview

    lake = _lake(home)
    if at is not None:
        version = lake.version_at(_known(table), at.replace(tzinfo=at.tzinfo or UTC))
    newest = lake.version(_known(table))
    if at is not None and version == -1 < newest:
        raise Stop(f"{table} did not exist at {at}; `medallion history {table}` names its versions", USAGE)
    if newest < 0 or (version is not None and not 0 <= version <= newest):
        raise Stop(f"{table} has no such version; its newest is {newest}", USAGE)
    rows = preview(lake, catalog.contract_of(table), table, limit, version)
    title = f"{table} as of version {newest if version is None else version}"
    terminal.answer(title, rows.to_dicts() if rows is not None else [], as_json=as_json, records=True)


@app.command()
def rollback(
    run_id: Annotated[str, typer.Argument(help="The Dagster run to take back.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Take back what a run did to any table, and refresh what follows; both are recorded."""
    from medallion_platform.assembly import catalog, definitions_of, lakehouse_of
    from medallion_platform.orchestration import runs
    from medallion_platform.pipeline.rollback import CannotRollBack, UnknownRun

    settings = _settings(home)
    _lake(home)
    _quiet()
    try:
        with runs.instance(settings.dagster_home) as on:
            place, defs = lakehouse_of(settings), definitions_of(settings)
            taken_back, outcome = runs.attended(on, lambda: runs.roll_back(defs, catalog, place, on, run_id))
    except CannotRollBack as error:
        raise Stop(str(error), USAGE if isinstance(error, UnknownRun) else FAILED) from None
    terminal.answer(f"Run {run_id} was taken back", [asdict(t) for t in taken_back], as_json=as_json)
    if outcome.failed:
        raise Stop("\n".join(f"{step}: {why}" for step, why in outcome.failed.items()))


@app.command()
def logs(
    run_id: Annotated[str, typer.Argument(help="A Dagster run, or the beginning of its id.")],
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many of the newest lines.", min=1)] = 1000,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show what a run said, oldest line first: what it did to which table, and why it failed."""
    from medallion_platform.orchestration import runs
    from medallion_platform.orchestration.run_log import UnknownRun, run_log

    settings = _settings(home)
    _lake(home)
    _quiet()
    with runs.instance(settings.dagster_home) as on:
        try:
            lines = run_log(on, run_id)[-limit:]
        except UnknownRun as error:
            raise Stop(str(error), USAGE) from None
    if as_json:
        terminal.answer(f"Run {run_id}", [asdict(line) for line in lines], as_json=True)
    for line in lines if not as_json else ():
        print(terminal.printable(f"{line.at:%Y-%m-%d %H:%M:%S}Z  {line.step:32}  {line.message}"))


@app.command()
def dev(
    home: Home = None,
    host: Annotated[str, typer.Option(help="Address that the UI listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the UI.", min=1, max=65535)] = 3000,
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
    terminal.note(f"Files that land in {settings.landing} are taken in by themselves.")
    terminal.note(f"Dagster at http://{host}:{port} in a moment (Ctrl-C ends it)")
    command = ["dagster", "dev", "-w", str(runs.workspace(settings.dagster_home)), "-h", host]
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

    from medallion_platform.assembly import catalog, lakehouse_of
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
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(terminal.LineFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(handlers=[lines])
    logging.getLogger("medallion").setLevel(logging.INFO)
    vitals = Vitals(source)
    try:
        server = serve(vitals, host, port)
    except OSError as error:
        raise Stop(
            f"port {port} on {host}: {error.strerror}; give another one with --port", NOT_READY
        ) from None
    terminal.note(
        f"Taking in {topics[source].where}; http://{host}:{server.server_port}/metrics (Ctrl-C ends it)"
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

    lake = _lake(home)
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
            {"table": name, "violates": v, "dead_letters": n, "last": at} for v, n, at in counted.iter_rows()
        ]
    terminal.answer("Dead letters", found, as_json=as_json)


@letters_app.command("show")
def show_letters(
    table: Annotated[str, typer.Argument(help="e.g. bronze.events")],
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many to show.", min=1)] = 20,
    whole: Annotated[bool, typer.Option("--whole", help="Show payloads however long they are.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show dead letters: where each came from, what it violates, its text (up to 2,000 bytes of it)."""
    from medallion_platform.lakehouse import dead_letters

    lake = _lake(home)
    letters = dead_letters.read(lake, _known(table)).head(limit)
    terminal.answer(
        f"Dead letters of {table}",
        [
            {
                "offset": r["offset"],
                "file": r["file"] or r["source"],
                "row": r["row"],
                "code": r["code"],
                "violates": "; ".join(r["violations"] or ()),
                "detail": r["detail"] or "",
                "payload": _payload_text(r["payload"] or b"", whole=whole),
            }
            for r in letters.iter_rows(named=True)
        ],
        as_json=as_json,
        records=True,
    )


def _payload_text(payload: bytes, *, whole: bool) -> str:
    """A payload for people; cut, and said so, where it is long."""
    if whole or len(payload) <= SHOWN_BYTES:
        return payload.decode("utf-8", "backslashreplace")
    shown = payload[:SHOWN_BYTES].decode("utf-8", "backslashreplace")
    return f"{shown} ... ({len(payload):,} bytes; --whole shows all)"


@letters_app.command("replay")
def replay_letters(
    table: Annotated[str, typer.Argument(help="A bronze table, e.g. bronze.events")],
    offset: Annotated[list[int] | None, typer.Option(help="Only these offsets.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Judge dead letters again and take those that pass into their table, each once."""
    from medallion_platform.installation import catalog
    from medallion_platform.pipeline.refresh import Run
    from medallion_platform.pipeline.replay import replay, without_record

    source = catalog.source_of.get(_known(table))
    if source is None:
        raise Stop(
            f"{table} is made from other tables: mend its contract or its upstream rows and "
            "refresh it, its dead letters are validated again then",
            USAGE,
        )
    lake = _lake(home)
    counts = replay(source, lake, Run.now(f"replay-{uuid4().hex[:8]}"), offset).counts
    left = without_record(source, lake)
    told = {"table": table, **counts.as_dict(), "left": len(left)}
    del told["superseded"]
    terminal.answer("Replayed", [told], as_json=as_json)
    for letter in left:
        terminal.note(f"left, for there is no record in it to validate: {letter}")
    if counts.written and not as_json:
        terminal.note("Refresh what follows with: medallion run")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run the whole local test suite, or `integration` or `faults` (further arguments go to pytest)."""
    import pytest

    signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest has an ending of its own
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
            help="intake, topics, duplicates, avro, gate, refresh, cdc, start, freshness, "
            "automation, many, growth, batches, layout; all if left out"
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
        terminal.answer(title, rows, as_json=as_json)
    if out:
        out.write_text(run.as_markdown(found))


def _tests() -> Path:
    """The folder of the tests and benchmarks, which are not installed with the package."""
    found = Path(__file__).parent.parent / "medallion_platform_tests"
    if not found.is_dir():
        raise Stop("the tests and benchmarks are part of a checkout, not of the installed package", USAGE)
    return found


def _take_in_and_refresh(
    settings: Settings, started: float, as_json: bool, say: Say, tables: Collection[str] = ()
) -> bool:
    """Intake of all sources and refresh of all that follows, through Dagster, then the summary.

    Gives whether some input was left.
    """
    from medallion_platform.assembly import FEATURES, catalog, definitions_of, lakehouse_of
    from medallion_platform.orchestration import progress, runs

    _quiet()
    _prove(settings)
    left = _look(settings, say)
    silent = as_json or say is terminal.nothing
    with _progress(silent) as show:
        progress.listen(show)
        with runs.instance(settings.dagster_home) as on:
            defs, place = partial(definitions_of, settings), lakehouse_of(settings)
            outcome = runs.attended(
                on, lambda: runs.run_everything(defs, catalog, FEATURES, place, on, tables)
            )
    rows = _summary(settings, outcome)
    terminal.answer(f"Done in {time.monotonic() - started:.0f} s", rows, as_json=as_json)
    for table, inputs in outcome.waiting.items():
        say(f"{table} {_said_waiting(inputs)}: nothing has landed there; it is made once something has")
    if outcome.failed:
        raise Stop(
            "\n".join(f"{step}: {why}" for step, why in outcome.failed.items())
            + "\nWhat follows from these waits with them, all else is up to date. Mend this and run the same "
            "command again.",
            NOT_READY if any(_FULL in why for why in outcome.failed.values()) else FAILED,
        )
    return left


def _look(settings: Settings, say: Say) -> bool:
    """Name the files that will not be taken in; waits for those that are still settling."""
    from datetime import UTC

    from medallion_platform.installation import catalog
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
        say(f"no source claims {path}: left where it is")
    for path, why in seen.left.items():
        say(f"{path}: {why}; left where it is")
    for path, owners in seen.contested.items():
        say(f"{path} is claimed by {', '.join(owners)}: left where it is")
    unfinished = [p for p in seen.unfinished if not landing.hidden(p)]
    for path in unfinished:
        say(f"{path} is not complete yet: left for the next run")
    return bool(seen.contested or unfinished)


def _summary(settings: Settings, outcome: Outcome) -> list[dict[str, Any]]:
    """Per table what this command's runs did, by the commits' own records."""
    from medallion_platform.installation import catalog
    from medallion_platform.lakehouse.counts import Counts
    from medallion_platform.lakehouse.lake import Lake

    lake = Lake(settings.lake).look()
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


def _settings(home: Path | None) -> Settings:
    from medallion_platform.settings import Settings

    return Settings(home=home.resolve()) if home else Settings()


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


def _lake(home: Path | None) -> Lake:
    """The lake, where there is one."""
    from medallion_platform.lakehouse.lake import Lake
    from medallion_platform.storage import in_bucket

    lake = Lake(_settings(home).lake)
    if not in_bucket(str(lake.root)) and not Path(lake.root).is_dir():
        raise Stop(
            f"there is no lake at {lake.root} yet: `medallion demo` or `medallion run` makes it; --home or "
            "MEDALLION_LAKE name another one",
            USAGE,
        )
    return lake


def _known(table: str) -> str:
    from medallion_platform.installation import catalog

    if table in catalog.names:
        return table
    near = [n for n in catalog.names if n.partition(".")[2] == table]
    near = near or get_close_matches(table, catalog.names, 3)
    meant = f"did you mean {' or '.join(near)}?" if near else "`medallion status` lists all."
    raise Stop(f"there is no table {table}; {meant}", USAGE)


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
