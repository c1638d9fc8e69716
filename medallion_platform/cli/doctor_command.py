"""The command that says what an installation lacks."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from medallion_platform.cli import terminal
from medallion_platform.cli.exits import NOT_READY, USAGE, Stop
from medallion_platform.cli.shared_options import Home, Json

app = typer.Typer()

_RESULTS = {True: "ok", False: "problem", None: "not checked"}


@app.command()
def doctor(
    wait: Annotated[
        float, typer.Option(help="Look at what fails again for up to so many seconds.", min=0)
    ] = 0,
    only: Annotated[
        list[str] | None, typer.Option(metavar="CHECK", help="Make only this check; may be repeated.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Look at all that this installation needs, and say what is wrong and what to do; changes nothing."""
    from medallion_platform.doctor.checks import ALL, checks_of
    from medallion_platform.doctor.cluster import ROLE
    from medallion_platform.doctor.finding import Finding, examine_until
    from medallion_platform.installation.settings import Settings, WrongSetting

    if unknown := set(only or ()) - ALL.keys():
        raise Stop(f"no check is named {', '.join(sorted(unknown))}; there are {', '.join(ALL)}", USAGE)
    checks = checks_of(os.environ.get(ROLE, ""))
    if only:
        checks = {name: check for name, check in checks.items() if name in only}
    try:
        settings = Settings(home=home.resolve()) if home else Settings()
    except WrongSetting as error:  # nothing can be looked at without settings
        lines = str(error).splitlines()
        found = [Finding(False, line, "correct this variable", "settings") for line in lines]
    else:
        found = examine_until(settings, checks, wait)
    rows = [
        {
            "check": finding.check,
            "result": _RESULTS[finding.ok],
            "found": finding.found,
            "to_do": finding.remedy,
            "seconds": finding.seconds,
        }
        for finding in found
    ]
    terminal.print_answer("Doctor", rows, as_json=as_json, first=("check", "result", "found"))
    for finding in found:
        if finding.remedy and not as_json:
            terminal.print_note(f"{finding.check}: {finding.remedy}")
    if any(finding.ok is False for finding in found):
        raise typer.Exit(NOT_READY)
