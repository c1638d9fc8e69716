"""Continuous workers on a real broker: they share a topic, are killed, and every message is there once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import dagster as dg
import httpx
import pytest

from medallion_platform.lakehouse import maintenance
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration.names import asset_key
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.pipeline.intake.stream import stream
from medallion_platform.sources.connectors.kafka import client
from medallion_platform.sources.connectors.kafka.bounded_run import look_at_topics
from medallion_platform.sources.connectors.kafka.client import KafkaClient, count_group_members
from medallion_platform.sources.connectors.kafka.follow import TopicFollower
from medallion_platform.sources.errors import Unavailable
from medallion_platform_tests.command import MEDALLION, streaming
from medallion_platform_tests.pipeline.toy import RUN

from .broker import Broker, free_ports
from .test_kafka import conserved, event, ids, letters, rows, source_of

WORKER = Path(__file__).with_name("worker.py")
PATIENCE = 60.0


class Worker:
    """A worker in a process of its own."""

    def __init__(
        self,
        broker: Broker,
        topic: str,
        lake: Path | str,
        contract: str = "keyless",
        engine: str = "polars",
        home: Path | None = None,
        told: Mapping[str, str] | None = None,
    ) -> None:
        """home: for its log and temporary files; beside the lake, where that is a folder.

        told: further variables of its environment.
        """
        home = home or Path(lake).parent
        self.log = home / f"worker-{uuid.uuid4().hex[:6]}.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(WORKER), broker.address, topic, str(lake), contract, engine],
                stdout=out,
                stderr=out,
                env={**os.environ, **(told or {}), "TMPDIR": str(home)},
            )

    def said(self) -> str:
        return self.log.read_text()

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextmanager
def workers(*started: Worker) -> Iterator[list[Worker]]:
    """Workers that are ended whatever happens."""
    running = list(started)
    try:
        yield running
    finally:
        for worker in running:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()


def until(true, workers: list[Worker]) -> None:  # type: ignore[no-untyped-def]
    """Wait for what the workers are to bring about."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "\n".join(w.said() for w in workers)
        time.sleep(0.1)


def count(lake: Lake) -> int:
    return lake.rows("bronze.clicks") + lake.rows("dead_letters.bronze.clicks")


@pytest.mark.broker
def test_a_worker_takes_what_comes_and_ends_clean(broker: Broker, topic: str, tmp_path: Path) -> None:
    broker.create(topic, 2)
    lake = Lake(tmp_path / "lake")
    broker.send(topic, [event("a"), b"{"], 1)
    with workers(Worker(broker, topic, lake.root)) as running:
        until(lambda: count(lake) == 2, running)
        broker.send(topic, [event("b"), None])
        until(lambda: count(lake) == 4, running)
        source = source_of(broker, topic)
        group = source.group(str(lake.root))
        assert count_group_members(source, group) == 1
        assert running[0].end(signal.SIGTERM) == 0
        assert running[0].said().endswith("ends\n")
    assert ids(lake) == ["a", "b"]
    assert count_group_members(source, group) == 0
    assert look_at_topics(source_of(broker, topic)).waiting(lake.positions("bronze.clicks")) == []
    conserved(lake)


@pytest.mark.broker
@pytest.mark.parametrize("contract", ["keyed", "keyless"])
def test_workers_that_are_killed_lose_and_double_nothing(
    broker: Broker, topic: str, tmp_path: Path, contract: str
) -> None:
    """Three workers share four partitions; one after the other is killed and replaced while messages come."""
    broker.create(topic, 4)
    lake = Lake(tmp_path / "lake")
    sent: list[str] = []

    def send(turn: int) -> None:
        for n in range(4):
            keys = [f"{turn}-{n}-{i}" for i in range(60)]
            sent.extend(keys)
            twice = keys[:5] if contract == "keyed" else []
            broker.send(topic, [event(k) for k in keys] + [b"[%d" % turn], n)
            broker.send(topic, [event(k) for k in twice], (n + 1) % 4)

    with workers(*(Worker(broker, topic, lake.root, contract) for _ in range(3))) as running:
        for turn in range(8):
            send(turn)
            time.sleep(0.15 + 0.1 * turn)
            victim = running.pop(0)
            assert victim.end(signal.SIGKILL) == -signal.SIGKILL
            running.append(Worker(broker, topic, lake.root, contract))
        until(lambda: count(lake) == len(sent) + 32, running)
        time.sleep(2)
        for worker in running:
            assert worker.end(signal.SIGTERM) == 0, worker.said()
    assert ids(lake) == sorted(sent)
    assert letters(lake).height == 32
    assert look_at_topics(source_of(broker, topic)).waiting(lake.positions("bronze.clicks")) == []
    conserved(lake)


