"""A Dagster UI with its daemon in a process group of its own, ended whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

START_SECONDS = 120
END_SECONDS = 15

DAGSTER = (str(Path(sys.executable).with_name("dagster")),)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    command: Callable[[int], Sequence[str]],
    log: Path,
    env: dict[str, str],
    started: Callable[[int], object] = lambda _: None,
    where: Path | None = None,
) -> Generator[Callable[[], str]]:
    """Start `command(port)`; gives a function that waits until it answers and gives its address.

    started: is told the process group. where: the folder in which it stands, this process's unless given.
    """
    port = free_port()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command(port),
            cwd=where,
            env={**os.environ, **env},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Started by a shell in the background, this process ignores it, and so would Dagster.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    started(process.pid)
    try:
        yield lambda: _answering(process, port, log)
    finally:
        _end(process)


def _answering(process: subprocess.Popen[bytes], port: int, log: Path) -> str:
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{address}/server_info"):
            return address
        time.sleep(0.2)
    raise AssertionError(f"no UI at {address}:\n{log.read_text()[-3000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and after a while SIGKILL, to all that the command started."""
    for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            process.poll()
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.1)
