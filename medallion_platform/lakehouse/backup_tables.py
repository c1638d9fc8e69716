"""A table of a backup: opened from its log in a folder of its own, its files compared and put in place."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from medallion_platform.lakehouse import log_archive
from medallion_platform.lakehouse.backup_place import (
    FILES,
    BackupPlace,
    DamagedBackup,
    TableBackup,
)
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.damaged_files import copy_damage, names_in
from medallion_platform.lakehouse.delta_log import FileEntry
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.storage import client_reason, copy_file, run_in_parallel, store

if TYPE_CHECKING:
    from deltalake import DeltaTable


def put_table(place: BackupPlace, held: TableBackup, lake: Lake) -> int:
    """Put a table of a backup where there is none, its files before its log; returns the files copied."""
    root = lake.path(held.name)
    with log_of(place, held) as then:
        copied = copy_files(place, held, then, root)
    _put_log(place, held, root)
    return copied


def copy_files(place: BackupPlace, held: TableBackup, then: DeltaTable, root: str) -> int:
    """Copy the data files of a backup that a table lacks, and compare them; returns their number."""
    files, columns = files_of(then), names_in(then)
    if {f["path"] for f in files} != {f.path for f in held.files}:
        raise DamagedBackup(f"{held.name}: its Delta log in the backup names other files than the backup")

    def copy(file: FileEntry) -> bool:
        key = f"{FILES}/{held.folder}/{file['path']}"
        if not copy_damage(root, file["path"], file, columns):
            return False
        if why := copy_damage(place.root, key, file, columns):
            raise DamagedBackup(
                f"{held.name}: in the backup, its file {place.root}/{key} is damaged ({why})",
                table=held.name,
                remedy="name an older backup by `--at`; what is there already stays and is not used",
            )
        copy_file(place.root, key, root, file["path"])
        return True

    return sum(run_in_parallel(copy, files))


@contextmanager
def log_of(place: BackupPlace, held: TableBackup) -> Generator[DeltaTable]:
    """The table of a backup without its data files, opened from its log in a folder of its own.

    Raises:
        DamagedBackup: its log is missing or damaged.
    """
    with TemporaryDirectory(prefix="medallion-restore-") as folder:
        checkpoint = checkpoint_of(place, held)
        first = log_archive.version_in_name(checkpoint[0]) if checkpoint else 0
        if checkpoint:
            store(folder).put(*checkpoint)
        for version, text in commits_of(place, held, first):
            store(folder).put(log_archive.commit_file(version), text)
        Path(folder, "_delta_log").mkdir(exist_ok=True)
        opened = _open_log(folder, held)
        yield opened


def _open_log(folder: str, held: TableBackup) -> DeltaTable:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        opened = DeltaTable(folder, version=held.version)
    except DeltaError as error:
        raise DamagedBackup(
            f"{held.name}: its Delta log in the backup cannot be read ({client_reason(error)})",
            table=held.name,
            remedy="name another backup by `--at` (`medallion backup --list` shows them)",
        ) from error
    return opened


def checkpoint_of(place: BackupPlace, held: TableBackup) -> tuple[str, bytes] | None:
    """The path and content of a table's checkpoint; none where it is damaged and every commit is there."""
    if held.checkpoint is None:
        return None
    try:
        return held.checkpoint.name, place.content(held.checkpoint)
    except DamagedBackup:
        if held.log and held.log[0].first == 0:
            return None
        raise


def commits_of(place: BackupPlace, held: TableBackup, since: int = 0) -> Iterator[tuple[int, bytes]]:
    """The commits of a table in a backup from a version on, newest first; some in memory at once."""
    for part in reversed(held.log):
        if part.last >= since:
            found = log_archive.unpack_commits(place.content(part.file))
            yield from ((v, text) for v, text in sorted(found.items(), reverse=True) if v >= since)


def _put_log(place: BackupPlace, held: TableBackup, root: str) -> None:
    """Put the log of a backup where there is none; the table is there with the last file that is written.

    As `log_archive.archive_log` leaves it: old commits before the checkpoint are in bundles.
    """
    checkpoint = checkpoint_of(place, held)
    begin = log_archive.version_in_name(checkpoint[0]) if checkpoint else 0
    archived = min(begin, held.version - log_archive.KEPT)
    files, first = store(root), {}
    for number, some in groupby(commits_of(place, held), lambda commit: commit[0] // log_archive.BUNDLE):
        commits = dict(sorted(some))
        if checkpoint and (number + 1) * log_archive.BUNDLE - 1 <= archived:
            files.put(log_archive.bundle_file(number), log_archive.pack_commits(commits))
            continue
        first = {min(commits): commits.pop(min(commits))} if not checkpoint and 0 in commits else {}
        texts = {log_archive.commit_file(version): text for version, text in commits.items()}
        run_in_parallel(lambda key, texts=texts: files.put(key, texts[key]), texts)
    for version, text in first.items():
        files.put(log_archive.commit_file(version), text)
    if checkpoint:
        files.put(*checkpoint)
        rows = _rows_in(checkpoint[1])
        last = {"version": begin, "size": rows}
        files.put("_delta_log/_last_checkpoint", json.dumps(last).encode())


def _rows_in(parquet: bytes) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.read_metadata(pa.BufferReader(parquet)).num_rows


def record_at(table: DeltaTable) -> CommitRecord | None:
    """The newest commit record in a log."""
    for info in table.history():
        if record := CommitRecord.from_json(info.get("userMetadata")):
            return record
    return None
