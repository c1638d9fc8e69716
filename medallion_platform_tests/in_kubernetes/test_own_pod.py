"""The pod of a process by the real client of Kubernetes; what answers stands for an API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from medallion_platform.errors import Kind
from medallion_platform.kubernetes import api
from medallion_platform.kubernetes.api import ClusterError
from medallion_platform.kubernetes.own_pod import annotate_own_pod, own_pod_end, own_pod_instants
from medallion_platform_tests.in_kubernetes.server import Objects, api_server

NOON = 1796040000
STATUS = {
    "phase": "Running",
    "conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-30T12:00:09Z"},
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-30T12:00:01Z"},
    ],
    "containerStatuses": [
        {
            **{"name": "dagster", "image": "i", "imageID": "i", "ready": True, "restartCount": 0},
            "state": {"running": {"startedAt": "2026-11-30T12:00:04Z"}},
        }
    ],
}


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Objects]:
    """An API server that knows two pods: that of this process, and another one."""
    (tmp_path / "namespace").write_text("here")
    monkeypatch.setattr(api, "_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setattr(api, "gethostname", lambda: "run-1a2b")
    monkeypatch.delenv("POD_NAME", raising=False)
    with api_server() as found:
        monkeypatch.setattr(api, "connect", lambda: found.cluster)
        found.put("pods", "run-1a2b", status=STATUS, metadata={"annotations": {"whose": "ours"}})
        found.put("pods", "other", status={"phase": "Running"}, metadata={"annotations": {}})
        yield found


def annotations(objects: Objects, pod: str) -> dict[str, str]:
    return objects.found[f"pods/{pod}"]["metadata"]["annotations"]


def test_a_pod_tells_when_it_got_a_node_and_began(objects: Objects) -> None:
    assert own_pod_instants() == {"scheduled": NOON + 1, "container": NOON + 4}


def test_a_note_is_written_on_it_and_on_nothing_else(objects: Objects) -> None:
    annotate_own_pod("medallion/launch", "{}")
    assert annotations(objects, "run-1a2b") == {"whose": "ours", "medallion/launch": "{}"}
    assert annotations(objects, "other") == {}


def test_a_pod_that_says_its_name_is_that_one(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of the host's network, whose host is the node."""
    monkeypatch.setenv("POD_NAME", "other")
    assert own_pod_instants() == {}
    annotate_own_pod("medallion/launch", "{}")
    assert annotations(objects, "other") == {"medallion/launch": "{}"}


def test_it_knows_what_ends_it(objects: Objects) -> None:
    assert own_pod_end() is None
    drained = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    spec = {"nodeName": "node1", "containers": [{"name": "dagster"}]}
    objects.put("pods", "run-1a2b", status={**STATUS, "conditions": [drained]}, spec=spec)
    assert (end := own_pod_end()) and end.by == "evicted"
    objects.found.pop("pods/run-1a2b")
    assert (end := own_pod_end()) and end.by == "deleted"


@pytest.mark.failure("auth")
def test_what_is_refused_is_told_in_a_sentence(objects: Objects) -> None:
    objects.refused = {"PATCH"}
    with pytest.raises(ClusterError, match=r"to patch the pod run-1a2b.*answered 403.*this right") as told:
        annotate_own_pod("medallion/launch", "{}")
    assert told.value.kind is Kind.AUTH


def test_outside_of_a_cluster_nobody_is_asked(
    objects: Objects, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(api, "_NAMESPACE", tmp_path / "none")
    objects.found.clear()
    assert own_pod_instants() == {}
    assert own_pod_end() is None
    annotate_own_pod("medallion/launch", "{}")
