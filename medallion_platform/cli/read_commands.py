"""Commands that only read: the state of tables, their rows and commits, the log of a run."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from medallion_platform.cli import terminal
from medallion_platform.cli.exits import USAGE, Stop
from medallion_platform.cli.shared_options import (
    Home,
    Json,
    known_table,
    lake_of,
    quiet_libraries,
    settings_of,
)
from medallion_platform.lakehouse.counts import counted

if TYPE_CHECKING:
    from medallion_platform.queries.tables import TableStatus

app = typer.Typer()


@app.command()
def status(
    tables: Annotated[list[str] | None, typer.Argument(help="e.g. silver.events; all if left out")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show each table: age of its data, what is out of date, rows, dead letters, last commit."""
    from medallion_platform.installation.catalog import catalog
    from medallion_platform.lakehouse.known_facts import use_known_facts
    from medallion_platform.queries import tables as queries

    named = [known_table(table) for table in tables or ()]
    with use_known_facts(settings_of(home).known_facts):
        found = queries.table_status(catalog, lake_of(home), datetime.now(UTC), named)
    rows = [
        {
            "table": table.table,
            "freshness": table.freshness.value,
            "data_as_of": table.data_as_of,
            "out_of_date": _out_of_date_text(table),
            "rows": table.rows,
            "dead_letters": table.dead_letters,
            "repeated_files": table.repeated_files,
            "last_commit": table.last_commit,
            "run": table.run_id,
            "version": table.version,
        }
        for table in found
    ]
    terminal.print_answer(
        "Tables", rows, as_json=as_json, first=("table", "freshness", "dead_letters", "out_of_date")
    )


def _out_of_date_text(found: TableStatus) -> str:
    """How much a refresh would do, or which input the table waits for."""
    behind = found.behind
    if found.waits_for:
        return f"waits for {', '.join(found.waits_for)}"
    if behind is None:
        return "no"
    if behind.unsure:
        return "where a lookup changed"
    if behind.partitions is None:
        return "yes"
    return counted(len(behind.partitions), "partitions")


@app.command()
def plan(
    tables: Annotated[list[str] | None, typer.Argument(help="e.g. silver.events; all if left out")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show what the next run would do to silver and gold tables, and why; starts no Spark, writes nothing."""
    from medallion_platform.installation.catalog import catalog
    from medallion_platform.lakehouse.known_facts import use_known_facts
    from medallion_platform.queries.plans import plans_of_tables

    named = [known_table(table) for table in tables or ()]
    if bronze := [name for name in named if name not in catalog.by_name]:
        raise Stop(f"{bronze[0]} is a bronze table: `plan` is for silver and gold tables only", USAGE)
    with use_known_facts(settings_of(home).known_facts):
        planned = plans_of_tables(catalog, lake_of(home), named)
    rows = [
        {
            "table": found.table,
            "action": found.action.value,
            "why": [asdict(c) for c in found.causes] if as_json else ", ".join(map(str, found.causes)),
            "partitions": None if found.partitions is None else len(found.partitions),
            "read_rows": found.reads and found.reads.rows,
            "read_bytes": found.reads and found.reads.bytes,
            "rewritten_rows": found.rewrites and found.rewrites.rows,
            "rewritten_bytes": found.rewrites and found.rewrites.bytes,
        }
        for found in planned
    ]
    terminal.print_answer("Plan", rows, as_json=as_json)


@app.command()
def history(
    table: Annotated[str, typer.Argument(help="e.g. silver.events")],
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many commits to show.", min=1)] = 20,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show the commits of a table, newest first: version, run, and what happened to the rows."""
    from medallion_platform.queries import tables as queries

    rows = [
        {
            "version": commit.version,
            "committed": commit.at,
            "what": commit.record.verb,
            "run": commit.record.run_id,
            **commit.record.counts.as_dict(),
            "repeated_files": commit.record.repeated_files,
            "warned": sum(commit.record.warnings.values()),
            **({"notes": commit.record.notes} if as_json else {}),
        }
        for commit in queries.table_history(lake_of(home), known_table(table), limit)
    ]
    first = ("version", "committed", "read", "written", "dead_lettered", "what", "run")
    terminal.print_answer(f"History of {table}", rows, as_json=as_json, first=first)


@app.command()
def show(
    table: Annotated[str, typer.Argument(help="e.g. silver.events")],
    version: Annotated[int | None, typer.Option(help="As of this version of the table.", min=0)] = None,
    at: Annotated[datetime | None, typer.Option(help="As of this time (UTC).")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many rows.", min=1)] = 10,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show rows of a table, now or as of a version or a time; personal data is masked."""
    from medallion_platform.installation.catalog import catalog
    from medallion_platform.queries import tables as queries
    from medallion_platform.queries.preview import preview_rows

    lake = lake_of(home)
    instant = at and at.replace(tzinfo=at.tzinfo or UTC)
    try:
        meant = queries.resolve_version(lake, known_table(table), version, instant)
    except queries.NoSuchVersion as error:
        if at is not None and error.newest >= 0:
            there = f"`medallion history {table}` lists its versions"
            raise Stop(f"{table} did not exist at {at}; {there}", USAGE) from None
        raise Stop(str(error), USAGE) from None
    rows = preview_rows(lake, catalog.contract_of(table), table, limit, meant)
    title = f"{table} as of version {meant}"
    terminal.print_answer(title, rows.to_dicts() if rows is not None else [], as_json=as_json, records=True)


@app.command()
def logs(
    run_id: Annotated[str, typer.Argument(help="Id of a Dagster run, or its beginning.")],
    limit: Annotated[
        int, typer.Option("--limit", "-n", help="How many of the newest lines to show.", min=1)
    ] = 1000,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show the log of a run, oldest line first: what it did to which table, and why it failed."""
    from medallion_platform.orchestration import runs
    from medallion_platform.orchestration.read_run_log import run_log
    from medallion_platform.pipeline.run import UnknownRun

    settings = settings_of(home)
    lake_of(home)
    quiet_libraries()
    with runs.open_instance(settings.dagster_home) as on:
        try:
            lines = run_log(on, run_id)[-limit:]
        except UnknownRun as error:
            raise Stop(str(error), USAGE) from None
    if as_json:
        terminal.print_answer(f"Run {run_id}", [asdict(line) for line in lines], as_json=True)
    for line in lines if not as_json else ():
        print(terminal.printable_text(f"{line.at:%Y-%m-%d %H:%M:%S}Z  {line.step:32}  {line.message}"))
