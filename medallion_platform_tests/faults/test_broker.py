"""What goes wrong at a broker and with what is sent to it, while a worker or a run takes it in."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from confluent_kafka import KafkaError, Producer

from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.pipeline.intake.replay import replay
from medallion_platform.pipeline.run import Run
from medallion_platform.sources.connectors.kafka import KafkaSource
from medallion_platform.sources.connectors.kafka.bounded_run import look_at_topics
from medallion_platform_tests.kafka.broker import Broker
from medallion_platform_tests.kafka.conftest import running_broker
from medallion_platform_tests.kafka.test_kafka import conserved, event, ids, letters, rows, source_of, take
from medallion_platform_tests.kafka.test_stream import Worker, until, workers
from medallion_platform_tests.pipeline import shop
from medallion_platform_tests.pipeline.toy import RUN, Row, Zone

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One that may be killed."""
    yield from running_broker(tmp_path_factory)


class Sending:
    """A producer that goes on whatever happens, and knows what was acknowledged."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self.acknowledged: list[str] = []
        self._stop = Event()
        self._topic = topic
        self._producer = Producer(
            {"bootstrap.servers": broker.address, "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
        )
        self._thread = Thread(target=self._send, daemon=True)
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
    assert look_at_topics(source).waiting(lake.positions("bronze.clicks")) == []
    conserved(lake)


def test_a_tenfold_spike_under_a_worker_makes_larger_batches_and_loses_nothing(
    broker: Broker, topic: str, tmp_path: Path, recovering: Any
) -> None:
    """Batches are as large as what came; after the spike they are small again, and do not swing."""
    broker.create(topic, 2)
    lake = Lake(tmp_path / "lake")
    with workers(Worker(broker, topic, lake.root)) as running:
        sent = 0

        def sizes() -> list[int]:
            lines = running[0].said().splitlines()
            return [int(line.removeprefix("taken ")) for line in lines if line.startswith("taken ")]

        def send(seconds: float, per_second: int) -> list[int]:
            """Gives the batches that were taken meanwhile."""
            nonlocal sent
            before = len(sizes())
            for _ in range(round(seconds * 10)):
                began = time.monotonic()
                keys = range(sent, sent + per_second // 10)
                broker.send(topic, [event(f"n{n}") for n in keys], sent % 2)
                sent += per_second // 10
                time.sleep(max(0.0, began + 0.1 - time.monotonic()))
            return sizes()[before:]

        broker.send(topic, [event("first")])
        until(lambda: lake.rows("bronze.clicks") == 1, running)
        calm, spike = send(4, 500), send(6, 5_000)
        with recovering("a tenfold spike"):
            until(lambda: lake.rows("bronze.clicks") == sent + 1, running)
        after = send(4, 500)
        until(lambda: lake.rows("bronze.clicks") == sent + 1, running)
        assert running[0].end(signal.SIGTERM) == 0, running[0].said()
    assert min(map(len, (calm, spike, after))) > 2
    assert median(spike) > 3 * median(calm)
    assert median(after) < median(spike) / 3
    assert ids(lake) == sorted(["first", *(f"n{n}" for n in range(sent))])
    conserved(lake)


def test_a_machine_whose_clock_jumps_loses_and_doubles_nothing(
    broker: Broker, topic: str, lake: Lake
) -> None:
    """Positions, not times, say what was taken. What lies in the future of a clock that went back is kept
    as dead letters, and comes back once the clock is right.
    """
    broker.create(topic, 1)
    source = source_of(broker, topic)
    noon = datetime(2026, 1, 5, 12, tzinfo=UTC)
    jumps = (timedelta(0), timedelta(days=-1), timedelta(days=400), timedelta(hours=-3), timedelta(0))
    for n, jump in enumerate(jumps):
        at = noon + timedelta(minutes=n)
        broker.send(topic, [event(f"{n}-{i}", event_timestamp=at.isoformat()) for i in range(5)])
        run = Run(f"run-{n}", at + jump)
        assert intake(look_at_topics(source), lake, run).counts.read == 5
        assert intake(look_at_topics(source), lake, run).counts.read == 0
    assert sorted({key[0] for key in ids(lake)}) == ["0", "2", "4"]
    assert set(letters(lake)["violations"].list.first()) == {"event_timestamp: not in the future"}
    conserved(lake)
    again = replay(source, lake, Run("mended", noon + timedelta(hours=1)))
    assert (again.counts.written, again.still_dead) == (10, 0)
    assert ids(lake) == [f"{n}-{i}" for n in range(len(jumps)) for i in range(5)]
    assert letters(lake).is_empty()


def test_records_that_come_hours_and_days_late_reach_their_silver_partitions(
    broker: Broker, topic: str, tmp_path: Path, spark: SparkSession
) -> None:
    """Only the days that late records belong to are refreshed. A key that comes again is a duplicate within
    the watermark of any row that is there, however late both are, and a new event outside of it.
    """
    broker.create(topic, 2)
    source = KafkaSource.of(shop.EVENTS, topics=(topic,), settings={"bootstrap.servers": broker.address})
    catalog = Catalog((source, shop.USERS), (shop.history, shop.events, shop.days))
    zone = Zone(tmp_path)
    lake, table = zone.lake, source.table
    zone.json("users/1.json", [shop.change("u", 1, 0, "gold"), shop.change("u", 2, 3, "blue")])
    zone.take(shop.USERS)

    def arrive(*records: Row) -> tuple[Counts, set[str]]:
        """The counts of an intake, and the days of silver that the refresh after it made."""
        for n, record in enumerate(records):
            broker.send(topic, [record.text], n % 2)
        counts = intake(look_at_topics(source), lake, RUN, batch_rows=3).counts
        done = shop.bring_all(lake, spark, catalog)[1].record
        assert done
        return counts, set(done.partitions)

    def at(key: str, day: int, hour: float) -> Row:
        return shop.event(key, day, round(hour * 60), user_id="u", amount=len(key))

    counts, made = arrive(*(at(f"e{n}", 9, 12) for n in range(8)))
    assert (counts.written, made) == (8, {"2026-01-14"})
    late = [at("hours", 9, 3), at("a day", 8, 12), at("days", 1, 12), at("days too", 1, 13)]
    again = [at("e0", 9, 12.1), at("e1", 9, 11.9)]
    anew = [at("e2", 9, 11), at("e3", 2, 12)]
    counts, made = arrive(*late, *again, *anew)
    assert (counts.written, counts.duplicate) == (6, 2)
    assert made == {"2026-01-14", "2026-01-13", "2026-01-06", "2026-01-07"}
    counts, made = arrive(at("days", 1, 12.1), at("days", 1, 14), at("last", 0, 0))
    assert (counts.written, counts.duplicate) == (2, 1)
    assert made == {"2026-01-05", "2026-01-06"}
    there = pl.read_delta(lake.path(table)).select("event_id", "event_timestamp")
    assert there.height == there.n_unique() == 16
    assert {(r.key, r.time) for r in [*late, *anew]} < set(there.rows())
    fresh = shop.rebuilt(lake, spark, tmp_path / "rebuilt", catalog)
    shop.assert_same(lake, fresh, catalog.tables)
