"""The command line: a module for each group of commands. Commands import what they need when they run, so
that `--help` is fast."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from typing import Annotated

import typer

from medallion_platform.cli import (
    backup_commands,
    checkout,
    dead_letter_commands,
    doctor_command,
    drill_commands,
    incident_commands,
    projects,
    read_commands,
    servers,
    terminal,
    write_commands,
)
from medallion_platform.cli.exits import (
    FAILED,
    NOT_READY,
    USAGE,
    Interruption,
    Stop,
    end_immediately,
    error_in_words,
    handle_interrupt,
)
from medallion_platform.cli.logs import (
    FORMAT_VARIABLE,
    LEVEL_VARIABLE,
    LogFormat,
    LogLevel,
    refuse_wrong_variables,
    set_up_logging,
)
from medallion_platform.errors import Kind, classify
from medallion_platform.extras import MissingExtra
from medallion_platform.installation.project import MODULE, ProjectError

app = typer.Typer(
    name="medallion",
    help="A self-healing medallion lakehouse: from files to gold tables on Delta Lake, as Dagster assets.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the machine lacks something (a "
    "port, disk space), 4 some input was left (still being written, or claimed by two sources), "
    "130 ended by Ctrl-C, 143 ended by SIGTERM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (
    projects,
    write_commands,
    read_commands,
    backup_commands,
    doctor_command,
    servers,
    checkout,
):
    app.add_typer(group.app)
app.add_typer(dead_letter_commands.app, name="dead-letters", no_args_is_help=True)
app.add_typer(incident_commands.app, name="incidents", no_args_is_help=True)
app.add_typer(drill_commands.app, name="drill", no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("medallion-platform"))
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit."),
    ] = False,
    module: Annotated[
        str | None,
        typer.Option(
            envvar=MODULE,
            help="Module with the catalog, e.g. weather.catalog.",
            show_default="[tool.medallion] in pyproject.toml, of this folder or one above",
        ),
    ] = None,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(envvar=FORMAT_VARIABLE, help="Format of log lines on stderr."),
    ] = None,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(envvar=LEVEL_VARIABLE, help="Lowest level to log; without it, warnings."),
    ] = None,
) -> None:
    set_up_logging(log_format, log_level)
    if module:
        os.environ[MODULE] = module  # for the processes that a command starts, too


def _collect_less_garbage() -> None:
    """Let Python look for cycles less often, and not once more at the end.

    Imports make a million objects that all live until the end: to look through them again and again is a
    third of the CPU seconds of a short command.
    """
    gc.set_threshold(50_000, 20, 20)
    atexit.register(gc.freeze)


def main() -> None:
    """Run a command; every error ends as one sentence and an exit code."""
    _collect_less_garbage()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle_interrupt)
    try:
        refuse_wrong_variables()
        app()
    except Stop as stop:
        terminal.print_error(str(stop))
        sys.exit(stop.code)
    except Interruption as interrupted:
        end_immediately(interrupted.number)
    except Exception as error:
        from medallion_platform.installation.settings import WrongSetting

        if isinstance(error, (ProjectError, WrongSetting)):
            for line in str(error).splitlines():
                terminal.print_error(line)
            sys.exit(USAGE)
        if os.environ.get("MEDALLION_DEBUG"):
            raise
        terminal.print_error(error_in_words(error))
        lacking = isinstance(error, MissingExtra) or classify(error).kind is Kind.DISK
        sys.exit(NOT_READY if lacking else FAILED)
