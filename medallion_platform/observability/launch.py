"""How long the launch of a run took, phase by phase: who is slow, the queue, the cluster, the code, or Spark.

A phase lasts from the end of the one before it that the run went through to its own end; so the phases add up
to the time from the request to the first task.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Histogram

PHASES = ("queued", "scheduled", "container", "code_loaded", "session", "first_executor", "first_task")
"""In their order: Dagster begins to launch the run; its pod has a node; its container runs; the code of the
project is loaded; Spark's driver is ready; an executor came; Spark began its first task."""

_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 60, 120, 300)

Mode = Literal["threads", "executors"]


@dataclass(frozen=True)
class Launch:
    """The launch of one run. seconds: how long each phase took that it went through, in their order."""

    mode: Mode
    seconds: Mapping[str, float]

    def __str__(self) -> str:
        phases = (f"{name.replace('_', ' ')} {took:.1f}" for name, took in self.seconds.items())
        return f"{sum(self.seconds.values()):.1f} s: {', '.join(phases)}"

    def to_json(self) -> str:
        """The launch as text."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Launch:
        """The launch in a text of `to_json`.

        Raises:
            ValueError: it is none.
        """
        try:
            found = json.loads(text)
            mode: Mode = "executors" if found["mode"] == "executors" else "threads"
            return Launch(mode, {name: float(found["seconds"][name]) for name in _known(found["seconds"])})
        except (KeyError, TypeError) as error:
            raise ValueError("this is no launch of a run") from error


def launch_of(asked: float, ended: Mapping[str, float]) -> Launch:
    """The launch of a run that was asked for at an instant; ended: when each phase ended, of those it had.

    Instants are seconds since the epoch, of several clocks: a phase never takes less than nothing.
    """
    seconds: dict[str, float] = {}
    before = asked
    for name in _known(ended):
        seconds[name] = round(max(ended[name] - before, 0.0), 3)
        before = max(ended[name], before)
    return Launch("executors" if "first_executor" in ended else "threads", seconds)


class LaunchMetrics:
    """Prometheus metrics of launches, each counted once: a run's pod does not live long enough to be asked.

    What is there at the first look, somebody has counted before: it is not counted again after a restart.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counted: set[str] | None = None
        self._seconds = Histogram(
            "medallion_launch_seconds",
            "Seconds that each phase of the launch of a run took.",
            ["phase", "mode"],
            registry=registry,
            buckets=_BUCKETS,
        )

    def see(self, launches: Mapping[str, Launch]) -> None:
        """The launches of all pods that are there now, by the pods' ids."""
        before = launches.keys() if self._counted is None else self._counted
        for pod in launches.keys() - before:
            for phase, took in launches[pod].seconds.items():
                self._seconds.labels(phase, launches[pod].mode).observe(took)
        self._counted = set(launches)


def _known(phases: Mapping[str, object]) -> list[str]:
    return [name for name in PHASES if name in phases]
