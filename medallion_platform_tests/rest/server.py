"""A REST API on loopback that serves known records, and plays each fault that APIs have."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from medallion_platform_tests.pipeline.toy import MONDAY

Fault = Callable[["Handler"], None]
MICROSECONDS = 1_000_000


@dataclass
class CommitRecord:
    """What the API gives, and the number that it is sorted and filtered by."""

    text: bytes
    value: int


@dataclass
class Api:
    """Records in the order in which they are given, and what happens between requests."""

    page: int = 3
    records: list[CommitRecord] = field(default_factory=list)
    faults: deque[Fault] = field(default_factory=deque)
    between: deque[Callable[[], None]] = field(default_factory=deque)
    asked: list[dict[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    """Those that are good; none are wanted where there are none."""
    seen_tokens: list[str | None] = field(default_factory=list)
    clock: int = 0
    address: str = ""

    @property
    def url(self) -> str:
        return f"{self.address}/orders"

    def event(
        self, key: str, *, at: int | None = None, front: bool = False, **fields: object
    ) -> CommitRecord:
        """A new record, changed a second after the one before or `at` so many seconds."""
        if at is None:
            self.clock += 1
            at = self.clock
        changed = datetime.fromtimestamp(MONDAY.timestamp() + at, UTC)
        told = {
            "event_id": key,
            "event_timestamp": "2026-01-05T00:00:00Z",
            "id": at,
            "updated_at": changed.isoformat(),
            **fields,
        }
        return self.put(json.dumps(told).encode(), at, front=front)

    def put(self, text: bytes, at: int, *, front: bool = False) -> CommitRecord:
        """A record of this very text."""
        record = CommitRecord(text, at)
        self.records.insert(0 if front else len(self.records), record)
        return record

    def since(self, query: dict[str, str]) -> list[CommitRecord]:
        """The records from an id, or from a time on."""
        if "since_id" in query:
            return [r for r in self.records if r.value >= int(query["since_id"])]
        if "since" in query:
            since = datetime.fromisoformat(query["since"]).timestamp() - MONDAY.timestamp()
            return [r for r in self.records if r.value >= since]
        return list(self.records)


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """A body follows its headers at once, and not once the client has acknowledged these, 40 ms later."""
    api: Api

    def do_GET(self) -> None:
        self.api.seen_tokens.append(self.headers.get("Authorization"))
        if self.api.faults:
            self.api.faults.popleft()(self)
            return
        if self.api.tokens and (self.headers.get("Authorization") or "")[7:] not in self.api.tokens:
            self.answer(401, b"{}")
            return
        self.serve()

    def do_POST(self) -> None:
        self.api.seen_tokens.append(self.headers.get("Authorization"))
        self.rfile.read(int(self.headers["Content-Length"]))
        self.api.tokens = {f"token{len(self.api.seen_tokens)}"}
        self.answer(200, json.dumps({"access_token": next(iter(self.api.tokens))}).encode())

    def serve(self) -> None:
        """A page, as its path says."""
        path = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(path.query).items()}
        self.api.asked.append(query)
        found, size = self.api.since(query), self.api.page
        links = {}
        cursor = None
        if path.path == "/cursor":
            found = sorted(found, key=lambda r: r.value)
            begin = int(query.get("cursor", "-1"))
            ahead = [r for r in found if r.value > begin]
            # A page never parts records of one value, or the cursor would pass some over.
            last = ahead[min(size, len(ahead)) - 1].value if ahead else 0
            given = [r for r in ahead if r.value <= last]
            cursor = str(last) if len(given) < len(ahead) else None
        else:
            number = int(query.get("page", "1"))
            given = found[(number - 1) * size : number * size]
            if path.path == "/link" and number * size < len(found):
                following = urlencode({**query, "page": number + 1})
                links = {"Link": f'<{path.path}?{following}>; rel="next", </>; rel="first"'}
        body = b'{"next": %s, "data": {"items": [%s]}}' % (
            json.dumps(cursor).encode(),
            b", ".join(r.text for r in given),
        )
        if self.api.between:
            self.api.between.popleft()()
        self.answer(200, body, **links)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """One response."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:
        """Say nothing."""


# faults --------------------------------------------------------------------------------------------


def status(code: int, **headers: str) -> Fault:
    return lambda handler: handler.answer(code, b"no", **headers)


def body(text: bytes) -> Fault:
    return lambda handler: handler.answer(200, text)


def wait_until(seconds: float) -> Fault:
    """429 until a date of the server's own clock, which is a year ahead."""

    def fault(handler: Handler) -> None:
        now = time.time() + 365 * 86400
        dates = [format_datetime(datetime.fromtimestamp(now + s, UTC), usegmt=True) for s in (0, seconds)]
        handler.send_response_only(429)
        handler.send_header("Date", dates[0])
        handler.send_header("Retry-After", dates[1])
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return fault


def hang_up(handler: Handler) -> None:
    """The connection ends without a word."""
    handler.close_connection = True


def torn(handler: Handler) -> None:
    """The connection ends within the body."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"data": {"items": [')
    handler.close_connection = True


def stuck(handler: Handler) -> None:
    """Nothing comes until the client hangs up."""
    handler.connection.settimeout(60)
    with suppress(OSError):
        handler.connection.recv(1)
    handler.close_connection = True


def dripping(where: str) -> Fault:
    """A byte every now and then, in the headers or in the body, until the client hangs up."""

    def fault(handler: Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        if where == "body":
            handler.wfile.write(b"no\r\nContent-Length: 100000\r\n\r\n")
        with suppress(OSError):
            for _ in range(600):
                handler.wfile.write(b" ")
                time.sleep(0.1)

    return fault


class Server(ThreadingHTTPServer):
    """Says nothing of clients that hang up."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(api: Api) -> Iterator[Api]:
    """The API, for as long as the `with`."""
    handler = type("Bound", (Handler,), {"api": api})
    server = Server(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    api.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
