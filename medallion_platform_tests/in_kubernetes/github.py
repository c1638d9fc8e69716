"""A server that answers as GitHub does to who opens pull requests, and a repository; both on this machine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "hunter2-hunter2"
FILE = "mein cluster/values.yaml"
VALUES = "# ours\nruns:\n  limits:\n    mostMemory: 16g # of a node\n"


@dataclass
class GitHub:
    """Its pull requests, and what it was asked.

    status: of all answers, unless it is 0. raced: whoever opens a pull request is told that somebody else has
    opened it a moment before.
    """

    pulls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    asked: list[str] = field(default_factory=list[str])
    status: int = 0
    address: str = ""
    raced: bool = False

    def list_pulls(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        assert query["state"] == ["all"]
        owner, branch = query["head"][0].split(":")
        return [p for p in self.pulls if (p["owner"], p["head"]["ref"]) == (owner, branch)]

    def open(self, path: str, pull: dict[str, Any]) -> tuple[int, Any]:
        owner = path.split("/")[2]
        there = [p for p in self.pulls if p["head"]["ref"] == pull["head"]]
        if there and not self.raced:
            return 422, {"message": "Validation Failed"}
        url = f"https://github.example/{owner}/pull/{len(self.pulls) + 1}"
        made = {**pull, "owner": owner, "head": {"ref": pull["head"]}, "html_url": url}
        self.pulls.append(made)
        if self.raced:  # somebody else was faster by a moment
            return 422, {"message": "A pull request already exists"}
        return 201, made


@contextmanager
def github_server() -> Iterator[GitHub]:
    """A server on loopback that answers as GitHub does, to who has the token."""
    found = GitHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(lambda parts: (200, found.list_pulls(parse_qs(parts.query))))

        def do_POST(self) -> None:
            pull = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(lambda parts: found.open(parts.path, pull))

        def answer(self, by: Any) -> None:
            found.asked.append(self.command)
            assert self.headers["X-GitHub-Api-Version"] == "2022-11-28"
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                status, told = 401, {"message": "Bad credentials"}
            elif found.status:
                status, told = found.status, {"message": "no"}
            else:
                status, told = by(urlsplit(self.path))
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        found.address = f"http://127.0.0.1:{server.server_port}"
        yield found
        server.shutdown()


def git(where: Path, *arguments: str) -> str:
    """What git says, called by Ann."""
    author = ("-c", "user.name=ann", "-c", "user.email=ann@example.com")
    command = ["git", *author, *arguments]
    return subprocess.run(command, cwd=where, check=True, capture_output=True, text=True).stdout.strip()


def bare_repository(folder: Path) -> Path:
    """A repository with a file of values, and a branch whose name is nobody's default."""
    work, bare = folder / "work", folder / "team" / "lake.git"
    bare.parent.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=trunk", str(work))
    (work / FILE).parent.mkdir()
    (work / FILE).write_text(VALUES)
    git(work, "add", "--all")
    git(work, "commit", "--quiet", "--message=begin")
    git(folder, "clone", "--quiet", "--bare", str(work), str(bare))
    return bare
