"""Restore a lake from a backup, into an empty place.

The lake is not usable before all of it is there. What comes from a backup is compared with its Delta log,
file by file, before it is visible.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.lakehouse.backup import refuse_place_in_lake
from medallion_platform.lakehouse.backup_place import (
    Backup,
    BackupName,
    BackupPlace,
    DamagedBackup,
    NoBackup,
    TableBackup,
    quarantine_key,
)
from medallion_platform.lakehouse.backup_tables import put_table
from medallion_platform.lakehouse.commit_record import FORMAT
from medallion_platform.lakehouse.counts import counted
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.lake_format import RESTORING, NewerLake, open_to_restore, write_format
from medallion_platform.storage import copy_file, create_file, run_in_parallel, store

if TYPE_CHECKING:
    pass


_LOG = logging.getLogger(__name__)
_OWN = "_medallion/"
"""What an empty lake has, too."""


class CannotRestore(MedallionError):
    """Nothing was restored; the text says why and what to do."""

    kind = Kind.PERMANENT


@dataclass(frozen=True)
class RestoredTable:
    """What became of one table. rows: that it has now. files: that were brought from the backup."""

    table: str
    how: str
    version: int
    rows: int
    files: int


def choose_backup(place: BackupPlace, at: datetime | None = None) -> tuple[BackupName, Backup]:
    """The newest backup that was made at or before an instant; the newest, if none is given.

    Raises:
        NoBackup: there is none.
        DamagedBackup: it cannot be read.
    """
    names = place.names()
    if not names:
        raise NoBackup(f"there is no backup at {place.root}. Nothing was restored")
    found = next((name for name in names if at is None or name.at <= at), None)
    if found is None:
        raise NoBackup(
            f"there is no backup of {at:%F %T} or before at {place.root}: the oldest one is of "
            f"{names[-1].at:%F %T}Z. Nothing was restored",
            remedy=f"restore that one by `--at {names[-1].at:%FT%T}`",
        )
    return found, place.read(found)


def restore_lake(
    place: BackupPlace,
    name: BackupName,
    backup: Backup,
    root: str,
    beside: Callable[[], None] = lambda: None,
) -> list[RestoredTable]:
    """Restore all tables into an empty place; killed and repeated, it continues.

    beside: restores what is beside the lake, before anybody may work there.

    Raises:
        CannotRestore: the place is not empty, or the backup lacks something.
        NewerLake: a newer version of the platform wrote the lake that was backed up.
        DamagedBackup: a file of the backup is missing or damaged.
    """
    refuse_place_in_lake(root, place.root)
    _refuse_incomplete(place, backup)
    _refuse_newer_format(backup)
    lake = open_to_restore(root)
    _begin(root, name)
    done = [_restored(lake, table, put_table(place, table, lake)) for table in backup.tables.values()]
    run_in_parallel(
        lambda file: copy_file(place.root, quarantine_key(file.path), root, file.path), backup.quarantine
    )
    beside()
    write_format(root, backup.lake_format)
    store(root).delete(RESTORING)
    _LOG.info("%s: restored", root, extra={"place": place.root, "backup": name.key, "tables": len(done)})
    return done


def _refuse_incomplete(place: BackupPlace, backup: Backup) -> None:
    if not backup.missing:
        return
    whole = _newest_whole(place)
    files = [text for texts in backup.missing.values() for text in texts.values()]
    raise CannotRestore(
        f"the backup of {backup.at:%F %T}Z lacks {counted(len(files), 'files')} of "
        f"{', '.join(sorted(backup.missing))}, which were damaged when it was made. Nothing was restored",
        remedy=(f"restore an older one, which has them, by `--at {whole:%FT%T}`, or" if whole else "restore")
        + " the other tables one by one by `--table`",
    )


def _newest_whole(place: BackupPlace) -> datetime | None:
    for name in place.names():
        with suppress(DamagedBackup):
            if not place.read(name).missing:
                return name.at
    return None


def _refuse_newer_format(backup: Backup) -> None:
    if backup.lake_format > FORMAT:
        raise NewerLake(
            f"the lake in the backup of {backup.at:%F %T}Z has format {backup.lake_format}, and this version "
            f"of the platform knows formats up to {FORMAT}. Nothing was restored",
            remedy="install the version that made the backup or a newer one",
        )


def is_begun(root: str, name: BackupName) -> bool:
    """Whether this backup is being restored into a place, or was when that was killed."""
    try:
        return store(root).get(RESTORING).bytes().to_bytes() == _mark(name)
    except FileNotFoundError:
        return False


def _mark(name: BackupName) -> bytes:
    return json.dumps({"backup": name.key}).encode()


def _begin(root: str, name: BackupName) -> None:
    """Mark the place, so that nobody works there before all is there; refuse one that is not empty."""
    mark = _mark(name)
    try:
        begun = store(root).get(RESTORING).bytes().to_bytes()
    except FileNotFoundError:
        paths = (f["path"] for some in store(root).list() for f in some)
        if there := next((path for path in paths if not path.startswith(_OWN)), None):
            raise CannotRestore(
                f"{root} is not empty (it has {there}), and a whole lake is restored into an empty place "
                "only. Nothing was restored",
                remedy="name another place by MEDALLION_LAKE or --home, or restore single tables by "
                "`--table`",
            ) from None
        create_file(root, RESTORING, mark)
        return
    if begun != mark:
        raise CannotRestore(
            f"another backup ({json.loads(begun)['backup']}) is being restored into {root}. Nothing was "
            "restored",
            remedy="to continue with that one, name its time by `--at`; to begin anew, empty the place",
        )


def _restored(lake: Lake, table: TableBackup, files: int) -> RestoredTable:
    """Compare a table that was restored with what its backup says of it."""
    opened = lake.open(table.name)
    version, rows = (opened.version(), int(opened.count())) if opened else (-1, 0)
    if (version, rows) != (table.version, table.rows):
        raise CannotRestore(
            f"{table.name}: the backup has version {table.version} with {counted(table.rows, 'rows')}, and "
            f"what was restored is version {version} with {rows}",
            table=table.name,
            remedy="empty the place and restore another backup",
        )
    return RestoredTable(table.name, "restored", version, rows, files)
