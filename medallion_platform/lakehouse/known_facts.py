"""Facts about tables, kept in a file in the home between commands: a command that looks at hundreds of tables
opens only the Delta logs that changed.

A fact is stored under the fingerprint of its table's Delta log, taken before the log was read; after a change
the same fingerprint never comes back (`delta_log.fingerprint`). The whole file is stored under a digest of
its text and of the code that found the facts. So the file can never give an outdated answer. At worst it is
useless; then the Delta logs are read, as without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Hashable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.delta_log import PartitionChanges
from medallion_platform.storage import file_mark, text_digest, write_whole

T = TypeVar("T")

_MOST_FACTS = 40
"""Facts kept of a table: the ones asked for last."""
_LONGEST = 50_000
"""Characters of a fact. It takes as long to read a longer one here as in the Delta log."""
_ADDRESS = " at 0x"
"""A name with this in it means something else in another process."""


@dataclass
class KnownTable:
    """The facts about a table while its Delta log has one fingerprint, by digests of their names."""

    log: str
    version: int
    facts: dict[str, str] = field(default_factory=dict[str, str])
    changed: bool = False

    def recall(self, name: Hashable) -> tuple[()] | tuple[Any]:
        """The fact of this name, in a tuple; an empty tuple if it is not known."""
        key = text_digest(repr(name))
        found = self.facts.pop(key, None)
        if found is None:
            return ()
        self.facts[key] = found  # the last one asked for
        return (_decoded(*json.loads(found)),)

    def fact(self, name: Hashable, find: Callable[[], T]) -> T:
        """The fact of this name: from a former command, otherwise the result of `find`, which is kept."""
        for known in self.recall(name):
            return known
        found = find()
        self.learn(name, found)
        return found

    def learn(self, name: Hashable, value: object) -> None:
        """Keep a fact, if the file can hold it so that it is read as the same."""
        encoded, text = _encoded(value), repr(name)
        if encoded is None or _ADDRESS in text:
            return
        fact = json.dumps(encoded)
        if len(fact) <= _LONGEST and _decoded(*json.loads(fact)) == value:
            self.facts[text_digest(text)] = fact
            self.changed = True


@dataclass
class KnownTables:
    """The facts about all tables, by their paths."""

    read: Mapping[str, list[Any]]
    used: dict[str, KnownTable] = field(default_factory=dict[str, KnownTable])

    def recall(self, path: str, log: str) -> KnownTable | None:
        """What is known of a table, if it was found out while its Delta log had this fingerprint."""
        if path not in self.used and path in self.read:
            self.used[path] = KnownTable(*self.read[path])
        found = self.used.get(path)
        return found if found and found.log == log else None

    def add(self, path: str, log: str, version: int) -> KnownTable:
        """A table of which nothing is known yet."""
        self.used[path] = KnownTable(log, version)
        return self.used[path]

    def news(self) -> dict[str, list[Any]]:
        """All that the file is to hold now; empty if nothing is new."""
        new = {
            path: [table.log, table.version, dict(list(table.facts.items())[-_MOST_FACTS:])]
            for path, table in self.used.items()
            if table.changed
        }
        return {path: told for path, told in self.read.items() if _has_log(path)} | new if new else {}


_tables: KnownTables | None = None


def tables() -> KnownTables | None:
    """What is known from former commands; None outside of `use_known_facts`."""
    return _tables


@contextmanager
def use_known_facts(file: Path) -> Generator[None]:
    """Use the facts in this file, and add those found out; for one command in a process of its own."""
    global _tables
    _tables = known = KnownTables(_read(file))
    try:
        yield
    finally:
        _tables = None
    if news := known.news():
        body = json.dumps(news)
        with suppress(OSError):  # a full disk, a home of another user: the next command reads the Delta logs
            write_whole(file, f"{text_digest(_code(), body)}\n{body}")


def _read(file: Path) -> dict[str, list[Any]]:
    """What the file holds, if this very code wrote all of it; otherwise nothing."""
    try:
        digest, _, body = file.read_text().partition("\n")
        return json.loads(body) if digest == text_digest(_code(), body) else {}
    except (OSError, UnicodeError):
        return {}


@cache
def _code() -> str:
    """A text that changes with the code that finds facts."""
    package = Path(__file__).parents[1]
    files = [file for file in sorted(package.rglob("*.py")) if file.name[0] != "."]  # an editor's
    return "\n".join([version("deltalake"), *(f"{file} {file_mark(file.stat())}" for file in files)])


def _has_log(path: str) -> bool:
    return Path(path, "_delta_log").is_dir()


def _encoded(value: object) -> list[Any] | None:
    """A fact as JSON, with its kind; None if it is of none that is kept."""
    match value:
        case None | bool() | int() | str():
            return ["plain", value]
        case datetime():
            return ["instant", value.isoformat()]
        case frozenset() | tuple() if all(isinstance(v, str) for v in value):
            return ["set", sorted(value)] if isinstance(value, frozenset) else ["texts", list(value)]
        case dict():  # a `LogEntry`, which was JSON
            return ["plain", value]
        case CommitRecord():
            return ["record", value.to_json()]
        case PartitionChanges():
            return ["changes", [sorted(value.appended), sorted(value.rewritten)]]
        case _:
            return None


def _decoded(kind: str, told: Any) -> Any:
    """The fact that `_encoded` was given."""
    match kind:
        case "instant":
            return datetime.fromisoformat(told)
        case "set":
            return frozenset(told)
        case "texts":
            return tuple(told)
        case "record":
            return CommitRecord.from_json(told)
        case "changes":
            return PartitionChanges(*map(set, told))
        case _:
            return told
