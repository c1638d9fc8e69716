"""A figure: a ratio to the bare alternative, measured several times in pairs."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median

PACKAGES = ("dagster", "polars", "deltalake", "pyspark", "delta-spark", "pandera")


@dataclass(frozen=True)
class Figure:
    """`ratio` of each round, and what it is of; `goal` as text where one was set."""

    name: str
    ratios: Sequence[float]
    detail: str
    goal: str = ""

    def row(self) -> dict[str, str]:
        """The figure as a line of a table."""
        return {
            "figure": self.name,
            "min": f"{min(self.ratios):.2f}",
            "median": f"{median(self.ratios):.2f}",
            "max": f"{max(self.ratios):.2f}",
            "rounds": str(len(self.ratios)),
            "goal": self.goal,
            "medians behind it": self.detail,
        }


def cpu_seconds() -> float:
    """CPU seconds of this process and all its living descendants: a shared machine steals time, not work."""
    import psutil

    me = psutil.Process()
    times = [p.cpu_times() for p in (me, *me.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def spent(work: Callable[[], object]) -> float:
    """CPU seconds that `work` takes."""
    before = cpu_seconds()
    work()
    return cpu_seconds() - before


def machine() -> str:
    """Where and with what the figures were measured."""
    packages = ", ".join(f"{p} {version(p)}" for p in PACKAGES)
    return (
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `./medallion bench` on {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {packages}."
    )


def as_markdown_table(rows: Sequence[dict[str, str]]) -> str:
    """Rows of a table as markdown."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return "\n".join(lines + ["| " + " | ".join(r.values()) + " |" for r in rows]) + "\n"
