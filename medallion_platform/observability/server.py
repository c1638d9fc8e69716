"""Metrics and health of a process that does not end by itself, over HTTP: `/metrics`, `/health`, `/ready`."""

from __future__ import annotations

from collections.abc import Iterable
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app


class Observable(Protocol):
    """What a process says of itself."""

    @property
    def registry(self) -> CollectorRegistry:
        """Its metrics."""
        ...

    @property
    def alive(self) -> bool:
        """Whether the work goes on, however slowly; a process that hangs has to be restarted."""
        ...

    @property
    def not_ready(self) -> str:
        """Why nothing can be done now; empty if it can."""
        ...


def serve_metrics(metrics: Observable, host: str, port: int) -> WSGIServer:
    """Serve in a thread of its own until the process ends; port 0 takes any free port.

    Raises:
        OSError: the port is taken.
    """
    prometheus = make_wsgi_app(metrics.registry)

    def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return prometheus(environ, start)
        answers = {
            "/health": "" if metrics.alive else metrics.not_ready,
            "/ready": metrics.not_ready,
        }
        if path not in answers:
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [b"/metrics, /health, /ready\n"]
        why = answers[path]
        start("503 Service Unavailable" if why else "200 OK", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{why or 'ok'}\n".encode()]

    server = make_server(host, port, app, _Server, _Silent)
    Thread(target=server.serve_forever, daemon=True).start()
    return server


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass
