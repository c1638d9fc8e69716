"""The known state of tables, kept within a process (`known_facts`: from one command to the next).

Opening a table reads its Delta log: two milliseconds for a short log, half a second for a long one.
Afterwards two requests by file name are enough: is there a commit after the known one, and is the known one
still the same? If nothing changed, nothing is read; if the log grew, only the new part.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any, TypeVar

from medallion_platform.lakehouse import delta_log, known_facts

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from medallion_platform.lakehouse.known_facts import KnownTable

T = TypeVar("T")

Open = Callable[[int | None], "DeltaTable | None"]
"""Opens the table, at a version or (None) at its newest."""

MOST_FILES = 500_000
"""Data files of all tables that are kept in mind; each takes 150 bytes or more."""
FOLLOWED = 50
"""Versions that a table is followed for: each makes it slower, and after so many its log is read anew."""
_A_TABLE = 100
"""A table without files weighs as much as so many."""
_FOLDS = 64


@dataclass
class _Folds:
    """What was gathered from the commits of one log, each up to a version; shared by its standings."""

    lock: Lock = field(default_factory=Lock)
    found: OrderedDict[Hashable, tuple[int, Any]] = field(default_factory=OrderedDict[Hashable, Any])


class TableState:
    """A table as it was found at one version. What is asked of it is found out once.

    Nobody commits against it: who writes opens the table afresh.
    """

    def __init__(
        self,
        path: str,
        version: int,
        reopen: Open,
        table: DeltaTable | None = None,
        *,
        opened_at: int | None = None,
        folds: _Folds | None = None,
        known: KnownTable | None = None,
    ) -> None:
        self.path, self.version = path, version
        # None where the commit is gone already: then this is not the table any more, and is not kept.
        self.mark = delta_log.mark(path, self.version)
        self._reopen = reopen
        self._opened_at = version if opened_at is None else opened_at
        self._table = table
        self._known = known
        self._facts: dict[Hashable, Any] = {}
        self._folds = folds or _Folds()
        self._lock = RLock()

    @property
    def files(self) -> int:
        """How many data files it has."""
        return self.fact("files", lambda table: table.get_add_actions().num_rows)

    @property
    def state(self) -> Hashable:
        """Equal for two states only if they are of the same commit of the same log."""
        return self if self.mark is None else (self.version, self.mark)

    def fact(self, name: Hashable, of: Callable[[DeltaTable], T]) -> T:
        """A fact about this version, computed once by `of` (which must not change the table)."""
        with self._lock:
            if name not in self._facts:
                self._facts[name] = self._known_or_found(("fact", name), lambda: of(self._opened()))
            return self._facts[name]

    def fact_with(self, others: Sequence[TableState | None], name: Hashable, find: Callable[[], T]) -> T:
        """A fact about this version and those of other tables (None: there is no such table).

        It is cached if facts are kept for the next command, under the fingerprints of all their Delta logs.
        """
        logs = ["" if other is None else other._log for other in others]
        if self._log is None or None in logs:
            return find()
        return self.fact((name, *logs), lambda _: find())

    def ask(self, of: Callable[[DeltaTable], T]) -> T:
        """The result of `of` (which must not change the table) at this version, not cached."""
        with self._lock:
            return of(self._opened())

    def folded(self, name: Hashable, go_on: Callable[[int, Any], T]) -> T:
        """Fold the commits up to this version into a result, continuing from the cached one.

        go_on: gets the result up to a version (-1 and None at first) and reads the commits after it. Its
        exceptions are not cached.
        """
        with self._folds.lock:
            until, before = self._folds.found.get(name, (-1, None))
        if until == self.version:
            return before
        if until > self.version:  # somebody else has looked meanwhile, and sees more
            return go_on(-1, None)
        found = self._known_or_found(("fold", name), lambda: go_on(until, before))
        with self._folds.lock:
            kept = self._folds.found
            if kept.get(name, (-1, None))[0] < self.version:
                kept[name] = (self.version, found)
                kept.move_to_end(name)
                while len(kept) > _FOLDS:
                    kept.popitem(last=False)
        return found

    def is_newest(self) -> bool:
        """Whether nobody committed since, and the log still is this one.

        In this order: a log is archived from its beginning, so where the known commit is, the next one
        would be too.
        """
        return delta_log.is_newest(self.path, self.version) and self.is_the_same()

    def is_the_same(self) -> bool:
        """Whether the known commit is still the one in the log: not deleted, and not of another table."""
        return self.mark is not None and delta_log.mark(self.path, self.version) == self.mark

    def followed(self) -> TableState | None:
        """The same table at its newest version; None if its log has to be read completely."""
        from deltalake.exceptions import DeltaError

        with self._lock:
            table, self._table = self._table, None
        if table is None:
            return None
        try:
            table.update_incremental()
        except (DeltaError, OSError):  # whoever opens it anew says why
            return None
        version = table.version()
        if version > self._opened_at + FOLLOWED:
            return None
        return TableState(
            self.path, version, self._reopen, table, opened_at=self._opened_at, folds=self._folds
        )

    @property
    def _log(self) -> str | None:
        """The fingerprint of its Delta log, if facts are kept under it for the next command."""
        return self._known and self._known.log

    def _known_or_found(self, name: Hashable, find: Callable[[], T]) -> T:
        return self._known.fact(name, find) if self._known else find()

    def _opened(self) -> DeltaTable:
        if self._table is None:  # it went on to a later standing
            self._table = self._reopen(self.version)
        assert self._table is not None
        return self._table


def at(path: str, reopen: Open) -> TableState | None:
    """The current state of the table at a path; None if there is none.

    Raises:
        DamagedLog: its log cannot be read.
    """
    place = _place(path)
    with place.lock:
        found = _now(place.table_state, path, reopen)
        place.table_state = found
        _weigh(path, place, found)
    return found


def _now(known: TableState | None, path: str, reopen: Open) -> TableState | None:
    if known is not None:
        if known.is_newest():
            return known
        if known.is_the_same():
            later = known.followed()
            # Asked again: what was read in between is of the log that was known.
            if later is not None and known.is_the_same():
                return later
    return _opened(path, reopen)


def _opened(path: str, reopen: Open) -> TableState | None:
    """The table as a former command found it if its Delta log is unchanged, otherwise as it is read now."""
    known = known_facts.tables()
    log = delta_log.fingerprint(path) if known else None
    if known and log and (recalled := known.recall(path, log)):
        return TableState(path, recalled.version, reopen, known=recalled)
    table = reopen(None)
    if table is None:
        return None
    kept = known.add(path, log, table.version()) if known and log else None
    return TableState(path, table.version(), reopen, table, known=kept)


@dataclass
class _Place:
    """Where a table is. Who holds the lock looks at it now; others wait for what they will find as well."""

    lock: Lock = field(default_factory=Lock)
    table_state: TableState | None = None
    weight: int = 0


_places: OrderedDict[str, _Place] = OrderedDict()
_kept = 0
_lock = Lock()
"""Of the two above. It is held for a moment only, and taken by who holds a place's."""


def _place(path: str) -> _Place:
    with _lock:
        place = _places.setdefault(path, _Place())
        _places.move_to_end(path)
        return place


def _weigh(path: str, place: _Place, found: TableState | None) -> None:
    """Keep the tables that were looked at last, as many as have no more than `MOST_FILES` together."""
    global _kept
    weight = _A_TABLE + (found.files if found else 0)
    if weight == place.weight:
        return
    with _lock:
        if _places.get(path) is not place:  # it was the oldest meanwhile
            return
        _kept += weight - place.weight
        place.weight = weight
        while _kept > MOST_FILES and len(_places) > 1:
            _, oldest = _places.popitem(last=False)
            _kept -= oldest.weight
            oldest.weight = 0
