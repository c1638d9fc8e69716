"""A record that kills whatever reads it becomes a dead letter, and no other; it can be taken in later."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from medallion_platform.contracts.codes import Code
from medallion_platform.healing.incident import known_from
from medallion_platform.lakehouse import incidents
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.pipeline.intake.replay import replay
from medallion_platform.pipeline.run import Run
from medallion_platform.sources.connectors.files import record_offset
from medallion_platform.sources.connectors.kafka.bounded_run import look_at_topics
from medallion_platform_tests.faults import victim
from medallion_platform_tests.kafka.broker import Broker
from medallion_platform_tests.kafka.test_kafka import conserved, event, ids, letters, source_of
from medallion_platform_tests.pipeline import toy
from medallion_platform_tests.pipeline.toy import JSON, RUN, Zone, bad, json_good

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def deaths_until_done(work: Callable[..., None], *arguments: object) -> int:
    """How many processes are killed until one has done its work."""
    for killed in range(40):
        process = victim.read_fatal(work, *arguments)
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
        if process.exitcode == 0:
            return killed
    raise AssertionError


def take_files(root: str) -> None:
    Zone(Path(root)).take(JSON)


def take_topic(address: str, topic: str, lake: str) -> None:
    source = source_of(Broker(address, None), topic)  # type: ignore[arg-type]
    intake(look_at_topics(source), Lake(Path(lake)), Run.now("bounded"))


def test_a_line_of_a_file(tmp_path: Path) -> None:
    zone = Zone(tmp_path)
    for n in range(3):
        rows = [
            json_good(f"{n}-{i}", i, 5, {"note": "fatal"} if (n, i) == (1, 70) else {}) for i in range(100)
        ]
        zone.json(f"clicks/{n}.json", [*rows, bad(b"{")])
    assert deaths_until_done(take_files, str(tmp_path)) <= 4 + 9, "300 records"
    dead = toy.letters(zone.lake).filter(pl.col("code") == Code.POISON)
    assert dead["offset"].to_list() == [record_offset(2, 71)]
    assert replay(JSON, zone.lake, RUN).counts.written == 1
    undisturbed = Lake(tmp_path / "undisturbed")
    zone.take(JSON, undisturbed)
    toy.same_tables(zone.lake, undisturbed)


@pytest.mark.parametrize("continuous", [False, True])
def test_messages_of_a_topic(broker: Broker, topic: str, tmp_path: Path, *, continuous: bool) -> None:
    broker.create(topic, 3)
    lake, sent = Lake(tmp_path / "lake"), list[str]()
    for partition in range(3):
        fatal = {0: [], 1: [0, 33], 2: [49]}[partition]
        keys = [f"{partition}-{n}-fatal" if n in fatal else f"{partition}-{n}" for n in range(50)]
        broker.send(topic, [*map(event, keys), b"{"], partition)
        sent += keys
    work = (victim.follow_topic, len(sent) + 3) if continuous else (take_topic,)
    assert deaths_until_done(work[0], broker.address, topic, str(lake.root), *work[1:]) <= 3 * (5 + 8)
    dead = letters(lake).filter(pl.col("code") == Code.POISON)
    assert sorted(dead["payload"].to_list()) == sorted(event(k) for k in sent if "fatal" in k)
    conserved(lake)
    known = known_from(incidents.read(lake))
    assert {e.deaths >= 2 for e in known.reported} == ({True} if continuous else set())
    source = source_of(broker, topic)
    assert replay(source, lake, RUN).counts.written == 3
    assert ids(lake) == sorted(sent)
    assert letters(lake).height == 3
