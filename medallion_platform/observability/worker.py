"""Metrics and health of a continuous worker, over HTTP: `/metrics`, `/health`, `/ready`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

STUCK = 300.0
"""Seconds without a turn of the loop after which a worker counts as hung."""

_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)


class WorkerMetrics:
    """What is known of a worker, as Prometheus metrics and as two answers: alive, and ready."""

    def __init__(self, source: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._turned = clock()
        self._why = "starting"
        labels = {"source": source}

        def named(kind: Any, name: str, text: str, *more: str, **options: Any) -> Any:
            made = kind(f"medallion_stream_{name}", text, [*labels, *more], registry=self.registry, **options)
            return made if more else made.labels(**labels)

        self._source = source
        self._rows = named(Counter, "rows_total", "Records taken in, by what became of them.", "outcome")
        self._batches = named(Counter, "commits_total", "Commits of rows with their positions.")
        self._seconds = named(
            Histogram, "commit_seconds", "Validating and committing one batch.", buckets=_SECONDS
        )
        self._behind = named(Gauge, "behind_records", "Records of a log that are still to be read.", "log")
        self._waits = named(Counter, "waits_total", "Times that nothing could be taken in for a while.")
        self._last = named(Gauge, "last_commit_timestamp_seconds", "When the last batch was committed.")

    def taken(self, outcomes: Mapping[str, int], seconds: float, behind: Mapping[str, int]) -> None:
        """A batch was committed."""
        self._turn("")
        for outcome, n in outcomes.items():
            self._rows.labels(source=self._source, outcome=outcome).inc(n)
        self._batches.inc()
        self._seconds.observe(seconds)
        self._behind.clear()  # of partitions that another worker has now, too
        for log, n in behind.items():
            self._behind.labels(source=self._source, log=log).set(n)
        self._last.set_to_current_time()

    def idle(self) -> None:
        """Nothing came."""
        self._turn("")

    def waits(self, why: str) -> None:
        """Nothing can be taken in now."""
        self._turn(why)
        self._waits.inc()

    @property
    def alive(self) -> bool:
        """Whether the loop turns; what does not is better started anew."""
        return self._clock() - self._turned < STUCK

    @property
    def not_ready(self) -> str:
        """Why nothing can be taken in now; empty where it can."""
        return self._why if self.alive else f"no turn within {STUCK:.0f} s"

    def _turn(self, why: str) -> None:
        self._turned, self._why = self._clock(), why


def serve(metrics: WorkerMetrics, host: str, port: int) -> WSGIServer:
    """Answer in a thread of its own until the process ends; port 0 takes any free one.

    Raises:
        OSError: the port is taken.
    """
    metrics = make_wsgi_app(metrics.registry)

    def app(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start)
        answers = {
            "/health": "" if metrics.alive else metrics.not_ready,
            "/ready": metrics.not_ready,
        }
        if path not in answers:
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [b"/metrics, /health, /ready\n"]
        why = answers[path]
        start("503 Service Unavailable" if why else "200 OK", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{why or 'ok'}\n".encode()]

    server = make_server(host, port, app, _Server, _Silent)
    Thread(target=server.serve_forever, daemon=True).start()
    return server


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass
