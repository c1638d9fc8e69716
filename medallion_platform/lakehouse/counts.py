"""The conservation equation: every row that was read is counted exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Counts:
    """Rows of one intake or refresh; `read` equals the sum of the other four.

    superseded: versions of a row that a newer one replaced (an older change event, a tombstone).
    """

    read: int = 0
    written: int = 0
    dead_lettered: int = 0
    duplicate: int = 0
    superseded: int = 0

    @property
    def outcome(self) -> str:
        """What became of the rows, for people: `9 written, 1 dead-lettered`."""
        others = {"dead-lettered": self.dead_lettered, "duplicate": self.duplicate}
        others["superseded"] = self.superseded
        return ", ".join([f"{self.written:,} written", *(f"{n:,} {name}" for name, n in others.items() if n)])

    @property
    def missing(self) -> int:
        """Rows that are not accounted for; anything but 0 is a bug or a loss."""
        return self.read - (self.written + self.dead_lettered + self.duplicate + self.superseded)

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def as_dict(self) -> dict[str, int]:
        """Plain numbers, for a commit's metadata."""
        return asdict(self)


def counted(number: int, of: str) -> str:
    """A number of things for people: `1 file`, `2 files`; of: their plural."""
    return f"{number:,} {of.removesuffix('s') if number == 1 else of}"


def sum_counts(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Numbers by name, added up; names without any are left out."""
    total: dict[str, int] = {}
    for part in parts:
        for name, n in part.items():
            if n:
                total[name] = total.get(name, 0) + n
    return total
