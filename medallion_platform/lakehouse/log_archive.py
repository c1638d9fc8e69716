"""Old commits of a long Delta log, packed into files of a thousand.

A continuously fed table gets a commit every half second: 170,000 a day. Opening or writing a table lists its
Delta log, which on a disk takes 15 milliseconds per thousand files, several times per commit. So commits that
are before a checkpoint, and not among the newest, are moved from `_delta_log` to `_log_archive`, where
`delta_log` finds them. To read an old version, they are put back first.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from obstore.exceptions import AlreadyExistsError

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.storage import at_once, create, store

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
            f"{path}/{_file(number)} is damaged ({error}): it has the commits from version {number * BUNDLE} "
            "on. Nothing was written; bring it back from a backup, or delete it, and what it tells of the "
            "table's history is gone, and run again"
        )


def commit_file(version: int) -> str:
    """Where Delta keeps a commit, below the table's folder."""
    return f"_delta_log/{version:020d}.json"


def commits(names: Iterable[str]) -> dict[int, str]:
    """Of a log's files the commits, by their version."""
    return _versions(_COMMIT, names)


def bundle(path: str, number: int) -> dict[int, bytes]:
    """The commits of a bundle by their version; none where it was not made.

    Raises:
        DamagedBundle: it cannot be read.
    """
    try:
        packed = store(path).get(_file(number)).bytes().to_bytes()
    except FileNotFoundError:
        return {}
    try:
        if not packed:  # gzip takes it for nothing that was packed
            raise EOFError("it is empty")
        lines = map(json.loads, gzip.decompress(packed).splitlines())
        return {line["version"]: line["commit"].encode() for line in lines}
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise DamagedBundle(path, number, error) from error


def archive(path: str, now: datetime | None = None) -> int:
    """Move old commits out of a table's log, and delete checkpoints that nobody needs; gives how many.

    Killed at any instant, or done by two at the same time, it loses nothing: a bundle is written as a
    whole, before the first of its commits is deleted.

    Raises:
        DamagedBundle: commits that were put back cannot be compared with what a bundle has of them.
    """
    now = now or datetime.now(UTC)
    files = store(path)
    modified = {f["path"]: f["last_modified"] for f in files.list("_delta_log").collect()}
    made, checkpoints = commits(modified), _versions(_CHECKPOINT, modified)
    # From this checkpoint on the log can be read, were all newer ones damaged.
    base = max((c for c in checkpoints if c <= max(made, default=0) - KEPT), default=0)
    first = {v // _CHECKPOINT_EVERY: v for v in sorted(checkpoints, reverse=True)}
    needed = {base, *first.values()}
    moved = 0
    with suppress(FileNotFoundError):  # somebody else does it at this moment
        for number, found in sorted(_by_bundle(_OF_VERSION, modified).items()):
            if (number + 1) * BUNDLE - 1 > base or any(modified[f] > now - _OTHERS for f in found):
                continue
            old = {v: f for v, f in made.items() if v // BUNDLE == number}
            if not _keep(path, number, old):
                continue
            begins = {f for f in found if _CHECKPOINT.fullmatch(f) and _version(f) in needed}
            files.delete(sorted(set(found) - begins))
            moved += len(old)
        expired = now - LOG_RETENTION
        files.delete([f["path"] for f in files.list(FOLDER).collect() if f["last_modified"] < expired])
    return moved


def put_back(path: str, version: int) -> int:
    """Put those commits back into the log that a reader of an old version needs; gives how many.

    They are those since the last checkpoint before it. `archive` takes them away again. What is newer
    than the log is none of this table's: the newest commits are never archived.
    """
    files = store(path)
    names = [f["path"] for f in files.list("_delta_log").collect()]
    made = commits(names)
    if version > max(made, default=-1):
        return 0
    base = max((c for c in _versions(_CHECKPOINT, names) if c <= version), default=-1)
    missing = [v for v in range(base + 1, version + 1) if v not in made]
    there = 0
    for number in sorted({v // BUNDLE for v in missing}):
        rolled = bundle(path, number)
        for v in (v for v in missing if v // BUNDLE == number and v in rolled):
            with suppress(AlreadyExistsError):
                files.put(commit_file(v), rolled[v], mode="create")
            there += 1
    return there


def take_over(path: str) -> None:
    """Bring a table's archive from where lakes of format 1 had it; done by two at the same time, or killed
    and done again, it is the same. What is brought counts as archived now, and is kept so much longer.
    """
    files = store(path)
    for old in sorted(f["path"] for f in files.list(f"{_FOLDER_OF_1}/").collect()):
        with suppress(FileNotFoundError):  # somebody else does it at this moment
            # Never in the place of one that is there: it may have been archived anew since.
            create(path, old.replace(_FOLDER_OF_1, FOLDER, 1), files.get(old).bytes().to_bytes())
            files.delete(old)


def made_since(path: str, since: datetime) -> Iterator[bytes]:
    """The commits of every bundle that was made since an instant."""
    for file in store(path).list(FOLDER).collect():
        if file["last_modified"] >= since:
            yield from bundle(path, _version(file["path"]) // BUNDLE).values()


def _keep(path: str, number: int, old: Mapping[int, str]) -> bool:
    """See to it that these commits are in their bundle; whether they are, and can leave the log.

    A whole bundle of others is of a table that was here before, or of what this one was before it was
    brought back from a backup. Single others are of a writer that began before the log was archived, and
    took a version that was free again: nobody sees what it wrote, which stays for whoever looks for it.

    Raises:
        DamagedBundle: a bundle is there, and cannot be read.
        FileNotFoundError: a commit is gone, because somebody else makes it.
    """
    files = store(path)
    texts = at_once(lambda file: files.get(file).bytes().to_bytes(), old.values())
    found, there = dict(zip(old, texts, strict=True)), bundle(path, number)
    if found.items() <= there.items():
        return True
    if there and len(found) < BUNDLE:
        return False
    lines = (json.dumps({"version": v, "commit": text.decode()}) for v, text in found.items())
    files.put(_file(number), gzip.compress("\n".join(lines).encode()))
    return True


def _file(number: int) -> str:
    return f"{FOLDER}/{number * BUNDLE:020d}.jsonl.gz"


def _by_bundle(kind: re.Pattern[str], files: Iterable[str]) -> dict[int, list[str]]:
    found: defaultdict[int, list[str]] = defaultdict(list)
    for file in files:
        if kind.fullmatch(file):
            found[_version(file) // BUNDLE].append(file)
    return found


def _versions(kind: re.Pattern[str], files: Iterable[str]) -> dict[int, str]:
    """The files of a kind by their version."""
    return {_version(file): file for file in sorted(files) if kind.fullmatch(file)}


def _version(file: str) -> int:
    found = _NUMBER.search(file)
    assert found is not None
    return int(found[0])