@pytest.mark.broker
def test_a_worker_that_was_frozen_is_fenced(broker: Broker, topic: str, tmp_path: Path) -> None:
    """Stopped for longer than its session, another takes over; woken up it doubles nothing."""
    broker.create(topic)
    lake = Lake(tmp_path / "lake")
    with workers(Worker(broker, topic, lake.root)) as running:
        broker.send(topic, [event("a")])
        until(lambda: count(lake) == 1, running)
        broker.send(topic, [event(f"b{i}") for i in range(2000)])
        running[0].process.send_signal(signal.SIGSTOP)
        running.append(Worker(broker, topic, lake.root))
        until(lambda: count(lake) == 2001, running)
        running[0].process.send_signal(signal.SIGCONT)
        broker.send(topic, [event("c")])
        until(lambda: count(lake) == 2002, running)
        for worker in running:
            assert worker.end(signal.SIGTERM) == 0, worker.said()
    assert len(ids(lake)) == len(set(ids(lake))) == 2002
    conserved(lake)


@pytest.mark.broker
def test_a_topic_made_anew_under_a_worker_is_told_and_taken(
    broker: Broker, topic: str, tmp_path: Path
) -> None:
    broker.create(topic)
    lake = Lake(tmp_path / "lake")
    with workers(Worker(broker, topic, lake.root)) as running:
        broker.send(topic, [event(f"old{i}") for i in range(5)])
        until(lambda: count(lake) == 5, running)
        broker.delete(topic)
        broker.create(topic)
        broker.send(topic, [event(f"new{i}") for i in range(20)])
        until(lambda: lake.rows("bronze.clicks") == 25, running)
        assert running[0].end(signal.SIGTERM) == 0, running[0].said()
    assert len(set(ids(lake))) == 25
    (why,) = letters(lake)["violations"].to_list()
    assert why[0].startswith("topic: lost from offset 5 on: the topic was deleted and recreated")
    conserved(lake)


@pytest.mark.broker
def test_a_topic_made_anew_under_two_workers_loses_nothing(
    broker: Broker, topic: str, tmp_path: Path
) -> None:
    """Each has a partition, and each must learn that it is another's topic now."""
    broker.create(topic, 2)
    lake = Lake(tmp_path / "lake")
    with workers(*(Worker(broker, topic, lake.root) for _ in range(2))) as running:
        for n in range(2):
            broker.send(topic, [event(f"old{n}-{i}") for i in range(5)], n)
        until(lambda: count(lake) == 10, running)
        broker.delete(topic)
        broker.create(topic, 2)
        for n in range(2):
            broker.send(topic, [event(f"new{n}-{i}") for i in range(20)], n)
        until(lambda: lake.rows("bronze.clicks") == 50, running)
        for worker in running:
            assert worker.end(signal.SIGTERM) == 0, worker.said()
    assert len(set(ids(lake))) == 50
    told = [why[0].partition(" on: ")[0] for why in letters(lake)["violations"].to_list()]
    assert told == ["topic: lost from offset 5"] * 2
    conserved(lake)


@pytest.mark.failure("network", work="stream")
def test_without_a_broker_a_worker_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 1.0)
    (port,) = free_ports(1)
    source = source_of(Broker(f"127.0.0.1:{port}", None), "t")  # type: ignore[arg-type]
    follower = TopicFollower(source, "g", lambda: lambda _: None)
    try:
        with pytest.raises(Unavailable, match="does not respond within 1 s"):
            follower.poll(10, 10, 0.1)
    finally:
        follower.close()


