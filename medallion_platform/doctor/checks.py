"""Which checks are made where."""

from medallion_platform.doctor import cluster, local, servers
from medallion_platform.doctor.finding import Checks
from medallion_platform.kubernetes.flows import FLOWS

ON_A_MACHINE: Checks = {**local.CHECKS, **servers.CHECKS}
"""Of an installation that is no component of a cluster."""
ALL: Checks = {**ON_A_MACHINE, **cluster.CHECKS}

_ONLY_WITH = {
    "s3": ("project", "Java", "jars", "lake", "landing zone", "clock"),
    "kafka": ("topics",),
    "postgres": ("Dagster's storage", "Dagster's settings"),
    "redis": ("online store",),
    "kubernetes": ("rights", "API server", "quotas"),
}
"""Checks of what only those components need that connect to something."""


def checks_of(component: str) -> Checks:
    """The checks for a component of a cluster; for "", of an installation that is none. Pure."""
    if not component:
        return ON_A_MACHINE
    targets = {flow.target for flow in FLOWS if flow.source == component}
    left = {name for target, names in _ONLY_WITH.items() if target not in targets for name in names}
    return {name: check for name, check in ALL.items() if name not in left}
