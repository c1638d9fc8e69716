"""The pod of this process: when it got a node and its container began, and a note on it."""

from __future__ import annotations

from pathlib import Path
from socket import gethostname
from typing import Any

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def pod_instants(pod: Any) -> dict[str, float]:
    """When a pod reached what it has reached, in seconds since the epoch, each a whole one.

    pod: as the client of Kubernetes gives it. scheduled: it got a node. container: its container runs.
    """
    found: dict[str, float] = {}
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "True":
            found["scheduled"] = condition.last_transition_time.timestamp()
    for container in pod.status.container_statuses or ():
        if container.state.running:
            found["container"] = container.state.running.started_at.timestamp()
    return found


def own_pod_instants() -> dict[str, float]:
    """The instants of this process's pod; none outside of a cluster.

    Raises:
        ApiException: the API server refuses it.
    """
    pod = _own_pod()
    return pod_instants(_api().read_namespaced_pod(*pod)) if pod else {}


def annotate_own_pod(name: str, value: str) -> None:
    """Write an annotation on this process's pod; nothing happens outside of a cluster.

    Raises:
        ApiException: the API server refuses it.
    """
    if pod := _own_pod():
        _api().patch_namespaced_pod(*pod, {"metadata": {"annotations": {name: value}}})


def _own_pod() -> tuple[str, str] | None:
    """The name and namespace of this process's pod; a container's host is named like its pod."""
    return (gethostname(), _NAMESPACE.read_text().strip()) if _NAMESPACE.exists() else None


def _api() -> Any:
    from kubernetes import client, config

    config.load_incluster_config()
    return client.CoreV1Api()
