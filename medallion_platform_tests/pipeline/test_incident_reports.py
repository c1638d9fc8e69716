"""What workers and intakes tell the ledger, and that nobody waits for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from medallion_platform.contracts.codes import Code
from medallion_platform.errors import Kind, MedallionError
from medallion_platform.healing.classify import classify
from medallion_platform.healing.incident import fold
from medallion_platform.lakehouse import incidents
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.observability.worker import WorkerMetrics
from medallion_platform.orchestration.stream_reports import _Worker
from medallion_platform.pipeline import incident_reports
from medallion_platform.pipeline.incident_reports import failure_of_worker, report
from medallion_platform.pipeline.intake import stream as worker_loop
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.sources.arrivals import Batch, UnreadableRange
from medallion_platform.sources.errors import Unavailable
from medallion_platform.sources.source import Source
from medallion_platform_tests.pipeline.toy import CSV, RUN, Zone

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
AWAY = Unavailable("source clicks: nobody answers")
BATCH = {"clicks/clicks/1": 40, "clicks/clicks/0": 17}


def reported(lake: Lake) -> list[Any]:
    return list(fold(incidents.read(lake).rows).reported)


def worker(lake: Lake) -> _Worker:
    return _Worker(CSV, WorkerMetrics("s"), lake)


def test_workers_that_fail_at_one_batch_tell_one_failure(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medallion_platform.orchestration.stream_reports.datetime", Clock)
    rows = list[int]()
    for one in (worker(zone.lake), worker(zone.lake)):
        for _ in range(3):
            one.failed(AWAY, BATCH)
        rows.append(len(incidents.read(zone.lake).rows))
    assert rows == [1, 2], "each tells it once"
    (found,) = reported(zone.lake)
    assert found.occurrence == "worker/stream/clicks/clicks/0/17/2026-11-30T12"
    assert (found.work, found.table, classify(found).kind) == ("stream", CSV.table, Kind.NETWORK)
    worker(zone.lake).failed(AWAY, {**BATCH, "clicks/clicks/0": 18})
    worker(zone.lake).failed(AWAY, {})
    assert len(reported(zone.lake)) == 3, "another batch, and a source that could not be read"


class Clock(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return NOON


def test_what_goes_on_is_told_once_an_hour() -> None:
    def told(after: timedelta) -> str:
        return failure_of_worker("stream", "bronze.a", "a/0/1", AWAY, NOON + after).occurrence

    assert told(timedelta(minutes=59)) == told(timedelta()) != told(timedelta(hours=1))


def test_a_loop_tells_of_a_batch_that_it_waits_with_and_of_one_that_ends_it(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = [AWAY, AWAY, MedallionError("no", kind=Kind.DATA)]
    told = list[tuple[Kind, Mapping[str, int | None]]]()
    arrived: Any = SimpleNamespace(begun=BATCH)

    class Follower:
        source = CSV
        polls: Iterator[Any] = iter([AWAY, arrived, arrived])

        def poll(self, *_: Any) -> Any:
            found = next(self.polls)
            if isinstance(found, Exception):
                errors.pop(0)
                raise found
            return found

        def begin_anew(self) -> None:
            pass

    class Watch:
        def failed(self, error: Exception, begun: Mapping[str, int | None]) -> None:
            told.append((worker_loop.classify(error).kind, begun))

        def working(self) -> None:
            pass

        def waits(self, why: str) -> None:
            pass

    def fails(*_: Any, **__: Any) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(worker_loop, "intake", fails)
    monkeypatch.setattr(worker_loop, "PAUSE", 0.0)
    with pytest.raises(MedallionError, match="no"):
        worker_loop.stream(Follower(), zone.lake, lambda: RUN, Event(), Watch())  # type: ignore[arg-type]
    assert told == [(Kind.NETWORK, {}), (Kind.NETWORK, BATCH), (Kind.DATA, BATCH)]


def test_a_merge_that_fails_beside_a_worker_is_told_as_maintenance(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker_loop.maintenance, "optimize", fails)
    monkeypatch.setattr(worker_loop, "COMPACT_EVERY", 1)
    zone.lake.ensure(CSV.table, pl.DataFrame(schema={"a": pl.Int64}).to_arrow().schema)
    with worker_loop.BackgroundMaintenance(zone.lake, CSV.table) as upkeep:
        upkeep.committed()
    (found,) = reported(zone.lake)
    assert (found.work, found.table, classify(found).kind) == ("maintenance", CSV.table, Kind.DISK)


def test_who_tells_goes_on_though_the_ledger_is_away_or_does_not_answer(
    zone: Zone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told, answers = failure_of_worker("stream", "bronze.a", "a/0/1", AWAY, NOON), Event()

    def away(*_: object) -> None:
        raise OSError("a value of a row")

    def silent(*_: object) -> None:
        answers.wait()

    monkeypatch.setattr(incident_reports, "_LONGEST", 0.1)
    monkeypatch.setattr(incidents, "report", silent)
    report(zone.lake, [told], "w")
    answers.set()
    monkeypatch.setattr(incidents, "report", away)
    with caplog.at_level(logging.WARNING):
        report(zone.lake, [told], "w")
    assert "a failure is not in the ledger: OSError" in caplog.text
    assert "a value" not in caplog.text


def test_an_intake_tells_of_records_that_are_gone_and_of_nothing_else(zone: Zone) -> None:
    gone = UnreadableRange(
        "clicks/0", 8, "clicks/0", Code.GAP, "topic: lost", "lost", {"first": 3, "last": 8}
    )
    cut = UnreadableRange("clicks/0", 9, "a.csv", Code.UNREADABLE, "file: cut", "cut")
    for _ in range(2):
        intake(Gone(CSV, [gone, cut]), zone.lake, RUN)
    (found,) = reported(zone.lake)
    assert (found.occurrence, found.work, found.run_id) == ("gap/clicks/0/8", "reading", RUN.run_id)
    assert (found.table, classify(found).kind) == (CSV.table, Kind.GAP)


@dataclass
class Gone:
    """Arrivals with ranges that cannot be read."""

    source: Source
    unread: list[UnreadableRange]
    pieces: str = "partitions"
    notes: list[str] = field(default_factory=list)

    def waiting(self, _position: object) -> list[str]:
        return ["clicks/0"]

    def batches(self, position: Any, rows: int, size: int) -> Iterator[Batch]:
        if position("clicks/0") is None:
            yield Batch(pl.DataFrame(), self.unread, {"clicks/0": 10})


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    return Zone(tmp_path)
