"""A real S3 server for tests, versitygw, and a proxy before it that fails as servers do."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

from medallion_platform.installation.settings import Settings

VERSION = "1.8.0"
KEYS = {"AWS_ACCESS_KEY_ID": "key-of-the-tests", "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests"}
FURTHER_KEYS = {f"further-key-{n}": f"further-secret-{n}" for n in range(100)}
"""Of accounts that may do the same."""
_READY = 30.0
_BUILD = 1800


class NoGo(Exception):
    """There is nothing to build the server with."""


def versitygw() -> Path:
    """The server's program, built once from its pinned source."""
    folder = Settings().cache / f"versitygw-{VERSION}"
    program = folder / "versitygw"
    if not program.exists():
        go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
        if go is None:
            raise NoGo(f"versitygw {VERSION} is built with Go 1.25 or newer, and there is no go on the PATH")
        own = folder.with_name(f"{folder.name}-{os.getpid()}")
        wanted = f"github.com/versity/versitygw/cmd/versitygw@v{VERSION}"
        subprocess.run(
            [go, "install", wanted], env={**os.environ, "GOBIN": str(own)}, timeout=_BUILD, check=True
        )
        folder.mkdir(parents=True, exist_ok=True)
        (own / "versitygw").replace(program)
    return program


@dataclass
class Server:
    """A server and the folder in which each bucket is a folder."""

    port: int
    root: Path
    process: subprocess.Popen[bytes]
    host: str = "127.0.0.1"

    @staticmethod
    def start(root: Path, host: str = "127.0.0.1") -> Server:
        """Returns when it answers."""
        with socket.create_server((host, 0)) as free:
            port = free.getsockname()[1]
        keys = {"ROOT_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"]}
        keys["ROOT_SECRET_KEY"] = KEYS["AWS_SECRET_ACCESS_KEY"]
        accounts = root.with_name(f"{root.name}-accounts")
        accounts.mkdir()
        told = {key: {"access": key, "secret": s, "role": "admin"} for key, s in FURTHER_KEYS.items()}
        (accounts / "users.json").write_text(json.dumps({"accessAccounts": told}))
        where = ["--port", f"{host}:{port}", "--iam-dir", str(accounts)]
        process = subprocess.Popen(
            [str(versitygw()), *where, "--quiet", "posix", str(root)],
            env={**os.environ, **keys},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started = Server(port, root, process, host)
        until = time.monotonic() + _READY
        while True:
            try:
                socket.create_connection((host, port), 1).close()
                return started
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    started.stop()
                    raise
                time.sleep(0.05)

    @property
    def environment(self) -> dict[str, str]:
        """What a client is told, and all that it is told."""
        return environment(self.port, self.host)

    def stop(self) -> None:
        """End the process."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def environment(port: int, host: str = "127.0.0.1") -> dict[str, str]:
    """The standard variables that lead to a server."""
    return {**KEYS, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://{host}:{port}"}


@dataclass
class Request:
    """A request that went through a proxy."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def is_list(self) -> bool:
        return self.method == "GET" and "list-type=2" in self.path

    @property
    def is_commit(self) -> bool:
        return self.method == "PUT" and "_delta_log/0" in self.path and self.path.endswith(".json")


@dataclass(frozen=True)
class Refusal:
    """What S3 answers instead of doing what was asked ("Error Responses" of its API reference)."""

    status: int
    code: str
    message: str


SLOW_DOWN = Refusal(503, "SlowDown", "Please reduce your request rate.")
EXPIRED = Refusal(400, "ExpiredToken", "The provided token has expired.")
SKEWED = Refusal(
    403, "RequestTimeTooSkewed", "The difference between the request time and the server's is too large."
)

Meddle = Callable[[Request], str | Refusal | None]
"""What to do about a request: `forget` deletes its object first, `lose` keeps its answer back, and a
refusal is answered without the server. It is called in the request's own thread, and may sleep."""


def losing_first_answers(lost: list[str]) -> Meddle:
    """Keeps the first answer to each commit back; notes its path."""

    def meddle(request: Request) -> str | None:
        if request.is_commit and request.path not in lost:
            lost.append(request.path)
            return "lose"
        return None

    return meddle


@dataclass
class Proxy:
    """A server before the server."""

    port: int
    seen: list[Request] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.port)


@contextmanager
def proxy(
    server: Server, meddle: Meddle = lambda _: None, retold: Callable[[bytes], bytes] = lambda answer: answer
) -> Iterator[Proxy]:
    """A proxy that hands requests on as they are, signature included, and meddles with some.

    retold: what becomes of the answer to a list, for what this server cannot hold and others do.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, self.path, dict(self.headers))
            through.seen.append(request)
            todo = meddle(request)
            if todo == "forget":
                key = server.root / unquote(urlsplit(request.path).path).lstrip("/")
                key.unlink(missing_ok=True)
            if isinstance(todo, Refusal):
                status, headers, answer = self.refuse(todo)
            else:
                status, headers, answer = self.forward(request, body)
                answer = retold(answer) if request.is_list else answer
            if todo == "lose":
                self.close_connection = True
                return
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            length = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else len(answer)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(answer)

        def refuse(self, refusal: Refusal) -> tuple[int, list[tuple[str, str]], bytes]:
            said = f"<Error><Code>{refusal.code}</Code><Message>{refusal.message}</Message></Error>"
            body = b"" if self.command == "HEAD" else said.encode()
            return refusal.status, [("Content-Type", "application/xml")], body

        def forward(self, request: Request, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            there = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            there.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in ("expect", "connection"):
                    there.putheader(name, value)
            there.endheaders(body)
            answer = there.getresponse()
            said = answer.status, answer.getheaders(), answer.read()
            there.close()
            return said

        def log_message(self, *_: object) -> None:
            pass

    class Listening(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that went away is no error of the proxy."""

    with Listening(("127.0.0.1", 0), Handler) as listening:
        through = Proxy(listening.server_address[1])
        Thread(target=listening.serve_forever, daemon=True).start()
        try:
            yield through
        finally:
            listening.shutdown()
