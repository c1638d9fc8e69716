"""What can go wrong with a source. Of each error, `transient` says whether to try again."""

from __future__ import annotations

from errno import EINVAL, errorcode
from typing import TypeGuard

from medallion_platform.contracts.codes import Damage
from medallion_platform.errors import Kind, MedallionError


class Unavailable(MedallionError):
    """A source cannot be reached; the text says which one and what was tried."""

    kind = Kind.NETWORK


class OwnershipLost(MedallionError):
    """Another worker now takes in what was read; nothing of it was taken in here."""

    kind = Kind.CONFLICT


class UnreadableFile(MedallionError):
    """A file cannot be read at all (truncated, corrupt, or of another format).

    why, facts: the same for programs, in `detail`.
    """

    kind = Kind.CORRUPT

    def __init__(
        self,
        path: object,
        reason: str,
        kind: Kind | None = None,
        *,
        why: Damage | None = None,
        **facts: object,
    ) -> None:
        super().__init__(f"{path}: {reason}", kind=kind)
        self.path = str(path)
        self.reason = reason
        self.detail: dict[str, object] = {"why": why.value, **facts} if why else {}


class LostFile(UnreadableFile):
    """A file cannot be opened, or was replaced; its content is not damaged and may come again."""

    kind = Kind.TRANSIENT

    @classmethod
    def refused(cls, path: object, error: OSError) -> LostFile:
        """What the system says of a file that it does not give."""
        code = errorcode.get(error.errno or 0, "")
        return cls(path, error.strerror or str(error), why=Damage.REFUSED, errno=code)


class StillGrowing(MedallionError):
    """A file changed while it was read: it is not complete yet."""

    kind = Kind.TRANSIENT

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} changed while it was read")
        self.path = path


def is_file_system_error(error: BaseException) -> TypeGuard[OSError]:
    """Whether the file system failed (damaged content can only make a seek fail)."""
    return isinstance(error, OSError) and error.errno not in (None, EINVAL)
