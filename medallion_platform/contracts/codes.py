"""Why a record is a dead letter, as codes for programs. The sentence beside it is for people."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """What happened to a record, or to a whole piece of a log; what a letter's `detail` says of it."""

    VIOLATES = "violates"
    """It breaks its contract."""
    MALFORMED = "malformed"
    """It does not parse."""
    UNDECODED = "undecoded"
    """It is no text of its encoding; the payload is its bytes as they came."""
    TOO_LONG = "too_long"
    """It is too long to be a row or a payload. `bytes`: its length, `at`: the bytes before it in the text of
    the file, `kept`: where that lies in quarantine, or null."""
    UNREADABLE = "unreadable"
    """A file cannot be read at all. `kept`: where it lies in quarantine, or null."""
    LOST = "lost"
    """A file was not there, or another, when it should be read. `from_row`: the first record not taken."""
    GAP = "gap"
    """Offsets of a partition are gone. `first`, `last`: the range; `last` is null where nobody knows it."""
