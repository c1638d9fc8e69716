"""The pod of a process by the real client of Kubernetes; what answers stands for an API server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from medallion_platform.kubernetes import own_pod
from medallion_platform.kubernetes.own_pod import annotate_own_pod, own_pod_instants

NOON = 1796040000
POD = {
    "kind": "Pod",
    "metadata": {"name": "run-1a2b"},
    "status": {
        "phase": "Running",
        "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-30T12:00:09Z"},
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-30T12:00:01Z"},
        ],
        "containerStatuses": [
            {
                **{"name": "dagster", "image": "i", "imageID": "i", "ready": True, "restartCount": 0},
                "state": {"running": {"startedAt": "2026-11-30T12:00:04Z"}},
            }
        ],
    },
}


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[tuple[str, str, Any]]]:
    """What an API server is asked, which knows one pod: that of this process."""
    (tmp_path / "namespace").write_text("medallion\n")
    monkeypatch.setattr(own_pod, "_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setattr(own_pod, "gethostname", lambda: "run-1a2b")
    asked: list[tuple[str, str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            asked.append((self.command, self.path, json.loads(self.rfile.read(length) or "null")))
            body = json.dumps(POD).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PATCH = do_GET

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    configuration = client.Configuration(host=f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(own_pod, "_api", lambda: client.CoreV1Api(client.ApiClient(configuration)))
    yield asked
    server.shutdown()
    server.server_close()


def test_a_pod_tells_when_it_got_a_node_and_began(requests: list[tuple[str, str, Any]]) -> None:
    assert own_pod_instants() == {"scheduled": NOON + 1, "container": NOON + 4}
    assert requests == [("GET", "/api/v1/namespaces/medallion/pods/run-1a2b", None)]


def test_a_note_is_written_on_it_and_on_nothing_else(requests: list[tuple[str, str, Any]]) -> None:
    annotate_own_pod("medallion/launch", "{}")
    note = {"metadata": {"annotations": {"medallion/launch": "{}"}}}
    assert requests == [("PATCH", "/api/v1/namespaces/medallion/pods/run-1a2b", note)]


def test_outside_of_a_cluster_nobody_is_asked(
    requests: list[tuple[str, str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(own_pod, "_NAMESPACE", tmp_path / "none")
    assert own_pod_instants() == {}
    annotate_own_pod("medallion/launch", "{}")
    assert requests == []
