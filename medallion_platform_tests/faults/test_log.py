"""What goes wrong with a table's own files: damaged or missing parts of its log, and of its data."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from deltalake import DeltaTable

from medallion_platform.lakehouse import maintenance
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.lake import DamagedLog, Lake
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.pipeline.run import Run
from medallion_platform_tests.kafka.broker import Broker
from medallion_platform_tests.kafka.test_kafka import conserved, event, ids, source_of, take

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
COMMITS = 12


@pytest.fixture
def filled(broker: Broker, topic: str, lake: Lake) -> Any:
    """A source, and a table of some commits with a checkpoint in the middle of its log."""
    broker.create(topic)
    source = source_of(broker, topic)
    for n in range(COMMITS):
        broker.send(topic, [event(f"k{n:02}")])
        take(source, lake)
        if n == COMMITS // 2:
            table = lake.open("bronze.clicks")
            assert table
            table.create_checkpoint()
    return source


def _log(lake: Lake) -> Path:
    return Path(lake.path("bronze.clicks")) / "_delta_log"


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "garbage"])
def test_a_damaged_checkpoint_loses_and_doubles_nothing(
    filled: Any, broker: Broker, topic: str, lake: Lake, damage: str
) -> None:
    """Healed or refused with one clear error; deleting the checkpoint brings the table back whole."""
    (checkpoint,) = _log(lake).glob("*.checkpoint.parquet")
    whole = checkpoint.read_bytes()
    checkpoint.unlink()
    if damage != "gone":
        left = {"empty": b"", "cut": whole[: len(whole) // 2], "garbage": os.urandom(len(whole))}
        checkpoint.write_bytes(left[damage])
    broker.send(topic, [event("after")])
    try:
        take(filled, lake)
    except DamagedLog as error:
        assert str(error).startswith("bronze.clicks: its log")
        checkpoint.unlink(missing_ok=True)
        (_log(lake) / "_last_checkpoint").unlink()
        take(filled, lake)
    assert ids(lake) == sorted(["after", *(f"k{n:02}" for n in range(COMMITS))])
    conserved(lake)


@pytest.mark.parametrize("part", ["_last_checkpoint", "*.crc"])
def test_a_damaged_helper_of_the_log_does_no_harm(
    filled: Any, broker: Broker, topic: str, lake: Lake, part: str
) -> None:
    for file in _log(lake).glob(part):
        file.write_bytes(b"{")
    broker.send(topic, [event("after")])
    take(filled, lake)
    assert len(ids(lake)) == COMMITS + 1
    conserved(lake)


@pytest.mark.failure("corrupt")
def test_a_missing_commit_is_refused_and_nothing_is_written(
    filled: Any, broker: Broker, topic: str, lake: Lake
) -> None:
    """Behind the checkpoint a hole in the log cannot be healed: one clear error, no damage."""
    commits = sorted(_log(lake).glob("*.json"))
    hole = commits[-2]
    kept = hole.read_bytes()
    hole.unlink()
    before = sorted(p.name for p in _log(lake).iterdir())
    broker.send(topic, [event("after")])
    with pytest.raises(DamagedLog, match="Nothing was written"):
        take(filled, lake)
    assert sorted(p.name for p in _log(lake).iterdir()) == before
    hole.write_bytes(kept)
    take(filled, lake)
    assert len(ids(lake)) == COMMITS + 1
    conserved(lake)


def test_maintenance_and_intake_beside_each_other(
    filled: Any, broker: Broker, topic: str, lake: Lake
) -> None:
    """Clustering and a vacuum of all that is dead go on while messages are taken in."""
    stop, done = Event(), [0]

    def maintain() -> None:
        while not stop.is_set():
            try:
                maintenance.optimize(lake, "bronze.clicks")
                done[0] += 1
            except CommitConflict:
                continue

    thread = Thread(target=maintain)
    thread.start()
    try:
        for n in range(40):
            broker.send(topic, [event(f"more{n:02}")])
            intake_once(filled, lake)
    finally:
        stop.set()
        thread.join()
    maintenance.vacuum(lake, "bronze.clicks")
    assert done[0] > 0
    assert len(set(ids(lake))) == len(ids(lake)) == COMMITS + 40
    conserved(lake)


def intake_once(source: Any, lake: Lake) -> None:
    from medallion_platform.sources.connectors.kafka.bounded_run import look_at_topics

    while True:
        try:
            intake(look_at_topics(source), lake, Run.now("test"))
            return
        except CommitConflict:
            continue


def test_a_reader_keeps_its_version_through_clustering_and_vacuum(filled: Any, lake: Lake) -> None:
    reader = DeltaTable(lake.path("bronze.clicks"))
    maintenance.optimize(lake, "bronze.clicks")
    maintenance.vacuum(lake, "bronze.clicks")
    assert reader.to_pyarrow_table().num_rows == COMMITS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("only root can make a small file system here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.failure("disk")
def test_a_full_disk_in_the_middle_of_a_write(
    broker: Broker, topic: str, small_disk: Path, recovering: Any
) -> None:
    """One clear error, no damage; with room again the same call goes on."""
    broker.create(topic)
    lake, source = Lake(small_disk / "lake"), source_of(broker, topic)
    broker.send(topic, [event(f"k{n}") for n in range(100)])
    take(source, lake)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3_300_000))
    notes = [os.urandom(3000).hex() for _ in range(200)]
    broker.send(topic, [event(f"l{n}", note=note) for n, note in enumerate(notes)])
    with pytest.raises(Exception, match="No space left on device"):
        take(source, lake)
    assert len(ids(lake)) == 100
    ballast.unlink()
    with recovering("a full disk"):
        take(source, lake)
    assert len(set(ids(lake))) == 300
    conserved(lake)
