"""Old commits of a long Delta log, packed into files of a thousand.

A continuously fed table gets a commit every half second: 170,000 a day. Opening or writing a table lists its
Delta log, which on a disk takes 15 milliseconds per thousand files, several times per commit. So commits that
are before a checkpoint, and not among the newest, are moved from `_delta_log` to `_log_archive`, where
`delta_log` finds them. To read an old version, they are put back first.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from obstore.exceptions import AlreadyExistsError

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.storage import create_file, run_in_parallel, store

FOLDER = "_log_archive"
"""Below the table's folder; Delta leaves alone what begins with an underscore."""
_FOLDER_OF_1 = "_rolled_log"
"""What it was called in lakes of format 1."""
BUNDLE = 1_000
"""Versions of a file: bundle 3 has 3,000 to 3,999."""
KEPT = 1_000
"""The newest commits, which stay where every Delta reader looks for them."""
LOG_RETENTION = timedelta(days=60)
"""How long a commit can be asked for."""

_LOG = logging.getLogger(__name__)
_CHECKPOINT_EVERY = 10_000
"""Of so many versions the first checkpoint is kept: who reads an old version begins there."""
_OTHERS = timedelta(hours=1)
"""A commit so young may be part of what somebody is just reading, or be what a writer began from: Spark takes
the version behind that without a look at the log, and would commit where nobody reads."""
_NUMBER = re.compile(r"\d{20}")
_OF_VERSION = re.compile(r"_delta_log/\.?(\d{20})\..*")
_COMMIT = re.compile(r"_delta_log/(\d{20})\.json")
_CHECKPOINT = re.compile(r"_delta_log/(\d{20})\.checkpoint\.parquet")
"""One in several parts may lack some, where who wrote it died: nothing is made to depend on it."""


class DamagedBundle(MedallionError):
    """A file of old commits cannot be read; the text says which, and what to do."""

    kind = Kind.CORRUPT

    def __init__(self, path: str, number: int, error: Exception) -> None:
        super().__init__(
            f"{path}/{bundle_file(number)} is damaged ({error}): it has the commits from version "
            f"{number * BUNDLE} on. Nothing was written",
            remedy="restore it from a backup and run again, or delete it; then this part of the table's "
            "history is gone",
        )


def commit_file(version: int) -> str:
    """The path of a commit's file, below the table's folder."""
    return f"_delta_log/{version:020d}.json"


def bundle_file(number: int) -> str:
    """The path of a bundle, below the table's folder."""
    return f"{FOLDER}/{number * BUNDLE:020d}.jsonl.gz"


def newest_checkpoint(path: str, version: int) -> int | None:
    """The newest checkpoint in a log up to a version, in one file, None if there is none."""
    names = [f["path"] for f in store(path).list("_delta_log").collect()]
    return max((c for c in checkpoints_by_version(names) if c <= version), default=None)


def checkpoint_file(version: int) -> str:
    """The path of a checkpoint, below the table's folder."""
    return f"_delta_log/{version:020d}.checkpoint.parquet"


def commits_by_version(names: Iterable[str]) -> dict[int, str]:
    """The commits among the files of a log, by version."""
    return _files_by_version(_COMMIT, names)


def checkpoints_by_version(names: Iterable[str]) -> dict[int, str]:
    """The checkpoints in one file among the files of a log, by version."""
    return _files_by_version(_CHECKPOINT, names)


def read_bundle(path: str, number: int) -> dict[int, bytes]:
    """The commits of a bundle by version; none if the bundle does not exist.

    Raises:
        DamagedBundle: it cannot be read.
    """
    try:
        packed = store(path).get(bundle_file(number)).bytes().to_bytes()
    except FileNotFoundError:
        return {}
    try:
        return unpack_commits(packed)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise DamagedBundle(path, number, error) from error


def pack_commits(commits: Mapping[int, bytes]) -> bytes:
    """Commits by version as one compressed file; the same commits give the same file."""
    lines = (json.dumps({"version": v, "commit": text.decode()}) for v, text in commits.items())
    return gzip.compress("\n".join(lines).encode(), mtime=0)


def unpack_commits(packed: bytes) -> dict[int, bytes]:
    """The commits by version in such a file.

    Raises:
        EOFError, OSError, ValueError, zlib.error: it is damaged.
    """
    if not packed:  # gzip takes it for nothing that was packed
        raise EOFError("it is empty")
    lines = map(json.loads, gzip.decompress(packed).splitlines())
    return {line["version"]: line["commit"].encode() for line in lines}


