"""Commands for dead letters: list them, show them, validate them again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated
from uuid import uuid4

import typer

from medallion_platform.cli import terminal
from medallion_platform.cli.exits import USAGE, Stop
from medallion_platform.cli.shared_options import (
    Home,
    Json,
    known_table,
    lake_of,
    require_lake,
    settings_of,
    writable_lake,
)

SHOWN_BYTES = 2_000
"""How much of a payload is shown without `--whole`."""

app = typer.Typer(help="Rejected rows: list them, show them, validate them again.")


@app.command("list")
def list_letters(
    table: Annotated[str | None, typer.Argument(help="e.g. bronze.events; all if left out")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Count dead letters by table and violated expectation."""
    from medallion_platform.installation.catalog import catalog
    from medallion_platform.queries import letters

    lake = lake_of(home)
    found = letters.count_by_expectation(lake, [known_table(table)] if table else (), catalog)
    rows = [
        {
            "table": counted.table,
            "violates": counted.expectation,
            "code": counted.code,
            "columns": ", ".join(counted.columns),
            "dead_letters": counted.dead_letters,
            "last": counted.last,
        }
        for counted in found
    ]
    first = ("table", "dead_letters", "violates", "last")
    terminal.print_answer("Dead letters", rows, as_json=as_json, first=first)


@app.command("show")
def show_letters(
    table: Annotated[str, typer.Argument(help="e.g. bronze.events")],
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many to show.", min=1)] = 20,
    whole: Annotated[bool, typer.Option("--whole", help="Show long payloads in full.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show the newest dead letters: their origin, what they violate, their text (up to 2,000 bytes)."""
    from medallion_platform.installation.catalog import catalog
    from medallion_platform.queries import letters

    found = letters.newest_dead_letters(lake_of(home), known_table(table), limit, catalog)
    rows = [
        {
            "offset": letter.offset,
            "source": letter.log,
            "file": letter.file,
            "row": letter.row,
            "code": letter.code,
            "violates": "; ".join(letter.violations),
            "detail": dict(letter.detail) or None,
            "broken": [asdict(violation) for violation in letter.broken],
            "payload": _printable_payload(letter.payload or b"", whole=whole),
        }
        for letter in found.letters
    ]
    terminal.print_answer(f"Dead letters of {table}, newest first", rows, as_json=as_json, records=True)
    if found.left_out:
        terminal.print_note(f"{found.left_out:,} older ones are not shown: use `--limit` to see more.")


def _printable_payload(payload: bytes, *, whole: bool) -> str:
    """A payload as printable text; a long one is cut, with a note."""
    if whole or len(payload) <= SHOWN_BYTES:
        return payload.decode("utf-8", "backslashreplace")
    shown = payload[:SHOWN_BYTES].decode("utf-8", "backslashreplace")
    return f"{shown} ... ({len(payload):,} bytes; --whole shows all)"


@app.command("replay")
def replay_letters(
    table: Annotated[str, typer.Argument(help="A bronze table, e.g. bronze.events")],
    offset: Annotated[list[int] | None, typer.Option(help="Only these, as `show` tells them.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Validate dead letters again; those that pass now go into their table, once."""
    from medallion_platform.installation.catalog import catalog
    from medallion_platform.pipeline.intake.replay import letters_without_record, replay, unknown_offsets
    from medallion_platform.pipeline.run import Run

    source = catalog.source_of.get(known_table(table))
    if source is None:
        raise Stop(
            f"{table} is made from other tables: correct its contract or its upstream rows and refresh it; "
            "that validates its dead letters again",
            USAGE,
        )
    lake = writable_lake(require_lake(settings_of(home)))
    if unknown := unknown_offsets(source, lake, offset or ()):
        named = ", ".join(map(str, unknown))
        shows = f"`medallion dead-letters show {table}` tells the offsets"
        raise Stop(f"{table} has no dead letter of offset {named}; {shows}", USAGE)
    counts = replay(source, lake, Run.now(f"replay-{uuid4().hex[:8]}"), offset or None).counts
    left = letters_without_record(source, lake, offset or None)
    told = {"table": table, **counts.as_dict(), "left": len(left)}
    del told["superseded"]
    terminal.print_answer("Replayed", [told], as_json=as_json)
    for letter in left:
        terminal.print_note(f"left, because it contains no record to validate: {letter}")
    if counts.written and not as_json:
        terminal.print_note("To refresh the downstream tables: medallion run")
