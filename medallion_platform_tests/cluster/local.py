"""A Kubernetes on this machine, started by a folder with the commands `up` and `down`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from medallion_platform_tests.cluster.tools import kubectl
from medallion_platform_tests.command import REPOSITORY

COMMANDS = Path(os.environ.get("MEDALLION_TEST_CLUSTER") or REPOSITORY.parent / "shared" / "cluster")
RUNNING = Path("/run/medallion-cluster")
"""The process ids of its parts, and the sockets of its nodes' containerd."""
_STARTS = 3


class NoCluster(Exception):
    """A cluster cannot be started here; the text says why."""


def start(nodes: int) -> Path:
    """Start what is not running yet, of a cluster of so many nodes; returns an administrator's kubeconfig.

    Raises:
        NoCluster: it does not start.
    """
    if not (COMMANDS / "up").exists():
        raise NoCluster(f"KUBECONFIG names none, and there is no {COMMANDS}/up")
    said = ""
    for _ in range(_STARTS):  # a start can stumble over an address that it has just given
        _end_proxy()
        done = subprocess.run(
            [COMMANDS / "up"],
            env={**os.environ, "NODES": str(nodes), "PATH": f"{kubectl().parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if not done.returncode:
            return Path(done.stdout.split()[-1])
        said = done.stderr[-2000:]
    raise NoCluster(f"{COMMANDS}/up fails: {said}")


def is_running() -> bool:
    """Whether there is one already."""
    try:
        return Path(f"/proc/{process('apiserver')}").exists()
    except FileNotFoundError:
        return False


def stop() -> None:
    """End all of its processes; its images stay."""
    subprocess.run([COMMANDS / "down"], capture_output=True, timeout=300, check=True)


def lose(node: int) -> None:
    """A node is gone, as by a loss of power."""
    subprocess.run([COMMANDS / "down", "--node", str(node)], capture_output=True, timeout=120, check=True)


def process(part: str) -> int:
    """The process id of a part, such as `apiserver`."""
    return int((RUNNING / f"{part}.pid").read_text())


def sockets() -> list[Path]:
    """Of each node's containerd."""
    return sorted(RUNNING.glob("containerd*.sock"))


def _end_proxy() -> None:
    """End kube-proxy, which `up` starts again: it ends by itself, later, when `up` writes its file again."""
    try:
        proxy = process("proxy")
        if b"kube-proxy" in Path(f"/proc/{proxy}/cmdline").read_bytes():
            os.kill(proxy, signal.SIGTERM)
            while Path(f"/proc/{proxy}").exists():
                time.sleep(0.1)
    except (FileNotFoundError, ProcessLookupError):
        pass
