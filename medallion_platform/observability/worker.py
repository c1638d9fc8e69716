"""Metrics and health of a continuous worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from medallion_platform.pipeline.intake.backpressure import smoothed

STUCK = 300.0
"""Seconds without any progress after which a worker counts as hung; a batch may take longer than that."""

_PREFIX = "medallion_stream"

_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)


class WorkerMetrics:
    """The state of a worker: Prometheus metrics, and whether it is alive and ready."""

    def __init__(self, source: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._turned = clock()
        self._why = "starting"
        self._source = source
        to, one, two = self.registry, ["source"], ["source", "outcome"]
        self._rows = Counter(f"{_PREFIX}_rows_total", "Records read, by outcome.", two, registry=to)
        self._batches = Counter(
            f"{_PREFIX}_commits_total", "Commits of rows and positions.", one, registry=to
        )
        self._seconds = Histogram(
            f"{_PREFIX}_commit_seconds",
            "Seconds to validate and commit one batch.",
            one,
            registry=to,
            buckets=_SECONDS,
        )
        self._behind = Gauge(
            f"{_PREFIX}_behind_records", "Records of a log still to be read.", ["source", "log"], registry=to
        )
        self._lag = Gauge(
            f"{_PREFIX}_lag_seconds", "Seconds to read what is behind, at the present rate.", one, registry=to
        )
        self._rate = 0.0
        self._logs: frozenset[str] = frozenset()
        self._waits = Counter(f"{_PREFIX}_waits_total", "Times the worker had to wait.", one, registry=to)
        self._last = Gauge(
            f"{_PREFIX}_last_commit_timestamp_seconds", "Time of the last commit.", one, registry=to
        )
        for metric in (self._batches, self._seconds, self._lag, self._waits, self._last):
            metric.labels(source)  # shown as 0 from the start

    def tell_newest_backup(self, at: Callable[[], float]) -> None:
        """Tell when the newest backup was made, in seconds since 1970; 0 if there is none.

        at: asked whenever somebody looks. What it cannot find out is not a number.
        """
        newest = Gauge(
            "medallion_backup_timestamp_seconds", "Time of the newest backup.", registry=self.registry
        )
        newest.set_function(at)

    def taken(self, outcomes: Mapping[str, int], seconds: float, behind: Mapping[str, int]) -> None:
        """A batch was committed."""
        self._turn("")
        for outcome, n in outcomes.items():
            self._rows.labels(source=self._source, outcome=outcome).inc(n)
        self._batches.labels(self._source).inc()
        self._seconds.labels(self._source).observe(seconds)
        self._rate = smoothed(self._rate, sum(outcomes.values()) / max(seconds, 1e-6))
        self._lag.labels(self._source).set(sum(behind.values()) / max(self._rate, 1e-6))
        self._behind.clear()  # of partitions that another worker has now, too
        for log, n in behind.items():
            self._behind.labels(source=self._source, log=log).set(n)
        self._logs = frozenset(log for log, n in behind.items() if n)
        self._last.labels(self._source).set_to_current_time()

    def working(self) -> None:
        """A part of a batch is done; whether it can be taken in is not known yet."""
        self._turn(self._why)

    def idle(self) -> None:
        """No records arrived: nothing is behind."""
        self._turn("")
        self._lag.labels(self._source).set(0)
        for log in self._logs:
            self._behind.labels(source=self._source, log=log).set(0)
        self._logs = frozenset()

    def waits(self, why: str) -> None:
        """Nothing can be taken in now, for this reason."""
        self._turn(why)
        self._waits.labels(self._source).inc()

    @property
    def alive(self) -> bool:
        """Whether the work goes on, however slowly; a worker that hangs has to be restarted."""
        return self._clock() - self._turned < STUCK

    @property
    def not_ready(self) -> str:
        """Why nothing can be taken in now; empty if it can."""
        return self._why if self.alive else f"the worker has not responded for {STUCK:.0f} s"

    def _turn(self, why: str) -> None:
        self._turned, self._why = self._clock(), why
