"""Topics of a real broker: every acknowledged message is in the table or its dead letters, once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from deltalake import write_deltalake

from medallion_platform.errors import DeclarationError
from medallion_platform.installation.local_spark import local_spark
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake import polars_engine as steps
from medallion_platform.pipeline.intake import spark_engine
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.pipeline.intake.replay import parse_table_again, replay
from medallion_platform.pipeline.intake.result import IntakeResult
from medallion_platform.pipeline.rollback import rollback
from medallion_platform.pipeline.run import Run
from medallion_platform.sources.connectors.kafka import KafkaSource, client
from medallion_platform.sources.connectors.kafka.bounded_run import look_at_topics
from medallion_platform.sources.connectors.kafka.offsets import EPOCH, TopicPartitionRange, begin
from medallion_platform.sources.errors import Unavailable
from medallion_platform.sources.formats.csv import Csv
from medallion_platform.sources.formats.debezium import Debezium
from medallion_platform.sources.formats.jsonlines import JsonLines
from medallion_platform_tests.pipeline.test_intake import Crash, Crashed
from medallion_platform_tests.pipeline.toy import EVENTS, RUN

from .broker import Broker, free_ports

KEYLESS = replace(EVENTS, key=(), watermark=None)
"""Nothing but the positions keeps a row from being there twice."""
ENGINES = pytest.mark.parametrize("engine", ["polars", "spark"])
"""Both give the same table."""
DRIVER = Path(__file__).with_name("driver.py")


def source_of(broker: Broker, *topics: str, **named: Any) -> KafkaSource:
    given: dict[str, Any] = {"contract": KEYLESS, "format": JsonLines(), **named}
    settings = {"bootstrap.servers": broker.address, **given.pop("settings", {})}
    return KafkaSource("clicks", "bronze.clicks", domain="toy", topics=topics, settings=settings, **given)


def event(key: str, **fields: Any) -> bytes:
    return json.dumps({"event_id": key, "event_timestamp": "2026-01-05T00:00:00Z", **fields}).encode()


def take(source: KafkaSource, lake: Lake, **options: Any) -> IntakeResult:
    if source.engine == "spark":
        spark = local_spark(topics=True, cores=2).session()
        return spark_engine.intake(look_at_topics(source), lake, spark, RUN)
    return intake(look_at_topics(source), lake, RUN, **options)


def rows(lake: Lake) -> pl.DataFrame:
    table = lake.open("bronze.clicks")
    assert table
    return pl.scan_delta(table).sort("_source", "_offset").collect()


def ids(lake: Lake) -> list[str]:
    return sorted(rows(lake)["event_id"])


def letters(lake: Lake) -> pl.DataFrame:
    return dead_letters.read(lake, "bronze.clicks").sort("source", "offset", "row")


def waits(source: KafkaSource, lake: Lake) -> list[str]:
    return look_at_topics(source).waiting(lake.positions(source.table))


def conserved(lake: Lake) -> None:
    counts = [r.counts for _, r in lake.records("bronze.clicks")]
    assert [c.missing for c in counts] == [0] * len(counts)
    assert sum(c.written for c in counts) == rows(lake).height
    assert sum(c.dead_lettered for c in counts) == letters(lake).height


# declarations, without a broker --------------------------------------------------------------------


def test_a_declaration_that_cannot_be_meant_is_refused() -> None:
    nowhere = Broker("127.0.0.1:1", None)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="either topics or a pattern"):
        source_of(nowhere)
    with pytest.raises(DeclarationError, match="messages are JSON"):
        source_of(nowhere, "t", format=Csv())
    with pytest.raises(DeclarationError, match=r"isolation\.level cannot be set"):
        source_of(nowhere, "t", settings={"isolation.level": "read_uncommitted"})
    with pytest.raises(DeclarationError, match="topics is 'clicks', and not a tuple of texts"):
        replace(source_of(nowhere, "clicks"), topics="clicks")
    with pytest.raises(DeclarationError, match="'a b' is no name of a topic"):
        source_of(nowhere, "a b")
    with pytest.raises(DeclarationError, match=r"the pattern 'a\(' cannot be read"):
        source_of(nowhere, pattern="a(")
    with pytest.raises(DeclarationError, match="engine='duckdb' is none of polars, spark"):
        source_of(nowhere, "t", engine="duckdb")


@pytest.mark.failure("network")
def test_a_broker_that_cannot_be_reached_is_one_sentence_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 2.0)
    (port,) = free_ports(1)
    secret = {"sasl.password": "hunter2", "sasl.username": "me", "sasl.mechanism": "PLAIN"}
    source = source_of(
        Broker(f"127.0.0.1:{port}", None),  # type: ignore[arg-type]
        "t",
        settings={"security.protocol": "SASL_PLAINTEXT", **secret},
    )
    with pytest.raises(Unavailable) as caught:
        look_at_topics(source)
    assert re.fullmatch(r"source clicks: 127\.0\.0\.1:\d+ does not respond within 2 s .*", str(caught.value))
    assert "hunter2" not in f"{caught.value}{source!r}{capfd.readouterr()}"


# with a broker -------------------------------------------------------------------------------------


@pytest.mark.broker
@ENGINES
def test_every_kind_of_message_is_where_it_belongs(
    broker: Broker, topic: str, lake: Lake, engine: str
) -> None:
    broker.create(topic, 2)
    source = source_of(broker, topic, engine=engine)
    assert take(source, lake).counts.read == 0
    assert waits(source, lake) == []
    pretty = json.dumps(json.loads(event("b", color="red", _key="mine")), indent=2).encode()
    broker.send(topic, [event("a")], key=b"\xff\x00", headers=[("h", b"1"), ("h", None)])
    broker.send(topic, [b"{", None, b"", b"\xff", event("z", amount=-1), pretty])
    broker.transaction(topic, [event("c"), event("d")], 1, keep=True)
    broker.transaction(topic, [event("x"), event("y")], 1, keep=False)
    assert len(waits(source, lake)) == 2
    taken = take(source, lake)
    assert (taken.counts.read, taken.counts.written, taken.counts.dead_lettered) == (9, 4, 5)
    assert ids(lake) == ["a", "b", "c", "d"]
    first, pretty_row, committed = rows(lake).row(0, named=True), *rows(lake).rows(named=True)[1:3]
    assert (first["_source"], first["_file"]) == (f"clicks/{topic}/0", f"{topic}/0")
    assert (first["_offset"], first["_row"], first["_key"]) == (0, 1, b"\xff\x00")
    assert first["_headers"] == [{"key": "h", "value": b"1"}, {"key": "h", "value": None}]
    assert abs(first["_timestamp"].timestamp() - time.time()) < 300
    assert (pretty_row["color"], pretty_row["_key"]) == ("red", None)
    assert pretty_row["_payload"].encode() == pretty
    assert committed["_file"] == f"{topic}/1"
    dead = letters(lake)
    assert dead["offset"].to_list() == [1, 2, 3, 4, 5]
    assert dead["payload"].to_list() == [b"{", None, b"", b"\xff", event("z", amount=-1)]
    assert dead["violations"].list.first().to_list()[:4] == [
        "record: not JSON",
        "record: no value: a tombstone",
        "record: not JSON",
        "record: not valid utf-8",
    ]
    assert waits(source, lake) == [], "transaction markers at the end are waited for"
    assert take(source, lake).counts.read == 0
    conserved(lake)


@pytest.mark.broker
@ENGINES
def test_an_open_transaction_holds_nothing_up_and_comes_once_it_is_closed(
    broker: Broker, topic: str, lake: Lake, engine: str
) -> None:
    from confluent_kafka import Producer

    broker.create(topic)
    source = source_of(broker, topic, engine=engine)
    broker.send(topic, [event("a")])
    producer = Producer({"bootstrap.servers": broker.address, "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, event("t"), partition=0)
    producer.flush(30)
    broker.send(topic, [event("b")])
    assert take(source, lake).counts.written == 1
    assert take(source, lake).counts.written == 0
    producer.commit_transaction(30)
    assert take(source, lake).counts.written == 2
    assert ids(lake) == ["a", "b", "t"]
    assert letters(lake).is_empty()


@pytest.mark.broker
def test_any_batches_give_the_same_rows(broker: Broker, topic: str, lake: Lake, tmp_path: Path) -> None:
    broker.create(topic, 3)
    source = source_of(broker, topic)
    for n in range(3):
        broker.send(topic, [event(f"{n}-{i}") if i % 4 else b"[]" for i in range(50)], n)
    take(source, lake, batch_rows=7)
    other = Lake(tmp_path / "other")
    take(source, other, batch_bytes=500)
    assert rows(lake).drop("_ingested_at").equals(rows(other).drop("_ingested_at"))
    assert letters(lake).height == letters(other).height == 39
    assert max(r.counts.read for _, r in lake.records("bronze.clicks")) <= 7
    conserved(lake)
    conserved(other)


@pytest.mark.broker
@ENGINES
def test_expired_offsets_are_told_exactly_and_once(
    broker: Broker, topic: str, lake: Lake, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.create(topic)
    source = source_of(broker, topic, engine=engine)
    broker.send(topic, [event(f"{n}") for n in range(4)])
    take(source, lake)
    broker.send(topic, [event(f"{n}") for n in range(4, 10)])
    broker.expire(topic, 0, 8)
    with Crash(monkeypatch, dead_letters, "append", after=True), pytest.raises(Crashed):
        take(source, lake)
    taken = take(source, lake)
    assert taken.notes == [f"{topic}/0: lost offsets 4 to 7: deleted before they were read"]
    assert ids(lake) == ["0", "1", "2", "3", "8", "9"]
    (letter,) = letters(lake).rows(named=True)
    assert (letter["row"], letter["offset"]) == (0, 7)
    assert take(source, lake).notes == []
    conserved(lake)


@pytest.mark.broker
def test_what_expires_while_it_is_read_is_told(broker: Broker, topic: str, lake: Lake) -> None:
    broker.create(topic)
    source = source_of(broker, topic)
    broker.send(topic, [event(f"{n}") for n in range(10)])
    seen = look_at_topics(source)
    broker.expire(topic, 0, 6)
    taken = intake(seen, lake, RUN)
    assert taken.notes == [f"{topic}/0: lost offsets 0 to 5: deleted before they were read"]
    assert ids(lake) == ["6", "7", "8", "9"]
    conserved(lake)


@pytest.mark.broker
@pytest.mark.parametrize("more", [0, 20])
@ENGINES
def test_a_topic_made_anew_is_told_and_taken_from_its_beginning(
    broker: Broker, topic: str, lake: Lake, engine: str, more: int
) -> None:
    broker.create(topic, 2)
    source = source_of(broker, topic, engine=engine)
    broker.send(topic, [event(f"old{n}") for n in range(5)] + [b"{"])
    broker.send(topic, [event("old")], 1)
    take(source, lake)
    broker.delete(topic)
    broker.create(topic, 1)
    broker.send(topic, [event(f"new{n}") for n in range(2 + more)] + [b"{"])
    taken = take(source, lake)
    anew = f"the topic was deleted and recreated (as {broker.topic_id(topic)})"
    assert taken.notes == [
        f"{topic}/0: lost from offset 6 on: {anew}",
        f"{topic}/1: lost from offset 1 on: {anew}",
    ]
    assert rows(lake).height == 6 + 2 + more
    assert rows(lake)["_offset"].max() == EPOCH + 1 + more
    assert letters(lake)["row"].to_list() == [6, 0, 3 + more, 0]
    assert take(source, lake).notes == []
    assert waits(source, lake) == []
    conserved(lake)


@pytest.mark.broker
@ENGINES
def test_partitions_and_topics_that_are_added_are_read_from_their_beginning(
    broker: Broker, topic: str, lake: Lake, engine: str
) -> None:
    broker.create(topic)
    source = source_of(broker, pattern=f"{topic}.*", engine=engine)
    broker.send(topic, [event("a")])
    take(source, lake)
    broker.grow(topic, 3)
    broker.create(f"{topic}-more")
    for n in (1, 2):
        broker.send(topic, [event(f"p{n}0"), event(f"p{n}1")], n)
    broker.expire(topic, 2, 1)
    broker.send(f"{topic}-more", [event("m")])
    taken = take(source, lake)
    assert ids(lake) == ["a", "m", "p10", "p11", "p21"]
    assert taken.notes == [f"{topic}/2: lost offsets 0 to 0: deleted before they were read"]
    with pytest.raises(Unavailable, match="there is no topic nowhere"):
        look_at_topics(source_of(broker, "nowhere"))


@pytest.mark.broker
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("step", ["append", "validate", "letters"])
def test_a_crash_at_any_step_loses_and_doubles_nothing(
    broker: Broker,
    topic: str,
    lake: Lake,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    call: int,
    after: bool,
) -> None:
    broker.create(topic, 2)
    source = source_of(broker, topic)
    for n in range(2):
        broker.send(topic, [event(f"{n}-{i}") if i % 3 else b"[]" for i in range(12)], n)
    module, name = {
        "append": (steps.polars_writer, "append_rows"),
        "validate": (steps, "triage"),
        "letters": (dead_letters, "append"),
    }[step]
    with Crash(monkeypatch, module, name, after=after, call=call), pytest.raises(Crashed):
        take(source, lake, batch_rows=9)
    take(source, lake, batch_rows=5)
    assert ids(lake) == sorted(f"{n}-{i}" for n in range(2) for i in range(12) if i % 3)
    assert letters(lake)["offset"].to_list() == [0, 3, 6, 9] * 2
    assert take(source, lake).counts.read == 0
    conserved(lake)


@pytest.mark.broker
def test_killed_at_any_instant_nothing_is_lost_or_doubled(broker: Broker, topic: str, tmp_path: Path) -> None:
    broker.create(topic, 2)
    messages = [event(f"{i}") if i % 3 else b"[%d" % i for i in range(400)]
    for n in range(2):
        broker.send(topic, messages[n::2], n)
    ends: list[int] = []
    for turn in range(12):
        process = subprocess.Popen(
            [sys.executable, str(DRIVER), broker.address, topic, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert process.stdout
        assert process.stdout.readline() == b"begins\n"
        time.sleep(0.05 + 0.07 * turn)
        os.kill(process.pid, signal.SIGKILL)
        ends.append(process.wait())
    lake, source = Lake(tmp_path), source_of(broker, topic)
    between = rows(lake).height if lake.exists("bronze.clicks") else 0
    take(source, lake, batch_rows=23)
    assert ends.count(-signal.SIGKILL) >= 5, ends
    assert between > 0
    assert ids(lake) == sorted(f"{i}" for i in range(400) if i % 3)
    assert sorted(letters(lake)["payload"].to_list()) == sorted(b"[%d" % i for i in range(0, 400, 3))
    assert take(source, lake).counts.read == 0
    conserved(lake)


@pytest.mark.broker
@ENGINES
def test_two_partitions_share_offsets_and_are_told_apart(
    broker: Broker, topic: str, lake: Lake, engine: str
) -> None:
    """A replay, a reparse and the check of a row's time know a record by its log as well."""
    broker.create(topic, 2)
    strict = source_of(broker, topic, engine=engine)
    broker.send(
        topic, [event("a", amount=-1), event("b"), event("f", event_timestamp="2999-01-01T00:00:00Z")]
    )
    broker.send(topic, [event("c"), event("d", amount=-2), event("e")], 1)
    take(strict, lake)
    assert ids(lake) == ["b", "c", "e"]
    assert letters(lake).select("source", "offset").rows() == [
        (f"clicks/{topic}/0", 0),
        (f"clicks/{topic}/0", 2),
        (f"clicks/{topic}/1", 1),
    ]
    lax = replace(strict, contract=replace(KEYLESS, expectations=KEYLESS.expectations[:0]))
    assert replay(lax, lake, RUN).counts.written == 2
    assert ids(lake) == ["a", "b", "c", "d", "e"]
    assert letters(lake).height == 1
    before = rows(lake)
    parse_table_again(lax, lake, RUN)
    assert rows(lake).drop("_ingested_at").equals(before.drop("_ingested_at"))
    parse_table_again(strict, lake, RUN)
    assert ids(lake) == ["b", "c", "e"]
    assert letters(lake).height == 3


