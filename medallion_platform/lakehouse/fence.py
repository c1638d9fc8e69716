"""Fences for places without commits: the newest claim, which is stored in the lake, may write.

A claim is a file `_medallion/fences/<place>/<number>`, created by a request that fails if the file exists,
like a commit of a table: processes, machines and pods agree without a lock. Nobody has to wait for, or
detect, a dead owner: a newer claim invalidates older ones, and owners check theirs before and after each
write. An owner that finds a newer claim before a write stops. One that finds it after a write may have
overwritten newer data, and repeats its work with a new claim.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from medallion_platform import storage
from medallion_platform.errors import Kind, MedallionError
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.lake import Lake

_LOG = logging.getLogger(__name__)
_FENCES = "_medallion/fences"
_ATTEMPTS = 10


class ClaimLost(MedallionError):
    """Another process claimed the place during a write: which of the two writes is there now is unknown."""

    kind = Kind.CONFLICT


@dataclass(frozen=True)
class Fence:
    """A claim of a place; each claim has a greater `number` than the one before."""

    root: str
    place: str
    number: int

    def is_newest(self) -> bool:
        """Whether nobody has claimed the place since."""
        return _newest_claim(self.root, self.place) == self.number

    @contextmanager
    def writing(self) -> Generator[None]:
        """Guard one write to the place, made in the `with` block.

        Raises:
            CommitConflict: another process has claimed it; nothing was written.
            ClaimLost: another process claimed it during the write.
        """
        if not self.is_newest():
            raise CommitConflict(f"{self.place}: another writer has begun", table=self.place)
        yield
        if not self.is_newest():
            raise ClaimLost(f"{self.place}: another writer began meanwhile", table=self.place)


def claim_place(lake: Lake, place: str, above: int = 0) -> Fence:
    """Claim a place; earlier claims are no longer valid from now on. above: a number that was given already.

    Raises:
        CommitConflict: other processes were first every time.
    """
    root = str(lake.root)
    for _ in range(_ATTEMPTS):
        number = max(_newest_claim(root, place), above) + 1
        if not storage.create_file(root, _claim_key(place, number), b""):
            continue
        # A number may be free again, for older claims are deleted: then it is not the newest.
        if (fence := Fence(root, place, number)).is_newest():
            for older in _list_claims(root, place):
                if older < number:
                    with suppress(FileNotFoundError):
                        storage.store(root).delete(_claim_key(place, older))
            _LOG.debug("%s: claimed", place, extra={"place": place, "claim": number})
            return fence
    raise CommitConflict(f"{place}: another writer was first every time", table=place)


def _newest_claim(root: str, place: str) -> int:
    return max(_list_claims(root, place), default=0)


def _list_claims(root: str, place: str) -> list[int]:
    files = storage.store(root).list(f"{_FENCES}/{place}/").collect()
    return [int(name) for f in files if (name := f["path"].rpartition("/")[2]).isdigit()]


def _claim_key(place: str, number: int) -> str:
    return f"{_FENCES}/{place}/{number:020d}"
