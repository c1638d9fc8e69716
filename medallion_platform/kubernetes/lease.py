"""Which of several processes does what only one of them may do: the holder of a Lease of Kubernetes.

The protocol is that of client-go's `leaderelection`. The holder renews its lease; who saw it unchanged for
its duration takes it. Each write names the version that it replaces, so that of two the API server refuses
one. Every process measures by its own monotonic clock, and no two clocks are compared.

A lease decides who works. It does not make that safe: a holder that is paused goes on without knowing that
its lease is another's by now. That is what a guard's token is for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from threading import Event, Thread
from typing import Protocol, Self

from medallion_platform.errors import MedallionError, classify

DURATION = 10
"""Seconds after which a lease that is not renewed is free."""
TURN_EVERY = 2.0
"""Seconds between two looks at it; a holder renews it as often."""
_MARGIN = 2
"""Seconds by which a holder stops before its lease is free: clocks do not run equally fast."""

_LOG = logging.getLogger(__name__)


class LeaseChanged(Exception):
    """Somebody else wrote the lease since it was read."""


@dataclass(frozen=True)
class LeaseRecord:
    """A lease as it stands in the API server. holder: "" for nobody. version: "" where there is none yet."""

    holder: str = ""
    version: str = ""
    transitions: int = 0
    duration: int = DURATION


class LeaseApi(Protocol):
    """Where one lease is kept."""

    def read(self) -> LeaseRecord:
        """The lease as it is now."""
        ...

    def write(self, record: LeaseRecord) -> LeaseRecord:
        """Replace the version that the record names; gives the record with its new version.

        Raises:
            LeaseChanged: it is not the newest version.
        """
        ...


@dataclass(frozen=True)
class Candidate:
    """What one process knows of a lease. Pure; all times are seconds of its own monotonic clock.

    name: no other process has it. seen: the lease, unchanged `since`. until: this process leads before that
    time. term: how often it began to lead.
    """

    name: str
    seen: LeaseRecord = LeaseRecord()
    since: float = -inf
    until: float = -inf
    term: int = 0

    def sees(self, record: LeaseRecord, now: float) -> Candidate:
        """After it read the lease."""
        return self if record.version == self.seen.version else replace(self, seen=record, since=now)

    def bid(self, now: float) -> LeaseRecord | None:
        """What to write: a lease that is its own or free; None while another process holds it."""
        holder = self.seen.holder
        if holder not in ("", self.name) and now < self.since + self.seen.duration:
            return None
        changes = holder != self.name
        return replace(
            self.seen,
            holder=self.name,
            transitions=self.seen.transitions + changes,
            duration=DURATION,
        )

    def holds(self, written: LeaseRecord, asked: float) -> Candidate:
        """After a write was accepted that was sent at `asked`: nobody saw it earlier than that."""
        term = self.term + (not self.leads(asked))
        return replace(self, seen=written, since=asked, until=asked + DURATION - _MARGIN, term=term)

    def leads(self, now: float) -> bool:
        """Whether nobody else can hold the lease yet."""
        return now < self.until


class Lease:
    """One lease, for which this process is a candidate from `with` to its end."""

    def __init__(self, api: LeaseApi, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        """name: of the candidate, as others see it; no other process may have it, nor have had it."""
        self._api, self._clock = api, clock
        self._candidate = Candidate(name)
        self._ended = Event()
        self._thread = Thread(target=self._take_turns, daemon=True)

    def term(self) -> int | None:
        """The number of the period for which this process leads now; None while it does not."""
        candidate = self._candidate
        return candidate.term if candidate.leads(self._clock()) else None

    def turn(self) -> None:
        """Look at the lease once, and take or renew it if it may be.

        Raises:
            MedallionError: the API server refuses.
        """
        self._candidate = candidate = self._candidate.sees(self._api.read(), self._clock())
        asked = self._clock()
        if record := candidate.bid(asked):
            try:
                self._candidate = candidate.holds(self._api.write(record), asked)
            except LeaseChanged:
                _LOG.debug("another process was first", extra={"lease": candidate.name})

    def __enter__(self) -> Self:
        self.turn()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give it up: the next one needs not wait."""
        self._ended.set()
        self._thread.join()
        held, self._candidate = self._candidate, replace(self._candidate, until=-inf)
        if held.leads(self._clock()):
            try:
                self._api.write(replace(held.seen, holder=""))
            except (LeaseChanged, MedallionError) as error:
                _LOG.debug("the lease runs out by itself: %s", error, extra={"lease": held.name})

    def _take_turns(self) -> None:
        said = ""
        while not self._ended.wait(TURN_EVERY):
            try:
                self.turn()
                said = ""
            except MedallionError as error:  # until it runs out, what it holds is its own
                if said != str(error):
                    said = str(error)
                    _LOG.warning(said, extra={"kind": classify(error).kind.value})
