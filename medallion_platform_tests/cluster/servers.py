"""What pods of a cluster reach on this machine: a bucket, Dagster's Postgres, a broker and a Redis."""

from __future__ import annotations

import json
import secrets
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from medallion_platform_tests.debezium.stack import Postgres
from medallion_platform_tests.kafka import certificates
from medallion_platform_tests.kafka.broker import Broker
from medallion_platform_tests.s3.server import Server
from medallion_platform_tests.serving.redis_server import Redis


@dataclass(frozen=True)
class Servers:
    """Servers at one address, and the authority whose certificates Postgres and the broker have."""

    s3: Server
    postgres: Postgres
    broker: Broker
    redis: Redis
    authority: str
    """PEM."""

    def kafka(self) -> str:
        """The client's settings, as pods need them."""
        return json.dumps({**self.broker.secured, "ssl.ca.location": "/etc/medallion/authority/ca.crt"})

    def new_database(self, name: str) -> str:
        """Make a database and its owner of the same name; returns the password."""
        password = secrets.token_urlsafe(24)
        self.postgres.sql("postgres", f"create role {name} login password '{password}'")
        self.postgres.sql("postgres", f"create database {name} owner {name}")
        return password

    def new_bucket(self, name: str) -> Path:
        """Make a bucket; returns its folder."""
        folder = self.s3.root / name
        folder.mkdir()
        return folder

    @contextmanager
    def with_own_broker(self, folder: Path) -> Generator[Servers]:
        """The same with another broker, whose topics no other installation reads."""
        broker = Broker.start(folder, self.s3.host)
        try:
            trusted = Path(broker.secured["ssl.ca.location"]).read_text()
            yield replace(self, broker=broker, authority=self.authority + trusted)
        finally:
            broker.stop()


@contextmanager
def started(folder: Path, host: str) -> Generator[Servers]:
    """All of them, at an address of this machine that pods reach."""
    with ExitStack() as ends:
        buckets = folder / "buckets"
        buckets.mkdir()
        s3 = Server.start(buckets, host)
        ends.callback(s3.stop)
        certificates.make(folder / "authority.pem", folder / "postgres.pem", host)
        postgres = Postgres.start(host, folder / "postgres.pem")
        ends.callback(postgres.stop)
        (folder / "broker").mkdir()
        broker = Broker.start(folder / "broker", host)
        ends.callback(broker.stop)
        redis = Redis.start(folder, secrets.token_urlsafe(24), host)
        ends.callback(redis.stop)
        trusted = [folder / "authority.pem", Path(broker.secured["ssl.ca.location"])]
        yield Servers(s3, postgres, broker, redis, "".join(file.read_text() for file in trusted))