@pytest.mark.broker
def test_an_error_between_messages_loses_none_of_them(
    broker: Broker, topic: str, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a poll had heard when it failed is heard again by the next one."""
    broker.create(topic, 2)
    source = source_of(broker, topic)
    for n in range(2):
        broker.send(topic, [event(f"{n}-{i}") for i in range(30)], n)
    split, failed = KafkaClient.split_errors, []

    def fails_once(self: KafkaClient, said: Iterable[Any]) -> Any:
        heard = split(self, said)
        if heard.messages and not failed:
            failed.append(True)
            raise Unavailable("refused for once")
        return heard

    monkeypatch.setattr(KafkaClient, "split_errors", fails_once)
    follower = TopicFollower(source, f"g-{topic}", lambda: lake.positions(source.table))
    stop = Event()

    class Watch:
        def taken(self, *_: object) -> None:
            if lake.rows("bronze.clicks") == 60:
                stop.set()

        def working(self) -> None:
            pass

        def idle(self) -> None:
            pass

        def waits(self, why: str) -> None:
            assert why == "refused for once"

        def failed(self, error: Exception, begun: Mapping[str, int | None]) -> None:
            assert not begun, "nothing was read"

    stream(follower, lake, lambda: RUN, stop, Watch())
    follower.close()
    assert failed
    assert len(set(ids(lake))) == 60


@pytest.mark.broker
def test_a_clock_that_counts_microseconds_does_not_hinder_upkeep(
    broker: Broker, topic: str, lake: Lake
) -> None:
    broker.create(topic, message_timestamp_after_max_ms=str(2**63 - 1))
    source = source_of(broker, topic)
    for n, at in enumerate([1_767_571_200_000_000, 2**62, 1_767_571_200_000]):
        broker.send(topic, [event(f"k{n}")], timestamp=at)
        intake(look_at_topics(source), lake, RUN)
    maintenance.optimize(lake, "bronze.clicks")
    there = rows(lake)["_timestamp"].to_list()
    assert [at and at.isoformat() for at in there] == [None, None, "2026-01-05T00:00:00+00:00"]


@pytest.mark.broker
def test_small_files_are_merged_while_a_worker_writes(broker: Broker, topic: str, tmp_path: Path) -> None:
    broker.create(topic)
    lake = Lake(tmp_path / "lake")
    with workers(Worker(broker, topic, lake.root)) as running:
        for turn in range(30):
            broker.send(topic, [event(f"{turn}-{i}") for i in range(10)])
            until(lambda: count(lake) == 10 * (turn + 1), running)  # noqa: B023
            if turn % 10 == 5:
                maintenance.optimize(lake, "bronze.clicks")
        assert running[0].end(signal.SIGTERM) == 0, running[0].said()
    table = lake.open("bronze.clicks")
    assert table
    assert len(table.file_uris()) < 20
    assert len(set(ids(lake))) == 300


def region(code: str) -> bytes:
    """A change event of `clickstream.public.regions`: a new one."""
    after = {"region_code": code, "name": "Europe", "country": "DE", "timezone": "Europe/Berlin"}
    told = {"before": None, "op": "c", "source": {"ts_ms": 1767571200000}, "ts_ms": 1767571200000}
    return json.dumps({**told, "after": after}).encode()


@pytest.mark.timeout(600)
@pytest.mark.broker
def test_the_commands_take_topics_in_at_once_and_as_they_come(broker: Broker, tmp_path: Path) -> None:
    """`run` where the settings name a broker, then `stream`: metrics, Dagster, silver behind it."""
    for topic in ("events", "public.users", "public.regions"):
        broker.create(f"clickstream.{topic}")
    lake, log = Lake(tmp_path / "lake"), tmp_path / "said.log"
    settings = {"bootstrap.servers": broker.address}
    environment = {
        **os.environ,
        "MEDALLION_KAFKA": json.dumps(settings),
        "MEDALLION_HOME": str(tmp_path),
        "MEDALLION_LANDING": str(tmp_path),
    }

    def send(code: str) -> None:
        broker.send("clickstream.public.regions", [region(code), b"{"])

    send("EU")
    subprocess.run([*MEDALLION, "run"], env=environment, check=True, capture_output=True, timeout=200)
    assert lake.rows("silver.regions") == 1
    with streaming("clickstream.regions", environment, log) as process:
        send("US")
        end = time.monotonic() + 4 * PATIENCE  # Spark starts in it, on whatever machine
        while lake.rows("silver.regions") < 2:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        url = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        assert url, log.read_text()
        assert httpx.get(f"{url[0]}/ready").status_code == 200
        assert httpx.get(f"{url[0]}/health").text == "ok\n"
        metrics = httpx.get(f"{url[0]}/metrics").text
        for outcome in ("written", "dead_lettered"):
            line = f'medallion_stream_rows_total{{outcome="{outcome}",source="clickstream.regions"}} 1.0'
            assert line in metrics
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as on:
        for table in ("bronze.regions", "silver.regions"):
            seen = on.fetch_materializations(asset_key(table), 10).records
            assert any(not event.run_id for event in seen), "the worker is no run of Dagster's"
