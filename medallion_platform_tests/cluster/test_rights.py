"""What the API server says: who may do what, that it takes all manifests, and that pods are restricted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from medallion_platform.kubernetes.rights import RIGHTS
from medallion_platform_tests.chart.pods import containers
from medallion_platform_tests.chart.rendering import render
from medallion_platform_tests.chart.test_chart import CUSTOM_KINDS, EVERYTHING
from medallion_platform_tests.cluster.conftest import Arrival
from medallion_platform_tests.cluster.installation import RELEASE, Installation
from medallion_platform_tests.cluster.kube import Kube

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

EVERYBODY = {
    "selfsubjectreviews.authentication.k8s.io",
    "selfsubjectaccessreviews.authorization.k8s.io",
    "selfsubjectrulesreviews.authorization.k8s.io",
}
"""Who is known at all may ask who he is, and what he may do."""
NOBODY = (
    ("get", "secrets"),
    ("create", "pods/exec"),
    ("create", "pods/attach"),
    ("create", "pods/ephemeralcontainers"),
    ("create", "serviceaccounts/token"),
    ("create", "rolebindings"),
    ("impersonate", "users"),
    ("escalate", "roles"),
)
"""What no account of the chart and no person may do: it would show secrets, or give rights."""
PEOPLE = {
    "medallion-operators": (
        {
            ("delete", "pods"),
            ("create", "pods/eviction"),
            ("update", "deployments.apps/scale"),
            ("get", "nodes"),
        },
        {("delete", "pods"), ("create", "pods/eviction"), ("update", "deployments.apps/scale")},
    ),
    "medallion-data-engineers": (
        {
            ("get", "pods/log"),
            ("create", "pods/portforward"),
            ("delete", "pods"),
            ("update", "deployments.apps"),
        },
        {("get", "pods/log"), ("create", "pods/portforward")},
    ),
    "medallion-analysts": (
        {("get", "services"), ("get", "pods"), ("get", "pods/log"), ("list", "configmaps")},
        {("get", "services")},
    ),
}
"""Of each group: what is asked for, and what of it is allowed."""


def rules(user: Kube) -> set[tuple[str, str]]:
    """Verb and resource (`jobs.batch/status`) of all that somebody may do."""
    said = user.run("auth", "can-i", "--list", "--no-headers")
    found = set()
    for line in said.splitlines():
        resource = line.split()[0]
        if not resource.startswith("[") and resource not in EVERYBODY:
            verbs = line[line.rindex("[") + 1 : line.rindex("]")].split()
            found |= {(verb, resource) for verb in verbs}
    return found


def account(installation: Installation, component: str) -> Kube:
    """A service account of the chart."""
    space = installation.admin.namespace
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{space}")
    return installation.admin.acting_as(f"system:serviceaccount:{space}:{RELEASE}-{component}", *groups)


@pytest.mark.parametrize("component", RIGHTS)
def test_an_account_may_do_what_the_table_says_and_nothing_else(
    installed: Installation, component: str
) -> None:
    wanted = {
        (verb, f"{kind}.{right.group}{'/' + sub if sub else ''}" if right.group else right.resource)
        for right in RIGHTS[component]
        for kind, _, sub in [right.resource.partition("/")]
        for verb in right.verbs
    }
    assert rules(account(installed, component)) == wanted


@pytest.mark.parametrize("group", PEOPLE)
def test_people_may_do_what_their_work_needs(installed: Installation, group: str) -> None:
    person = installed.admin.acting_as("somebody", group)
    asked, allowed = PEOPLE[group]
    assert {question for question in asked if person.can_i(*question)} == allowed
    assert [question for question in NOBODY if person.can_i(*question)] == []


def test_a_stranger_may_do_nothing(installed: Installation) -> None:
    assert rules(installed.admin.acting_as("stranger")) == set()


def test_the_api_server_takes_every_manifest_and_warns_of_none(installed: Installation) -> None:
    ours = [m for m in render(EVERYTHING) if m["kind"] not in CUSTOM_KINDS]
    assert {m["kind"] for m in ours} >= {"Deployment", "NetworkPolicy", "PodDisruptionBudget", "Role"}
    for manifest in ours:
        manifest["metadata"].pop("namespace", None)
        if manifest["kind"] == "Pod":  # its own account is not made by a dry run
            manifest["spec"]["serviceAccountName"] = "default"
    text = yaml.safe_dump_all(ours)
    said = installed.admin.run(
        "apply", "--dry-run=server", "--filename=-", "--warnings-as-errors", given=text
    )
    assert len(said.splitlines()) == len(ours)


def pods_of(installation: Installation) -> Iterator[tuple[str, dict[str, Any]]]:
    for pod in installation.admin.get("pods"):
        yield pod["metadata"]["name"], pod["spec"]


@pytest.mark.usefixtures("arrival")
def test_every_pod_is_restricted_and_bounded(installed: Installation, arrival: Arrival) -> None:
    found = dict(pods_of(installed))
    assert len(found) >= 4 + len(arrival.runs)
    for name, pod in found.items():
        assert pod["enableServiceLinks"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in containers(pod):
            secured = container["securityContext"]
            assert secured["readOnlyRootFilesystem"] and not secured["allowPrivilegeEscalation"], name
            assert secured["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
            secret = [e for e in container.get("env", []) if "secretKeyRef" in e.get("valueFrom", {})]
            assert secret == [], name
