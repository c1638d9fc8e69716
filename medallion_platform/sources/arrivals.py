"""What a source gives and an intake takes: the one interface between the two.

A source is one or more logs: sequences of records with growing offsets (a landing zone is one, each
partition of a topic is one). How far a log was taken in is its position, the next offset, which the
table holds under the log's name, in the same commit as the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import polars as pl

from medallion_platform.contracts.codes import Code
from medallion_platform.sources.source import Source

Position = Callable[[str], int | None]
"""The next offset of a log by its name; None where nothing was ever taken from it."""


class Unavailable(Exception):
    """A source cannot be reached; one sentence says which and what was tried."""


class MovedOn(Exception):
    """What was read is another's to take in by now; nothing of it was taken."""


@dataclass(frozen=True)
class Unread:
    """A whole piece of a log that cannot be read (a torn file, expired offsets): one dead letter.

    reason, note: sentences for people, in the letter and in the commit. detail: as `Code` says.
    """

    log: str
    offset: int
    file: str
    code: Code
    reason: str
    note: str
    detail: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Records that are committed together, and the positions that they reach.

    frame: as `reading.read` gives it, with `_source` (the log), `_file` and `_offset`. notes: what a person
    should know of it. repeated: files of which nothing is read, because their content was taken in before.
    """

    frame: pl.DataFrame
    unread: Sequence[Unread]
    positions: Mapping[str, int]
    notes: Sequence[str] = ()
    repeated: int = 0


class Arrivals(Protocol):
    """What has arrived at a source, as of one look at it."""

    @property
    def source(self) -> Source:
        """Its declaration."""
        ...

    @property
    def pieces(self) -> str:
        """What `waiting` counts: files, partitions."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What a person should know of this look."""
        ...

    def waiting(self, position: Position) -> list[str]:
        """The pieces from the positions on, each in words that change when more of it arrives."""
        ...

    def batches(self, position: Position, rows: int, size: int) -> Iterator[Batch]:
        """The records from the positions on, in batches that end once they have `rows` or `size` bytes.

        A batch is committed before the next one is asked for.
        """
        ...
