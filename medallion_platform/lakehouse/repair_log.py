"""Make a damaged Delta log whole: a checkpoint that is lost or damaged, and commits in its midst.

What a log lacks may be in its archive or in a backup. All is tried in a folder of its own first; the log
itself changes only once the table has opened there. A commit that can be read is never touched, nor is any
data file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from medallion_platform.lakehouse import log_archive
from medallion_platform.lakehouse.backup_place import BackupPlace, DamagedBackup
from medallion_platform.lakehouse.backup_tables import checkpoint_of, commits_of
from medallion_platform.lakehouse.delta_log import commit_text
from medallion_platform.lakehouse.guard import UNGUARDED, Guard
from medallion_platform.lakehouse.lake import DamagedLog, Lake
from medallion_platform.lakehouse.log_archive import checkpoint_file, commit_file
from medallion_platform.storage import create_file, run_in_parallel, store

_LAST_CHECKPOINT = "_delta_log/_last_checkpoint"
_MOST = 5
"""Versions that a sentence lists."""


@dataclass(frozen=True)
class _Checkpoint:
    """From where a log can be read: the state at a version, or (-1) nothing, before the first commit.

    content: reads it. ours: whether it is in the lake, and not in a backup.
    """

    version: int = -1
    content: Callable[[], bytes] | None = None
    ours: bool = False


@dataclass(frozen=True)
class _Log:
    """Commits by version, and checkpoints. newest: of the versions that the log of the lake names."""

    commits: Mapping[int, bytes]
    checkpoints: Sequence[_Checkpoint] = ()
    newest: int = -1


def repair_log(lake: Lake, table: str, place: BackupPlace | None = None, guard: Guard = UNGUARDED) -> str:
    """Make the Delta log of a table whole, and give it a new checkpoint; returns what was done, in words.

    Nothing is done to a log that can be read (""). It can be killed at any point and done again, and others
    may commit meanwhile. place: of backups, if any are made. guard: is asked before the log is changed.

    Commits at the end of a log that are gone leave no trace in it: they are not missed.

    Raises:
        DamagedLog: nothing that is there makes it whole; the text says what it lacks.
        NotAllowed: the guard refuses; nothing was changed.
    """
    try:
        lake.open(table)
    except DamagedLog as damage:
        return _repair(lake, table, place, guard, damage)
    return ""


def _repair(lake: Lake, table: str, place: BackupPlace | None, guard: Guard, damage: DamagedLog) -> str:
    path = lake.path(table)
    own, damaged, lacking = _log_at(path), set[int](), list[int]()
    for other in chain([_Log({})], _logs_in_backups(place, table, own)):
        for begin in _latest_first([*own.checkpoints, *other.checkpoints, _Checkpoint()]):
            wanted = range(begin.version + 1, own.newest + 1)
            commits = _commits(path, wanted, own, other)
            if missing := [version for version in wanted if version not in commits]:
                lacking = lacking or missing
                continue
            with TemporaryDirectory(prefix="medallion-log-") as folder:
                if not _make_checkpoint(folder, begin, commits, own.newest):
                    damaged |= {begin.version} if begin.ours else set()
                    continue
                guard.check()
                back = {version: text for version, text in commits.items() if version not in own.commits}
                _put(path, back, damaged, folder, own.newest)
            lake.open(table)
            return _in_words(table, back, damaged, own.newest)
    raise _left_to_a_person(table, path, damaged, lacking, place) if lacking else damage


def _latest_first(checkpoints: Iterable[_Checkpoint]) -> list[_Checkpoint]:
    return sorted(checkpoints, key=lambda checkpoint: checkpoint.version, reverse=True)


def _log_at(path: str) -> _Log:
    """What can be read of a log. A checkpoint is tried by who opens a table from it."""
    names = [file["path"] for file in store(path).list("_delta_log").collect()]
    there, checkpoints = log_archive.commits_by_version(names), log_archive.checkpoints_by_version(names)
    texts = zip(there, run_in_parallel(partial(commit_text, path), there), strict=True)
    commits = {version: text for version, text in texts if text and _is_commit(text)}
    found = [
        _Checkpoint(version, partial(_content, path, name), True) for version, name in checkpoints.items()
    ]
    return _Log(commits, found, max([*there, *checkpoints], default=-1))


def _content(path: str, name: str) -> bytes:
    return store(path).get(name).bytes().to_bytes()


def _is_commit(text: bytes) -> bool:
    """Whether a text is one of actions, one a line (PROTOCOL.md, "Delta Log Entries")."""
    try:
        lines = [json.loads(line) for line in text.splitlines() if line]
    except ValueError:
        return False
    return bool(lines) and all(isinstance(line, dict) and line for line in lines)


def _logs_in_backups(place: BackupPlace | None, table: str, own: _Log) -> Iterator[_Log]:
    """What backups have of a log, the newest first.

    Only what came before a commit that both have, and if they differ in none: a log that was restored from
    an older backup has other commits under the numbers of those that it lost.
    """
    for name in place.names() if place else ():
        with suppress(DamagedBackup):
            assert place is not None
            held = place.read(name).tables.get(table)
            if held is None:
                continue
            checkpoint = checkpoint_of(place, held)
            begin = log_archive.version_in_name(checkpoint[0]) if checkpoint else 0
            commits = {v: text for v, text in commits_of(place, held, begin) if v <= own.newest}
            both = commits.keys() & own.commits.keys()
            if both and all(commits[version] == own.commits[version] for version in both):
                until = max(both)
                before = {version: text for version, text in commits.items() if version < until}
                kept = [_Checkpoint(begin, partial(bytes, checkpoint[1]))] if checkpoint else []
                yield _Log(before, kept if begin < until else [])


def _commits(path: str, wanted: range, own: _Log, other: _Log) -> dict[int, bytes]:
    """Those of these commits that there are: in the log, in its archive, or in another one."""
    found = {version: own.commits[version] for version in wanted if version in own.commits}
    for number in sorted({version // log_archive.BUNDLE for version in wanted if version not in found}):
        with suppress(log_archive.DamagedBundle):
            archived = log_archive.read_bundle(path, number)
            # A bundle of an earlier table has other commits.
            if all(archived[v] == own.commits[v] for v in archived.keys() & own.commits.keys()):
                found = {v: text for v, text in archived.items() if v in wanted} | found
    return {version: other.commits[version] for version in wanted if version in other.commits} | found


def _make_checkpoint(folder: str, begin: _Checkpoint, commits: Mapping[int, bytes], version: int) -> bool:
    """Whether a table of these parts opens in an empty folder, and gets a checkpoint of its version there."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    files = store(folder)
    if begin.content:
        files.put(checkpoint_file(begin.version), begin.content())
    for number, text in commits.items():
        files.put(commit_file(number), text)
    try:
        DeltaTable(folder, version=version).create_checkpoint()
    except DeltaError:
        return False
    return True


