"""Commands that only look: what the tables hold, what was done to them, what a run said."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from medallion_platform.cli import terminal
from medallion_platform.cli.exits import USAGE, Stop
from medallion_platform.cli.options import Home, Json, known_table, lake_of, quiet_libraries, settings_of

if TYPE_CHECKING:
    from medallion_platform.pipeline.status.behind import Behind

app = typer.Typer()


@app.command()
def status(
    tables: Annotated[list[str] | None, typer.Argument(help="e.g. silver.events; all if left out")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show each table: how old its data are, what a refresh would make, rows, dead letters, last commit."""
    from medallion_platform.installation import catalog
    from medallion_platform.lakehouse import dead_letters
    from medallion_platform.pipeline.status.behind import behind, waiting
    from medallion_platform.pipeline.status.freshness import freshness

    lake, now = lake_of(home).look(), datetime.now(UTC)
    late, waits = behind(catalog, lake), waiting(catalog, lake)
    rows = []
    for name in [known_table(t) for t in tables] if tables else catalog.names:
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
    lake = lake_of(home)
    at = lake.committed_at(known_table(table))
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
    from medallion_platform.installation import catalog
    from medallion_platform.pipeline.status.preview import preview

    lake = lake_of(home)
    if at is not None:
        version = lake.version_at(known_table(table), at.replace(tzinfo=at.tzinfo or UTC))
    newest = lake.version(known_table(table))
    if at is not None and version == -1 < newest:
        raise Stop(f"{table} did not exist at {at}; `medallion history {table}` names its versions", USAGE)
    if newest < 0 or (version is not None and not 0 <= version <= newest):
        raise Stop(f"{table} has no such version; its newest is {newest}", USAGE)
    rows = preview(lake, catalog.contract_of(table), table, limit, version)
    title = f"{table} as of version {newest if version is None else version}"
    terminal.answer(title, rows.to_dicts() if rows is not None else [], as_json=as_json, records=True)


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

    settings = settings_of(home)
    lake_of(home)
    quiet_libraries()
    with runs.instance(settings.dagster_home) as on:
        try:
            lines = run_log(on, run_id)[-limit:]
        except UnknownRun as error:
            raise Stop(str(error), USAGE) from None
    if as_json:
        terminal.answer(f"Run {run_id}", [asdict(line) for line in lines], as_json=True)
    for line in lines if not as_json else ():
        print(terminal.printable(f"{line.at:%Y-%m-%d %H:%M:%S}Z  {line.step:32}  {line.message}"))
