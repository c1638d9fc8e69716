"""The polars engine and Spark: the same table from the same topics, and a worker of either kind."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from medallion_platform.installation.local_spark import local_spark
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.polars_writer import stage_partition_file
from medallion_platform.pipeline.intake import spark_engine
from medallion_platform.pipeline.intake.batch_commit import IntakeFailed, refuse_unaccounted
from medallion_platform.pipeline.intake.polars_engine import OpenTables, intake
from medallion_platform.sources.connectors.kafka.bounded_run import look_at_topics
from medallion_platform.sources.connectors.kafka.on_spark import NotForSpark, java_settings
from medallion_platform.sources.errors import OwnershipLost
from medallion_platform_tests.pipeline.toy import EVENTS, RUN

from .broker import Broker
from .test_kafka import conserved, event, ids, letters, rows, source_of, take
from .test_stream import Worker, count, until, workers

BEGIN = datetime(2026, 1, 5, tzinfo=UTC)


def messages(chance: random.Random, many: int) -> list[bytes | None]:
    """Good events, some again within the watermark or after it, undeclared fields, and bad ones."""
    made: list[bytes | None] = []
    for n in range(many):
        at = BEGIN + timedelta(seconds=7 * n)
        fields = {"event_timestamp": at.isoformat(), "amount": chance.randrange(100)}
        key = f"{chance.randrange(10**6):06}"
        match chance.randrange(10):
            case 0 if made:
                made.append(chance.choice(made))
            case 1:
                made.append(event(key, **fields, Color="red"))
            case 2:
                made.append(event(key, **fields, **{"co lor": {"deep": [1, 2.50]}}))
            case 3:
                made.append(chance.choice([b"{", b"", b"\xff", None, event(key, **{**fields, "amount": -1})]))
            case _:
                made.append(event(key, **fields))
    return made


@pytest.mark.broker
@pytest.mark.parametrize("seed", [1, 2])
def test_both_engines_give_the_same_table(broker: Broker, topic: str, tmp_path: Path, seed: int) -> None:
    """In other batches, with duplicates that come again in a later one, and columns that come later."""
    broker.create(topic, 3)
    chance = random.Random(seed)
    lakes = {engine: Lake(tmp_path / engine) for engine in ("polars", "spark")}
    parts = [messages(chance, 120) for _ in range(3)]
    sent = [0, 0, 0]
    for turn in range(6):
        for n, part in enumerate(parts):
            more = chance.randrange(30) if turn < 5 else len(part)
            for value in part[sent[n] : sent[n] + more]:
                header = [("h", b"1"), ("h", None)] if chance.random() < 0.3 else []
                broker.send(topic, [value], n, key=chance.choice([None, b"k\xff"]), headers=header)
            sent[n] += more
        for engine, lake in lakes.items():
            if turn == 5 or chance.random() < 0.6:
                source = source_of(broker, topic, contract=EVENTS, engine=engine)
                assert take(source, lake).counts.missing == 0
    by_polars, spark = (rows(lake).drop("_ingested_at") for lake in lakes.values())
    assert by_polars.height > 200
    assert by_polars.select(sorted(by_polars.columns)).equals(spark.select(sorted(spark.columns)))
    bad, also_bad = (letters(lake).drop("at") for lake in lakes.values())
    assert bad.height > 10
    assert bad.equals(also_bad)
    for lake in lakes.values():
        conserved(lake)
    again = [sum(r.counts.duplicate for _, r in lk.records("bronze.clicks")) for lk in lakes.values()]
    assert again[0] == again[1] > 5


@pytest.mark.broker
def test_engines_follow_each_other(broker: Broker, topic: str, lake: Lake) -> None:
    """A position is the same for both: either goes on where the other one ended."""
    broker.create(topic, 2)
    for turn in range(4):
        for n in range(2):
            broker.send(topic, [event(f"{turn}-{n}-{i}") for i in range(20)] + [b"["], n)
        assert take(source_of(broker, topic, engine=["polars", "spark"][turn % 2]), lake).counts.read == 42
    assert len(set(ids(lake))) == 160
    assert letters(lake).height == 8
    conserved(lake)


@pytest.mark.broker
def test_a_new_column_in_two_spellings_is_one(broker: Broker, topic: str, lake: Lake) -> None:
    broker.create(topic, 2)
    broker.send(topic, [event("a", Color="red")], 0)
    broker.send(topic, [event("b", color="blue")], 1)
    assert take(source_of(broker, topic, engine="spark"), lake).counts.written == 2
    (column,) = (c for c in rows(lake).columns if c.lower() == "color")
    assert sorted(rows(lake)[column]) == ["blue", "red"]
    conserved(lake)


@pytest.mark.broker
def test_a_spark_worker_lives_through_kills_and_lost_checkpoints(
    broker: Broker, topic: str, tmp_path: Path
) -> None:
    """Killed; its checkpoint deleted, corrupted, rolled back, swapped for another query's; frozen."""
    broker.create(topic, 2)
    lake, sent = Lake(tmp_path / "lake"), 0

    def send() -> int:
        nonlocal sent
        for n in range(2):
            broker.send(topic, [event(f"{sent}-{n}-{i}") for i in range(50)] + [b"["], n)
        sent += 1
        return 102 * sent

    with workers(Worker(broker, topic, lake.root, engine="spark")) as running:
        for harm in (_nothing, _delete, _corrupt, _roll_back, _belong_to_another):
            expected = send()
            until(lambda: count(lake) == expected, running)  # noqa: B023
            until(lambda: _is_at_rest(tmp_path), running)
            (checkpoint,) = tmp_path.glob("medallion-checkpoint-*")
            copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
            expected = send()
            until(lambda: count(lake) == expected, running)  # noqa: B023
            until(lambda: _is_at_rest(tmp_path), running)
            harm(checkpoint, copy)
            shutil.rmtree(copy)
        for seconds in (0.3, 8, 0.1, 9):
            expected = send()
            time.sleep(seconds)
            expected = send()
            assert running[0].end(signal.SIGKILL) == -signal.SIGKILL
            for left in tmp_path.glob("medallion-checkpoint-*"):
                shutil.rmtree(left)
            running[:] = [Worker(broker, topic, lake.root, engine="spark")]
        until(lambda: count(lake) == expected, running)
        running[0].process.send_signal(signal.SIGSTOP)
        expected = send()
        running.append(Worker(broker, topic, lake.root, engine="spark"))
        until(lambda: count(lake) == expected, running)
        running[0].process.send_signal(signal.SIGCONT)
        expected = send()
        until(lambda: count(lake) == expected, running)
        time.sleep(1)
        for worker in running:
            assert worker.end(signal.SIGTERM) == 0, worker.said()
    assert len(ids(lake)) == len(set(ids(lake))) == 100 * sent
    assert letters(lake).height == 2 * sent
    assert look_at_topics(source_of(broker, topic)).waiting(lake.positions("bronze.clicks")) == []
    conserved(lake)


