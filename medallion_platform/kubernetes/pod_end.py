"""How the pod of a run ended, or why it never began: a word for programs, a sentence for people. Pure.

Pods and events are objects of the client of Kubernetes. The words of Kubernetes are those of "Pod Lifecycle",
"Disruptions" (pod disruption conditions) and "Images" (ImagePullBackOff) of its documentation.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

EndedBy = Literal[
    "oom",
    "evicted",
    "deadline",
    "hung",
    "node_lost",
    "deleted",
    "killed",
    "image",
    "quota",
    "refused",
    "no_room",
]
"""The first seven end a pod that worked, the others keep one from beginning. Of a run that hangs no pod
tells: `orchestration/hung_runs.py` does."""


@dataclass(frozen=True)
class PodEnd:
    """What ended the pod of a run, or keeps it from beginning."""

    by: EndedBy
    text: str


_DISRUPTIONS: dict[str, tuple[EndedBy, str]] = {
    "EvictionByEvictionAPI": ("evicted", "was evicted, as when a node is drained"),
    "PreemptionByScheduler": ("evicted", "had to make room for a pod of higher priority"),
    "TerminationByKubelet": ("evicted", "was ended by its node, which lacks something or shuts down"),
    "DeletionByTaintManager": ("node_lost", "was given up, since its node does not answer"),
    "DeletionByPodGC": ("node_lost", "was given up, since its node is gone"),
}
_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_SIGNAL = 128
"""A process that a signal ends has this and its number as exit code ("Exit Status" of POSIX shells)."""


def pod_end(pods: Sequence[Any]) -> PodEnd | None:
    """What ended the pod of a run; None if it still works, or ended by itself.

    pods: those of its Job, of which there is one at the most.
    """
    if not pods:
        return PodEnd("deleted", "its pod is gone: it was deleted, or its node was")
    pod = pods[0]
    named = f"its pod {pod.metadata.name}"
    told = f": {' '.join(pod.status.message.split())}" if pod.status.message else ""
    if pod.status.reason == "Evicted":
        return PodEnd("evicted", f"{named} was evicted{told}")
    if pod.status.reason == "DeadlineExceeded":
        return PodEnd("deadline", f"{named} was ended, since it may not work for longer{told}")
    if pod.status.reason == "NodeLost":
        return PodEnd("node_lost", f"{named} was given up, since its node does not answer{told}")
    if any(ended.reason == "OOMKilled" for ended in _terminated(pod)):
        return PodEnd("oom", f"{named} was killed for its memory{_limit_in_words(pod)}")
    if condition := _condition(pod, "DisruptionTarget", "True"):
        by, how = _DISRUPTIONS.get(condition.reason, ("evicted", f"had to go ({_told(condition)})"))
        return PodEnd(by, f"{named} {how}{_where(pod)}")
    if pod.metadata.deletion_timestamp:
        return PodEnd("deleted", f"{named} was deleted")
    codes = [ended.exit_code for ended in _terminated(pod) if ended.exit_code > _SIGNAL]
    return PodEnd("killed", f"{named} was killed by {_signal_in_words(codes[0])}") if codes else None


def why_not_begun(pods: Sequence[Any], events: Iterable[Any]) -> PodEnd | None:
    """What keeps the pod of a run from beginning; None where nothing is known to.

    pods: those of its Job. events: about the Job.
    """
    if not pods:
        refused = [e.message or "" for e in events if e.reason == "FailedCreate"]
        if not refused:
            return None
        by: EndedBy = "quota" if "exceeded quota" in refused[-1] else "refused"
        return PodEnd(by, f"no pod could be made for it: {refused[-1]}")
    pod = pods[0]
    named = f"its pod {pod.metadata.name}"
    for status in (*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())):
        waiting = status.state and status.state.waiting
        if waiting and waiting.reason in _IMAGE:
            return PodEnd("image", f"{named} does not get its image {status.image} ({_told(waiting)})")
    unscheduled = _condition(pod, "PodScheduled", "False")
    return PodEnd("no_room", f"{named} gets no node ({_told(unscheduled)})") if unscheduled else None


def _condition(pod: Any, kind: str, status: str) -> Any:
    found = (c for c in pod.status.conditions or () if (c.type, c.status) == (kind, status))
    return next(found, None)


def _terminated(pod: Any) -> list[Any]:
    """How its containers ended, of those that did."""
    statuses = pod.status.container_statuses or ()
    return [s.state.terminated for s in statuses if s.state and s.state.terminated]


def _limit_in_words(pod: Any) -> str:
    resources = pod.spec.containers[0].resources
    limit = ((resources and resources.limits) or {}).get("memory")
    return f", of which it may have {limit}" if limit else ""


def _where(pod: Any) -> str:
    return f" ({pod.spec.node_name})" if pod.spec.node_name else ""


def _signal_in_words(code: int) -> str:
    with suppress(ValueError):
        return signal.Signals(code - _SIGNAL).name
    return f"signal {code - _SIGNAL}"


def _told(about: Any) -> str:
    """The reason and the message of a condition or a state."""
    return ": ".join(filter(None, (about.reason, about.message)))
