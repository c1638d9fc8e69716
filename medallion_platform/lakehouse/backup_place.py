"""Where backups are kept: a folder or a prefix of a bucket.

    backups/2026-11-30T02-00-04Z-<digest>.json   a backup: what it holds, and where that lies
    files/<table>/<its id>/<path>                its data files, under their own names
    files/<table>/<its id>/_log/<digest>         parts of its Delta log
    files/quarantine/..., files/<kind>/<digest>  everything else

Backups share `files/`. A backup is there once its own file is, which is written last: whatever is killed
before leaves the backups that were there. The name of that file has the digest of its content.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.storage import explain_unreachable, store

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FORMAT = 1
"""Of a backup as this version writes it."""
KEPT = timedelta(days=7)
"""How long a backup is kept."""
_YOUNG = timedelta(days=1)
"""A file so young may be of a backup that is being made."""
_TIME = "%Y-%m-%dT%H-%M-%SZ"
_BACKUP = re.compile(r"backups/(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ)-([0-9a-f]{16})\.json")
FILES = "files"


class DamagedBackup(MedallionError):
    """A file of a backup is missing or damaged."""

    kind = Kind.CORRUPT


class NoBackup(MedallionError):
    """There is no such backup."""

    kind = Kind.PERMANENT


class NewerBackup(MedallionError):
    """A newer version of the platform made the backup; nothing was read or written."""

    kind = Kind.PERMANENT


@dataclass(frozen=True)
class DataFile:
    """A data file: its path below the table (or the lake), bytes, and rows where the Delta log tells them."""

    path: str
    size: int
    rows: int | None = None


@dataclass(frozen=True)
class KeptFile:
    """A file that is kept under the digest of its content.

    name: what it was. mark: what told it from all others in its place, "" if nothing did.
    """

    name: str
    key: str
    size: int
    digest: str
    mark: str = ""


@dataclass(frozen=True)
class LogPart:
    """Commits of a Delta log, `first` to `last`, packed into a file."""

    first: int
    last: int
    at: datetime
    file: KeptFile


@dataclass(frozen=True)
class TableBackup:
    """A table at one version.

    name: `silver.events`. id: of the table, which another one under its name does not have. sequence: the
    newest number of a writer in it; in a file registry, of a file. commit: the
    digest of that version's commit. log: its parts, oldest first, without a gap. checkpoint: the newest one
    up to the version.
    """

    name: str
    id: str
    version: int
    sequence: int
    commit: str
    rows: int
    files: list[DataFile]
    log: list[LogPart]
    checkpoint: KeptFile | None = None

    @property
    def folder(self) -> str:
        """Of its files, below `files/`: another table under its name has another one."""
        return f"{self.name}/{self.id}"

    def log_files(self) -> list[KeptFile]:
        """The files of its log."""
        return [*(part.file for part in self.log), *([self.checkpoint] if self.checkpoint else [])]

    def key(self, file: DataFile) -> str:
        """Where a data file lies, below the place."""
        return f"{FILES}/{self.folder}/{file.path}"


@dataclass(frozen=True)
class Backup:
    """What was backed up, at one cut.

    lake: where it was. lake_format: its format. missing: for each table, what of it is not held, and why: its
    Delta log or data files that were damaged already. beside: files that are not the lake's, by kind.
    copied_bytes: what the backup before lacked.
    """

    at: datetime
    lake: str
    lake_format: int
    tables: dict[str, TableBackup]
    missing: dict[str, dict[str, str]] = field(default_factory=dict[str, "dict[str, str]"])
    quarantine: list[DataFile] = field(default_factory=list[DataFile])
    beside: dict[str, list[KeptFile]] = field(default_factory=dict[str, "list[KeptFile]"])
    copied_files: int = 0
    copied_bytes: int = 0
    seconds: float = 0.0
    format: int = FORMAT

    @property
    def files(self) -> int:
        """How many data files it holds."""
        return sum(len(table.files) for table in self.tables.values())

    @property
    def rows(self) -> int:
        """How many rows its tables have."""
        return sum(table.rows for table in self.tables.values())

    @property
    def bytes(self) -> int:
        """The size of its data files."""
        return sum(file.size for table in self.tables.values() for file in table.files)

    def needed_files(self) -> Iterator[str]:
        """Every file that it needs, below the place."""
        for table in self.tables.values():
            yield from (table.key(file) for file in table.files)
            yield from (file.key for file in table.log_files())
        yield from (quarantine_key(file.path) for file in self.quarantine)
        yield from (file.key for files in self.beside.values() for file in files)


@dataclass(frozen=True, order=True)
class BackupName:
    """A backup that is there: when it was made, and the file that tells what it holds."""

    at: datetime
    key: str


@dataclass(frozen=True)
class BackupPlace:
    """The backups below a root, a folder or `s3://bucket/prefix`."""

    root: str

    def names(self) -> list[BackupName]:
        """The backups that are there, the newest first. One listing.

        Raises:
            Unusable: the place cannot be reached.
        """
        with explain_unreachable(self.root):
            listed = store(self.root).list("backups/").collect()
        found = ((f["path"], _BACKUP.fullmatch(f["path"])) for f in listed)
        names = [BackupName(datetime.strptime(m[1], _TIME).replace(tzinfo=UTC), key) for key, m in found if m]
        return sorted(names, reverse=True)

    def newest_time(self) -> float:
        """When the newest backup was made, in seconds since 1970; 0 if there is none, NaN if nobody knows."""
        try:
            names = self.names()
        except MedallionError:
            return math.nan
        return names[0].at.timestamp() if names else 0.0

    def read(self, name: BackupName) -> Backup:
        """What a backup holds.

        Raises:
            DamagedBackup: the file that tells it is damaged.
            NewerBackup: this version does not know its format.
        """
        content = store(self.root).get(name.key).bytes().to_bytes()
        told = _BACKUP.fullmatch(name.key)
        if told is None or not digest_of(content).startswith(told[2]):
            raise DamagedBackup(
                f"{self.root}/{name.key} is damaged: its content has another digest than its name tells",
                remedy="use another backup (`medallion backup --list`), and delete this file",
            )
        found = _json().validate_json(content)
        if found.format > FORMAT:
            raise NewerBackup(
                f"the backup {name.key} has format {found.format}, and this version of the platform knows "
                f"formats up to {FORMAT}. Nothing was read or written",
                remedy="install the version that made it or a newer one",
            )
        return found

    def newest(self) -> Backup | None:
        """The newest backup that can be read, None if there is none."""
        for name in self.names():
            try:
                return self.read(name)
            except DamagedBackup:
                continue
        return None

    def stored(self) -> dict[str, int]:
        """The size of every file that backups share, by its key."""
        return {f["path"]: f["size"] for f in store(self.root).list(f"{FILES}/").collect()}

    def write(self, backup: Backup) -> BackupName:
        """Write down what a backup holds: from then on it is there."""
        content = _json().dump_json(backup, indent=1)
        key = f"backups/{backup.at.strftime(_TIME)}-{digest_of(content)[:16]}.json"
        store(self.root).put(key, content)
        return BackupName(backup.at, key)

    def keep(self, folder: str, name: str, content: bytes, mark: str = "") -> KeptFile:
        """Store a file under the digest of its content."""
        digest = digest_of(content)
        key = f"{FILES}/{folder}/{digest}"
        store(self.root).put(key, content)
        return KeptFile(name, key, len(content), digest, mark)

    def content(self, file: KeptFile) -> bytes:
        """A file that was stored so.

        Raises:
            DamagedBackup: it is missing or damaged.
        """
        try:
            content = store(self.root).get(file.key).bytes().to_bytes()
        except FileNotFoundError:
            raise _damaged(self.root, file.key, "is gone") from None
        if digest_of(content) != file.digest:
            raise _damaged(self.root, file.key, "is damaged: its content has another digest")
        return content

    def prune(self, now: datetime) -> int:
        """Delete backups that are older than `KEPT`, never the newest, then what none needs; counts backups.

        To be called after a backup that lacks nothing: as long as something is damaged, the last good copy
        stays. If this is killed, the next call goes on.

        Raises:
            DamagedBackup: one that stays cannot be read, so what it needs is not known; no file was deleted.
        """
        names = self.names()
        expired = [name for name in names[1:] if name.at < now - KEPT]
        if not expired:
            return 0
        files = store(self.root)
        kept = [self.read(name) for name in names if name not in expired]
        files.delete([name.key for name in expired])
        needed = {key for backup in kept for key in backup.needed_files()}
        dead = [
            f["path"]
            for f in files.list(f"{FILES}/").collect()
            if f["path"] not in needed and f["last_modified"] < now - _YOUNG
        ]
        files.delete(dead)
        return len(expired)


def quarantine_key(path: str) -> str:
    """Where a file of the lake's quarantine lies, below the place."""
    return f"{FILES}/{path}"


def held_files(backup: Backup | None, stored: Mapping[str, int]) -> dict[str, set[str]]:
    """The data files of a backup that are stored still, by the folder of their table."""
    tables = backup.tables.values() if backup else ()
    return {t.folder: {f.path for f in t.files if stored.get(t.key(f)) == f.size} for t in tables}


def _damaged(root: str, key: str, why: str) -> DamagedBackup:
    return DamagedBackup(
        f"{root}/{key} {why}. Nothing of this table was restored",
        remedy="use another backup (`medallion backup --list` shows them, `--at` names one)",
    )


def digest_of(content: bytes) -> str:
    """What tells a content from every other one."""
    return hashlib.sha256(content).hexdigest()


@cache
def _json() -> TypeAdapter[Backup]:
    from pydantic import TypeAdapter

    return TypeAdapter(Backup)
