"""Records that end whatever process takes them in: found by halves, down to one, which becomes a dead letter.

A process that dies says nothing, so an intake leaves a note of where it begins: a file in the lake. Whoever
begins at the same place later knows by it that a process died there. The second time it takes in half of what
may have been the reason, then half of that, or of the rest. A record over which `ALONE` processes have died
in a row, each while it read that record and no other, is not read any more.

Processes are ended for other reasons, too, at any time. So only who dies while it reads a part has died of
it: its note is withdrawn as soon as the part is read. A note is a hint and no more: without it all is tried
again as it was.
"""

from __future__ import annotations

import json
from collections.abc import Container, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace

from medallion_platform.errors import Kind, classify
from medallion_platform.healing.classify import DEATHS
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.sources.arrivals import Arrivals, Batch, Divisible, PositionOf, Range
from medallion_platform.storage import store

ALONE = 3
"""So many processes have to die over one record alone before it is left unread."""


@dataclass(frozen=True)
class Attempt:
    """What a process takes in.

    ranges: where it begins; only those of a part have an end. deaths: how many processes have died of it.
    alone: how many of these of this one record.
    """

    ranges: tuple[Range, ...]
    deaths: int = 0
    part: bool = False
    alone: int = 0

    def to_json(self) -> bytes:
        """The attempt as text."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Attempt | None:
        """The attempt in a text of `to_json`; None if it is none."""
        try:
            told = json.loads(text)
            ranges = tuple(Range(str(r["log"]), int(r["begin"]), int(r["end"])) for r in told["ranges"])
            return cls(ranges, int(told["deaths"]), bool(told["part"]), int(told.get("alone", 0)))
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


def unfinished(attempt: Attempt | None, position: PositionOf) -> Attempt | None:
    """What is left of an attempt that nobody has finished, with one death more; None if nothing is. Pure."""
    if attempt is None:
        return None
    if attempt.part:
        left = behind(attempt.ranges, position)
    else:
        left = tuple(r for r in attempt.ranges if (position(r.log) or 0) <= r.begin)
    alone = attempt.alone + 1 if attempt.part and size(left) == 1 else 0
    return Attempt(left, attempt.deaths + 1, attempt.part, alone) if left else None


def behind(ranges: Sequence[Range], position: PositionOf) -> tuple[Range, ...]:
    """What of some ranges was not taken in yet. Pure."""
    clipped = (replace(r, begin=max(r.begin, position(r.log) or 0)) for r in ranges)
    return tuple(r for r in clipped if r.begin < r.end)


def first_half(ranges: Sequence[Range]) -> tuple[Range, ...]:
    """The first half of some ranges, the larger one; all of a range of one. Pure."""
    left, half = (size(ranges) + 1) // 2, list[Range]()
    for of in ranges:
        if left:
            half.append(replace(of, end=min(of.end, of.begin + left)))
            left -= size(half[-1:])
    return tuple(half)


def size(ranges: Sequence[Range]) -> int:
    """How many records there may be in some ranges. Pure."""
    return sum(r.end - r.begin for r in ranges)


def suspect_batches(
    arrivals: Divisible,
    died: Attempt,
    notes: Notes,
    position: PositionOf,
    rows: int,
    most: int,
) -> Iterator[Batch]:
    """The records of which processes died, in batches; each is committed before the next one is asked for.

    notes: keep what is begun. rows, most: of a batch, and its bytes.
    """
    if died.alone >= ALONE:
        yield from arrivals.unparsed(died.ranges[0], position)
        return
    logs = {r.log for r in died.ranges}
    found = died.ranges if died.part else [r for r in arrivals.ahead(position, rows) if r.log in logs]
    left = tuple(found)
    while left:
        half = first_half(left)
        notes.write(Attempt(half, died.deaths, True, died.alone if half == died.ranges else 0))
        for batch in arrivals.within(half, position, rows, most):
            notes.withdraw()
            yield batch
            notes.write(Attempt(behind(half, position), died.deaths, part=True))
        if left == (left := behind(left, position)):
            return


class Notes:
    """The note about the source of a table."""

    def __init__(self, lake: Lake, table: str) -> None:
        self._files, self._key = str(lake.root), f"_medallion/begun/{table}.json"
        self._written = False

    def read(self) -> Attempt | None:
        """The note that an earlier process left."""
        from obstore.exceptions import BaseError

        if self._written:
            return None
        try:
            return Attempt.from_json(store(self._files).get(self._key).bytes().to_bytes())
        except (BaseError, OSError):
            return None

    def write(self, attempt: Attempt) -> None:
        """Leave a note."""
        self._written = True
        self._put(attempt.to_json())

    def keep(self) -> None:
        """Say that a process of another's died, of what this one has begun."""
        self._written = False

    def withdraw(self) -> None:
        """Say that nothing died, if a note was left."""
        if self._written:
            self._put(b"")

    def _put(self, text: bytes) -> None:
        from obstore.exceptions import BaseError

        with suppress(BaseError, OSError):  # a commit fails by the same, and says so
            store(self._files).put(self._key, text, use_multipart=False)


@contextmanager
def noted(lake: Lake, table: str) -> Generator[Notes]:
    """Notes of work that is done in the `with` block; what lives to fail has not died of its records.

    Unless it fails since a process did, as one of Spark's workers, or since memory was short.
    """
    notes = Notes(lake, table)
    try:
        yield notes
    except BaseException as error:
        if not isinstance(error, Exception) or classify(error).kind not in (Kind.POISON, Kind.OOM):
            notes.withdraw()
        raise


def batches_of(
    arrivals: Arrivals, notes: Notes, position: PositionOf, rows: int, most: int, *, suspects_only: bool
) -> Iterator[Batch]:
    """All batches of what has arrived: first, by halves, the records of which processes have died.

    rows, most: of a batch, and its bytes. suspects_only: leave all others to the caller, with a note of them.
    """
    usual = Attempt(())
    if isinstance(arrivals, Divisible) and (begins := arrivals.begins(position)):
        died = _of_logs(unfinished(notes.read(), position), begins)
        if died and died.deaths >= DEATHS:
            yield from suspect_batches(arrivals, died, notes, position, rows, most)
            died, begins = None, arrivals.begins(position)
        ranges = tuple(Range(log, begin, begin) for log, begin in begins.items())
        usual = Attempt(ranges, died.deaths if died else 0)
        notes.write(usual)
    if not suspects_only:
        yield from arrivals.batches(position, rows, most)
        if unfinished(usual, position):
            notes.withdraw()


def _of_logs(died: Attempt | None, logs: Container[str]) -> Attempt | None:
    """Of several sources of a table, one's logs alone."""
    ranges = tuple(r for r in died.ranges if r.log in logs) if died else ()
    return replace(died, ranges=ranges) if died and ranges else None


def deaths(lake: Lake, table: str) -> int:
    """How many processes have died where the source of a table is now to be taken in, as far as is known."""
    died = unfinished(Notes(lake, table).read(), lake.positions(table))
    return died.deaths if died else 0
