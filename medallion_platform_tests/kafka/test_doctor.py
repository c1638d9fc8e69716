"""What the doctor finds of topics, and what it finds where their brokers are not as they should be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyspark.sql.types as T
import pytest

from medallion_platform import ContractModel, Field, JsonLines, KafkaSource
from medallion_platform.doctor import servers
from medallion_platform.doctor.finding import Finding
from medallion_platform.installation.settings import Settings
from medallion_platform.sources.connectors.kafka import client
from medallion_platform_tests.doctor.looking import look

from .broker import Broker, free_ports

pytestmark = pytest.mark.broker


class Clicks(ContractModel):
    """What the topics hold."""

    page: T.StringType = Field()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A broker has less time for an answer than usual."""
    monkeypatch.setattr(client, "TIMEOUT", 5.0)
    yield


def found(
    monkeypatch: pytest.MonkeyPatch, home: Path, settings: Mapping[str, str], *topics: str
) -> list[Finding]:
    """What the check finds where a project has a source for each of these topics."""
    sources = [
        KafkaSource(
            name=f"web.{name.replace('-', '_')}",
            table=f"bronze.{name.replace('-', '_')}",
            contract=Clicks.contract,
            format=JsonLines(),
            domain="web",
            topics=(name,),
            settings=settings,
        )
        for name in topics
    ]
    monkeypatch.setattr(servers, "sources_of_topics", lambda: sources)
    return look(servers.topics, Settings(home=home))


def test_topics_that_are_there(
    broker: Broker, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.create(topic, partitions=3)
    for settings in ({"bootstrap.servers": broker.address}, broker.secured):
        (there,) = found(monkeypatch, tmp_path, settings, topic)
        assert there.ok and "has 3 partitions of 1 topics; 0 continuous workers" in there.found


def test_a_topic_that_is_not_there(
    broker: Broker, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"bootstrap.servers": broker.address}
    broker.create(topic)
    missing, there = found(monkeypatch, tmp_path, settings, f"{topic}-missing", topic)
    assert missing.ok is False and f"there is no topic {topic}-missing" in missing.found
    assert there.ok, "another topic of the same brokers is looked at, too"


def test_brokers_that_do_not_answer_are_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    (gone,) = found(monkeypatch, tmp_path, {"bootstrap.servers": f"127.0.0.1:{port}"}, "one", "two")
    assert gone.ok is False and f"127.0.0.1:{port} does not respond" in gone.found
    assert "Connection refused" in gone.found and "runs" in gone.remedy


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"sasl.password": "another-secret"}, "authentication"),
        ({"ssl.ca.location": ""}, "certificate"),
        ({"security.protocol": "PLAINTEXT"}, "does not respond"),
    ],
    ids=["password", "authority", "no TLS"],
)
def test_a_client_that_is_not_let_in(
    broker: Broker,
    topic: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: dict[str, str],
    text: str,
) -> None:
    given = {name: value for name, value in {**broker.secured, **wrong}.items() if value}
    (refused,) = found(monkeypatch, tmp_path, given, topic)
    assert refused.ok is False and text in refused.found.lower(), refused.found
    assert refused.remedy and "another-secret" not in refused.found
