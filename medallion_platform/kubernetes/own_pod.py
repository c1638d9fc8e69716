"""The pod of this process: when it got a node and its container began, what ends it, and a note on it."""

from __future__ import annotations

from typing import Any

from medallion_platform.kubernetes import api
from medallion_platform.kubernetes.pod_end import PodEnd, pod_end

LAUNCH = "medallion/launch"
"""The annotation of a run's pod that says how long its launch took."""
BACKUP = "medallion/backup"
"""The annotation of the pod that made a backup: its time (ISO 8601)."""


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
        ClusterError: the API server refuses it, or does not answer.
    """
    return pod_instants(api.read_pod(api.connect(), api.pod_name())) if api.in_pod() else {}


def own_pod_end() -> PodEnd | None:
    """What ends this process's pod; None if nothing does, and outside of a cluster.

    Raises:
        ClusterError: the API server refuses it, or does not answer.
    """
    if not api.in_pod():
        return None
    return pod_end([pod for pod in api.list_pods(api.connect()) if pod.metadata.name == api.pod_name()])


def annotate_own_pod(name: str, value: str) -> None:
    """Write an annotation on this process's pod; nothing happens outside of a cluster.

    Raises:
        ClusterError: the API server refuses it, or does not answer.
    """
    if api.in_pod():
        api.annotate_pod(api.connect(), api.pod_name(), {name: value})
