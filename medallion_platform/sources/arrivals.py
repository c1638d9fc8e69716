"""What a source gives and an intake takes: the one interface between the two.

A source is one or more logs: sequences of records with growing offsets (a landing zone is one, each
partition of a topic is one). How far a log was taken in is its position, the next offset, which the
table holds under the log's name, in the same commit as the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import polars as pl

from medallion_platform.contracts.codes import Code
from medallion_platform.sources.source import Source

if TYPE_CHECKING:
    from medallion_platform.sources.connectors.files import FileSource
    from medallion_platform.sources.connectors.zones import FileInfo

PositionOf = Callable[[str], int | None]
"""The next offset of a log by its name; None where nothing was ever taken from it."""


@dataclass(frozen=True)
class UnreadableRange:
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

    frame: as `Format.read` or `parse` gives it, with `_source` (the log), `_file` and `_offset`. notes: what
    a person should know of it. repeated: files of which nothing is read, because their content was taken
    in before.

    Example:
        >>> import polars as pl
        >>> from medallion_platform import Batch
        >>> Batch(pl.DataFrame({"id": ["1"], "_offset": [41]}), (), {"meters": 42}).positions
        {'meters': 42}
    """

    frame: pl.DataFrame
    unread: Sequence[UnreadableRange]
    positions: Mapping[str, int]
    notes: Sequence[str] = ()
    repeated: int = 0


class Arrivals(Protocol):
    """What has arrived at a source, as of one look at it.

    Example:
        What `look` of a source gives; an intake goes through its batches:

        >>> from medallion_platform import Arrivals
        >>> [name for name in ("batches", "waiting") if hasattr(Arrivals, name)]
        ['batches', 'waiting']
    """

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

    def waiting(self, position: PositionOf) -> list[str]:
        """The pieces from the positions on, each in words that change when more of it arrives."""
        ...

    def batches(self, position: PositionOf, rows: int, size: int) -> Iterator[Batch]:
        """The records from the positions on, in batches that end once they have `rows` or `size` bytes.

        A batch is committed before the next one is asked for.
        """
        ...


@dataclass(frozen=True)
class SourceContext:
    """From where a source is looked at.

    lake: its root, by which the workers of one lake are told from those of another. position: how far the
    source's table is. at: the time of the look. landing, settle_seconds: where files land, and for how long
    nobody may have written to a complete one. register: gives files of a landing zone, oldest first, their
    places in the order of their source (a commit in the lake); it is told what a person should know.
    """

    lake: str
    position: PositionOf
    at: datetime
    landing: str
    settle_seconds: float
    register: Callable[[FileSource, Sequence[FileInfo], Sequence[str]], Arrivals]


class SourceFollower(Protocol):
    """A source as it is followed by one worker of several."""

    @property
    def source(self) -> Source:
        """Its declaration."""
        ...

    def poll(self, rows: int, size: int, within: float) -> Arrivals | None:
        """What came within some seconds, None for nothing.

        Raises:
            Unavailable: the source cannot be reached.
        """
        ...

    def begin_anew(self) -> None:
        """Go on from where the table is: what was polled was not taken in."""
        ...

    def behind(self) -> Mapping[str, int]:
        """How many records of each log are still to be read, as last heard."""
        ...

    def close(self) -> None:
        """Give up what the worker holds of the source."""
        ...