@pytest.mark.broker
@ENGINES
def test_change_events_and_their_tombstones_are_taken(
    broker: Broker, topic: str, lake: Lake, engine: str
) -> None:
    broker.create(topic)
    source = source_of(broker, topic, format=Debezium(("event_id",)), engine=engine)
    image = json.loads(event("a"))
    told = {"source": {"ts_ms": 1767571200000}, "ts_ms": 1767571200000}
    created = {"before": None, "after": image, "op": "c", **told}
    deleted = {"before": {"event_id": "a"}, "after": None, "op": "d", **told}
    broker.send(topic, [json.dumps(created).encode(), json.dumps(deleted).encode(), None])
    taken = take(source, lake)
    assert (taken.counts.read, taken.counts.missing) == (3, 0)
    assert rows(lake)["_op"].to_list()[:2] == ["c", "d"]
    assert rows(lake).height + letters(lake).height == 3


@pytest.mark.broker
def test_dagster_takes_a_topic_in_when_messages_wait(broker: Broker, topic: str, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from medallion_platform.orchestration.build import build_defs
    from medallion_platform.orchestration.intakes import waiting_arrivals
    from medallion_platform.orchestration.lakehouse_resource import Lakehouse

    broker.create(topic, 2)
    broker.send(topic, [event("a"), b"{"])
    catalog = Catalog((source_of(broker, topic),), ())
    place = Lakehouse(
        lake_root=str(tmp_path / "lake"), landing=str(tmp_path), feature_repo=str(tmp_path / "features")
    )
    assert len(waiting_arrivals(catalog, place, datetime.now(UTC), place.lake)["bronze.clicks"]) == 2
    with dg.DagsterInstance.ephemeral() as on:
        done = build_defs(catalog, place).resolve_job_def("intake").execute_in_process(instance=on)
        assert done.success
        written = on.get_latest_materialization_event(dg.AssetKey("bronze_clicks"))
        assert written
        assert written.asset_materialization
        assert written.asset_materialization.metadata["partitions"].value == 2
    assert waiting_arrivals(catalog, place, datetime.now(UTC), place.lake) == {}
    assert ids(place.lake) == ["a"]


@pytest.mark.broker
@ENGINES
@pytest.mark.parametrize("anew", [False, True])
def test_a_table_that_lost_its_positions_knows_them_by_its_rows(
    broker: Broker, topic: str, tmp_path: Path, engine: str, anew: bool
) -> None:
    """Copied by other software, rows and dead letters are there, and no transaction identifier is."""
    broker.create(topic, 2)
    source, lake, copy = source_of(broker, topic, engine=engine), Lake(tmp_path / "a"), Lake(tmp_path / "b")
    broker.send(topic, [event("a"), b"{", event("b")], 0)
    broker.send(topic, [event("c"), b"{", b"["], 1)
    take(source, lake)
    for name in ("bronze.clicks", "dead_letters.bronze.clicks"):
        partition_by = EVENTS.partitioned_by if name == "bronze.clicks" else ()
        there = pl.read_delta(lake.path(name))
        write_deltalake(copy.path(name), there, partition_by=list(partition_by), name=name)
    broker.send(topic, [event("d"), b"{"], 0)
    assert take(source, copy).counts.read == 4, "d and its neighbour, and the two bad ones at the end of 1"
    if anew:
        broker.delete(topic)
        broker.create(topic, 2)
        broker.send(topic, [event("e")], 0)
        assert take(source, copy).counts.read == 3, "two gaps and e"
    assert take(source, copy).counts.read == 0
    assert ids(copy) == ["a", "b", "c", "d", *(["e"] if anew else [])]
    assert letters(copy).height == 4 + 2 * anew


@pytest.mark.broker
@ENGINES
def test_an_intake_is_taken_back_with_its_dead_letters(
    broker: Broker, topic: str, lake: Lake, engine: str
) -> None:
    broker.create(topic, 2)
    source = source_of(broker, topic, engine=engine)
    for run_id in ("first", "second"):
        for n in range(2):
            broker.send(topic, [event(f"{run_id}{n}"), b"{"], n)
        intake(look_at_topics(source), lake, Run(run_id, RUN.at), batch_rows=1)
    rollback(Catalog((source,), ()), lake, "second", RUN)
    assert ids(lake) == ["first0", "first1"]
    assert letters(lake)["offset"].to_list() == [1, 1]
    assert waits(source, lake) == []


@pytest.mark.parametrize(
    ("topic_id", "low", "end", "begins", "told"),
    [
        ("same", 0, 7, (0, 5), None),
        ("same", 6, 7, (0, 6), "lost offsets 5 to 5"),
        ("same", 0, 3, (1, 3), "lost from offset 5 on: the partition ends at 3"),
        ("other", 0, 9, (1, 0), "lost from offset 5 on: the topic was deleted and recreated"),
        ("other", 2, 9, (1, 2), "0 to 1 of it are gone"),
        ("", 0, 3, (1, 0), "lost from offset 5 on: the partition ends at 3"),
    ],
)
def test_where_reading_begins(
    topic_id: str, low: int, end: int, begins: tuple[int, int], told: str | None
) -> None:
    partition = TopicPartitionRange("t", 0, topic_id, low, end)
    positions = {"clicks/t/0": 5, "clicks/t@same": 0}
    ((reading, gap),) = begin("clicks", [partition], positions.get)
    assert (reading.epoch, reading.next) == begins
    assert (gap is None) == (told is None)
    assert told is None or (gap and told in gap.reason)
