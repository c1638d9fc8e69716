"""Changes of a real Postgres, through real Kafka Connect: silver is what a SELECT says."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl
import pytest
from confluent_kafka import Consumer
from confluent_kafka.cimpl import TopicPartition
from pyspark.sql import SparkSession

from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.connectors.kafka import KafkaSource
from medallion_platform.sources.connectors.kafka.bounded_run import look_at_topics
from medallion_platform.spark.jars import JarsUnavailable
from medallion_platform.transforms.history import UNTOLD
from medallion_platform_tests.kafka.broker import Broker
from medallion_platform_tests.kafka.conftest import running_broker
from medallion_platform_tests.pipeline.shop import bring_all
from medallion_platform_tests.pipeline.toy import RUN
from medallion_sample.clickstream import silver
from medallion_sample.clickstream import sources as declared

from .stack import Connect, Postgres, running_postgres

pytestmark = [pytest.mark.broker, pytest.mark.postgres, pytest.mark.timeout(600)]

TABLES = (silver.users_history, silver.regions_history, silver.users, silver.regions)
SCHEMA = """
create table users (
    user_id text primary key, email text, phone text, region_code text, segment text, signed_up_on date
);
create table regions (region_code text primary key, name text, country text, timezone text);
create table marks (id int primary key);
create table signals (id text primary key, type text, data text);
create table audit (n bigint generated always as identity, op text, key text, now jsonb);
create function audit() returns trigger language plpgsql as $$
begin
    if tg_op = 'TRUNCATE' then
        insert into audit (op) values ('truncate');
    else
        if tg_op = 'DELETE' or tg_op = 'UPDATE' and old.user_id <> new.user_id then
            insert into audit (op, key) values ('delete', old.user_id);
        end if;
        if tg_op <> 'DELETE' then
            insert into audit (op, key, now) values ('row', new.user_id, to_jsonb(new));
        end if;
    end if;
    return null;
end $$;
create trigger each_row after insert or update or delete on users for each row execute function audit();
create trigger all_rows after truncate on users for each statement execute function audit();
insert into users values
    ('u1', 'anna@example.org', '+43 660 1234567', 'EU-W', 'pro', '2026-01-02'),
    ('u2', null, null, 'EU-W', 'free', null),
    ('u3', 'äö@x.y', '0043-660-7654321', null, 'Ünï "code" \\', '0044-03-15');
insert into regions values ('EU-W', 'Europe West', 'AT', 'Europe/Vienna'), ('US', 'States', 'US', null);
"""


LONG = "select string_agg(md5(i::text), '') from generate_series(1, 600) i"
"""So long that Postgres keeps it apart, and Debezium tells it only when it changes."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    yield from running_postgres()


