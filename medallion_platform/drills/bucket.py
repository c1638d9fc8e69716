"""A small object store of a folder that only reads, and that can be told to fail: the S3 of a drill.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html, without pages: a drill has few files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_LIST = (
    '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>{bucket}</Name><Prefix>{prefix}</Prefix>'
)
_REFUSALS = {
    503: b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
    403: b"<Error><Code>InvalidAccessKeyId</Code><Message>There is no such key.</Message></Error>",
}


@dataclass
class Bucket:
    """The folder, and what its server does.

    answer: None as usual; else a status of `_REFUSALS`, or "none", which closes the connection. concerns:
    whether a key is answered so; that of a list is "".
    """

    name: str
    folder: Path
    answer: Literal[503, 403, "none"] | None = None
    concerns: Callable[[str], bool] = field(default=lambda _: True)
    port: int = 0

    @property
    def variables(self) -> str:
        """The environment that a client needs, as JSON."""
        told = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "drill",
            "AWS_SECRET_ACCESS_KEY": "drill",
            "AWS_REGION": "us-east-1",
        }
        return json.dumps(told)


@contextmanager
def serving(bucket: Bucket) -> Generator[Bucket]:
    """Serve it on a port of this machine, in the `with` block."""

    class Handler(_Handler):
        served = bucket

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    bucket.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        url, bucket = urlsplit(self.path), self.served
        key = unquote(url.path).removeprefix(f"/{bucket.name}").strip("/")
        if bucket.answer is not None and bucket.concerns(key):
            if bucket.answer == "none":
                self.close_connection = True
                return
            self._send(bucket.answer, _REFUSALS[bucket.answer])
        elif not key:
            query = parse_qs(url.query)
            self._send(200, self._listed(query.get("prefix", [""])[0], query.get("start-after", [""])[0]))
        elif (file := bucket.folder / key).is_file():
            content = file.read_bytes()
            changed = datetime.fromtimestamp(file.stat().st_mtime, UTC)
            told = {"ETag": _etag(content), "Last-Modified": format_datetime(changed, usegmt=True)}
            self._send(200, content, told)
        else:
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>")

    do_HEAD = do_GET

    def _listed(self, prefix: str, after: str) -> bytes:
        parts = [_LIST.format(bucket=self.served.name, prefix=escape(prefix))]
        files = (self.served.folder / prefix).rglob("*")
        keys = {path.relative_to(self.served.folder).as_posix(): path for path in files if path.is_file()}
        for key, path in sorted(keys.items()):
            if key > after and not key.endswith(".part"):
                facts = path.stat()
                at = datetime.fromtimestamp(facts.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
                parts.append(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{at}</LastModified>"
                    f"<ETag>{escape(_etag(path.read_bytes()))}</ETag><Size>{facts.st_size}</Size></Contents>"
                )
        parts.append("<IsTruncated>false</IsTruncated></ListBucketResult>")
        return "".join(parts).encode()

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _etag(content: bytes) -> str:
    return f'"{md5(content, usedforsecurity=False).hexdigest()}"'
