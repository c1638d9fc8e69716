"""Back up a lake: every table at one consistent cut, with its Delta log, into a folder or a bucket.

Only what the last backup lacks is copied. Each data file of the cut is compared with the Delta log (its size)
and with what its name tells of its end, in the lake and again where it was copied to. What is damaged in the
lake and was never backed up is named in the backup as missing: it is not taken for good.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.lakehouse import delta_log, log_archive
from medallion_platform.lakehouse.backup_place import (
    FILES,
    Backup,
    BackupName,
    BackupPlace,
    DataFile,
    KeptFile,
    LogPart,
    TableBackup,
    digest_of,
    held_files,
    quarantine_key,
)
from medallion_platform.lakehouse.commit import writer_sequence
from medallion_platform.lakehouse.cut import LAYERS, consistent_cut, files_to_copy, versions_from
from medallion_platform.lakehouse.damaged_files import (
    copy_damage,
    files_with_damage,
    names_in,
)
from medallion_platform.lakehouse.delta_log import FileEntry, LogGone
from medallion_platform.lakehouse.lake import DamagedLog, Lake, files_of, path_of
from medallion_platform.lakehouse.lake_format import read_format
from medallion_platform.storage import copy_file, run_in_parallel, store

if TYPE_CHECKING:
    from deltalake import DeltaTable

_LOG = logging.getLogger(__name__)
_COMMITS = 10_000
"""Of a part of a Delta log, in memory at once."""
_NOT_IN_FILES = "deletionVectors"
"""The feature of Delta by which rows are deleted in files that are no data files."""


class BadPlace(MedallionError):
    """Backups cannot be kept there."""

    kind = Kind.PERMANENT


@dataclass(frozen=True)
class BackedUp:
    """A backup that was made, and what is damaged in the lake.

    damaged: by table, a sentence for each file (or for the Delta log). Of what `backup.missing` names, the
    backup has no good copy. pruned: backups that were deleted.
    """

    name: BackupName
    backup: Backup
    damaged: Mapping[str, Mapping[str, str]]
    pruned: int = 0


@dataclass(frozen=True)
class _OneTable:
    """A table that was backed up. missing: what no good copy is of. damaged: what is damaged in the lake."""

    backup: TableBackup
    missing: dict[str, str]
    damaged: dict[str, str]
    copied: list[int]


def back_up(
    lake: Lake, place: BackupPlace, at: datetime, beside: Mapping[str, list[KeptFile]] | None = None
) -> BackedUp:
    """Back up a lake, and what was already stored beside it; then delete backups that are too old.

    at: the time of the backup. Nothing is deleted while something in the lake is damaged.

    Raises:
        BadPlace: the place is within the lake, or the lake within the place.
        NoConsistentCut: tables do not fit together.
        Unusable: the place cannot be reached.
    """
    refuse_place_in_lake(str(lake.root), place.root)
    began = time.monotonic()
    last = place.newest()
    tables, unreadable = _opened_cut(lake)
    done = _back_up_tables(place, tables, last, at)
    missing = {name: one.missing for name, one in done.items() if one.missing}
    damaged = {name: one.damaged for name, one in done.items() if one.damaged}
    copied = [size for one in done.values() for size in one.copied]
    backup = Backup(
        at=at,
        lake=str(lake.root),
        lake_format=read_format(str(lake.root)),
        tables={name: one.backup for name, one in done.items()},
        missing={**missing, **unreadable},
        quarantine=_back_up_quarantine(lake, place, last),
        beside=dict(beside or {}),
        copied_files=len(copied),
        copied_bytes=sum(copied),
        seconds=round(time.monotonic() - began, 3),
    )
    name = place.write(backup)
    pruned = 0 if damaged or unreadable else place.prune(at)
    told = {"place": place.root, "backup": name.key, "tables": len(done), "copied_bytes": backup.copied_bytes}
    _LOG.info("%s: backed up", lake.root, extra=told)
    return BackedUp(name, backup, {**damaged, **unreadable}, pruned)


def refuse_place_in_lake(lake: str, place: str) -> None:
    """Refuse a place that shares a folder with the lake.

    Raises:
        BadPlace: one is within the other.
    """
    one, other = f"{lake.rstrip('/')}/", f"{place.rstrip('/')}/"
    if one.startswith(other) or other.startswith(one):
        raise BadPlace(
            f"backups cannot be kept at {place}: it shares a folder with the lake {lake}. Nothing was "
            "written",
            remedy="name another folder or bucket, best of all on another machine",
        )


def _opened_cut(lake: Lake) -> tuple[dict[str, DeltaTable], dict[str, dict[str, str]]]:
    """Every table at its version of the cut; and a sentence for each whose Delta log cannot be read."""
    heads: dict[str, int] = {}
    unreadable: dict[str, dict[str, str]] = {}
    for table in tables_of(lake):
        try:
            heads[table] = lake.version(table)
        except DamagedLog as error:
            unreadable[table] = {"_delta_log": str(error)}
    heads = {table: head for table, head in heads.items() if head >= 0}
    newest = {table: lake.version(table) for table in heads}
    cut = consistent_cut({t: versions_from(lake, t, head, newest) for t, head in heads.items()})
    opened = {table: lake.open(table, one.version) for table, one in cut.items()}
    return {name: table for name, table in opened.items() if table is not None}, unreadable


def tables_of(lake: Lake) -> Iterator[str]:
    """The name of each folder of a table in a lake, downstream first."""
    for layer in LAYERS:
        for folder in sorted(store(str(lake.root)).list_with_delimiter(layer)["common_prefixes"]):
            yield folder.replace("/", ".", 1)


def _back_up_tables(
    place: BackupPlace, tables: Mapping[str, DeltaTable], last: Backup | None, at: datetime
) -> dict[str, _OneTable]:
    files = {name: files_of(table) for name, table in tables.items()}
    cut = {_folder(name, tables[name]): {f["path"] for f in found} for name, found in files.items()}
    stored = place.stored()
    lacking = files_to_copy(cut, held_files(last, stored))
    done: dict[str, _OneTable] = {}
    for name, table in tables.items():
        before = last.tables.get(name) if last else None
        if before and not all(stored.get(file.key) == file.size for file in before.log_files()):
            before = None
        lacks = lacking.get(_folder(name, table), set())
        done[name] = _back_up_table(place, name, table, files[name], lacks, before, at)
    return done


def _folder(name: str, table: DeltaTable) -> str:
    return f"{name}/{table.metadata().id}"


def _back_up_table(
    place: BackupPlace,
    name: str,
    table: DeltaTable,
    files: Sequence[FileEntry],
    lacks: Set[str],
    last: TableBackup | None,
    at: datetime,
) -> _OneTable:
    folder, path, version = _folder(name, table), path_of(table), table.version()
    damaged = files_with_damage(table, files)
    copied, missing = _copy_files(place, folder, table, [f for f in files if f["path"] in lacks], damaged)
    backup = TableBackup(
        name,
        str(table.metadata().id),
        version,
        writer_sequence(table),
        commit_digest(path, version),
        int(table.count()),
        [DataFile(f["path"], f["size_bytes"], f["num_records"]) for f in files if f["path"] not in missing],
        _keep_log(place, folder, path, version, last, at),
        _keep_checkpoint(place, folder, path, version, last),
    )
    lost = {file: _lost(name, f"{path}/{file}", why) for file, why in missing.items()}
    if _NOT_IN_FILES in (table.protocol().reader_features or ()):
        lost["_delta_log"] = (
            f"{name}: it uses {_NOT_IN_FILES}; rows that these delete are not deleted in a backup"
        )
    kept = {file: _kept(name, f"{path}/{file}", why) for file, why in damaged.items() if file not in missing}
    return _OneTable(backup, lost, {**kept, **lost}, copied)


def _kept(table: str, file: str, why: str) -> str:
    return (
        f"{table}: its data file {file} is damaged ({why}), and the backup has a good copy; `medallion "
        f"restore --table {table}` puts it in its place"
    )


def _lost(table: str, file: str, why: str) -> str:
    remedy = (
        f"`medallion restore --table {table} --at TIME`, with the time of an older backup, takes the table "
        "back, and its source is read again from there"
    )
    if table.startswith(("silver.", "gold.")):
        remedy = f"materialize {table} with `rebuild: true`, which recomputes it from its inputs"
    return f"{table}: its data file {file} is damaged ({why}), and no backup has a good copy; {remedy}"


def _copy_files(
    place: BackupPlace, folder: str, table: DeltaTable, files: Sequence[FileEntry], damaged: Mapping[str, str]
) -> tuple[list[int], dict[str, str]]:
    """Copy data files; returns the sizes of the copied ones, and why there is no good copy of others.

    A file that is there and good is left alone: a backup that was killed has copied it, or an older one needs
    it.
    """
    root, columns = path_of(table), names_in(table)

    def copy(file: FileEntry) -> tuple[int, str]:
        key = f"{FILES}/{folder}/{file['path']}"
        if not copy_damage(place.root, key, file, columns):
            return 0, ""
        if why := damaged.get(file["path"], ""):
            return 0, why
        copy_file(root, file["path"], place.root, key)
        if why := copy_damage(place.root, key, file, columns):
            store(place.root).delete(key)
        return file["size_bytes"], why

    done = run_in_parallel(copy, files)
    missing = {file["path"]: why for file, (_, why) in zip(files, done, strict=True) if why}
    return [size for size, why in done if size and not why], missing


def _keep_log(
    place: BackupPlace, folder: str, path: str, version: int, last: TableBackup | None, at: datetime
) -> list[LogPart]:
    """The log up to a version: the parts that the last backup has, and one with what is new."""
    goes_on = last is not None and _goes_on(path, version, last)
    held = [part for part in last.log if not _expired(part, last, at)] if last and goes_on else []
    since = last.version if last and goes_on else -1
    new = [
        LogPart(min(some), max(some), at, place.keep(f"{folder}/_log", "", log_archive.pack_commits(some)))
        for some in _commits(path, version, since)
    ]
    reaches_back = not new or new[-1].first == since + 1
    return [*(held if reaches_back else []), *reversed(new)]


def _goes_on(path: str, version: int, last: TableBackup) -> bool:
    """Whether a log is the one of the last backup, gone on: not that of a table that was restored since."""
    return last.version <= version and last.commit == commit_digest(path, last.version) != ""


def commit_digest(path: str, version: int) -> str:
    """What tells a commit from every other one under its number, "" where it is not in the log any more."""
    with suppress(LogGone):
        for _, text in delta_log.texts(path, [version]):
            return digest_of(text)
    return ""


def _commits(path: str, version: int, since: int) -> Iterator[dict[int, bytes]]:
    """The commits after `since`, the newest first, some at a time; as far back as the log reaches."""
    some: dict[int, bytes] = {}
    with suppress(LogGone):
        for v, text in delta_log.texts(path, range(version, since, -1)):
            some[v] = text
            if len(some) == _COMMITS:
                yield dict(sorted(some.items()))
                some = {}
    if some:
        yield dict(sorted(some.items()))


def _expired(part: LogPart, last: TableBackup, now: datetime) -> bool:
    """Whether nobody needs a part: the log itself keeps commits no longer, and a checkpoint came after it."""
    behind = last.checkpoint is not None and part.last <= log_archive.version_in_name(last.checkpoint.name)
    return behind and part.at < now - log_archive.LOG_RETENTION


def _keep_checkpoint(
    place: BackupPlace, folder: str, path: str, version: int, last: TableBackup | None
) -> KeptFile | None:
    """The newest checkpoint up to a version; as the last backup has it, if it is the same."""
    newest = log_archive.newest_checkpoint(path, version)
    if newest is None:
        return None
    name = log_archive.checkpoint_file(newest)
    mark = store(path).head(name)["e_tag"] or ""
    if last and last.folder == folder and last.checkpoint and mark and last.checkpoint.mark == mark:
        return last.checkpoint
    return place.keep(f"{folder}/_log", name, store(path).get(name).bytes().to_bytes(), mark)


def _back_up_quarantine(lake: Lake, place: BackupPlace, last: Backup | None) -> list[DataFile]:
    """The files in quarantine, which never change either: a path there has the digest of the content."""
    root, held = str(lake.root), set(last.quarantine) if last else set[DataFile]()
    there = [DataFile(f["path"], f["size"]) for f in store(root).list("quarantine/").collect()]
    run_in_parallel(
        lambda file: copy_file(root, file.path, place.root, quarantine_key(file.path)),
        [file for file in there if file not in held],
    )
    return there