def _is_at_rest(folder: Path) -> bool:
    """Whether Spark has noted each batch as done: it does so after the commit of its rows."""
    files = list(folder.glob("medallion-checkpoint-*/*/*"))
    begun, done = ({f.name for f in files if f.parent.name == kind} for kind in ("offsets", "commits"))
    return bool(done) and begun == done and not any(".tmp" in f.name for f in files)


def _nothing(checkpoint: Path, copy: Path) -> None:
    pass


def _delete(checkpoint: Path, copy: Path) -> None:
    shutil.rmtree(checkpoint)


def _corrupt(checkpoint: Path, copy: Path) -> None:
    for file in checkpoint.rglob("*"):
        if file.is_file():
            file.write_bytes(b"\0garbage")


def _roll_back(checkpoint: Path, copy: Path) -> None:
    shutil.rmtree(checkpoint)
    shutil.copytree(copy, checkpoint)


def _belong_to_another(checkpoint: Path, copy: Path) -> None:
    shutil.rmtree(checkpoint)
    shutil.copytree(copy, checkpoint)
    (checkpoint / "metadata").write_text(json.dumps({"id": "11111111-2222-3333-4444-555555555555"}))
    for file in (checkpoint / "offsets").iterdir():
        if file.name.isdigit():
            head = file.read_text().splitlines()[:-1]
            file.write_text("\n".join([*head, json.dumps({"another": {"0": 7}})]))


@pytest.mark.broker
@pytest.mark.parametrize("more", [5, 50])
@pytest.mark.failure("conflict")
def test_a_look_that_is_older_than_the_table_is_no_loss(
    broker: Broker, topic: str, lake: Lake, more: int
) -> None:
    """Another intake took in what came after the look: its position lies behind what the look saw."""
    broker.create(topic)
    by_polars, spark = (source_of(broker, topic, engine=engine) for engine in ("polars", "spark"))
    broker.send(topic, [event(f"a{i}") for i in range(10)])
    take(by_polars, lake)
    broker.send(topic, [event(f"b{i}") for i in range(5)])
    before = lake.positions(spark.table)
    old = look_at_topics(spark, before)
    broker.send(topic, [event(f"c{i}") for i in range(more)])
    take(by_polars, lake)
    for look in (old, look_at_topics(spark).beginnings(before)):
        with pytest.raises(OwnershipLost, match="another intake took in more"):
            intake(look, lake, RUN)
    session = local_spark(topics=True, cores=2).session()
    assert spark_engine.intake(look_at_topics(spark), lake, session, RUN).counts.read == 0
    assert len(set(ids(lake))) == 15 + more
    assert letters(lake).is_empty()


