"""Bring one table of a lake back from a backup, with its dead letters.

Either single files are put back (they were damaged), or the table (it was lost), or what it was at an older
time. That is a commit of the kind `restore`, so that whatever is made from the table sees it.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from medallion_platform.lakehouse import dead_letters, delta_log
from medallion_platform.lakehouse.backup import commit_digest, refuse_place_in_lake, tables_of
from medallion_platform.lakehouse.backup_place import (
    FILES,
    Backup,
    BackupPlace,
    TableBackup,
)
from medallion_platform.lakehouse.backup_tables import copy_files, log_of, put_table, record_at
from medallion_platform.lakehouse.commit import commit_files, next_sequence
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, WRITER, CommitRecord
from medallion_platform.lakehouse.counts import Counts, counted
from medallion_platform.lakehouse.cut import file_of
from medallion_platform.lakehouse.damaged_files import damage_within, names_in
from medallion_platform.lakehouse.delta_log import FileEntry
from medallion_platform.lakehouse.lake import DamagedLog, Lake, files_of, path_of
from medallion_platform.lakehouse.polars_writer import restore_version
from medallion_platform.lakehouse.repair_log import repair_log
from medallion_platform.lakehouse.restore import CannotRestore, RestoredTable, choose_backup
from medallion_platform.storage import copy_file

if TYPE_CHECKING:
    from deltalake import DeltaTable


_LOG = logging.getLogger(__name__)
_REGISTRIES = "files"
"""The folder of file registries."""
_REBUILD = -1
"""A position before the first version: the table is made anew from all of that input."""


def restore_table(
    place: BackupPlace, table: str, lake: Lake, run_id: str, now: datetime, at: datetime | None = None
) -> list[RestoredTable]:
    """Bring one table back, with its dead letters.

    at: None to put back what is missing or damaged, of its Delta log too, and change nothing else, or a lost
    table as the newest backup has it; otherwise the table goes back to what it was in the newest backup made
    at that instant or before.

    Raises:
        CannotRestore: what is there cannot go back, or no backup has it.
        CommitConflict: another writer committed meanwhile; run it again.
        DamagedBackup: a file of the backup is missing or damaged.
    """
    refuse_place_in_lake(str(lake.root), place.root)
    log = _repair_log(place, table, lake)
    opened = lake.open(table)
    if opened is not None and at is None:
        return [_put_files_back(place, table, opened, log)]
    name, backup = choose_backup(place, at)
    held, letters_name = _held(place, backup, table), dead_letters.name(table)
    held_letters = _held(place, backup, letters_name) if letters_name in backup.tables else None
    _refuse_alone(lake, held, opened)
    for one in filter(None, (held, held_letters)):
        _refuse_other_log(lake, one)
    letters = lake.open(letters_name)
    account = _account(
        place, held, next_sequence(opened, letters), run_id, now, f"backup of {name.at:%F %T}Z"
    )
    if opened is None:
        _tell_downstream(lake, held, account)
    # Dead letters first, as in each write: what a replay took out since comes back before its rows go.
    if held_letters is not None:
        done = [_bring(place, held_letters, lake, account)]
    else:
        done = [_emptied(letters, letters_name, account)] if letters is not None else []
    return [_bring(place, held, lake, account), *done]


def _repair_log(place: BackupPlace, table: str, lake: Lake) -> list[str]:
    """What was done about a Delta log that could not be read, in words."""
    try:
        return ["its Delta log was repaired"] if repair_log(lake, table, place) else []
    except DamagedLog as error:
        raise CannotRestore(
            f"{table}: its Delta log cannot be read ({error.reason}). Nothing was restored",
            table=table,
            remedy=f"move {lake.path(table)} out of the lake, and run it again",
        ) from error


def _held(place: BackupPlace, backup: Backup, table: str) -> TableBackup:
    """The table in a backup."""
    if missing := backup.missing.get(table):
        raise CannotRestore(
            f"{table}: the backup of {backup.at:%F %T}Z lacks {counted(len(missing), 'files')} of it, which "
            "were damaged when it was made. Nothing was restored",
            table=table,
            remedy="name an older one by `--at` (`medallion backup --list` shows them)",
        )
    if table not in backup.tables:
        raise CannotRestore(
            f"{table}: the backup of {backup.at:%F %T}Z at {place.root} has no such table. Nothing was "
            "restored",
            table=table,
            remedy="name another backup by `--at` (`medallion backup --list` shows them)",
        )
    return backup.tables[table]


def _put_files_back(place: BackupPlace, table: str, opened: DeltaTable, done: list[str]) -> RestoredTable:
    """Put back the files of a table's newest version that are missing or damaged; it is no commit.

    done: what was done before. All pages are read, also those of a copy before it is put back: damage within
    a file shows only there.
    """
    root, columns = path_of(opened), names_in(opened)
    wanted = [file for file in files_of(opened) if damage_within(root, file["path"], file, columns)]
    lost = [file["path"] for file in wanted if not has_good_copy(place, table, opened, file)]
    if lost:
        raise CannotRestore(
            f"{table}: no backup at {place.root} has a good copy of {', '.join(lost)}. Nothing was restored",
            table=table,
            remedy="take the table back to an older time by `--at`, and it is brought up to date again from "
            "there",
        )
    for file in wanted:
        put_file_back(place, table, opened, file)
    how = ", ".join([*done, *(["damaged files were put back"] if wanted else [])]) or "nothing is damaged"
    return RestoredTable(table, how, opened.version(), int(opened.count()), len(wanted))


def has_good_copy(place: BackupPlace, table: str, opened: DeltaTable, file: FileEntry) -> bool:
    """Whether a place has a copy of a table's data file that is whole; all its pages are read."""
    key = _key_of_copy(table, opened, file)
    return not damage_within(place.root, key, file, names_in(opened))


