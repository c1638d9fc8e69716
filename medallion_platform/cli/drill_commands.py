"""Commands for drills: real faults in a copy of this installation, and whether it heals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medallion_platform.cli import terminal
from medallion_platform.cli.exits import FAILED, NOT_READY, USAGE, Stop
from medallion_platform.cli.shared_options import (
    Home,
    Json,
    lake_of,
    quiet_libraries,
    settings_of,
    writable_lake,
)

if TYPE_CHECKING:
    from medallion_platform.drills.verdict import Result

app = typer.Typer(help="Drills: a real fault in a copy of this installation, and whether it heals.")


@app.command("list")
def list_drills(as_json: Json = False) -> None:
    """Show the drills: what each disturbs and does, what is to follow, and within which time."""
    from medallion_platform.drills.run import all_drills

    rows = [
        {
            "drill": drill.name,
            "target": str(drill.target),
            "steady_state": ", ".join(drill.steady_state.checks),
            "injection": drill.description,
            "hypothesis": drill.hypothesis.description,
            "target_seconds": drill.hypothesis.recovery_timeout,
            "blast_radius": drill.blast_radius.tables,
        }
        for drill in all_drills()
    ]
    terminal.print_answer("Drills", rows, as_json=as_json, first=("drill", "target_seconds", "injection"))


@app.command("trend")
def show_trend(home: Home = None, as_json: Json = False) -> None:
    """Show what drills of this installation have said, the last one first."""
    from medallion_platform.lakehouse import drill_verdicts

    verdicts = reversed(drill_verdicts.read(lake_of(home)))
    first = ("drill", "at", "verdict", "healed_after", "target_seconds")
    terminal.print_answer("Drills so far", [asdict(v) for v in verdicts], as_json=as_json, first=first)


@app.command("run")
def run_drill(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As `list` shows them, or `all`.")],
    unhealed: Annotated[
        bool, typer.Option("--unhealed", help="Try nothing again: shows what does not heal by itself.")
    ] = False,
    junit: Annotated[
        Path | None, typer.Option(help="Also write a JUnit file, for a CI server.", dir_okay=False)
    ] = None,
    home: Home = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON as each drill ends, for scripts.")
    ] = False,
) -> None:
    """Run drills in a lake of their own, with copies of your files; exit code 1 if one Failed."""
    from medallion_platform.drills.drill import NoSuchDrill, named
    from medallion_platform.drills.junit import junit_of
    from medallion_platform.drills.place import TooClose
    from medallion_platform.drills.run import all_drills, run_drills
    from medallion_platform.drills.verdict import Verdict
    from medallion_platform.drills.world import CannotDrill
    from medallion_platform.installation.catalog import PROJECT, catalog
    from medallion_platform.lakehouse import drill_verdicts
    from medallion_platform.storage import Unusable

    settings = settings_of(home)
    quiet_libraries()
    example = PROJECT.root / "example" if PROJECT.root else None
    say = terminal.ignore_note if as_json else terminal.print_note
    results: list[Result] = []
    try:
        drills = named(all_drills(), names)
        for result in run_drills(drills, catalog, settings, example, healed=not unhealed, say=say):
            results.append(result)
            say(_in_words(result))
            if as_json:
                terminal.print_line(result.as_row())
            if not unhealed:
                drill_verdicts.append(writable_lake(settings), [result.kept])
    except NoSuchDrill as error:
        raise Stop(str(error), USAGE) from None
    except (CannotDrill, TooClose, Unusable) as error:
        raise Stop(str(error), NOT_READY) from None
    if junit is not None:
        junit.write_text(junit_of(results), encoding="utf-8")
    if not as_json:
        first = ("drill", "verdict", "healed_after", "target_seconds", "rows_lost", "rows_doubled")
        terminal.print_answer("Drills", [r.as_row() for r in results], as_json=False, first=first)
    if failed := _names(results, Verdict.FAILED):
        raise Stop(f"not healed: {', '.join(failed)}", FAILED)


def _names(results: Sequence[Result], verdict: str) -> list[str]:
    return [result.drill.name for result in results if result.verdict == verdict]


def _in_words(result: Result) -> str:
    """A line for a person."""
    seen = result.observed
    healed = "" if seen.healed_after is None else f", all well after {seen.healed_after:g} s"
    reason = f": {result.reason}" if result.reason else ""
    return f"  {result.verdict}{healed}{reason}"
