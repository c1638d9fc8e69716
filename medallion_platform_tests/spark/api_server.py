"""A stand-in for Kubernetes, for tests of Spark's executors on one machine: its pods are processes.

It keeps what Spark's client asks of pods, and starts each one as a kubelet would: with the environment and
the arguments of its specification, under an address of its own of the loopback network. A real cluster is
what `cluster/` is for; this one has neither images, volumes nor rights.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

Pod = dict[str, Any]


@dataclass
class Cluster:
    """Pods of one namespace, and their processes."""

    network: str
    """The first three bytes of the pods' addresses, `127.9.8`."""
    program: Sequence[str]
    """What the image of every pod starts, with the arguments of the pod behind it."""
    logs: Path
    room: int = 100
    """So many pods may be made for executors."""
    refusal: str = ""
    """What is answered where there is no more."""
    unschedulable: str = ""
    """Why pods have no node, "" if they have."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each one."""
    refused: int = 0
    made: list[Pod] = field(default_factory=list)
    """Each pod as it was asked for."""
    pods: dict[str, Pod] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def create(self, pod: Pod) -> Pod:
        """Start the process of a pod; driver pods have none."""
        with self.lock:
            self.made.append(json.loads(json.dumps(pod)))
            name, address = pod["metadata"]["name"], f"{self.network}.{len(self.made) + 1}"
            pod["metadata"]["uid"] = f"uid-{len(self.made)}"
            pod["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
            if self.unschedulable:
                why = {"type": "PodScheduled", "status": "False", "message": self.unschedulable}
                pod["status"] = {"phase": "Pending", "conditions": [why]}
            else:
                pod["status"] = {"phase": "Running", "podIP": address}
                self.processes[name] = self.start(pod)
            self.pods[name] = pod
            return pod

    def start(self, pod: Pod) -> subprocess.Popen[bytes]:
        """The process of a pod's only container."""
        (container,) = pod["spec"]["containers"]
        fields = {"status.podIP": pod["status"]["podIP"], "metadata.name": pod["metadata"]["name"]}
        given = {
            one["name"]: one.get("value") or fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
            for one in container["env"]
            if "value" in one or "valueFrom" in one
        }
        with (self.logs / pod["metadata"]["name"]).open("wb") as log:
            return subprocess.Popen(
                [*self.program, *container["args"]], env={**os.environ, **given}, stdout=log, stderr=log
            )

    def listed(self, labels: str) -> list[Pod]:
        """The pods with these labels, `a=b,c!=d`, in their state of now."""
        asked = [one.partition("=") for one in labels.split(",") if "=" in one]
        with self.lock:
            for name, process in self.processes.items():
                if name in self.pods and (code := process.poll()) is not None:
                    ended = {"exitCode": 128 - code if code < 0 else code}  # as a shell tells signals
                    self.pods[name]["status"] |= {
                        "phase": "Failed" if code else "Succeeded",
                        "containerStatuses": [{"name": "executor", "state": {"terminated": ended}}],
                    }
            pods = list(self.pods.values())
        return [pod for pod in pods if all(_has(pod, name, value) for name, _, value in asked)]

    @property
    def executors(self) -> list[str]:
        """The names of their pods."""
        return [name for name in self.pods if name != "driver"]

    def delete(self, name: str) -> None:
        """End a pod."""
        with self.lock:
            self.pods.pop(name, None)
        if process := self.processes.get(name):
            process.terminate()

    def answer(self, method: str, url: str, body: Any) -> tuple[int, dict[str, Any]]:
        """What the API server answers."""
        split = urlsplit(url)
        _, _, collection, name = (*split.path.strip("/").split("/")[2:], "", "")[:4]
        labels = parse_qs(split.query).get("labelSelector", [""])[0]
        self.requests.append((method, split.path))
        if collection != "pods":
            return 200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": []}
        if method == "POST" and len(self.executors) >= self.room:
            self.refused += 1
            return 403, {"kind": "Status", "apiVersion": "v1", "message": self.refusal, "code": 403}
        if method == "POST":
            return 201, self.create(body)
        if method == "DELETE":
            for pod in [name] if name else [p["metadata"]["name"] for p in self.listed(labels)]:
                self.delete(pod)
            return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        if name:
            found = self.pods.get(name)
            return (200, found) if found else (404, {"kind": "Status", "apiVersion": "v1", "code": 404})
        return 200, {
            "kind": "PodList",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": "1"},
            "items": self.listed(labels),
        }


def _has(pod: Pod, name: str, value: str) -> bool:
    """Whether a pod has a label of this value, or of another one where the name ends with `!`."""
    found = pod["metadata"].get("labels", {}).get(name.removesuffix("!"))
    return (found != value) if name.endswith("!") else (found == value)


@contextmanager
def served(cluster: Cluster) -> Iterator[str]:
    """The URL of the API server of a cluster; its processes end with it."""

    class Requests(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            code, said = cluster.answer(self.command, self.path, body)
            text = json.dumps(said).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = reply

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        for process in cluster.processes.values():
            process.kill()
            process.wait()