def put_file_back(place: BackupPlace, table: str, opened: DeltaTable, file: FileEntry) -> None:
    """Put the copy of a data file in its place, which is whole or as it was for whoever reads meanwhile."""
    copy_file(place.root, _key_of_copy(table, opened, file), path_of(opened), file["path"])


def _key_of_copy(table: str, opened: DeltaTable, file: FileEntry) -> str:
    return f"{FILES}/{table}/{opened.metadata().id}/{file['path']}"


def _refuse_alone(lake: Lake, held: TableBackup, opened: DeltaTable | None) -> None:
    """Refuse what cannot be restored alone: dead letters, and a file registry behind what was read of it."""
    layer, _, of = held.name.partition(".")
    if layer == dead_letters.LAYER:
        raise CannotRestore(
            f"{held.name} goes with its table. Nothing was restored",
            table=held.name,
            remedy=f"take {of} back by `--table {of} --at TIME`; it brings its dead letters along",
        )
    if layer != _REGISTRIES:
        return
    if opened is not None:
        raise CannotRestore(
            f"{held.name} is a file registry, which only grows: there is nothing to take back. Nothing was "
            "restored",
            table=held.name,
            remedy="leave out `--at` to put damaged files back",
        )
    for name in (n for n in tables_of(lake) if n.startswith("bronze.")):
        reached = lake.positions(name)(of)
        if reached is not None and file_of(reached) > held.sequence:
            raise CannotRestore(
                f"{held.name}: {name} has read it up to file {file_of(reached)}, and the backup has "
                f"{held.sequence} files: the files between would never be read. Nothing was restored",
                table=held.name,
                remedy=f"move {lake.path(name)} and {lake.path(dead_letters.name(name))} out of the lake, "
                f"restore {held.name}, then {name}",
            )


def _refuse_other_log(lake: Lake, held: TableBackup) -> None:
    """Refuse to take a table back to what was another table, or another history of it."""
    if (opened := lake.open(held.name)) is None:
        return
    if str(opened.metadata().id) != held.id or commit_digest(path_of(opened), held.version) != held.commit:
        raise CannotRestore(
            f"{held.name}: the one in the lake is not the one in the backup gone on (it was made anew since, "
            "or goes back less far). Nothing was restored",
            table=held.name,
            remedy=f"move {path_of(opened)} out of the lake, and run it again",
        )


def _account(
    place: BackupPlace, held: TableBackup, sequence: int, run_id: str, now: datetime, source: str
) -> CommitRecord:
    """What the commit that brings a table back says: what it was made from then."""
    with log_of(place, held) as then:
        record = record_at(then) or CommitRecord("restore", run_id, "")
        sequence = max(sequence, next_sequence(then))
    return replace(
        record,
        verb="restore",
        run_id=run_id,
        at=now.isoformat(),
        notes=[f"from the {source}"],
        counts=Counts(),
        sequence=sequence,
        partitions={},
        taken_back="",
    )


def _tell_downstream(lake: Lake, held: TableBackup, account: CommitRecord) -> None:
    """Let tables that were made from newer versions of a lost table be made from all of it again.

    Its versions will have other content than those which they know.
    """
    for name in tables_of(lake):
        last = lake.last_record(name)
        if last is None or max(last.position.get(held.name, {}).values(), default=-1) <= held.version:
            continue
        opened = lake.open(name)
        assert opened is not None
        told = replace(
            last,
            verb="restore",
            run_id=account.run_id,
            at=account.at,
            notes=[f"{held.name} was restored"],
            position={**last.position, held.name: {UNPARTITIONED: _REBUILD}},
            counts=Counts(),
            sequence=next_sequence(opened, lake.open(dead_letters.name(name))),
            partitions={},
            taken_back="",
        )
        commit_files(opened, told)


def _bring(place: BackupPlace, held: TableBackup, lake: Lake, account: CommitRecord) -> RestoredTable:
    """Bring a table to its version in a backup: by a commit, or where it was lost with its log."""
    opened, how = lake.open(held.name), f"as of version {held.version}"
    positions: dict[str, int] = {}
    if opened is None:
        files, how = put_table(place, held, lake), "restored"
        opened = lake.open(held.name)
        assert opened is not None
    else:
        with log_of(place, held) as then:
            files = copy_files(place, held, then, path_of(opened))
            positions = {log: then.transaction_version(log) or 0 for log in _logs_moved(opened, held.version)}
    if opened.version() > held.version:
        restore_version(opened, held.version, account, positions)
    elif not held.name.startswith(f"{_REGISTRIES}."):  # whose sequence numbers are those of files
        commit_files(opened, account)
    rows = int(opened.count())
    if rows != held.rows:
        raise CannotRestore(
            f"{held.name}: the backup has {counted(held.rows, 'rows')}, and what was restored has {rows}",
            table=held.name,
            remedy="take it back to another backup by `--at`",
        )
    return RestoredTable(held.name, how, opened.version(), rows, files)


def _emptied(letters: DeltaTable, name: str, account: CommitRecord) -> RestoredTable:
    """Take all dead letters back: the backup has none yet."""
    restore_version(letters, 0, account, dict.fromkeys(_logs_moved(letters, 0), 0))
    return RestoredTable(name, "as of version 0", letters.version(), int(letters.count()), 0)


def _logs_moved(opened: DeltaTable, since: int) -> set[str]:
    """The logs of which a table has read more since a version."""
    found = delta_log.actions(path_of(opened), range(since + 1, opened.version() + 1))
    logs = {action["txn"]["appId"] for _, actions in found for action in actions if "txn" in action}
    return logs - {WRITER}
