"""Whoever a run carries is told each moment, in order; who fails to listen harms no write."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from medallion_platform.errors import Kind
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import Counts, counted
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake import polars_engine as steps
from medallion_platform.pipeline.intake.batch_commit import IntakeFailed
from medallion_platform.pipeline.refresh import commit as refresh_steps
from medallion_platform.pipeline.refresh import refresh
from medallion_platform.pipeline.refresh.errors import RefreshFailed
from medallion_platform.pipeline.run import Run
from medallion_platform_tests.pipeline.shop import event, no_spark
from medallion_platform_tests.pipeline.test_refresh import EVENTS, arrive, declared
from medallion_platform_tests.pipeline.toy import CSV, NOW, Zone, bad, good

Told = tuple[Any, ...]


@dataclass
class Watching:
    """Writes down what it is told."""

    told: list[Told] = field(default_factory=list)

    def planned(self, table: str, reason: str) -> None:
        self.told.append(("planned", table, reason))

    def working(self, table: str) -> None:
        pass

    def staged(self, table: str, counts: Counts) -> None:
        self.told.append(("staged", table, counts))

    def committed(self, table: str, version: int, record: CommitRecord) -> None:
        self.told.append(("committed", table, version, record))

    def conflicted(self, table: str, error: CommitConflict) -> None:
        self.told.append(("conflicted", table, error))

    def retried(self, table: str, attempt: int, error: Exception) -> None:
        self.told.append(("retried", table, attempt, error))

    def failed(self, table: str, error: Exception) -> None:
        self.told.append(("failed", table, error))

    @property
    def moments(self) -> list[str]:
        return [moment for moment, *_ in self.told]


class Deaf:
    """Fails at whatever it is told."""

    def __getattr__(self, _: str) -> Any:
        raise RuntimeError("a value of a row: john.doe@example.com")


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    return Zone(tmp_path)


def take(zone: Zone, observer: Any) -> None:
    zone.take_seen(CSV, zone.seen(CSV), zone.lake, Run("watched", NOW, observer))


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        (Counts(), "0 written"),
        (Counts(3, 3), "3 written"),
        (Counts(1_004, 1_000, 1, 1, 2), "1,000 written, 1 dead-lettered, 1 duplicate, 2 superseded"),
    ],
)
def test_what_became_of_rows_is_told_without_what_there_is_none_of(counts: Counts, told: str) -> None:
    assert counts.outcome == told


def test_one_of_a_thing_is_not_several() -> None:
    assert [counted(n, "files") for n in (0, 1, 2, 1_000)] == ["0 files", "1 file", "2 files", "1,000 files"]


def test_an_intake_tells_each_batch(zone: Zone) -> None:
    zone.csv("events/1.csv", [good("a"), good("b"), bad()])
    seen = Watching()
    take(zone, seen)
    last = zone.lake.last_record(CSV.table)
    assert last is not None
    assert last.counts == Counts(3, 2, 1)
    assert seen.told == [
        ("planned", CSV.table, "3 records of events"),
        ("staged", CSV.table, last.counts),
        ("committed", CSV.table, zone.lake.version(CSV.table), last),
    ]
    seen.told.clear()
    take(zone, seen)
    assert seen.told == []


@pytest.mark.failure("conflict")
def test_an_intake_that_another_one_overtakes_is_tried_again(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone.csv("events/1.csv", [good("a")])
    write, calls, seen = steps.polars_writer.append_rows, [0], Watching()

    def second(*given: Any) -> int:
        calls[0] += 1
        if calls[0] == 1:
            raise CommitConflict("others")
        return write(*given)

    monkeypatch.setattr(steps.polars_writer, "append_rows", second)
    take(zone, seen)
    assert seen.moments == ["planned", "staged", "conflicted", "retried", "staged", "committed"]
    conflicted, retried = seen.told[2], seen.told[3]
    assert (str(conflicted[2]), retried[2:]) == ("others; run it again", (2, conflicted[2]))

    def never(*_: Any) -> int:
        raise CommitConflict("others")

    zone.csv("events/2.csv", [good("b")])
    monkeypatch.setattr(steps.polars_writer, "append_rows", never)
    monkeypatch.setattr(steps, "ATTEMPTS", 2)
    seen.told.clear()
    with pytest.raises(CommitConflict):
        take(zone, seen)
    assert seen.moments == ["planned", "staged", "conflicted", "retried", "staged", "conflicted"]


def test_an_intake_that_fails_says_so_once(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*given: Any) -> int:
        raise IntakeFailed("rows are lost", table=CSV.table)

    zone.csv("events/1.csv", [good("a")])
    monkeypatch.setattr(steps, "refuse_failures", lost)
    seen = Watching()
    with pytest.raises(IntakeFailed):
        take(zone, seen)
    assert seen.moments == ["planned", "failed"]
    (_, table, error) = seen.told[-1]
    assert (table, error.kind, error.table) == (CSV.table, Kind.DATA, CSV.table)


def test_who_fails_to_listen_harms_no_write(zone: Zone, caplog: pytest.LogCaptureFixture) -> None:
    zone.csv("events/1.csv", [good("a")])
    with caplog.at_level(logging.INFO, "medallion_platform"):
        take(zone, Deaf())
    assert zone.lake.rows(CSV.table) == 1
    warned = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert [(r.observer, r.table) for r in warned] == [("Deaf", CSV.table)] * 4  # type: ignore[attr-defined]
    told = [r for r in caplog.records if r.levelno == logging.INFO and r.name.endswith(".polars_engine")]
    assert [r.getMessage() for r in told] == [f"{CSV.table}: {m}" for m in ("planned", "staged", "committed")]
    committed = told[-1]
    assert (committed.run_id, committed.version, committed.read, committed.written) == (  # type: ignore[attr-defined]
        "watched",
        zone.lake.version(CSV.table),
        1,
        1,
    )
    assert "john.doe" not in caplog.text


def test_a_refresh_tells_its_moments(
    zone: Zone, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = declared()
    columns = Catalog((EVENTS,), (t,)).partition_columns

    def bring(table: Any, seen: Any, session: Any = lambda: spark) -> None:
        refresh(table, zone.lake, session, Run("watched", NOW, seen), partition_columns=columns)

    arrive(zone, event("a", 0, amount=1))
    seen = Watching()
    bring(t, seen)
    last = zone.lake.last_record(t.name)
    assert last is not None
    assert seen.told == [
        ("planned", t.name, "rebuilt: there is no earlier refresh"),
        ("staged", t.name, last.counts),
        ("committed", t.name, zone.lake.version(t.name), last),
    ]
    seen.told.clear()
    bring(t, seen, no_spark)
    assert seen.told == []

    arrive(zone, event("b", 0, amount=2))
    commit = refresh_steps.commit_files
    monkeypatch.setattr(
        refresh_steps, "commit_files", lambda *_, **__: (_ for _ in ()).throw(CommitConflict("x"))
    )
    with pytest.raises(CommitConflict):
        bring(t, seen)
    assert seen.moments == ["planned", "staged", "conflicted"]
    monkeypatch.setattr(refresh_steps, "commit_files", commit)

    def dropping(events: DataFrame) -> DataFrame:
        return t.transform(events).limit(0)

    seen.told.clear()
    with pytest.raises(RefreshFailed):
        bring(replace(t, transform=dropping), seen)
    assert seen.moments == ["planned", "failed"]
    assert seen.told[-1][2].kind is Kind.PERMANENT

    bring(t, Deaf())
    assert zone.lake.rows(t.name) == 2
