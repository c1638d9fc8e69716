"""As much of an API server as the platform talks to: objects in memory, versions that conflict, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes.client import ApiClient, Configuration

from medallion_platform.kubernetes.api import Cluster


@dataclass
class Objects:
    """What is in a namespace: objects by the last words of their path, as `pods/run-1`."""

    cluster: Cluster
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    """Verbs that the Role does not give."""
    versions: count[int] = field(default_factory=lambda: count(1))

    def put(self, kind: str, name: str, **content: Any) -> None:
        """An object, with its name as its uid unless it says another."""
        metadata = {"name": name, "uid": name, **content.pop("metadata", {})}
        self.found[f"{kind}/{name}"] = {"metadata": metadata, **content}

    def answer(self, verb: str, url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """What the server does with a request."""
        parts = urlsplit(url)
        path = parts.path.partition(f"/namespaces/{self.cluster.namespace}/")[2]
        if verb in self.refused:
            return 403, {}
        if verb == "GET" and "/" not in path:
            wanted, about = _selected(parts.query, "labelSelector"), _selected(parts.query, "fieldSelector")
            items = [
                o
                for key, o in self.found.items()
                if key.startswith(f"{path}/")
                and wanted.items() <= o["metadata"].get("labels", {}).items()
                and all(_field(o, path) == value for path, value in about.items())
            ]
            return 200, {"items": items}
        if verb == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.found:
                return 409, {}
        elif path not in self.found:
            return 404, {}
        there = self.found.get(path, {})
        if verb == "DELETE":
            if body["preconditions"]["uid"] != there["metadata"]["uid"]:
                return 409, {}
            del self.found[path]
            return 200, {}
        if verb == "PATCH":
            _merge(there, body)
        if verb == "PUT" and body["metadata"]["resourceVersion"] != there["metadata"]["resourceVersion"]:
            return 409, {}
        if verb in ("POST", "PUT"):
            body["metadata"]["resourceVersion"] = str(next(self.versions))
            self.found[path] = there = body
        return 200, there


def _selected(query: str, selector: str) -> dict[str, str]:
    """What a selector of a request asks for."""
    return dict(w.split("=") for w in ",".join(parse_qs(query).get(selector, [])).split(",") if w)


def _merge(there: dict[str, Any], patch: dict[str, Any]) -> None:
    """A patch, which the platform makes of no lists."""
    for name, value in patch.items():
        if isinstance(value, dict):
            _merge(there.setdefault(name, {}), value)
        else:
            there[name] = value


def _field(of: Any, path: str) -> Any:
    return reduce(lambda found, name: found[name], path.split("."), of)


@contextmanager
def api_server() -> Generator[Objects]:
    """An empty namespace, until the `with` ends."""

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, content = objects.answer(self.command, self.path, json.loads(sent or "{}"))
            answer = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    client = ApiClient(Configuration(host=f"http://127.0.0.1:{server.server_port}"))
    objects = Objects(Cluster(client, "here"))
    try:
        yield objects
    finally:
        server.shutdown()
        server.server_close()
