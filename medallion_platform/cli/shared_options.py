"""What the commands share: options, and how they lead to settings, lake and tables."""

from __future__ import annotations

import os
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medallion_platform.cli import terminal
from medallion_platform.cli.exits import NOT_READY, USAGE, Stop
from medallion_platform.installation.project import MODULE, SAMPLE, project_above, refuse_home_of_another

if TYPE_CHECKING:
    from medallion_platform.installation.settings import Settings
    from medallion_platform.lakehouse.lake import Lake

Home = Annotated[
    Path | None,
    typer.Option(
        help="The home: folder of all data of the platform.", show_default=".medallion in the project"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the result and errors.")]

Say = Callable[[str], None]
"""Prints a message to the user beside the result, or nothing."""


def settings_of(home: Path | None) -> Settings:
    """The settings from the environment; home: replaces the one of the environment.

    Raises:
        ProjectError: no home is given, and the default one belongs to a project with another catalog.
    """
    from medallion_platform.installation.settings import Settings

    _say_misspelt()
    if home:
        return Settings(home=home.resolve())
    if not os.environ.get("MEDALLION_HOME"):
        refuse_home_of_another(Path.cwd())
    return Settings()


@cache
def _say_misspelt() -> None:
    """Tell once of variables that are named like a setting and are none."""
    from medallion_platform.installation.settings import misspelt

    for line in misspelt(os.environ):
        terminal.print_error(line)


def lake_of(home: Path | None) -> Lake:
    """The lake, for reading.

    Raises:
        Stop: it does not exist yet, does not respond, or has another format than this version's.
    """
    from medallion_platform.lakehouse.lake_format import open_to_look

    return _open_lake(require_lake(settings_of(home)), open_to_look)


def require_lake(settings: Settings) -> Settings:
    """The settings, if their lake exists (for a bucket this is not checked).

    Raises:
        Stop: it does not exist yet.
    """
    from medallion_platform.storage import in_bucket

    if not in_bucket(settings.lake) and not Path(settings.lake).is_dir():
        raise Stop(
            f"there is no lake at {settings.lake} yet: {_commands_that_make_a_lake()} creates it; "
            "use --home or MEDALLION_LAKE for another one",
            USAGE,
        )
    return settings


def _commands_that_make_a_lake() -> str:
    """The commands that create a lake here; the demo never uses the lake of another project."""
    above = project_above(Path.cwd())
    module = os.environ.get(MODULE) or (above.module if above else SAMPLE)
    if module == SAMPLE:
        return "`medallion demo` or `medallion run`"
    return "`medallion run` (`--landing FOLDER` names the folder of the files)"


def known_table(table: str) -> str:
    """The name of a table of the catalog.

    Raises:
        Stop: there is no such table; suggests similar names.
    """
    from medallion_platform.installation.catalog import catalog

    if table in catalog.names:
        return table
    near = [n for n in catalog.names if n.partition(".")[2] == table]
    near = near or get_close_matches(table, catalog.names, 3)
    meant = f"did you mean {' or '.join(near)}?" if near else "`medallion status` lists all tables"
    raise Stop(f"there is no table {table}; {meant}", USAGE)


def writable_lake(settings: Settings) -> Lake:
    """The lake, for writing: its storage supports commits, and it has the format of this version.

    Raises:
        Stop: the storage loses commits or does not respond, or a newer version wrote the lake.
    """
    from medallion_platform.lakehouse.lake_format import open_to_write

    return _open_lake(settings, open_to_write)


def _open_lake(settings: Settings, by: Callable[[Path | str], Lake]) -> Lake:
    from medallion_platform.lakehouse.lake_format import HalfRestored, NewerLake, OlderLake
    from medallion_platform.storage import Unusable

    try:
        return by(settings.lake)
    except (HalfRestored, NewerLake, OlderLake, Unusable) as error:
        raise Stop(str(error), NOT_READY) from None


def export_settings(settings: Settings) -> None:
    """Pass the settings to child processes, which read theirs from the environment."""
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)
    os.environ["MEDALLION_HOME"] = str(settings.home)
    os.environ["MEDALLION_LAKE"] = str(settings.lake)
    os.environ["MEDALLION_LANDING"] = str(settings.landing)
    os.environ["MEDALLION_SETTLE_SECONDS"] = str(settings.settle_seconds)


def quiet_libraries() -> None:
    """Keep Dagster's event log out of the terminal; the UI shows it."""
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    # A library that changes the filters for a moment, in a thread of its own, would undo that.
    warnings.showwarning = lambda *_, **__: None
    for name in ("dagster", "py4j", "pyspark"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