def archive_log(path: str, now: datetime | None = None) -> int:
    """Move old commits out of a table's log, and delete unneeded checkpoints; returns the number of commits.

    Nothing is lost if this is killed at any point or done by two processes at the same time: a bundle is
    written completely before its first commit is deleted.

    Raises:
        DamagedBundle: a bundle that commits must be compared with cannot be read.
    """
    now = now or datetime.now(UTC)
    files = store(path)
    modified = {f["path"]: f["last_modified"] for f in files.list("_delta_log").collect()}
    by_version, checkpoints = commits_by_version(modified), checkpoints_by_version(modified)
    # From this checkpoint on the log can be read, were all newer ones damaged.
    base = max((c for c in checkpoints if c <= max(by_version, default=0) - KEPT), default=0)
    first = {v // _CHECKPOINT_EVERY: v for v in sorted(checkpoints, reverse=True)}
    needed = {base, *first.values()}
    moved = 0
    with suppress(FileNotFoundError):  # somebody else does it at this moment
        for number, found in sorted(_files_by_bundle(_OF_VERSION, modified).items()):
            if (number + 1) * BUNDLE - 1 > base or any(modified[f] > now - _OTHERS for f in found):
                continue
            old = {v: f for v, f in by_version.items() if v // BUNDLE == number}
            if not _store_bundle(path, number, old):
                continue
            begins = {f for f in found if _CHECKPOINT.fullmatch(f) and version_in_name(f) in needed}
            files.delete(sorted(set(found) - begins))
            moved += len(old)
        expired = now - LOG_RETENTION
        files.delete([f["path"] for f in files.list(FOLDER).collect() if f["last_modified"] < expired])
    if moved:
        _LOG.info("%s: %s commits archived", path, moved, extra={"path": path, "commits": moved})
    return moved


def put_back_commits(path: str, version: int) -> int:
    """Put the commits back into the log that are needed to read an old version; returns their number.

    These are the commits since the last checkpoint before the version. `archive_log` moves them out again.
    Archived commits that are newer than the log belong to an earlier table: the newest are never archived.
    """
    files = store(path)
    names = [f["path"] for f in files.list("_delta_log").collect()]
    by_version = commits_by_version(names)
    if version > max(by_version, default=-1):
        return 0
    base = max((c for c in checkpoints_by_version(names) if c <= version), default=-1)
    missing = [v for v in range(base + 1, version + 1) if v not in by_version]
    there = 0
    for number in sorted({v // BUNDLE for v in missing}):
        rolled = read_bundle(path, number)
        for v in (v for v in missing if v // BUNDLE == number and v in rolled):
            with suppress(AlreadyExistsError):
                files.put(commit_file(v), rolled[v], mode="create")
            there += 1
    return there


def move_old_archive(path: str) -> None:
    """Move a table's archive from its place in lakes of format 1. Two processes may do it at the same time,
    and it may be killed and repeated. Moved bundles count as archived now, so they are kept longer.
    """
    files = store(path)
    for old in sorted(f["path"] for f in files.list(f"{_FOLDER_OF_1}/").collect()):
        with suppress(FileNotFoundError):  # somebody else does it at this moment
            # Never in the place of one that is there: it may have been archived anew since.
            create_file(path, old.replace(_FOLDER_OF_1, FOLDER, 1), files.get(old).bytes().to_bytes())
            files.delete(old)


def commits_archived_since(path: str, since: datetime) -> Iterator[bytes]:
    """The commits of every bundle that was made after an instant."""
    for file in store(path).list(FOLDER).collect():
        if file["last_modified"] >= since:
            yield from read_bundle(path, version_in_name(file["path"]) // BUNDLE).values()


def _store_bundle(path: str, number: int, old: Mapping[int, str]) -> bool:
    """Put these commits into their bundle; returns whether they are in it and can leave the log.

    A bundle with entirely different commits is from an earlier table at this path, or from before this table
    was restored from a backup. Single different commits are from a writer that started before the log was
    archived and took a version number that was free again: they are invisible, but stay in the log.

    Raises:
        DamagedBundle: the bundle exists and cannot be read.
        FileNotFoundError: a commit is gone, because another process is archiving it.
    """
    files = store(path)
    texts = run_in_parallel(lambda file: files.get(file).bytes().to_bytes(), old.values())
    found, there = dict(zip(old, texts, strict=True)), read_bundle(path, number)
    if found.items() <= there.items():
        return True
    if there and len(found) < BUNDLE:
        return False
    files.put(bundle_file(number), pack_commits(found))
    return True


def _files_by_bundle(kind: re.Pattern[str], files: Iterable[str]) -> dict[int, list[str]]:
    found: defaultdict[int, list[str]] = defaultdict(list)
    for file in files:
        if kind.fullmatch(file):
            found[version_in_name(file) // BUNDLE].append(file)
    return found


def _files_by_version(kind: re.Pattern[str], files: Iterable[str]) -> dict[int, str]:
    """The files of a kind by version."""
    return {version_in_name(file): file for file in sorted(files) if kind.fullmatch(file)}


def version_in_name(file: str) -> int:
    """The version in the name of a commit or a checkpoint, and the first one of a bundle."""
    found = _NUMBER.search(file)
    assert found is not None
    return int(found[0])
