"""A real Redis that asks for a password."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import redis

from medallion_platform_tests.kafka.broker import free_ports
from medallion_platform_tests.waiting import until


class RedisMissing(RuntimeError):
    """There is none on this machine; the text says how to get it."""


@dataclass
class Redis:
    """A server that keeps nothing."""

    host: str
    port: int
    password: str
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, folder: Path, password: str, host: str = "127.0.0.1") -> Redis:
        """Start it, and return when it answers.

        Raises:
            RedisMissing: it is not installed.
        """
        if not (program := shutil.which("redis-server")):
            raise RedisMissing("there is no redis-server (Debian's package redis-server)")
        (port,) = free_ports(1)
        options = ["--bind", host, "--port", str(port), "--requirepass", password, "--save", ""]
        process = subprocess.Popen([program, *options], cwd=folder, stdout=subprocess.DEVNULL)
        server = cls(host, port, password, process)
        until(server.answers, 30)
        return server

    def client(self) -> redis.Redis:
        return redis.Redis(self.host, self.port, password=self.password)

    def answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.ConnectionError:
            return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
