"""What is left when the platform is uninstalled; no other test of the installation comes after it."""

from __future__ import annotations

import pytest

from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.cluster.installation import Installation
from medallion_platform_tests.test_demo import content
from medallion_platform_tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

KINDS = (
    "all,configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies,leases.coordination.k8s.io,"
    "persistentvolumeclaims,horizontalpodautoscalers,poddisruptionbudgets"
)
GIVEN = {
    "medallion-postgres",
    "medallion-s3",
    "medallion-kafka",
    "medallion-redis",
    "authority",
    "kube-root-ca.crt",
    "default",
}
"""What was there before it was installed, beside what the administrator made."""
ROLES = {"medallion-installer", "medallion-operator", "medallion-data-engineer", "medallion-analyst"}


def test_uninstalled_it_leaves_nothing_but_the_data(installed: Installation) -> None:
    lake = Lake(installed.lake)
    before = content(lake)
    installed.uninstall()
    until(lambda: not installed.admin.get("pods"), 120, installed.says)
    left = installed.admin.run("get", KINDS, "--output=name").split()
    assert {name.partition("/")[2] for name in left} <= GIVEN | ROLES
    assert content(lake) == before
