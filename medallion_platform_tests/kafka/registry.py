"""A real schema registry for tests: Apicurio on loopback, asked as Confluent's is, and what is before it."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import fastavro

from medallion_platform.installation.local_spark import jars_here
from medallion_platform.spark.jars import Jar
from medallion_platform.spark.java import find_java

from .broker import free_ports

APP = Jar(
    "io.apicurio",
    "apicurio-registry-app",
    "3.0.9",  # the last one for Java 17
    "2b28181501a20cbf6efcd77f9b7153908fc01f3d3a7c32024c0bd9e1b04c8a43",
    "all",
    "tar.gz",
)
_READY = 120.0


@dataclass
class Registry:
    """A registry that keeps its schemas in memory."""

    url: str
    process: subprocess.Popen[bytes]
    folder: Path

    @staticmethod
    def start() -> Registry:
        """Fetch, unpack, start; returns when it answers."""
        (archive,) = jars_here([APP])
        folder = Path(tempfile.mkdtemp(prefix="registry-"))
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        port, management = free_ports(2)
        command = [
            *(find_java().program, "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            *("-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={port}"),
            *("-Dquarkus.management.host=127.0.0.1", f"-Dquarkus.management.port={management}"),
            *("-jar", f"{folder}/apicurio-registry-app-{APP.revision}-runner.jar"),
        ]
        with (folder / "registry.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        registry = Registry(f"http://127.0.0.1:{port}/apis/ccompat/v7", process, folder)
        until = time.monotonic() + _READY
        while True:
            try:
                registry.ask("subjects")
                return registry
            except (URLError, ConnectionError):
                if process.poll() is not None or time.monotonic() > until:
                    said = (folder / "registry.log").read_text()[-2000:]
                    registry.stop()
                    raise RuntimeError(said) from None
                time.sleep(0.2)

    def stop(self) -> None:
        """End the process; nothing of it is left."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder)

    def ask(self, path: str, body: Any = None) -> Any:
        """What the registry answers."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
        with urlopen(Request(f"{self.url}/{path}", data, headers), timeout=30) as answer:
            return json.load(answer)

    def register(
        self,
        subject: str,
        schema: Any,
        kind: str = "AVRO",
        references: Sequence[dict[str, Any]] = (),
    ) -> int:
        """Add a version of a subject's schema; its id."""
        body = {"schema": json.dumps(schema), "schemaType": kind, "references": list(references)}
        return self.ask(f"subjects/{subject}/versions", body)["id"]


def framed(number: int, body: bytes) -> bytes:
    """A message of a schema."""
    return b"\0" + number.to_bytes(4, "big") + body


def message(number: int, schema: Any, record: Any, named: dict[str, Any] | None = None) -> bytes:
    """A record as its producer writes it."""
    out = BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema, named or {}), record)
    return framed(number, out.getvalue())


@dataclass
class Gateway:
    """What stands before a registry: it lets a user in, counts, and may answer in its place."""

    registry: Registry
    user: str = ""
    instead: tuple[int, bytes] | None = None
    asked: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> Gateway:
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = gateway.answer(self.path, self.headers.get("Authorization", ""))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it is asked."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, path: str, authorization: str) -> tuple[int, bytes]:
        """Status and body of an answer."""
        if self.user and authorization != f"Basic {b64encode(self.user.encode()).decode()}":
            return 401, b"who are you?"
        self.asked[path] += 1
        if self.instead:
            return self.instead
        try:
            with urlopen(f"{self.registry.url}{path}", timeout=30) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()
