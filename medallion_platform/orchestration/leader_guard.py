"""Of several workers, the leader alone does what one of them is to do, and its commits carry its token."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Protocol

from medallion_platform.kubernetes import api
from medallion_platform.kubernetes.lease import Lease
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.fence import Fence, claim_place
from medallion_platform.lakehouse.guard import Guard, NotAllowed, Unguarded
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.storage import text_digest

_LOG = logging.getLogger(__name__)


class Leader(Guard, Protocol):
    """The guard of work that one of several processes does."""

    def leads(self) -> bool:
        """Whether this process is the one now; asked before it begins with a piece of the work."""
        ...


class Alone(Unguarded, Leader):
    """Where there is no cluster nobody is elected: of several, the tables say who was first each time."""

    def leads(self) -> bool:
        """Always."""
        return True


class LeaderGuard(Leader):
    """Holds a lease, and with it a place in the lake.

    The number of its claim of that place is the token: it lies where the writes go, and grows with each
    leader, also where the lease was deleted. A leader that was paused finds a newer claim, or else, if it is
    paused after it looked, a higher token in the table.
    """

    def __init__(self, lease: Lease, lake: Lake, name: str, tables: Iterable[str]) -> None:
        """name: of the work. tables: that it writes, with their dead letters."""
        self._lease, self._lake = lease, lake
        self._place = f"leader/{name}"
        self._tables = [t for table in tables for t in (table, dead_letters.name(table))]
        self._fence: Fence | None = None
        self._term = 0

    def leads(self) -> bool:
        """Whether this process has the lease; a new leader claims the place.

        Raises:
            CommitConflict: others claimed it first every time.
        """
        term = self._lease.term()
        if term is None:
            self._fence = None
        elif self._fence is None or term != self._term:
            # Claims are no part of a backup, tokens of its tables are.
            tokens = (self._lake.positions(table)(self._place) or 0 for table in self._tables)
            self._fence, self._term = claim_place(self._lake, self._place, above=max(tokens, default=0)), term
            _LOG.info("leads %s from now on", self._place, extra={"claim": self._fence.number})
        return term is not None

    def check(self) -> Mapping[str, int]:
        """The token of this leader.

        Raises:
            NotAllowed: its lease ran out, or another one leads.
        """
        fence = self._fence
        if fence is None or self._lease.term() != self._term or not fence.is_newest():
            self._fence = None
            raise NotAllowed(f"{self._place}: another worker leads by now; nothing was written")
        return {self._place: fence.number}


@contextmanager
def elected(name: str, lake: Lake, tables: Iterable[str]) -> Generator[Leader]:
    """A leader for some work, elected among the pods of the namespace that do it in this lake; else `Alone`.

    Raises:
        ClusterError: the pod's service account may not use leases.
        MissingExtra: the client of Kubernetes is not installed.
    """
    if not api.in_pod():
        yield Alone()
        return
    cluster = api.connect()
    lease = api.ClusterLease(cluster, _lease_name(name, lake))
    with Lease(lease, api.own_name()) as held:
        yield LeaderGuard(held, lake, name, tables)


def _lease_name(name: str, lake: Lake) -> str:
    """A name that Kubernetes allows, another one for each lake."""
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-")
    return f"medallion-{readable}-{text_digest(name, str(lake.root))[:8]}"
