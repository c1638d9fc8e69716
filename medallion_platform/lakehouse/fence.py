"""Fences for places without commits: the newest claim, which is stored in the lake, may write.

A claim is a file `_medallion/fences/<place>/<number>`, created by a request that fails if the file exists,
like a commit of a table: processes, machines and pods agree without a lock. Nobody has to wait for, or
detect, a dead owner: a newer claim invalidates older ones, and owners check theirs before and after each
write. An owner that finds a newer claim before a write stops. One that finds it after a write may have
overwritten newer data, and repeats its work with a new claim.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from medallion_platform import storage
from medallion_platform.errors import Kind, MedallionError
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.lake import Lake

_FENCES = "_medallion/fences"
_ATTEMPTS = 10


class ClaimLost(MedallionError):
    """Somebody else claimed a place while this one wrote: what of both is there now, nobody knows."""

    kind = Kind.CONFLICT


@dataclass(frozen=True)
class Fence:
    """A claim of a place; `number` grows from one claim to the next."""

    root: str
    place: str
    number: int

    def is_newest(self) -> bool:
        """Whether nobody claimed the place after this."""
        return _newest(self.root, self.place) == self.number

    @contextmanager
    def writing(self) -> Generator[None]:
        """One write to the place, in the `with`.

        Raises:
            CommitConflict: somebody else has claimed it; nothing was written.
            ClaimLost: somebody else has claimed it meanwhile.
        """
        if not self.is_newest():
            raise CommitConflict(f"{self.place}: another writer has begun; run it again", table=self.place)
        yield
        if not self.is_newest():
            raise ClaimLost(f"{self.place}: another writer began meanwhile", table=self.place)


def claim(lake: Lake, place: str) -> Fence:
    """Claim a place; all who claimed it before are too late from now on.

    Raises:
        CommitConflict: others come first every time.
    """
    root = str(lake.root)
    for _ in range(_ATTEMPTS):
        number = _newest(root, place) + 1
        if not storage.create(root, _key(place, number), b""):
            continue
        # A number may be free again, for older claims are deleted: then it is not the newest.
        if (fence := Fence(root, place, number)).is_newest():
            for older in _claims(root, place):
                if older < number:
                    with suppress(FileNotFoundError):
                        storage.store(root).delete(_key(place, older))
            return fence
    raise CommitConflict(f"{place}: another writer was first every time; run it again", table=place)


def _newest(root: str, place: str) -> int:
    return max(_claims(root, place), default=0)


def _claims(root: str, place: str) -> list[int]:
    files = storage.store(root).list(f"{_FENCES}/{place}/").collect()
    return [int(name) for f in files if (name := f["path"].rpartition("/")[2]).isdigit()]


def _key(place: str, number: int) -> str:
    return f"{_FENCES}/{place}/{number:020d}"
