"""Credentials that expire, handed out by an endpoint on loopback as a container has one.

Protocol: "Container credential provider" of the AWS SDKs' reference guide.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from .server import EXPIRED, FURTHER_KEYS, Refusal, Request

_KEYS = list(FURTHER_KEYS)
EVERY, HOLDS = 3.0, 15.0
"""Seconds after which there is a new key, and for which one holds."""


@dataclass
class Expiring:
    """Keys that follow one another, and expire."""

    environment: dict[str, str] = field(default_factory=dict)
    """What leads to their endpoint."""
    used: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """The numbers of the keys that each kind of client used."""
    _began: float = field(default_factory=time.monotonic)

    def refuse(self, request: Request) -> Refusal | None:
        """What a server answers to a request that is not signed with a key that holds."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        signed = re.search(r"Credential=([^/]+)/", headers.get("authorization", ""))
        number = _KEYS.index(signed[1]) if signed and signed[1] in _KEYS else -1
        if number < 0 or self._left(number) < 0:
            return EXPIRED
        client = re.search(r"object_store|polars|aws-sdk-java", headers["user-agent"])
        self.used[client[0] if client else "others"].add(number)
        return None

    @property
    def outlived(self) -> bool:
        """Whether each kind of client went on after the first key that it used had expired."""
        return all((max(n) - min(n)) * EVERY > HOLDS for n in self.used.values())

    def answer(self) -> dict[str, str]:
        """What the endpoint says: the newest key."""
        number = int((time.monotonic() - self._began) / EVERY)
        until = datetime.now(UTC) + timedelta(seconds=self._left(number))
        return {
            "AccessKeyId": _KEYS[number],
            "SecretAccessKey": FURTHER_KEYS[_KEYS[number]],
            "Token": "",  # the server knows keys only
            "Expiration": until.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }

    def _left(self, number: int) -> float:
        return self._began + number * EVERY + HOLDS - time.monotonic()


@contextmanager
def expiring(folder: Path) -> Iterator[Expiring]:
    """An endpoint, which asks for the token that lies in a file of the folder."""
    token = folder / "token"
    token.write_text("token-of-the-tests")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            let_in = self.headers.get("Authorization") == token.read_text()
            body = json.dumps(credentials.answer()).encode() if let_in else b""
            self.send_response(200 if let_in else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        address = f"http://127.0.0.1:{listening.server_port}/credentials"
        credentials = Expiring()
        credentials.environment = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": address,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
        }
        Thread(target=listening.serve_forever, daemon=True).start()
        try:
            yield credentials
        finally:
            listening.shutdown()
