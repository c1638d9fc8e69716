"""What the commands share: options, and the settings, lake and tables that these name."""

from __future__ import annotations

import os
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medallion_platform.cli.exits import NOT_READY, USAGE, Stop

if TYPE_CHECKING:
    from medallion_platform.lakehouse.lake import Lake
    from medallion_platform.settings import Settings

Home = Annotated[
    Path | None,
    typer.Option(help="Folder of everything the platform keeps.", show_default=".medallion in the project"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script instead.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the answer and errors.")]

Say = Callable[[str], None]
"""Tells a person something beside the answer, or nobody."""


def settings_of(home: Path | None) -> Settings:
    """The settings of this environment, for this home if one is given."""
    from medallion_platform.settings import Settings

    return Settings(home=home.resolve()) if home else Settings()


def lake_of(home: Path | None) -> Lake:
    """The lake, where there is one."""
    from medallion_platform.storage import in_bucket

    settings = settings_of(home)
    if not in_bucket(settings.lake) and not Path(settings.lake).is_dir():
        raise Stop(
            f"there is no lake at {settings.lake} yet: `medallion demo` or `medallion run` makes it; --home "
            "or MEDALLION_LAKE name another one",
            USAGE,
        )
    from medallion_platform.lakehouse.lake_format import open_lake

    return _opened(settings, open_lake)


def known_table(table: str) -> str:
    """The name of a table that the catalog has.

    Raises:
        Stop: it has none of this name; says which one may be meant.
    """
    from medallion_platform.installation import catalog

    if table in catalog.names:
        return table
    near = [n for n in catalog.names if n.partition(".")[2] == table]
    near = near or get_close_matches(table, catalog.names, 3)
    meant = f"did you mean {' or '.join(near)}?" if near else "`medallion status` lists all."
    raise Stop(f"there is no table {table}; {meant}", USAGE)


def ready_lake(settings: Settings) -> Lake:
    """The lake, to be written to: on storage that keeps commits, and in the format of this version.

    Raises:
        Stop: the storage loses commits or does not answer, or a newer version has written the lake.
    """
    from medallion_platform.lakehouse.lake_format import open_to_write

    return _opened(settings, open_to_write)


def _opened(settings: Settings, by: Callable[[Path | str], Lake]) -> Lake:
    from medallion_platform.lakehouse.lake_format import NewerLake
    from medallion_platform.storage import Unusable

    try:
        return by(settings.lake)
    except (NewerLake, Unusable) as error:
        raise Stop(str(error), NOT_READY) from None


def export(settings: Settings) -> None:
    """Give the settings to child processes, which build their own from the environment."""
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)
    os.environ["MEDALLION_HOME"] = str(settings.home)
    os.environ["MEDALLION_LAKE"] = str(settings.lake)
    os.environ["MEDALLION_LANDING"] = str(settings.landing)
    os.environ["MEDALLION_SETTLE_SECONDS"] = str(settings.settle_seconds)


def quiet_libraries() -> None:
    """Keep Dagster's event log out of the terminal; it stands in the UI."""
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    for name in ("dagster", "py4j", "pyspark"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
