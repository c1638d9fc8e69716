"""What the supervisor of a namespace has done and seen, as metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge

from medallion_platform.observability.launch import Launch, LaunchMetrics

HUNG = 120.0
"""Seconds after which a supervisor that looked at nothing counts as hung; an API server may be waited for."""


class SupervisorMetrics:
    """The state of a supervisor: Prometheus metrics, and whether it is alive."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = to = CollectorRegistry()
        self._clock = clock
        self._turned = clock()
        self._launches = LaunchMetrics(to)
        self._deleted = Counter(
            "medallion_leftovers_deleted_total", "What dead runs left, by kind.", ["kind"], registry=to
        )
        for kind in ("job", "pod"):
            self._deleted.labels(kind)  # shown as 0 from the start
        of = ["deployment"]
        self._wanted = Gauge(
            "medallion_stream_workers_wanted", "Workers that a Deployment should have.", of, registry=to
        )
        self._seconds = Gauge(
            "medallion_stream_workers_lag_seconds", "Lag of the slowest worker.", of, registry=to
        )
        self._records = Gauge(
            "medallion_stream_workers_behind_records",
            "Records that all workers have to read.",
            of,
            registry=to,
        )
        self._backup: Gauge | None = None

    def pods_seen(self, launches: Mapping[str, str], backups: Iterable[str]) -> None:
        """What the pods that are there now say of themselves.

        launches: how long those of runs took to launch (`Launch.to_json`), by the pods' ids. backups: when
        backups were made (ISO 8601).
        """
        self._launches.see({pod: launch for pod, text in launches.items() if (launch := _launch(text))})
        newest = max((at.timestamp() for text in backups if (at := _time(text))), default=None)
        if newest is not None:
            if self._backup is None:  # before one is known, 0 would be an age of half a century
                self._backup = Gauge(
                    "medallion_backup_timestamp_seconds", "Time of the newest backup.", registry=self.registry
                )
            self._backup.set(newest)

    def deleted(self, kind: str) -> None:
        """A leftover of this kind was deleted."""
        self._deleted.labels(kind).inc()

    def workers(self, deployment: str, wanted: int, lag: tuple[float, int] | None) -> None:
        """How many workers were decided on, and their lag in seconds and records; None: nobody tells it."""
        self._wanted.labels(deployment).set(wanted)
        for gauge, value in zip((self._seconds, self._records), lag or (None, None), strict=True):
            if value is None:
                with suppress(KeyError):  # none was told before
                    gauge.remove(deployment)
            else:
                gauge.labels(deployment).set(value)

    def turned(self) -> None:
        """One more thing was looked at, or could not be."""
        self._turned = self._clock()

    @property
    def alive(self) -> bool:
        """Whether it still looks."""
        return self._clock() - self._turned < HUNG

    @property
    def not_ready(self) -> str:
        """Why it does nothing; empty if it does."""
        return "" if self.alive else f"the supervisor has not looked for {HUNG:.0f} s"


def _launch(text: str) -> Launch | None:
    try:
        return Launch.from_json(text)
    except ValueError:  # of another version
        return None


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
