"""What an intake does with what the client says of a partition; no broker is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from confluent_kafka import KafkaError, Message

from medallion_platform.errors import Kind
from medallion_platform.sources.connectors.kafka.client import KafkaClient, _remember_complaints
from medallion_platform.sources.errors import Unavailable
from medallion_platform_tests.sources.test_kafka_settings import source


@pytest.fixture
def client() -> Iterator[KafkaClient]:
    with closing(KafkaClient(source())) as opened:
        yield opened


def said(number: int, *, passes: bool) -> Message:
    return Message(topic="x", partition=0, offset=3, error=KafkaError(number, "", False, passes))


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Kind.AUTH),
        (KafkaError.UNSUPPORTED_VERSION, Kind.PERMANENT),
        (KafkaError.INVALID_MSG, Kind.CORRUPT),
    ],
)
@pytest.mark.parametrize("passes", [True, False])
def test_a_code_that_is_known_to_last_ends_it_whatever_the_client_says(
    client: KafkaClient, number: int, kind: Kind, passes: bool
) -> None:
    with pytest.raises(Unavailable) as ended:
        client.split_errors([said(number, passes=passes)])
    assert ended.value.kind is kind


@pytest.mark.parametrize(
    ("number", "passes"), [(KafkaError.LEADER_NOT_AVAILABLE, False), (KafkaError.INVALID_REQUIRED_ACKS, True)]
)
def test_what_passes_is_noted_and_the_intake_goes_on(client: KafkaClient, number: int, passes: bool) -> None:
    read = client.split_errors([said(number, passes=passes)])
    assert (list(read.messages), read.end, read.expired) == ([], None, False)
    assert client.said[0].kind.transient


@pytest.mark.parametrize(
    "text",
    [
        # What the client said of one broker whose certificate is not trusted, by where it found that out.
        "sasl_ssl://127.0.0.1:34127/bootstrap: error:0A000086:SSL routines::certificate verify failed "
        "(after 4ms in state SSL_HANDSHAKE)",
        "sasl_ssl://127.0.0.1:34127/bootstrap: SSL handshake failed: error:0A000086:SSL routines::"
        "certificate verify failed: broker certificate could not be verified, verify that ssl.ca.location is "
        "correctly configured or root CA certificates are installed (after 4ms in state SSL_HANDSHAKE)",
    ],
)
def test_a_certificate_that_is_not_trusted_is_told_in_words_once(client: KafkaClient, text: str) -> None:
    remember = _remember_complaints(client.source, client.said)
    remember(KafkaError(KafkaError._SSL, text))
    assert str(client.unavailable()).count("broker certificate could not be verified") == 1
