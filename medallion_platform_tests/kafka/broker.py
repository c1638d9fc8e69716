"""A real Kafka broker for tests: one KRaft node, from jars that are pinned and cached."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from confluent_kafka.cimpl import TopicPartition

from medallion_platform.installation.local_spark import jars_here
from medallion_platform.spark.jars import Jar
from medallion_platform.spark.java import find_java

from . import certificates

JARS = tuple(
    Jar(*line.split()) for line in Path(__file__).with_name("broker_jars.txt").read_text().splitlines()
)
"""kafka_2.13 with what it needs: organisation, artifact, revision, sha256."""

_READY = 120.0
_JAAS = "listener.name.sasl_ssl.{}.sasl.jaas.config=org.apache.kafka.common.security.{}LoginModule required"


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.create_server((host, 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@dataclass
class Broker:
    """A broker and what tests do to it."""

    address: str
    process: subprocess.Popen[bytes]
    folder: Path = Path()
    secured: dict[str, str] = field(default_factory=dict, repr=False)
    """What a client has to be told to be let in where the broker wants TLS and a password."""

    @staticmethod
    def start(folder: Path, host: str = "127.0.0.1") -> Broker:
        """Fetch, format, start; returns when the broker answers."""
        port, secure, controller = free_ports(3, host)
        authority, own = folder / "authority.pem", folder / "broker.pem"
        certificates.make(authority, own, host)
        password = secrets.token_hex(16)
        config = folder / "server.properties"
        config.write_text(
            "\n".join(
                [
                    "process.roles=broker,controller",
                    "node.id=1",
                    f"controller.quorum.voters=1@{host}:{controller}",
                    f"listeners=PLAINTEXT://{host}:{port},SASL_SSL://{host}:{secure},"
                    f"CONTROLLER://{host}:{controller}",
                    f"advertised.listeners=PLAINTEXT://{host}:{port},SASL_SSL://{host}:{secure}",
                    "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,"
                    "CONTROLLER:PLAINTEXT",
                    "controller.listener.names=CONTROLLER",
                    "inter.broker.listener.name=PLAINTEXT",
                    f"log.dirs={folder / 'logs'}",
                    "ssl.keystore.type=PEM",
                    f"ssl.keystore.location={own}",
                    "sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN",
                    f"{_JAAS.format('scram-sha-512', 'scram.Scram')};",
                    f"{_JAAS.format('plain', 'plain.Plain')} user_lake='{password}';",
                    "offsets.topic.replication.factor=1",
                    "offsets.topic.num.partitions=1",
                    "transaction.state.log.replication.factor=1",
                    "transaction.state.log.min.isr=1",
                    "transaction.state.log.num.partitions=1",
                    "group.initial.rebalance.delay.ms=0",
                    "auto.create.topics.enable=false",
                    "log.retention.check.interval.ms=500",
                    "file.delete.delay.ms=100",
                    "",
                ]
            )
        )
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A", 1)
        with (folder / "broker.log").open("wb") as log:
            subprocess.run(
                [
                    *(*_java(), "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(config)),
                    *("--add-scram", f"SCRAM-SHA-512=[name=lake,password={password}]"),
                ],
                stdout=log,
                stderr=log,
                timeout=_READY,
                check=True,
            )
        secured = {
            "bootstrap.servers": f"{host}:{secure}",
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(authority),
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": "lake",
            "sasl.password": password,
        }
        broker = Broker(f"{host}:{port}", _launched(folder), folder, secured)
        broker.wait()
        return broker

    def wait(self) -> None:
        """Return when the broker answers."""
        until = time.monotonic() + _READY
        while True:
            try:
                self.admin.list_topics(timeout=2)
                return
            except Exception:
                if self.process.poll() is not None or time.monotonic() > until:
                    self.stop()
                    raise RuntimeError((self.folder / "broker.log").read_text()[-2000:]) from None

    def kill(self) -> None:
        """SIGKILL: what it had not synced to its disk the system still writes."""
        self.process.kill()
        self.process.wait()

    def again(self) -> None:
        """Start where it was killed, and return when it answers."""
        self.process = _launched(self.folder)
        self.wait()

    def stop(self) -> None:
        """End the process."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    @cached_property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.address, "log_level": 0})

    def create(self, topic: str, partitions: int = 1, **config: str) -> None:
        """Make a topic and wait until it is there."""
        new = NewTopic(topic, partitions, 1, config={k.replace("_", "."): v for k, v in config.items()})
        for future in self.admin.create_topics([new]).values():
            future.result(30)
        self._until(topic, lambda found: found is not None and len(found.partitions) == partitions)

    def delete(self, topic: str) -> None:
        """Delete a topic and wait until it is gone."""
        for future in self.admin.delete_topics([topic]).values():
            future.result(30)
        self._until(topic, lambda found: found is None)

    def grow(self, topic: str, partitions: int) -> None:
        """Give a topic more partitions."""
        for future in self.admin.create_partitions([NewPartitions(topic, partitions)]).values():
            future.result(30)
        self._until(topic, lambda found: found is not None and len(found.partitions) == partitions)

    def expire(self, topic: str, partition: int, before: int) -> None:
        """Delete the records before an offset, as retention does."""
        for future in self.admin.delete_records([TopicPartition(topic, partition, before)]).values():
            future.result(30)

    def topic_id(self, topic: str) -> str:
        """The identity of a topic."""
        (future,) = self.admin.describe_topics(TopicCollection([topic])).values()
        return str(future.result(30).topic_id)

    def send(self, topic: str, values: list[bytes | None], partition: int = 0, **named: Any) -> None:
        """Produce messages and wait until they are there."""
        producer = Producer({"bootstrap.servers": self.address, "linger.ms": 5})
        _produce(producer, topic, values, partition, named)
        assert producer.flush(30) == 0

    def transaction(self, topic: str, values: list[bytes | None], partition: int = 0, *, keep: bool) -> None:
        """Produce messages in a transaction that is committed or aborted."""
        producer = Producer({"bootstrap.servers": self.address, "transactional.id": uuid.uuid4().hex})
        producer.init_transactions(30)
        producer.begin_transaction()
        _produce(producer, topic, values, partition, {})
        assert producer.flush(30) == 0
        producer.commit_transaction(30) if keep else producer.abort_transaction(30)

    def _until(self, topic: str, there: Any) -> None:
        until = time.monotonic() + 30
        while not there(self.admin.list_topics(timeout=10).topics.get(topic)):
            assert time.monotonic() < until, f"{topic} does not become what it should"
            time.sleep(0.1)


def _java() -> list[str]:
    classpath = os.pathsep.join(str(j) for j in jars_here(JARS))
    return [find_java().program, "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-cp", classpath]


def _launched(folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "broker.log").open("ab") as log:
        return subprocess.Popen(
            [*_java(), "kafka.Kafka", str(folder / "server.properties")], stdout=log, stderr=log
        )


def _taken(error: KafkaError | None, _: Any) -> None:
    if error is not None:
        raise KafkaException(error)


def _produce(
    producer: Producer, topic: str, values: list[bytes | None], partition: int, named: dict[str, Any]
) -> None:
    for value in values:
        while True:
            try:
                producer.produce(topic, value, partition=partition, on_delivery=_taken, **named)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
