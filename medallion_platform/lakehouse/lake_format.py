"""The format version of a lake: of its commit records, registries, dead letters and archives.

A file `_medallion/format/<n>.json` says that a lake has reached format n; the highest one counts. Each is
created once, by a request that fails if it exists, and never changed. So two processes cannot disagree, on a
disk or in a bucket, and none can set a lake back to an earlier format. A lake without any is of format 1, or
empty.

Work on a lake begins with `open_lake`: it marks a new one, migrates an older one, refuses a newer one.
Commands that only read use `open_to_look`, which refuses an older one too and changes nothing.

A migration is a list of steps, each of which finds out what is left to do: it can be killed anywhere and
repeated, and two at the same time do no harm. The mark is written last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

from medallion_platform import storage
from medallion_platform.errors import Kind, MedallionError
from medallion_platform.lakehouse import dead_letters, log_archive
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.commit_record import FORMAT
from medallion_platform.lakehouse.lake import DamagedLog, Lake

_MARKS = "_medallion/format"
_MARK = re.compile(rf"{_MARKS}/(\d+)\.json")
_ATTEMPTS = 5
_LAYERS = ("bronze", "silver", "gold", "dead_letters", "files")
"""The folders of all tables, and of those that are kept beside them."""


class NewerLake(MedallionError):
    """A lake has a format that this version does not know; nothing of it was read or written."""

    kind = Kind.PERMANENT


class OlderLake(MedallionError):
    """A lake has an older format than this version's, and who asked only looks; nothing of it was changed."""

    kind = Kind.PERMANENT


def open_to_look(root: Path | str) -> Lake:
    """The lake at a root as it is: nothing is written, not even where it is new.

    Raises:
        NewerLake: a newer version of the platform has written it.
        OlderLake: an older version has written it, and none that works on it has opened it since.
        storage.Unusable: it cannot be reached.
    """
    found = _known_format(str(root))
    if 0 < found < FORMAT:
        raise OlderLake(
            f"the lake at {root} has format {found}, which an older version wrote; this one "
            f"({version('medallion-platform')}) reads format {FORMAT}. Nothing was changed",
            table=str(root),
            remedy="end workers of the older version, then `medallion run` brings the lake up to date once",
        )
    return Lake(root)


def open_lake(root: Path | str) -> Lake:
    """The lake at a root, in the format of this version: it is made so where it is new or older.

    Asked once in a process.

    Raises:
        NewerLake: a newer version of the platform has written it.
    """
    bring_up(str(root))
    return Lake(root)


def open_to_write(root: Path | str) -> Lake:
    """The same, to be written to: on storage in which no writer overwrites another one's commit.

    Raises:
        NewerLake: a newer version of the platform has written it.
        storage.Unusable: it cannot be reached, or cannot hold tables.
    """
    storage.prove(str(root))
    return open_lake(root)


@cache
def bring_up(root: str) -> None:
    """See to it that a lake has the format of this version.

    Raises:
        NewerLake: a newer version of the platform has written it.
        storage.Unusable: where it lies cannot be reached; or it is new or older, and lies in a bucket that
            cannot hold tables.
    """
    found = _known_format(root)
    if found < FORMAT:
        storage.prove(root)
    if not found:
        mark(root, FORMAT)
    for after in range(found or FORMAT, FORMAT):
        for step in _MIGRATIONS[after]:
            step(root)
        mark(root, after + 1)


def _known_format(root: str) -> int:
    """The format of a lake, 0 where there is nothing yet.

    Raises:
        NewerLake: this version does not know it.
        storage.Unusable: where it lies cannot be reached.
    """
    with storage.reaching(root):
        found = format_of(root)
    if found > FORMAT:
        raise NewerLake(
            f"the lake at {root} has format {found}, and this version of the platform "
            f"({version('medallion-platform')}) knows formats up to {FORMAT}. Nothing was read or written",
            table=root,
            remedy="install the version that wrote it or a newer one, or name another lake by MEDALLION_LAKE",
        )
    return found


def format_of(root: str) -> int:
    """The format of a lake; 0 where there is nothing yet."""
    listed = storage.store(root).list(f"{_MARKS}/").collect()
    if found := [int(match[1]) for f in listed if (match := _MARK.fullmatch(f["path"]))]:
        return max(found)
    return 1 if any(_tables(root)) else 0


def mark(root: str, reached: int) -> None:
    """Say that a lake has reached a format."""
    said = {"format": reached, "platform": version("medallion-platform"), "at": f"{datetime.now(UTC):%F %T}Z"}
    storage.create(root, f"{_MARKS}/{reached}.json", json.dumps(said).encode())


def _tables(root: str) -> Iterator[str]:
    """The folders of all tables, those of dead letters and registries among them."""
    for layer in _LAYERS:
        yield from sorted(storage.store(root).list_with_delimiter(layer)["common_prefixes"])


def _letters_name_partitions(root: str) -> None:
    """Dead letters called the column `partition` `unit`. No file is written anew: readers know both names.

    A table whose log is damaged is left: it gets the column with the next letter.
    """
    folders = storage.store(root).list_with_delimiter(dead_letters.LAYER)["common_prefixes"]
    for folder in sorted(folders):
        with suppress(DamagedLog):
            _until_nobody_is_first(partial(_give_columns, Lake(root), folder.replace("/", ".", 1)))


def _give_columns(lake: Lake, letters: str) -> None:
    if (found := lake.open(letters)) is not None:
        dead_letters.bring_up(found)


def _until_nobody_is_first(work: Callable[[], None]) -> None:
    """Do it again where another writer came first: it may be who migrates beside this process."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(CommitConflict):
            return work()
    return work()


def _archives_by_their_name(root: str) -> None:
    """Log archives lay in folders named `_rolled_log`."""
    storage.at_once(lambda folder: log_archive.take_over(f"{root}/{folder}"), _tables(root))


_MIGRATIONS: dict[int, tuple[Callable[[str], None], ...]] = {
    1: (_letters_name_partitions, _archives_by_their_name),
}
"""The steps that bring a lake from a format to the next one."""
