"""Reads a table's Delta log: which partitions changed since a version, and how.

The log is read as the Delta protocol defines it (PROTOCOL.md, "Actions"): one JSON file per commit, one
action per line. Archived commits are read from `log_archive`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.lakehouse import log_archive
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.log_archive import commit_file
from medallion_platform.storage import file_mark, in_bucket, run_in_parallel, store, text_digest

LogEntry = dict[str, Any]
"""A JSON object of a Delta log, an action or a commit's info: its fields depend on writer and table."""

FileEntry = dict[str, Any]
"""A data file as delta-rs lists it: `path`, `size_bytes`, `num_records`, and `partition.*`, `min.*`, `max.*`
and `null_count.*`, whose names and types are those of the table's columns."""

_AT_MOST = 64
_CLOCK_NS = 3_000_000_000
"""The coarsest clock of a file system ticks every two seconds."""


class LogGone(MedallionError):
    """A commit that is needed is no longer in the log (cleaned up after the log retention)."""

    kind = Kind.POSITION_LOST


class FilesGone(MedallionError):
    """Files that a commit added are deleted or damaged by now: the log reaches further back than they do."""

    kind = Kind.POSITION_LOST


@dataclass(frozen=True)
class Commit:
    """What one commit did to the data: partitions that only grew, partitions with rows taken away."""

    version: int
    appended: frozenset[str] = frozenset()
    rewritten: frozenset[str] = frozenset()
    record: CommitRecord | None = None


@dataclass
class PartitionChanges:
    """Partitions that changed since a position, by what happened to them."""

    appended: set[str] = field(default_factory=set)
    rewritten: set[str] = field(default_factory=set)

    @property
    def all(self) -> set[str]:
        """Every partition that changed in any way."""
        return self.appended | self.rewritten

    def __or__(self, later: PartitionChanges) -> PartitionChanges:
        """What happened to partitions in either of two stretches of a log."""
        rewritten = self.rewritten | later.rewritten
        return PartitionChanges((self.appended | later.appended) - rewritten, rewritten)


def commits(path: str, since: int, until: int, partition_column: str | None) -> Iterator[Commit]:
    """The commits after version `since` up to and including `until`.

    Compaction and clustering (dataChange false) change no row and show as empty commits.

    Raises:
        LogGone: a commit in that range is no longer there.
    """
    for version, found in actions(path, range(since + 1, until + 1)):
        yield _parse(version, found, partition_column)


def touched(
    changes: Iterable[Commit],
    base: int,
    ahead: dict[str, int],
    reach: Callable[[str], Iterable[str]] = lambda partition: (partition,),
) -> PartitionChanges:
    """Partitions that changed after the version they were last made from.

    A partition in `ahead` was made from a later version than `base`, all others from `base`. reach: the
    partitions, in the terms of `ahead`, that are made from a partition of the commits (a day is in a week,
    and in the windows of the days after it).
    """
    found = PartitionChanges()
    for commit in changes:
        if commit.version <= base:
            continue
        for partitions, into in ((commit.appended, found.appended), (commit.rewritten, found.rewritten)):
            reached = {made for partition in partitions for made in reach(partition)}
            into.update(u for u in reached if commit.version > ahead.get(u, base))
    found.appended -= found.rewritten
    return found


def actions(path: str, versions: Sequence[int]) -> Iterator[tuple[int, list[LogEntry]]]:
    """Each of these versions, in their order, with the actions of its commit.

    Raises:
        LogGone: one of them is no longer there; those before it were given.
    """
    for version, text in texts(path, versions):
        yield version, [json.loads(line) for line in text.splitlines() if line]


def files_added(path: str, since: int, until: int) -> Iterator[LogEntry]:
    """The `add` actions, upkeep left out, of the commits after `since` up to `until`.

    Raises:
        LogGone: one of these commits is no longer in the log.
    """
    for _, found in actions(path, range(since + 1, until + 1)):
        for action in found:
            added = action.get("add")
            if added and added.get("dataChange", True):
                yield added


