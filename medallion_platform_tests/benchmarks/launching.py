"""How long the launch of a run takes, phase by phase, on the cluster that KUBECONFIG names.

An installation of the chart has to be there, whose tables are made already. One of its silver tables is made
again and again, one run after the other: by threads of the run's own pod, and by executors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from medallion_platform.kubernetes.own_pod import LAUNCH
from medallion_platform.kubernetes.shape import GIB, Shape
from medallion_platform.observability.launch import PHASES, Launch
from medallion_platform.orchestration.launcher import container_config
from medallion_platform_tests.cluster.graphql import Dagster
from medallion_platform_tests.cluster.installation import web_server
from medallion_platform_tests.cluster.kube import Kube
from medallion_platform_tests.waiting import until

THREADS, EXECUTORS = 20, 10
"""Runs of each kind."""
SHAPES: Mapping[str, Shape] = {
    "threads": Shape(3 * GIB, 1, spark=True),
    "executors": Shape(3 * GIB, 1, 2, 2 * GIB, 1, spark=True),
}
"""Small enough for the two nodes of a test."""
_GOALS = {"threads": "under 10", "executors": "under 20"}
"""Seconds from the request to the first task, of a warm cluster with nothing else to do."""


class NoInstallation(Exception):
    """There is nothing to measure; the text says why."""


@dataclass(frozen=True)
class Release:
    """An installation of the chart."""

    user: Kube
    name: str
    image: str

    def says(self) -> str:
        return self.user.run("get", "pods,events")


def measure(threads: int, executors: int) -> list[dict[str, str]]:
    """Seconds of each phase, and of all together, for so many runs of each kind."""
    try:
        return figures(found_release(), {"threads": threads, "executors": executors})
    except NoInstallation as error:
        return [{"launch": f"not measured: {error}"}]


def figures(release: Release, runs: Mapping[str, int]) -> list[dict[str, str]]:
    """The same, of an installation. runs: the number of each kind."""
    with web_server(release.user, release.name, release.says) as url:
        dagster = Dagster(url, release.says)
        table = silver_table(dagster)
        return [
            row
            for mode, times in runs.items()
            for row in rows(mode, [_launched(release, dagster, table, mode) for _ in range(times)])
        ]


def found_release() -> Release:
    """The first installation in the cluster of KUBECONFIG.

    Raises:
        NoInstallation: there is none.
    """
    config = os.environ.get("KUBECONFIG")
    if not config:
        raise NoInstallation("KUBECONFIG names no cluster")
    labels = "app.kubernetes.io/name=medallion,app.kubernetes.io/component=code"
    found = Kube(Path(config)).get("deployments", "--all-namespaces", "--selector", labels)
    if not found:
        raise NoInstallation("the cluster that KUBECONFIG names has no installation of the chart")
    metadata, pod = found[0]["metadata"], found[0]["spec"]["template"]["spec"]
    user = Kube(Path(config), metadata["namespace"])
    return Release(user, metadata["labels"]["app.kubernetes.io/instance"], pod["containers"][0]["image"])


def silver_table(dagster: Dagster) -> str:
    """The asset of a silver table without partitions, all of which a run makes.

    Raises:
        LookupError: there is none.
    """
    nodes = dagster.ask("{ assetNodes { assetKey { path } isPartitioned tags { key value } } }")["assetNodes"]
    for node in nodes:
        layer = {tag["key"]: tag["value"] for tag in node["tags"]}.get("layer")
        if layer == "silver" and not node["isPartitioned"]:
            return node["assetKey"]["path"][-1]
    raise LookupError("the catalog has no silver table without partitions")


def _launched(release: Release, dagster: Dagster, table: str, mode: str) -> Launch:
    """Make a table by one run while nothing else runs; gives how its launch went."""
    dagster.quiet()
    rebuild = {"ops": {table: {"config": {"rebuild": True}}}}
    pod: Mapping[str, Any] = container_config(SHAPES[mode], release.image)
    run = dagster.succeeded(dagster.launch("__ASSET_JOB", [table], rebuild, pod), 600)
    told = until(lambda: _annotation(release, run.id), 30, release.says)
    launch = Launch.from_json(told)
    print(f"{mode}: {launch}", file=sys.stderr)
    return launch


def _annotation(release: Release, run: str) -> str | None:
    (pod,) = release.user.pods(dagster__run_id=run)
    return pod["metadata"].get("annotations", {}).get(LAUNCH)


def rows(mode: str, launches: list[Launch]) -> list[dict[str, str]]:
    """The figures of one kind of run: half of them took no longer than p50."""
    found = {phase: [launch.seconds.get(phase, 0.0) for launch in launches] for phase in PHASES}
    found["together"] = [sum(launch.seconds.values()) for launch in launches]
    return [
        {
            "launch": f"with {mode}",
            "phase": phase.replace("_", " "),
            "p50, s": f"{median(seconds):.1f}",
            "max, s": f"{max(seconds):.1f}",
            "runs": str(len(seconds)),
            "goal, s": _GOALS[mode] if phase == "together" else "",
        }
        for phase, seconds in found.items()
        if any(seconds)
    ]
