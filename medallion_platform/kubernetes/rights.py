"""What each part of the platform may do in its namespace.

The chart's Roles say the same, which a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Right:
    """Verbs on one kind of object; `group` is that of its API, empty for the core's."""

    group: str
    resource: str
    verbs: tuple[str, ...]


RIGHTS: Mapping[str, tuple[Right, ...]] = {
    # To end a run. Dagster deletes a Job's pods by itself.
    "web": (Right("batch", "jobs", ("delete",)), Right("", "pods", ("list", "delete"))),
    "daemon": (
        Right("batch", "jobs", ("create", "list", "delete")),
        Right("batch", "jobs/status", ("get",)),
        Right("", "pods", ("list", "delete")),
        # Of a run whose pod died, Dagster shows its end.
        Right("", "pods/log", ("get",)),
        Right("", "events", ("list",)),
        # The one to which a run's Job belongs, so that it is deleted with it.
        Right("", "configmaps", ("get",)),
    ),
    "code": (),
    "run": (
        # Executors; and notes at its own pod.
        Right("", "pods", ("create", "get", "list", "watch", "patch", "delete", "deletecollection")),
        # Spark makes none of these here, but looks for its own when it stops.
        *(
            Right("", kind, ("list", "deletecollection"))
            for kind in ("configmaps", "persistentvolumeclaims", "services")
        ),
        # Whether there is room for a run, before there is one.
        Right("", "resourcequotas", ("list",)),
    ),
    "executor": (),
    # Which of several refreshes.
    "stream": (Right("coordination.k8s.io", "leases", ("get", "create", "update")),),
    "supervise": (
        Right("", "pods", ("list", "delete")),
        Right("batch", "jobs", ("list", "delete")),
        Right("apps", "deployments/scale", ("get", "patch")),
    ),
    "history": (),
}
"""The rights of each component's service account; one without rights gets no token either."""