def texts(path: str, versions: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Each of these versions, in their order, with its commit as it was written.

    Raises:
        LogGone: one of them is no longer there; those before it were given.
    """
    for number, group in groupby(versions, lambda version: version // log_archive.BUNDLE):
        wanted = list(group)
        given = 0
        for version, text in _in_log(path, wanted):
            yield version, text
            given += 1
        rolled = log_archive.read_bundle(path, number) if given < len(wanted) else {}
        for version in wanted[given:]:
            if version not in rolled:
                raise LogGone(f"{path}: version {version} is no longer in the log")
            yield version, rolled[version]


def commit_text(path: str, version: int) -> bytes | None:
    """A commit as it was written, None where it is not in the log, or no longer."""
    try:
        return store(path).get(commit_file(version)).bytes().to_bytes()
    except FileNotFoundError:
        return None


def infos(path: str, newest: int, after: int = -1) -> Iterator[LogEntry]:
    """What each commit says of itself (`commitInfo`, with its `version`), newest first.

    after: the version to stop before.

    Raises:
        LogGone: the next one is no longer there; those before it were given.
    """
    for version, text in texts(path, range(newest, after, -1)):
        yield {**_info(text), "version": version}


def is_newest(path: str, version: int) -> bool:
    """Whether nobody committed after a version. Asks for one file by its name: a log is long to list."""
    return mark(path, version + 1) is None


def mark(path: str, version: int) -> str | None:
    """What tells a commit from every other in its place, None where it is not in the log, or no longer."""
    if not in_bucket(path):
        try:
            return file_mark(os.stat(f"{path}/{commit_file(version)}"))  # noqa: PTH116  # asked a lot
        except (FileNotFoundError, NotADirectoryError):
            return None
    try:
        found = store(path).head(commit_file(version))
    except FileNotFoundError:
        return None
    return found["e_tag"] or str((found["size"], found["last_modified"]))


def fingerprint(path: str) -> str | None:
    """What tells a Delta log with its archive from all that was or will be in their place, by every file.

    It never comes back once anything has changed, so what is kept under the one taken before reading is true
    whenever it is found. None if it could come back: something changed so recently that another change could
    get the same time, or the clock was set back. None also if there is no Delta log, and in a bucket, where
    listing it costs as much as opening it.
    """
    if in_bucket(path):
        return None
    try:
        found = [*_stats(Path(path, "_delta_log")), *_stats(Path(path, log_archive.FOLDER))]
    except OSError:  # whoever opens it says why
        return None
    settled = time.time_ns() - _CLOCK_NS
    if not found or any(max(told.st_mtime_ns, told.st_ctime_ns) > settled for _, told in found):
        return None
    return text_digest(*sorted(f"{name} {file_mark(told)}" for name, told in found))


def _stats(folder: Path) -> list[tuple[str, os.stat_result]]:
    """A folder and all that is in it; nothing if it does not exist."""
    try:
        with os.scandir(folder) as entries:
            return [(folder.name, folder.stat()), *((entry.name, entry.stat()) for entry in entries)]
    except FileNotFoundError:
        return []


def _in_log(path: str, versions: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """These commits, up to the first that is not there; ever more at once."""
    begin, size = 0, 1
    while begin < len(versions):
        chunk = versions[begin : begin + size]
        for version, text in zip(chunk, run_in_parallel(partial(commit_text, path), chunk), strict=True):
            if text is None:
                return
            yield version, text
        begin, size = begin + size, min(2 * size, _AT_MOST)


def _info(text: bytes) -> LogEntry:
    """What a commit says of itself; its other lines, which may be many, are not parsed."""
    for line in text.splitlines():
        if b'"commitInfo"' in line and "commitInfo" in (action := json.loads(line)):
            return action["commitInfo"]
    return {}


def _parse(version: int, actions: list[LogEntry], partition_column: str | None) -> Commit:
    appended: set[str] = set()
    rewritten: set[str] = set()
    record = None
    for action in actions:
        if "commitInfo" in action:
            record = CommitRecord.from_json(action["commitInfo"].get("userMetadata"))
        for kind, into in (("add", appended), ("remove", rewritten)):
            if kind in action and action[kind].get("dataChange", True):
                if partition_column is None:
                    into.add(UNPARTITIONED)
                else:
                    into.add(action[kind].get("partitionValues", {}).get(partition_column) or UNPARTITIONED)
                if kind == "add" and action[kind].get("deletionVector"):
                    rewritten.add(next(iter(into)) if partition_column is None else UNPARTITIONED)
    return Commit(version, frozenset(appended - rewritten), frozenset(rewritten), record)
