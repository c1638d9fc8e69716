"""What goes wrong at a broker and with what is sent to it, while a worker or a run takes it in."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer

from medallion_platform.jars import JarsUnavailable
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.sources import kafka
from medallion_platform_tests.kafka.broker import Broker
from medallion_platform_tests.kafka.test_kafka import conserved, event, ids, letters, rows, source_of, take
from medallion_platform_tests.kafka.test_stream import Worker, until, workers

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One that may be killed."""
    try:
        started = Broker.start(tmp_path_factory.mktemp("broker"))
    except JarsUnavailable as error:
        pytest.skip(f"no Kafka broker: {error}")
    yield started
    started.stop()


class Sending:
    """A producer that goes on whatever happens, and knows what was acknowledged."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self.acknowledged: list[str] = []
        self._stop = Event()
        self._topic = topic
        self._producer = Producer(
            {"bootstrap.servers": broker.address, "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
        )
        self._thread = Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        number = 0
        while not self._stop.is_set():
            key = f"n{number}"

            def heard(error: KafkaError | None, _: Any, key: str = key) -> None:
                if error is None:
                    self.acknowledged.append(key)

            self._producer.produce(self._topic, event(key), partition=number % 2, on_delivery=heard)
            self._producer.poll(0)
            number += 1
            time.sleep(0.002)

    def end(self) -> list[str]:
        self._stop.set()
        self._thread.join()
        assert self._producer.flush(60) == 0
        return self.acknowledged


def test_a_broker_is_killed_and_comes_back_under_a_worker(
    own_broker: Broker, topic: str, tmp_path: Path, long: bool, recovering: Any
) -> None:
    own_broker.create(topic, 2)
    lake = Lake(tmp_path / "lake")
    with workers(Worker(own_broker, topic, lake.root)) as running:
        sending = Sending(own_broker, topic)
        for _ in range(10 if long else 2):
            before = lake.rows("bronze.clicks")
            until(lambda: lake.rows("bronze.clicks") > before, running)  # noqa: B023
            own_broker.kill()
            time.sleep(2)
            there = lake.rows("bronze.clicks")
            with recovering("a killed broker, from its first answer"):
                own_broker.again()
                until(lambda: lake.rows("bronze.clicks") > there, running)  # noqa: B023
        acknowledged = sending.end()
        until(lambda: lake.rows("bronze.clicks") >= len(acknowledged), running)
        assert running[0].end(signal.SIGTERM) == 0, running[0].said()
    take(source_of(own_broker, topic), lake)
    there = ids(lake)
    assert len(there) == len(set(there))
    assert set(acknowledged) <= set(there)
    # What was sent and never acknowledged may be there as well, once.
    assert len(there) - len(acknowledged) < 1000
    conserved(lake)


def test_records_of_every_bad_kind_are_kept_whole(broker: Broker, topic: str, lake: Lake) -> None:
    broker.create(topic, 1, max_message_bytes="3000000")
    chance = random.Random(5)
    corrupt = [bytes(chance.randrange(256) for _ in range(chance.randint(1, 200))) for _ in range(50)]
    deep = b"[" * 100_000 + b"]" * 100_000
    poison = [deep, b"{" * 5000, b'{"event_id":"' + b"x" * 1_500_000, b"\x00" * 1000, b'{"a":1e999999}', b""]
    good = [event(f"k{n}") for n in range(20)]
    large = event("large", note="y" * 2_000_000)
    twice = [good[3], good[3]]
    messages = [*corrupt, *poison, *good, large, *twice, None]
    chance.shuffle(messages)
    producer = Producer({"bootstrap.servers": broker.address, "message.max.bytes": 3_000_000})
    for message in messages:
        producer.produce(topic, message, partition=0)
        producer.flush(30)
    source = source_of(broker, topic, settings={"fetch.message.max.bytes": 100_000})
    taken = take(source, lake, batch_rows=13)
    assert taken.counts.read == len(messages)
    assert rows(lake).height + letters(lake).height == len(messages)
    assert ids(lake) == sorted([*(f"k{n}" for n in range(20)), "k3", "k3", "large"])
    kept = letters(lake)["payload"].to_list()
    sent = [m for m in messages if m not in good and m != large]
    assert sorted(k or b"" for k in kept) == sorted(m or b"" for m in sent)
    conserved(lake)


def test_a_producer_that_goes_back_in_time_and_one_with_a_wrong_clock(
    broker: Broker, topic: str, lake: Lake
) -> None:
    broker.create(topic, 1)
    times = ["2026-01-05", "2026-01-02", "2031-01-01", "2026-01-05", "1969-12-31", "0001-01-01", "2026-01-04"]
    messages = [event(f"k{n}", event_timestamp=f"{day}T12:00:00Z") for n, day in enumerate(times)]
    for n, message in enumerate(messages):
        broker.send(topic, [message], timestamp=1_700_000_000_000 - n * 86_400_000)
    take(source_of(broker, topic), lake, batch_rows=2)
    assert ids(lake) == ["k0", "k1", "k3", "k6"]
    assert letters(lake)["offset"].to_list() == [2, 4, 5]
    assert json.loads(letters(lake)["payload"][0])["event_id"] == "k2"
    conserved(lake)


def test_a_consumer_far_behind_meets_expired_offsets_under_a_worker(
    broker: Broker, topic: str, tmp_path: Path
) -> None:
    broker.create(topic, 2)
    lake = Lake(tmp_path / "lake")
    for partition in range(2):
        broker.send(topic, [event(f"{partition}-{n}") for n in range(100)], partition)
    source = source_of(broker, topic)
    take(source, lake)
    for partition in range(2):
        broker.send(topic, [event(f"{partition}-{n}") for n in range(100, 20_000)], partition)
    broker.expire(topic, 1, 5_000)
    with workers(Worker(broker, topic, lake.root)) as running:
        until(lambda: lake.rows("bronze.clicks") == 20_000 + 100 + 15_000, running)
        assert running[0].end(signal.SIGTERM) == 0, running[0].said()
    (why,) = letters(lake)["violations"].to_list()
    assert why == ["topic: lost offsets 100 to 4999: deleted before they were read"]
    assert len(set(ids(lake))) == 35_100
    assert kafka.look(source).waiting(lake.positions("bronze.clicks")) == []
    conserved(lake)
