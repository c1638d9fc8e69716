"""A real Postgres and a real Kafka Connect with Debezium for tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from medallion_platform.installation.local_spark import jars_here
from medallion_platform.spark.jars import Jar
from medallion_platform.spark.java import find_java
from medallion_platform_tests.kafka.broker import free_ports

JARS = tuple(
    Jar(*line.split()) for line in Path(__file__).with_name("connect_jars.txt").read_text().splitlines()
)
"""connect-runtime, connect-json and debezium-connector-postgres with what they need."""

_BINARIES = Path("/usr/lib/postgresql/15/bin")
_READY = 120.0


class PostgresMissing(RuntimeError):
    """There is no Postgres 15 on this machine; the text says how to get it."""


def running_postgres() -> Iterator[Postgres]:
    """A server, for a fixture of any scope."""
    try:
        started = Postgres.start()
    except PostgresMissing as error:
        pytest.skip(str(error))
    yield started
    started.stop()


def end(process: subprocess.Popen[bytes], signal_: int) -> None:
    """End a process, whatever it takes."""
    if process.poll() is None:
        process.send_signal(signal_)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass
class Postgres:
    """A server whose changes can be followed."""

    folder: Path
    port: int
    command: list[str]
    user: dict[str, Any]
    """Who the process is, where it may not be root."""
    host: str = "127.0.0.1"
    process: subprocess.Popen[bytes] = field(init=False)

    @staticmethod
    def start(host: str = "127.0.0.1", certificate: Path | None = None) -> Postgres:
        """Make a cluster and serve it; root becomes the user `postgres`, whom it runs as.

        certificate: a PEM file with its key; with it, clients elsewhere are let in by TLS and a password.
        """
        if not (_BINARIES / "postgres").exists():
            raise PostgresMissing(f"no {_BINARIES}/postgres: install the Debian package postgresql-15")
        folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        other: dict[str, Any] = {}
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
            other = {"user": "postgres", "group": "postgres", "extra_groups": []}
        (port,) = free_ports(1, host)
        data = folder / "data"
        subprocess.run(
            [_BINARIES / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"],
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=_READY,
            **other,
        )
        settings = {
            "port": port,
            "listen_addresses": ",".join(dict.fromkeys(("127.0.0.1", host))),
            "unix_socket_directories": folder,
            "wal_level": "logical",
            "fsync": "off",
        }
        if certificate:
            own = folder / "own.pem"
            own.write_bytes(certificate.read_bytes())
            own.chmod(0o600)
            shutil.chown(own, data.owner(), data.group())
            settings |= {"ssl": "on", "ssl_cert_file": own, "ssl_key_file": own, "max_connections": 300}
            with (data / "pg_hba.conf").open("a") as rules:
                rules.write("hostssl all all all scram-sha-256\n")
        command = [_BINARIES / "postgres", "-D", data, *(f"--{k}={v}" for k, v in settings.items())]
        postgres = Postgres(folder, port, list(map(str, command)), other, host)
        postgres.again()
        return postgres

    def again(self) -> None:
        """Serve, and return when it answers."""
        self.process = subprocess.Popen(self.command, cwd=self.folder, stderr=subprocess.DEVNULL, **self.user)
        until = time.monotonic() + _READY
        while True:
            try:
                self.sql("postgres", "select 1")
                return
            except subprocess.CalledProcessError as error:
                if self.process.poll() is not None or time.monotonic() > until:
                    self.stop()
                    raise RuntimeError(error.stderr) from None
                time.sleep(0.1)

    def interrupt(self) -> None:
        """End the server, clients included; its data stays."""
        end(self.process, signal.SIGINT)

    def stop(self) -> None:
        """End the server, clients included, and forget its data."""
        self.interrupt()
        shutil.rmtree(self.folder)

    def sql(self, database: str, text: str) -> str:
        """Run statements, each in a transaction of its own; what the last one gives."""
        done = subprocess.run(
            [
                *(_BINARIES / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"),
                *("-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database),
            ],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.strip()

    def rows(self, database: str, query: str) -> list[dict[str, Any]]:
        """What a query gives."""
        return json.loads(self.sql(database, f"select coalesce(json_agg(r), '[]') from ({query}) r"))


@dataclass
class Connect:
    """A standalone Connect worker, with the Debezium connector for Postgres."""

    folder: Path
    brokers: str
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self, flush_seconds: float = 0.5) -> None:
        """Fetch and start; returns when it answers. Offsets go to disk so often, and in the end."""
        (self.port,) = free_ports(1)
        config = self.folder / "worker.properties"
        settings = {
            "bootstrap.servers": self.brokers,
            "listeners": f"http://127.0.0.1:{self.port}",
            "key.converter": "org.apache.kafka.connect.json.JsonConverter",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            "offset.storage.file.filename": self.offsets,
            "offset.flush.interval.ms": int(flush_seconds * 1000),
            "plugin.discovery": "service_load",
        }
        config.write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
        classpath = os.pathsep.join(str(j) for j in jars_here(JARS))
        command = [find_java().program, "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        with (self.folder / "connect.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "-cp", classpath, "org.apache.kafka.connect.cli.ConnectStandalone", str(config)],
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + _READY
        while True:
            try:
                self.ask("GET", "/connectors")
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError((self.folder / "connect.log").read_text()[-2000:]) from None
                time.sleep(0.2)

    @property
    def offsets(self) -> Path:
        """How far each connector came."""
        return self.folder / "offsets"

    def stop(self) -> None:
        """End it in order: offsets are kept."""
        if self.process:
            end(self.process, signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        if self.process:
            end(self.process, signal.SIGKILL)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Its REST API."""
        request = Request(
            f"http://127.0.0.1:{self.port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        with urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def follow(self, postgres: Postgres, database: str, tables: list[str]) -> None:
        """Have a connector named like its database tell the changes of tables."""
        config = {
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "database.hostname": "127.0.0.1",
            "database.port": str(postgres.port),
            "database.user": "postgres",
            "database.dbname": database,
            "topic.prefix": database,
            "plugin.name": "pgoutput",
            "slot.name": database,
            "publication.name": database,
            "publication.autocreate.mode": "filtered",
            "table.include.list": ",".join(f"public.{t}" for t in (*tables, "signals")),
            "signal.data.collection": "public.signals",
            "skipped.operations": "none",
            "decimal.handling.mode": "string",
            "topic.creation.default.replication.factor": "1",
            "topic.creation.default.partitions": "2",
        }
        self.ask("PUT", f"/connectors/{database}/config", config)

    def leave(self, database: str) -> None:
        """End the connector."""
        try:
            self.ask("DELETE", f"/connectors/{database}")
        except URLError:
            return  # it went with a worker that was killed
