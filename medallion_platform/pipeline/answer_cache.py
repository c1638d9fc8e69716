"""Caches answers between repeated questions about the same tables in one process."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar, cast

from medallion_platform.lakehouse.lake import Lake

T = TypeVar("T")


class AnswerCache:
    """Cached answers, each valid while everything that it depends on is unchanged.

    Only the newest answer of each name is kept. Its dependencies are read from the Delta logs before the
    answer is computed, so after a commit in between the next call computes it again.
    """

    def __init__(self) -> None:
        self._found: dict[Hashable, tuple[Hashable, object]] = {}

    def answer(self, name: Hashable, found_from: Hashable, find: Callable[[], T]) -> T:
        """The cached answer if it was computed from the same state, otherwise the result of `find`."""
        before = self._found.get(name)
        if before is not None and before[0] == found_from:
            return cast(T, before[1])
        found = find()
        self._found[name] = (found_from, found)
        return found


def table_states(lake: Lake, tables: Iterable[str]) -> Hashable:
    """A value that changes whenever one of these tables is dropped, recreated or committed to.

    Raises:
        DamagedLog: one of their logs cannot be read.
    """
    return str(lake.root), tuple((name, lake.state(name)) for name in tables)