@pytest.fixture(scope="module")
def broker(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    yield from running_broker(tmp_path_factory)


@pytest.fixture(scope="module")
def worker(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connect]:
    worker = Connect(tmp_path_factory.mktemp("connect"), broker.address)
    try:
        worker.start()
    except JarsUnavailable as error:
        pytest.skip(f"no Kafka Connect: {error}")
    yield worker
    worker.stop()


def from_kafka(source: FileSource, broker: Broker, topic: str) -> KafkaSource:
    """The declared source, but its change events come by a topic."""
    return KafkaSource.of(source, settings={"bootstrap.servers": broker.address}, topics=(topic,))


@dataclass
class Shop:
    """A database whose users and regions are followed into a lake."""

    name: str
    postgres: Postgres
    broker: Broker
    worker: Connect
    lake: Lake
    spark: SparkSession
    marks: int = 0

    @property
    def catalog(self) -> Catalog:
        sources = (
            from_kafka(declared.USERS, self.broker, f"{self.name}.public.users"),
            from_kafka(declared.REGIONS, self.broker, f"{self.name}.public.regions"),
        )
        return Catalog(sources, TABLES)

    def follow(self) -> None:
        self.worker.follow(self.postgres, self.name, ["users", "regions", "marks"])

    def sql(self, text: str) -> None:
        self.postgres.sql(self.name, text)

    def settled(self) -> None:
        """Wait until Kafka holds all changes up to now: a row that is inserted now is told behind them."""
        topic = f"{self.name}.public.marks"
        consumer = Consumer({"bootstrap.servers": self.broker.address, "group.id": "marks", "log_level": 0})
        until = time.monotonic() + 120
        try:
            self.mark()
            while topic not in self.broker.admin.list_topics(timeout=10).topics:
                assert time.monotonic() < until, "the connector makes no topics"
                time.sleep(0.2)
            consumer.assign([TopicPartition(topic, n, 0) for n in range(2)])
            while True:
                assert time.monotonic() < until, f"mark {self.marks} never comes"
                message = consumer.poll(0.2)
                if message is None or message.error() or message.value() is None:
                    continue
                told = json.loads(message.value())["payload"]
                if told["after"]["id"] == self.marks and told["op"] == "c":
                    return
                if told["after"]["id"] == self.marks:
                    self.mark()  # a snapshot saw it, which may have other tables still to read
        finally:
            consumer.close()

    def mark(self) -> None:
        self.marks += 1
        self.sql(f"insert into marks values ({self.marks})")

    def messages(self, table: str = "users") -> int:
        """How many messages a topic holds."""
        found = look_at_topics(from_kafka(declared.USERS, self.broker, f"{self.name}.public.{table}"))
        return sum(p.end for p in found.partitions)

    def refresh(self) -> None:
        """Everything that changed, through bronze and silver."""
        self.settled()
        for source in self.catalog.sources:
            assert isinstance(source, KafkaSource)
            intake(look_at_topics(source), self.lake, RUN)
        bring_all(self.lake, self.spark, self.catalog)
        self.conserved()

    def conserved(self) -> None:
        """Every message is a row of bronze or a dead letter of it, once."""
        for source in self.catalog.sources:
            counts = [r.counts for _, r in self.lake.records(source.table)]
            assert [c.missing for c in counts] == [0] * len(counts)
            places = pl.read_delta(self.lake.path(source.table)).select("_source", "_offset")
            assert places.is_unique().all()
            letters = dead_letters.read(self.lake, source.table).height
            assert sum(c.read for c in counts) == places.height + letters
            assert places.height + letters == self.messages(source.table.removeprefix("bronze."))

    def dead(self) -> int:
        """How many dead letters there are anywhere."""
        tables = [*(s.table for s in self.catalog.sources), *(t.name for t in TABLES)]
        return sum(dead_letters.count(self.lake, t) for t in tables)

    def same(self) -> None:
        """Silver is what Postgres says."""
        users = "user_id, email, phone, region_code, segment, signed_up_on"
        told = self.postgres.rows(self.name, f'select {users} from users order by user_id collate "C"')
        assert self.silver("users", users.split(", "), "user_id") == [masked(r) for r in told]
        regions = "region_code, name, country, timezone"
        told = self.postgres.rows(self.name, f"select {regions} from regions order by region_code")
        assert self.silver("regions", regions.split(", "), "region_code") == told
        assert self.histories() == self.audited()

    def silver(self, table: str, columns: list[str], *order: str) -> list[dict[str, Any]]:
        rows = pl.read_delta(self.lake.path(f"silver.{table}")).sort(*order).select(columns)
        return rows.with_columns(pl.col(pl.Date).cast(pl.String)).to_dicts()

    def histories(self) -> dict[str, list[tuple[Any, ...]]]:
        """The versions of each user in silver: its columns, and whether it is the current one."""
        columns = ["user_id", "email", "phone", "region_code", "segment", "signed_up_on", "is_current"]
        found: dict[str, list[tuple[Any, ...]]] = {}
        for row in self.silver("users_history", columns, "user_id", "source_position"):
            found.setdefault(row["user_id"], []).append(tuple(row.values()))
        return found

    def audited(self) -> dict[str, list[tuple[Any, ...]]]:
        """The same of what a trigger wrote down, which knows nothing of Debezium."""
        found: dict[str, list[dict[str, Any]]] = {}
        present: dict[str, dict[str, Any] | None] = {}
        for entry in self.postgres.rows(self.name, "select op, key, now from audit order by n"):
            if entry["op"] == "row" and present.get(entry["key"]) != entry["now"]:
                found.setdefault(entry["key"], []).append(entry["now"])
            if entry["op"] == "truncate":
                present.clear()
            else:
                present[entry["key"]] = entry["now"]
        return {
            key: [
                (*masked(state).values(), state is states[-1] and present.get(key) is not None)
                for state in states
            ]
            for key, states in found.items()
        }


def masked(row: dict[str, Any]) -> dict[str, Any]:
    """A user of Postgres as silver shows it."""
    email, phone = row["email"], row["phone"]
    return {
        "user_id": row["user_id"],
        "email": email and f"{email.partition('@')[0][:3]}***@{email.partition('@')[2]}",
        "phone": phone and f"***{phone[-4:]}",
        "region_code": row["region_code"],
        "segment": row.get("segment"),
        "signed_up_on": row["signed_up_on"],
    }


@pytest.fixture
def shop(
    postgres: Postgres, broker: Broker, worker: Connect, lake: Lake, spark: SparkSession
) -> Iterator[Shop]:
    shop = Shop(f"shop_{uuid.uuid4().hex[:8]}", postgres, broker, worker, lake, spark)
    postgres.sql("postgres", f"create database {shop.name}")
    shop.sql(SCHEMA)
    shop.follow()
    shop.settled()
    yield shop
    worker.leave(shop.name)


def test_every_kind_of_change(shop: Shop) -> None:
    shop.refresh()
    shop.same()
    shop.sql("""
        insert into users values ('u4', 'new@x.y', '06601112223', 'US', 'free', '2026-05-05');
        update users set segment = 'gold' where user_id = 'u1';
        update users set segment = 'gold' where user_id = 'u1';
        update users set email = null where user_id = 'u3';
        delete from users where user_id = 'u2';
        update regions set timezone = 'America/New_York' where region_code = 'US';
    """)
    shop.refresh()
    shop.same()
    shop.sql("""
        update users set user_id = 'u1b' where user_id = 'u1';
        begin;
        delete from users where user_id = 'u4';
        insert into users values ('u4', 'again@x.y', null, 'US', 'free', null);
        update users set segment = 'pro' where user_id = 'u4';
        commit;
        insert into users values ('u2', 'back@x.y', null, null, null, null);
        update regions set region_code = 'NA' where region_code = 'US';
    """)
    shop.refresh()
    shop.same()
    shop.sql("""
        truncate users;
        insert into users values ('u1', 'after@x.y', null, 'EU-W', 'free', null);
        truncate regions;
    """)
    shop.refresh()
    shop.same()
    assert shop.dead() == 0


def test_a_long_text_that_an_update_leaves_alone_stays(shop: Shop) -> None:
    shop.refresh()
    shop.sql(f"""
        update users set segment = ({LONG}) where user_id = 'u1';
        update users set email = 'first@x.y' where user_id = 'u1';
        update users set email = 'second@x.y' where user_id = 'u1';
        update users set segment = null where user_id = 'u1';
        update users set email = 'third@x.y' where user_id = 'u1';
    """)
    shop.refresh()
    bronze = pl.read_delta(shop.lake.path("bronze.users"))
    assert (bronze["segment"] == UNTOLD).sum() == 2, "Debezium told all values"
    shop.same()


def test_columns_come_and_go(shop: Shop) -> None:
    shop.refresh()
    shop.sql("""
        alter table users add column tier int default 7;
        update users set segment = 'new' where user_id = 'u1';
        insert into users values ('u5', 'five@x.y', null, null, 'five', null, 9);
    """)
    shop.refresh()
    shop.same()
    assert {r["user_id"]: r["tier"] for r in shop.silver("users", ["user_id", "tier"], "user_id")} == {
        "u1": "7",
        "u2": None,  # nothing was told of it since
        "u3": None,
        "u5": "9",
    }
    shop.sql("""
        alter table users drop column segment;
        update users set email = 'dropped@x.y' where user_id = 'u1';
    """)
    shop.refresh()
    now = {r["user_id"]: r["segment"] for r in shop.silver("users", ["user_id", "segment"], "user_id")}
    assert (now["u1"], now["u5"]) == (None, "five")
    assert shop.dead() == 0


def test_a_snapshot_that_is_taken_again_changes_nothing(shop: Shop) -> None:
    shop.refresh()
    shop.sql("update users set segment = 'gold' where user_id = 'u1'; delete from users where user_id = 'u2'")
    shop.refresh()
    shop.same()
    before = shop.messages()
    ask = '{"data-collections": ["public.users"], "type": "incremental"}'
    shop.sql(f"insert into signals values ('again', 'execute-snapshot', '{ask}')")
    until = time.monotonic() + 60
    while shop.messages() < before + 2:
        assert time.monotonic() < until, "the incremental snapshot never comes"
        time.sleep(0.2)
    shop.sql("update users set segment = 'after' where user_id = 'u3'")
    shop.refresh()
    shop.same()
    assert shop.dead() == 0


def test_a_worker_that_dies_or_forgets_doubles_nothing(shop: Shop) -> None:
    shop.refresh()
    shop.worker.stop()
    shop.worker.start(flush_seconds=3600)
    shop.follow()
    shop.sql("""
        update users set segment = 'one' where user_id = 'u1';
        update users set user_id = 'u2b' where user_id = 'u2';
        update users set segment = 'two' where user_id = 'u1';
    """)
    shop.refresh()
    shop.same()
    before = shop.messages()
    shop.worker.kill()
    shop.sql("update users set segment = 'meanwhile' where user_id = 'u3'")
    shop.worker.start()
    shop.follow()
    shop.refresh()
    assert shop.messages() > before + 1, "nothing came twice"
    shop.same()
    before = shop.messages()
    shop.worker.stop()
    shop.worker.offsets.unlink()
    shop.worker.start()
    shop.follow()
    shop.refresh()
    assert shop.messages() >= before + 3, "there was no new snapshot"
    shop.same()
    assert shop.dead() == 0


def test_any_mix_of_changes_with_a_worker_that_dies_in_between(shop: Shop) -> None:
    chance = random.Random(15)
    for turn in range(4):
        for _ in range(25):
            shop.sql(a_change(chance))
        if turn == 2:
            shop.worker.kill()
            shop.worker.start()
            shop.follow()
        shop.refresh()
        shop.same()
    assert shop.dead() == 0


def a_change(chance: random.Random) -> str:
    """A statement, or a transaction of some; one that hits no row, or a key that is taken, does nothing."""
    key, other = (f"'u{chance.randint(1, 6)}'" for _ in range(2))
    segment = chance.choice(["'free'", "'pro'", "null", "LONG"])
    free = f"not exists (select from users where user_id = {other})"
    one = {
        "insert": f"insert into users (user_id, segment) values ({key}, {segment}) on conflict do nothing",
        "upsert": f"insert into users (user_id, segment) values ({key}, {segment}) "
        "on conflict (user_id) do update set segment = excluded.segment",
        "update": f"update users set email = 'a{chance.randint(0, 9)}@x.y' where user_id = {key}",
        "delete": f"delete from users where user_id = {key}",
        "rename": f"update users set segment = {segment}, user_id = {other} where user_id = {key} and {free}",
        "region": f"update regions set name = {key} where region_code = 'US'",
        "truncate": "truncate users",
    }
    weights = {"truncate": 1, "rename": 3, "region": 1}
    chosen = chance.choices([*one], [weights.get(k, 4) for k in one], k=chance.choice([1, 1, 3]))
    statements = ";".join(one[c] for c in chosen).replace("LONG", f"({LONG})")
    return f"begin; {statements}; {chance.choice(['commit', 'commit', 'commit', 'rollback'])};"
