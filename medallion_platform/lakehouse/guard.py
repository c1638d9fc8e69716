"""Whether a writer may still write: asked immediately before each commit.

A writer that was paused, or cut off from everything but the lake, does not know that its work was given to
another one meanwhile. So it is asked at the last moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from medallion_platform.errors import Kind, MedallionError


class NotAllowed(MedallionError):
    """The writer may no longer write; nothing was written by this commit."""

    kind = Kind.CONFLICT


class Guard(Protocol):
    """Says immediately before a commit whether its writer may still write."""

    def check(self) -> Mapping[str, int]:
        """The token for this commit: transaction identifiers by name, whose numbers only grow.

        A table that has a higher number of one of these names refuses the commit.

        Raises:
            NotAllowed: somebody else does this work now, or it was ended.
        """
        ...


class Unguarded(Guard):
    """Nobody else does this work, or the table's sequence number alone decides who is first."""

    def check(self) -> Mapping[str, int]:
        """No token."""
        return {}


UNGUARDED = Unguarded()
