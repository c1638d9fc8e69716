"""What can go wrong with a source. Of each error, `transient` says whether to try again."""

from __future__ import annotations

from errno import EINVAL
from typing import TypeGuard

from medallion_platform.errors import Kind, MedallionError


class Unavailable(MedallionError):
    """A source cannot be reached; one sentence says which and what was tried."""

    kind = Kind.NETWORK


class OwnershipLost(MedallionError):
    """What was read is another's to take in by now; nothing of it was taken."""

    kind = Kind.CONFLICT


class UnreadableFile(MedallionError):
    """A file cannot be read at all (torn, corrupt, not what it was declared to be)."""

    kind = Kind.CORRUPT

    def __init__(self, path: object, reason: str, kind: Kind | None = None) -> None:
        super().__init__(f"{path}: {reason}", kind=kind)
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableFile], tuple[str, str, Kind]]:
        return (type(self), (self.path, self.reason, self.kind))


class LostFile(UnreadableFile):
    """A file cannot be opened, or is not what it was: nothing is wrong with the content, which may
    be seen again."""

    kind = Kind.TRANSIENT


class StillGrowing(MedallionError):
    """A file changed while it was read: it is not complete yet."""

    kind = Kind.TRANSIENT

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} changed while it was read")
        self.path = path

    def __reduce__(self) -> tuple[type[StillGrowing], tuple[str]]:
        return (type(self), (self.path,))


def is_lost(error: BaseException) -> TypeGuard[OSError]:
    """Whether the file system failed, and not the content (which makes a seek fail, if damaged)."""
    return isinstance(error, OSError) and error.errno not in (None, EINVAL)
