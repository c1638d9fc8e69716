"""One file of a sample, and the dirt counter that its makers share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class SampleFile:
    """A file to be: its path relative to the landing zone, its bytes, its time of arrival."""

    path: str
    content: bytes
    modified_at: datetime


def count(planted: dict[str, dict[str, int]], source: str, kind: str, number: int = 1) -> None:
    """Add `number` records of this kind of dirt to what was planted in a source."""
    kinds = planted.setdefault(source, {})
    kinds[kind] = kinds.get(kind, 0) + number