def _put(path: str, commits: Mapping[int, bytes], damaged: set[int], made: str, version: int) -> None:
    """Bring what is missing into a log; what names the new checkpoint comes last.

    Where Spark wrote a log into a folder, each file has a hidden one with its checksum, which would refuse
    what is new.
    """
    files = store(path)
    for number, text in commits.items():
        if not create_file(path, commit_file(number), text):
            files.put(commit_file(number), text)  # it was damaged
    names = [*map(checkpoint_file, damaged), checkpoint_file(version), _LAST_CHECKPOINT]
    gone = [*map(checkpoint_file, damaged), *map(_checksum_file, [*names, *map(commit_file, commits)])]
    there = {file["path"] for file in files.list("_delta_log").collect()}
    files.delete([name for name in gone if name in there])
    for name in (checkpoint_file(version), _LAST_CHECKPOINT):
        files.put(name, Path(made, name).read_bytes())


def _checksum_file(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return f"{folder}/.{file}.crc"


def _in_words(table: str, commits: Iterable[int], damaged: Iterable[int], version: int) -> str:
    done = [f"commits {_numbers(commits)} were put back"] if commits else []
    done += [f"the damaged checkpoints {_numbers(damaged)} were deleted"] if damaged else []
    return f"the Delta log of {table}: {', '.join([*done, f'a checkpoint of version {version} was made'])}"


def _numbers(versions: Iterable[int]) -> str:
    """Versions in words, at most some of them."""
    told = [str(version) for version in sorted(versions)]
    return ", ".join(told) if len(told) <= _MOST else f"{told[0]} to {told[-1]} ({len(told)} in all)"


def _left_to_a_person(
    table: str, path: str, damaged: Iterable[int], missing: list[int], place: BackupPlace | None
) -> DamagedLog:
    read = f"its checkpoints {_numbers(damaged)} are damaged, " if damaged else ""
    where = f"no backup at {place.root} is of this log and has them" if place else "no backups are made"
    return DamagedLog(
        table,
        path,
        f"{read}its commits {_numbers(missing)} are missing or damaged, its archive lacks them, and {where}",
        "put copies of your own in their place and run again; or move the table's folder out of the lake, "
        f"and `medallion restore --table {table}` brings it back as the newest backup has it",
    )
