"""Failures of topics that their client tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from medallion_platform_tests.corpus.causes import ROW, causes, fails
from medallion_platform_tests.corpus.test_clients import odd
from medallion_platform_tests.test_errors import closed
from medallion_platform_tests.waiting import until

__all__ = ["closed"]


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
