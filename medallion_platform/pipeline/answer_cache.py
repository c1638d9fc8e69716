"""Answers that are kept from one look to the next, for who looks again and again in one process."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar, cast

from medallion_platform.lakehouse.lake import Lake

T = TypeVar("T")


class AnswerCache:
    """Answers, each good as long as all that it was found from is the same.

    Of whatever is named just the newest answer is kept. It is what a fresh look would find: what it was found
    from is told by the tables' logs, asked before the answer is looked for, so that a commit in between makes
    the next look find it anew.
    """

    def __init__(self) -> None:
        self._found: dict[Hashable, tuple[Hashable, object]] = {}

    def answer(self, name: Hashable, found_from: Hashable, find: Callable[[], T]) -> T:
        """What is kept under a name where it was found from the same, else what `find` finds now."""
        before = self._found.get(name)
        if before is not None and before[0] == found_from:
            return cast(T, before[1])
        found = find()
        self._found[name] = (found_from, found)
        return found


def states(lake: Lake, tables: Iterable[str]) -> Hashable:
    """What is another one whenever one of these tables is: dropped, recomputed or committed to.

    Raises:
        DamagedLog: one of their logs cannot be read.
    """
    return str(lake.root), tuple((name, lake.state(name)) for name in tables)
