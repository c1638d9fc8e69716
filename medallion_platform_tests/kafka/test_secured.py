"""A broker that wants TLS and a password: settings reach it, and secrets stay where they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.intakes import waiting_arrivals
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.sources.connectors.kafka import KafkaSource, client
from medallion_platform.sources.connectors.kafka.bounded_run import look_at_topics
from medallion_platform.sources.connectors.kafka.client import count_group_members
from medallion_platform.sources.errors import Unavailable
from medallion_platform.sources.source import Engine
from medallion_platform_tests.pipeline.toy import NOW

from . import certificates
from .broker import Broker
from .test_kafka import ENGINES, conserved, event, ids, letters, source_of, take, waits

pytestmark = pytest.mark.broker


def of(broker: Broker, topic: str, **settings: str) -> KafkaSource:
    return source_of(broker, topic, settings={**broker.secured, **settings})


def kept(*folders: Path) -> bytes:
    """All that lies in some folders."""
    return b"".join(p.read_bytes() for folder in folders for p in folder.rglob("*") if p.is_file())


@ENGINES
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_a_topic_is_taken_in_over_tls_by_a_user(
    broker: Broker, topic: str, lake: Lake, mechanism: str, engine: Engine
) -> None:
    broker.create(topic, 2)
    source = replace(of(broker, topic, **{"sasl.mechanism": mechanism}), engine=engine)
    broker.send(topic, [event("a"), b"{"])
    broker.send(topic, [event("b")], 1)
    assert len(waits(source, lake)) == 2
    assert count_group_members(source, "nobody") == 0
    take(source, lake)
    assert ids(lake) == ["a", "b"]
    assert letters(lake)["payload"].to_list() == [b"{"]
    assert waits(source, lake) == []
    conserved(lake)


AUTH, PERMANENT = pytest.mark.failure("auth"), pytest.mark.failure("permanent")


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        pytest.param(
            {"sasl.password": "wr0ng-s3cret"}, "SASL authentication error: Authentication failed", marks=AUTH
        ),
        pytest.param(
            {"ssl.ca.location": "other.pem"}, "broker certificate could not be verified", marks=AUTH
        ),
        pytest.param(
            {"ssl.ca.location": "nowhere.pem"},
            "ssl.ca.location has a value that the client refuses",
            marks=PERMANENT,
        ),
        pytest.param({"sasl.mechanism": "SCRAM-SHA-256"}, "Unsupported SASL mechanism", marks=AUTH),
        pytest.param(
            {"sasl.pasword": "wr0ng-s3cret"},
            "sasl.pasword is no setting of Kafka that the client knows",
            marks=PERMANENT,
        ),
    ],
)
def test_who_is_not_let_in_is_told_why_in_one_sentence(
    broker: Broker,
    topic: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    mistake: dict[str, str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client, "TIMEOUT", 5.0)
    certificates.make(Path("other.pem"), Path("its-broker.pem"))
    broker.create(topic)
    source = of(broker, topic, **mistake)
    asks: list[Any] = [lambda: look_at_topics(source), lambda: count_group_members(source, "group")]
    for ask in asks:
        with pytest.raises(Unavailable, match=r"^source clicks: ") as caught:
            ask()
        said = f"{caught.value}{capfd.readouterr()}"
        assert told in said
        assert "\n" not in str(caught.value)
        assert "wr0ng-s3cret" not in said
        assert broker.secured["sasl.password"] not in said


@ENGINES
def test_no_secret_is_in_a_table_a_log_or_what_dagster_keeps(
    broker: Broker,
    topic: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    engine: Engine,
) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 5.0)
    home = tmp_path / "dagster"
    home.mkdir()
    broker.create(topic)
    broker.send(topic, [event("a"), b"{"])
    place = Lakehouse(
        lake_root=str(tmp_path / "lake"),
        landing=str(tmp_path),
        feature_repo=str(tmp_path / "features"),
        spark_reads_topics=True,
    )
    wrong = {"sasl.password": "wr0ng-s3cret"}
    right, wrong = (replace(of(broker, topic, **more), engine=engine) for more in ({}, wrong))
    with dg.DagsterInstance.local_temp(str(home)) as on:
        for source in (wrong, right):
            catalog = Catalog((source,), ())
            assert waiting_arrivals(catalog, place, NOW, place.lake)
            job = build_defs(catalog, place).resolve_job_def("intake")
            done = job.execute_in_process(instance=on, raise_on_error=False)
            assert done.success is (source is right)
    assert ids(place.lake) == ["a"]
    everything = kept(tmp_path) + repr((wrong, right, capfd.readouterr())).encode()
    assert b"SASL authentication error" in everything, "the failure is kept, so secrets could be with it"
    assert b"wr0ng-s3cret" not in everything
    assert broker.secured["sasl.password"].encode() not in everything
