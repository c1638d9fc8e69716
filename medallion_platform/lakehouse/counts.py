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
    def missing(self) -> int:
        """Rows that nobody can account for; anything but 0 is a bug or a loss."""
        return self.read - (self.written + self.dead_lettered + self.duplicate + self.superseded)

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def as_dict(self) -> dict[str, int]:
        """Plain numbers, for a commit's metadata."""
        return asdict(self)


def summed(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Numbers by name, added up; names without any are left out."""
    total: dict[str, int] = {}
    for part in parts:
        for name, n in part.items():
            if n:
                total[name] = total.get(name, 0) + n
    return total
