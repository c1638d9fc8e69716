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
import logging
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

_LOG = logging.getLogger(__name__)
_MARKS = "_medallion/format"
RESTORING = f"{_MARKS}/restoring.json"
"""Is there while a backup is restored into a lake, and stays where that was killed: nobody may work on it."""
_MARK = re.compile(rf"{_MARKS}/(\d+)\.json")
_ATTEMPTS = 5
_LAYERS = ("bronze", "silver", "gold", "dead_letters", "files")
"""The folders of all tables, and of those that are kept beside them."""


class NewerLake(MedallionError):
    """A lake has a newer format than this version knows; nothing was read or written."""

    kind = Kind.PERMANENT


class OlderLake(MedallionError):
    """A lake has an older format, and the command only reads; nothing was changed."""

    kind = Kind.PERMANENT


class HalfRestored(MedallionError):
    """A backup is being restored into a lake, or was when that was killed; nothing was read or written."""

    kind = Kind.PERMANENT


def open_to_look(root: Path | str) -> Lake:
    """The lake at a root, for reading: nothing is written, even if it is new.

    Raises:
        HalfRestored: a backup is being restored into it.
        NewerLake: a newer version of the platform has written it.
        OlderLake: an older version has written it, and it has not been migrated yet.
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
    """The lake at a root, in the format of this version; a new or older lake is initialized or migrated.

    The format is checked once in a process.

    Raises:
        NewerLake: a newer version of the platform has written it.
    """
    migrate_lake(str(root))
    return Lake(root)


def open_to_write(root: Path | str) -> Lake:
    """The same, for writing: the storage must not let a writer overwrite another writer's commit.

    Raises:
        NewerLake: a newer version of the platform has written it.
        storage.Unusable: it cannot be reached, or cannot hold tables.
    """
    storage.refuse_unsafe_bucket(str(root))
    return open_lake(root)


def open_to_restore(root: Path | str) -> Lake:
    """The lake at a root that nobody else works on, because it is being restored.

    Raises:
        storage.Unusable: it cannot be reached, or cannot hold tables.
    """
    storage.refuse_unsafe_bucket(str(root))
    return Lake(root)


@cache
def migrate_lake(root: str) -> None:
    """Bring a lake to the format of this version.

    Raises:
        NewerLake: a newer version of the platform has written it.
        storage.Unusable: it cannot be reached; or it is new or older, and is in a bucket that cannot store
            tables.
    """
    found = _known_format(root)
    if found < FORMAT:
        storage.refuse_unsafe_bucket(root)
    if not found:
        write_format(root, FORMAT)
    for after in range(found or FORMAT, FORMAT):
        for step in _MIGRATIONS[after]:
            step(root)
            fields = {"lake": root, "format": after + 1, "step": step.__name__.strip("_")}
            _LOG.info("%s: %s, for format %s", root, fields["step"], after + 1, extra=fields)
        write_format(root, after + 1)
        _LOG.info("%s: has format %s", root, after + 1, extra={"lake": root, "format": after + 1})


def _known_format(root: str) -> int:
    """The format of a lake, 0 if there is nothing yet.

    Raises:
        NewerLake: this version does not know it.
        storage.Unusable: it cannot be reached.
    """
    with storage.explain_unreachable(root):
        found = read_format(root)
    if found > FORMAT:
        raise NewerLake(
            f"the lake at {root} has format {found}, and this version of the platform "
            f"({version('medallion-platform')}) knows formats up to {FORMAT}. Nothing was read or written",
            table=root,
            remedy="install the version that wrote it or a newer one, or name another lake by MEDALLION_LAKE",
        )
    return found


def read_format(root: str) -> int:
    """The format of a lake; 0 if there is nothing yet.

    Raises:
        HalfRestored: a backup is being restored into it.
    """
    listed = storage.store(root).list(f"{_MARKS}/").collect()
    if any(f["path"] == RESTORING for f in listed):
        raise HalfRestored(
            f"a backup is being restored into the lake {root}. Nothing was read or written",
            table=root,
            remedy="wait until that is done; if it was killed, run the same `medallion restore` again, which "
            "continues",
        )
    if found := [int(match[1]) for f in listed if (match := _MARK.fullmatch(f["path"]))]:
        return max(found)
    return 1 if any(_table_folders(root)) else 0


def write_format(root: str, reached: int) -> None:
    """Record that a lake has reached a format."""
    content = {
        "format": reached,
        "platform": version("medallion-platform"),
        "at": f"{datetime.now(UTC):%F %T}Z",
    }
    storage.create_file(root, f"{_MARKS}/{reached}.json", json.dumps(content).encode())


def _table_folders(root: str) -> Iterator[str]:
    """The folders of all tables, including dead letters and registries."""
    for layer in _LAYERS:
        yield from sorted(storage.store(root).list_with_delimiter(layer)["common_prefixes"])


def _rename_unit_column(root: str) -> None:
    """Rename the column `unit` of dead letters to `partition`. No file is rewritten: readers know both names.

    A table with a damaged log is skipped: it gets the column with its next letter.
    """
    folders = storage.store(root).list_with_delimiter(dead_letters.LAYER)["common_prefixes"]
    for folder in sorted(folders):
        with suppress(DamagedLog):
            _repeat_after_conflicts(partial(_add_letter_columns, Lake(root), folder.replace("/", ".", 1)))


def _add_letter_columns(lake: Lake, letters: str) -> None:
    if (found := lake.open(letters)) is not None:
        dead_letters.bring_up(found)


def _repeat_after_conflicts(work: Callable[[], None]) -> None:
    """Repeat the work after commit conflicts: another process may be migrating the same lake."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(CommitConflict):
            return work()
    return work()


def _rename_archives(root: str) -> None:
    """Move log archives out of folders named `_rolled_log`."""
    storage.run_in_parallel(
        lambda folder: log_archive.move_old_archive(f"{root}/{folder}"), _table_folders(root)
    )


_MIGRATIONS: dict[int, tuple[Callable[[str], None], ...]] = {
    1: (_rename_unit_column, _rename_archives),
}
"""The steps that bring a lake from a format to the next one."""
