"""A Kubernetes on this machine, started by a folder with the commands `up` and `down`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from medallion_platform_tests.cluster.kube import Kube
from medallion_platform_tests.cluster.tools import kubectl
from medallion_platform_tests.command import REPOSITORY

COMMANDS = Path(os.environ.get("MEDALLION_TEST_CLUSTER") or REPOSITORY.parent / "shared" / "cluster")
RUNNING = Path("/run/medallion-cluster")
"""The process ids of its parts, and the sockets of its nodes' containerd."""
_STARTS = 10
_SERVICES, _BRIDGE = "10.96.0.0/16", "cni0"
"""As `up` has them."""


class NoCluster(Exception):
    """There is nothing here that could start a cluster; the text says what is missing."""


class DoesNotStart(Exception):
    """A cluster, or a part of it, does not start; the text says why."""


def start(nodes: int) -> Path:
    """Start what is not running yet, of a cluster of so many nodes; returns an administrator's kubeconfig.

    Raises:
        NoCluster: nothing here can.
        DoesNotStart: something can, and fails.
    """
    if not (COMMANDS / "up").exists():
        raise NoCluster(f"KUBECONFIG names none, and there is no {COMMANDS}/up")
    said = ""
    for _ in range(_STARTS):  # a start can stumble over an address that it has just given
        _end("proxy")  # `up` starts it again: it would end by itself, later, when `up` writes its file again
        done = _run("up", NODES=str(nodes))
        if done.returncode:
            said = done.stderr[-2000:]
        # One that starts before its containerd is ready ends, and a node that was ready stays so for a while.
        elif ended := [part for n in range(nodes) if not is_running(part := f"kubelet{n + 1}")]:
            said = f"{', '.join(ended)} ended"
        else:
            config = Path(done.stdout.split()[-1])
            _forget_nodes(Kube(config), nodes)
            return config
    raise DoesNotStart(f"{COMMANDS}/up fails: {said}")


@contextmanager
def measuring(admin: Kube) -> Generator[None]:
    """A metrics server in the `with` block: `kubectl top`, and autoscalers that go by what pods use.

    Raises:
        DoesNotStart: it does not.
    """
    if is_running("metrics-server"):
        yield
        return
    # The API server asks the address of a new service before kube-proxy has made it known. By the default
    # route somebody else would answer, and it would go on asking him.
    subprocess.run(["ip", "route", "replace", _SERVICES, "dev", _BRIDGE], check=True)
    try:
        done = _run("addons", "metrics")
        if done.returncode:
            raise DoesNotStart(f"{COMMANDS}/addons metrics fails: {done.stderr[-2000:]}")
        yield
    finally:  # an API for which nobody answers keeps namespaces from being deleted
        admin.run("delete", "apiservice", "v1beta1.metrics.k8s.io", "--ignore-not-found")
        _end("metrics-server")


@contextmanager
def enforcing_policies() -> Generator[None]:
    """In the `with` block pods of the first node obey NetworkPolicies; those of others never do.

    Raises:
        DoesNotStart: what enforces them does not.
    """
    try:
        done = _run("addons", "policy")
        if done.returncode:
            raise DoesNotStart(f"{COMMANDS}/addons policy fails: {done.stderr[-2000:]}")
        yield
    finally:
        _end("kube-router")
        _forget_policies()


@contextmanager
def cut_off(pod: str, but: int | None = None) -> Generator[None]:
    """In the `with` block a pod, known by its address, reaches nobody, and nobody reaches it.

    but: a port of this machine that it still reaches.
    """
    sides = (
        ("INPUT", "--source"),
        ("FORWARD", "--source"),
        ("FORWARD", "--destination"),
        ("OUTPUT", "--destination"),
    )
    rules = [[chain, side, pod, "--jump", "DROP"] for chain, side in sides]
    if but is not None:  # what is inserted later comes first
        for chain, side, end in (("INPUT", "--source", "--dport"), ("OUTPUT", "--destination", "--sport")):
            rules.append([chain, side, pod, "--protocol", "tcp", end, str(but), "--jump", "ACCEPT"])
    try:
        for rule in rules:
            _iptables("--insert", rule, check=True)
        yield
    finally:
        for rule in rules:
            _iptables("--delete", rule, check=False)


def _iptables(change: str, rule: list[str], *, check: bool) -> None:
    subprocess.run(["iptables", "--wait", change, *rule], capture_output=True, timeout=60, check=check)


def is_running(part: str = "apiserver") -> bool:
    """Whether there is one already, with this part."""
    try:
        return Path(f"/proc/{process(part)}").exists()
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


def _run(command: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What one of the commands says, which find the `kubectl` of the tests."""
    path = f"{kubectl().parent}:{os.environ['PATH']}"
    return subprocess.run(
        [COMMANDS / command, *arguments],
        env={**os.environ, **variables, "PATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def _forget_nodes(admin: Kube, nodes: int) -> None:
    """Delete the nodes that an earlier, larger cluster had, with what was to run there."""
    for node in admin.get("nodes"):
        name = node["metadata"]["name"]
        if int(name.removeprefix("node")) > nodes:
            admin.run("delete", "node", name)


def _forget_policies() -> None:
    """Delete the rules that enforced policies: later pods may have the addresses that these are for.

    The `--cleanup-config` of kube-router 2.1 ends with a nil pointer and has deleted none.
    """
    told = subprocess.run(
        ["iptables-save", "--table", "filter"], capture_output=True, text=True, timeout=60, check=True
    )
    own = [line for line in told.stdout.splitlines() if re.search("KUBE-(ROUTER|POD-FW|NWPLCY)-", line)]
    chains = [line[1:].split()[0] for line in own if line.startswith(":")]
    jumps = [line for line in own if line.startswith("-A") and line.split()[1] not in chains]
    changes = [
        *(f"-D{line.removeprefix('-A')}" for line in jumps),
        *(f"{change} {chain}" for change in ("-F", "-X") for chain in chains),
    ]
    text = "\n".join(["*filter", *changes, "COMMIT", ""])
    subprocess.run(["iptables-restore", "--noflush"], input=text, text=True, timeout=60, check=True)


def _end(part: str) -> None:
    """End a part, if it runs."""
    try:
        found = process(part)
        if part.encode() in Path(f"/proc/{found}/cmdline").read_bytes():
            os.kill(found, signal.SIGTERM)
            while Path(f"/proc/{found}").exists():
                time.sleep(0.1)
    except (FileNotFoundError, ProcessLookupError):
        pass
