"""Servers of HTTP and SMTP on loopback, which keep what they are told."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from medallion_platform_tests.ui.server import free_port


@dataclass
class Request:
    """What was asked: of a GET what stands in its query, else its body."""

    method: str
    path: str
    headers: Mapping[str, str]
    text: bytes
    told: Any


@dataclass
class Answer:
    """What is answered: JSON after a status."""

    told: object = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Server:
    """Answers as `answer` says, after what `next` holds."""

    answer: Callable[[Request], Answer]
    asked: list[Request] = field(default_factory=list)
    next: deque[Answer] = field(default_factory=deque)
    silent: threading.Event | None = None
    """While it is set nobody is answered."""
    url: str = ""

    @property
    def paths(self) -> list[str]:
        return [f"{request.method} {request.path}" for request in self.asked]


@contextmanager
def http_server(answer: Callable[[Request], Answer] = lambda _: Answer({})) -> Generator[Server]:
    made = Server(answer)

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            text = self.rfile.read(int(self.headers.get("content-length", 0)))
            parts = urlsplit(self.path)
            told = json.loads(text) if text else {k: v[0] for k, v in parse_qs(parts.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, parts.path, headers, text, told)
            made.asked.append(request)
            if made.silent:
                made.silent.wait(60)
            given = made.next.popleft() if made.next else made.answer(request)
            content = json.dumps(given.told).encode()
            self.send_response(given.status)
            for name, value in {**given.headers, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            with suppress(ConnectionError):  # who asked has gone
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        made.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield made
        finally:
            if made.silent:
                made.silent.set()
            server.shutdown()
            thread.join()


@dataclass
class Slack:
    """Slack's channels, as its web API shows them to a bot that may look, or may not."""

    may_look: bool = True
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)
    replies: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, request: Request) -> Answer:
        told = request.told
        match request.path.rpartition("/")[2]:
            case "chat.postMessage" if "thread_ts" in told:
                self.replies.append(told)
                return Answer({"ok": True, "channel": told["channel"], "ts": "9.9"})
            case "chat.postMessage":
                ts = f"{len(self.messages) + 1}.000100"
                self.messages[ts] = told
                return Answer({"ok": True, "channel": told["channel"], "ts": ts})
            case "chat.update" if told["ts"] in self.messages:
                self.messages[told["ts"]] = told
                return Answer({"ok": True, "channel": told["channel"], "ts": told["ts"]})
            case "chat.update":
                return Answer({"ok": False, "error": "message_not_found"})
            case "conversations.history" if self.may_look:
                found = [{"ts": ts, "metadata": m["metadata"]} for ts, m in self.messages.items()]
                return Answer({"ok": True, "messages": found})
            case _:
                return Answer({"ok": False, "error": "missing_scope"})


@dataclass
class Grafana:
    """Grafana's annotations."""

    made: dict[int, dict[str, Any]] = field(default_factory=dict)

    def answer(self, request: Request) -> Answer:
        id = request.path.rpartition("/")[2]
        if request.method == "GET":
            tag = request.told["tags"]
            return Answer([{"id": n, **a} for n, a in self.made.items() if tag in a["tags"]][:1])
        if request.method == "POST":
            self.made[len(self.made) + 7] = request.told
            return Answer({"id": max(self.made), "message": "Annotation added"})
        if id.isdecimal() and int(id) in self.made:
            self.made[int(id)] |= request.told
            return Answer({"message": "Annotation patched"})
        return Answer({"message": "not found"}, 404)


@dataclass
class Post:
    """A mail server: who wrote what to whom, and whom it lets write."""

    mails: list[Message] = field(default_factory=list)
    users: list[tuple[str, str, bool]] = field(default_factory=list)
    """User, password, and whether they came encrypted."""
    refuses: str = ""
    """An address for which it takes nothing."""
    port: int = 0

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address == self.refuses:
            return "550 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.mails.append(message_from_bytes(envelope.content))
        return "250 taken"

    def lets_in(
        self, server: SMTP, session: Session, envelope: Envelope, how: str, who: object
    ) -> AuthResult:
        assert isinstance(who, LoginPassword)
        self.users.append((who.login.decode(), who.password.decode(), session.ssl is not None))
        return AuthResult(success=who.password == b"hunter2@7", handled=False)


@contextmanager
def mail_server(**options: Any) -> Generator[Post]:
    """options: of aiosmtpd's SMTP."""
    post = Post()
    if "tls_context" in options:
        options |= {"authenticator": post.lets_in, "auth_required": True, "auth_require_tls": True}
    post.port = free_port()
    controller = Controller(post, hostname="127.0.0.1", port=post.port, **options)
    controller.start()
    try:
        yield post
    finally:
        controller.stop()