@pytest.mark.broker
def test_a_table_that_was_deleted_under_a_worker_is_made_anew(broker: Broker, topic: str, lake: Lake) -> None:
    """What a worker keeps open is no longer there: it begins like the first one."""
    broker.create(topic)
    source, kept = source_of(broker, topic), OpenTables(lake)
    for n in range(2):
        broker.send(topic, [event(f"{n}"), b"{"])
        assert intake(look_at_topics(source), lake, RUN, open_tables=kept).counts.read == 2
    shutil.rmtree(lake.path("bronze.clicks"))
    shutil.rmtree(lake.path("dead_letters.bronze.clicks"))
    assert intake(look_at_topics(source), lake, RUN, open_tables=kept).counts.read == 4
    assert ids(lake) == ["0", "1"]
    conserved(lake)


@pytest.mark.broker
@pytest.mark.failure("conflict")
def test_who_adds_a_column_does_not_step_over_another_intake(broker: Broker, topic: str, lake: Lake) -> None:
    broker.create(topic)
    broker.send(topic, [event("a")])
    take(source_of(broker, topic), lake)
    mine = lake.open("bronze.clicks")
    assert mine
    broker.send(topic, [event("b")])
    take(source_of(broker, topic), lake)
    piece: Any = SimpleNamespace(schema=pa.schema([pa.field("color", pa.string())]))
    with pytest.raises(CommitConflict):
        spark_engine._add_columns(mine, [piece], source_of(broker, topic))


def test_what_a_lost_task_wrote_is_not_taken(tmp_path: Path) -> None:
    for name in ("named", "stranger"):
        stage_partition_file(
            str(tmp_path), f"staged-1/event_date=2026-01-05/{name}.parquet", pl.DataFrame({"n": [1, 2]})
        )
    named = ["staged-1/event_date=2026-01-05/named.parquet"]
    (found,) = spark_engine._list_staged_files(str(tmp_path), "staged-1", named, ["event_date"])
    assert (found.rows, found.partition) == (2, {"event_date": "2026-01-05"})


def test_rows_that_are_missing_stop_an_intake_before_its_commit() -> None:
    source = source_of(Broker("127.0.0.1:1", None), "t")  # type: ignore[arg-type]
    with pytest.raises(IntakeFailed, match="of 3 records of source clicks, 1 are neither rows"):
        refuse_unaccounted(source, Counts(3, 1, 1))


@pytest.mark.broker
def test_a_clock_that_counts_microseconds_does_not_stop_spark(broker: Broker, topic: str, lake: Lake) -> None:
    broker.create(topic, message_timestamp_after_max_ms=str(2**63 - 1))
    for n, at in enumerate([1_767_571_200_000_000, 1_767_571_200_000]):
        broker.send(topic, [event(f"k{n}")], timestamp=at)
    assert take(source_of(broker, topic, engine="spark"), lake).counts.written == 2
    there = rows(lake)["_timestamp"].to_list()
    assert [at and at.isoformat() for at in there] == [None, "2026-01-05T00:00:00+00:00"]


@pytest.mark.failure("permanent")
def test_settings_are_spelled_for_java(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("-----BEGIN CERTIFICATE-----")
    said = java_settings(
        {
            "bootstrap.servers": "b:9093",
            "security.protocol": "SASL_SSL",
            "sasl.mechanisms": "SCRAM-SHA-512",
            "sasl.username": "me",
            "sasl.password": 'pa"ss\\word',
            "ssl.ca.location": str(authority),
            "ssl.endpoint.identification.algorithm": "none",
        }
    )
    assert said == {
        "bootstrap.servers": "b:9093",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required "
            'username="me" password="pa\\"ss\\\\word";'
        ),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.certificates": "-----BEGIN CERTIFICATE-----",
        "ssl.endpoint.identification.algorithm": "",
    }
    with pytest.raises(NotForSpark, match=r"ssl\.crl\.location has no counterpart"):
        java_settings({"ssl.crl.location": "x"})
