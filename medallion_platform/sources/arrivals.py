"""The interface between a source and an intake.

A source has one or more logs: sequences of records with growing offsets (a landing zone is one, each
partition of a topic is one). The position of a log is the next offset to take in; the table stores it under
the log's name, in the same commit as the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import polars as pl

from medallion_platform.contracts.codes import Code
from medallion_platform.sources.source import Source

if TYPE_CHECKING:
    from medallion_platform.sources.connectors.files import FileSource
    from medallion_platform.sources.connectors.landing_zones import FileInfo

PositionOf = Callable[[str], int | None]
"""Returns the position of a log by its name: the next offset, None if nothing was taken in yet."""


@dataclass(frozen=True)
class UnreadableRange:
    """A range of a log that cannot be read (a truncated file, expired offsets): one dead letter.

    reason, note: sentences for people, in the dead letter and in the commit. detail: fields by `Code`.
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
    """Records that are committed together, and the positions after them.

    frame: from `Format.read` or `parse`, with `_source` (the log), `_file` and `_offset`. notes: for people.
    repeated: files that are not read, because their content was taken in before.

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


@dataclass(frozen=True)
class Range:
    """Records of a log from offset `begin` on, without `end`."""

    log: str
    begin: int
    end: int


class Arrivals(Protocol):
    """What has arrived at a source, at one point in time.

    Example:
        `Source.arrivals` returns it; an intake takes in its batches:

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
        """The unit that `waiting` counts: files, partitions."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Notes for people."""
        ...

    def waiting(self, position: PositionOf) -> list[str]:
        """What is waiting after the positions, each item as a text that changes when more arrives."""
        ...

    def batches(self, position: PositionOf, rows: int, size: int) -> Iterator[Batch]:
        """The records from the positions on, in batches of about `rows` rows or `size` bytes.

        Each batch is committed before the next one is requested.
        """
        ...


@runtime_checkable
class Divisible(Arrivals, Protocol):
    """Arrivals of which single ranges can be read, so that a record that ends whatever reads it is found."""

    def begins(self, position: PositionOf) -> Mapping[str, int]:
        """The logs of which something may wait, and the position of each; nothing is read."""
        ...

    def ahead(self, position: PositionOf, rows: int) -> Sequence[Range]:
        """The places of the next records of each log: of about `rows`, in their order. None is parsed.

        What cannot be divided is a range of one.
        """
        ...

    def within(self, ranges: Sequence[Range], position: PositionOf, rows: int, size: int) -> Iterator[Batch]:
        """Batches of these ranges alone; the first one of a log begins where its position is."""
        ...

    def unparsed(self, fatal: Range, position: PositionOf) -> Iterator[Batch]:
        """A batch in which a range of one is a dead letter, without being parsed."""
        ...


class Polled(Arrivals, Protocol):
    """What a continuous worker has read: one batch."""

    @property
    def begun(self) -> Mapping[str, int | None]:
        """The positions that it begins at, by log."""
        ...


@dataclass(frozen=True)
class SourceContext:
    """What a source needs to know to find what has arrived.

    lake: root of the lake, which identifies its workers. position: of the source's table. at: the current
    time. landing, settle_seconds: the landing zone, and how long a complete file must be unchanged. register:
    adds files of a landing zone, oldest first, to the file registry (a commit in the lake), with notes for
    people.
    """

    lake: str
    position: PositionOf
    at: datetime
    landing: str
    settle_seconds: float
    register: Callable[[FileSource, Sequence[FileInfo], Sequence[str]], Arrivals]


class SourceFollower(Protocol):
    """The part of a source that one of several continuous workers reads."""

    @property
    def source(self) -> Source:
        """Its declaration."""
        ...

    def poll(self, rows: int, size: int, within: float) -> Polled | None:
        """What arrived within `within` seconds, None for nothing.

        Raises:
            Unavailable: the source cannot be reached.
        """
        ...

    def begin_anew(self) -> None:
        """Continue at the table's position, because the polled records were not taken in."""
        ...

    def behind(self) -> Mapping[str, int]:
        """The number of records of each log still to be read, as last reported."""
        ...

    def close(self) -> None:
        """Release the worker's part of the source."""
        ...


@runtime_checkable
class DivisibleFollower(SourceFollower, Protocol):
    """A follower whose records can also be read by ranges."""

    def look(self) -> Divisible:
        """What waits after the table's positions, whichever worker it is given to.

        Raises:
            Unavailable: the source cannot be reached.
        """
        ...
