"""Failures of topics: what clients and a broker say, and records that are gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.corpus.causes import PASSWORD, ROW, causes, fails
from medallion_platform_tests.corpus.test_clients import odd
from medallion_platform_tests.kafka.broker import Broker
from medallion_platform_tests.kafka.conftest import broker, topic
from medallion_platform_tests.kafka.test_kafka import event, source_of, take
from medallion_platform_tests.test_errors import closed
from medallion_platform_tests.waiting import until

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["broker", "closed", "topic"]


def told_by(client: Callable[[dict[str, Any]], Any], **settings: Any) -> object:
    """The first error that a client tells of itself."""
    told: list[KafkaError] = []
    made = client({"log_level": 0, "error_cb": told.append, **settings})
    until(lambda: made.poll(0.05) or told, 30, pause=0)
    raise KafkaException(told[0])


def producer_of(address: str, **more: Any) -> Producer:
    return Producer({"bootstrap.servers": address, "log_level": 0, **more})


def delivered(producer: Producer, topic: str, value: bytes) -> object:
    """What becomes of a record."""
    told: list[KafkaError | None] = []
    producer.produce(topic, value, on_delivery=lambda error, _: told.append(error))
    producer.flush(30)
    if told[0] is not None:
        raise KafkaException(told[0])
    return None


# of the client, with the broker in its own library ---------------------------------------------------


def mock_broker() -> tuple[Producer, str]:
    """It is there as long as this producer."""
    producer = producer_of("x", **{"test.mock.num.brokers": 1})
    (found,) = producer.list_topics(timeout=10).brokers.values()
    return producer, f"{found.host}:{found.port}"


def full_queue(address: str) -> object:
    producer = producer_of(address, **{"queue.buffering.max.messages": 1, "linger.ms": 5000})
    for _ in range(2):
        producer.produce("t", ROW.encode())
    return None


OF_CLIENT: dict[str, dict[str, Callable[[str], object]]] = {
    # doubtful: a record that a topic never takes
    "data": {
        "too large": lambda at: producer_of(at, **{"message.max.bytes": 1000}).produce("t", b"x" * 2000)
    },
    "resource": {"queue": full_queue},
    "permanent": {
        "setting": lambda at: producer_of(at, **{"acks": "many"}),
        "two settings": lambda at: producer_of(at, **{"transactional.id": "x", "enable.idempotence": False}),
        "state": lambda at: producer_of(at, **{"transactional.id": "x"}).begin_transaction(),
        "no library": lambda at: producer_of(at, **{"plugin.library.paths": "/no/such"}),
    },
}


@pytest.mark.failure(of="kind", work="stream")
@causes(OF_CLIENT)
def test_what_a_client_of_topics_tells(kind: str, cause: Callable[[str], object]) -> None:
    producer, address = mock_broker()
    fails(cause, address)
    assert producer


@pytest.mark.failure("network", work="stream")
@pytest.mark.parametrize("how", ["sent", "resolved"])
def test_no_broker_for_others(closed: str, how: str) -> None:
    asks: dict[str, Callable[[], object]] = {
        "sent": lambda: delivered(producer_of(closed, **{"message.timeout.ms": 100}), "t", ROW.encode()),
        "resolved": lambda: told_by(Producer, **{"bootstrap.servers": "no-such-host.invalid:9092"}),
    }
    fails(asks[how])


@pytest.mark.failure("permanent", work="stream")
def test_a_broker_that_has_no_tls() -> None:
    """Doubtful: it is the wrong port."""
    with odd(b"HTTP/1.1 400 x\r\n\r\n") as address:
        fails(lambda: told_by(Producer, **{"bootstrap.servers": address, "security.protocol": "ssl"}))


# of a broker ----------------------------------------------------------------------------------------


def made(broker: Broker, topic: str, replicas: int = 1) -> object:
    admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 0})
    (future,) = admin.create_topics([NewTopic(topic, 1, replicas)]).values()
    return future.result(30)


def made_twice(broker: Broker, topic: str) -> object:
    broker.create(topic)
    return made(broker, topic)


def larger_than_the_topic_takes(broker: Broker, topic: str) -> object:
    broker.create(topic, max_message_bytes="1000")
    return delivered(producer_of(broker.address), topic, b"x" * 5000)


def not_let_in(broker: Broker, **wrong: str) -> object:
    return told_by(Producer, **{**broker.secured, **wrong})


def deleted_beyond(broker: Broker, topic: str) -> object:
    broker.create(topic)
    (future,) = broker.admin.delete_records([TopicPartition(topic, 0, 99)]).values()
    return future.result(30)


def damaged_records(broker: Broker, topic: str) -> object:
    broker.create(topic)
    broker.send(topic, [ROW.encode() * 50])
    broker.stop()
    (file,) = (broker.folder / "logs" / f"{topic}-0").glob("*.log")
    content = bytearray(file.read_bytes())
    content[-20] ^= 0xFF
    file.write_bytes(content)
    broker.again()
    settings = {"group.id": "g", "auto.offset.reset": "earliest", "check.crcs": True, "log_level": 0}
    with closing(Consumer({"bootstrap.servers": broker.address, **settings})) as consumer:
        consumer.assign([TopicPartition(topic, 0, 0)])
        (told,) = consumer.consume(1, 20)
        raise KafkaException(told.error())


def fenced(broker: Broker, topic: str) -> object:
    """Another one has the same name."""
    broker.create(topic)
    one, other = (producer_of(broker.address, **{"transactional.id": topic}) for _ in range(2))
    one.init_transactions(30)
    other.init_transactions(30)
    one.begin_transaction()
    one.produce(topic, ROW.encode())
    return one.commit_transaction(30)


def too_slow(broker: Broker, topic: str) -> object:
    """A member of a group that asks for nothing for longer than it may."""
    broker.create(topic)
    told = {"session.timeout.ms": 6000, "max.poll.interval.ms": 6000, "group.id": topic, "log_level": 0}
    with closing(Consumer({"bootstrap.servers": broker.address, **told})) as consumer:
        consumer.subscribe([topic])
        until(lambda: consumer.poll(0.1) or consumer.assignment(), 30, pause=0)
        time.sleep(7)
        until(lambda: raised(consumer.poll(0.1)), 30, pause=0)
    return None


def raised(message: Message | None) -> None:
    """What a message says of an error."""
    if message is not None and (error := message.error()):
        raise KafkaException(error)


OF_BROKER: dict[str, dict[str, Callable[[Broker, str], object]]] = {
    "conflict": {"there already": made_twice, "fenced": fenced},
    "permanent": {
        "replicas": lambda broker, topic: made(broker, topic, 3),
        "name": lambda broker, topic: made(broker, "no/name"),
    },
    "hung": {"too slow": too_slow},
    "data": {"too large": larger_than_the_topic_takes},
    "auth": {
        "password": lambda broker, _: not_let_in(broker, **{"sasl.password": PASSWORD}),
        "plain": lambda broker, _: not_let_in(
            broker, **{"sasl.password": PASSWORD, "sasl.mechanism": "PLAIN"}
        ),
        "authority": lambda broker, _: not_let_in(broker, **{"ssl.ca.location": ""}),
    },
    "position_lost": {"beyond": deleted_beyond},
    "corrupt": {"records": damaged_records},
}


@pytest.mark.broker
@pytest.mark.failure(of="kind", work="stream")
@causes(OF_BROKER)
def test_what_a_broker_tells(
    broker: Broker, topic: str, kind: str, cause: Callable[[Broker, str], object]
) -> None:
    fails(cause, broker, topic)


@pytest.mark.broker
@pytest.mark.failure("gap", work="reading")
def test_records_that_are_gone_before_anybody_read_them(broker: Broker, topic: str, lake: Lake) -> None:
    broker.create(topic)
    source = source_of(broker, topic)
    broker.send(topic, [event(f"a{n}") for n in range(3)])
    take(source, lake)
    broker.send(topic, [event(f"b{n}") for n in range(5)])
    broker.expire(topic, 0, 6)
    take(source, lake)


@pytest.mark.broker
@pytest.mark.failure("gap", work="reading")
def test_records_that_are_gone_for_a_stream_of_spark(
    spark: SparkSession, broker: Broker, topic: str, tmp_path: Any
) -> None:
    broker.create(topic)

    def read() -> None:
        stream = (
            spark.readStream.format("kafka")
            .options(**{"kafka.bootstrap.servers": broker.address, "subscribe": topic})
            .option("startingOffsets", "earliest")
            .load()
            .writeStream.format("noop")
            .option("checkpointLocation", str(tmp_path / "checkpoint"))
            .trigger(availableNow=True)
            .start()
        )
        stream.awaitTermination()

    broker.send(topic, [b"a"] * 3)
    read()
    broker.send(topic, [b"b"] * 5)
    broker.expire(topic, 0, 6)
    fails(read)
