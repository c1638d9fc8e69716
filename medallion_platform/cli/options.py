"""What the commands share: options, and how they lead to settings, lake and tables."""

from __future__ import annotations

import os
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medallion_platform.cli.exits import NOT_READY, USAGE, Stop
from medallion_platform.project import MODULE, SAMPLE, project_above, refuse_home_of_another

if TYPE_CHECKING:
    from medallion_platform.lakehouse.lake import Lake
    from medallion_platform.settings import Settings

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
    """The settings from the environment; home: replaces theirs.

    Raises:
        ProjectError: no home is given, and the default one belongs to a project with another catalog.
    """
    from medallion_platform.settings import Settings

    if home:
        return Settings(home=home.resolve())
    if not os.environ.get("MEDALLION_HOME"):
        refuse_home_of_another(Path.cwd())
    return Settings()


def lake_of(home: Path | None) -> Lake:
    """The lake, to be looked at.

    Raises:
        Stop: it does not exist yet, does not answer, or has another format than this version's.
    """
    from medallion_platform.lakehouse.lake_format import open_to_look

    return _opened(existing(settings_of(home)), open_to_look)


def existing(settings: Settings) -> Settings:
    """The settings, if their lake exists; of a bucket that is not asked.

    Raises:
        Stop: it does not exist yet.
    """
    from medallion_platform.storage import in_bucket

    if not in_bucket(settings.lake) and not Path(settings.lake).is_dir():
        raise Stop(
            f"there is no lake at {settings.lake} yet: {_what_makes_it()} creates it; "
            "use --home or MEDALLION_LAKE for another one",
            USAGE,
        )
    return settings


def _what_makes_it() -> str:
    """The commands that make a lake here; the demo's tables do not come into that of another project."""
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
    from medallion_platform.installation import catalog

    if table in catalog.names:
        return table
    near = [n for n in catalog.names if n.partition(".")[2] == table]
    near = near or get_close_matches(table, catalog.names, 3)
    meant = f"did you mean {' or '.join(near)}?" if near else "`medallion status` lists all tables"
    raise Stop(f"there is no table {table}; {meant}", USAGE)


def ready_lake(settings: Settings) -> Lake:
    """The lake, for writing: its storage supports commits, and it has the format of this version.

    Raises:
        Stop: the storage loses commits or does not respond, or a newer version wrote the lake.
    """
    from medallion_platform.lakehouse.lake_format import open_to_write

    return _opened(settings, open_to_write)


def _opened(settings: Settings, by: Callable[[Path | str], Lake]) -> Lake:
    from medallion_platform.lakehouse.lake_format import NewerLake, OlderLake
    from medallion_platform.storage import Unusable

    try:
        return by(settings.lake)
    except (NewerLake, OlderLake, Unusable) as error:
        raise Stop(str(error), NOT_READY) from None


def export(settings: Settings) -> None:
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
    for name in ("dagster", "py4j", "pyspark"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
