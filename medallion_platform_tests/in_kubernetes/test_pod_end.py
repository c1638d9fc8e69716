"""What pods say of their end, as the API server tells it, and what that means for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest

from medallion_platform.errors import Kind
from medallion_platform.kubernetes.api import list_events, list_pods
from medallion_platform.kubernetes.pod_end import EndedBy, PodEnd, pod_end, why_not_begun
from medallion_platform_tests.in_kubernetes.server import Objects, api_server

CONTAINER = {"name": "dagster", "image": "medallion:1", "imageID": "", "ready": False, "restartCount": 0}
SPEC = {
    "nodeName": "node-2",
    "containers": [{"name": "dagster", "resources": {"limits": {"memory": "3072Mi"}}}],
}


@pytest.fixture(scope="module")
def objects() -> Iterator[Objects]:
    with api_server() as found:
        yield found


def pods(objects: Objects, status: dict[str, Any], **metadata: Any) -> list[Any]:
    """A pod with this status, as the client reads it."""
    objects.found.clear()
    objects.put("pods", "run-1", spec=SPEC, status=status, metadata=metadata)
    return list_pods(objects.cluster)


def ended(code: int, reason: str) -> dict[str, Any]:
    terminated = {"exitCode": code, "reason": reason}
    return {"phase": "Failed", "containerStatuses": [{**CONTAINER, "state": {"terminated": terminated}}]}


def waiting(reason: str, message: str) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{**CONTAINER, "state": state}]}


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": status, "reason": reason, "message": message}]}


DISRUPTED = "DisruptionTarget"


@pytest.mark.parametrize(
    ("status", "by", "text"),
    [
        (
            ended(137, "OOMKilled"),
            "oom",
            "its pod run-1 was killed for its memory, of which it may have 3072Mi",
        ),
        (
            {"reason": "Evicted", "message": "The node was low on resource: memory. ", **ended(137, "Error")},
            "evicted",
            "its pod run-1 was evicted: The node was low on resource: memory.",
        ),
        (
            {**ended(143, "Error"), **condition(DISRUPTED, "True", "EvictionByEvictionAPI")},
            "evicted",
            "its pod run-1 was evicted, as when a node is drained (node-2)",
        ),
        (
            condition(DISRUPTED, "True", "DeletionByTaintManager"),
            "node_lost",
            "its pod run-1 was given up, since its node does not answer (node-2)",
        ),
        (
            condition(DISRUPTED, "True", "SomethingNew", "of a later version"),
            "evicted",
            "its pod run-1 had to go (SomethingNew: of a later version) (node-2)",
        ),
        (
            {"reason": "DeadlineExceeded", "message": "Pod was active on the node longer than it may be"},
            "deadline",
            "its pod run-1 was ended, since it may not work for longer: Pod was active on the node longer "
            "than it may be",
        ),
        ({"reason": "NodeLost"}, "node_lost", "its pod run-1 was given up, since its node does not answer"),
        (ended(137, "Error"), "killed", "its pod run-1 was killed by SIGKILL"),
        (ended(255, "Error"), "killed", "its pod run-1 was killed by signal 127"),
    ],
)
def test_what_ended_a_pod(objects: Objects, status: dict[str, Any], by: EndedBy, text: str) -> None:
    assert pod_end(pods(objects, status)) == PodEnd(by, text)


def test_a_pod_that_somebody_deletes_or_deleted(objects: Objects) -> None:
    deleted = pods(objects, {"phase": "Running"}, deletionTimestamp="2026-11-30T12:00:00Z")
    assert pod_end(deleted) == PodEnd("deleted", "its pod run-1 was deleted")
    assert pod_end([]) == PodEnd("deleted", "its pod is gone: it was deleted, or its node was")


@pytest.mark.parametrize(
    "status",
    [
        {"phase": "Running", "containerStatuses": [{**CONTAINER, "state": {"running": {}}}]},
        ended(1, "Error"),
        ended(0, "Completed"),
        condition(DISRUPTED, "False", "EvictionByEvictionAPI"),
    ],
)
def test_a_pod_that_works_or_ended_by_itself_was_ended_by_nothing(
    objects: Objects, status: dict[str, Any]
) -> None:
    assert pod_end(pods(objects, status)) is None


@pytest.mark.parametrize(
    ("status", "by", "text"),
    [
        (
            waiting("ImagePullBackOff", "Back-off pulling image"),
            "image",
            "its pod run-1 does not get its image medallion:1 (ImagePullBackOff: Back-off pulling image)",
        ),
        (
            condition(
                "PodScheduled", "False", "Unschedulable", "0/2 nodes are available: 2 Insufficient cpu."
            ),
            "no_room",
            "its pod run-1 gets no node (Unschedulable: 0/2 nodes are available: 2 Insufficient cpu.)",
        ),
    ],
)
def test_what_keeps_a_pod_from_beginning(
    objects: Objects, status: dict[str, Any], by: EndedBy, text: str
) -> None:
    assert why_not_begun(pods(objects, status), []) == PodEnd(by, text)


def test_a_pod_that_may_not_be_made_has_events_at_its_job_alone(objects: Objects) -> None:
    objects.found.clear()
    assert why_not_begun([], list_events(objects.cluster, "job-1")) is None
    quota = "exceeded quota: medallion, requested: pods=1, used: pods=100, limited: pods=100"
    for job, message in (
        ("job-1", f'pods "job-1-x" is forbidden: {quota}'),
        ("job-2", "violates PodSecurity"),
    ):
        event = {"involvedObject": {"name": job}, "reason": "FailedCreate", "message": message}
        objects.put("events", f"of-{job}", **event)
    found = why_not_begun([], list_events(objects.cluster, "job-1"))
    assert found == PodEnd("quota", f'no pod could be made for it: pods "job-1-x" is forbidden: {quota}')
    found = why_not_begun([], list_events(objects.cluster, "job-2"))
    assert found == PodEnd("refused", "no pod could be made for it: violates PodSecurity")


def test_where_nothing_holds_it_up_nothing_is_told(objects: Objects) -> None:
    assert why_not_begun(pods(objects, waiting("ContainerCreating", "")), []) is None


def test_words_that_decide_something_are_those_of_failures() -> None:
    assert {Kind.OOM.value, Kind.EVICTED.value} <= set(get_args(EndedBy))
