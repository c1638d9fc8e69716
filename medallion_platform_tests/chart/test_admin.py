"""What an administrator makes before the chart is installed: bounds, priorities, and who may do what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.utils.quantity import parse_quantity

from medallion_platform.doctor.cluster import quota_findings
from medallion_platform.installation.settings import bytes_of_memory
from medallion_platform.kubernetes.rights import RIGHTS
from medallion_platform.kubernetes.shape import largest_shape

from .pods import pods
from .rendering import VALUES, Manifest, documents, render, the
from .schemas import why_wrong
from .test_chart import EVERYTHING

ADMIN = list(documents((VALUES / "admin.yaml").read_text()))
EVERY = ("get", "list", "watch", "create", "update", "patch", "delete")
Permission = tuple[str, str, str]
"""Group, resource and verb."""


def permissions(role: Manifest) -> Iterator[Permission]:
    for rule in role["rules"]:
        assert rule.keys() == {"apiGroups", "resources", "verbs"}
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                yield from ((group, resource, verb) for verb in rule["verbs"])


ROLES = {
    m["metadata"]["name"].removeprefix("medallion-"): set(permissions(m))
    for m in ADMIN
    if m["kind"] == "Role"
}


def one(kind: str) -> Manifest:
    (found,) = (m for m in ADMIN if m["kind"] == kind)
    return found


def test_an_api_server_accepts_every_manifest() -> None:
    assert [text for text in map(why_wrong, ADMIN) if text] == []
    for manifest in ADMIN:
        if manifest["kind"] not in ("Namespace", "PriorityClass"):
            assert manifest["metadata"]["namespace"] == one("Namespace")["metadata"]["name"]


def test_the_namespace_takes_restricted_pods_only() -> None:
    labels = one("Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_namespace_has_bounds() -> None:
    hard = one("ResourceQuota")["spec"]["hard"]
    assert (hard["pods"], hard["requests.cpu"], hard["requests.memory"]) == ("100", "200", "400Gi")
    (of_containers,) = one("LimitRange")["spec"]["limits"]
    # A pod of a run asks for cores and names no limit: with one that it did not name, it might be refused.
    assert all("cpu" not in of_containers[bound] for bound in ("default", "max"))
    assert "limits.cpu" not in hard


def test_the_bounds_hold_the_largest_run_of_the_chart() -> None:
    data = the(render(), "ConfigMap", "settings")["data"]
    memory = bytes_of_memory(data["MEDALLION_MOST_MEMORY"])
    largest = largest_shape(memory, int(data["MEDALLION_MOST_EXECUTORS"]))
    hard = one("ResourceQuota")["spec"]["hard"]
    assert [f.found for f in quota_findings("medallion", hard, {}, {}, largest) if not f.ok] == []
    (of_containers,) = one("LimitRange")["spec"]["limits"]
    assert parse_quantity(of_containers["max"]["memory"]) >= memory


def test_the_chart_and_its_runs_name_priority_classes_that_are_there(tmp_path: Path) -> None:
    there = {m["metadata"]["name"]: m for m in ADMIN if m["kind"] == "PriorityClass"}
    named = {name: pod["priorityClassName"] for name, pod in pods(render(), tmp_path)}
    assert set(named.values()) <= there.keys()
    assert there[named["a run"]]["preemptionPolicy"] == "Never"
    assert set(named.values()) == there.keys() - {"medallion-stream"}  # by default there are no streams
    none = dict.fromkeys(("services", "stream", "runs", "executors"), "")
    without = dict(pods(render({"priorityClasses": none}), tmp_path))
    assert all("priorityClassName" not in pod for pod in without.values())


def test_the_installer_may_make_all_that_the_chart_consists_of() -> None:
    plurals = {"NetworkPolicy": "networkpolicies"}
    for manifest in render(EVERYTHING):
        group = manifest["apiVersion"].rpartition("/")[0]
        resource = plurals.get(manifest["kind"], manifest["kind"].lower() + "s")
        # A pod is made for `helm test`, and never changed.
        verbs = ("get", "list", "watch", "create", "delete") if manifest["kind"] == "Pod" else EVERY
        lacking = {(group, resource, verb) for verb in verbs} - ROLES["installer"]
        assert not lacking, manifest["metadata"]["name"]


def test_the_installer_has_every_right_that_he_gives() -> None:
    """Kubernetes refuses a Role with a right that its author lacks ("Privilege escalation prevention")."""
    given = {(r.group, r.resource, verb) for rights in RIGHTS.values() for r in rights for verb in r.verbs}
    assert given <= ROLES["installer"]


@pytest.mark.parametrize("person", ["operator", "data-engineer", "analyst"])
def test_no_person_reads_a_secret_in_any_way(person: str) -> None:
    may = ROLES[person]
    assert not {"*", "secrets", "pods/exec", "pods/attach", "pods/ephemeralcontainers"} & {
        r for _, r, _ in may
    }
    # Who makes or changes a pod, or what makes one, mounts what he likes.
    makes = {"pods", "jobs", "deployments", "replicasets", "serviceaccounts/token", "roles", "rolebindings"}
    assert not {(r, v) for _, r, v in may if r in makes and v in ("create", "update", "patch", "*")}


def test_people_may_what_their_work_needs() -> None:
    assert ROLES["analyst"] == {("", "services", "get"), ("", "services", "list")}
    see = {("", "pods", "list"), ("", "pods/log", "get"), ("", "pods/portforward", "create")}
    assert see <= ROLES["data-engineer"] <= ROLES["operator"]
    assert not {v for _, _, v in ROLES["data-engineer"]} & {"delete", "patch", "update"}
    assert {("", "pods", "delete"), ("apps", "deployments/scale", "patch")} <= ROLES["operator"]


def test_no_role_reaches_beyond_the_namespace() -> None:
    assert [m for m in ADMIN if m["kind"].startswith("ClusterRole")] == []
    bound = {m["roleRef"]["name"]: m for m in ADMIN if m["kind"] == "RoleBinding"}
    assert bound.keys() == {f"medallion-{name}" for name in ROLES}
    assert {m["roleRef"]["kind"] for m in bound.values()} == {"Role"}
