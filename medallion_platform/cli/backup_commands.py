"""Commands that make and use backups."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from medallion_platform.cli import terminal
from medallion_platform.cli.exits import FAILED, NOT_READY, USAGE, Stop
from medallion_platform.cli.shared_options import (
    Home,
    Json,
    Quiet,
    quiet_libraries,
    require_lake,
    settings_of,
    writable_lake,
)

if TYPE_CHECKING:
    from medallion_platform.installation.settings import Settings
    from medallion_platform.lakehouse.backup_place import BackupPlace

app = typer.Typer()

_PLACE = "A folder, or s3://bucket/prefix."
_DEFAULT = "MEDALLION_BACKUP"


@app.command()
def backup(
    to: Annotated[str | None, typer.Option(help=_PLACE, show_default=_DEFAULT)] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="Show the backups that are there, and make none.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Back up all tables, Dagster's storage and Feast's registry; copies only what is new."""
    from medallion_platform.errors import MedallionError
    from medallion_platform.orchestration import backups, runs

    settings = settings_of(home)
    place = _place(settings, to, "--to")
    if listing:
        _list(place, as_json)
        return
    lake = writable_lake(require_lake(settings))
    quiet_libraries()
    with runs.open_instance(settings.dagster_home) as on:
        try:
            done = backups.back_up_installation(on, lake, settings.feature_repo, place)
        except MedallionError as error:
            raise Stop(f"{error}. The last backup stays as it is", FAILED) from None
    terminal.print_answer(f"Backed up to {place.root}", [backups.figures(done)], as_json=as_json)
    if done.damaged:
        raise Stop(
            "\n".join(backups.sentences(done))
            + "\nThe backup was made. No older one is deleted before this is corrected."
        )


@app.command()
def restore(
    source: Annotated[str | None, typer.Option("--from", help=_PLACE, show_default=_DEFAULT)] = None,
    tables: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            help="Only this table (several times for several): puts damaged files back, or the table if it "
            "was lost.",
        ),
    ] = None,
    at: Annotated[
        datetime | None,
        typer.Option(
            help="From the newest backup made at this time (UTC) or before; with --table, the table goes "
            "back to it."
        ),
    ] = None,
    home: Home = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Restore everything into an empty installation, or single tables."""
    settings = settings_of(home)
    place = _place(settings, source, "--from")
    moment = at.replace(tzinfo=at.tzinfo or UTC) if at else None
    rows = (
        _restore_tables(settings, place, tables, moment) if tables else _restore_all(settings, place, moment)
    )
    terminal.print_answer(f"Restored from {place.root}", rows, as_json=as_json)
    if not quiet:
        terminal.print_note(
            "`medallion status` shows the tables; `medallion run`, or the sensor, brings them up to date."
        )


def _place(settings: Settings, given: str | None, option: str) -> BackupPlace:
    """The place of the backups.

    Raises:
        Stop: none is named, or it cannot be one.
    """
    from medallion_platform.installation.settings import Settings, WrongSetting
    from medallion_platform.lakehouse.backup_place import BackupPlace

    if not given and not settings.backup:
        raise Stop(f"no place of backups is named: {option} or MEDALLION_BACKUP names it", USAGE)
    try:
        return BackupPlace(str(Settings(backup=given).backup if given else settings.backup))
    except WrongSetting as error:
        raise Stop(f"{option} {given} {str(error).partition(': ')[2]}", USAGE) from None


def _require_backups(place: BackupPlace) -> BackupPlace:
    """The place, if it is there: to look makes no folder."""
    from pathlib import Path

    from medallion_platform.storage import Unusable, in_bucket

    if not in_bucket(place.root) and not Path(place.root).is_dir():
        raise Stop(f"there are no backups at {place.root}: there is no such folder", USAGE)
    try:
        place.names()
    except Unusable as error:
        raise Stop(str(error), NOT_READY) from None
    return place


def _list(place: BackupPlace, as_json: bool) -> None:
    from medallion_platform.lakehouse.backup_place import DamagedBackup

    now = datetime.now(UTC)
    rows: list[dict[str, object]] = []
    for name in _require_backups(place).names():
        try:
            backup = place.read(name)
        except DamagedBackup as error:
            terminal.print_error(str(error))
            continue
        rows.append(
            {
                "time": backup.at,
                "age_hours": round((now - backup.at).total_seconds() / 3600, 1),
                "tables": len(backup.tables),
                "rows": backup.rows,
                "bytes": backup.bytes,
                "copied_bytes": backup.copied_bytes,
                "lacks": ", ".join(sorted(backup.missing)),
            }
        )
    terminal.print_answer(f"Backups at {place.root}", rows, as_json=as_json)


def _restore_all(settings: Settings, place: BackupPlace, at: datetime | None) -> list[dict[str, object]]:
    from medallion_platform.errors import MedallionError
    from medallion_platform.lakehouse.restore import choose_backup
    from medallion_platform.orchestration import backups, runs

    quiet_libraries()
    try:
        name, backup = choose_backup(_require_backups(place), at)
        with runs.open_instance(settings.dagster_home) as on:
            done = backups.restore_installation(
                on, str(settings.lake), settings.feature_repo, place, name, backup
            )
    except MedallionError as error:
        raise Stop(str(error)) from None
    return [vars(table) for table in done]


def _restore_tables(
    settings: Settings, place: BackupPlace, tables: list[str], at: datetime | None
) -> list[dict[str, object]]:
    from uuid import uuid4

    from medallion_platform.errors import MedallionError
    from medallion_platform.lakehouse.restore_table import restore_table

    _require_backups(place)
    lake, run_id = writable_lake(settings), str(uuid4())
    rows: list[dict[str, object]] = []
    for table in tables:
        try:
            done = restore_table(place, table, lake, run_id, datetime.now(UTC), at)
        except MedallionError as error:
            before = f"\nRestored before that: {', '.join(str(row['table']) for row in rows)}" if rows else ""
            raise Stop(f"{error}{before}") from None
        rows += [vars(one) for one in done]
    return rows
