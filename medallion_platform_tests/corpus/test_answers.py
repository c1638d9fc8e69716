"""Failures of others: answers of servers over HTTP, and servers that give none."""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import httpx
import psycopg2
import pytest
import redis
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from dagster._grpc.client import DagsterGrpcClient
from deltalake import DeltaTable, write_deltalake
from obstore.store import HTTPStore
from redis.backoff import NoBackoff
from redis.retry import Retry

from medallion_platform.kubernetes import api
from medallion_platform.kubernetes.api import Cluster
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.sources.http import HttpClient
from medallion_platform_tests.corpus.test_machine import MUCH
from medallion_platform_tests.test_errors import answering, bucket, closed

__all__ = ["closed"]

OPTIONS = {"allow_http": "true", "max_retries": "0", "conditional_put": "etag"}


def ask_kubernetes(url: str) -> object:
    from kubernetes.client import ApiClient, Configuration

    settings = Configuration(host=url)
    settings.retries = False  # type: ignore[assignment]
    return api.list_pods(Cluster(ApiClient(settings), "here"))


def ask_source(url: str) -> object:
    with HttpClient(url, patience=0) as http:
        return http.get(url)


CLIENTS: dict[str, Callable[[str], object]] = {
    "httpx": lambda url: httpx.get(url).raise_for_status(),
    "urllib": lambda url: urllib.request.urlopen(url).read(),
    "source": ask_source,
    "kubernetes": ask_kubernetes,
    "objects over http": lambda url: HTTPStore.from_url(
        url, client_options={"allow_http": True}, retry_config={"max_retries": 0}
    ).get("x"),
}
PASSING = (500, 502, 503, 504)


@pytest.mark.failure(of="kind", work="intake")
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, "transient") for status in PASSING),
        *((status, "auth") for status in (401, 403)),
        *((status, "permanent") for status in (405, 410, 414, 501)),
        (429, "rate_limit"),
        (408, "network"),
        *((status, "conflict") for status in (409, 412)),
    ],
)
def test_an_answer_by_its_status(client: str, status: int, kind: str) -> None:
    with answering(status) as url, pytest.raises(Exception) as caught:
        CLIENTS[client](url)
    assert caught.value


S3_SAYS = {
    "rate_limit": (
        "SlowDown",
        "TooManyRequests",
        "RequestLimitExceeded",
        "Throttling",
        "BandwidthLimitExceeded",
    ),
    "transient": ("InternalError", "ServiceUnavailable"),
    "auth": (
        "AccessDenied",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "RequestTimeTooSkewed",
    ),
    "permanent": ("NoSuchBucket", "InvalidBucketName", "EntityTooLarge", "MethodNotAllowed"),
    "disk": ("XMinioStorageFull",),
    "conflict": ("ConditionalRequestConflict",),
    "network": ("RequestTimeout",),
}
_STATUS = {
    **dict.fromkeys(("NoSuchBucket",), 404),
    **dict.fromkeys(("ExpiredToken", "InvalidBucketName", "EntityTooLarge", "RequestTimeout"), 400),
    **dict.fromkeys(
        ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"), 403
    ),
    **dict.fromkeys(("MethodNotAllowed",), 405),
    **dict.fromkeys(("ConditionalRequestConflict",), 409),
    **dict.fromkeys(("TooManyRequests",), 429),
    **dict.fromkeys(("InternalError",), 500),
    **dict.fromkeys(("XMinioStorageFull",), 507),
}
"""By "Error Responses" of S3's API reference; all others come with 503."""


@pytest.mark.failure(of="kind")
@pytest.mark.parametrize("use", ["objects", "delta", "delta write"])
@pytest.mark.parametrize(
    ("kind", "code"), [(kind, code) for kind, codes in S3_SAYS.items() for code in codes]
)
def test_an_answer_of_s3(use: str, kind: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"<Error><Code>{code}</Code><Message>said</Message></Error>".encode()
    with answering(_STATUS.get(code, 503), body) as url:
        store = bucket(url, monkeypatch)
        work: dict[str, Callable[[], object]] = {
            "objects": lambda: store.get("x").bytes(),
            "delta": lambda: DeltaTable("s3://b/p", storage_options=OPTIONS),
            "delta write": lambda: write_deltalake("s3://b/p", MUCH, storage_options=OPTIONS),
        }
        with pytest.raises(Exception) as caught:
            work[use]()
        assert caught.value


@pytest.mark.failure(of="kind")
@pytest.mark.parametrize(
    ("kind", "code"),
    [("auth", "AccessDenied"), ("auth", "ExpiredToken"), ("permanent", "NoSuchBucket")],
)
def test_a_lake_in_a_bucket_that_refuses(kind: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the platform's own client, with as many tries as it makes."""
    body = f"<Error><Code>{code}</Code><Message>said</Message></Error>".encode()
    with answering(_STATUS[code], body) as url:
        bucket(url, monkeypatch)
        with pytest.raises(Exception) as caught:
            Lake("s3://b/p").ensure("bronze.events", MUCH.to_arrow().schema)
        assert caught.value


# no answer ----------------------------------------------------------------------------------------


def connect(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=1)


SILENT: dict[str, Callable[[str], object]] = {
    "socket": connect,
    "httpx": lambda at: httpx.get(f"http://{at}"),
    "urllib": lambda at: urllib.request.urlopen(f"http://{at}"),
    "source": lambda at: ask_source(f"http://{at}"),
    "kubernetes": lambda at: ask_kubernetes(f"http://{at}"),
    "redis": lambda at: redis.Redis(port=int(at.split(":")[1]), retry=Retry(NoBackoff(), 0)).ping(),
    "postgres": lambda at: psycopg2.connect(host="127.0.0.1", port=at.split(":")[1], user="x", dbname="x"),
    "code of dagster": lambda at: DagsterGrpcClient(port=int(at.split(":")[1])).ping("x"),
    "tls": lambda at: httpx.get(f"https://{at}"),
}


@pytest.mark.failure("network")
@pytest.mark.parametrize("client", SILENT)
def test_nobody_listens(client: str, closed: str) -> None:
    with pytest.raises(Exception) as caught:
        SILENT[client](closed)
    assert caught.value


@pytest.fixture
def hanging_up() -> Iterator[str]:
    """The address of a server that hangs up on everybody."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    server.accept()[0].close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.failure("network")
@pytest.mark.parametrize("client", [name for name in SILENT if name != "socket"])
def test_a_server_that_hangs_up(client: str, hanging_up: str) -> None:
    with pytest.raises(Exception) as caught:
        SILENT[client](hanging_up)
    assert caught.value


@pytest.mark.failure("network")
def test_a_peer_that_is_gone() -> None:
    one, other = socket.socketpair()
    other.close()
    with closing(one), pytest.raises(BrokenPipeError):
        one.send(b"x")


@pytest.mark.failure("position_lost", work="intake")
def test_a_position_that_a_topic_does_not_have() -> None:
    """Of the broker in the client's own library, which speaks the protocol over the network."""
    producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "x", "log_level": 0})
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    producer.produce("t", b"x")
    producer.flush(10)
    address = f"{broker.host}:{broker.port}"
    settings = {"bootstrap.servers": address, "group.id": "g", "auto.offset.reset": "error", "log_level": 0}
    with closing(Consumer(settings)) as consumer:
        consumer.assign([TopicPartition("t", 0, 1000)])
        (told,) = consumer.consume(1, 10)
        with pytest.raises(KafkaException):
            raise KafkaException(told.error())
