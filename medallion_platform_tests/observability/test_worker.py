"""What a worker's probes and gauges say: a slow one is not stuck, and how far it is behind in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from medallion_platform.observability.server import serve_metrics
from medallion_platform.observability.worker import STUCK, WorkerMetrics
from medallion_platform.orchestration.stream_reports import _Worker
from medallion_platform.pipeline.intake import landing_zone, polars_engine
from medallion_platform.pipeline.intake.stream import stream
from medallion_platform_tests.pipeline.toy import CSV, RUN, Zone, check, good

MINUTES_PER_DAY = 24 * 60


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def gauge(metrics: WorkerMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"medallion_stream_{name}", {"source": "s", **labels})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> WorkerMetrics:
    return WorkerMetrics("s", clock)


def test_a_batch_of_many_minutes_is_slow_and_not_stuck(
    tmp_path: Path, clock: Clock, metrics: WorkerMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file takes a hundred seconds, as in a bucket that answers slowly."""
    zone, stop, alive = Zone(tmp_path), Event(), list[bool]()
    zone.csv("events/1.csv", [good(str(day), day * MINUTES_PER_DAY) for day in range(5)])
    write = polars_engine.polars_writer.write_partition_file

    def slowly(*arguments: Any, **named: Any) -> Any:
        done = write(*arguments, **named)
        clock.now += 100
        alive.append(metrics.alive)
        return done

    class Follower:
        source = CSV

        def poll(self, *_: Any) -> Any:
            stop.set()
            return landing_zone.landed_files(CSV, zone.landing, zone.seen(CSV), zone.lake, RUN)

        def behind(self) -> Mapping[str, int]:
            return {}

    monkeypatch.setattr(polars_engine.polars_writer, "write_partition_file", slowly)
    worker = _Worker(CSV, metrics, zone.lake)
    stream(Follower(), zone.lake, worker.run, stop, worker)  # type: ignore[arg-type]
    assert alive == [True] * 5
    assert metrics.not_ready == ""
    check(zone)
    clock.now += STUCK
    assert not metrics.alive


def test_who_makes_no_progress_is_stuck_and_says_so(clock: Clock, metrics: WorkerMetrics) -> None:
    server = serve_metrics(metrics, "127.0.0.1", 0)

    def ask(path: str) -> tuple[int, str]:
        found = httpx.get(f"http://127.0.0.1:{server.server_port}/{path}")
        return found.status_code, found.text.strip()

    try:
        assert (ask("health"), ask("ready")) == ((200, "ok"), (503, "starting"))
        clock.now += STUCK - 1
        metrics.working()
        assert ask("ready") == (503, "starting"), "nothing was taken in yet"
        metrics.idle()
        assert (ask("health"), ask("ready")) == ((200, "ok"), (200, "ok"))
        metrics.waits("the bucket does not answer")
        assert (ask("health"), ask("ready")) == ((200, "ok"), (503, "the bucket does not answer"))
        metrics.working()
        assert ask("ready") == (503, "the bucket does not answer")
        clock.now += STUCK
        stuck = (503, "the worker has not responded for 300 s")
        assert (ask("health"), ask("ready")) == (stuck, stuck)
    finally:
        server.shutdown()


def test_the_lag_is_told_in_seconds(metrics: WorkerMetrics) -> None:
    assert gauge(metrics, "lag_seconds") == 0
    metrics.taken({"written": 900, "duplicate": 100}, 2.0, {"a": 2500, "b": 500})
    assert gauge(metrics, "lag_seconds") == 6
    metrics.taken({"written": 1000}, 1.0, {"a": 1200})
    assert gauge(metrics, "lag_seconds") == 2, "600 a second, smoothed"
    assert gauge(metrics, "behind_records", log="b") is None, "another worker has it now"
    metrics.idle()
    assert gauge(metrics, "lag_seconds") == gauge(metrics, "behind_records", log="a") == 0
