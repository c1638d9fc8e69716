"""What can go wrong, in classes that code and people share.

Every error that a person is told is a `MedallionError`: it says what happened, and carries its class, the
table concerned and what to do.
"""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """The class of a failure; by it, and by no text, is decided what becomes of it."""

    RATE_LIMIT = "rate_limit"
    NETWORK = "network"
    TRANSIENT = "transient"
    AUTH = "auth"
    DATA = "data"
    RESOURCE = "resource"
    PERMANENT = "permanent"
    OOM = "oom"
    EVICTED = "evicted"
    DISK = "disk"
    CORRUPT = "corrupt"
    CONFLICT = "conflict"
    POSITION_LOST = "position_lost"
    GAP = "gap"
    HUNG = "hung"
    POISON = "poison"
    UNKNOWN = "unknown"

    @property
    def transient(self) -> bool:
        """Whether the same work can succeed when it is only tried again."""
        return self in _TRANSIENT


_TRANSIENT = frozenset(
    {Kind.RATE_LIMIT, Kind.NETWORK, Kind.TRANSIENT, Kind.CONFLICT, Kind.EVICTED, Kind.HUNG}
)


class MedallionError(Exception):
    """An error for people: the text says what happened, to what, and what was done about it.

    kind: its class. table: the table, source or repository concerned, "" where there is none. remedy: what to
    do next, "" where the text says it already.
    """

    kind: Kind = Kind.UNKNOWN
    """The class of these errors where one of them does not say another."""

    def __init__(self, text: str, *, kind: Kind | None = None, table: str = "", remedy: str = "") -> None:
        super().__init__(text)
        if kind is not None:
            self.kind = kind
        self.table = table
        self.remedy = remedy

    @property
    def transient(self) -> bool:
        """Whether the same work can succeed when it is only tried again."""
        return self.kind.transient

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}: {self.remedy}" if self.remedy else text
