"""What it costs to look at 300 tables of which none is out of date: `status`, `run`, an idle `dev`.

CPU seconds, since a look is mostly that; of an idle `dev` by process, beside what Dagster itself takes
with as many assets and none of the platform's sensors.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil

from medallion_platform_tests.benchmarks import many
from medallion_platform_tests.ui.server import serving

TABLES_A_SOURCE = 3
_MEDALLION = (sys.executable, "-c", "from medallion_platform.cli import main; main()")
_DEV = (
    *(sys.executable, "-c"),
    "from medallion_platform import cli; from medallion_platform.installation import project; "
    "project.DEFINITIONS = 'medallion_platform_tests.benchmarks.many_location'; cli.main()",
)
FIRST_LOOKS_SECONDS = 75
"""The sensors that look once a minute have looked then."""
_REST_SECONDS = 60
_KINDS = {"code server": ("api", "grpc"), "daemon": ("dagster._daemon",), "webserver": ("dagster_webserver",)}


def measure(
    rounds: int,
    sources: int = many.SOURCES,
    rest: int = _REST_SECONDS,
    first_looks: int = FIRST_LOOKS_SECONDS,
) -> list[dict[str, str]]:
    """CPU seconds of commands, share of a core of an idle `dev`; of `sources` with three tables each.

    rest: seconds that it is watched for. first_looks: seconds before that.
    """
    os.environ |= {"MEDALLION_TEST_MANY": str(sources), "MEDALLION_MODULE": many.__name__}
    with TemporaryDirectory(prefix="medallion-bench-") as folder:
        home = Path(folder)
        subprocess.run([sys.executable, "-m", many.__name__, str(home), str(sources)], check=True)
        rows = [
            _row(f"`{command}`, CPU seconds", goal, [_spent(command, home) for _ in range(rounds + 1)][1:])
            for command, goal in (("status", "at most 2"), ("run", "at most 3"))
        ]
        resting = [_resting(home, rest, first_looks, bare=bare) for bare in (False, True)]
    for name, found in zip(("idle `dev`", "the same without the platform's sensors"), resting, strict=True):
        goal = "at most 5" if found is resting[0] else ""
        rows.append(_row(f"{name}, % of a core", goal, [found.total()]))
        rows += [_row(f"{name}, % of a core: {kind}", "", [share]) for kind, share in found.most_common()]
    tables = TABLES_A_SOURCE * sources
    return [{f"a look at {tables} tables": row.pop("figure"), **row} for row in rows]


def _row(figure: str, goal: str, found: list[float]) -> dict[str, str]:
    return {
        "figure": figure,
        "min": f"{min(found):.1f}",
        "median": f"{median(found):.1f}",
        "max": f"{max(found):.1f}",
        "goal": goal,
    }


def _spent(command: str, home: Path) -> float:
    """CPU seconds of a command that finds nothing to do."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*_MEDALLION, command, "--home", str(home), "--json"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _resting(home: Path, seconds: int, first_looks: int, *, bare: bool) -> Counter[str]:
    """Per cent of a core that each process of an idle `dev` takes."""
    group: list[int] = []

    def command(port: int) -> list[str]:
        return [*_DEV, "dev", "--home", str(home), "--port", str(port)]

    environment = {"MEDALLION_TEST_MANY_BARE": "1"} if bare else {}
    with serving(command, home / "dev.log", environment, group.append) as answering:
        answering()
        time.sleep(first_looks)
        before = processes(group[0])
        time.sleep(seconds)
        spent = cpu_seconds(before, processes(group[0]))
    return Counter({kind: 100 * share / seconds for kind, share in spent.items()})


@dataclass(frozen=True)
class Used:
    """What a process is, and the CPU seconds of it and of those children that it has waited for."""

    kind: str
    parent: int
    seconds: float


def processes(group: int) -> dict[int, Used]:
    """The processes of a group now, by their ids."""
    found: dict[int, Used] = {}
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group:
                # Not on every system does a process tell of its children.
                seconds = sum(getattr(process.cpu_times(), name, 0.0) for name in _TIMES)
                found[process.pid] = Used(_kind(process.cmdline()), process.ppid(), seconds)
        except (psutil.Error, ProcessLookupError):
            continue
    return found


_TIMES = ("user", "system", "children_user", "children_system")


def cpu_seconds(before: Mapping[int, Used], after: Mapping[int, Used]) -> Counter[str]:
    """CPU seconds between two looks, by what processes are; those of a child that ended are its parent's."""
    grown = {p: used.seconds - (before[p].seconds if p in before else 0) for p, used in after.items()}
    for ended in before.keys() - after.keys():
        parent, seconds = before[ended].parent, before[ended].seconds
        if grown.get(parent, 0) >= seconds:  # else nobody waited for it
            grown[parent] -= seconds
    spent: Counter[str] = Counter()
    for process, seconds in grown.items():
        spent[after[process].kind] += seconds
    return spent


def _kind(command: list[str]) -> str:
    said = " ".join(command)
    return next((kind for kind, marks in _KINDS.items() if all(m in said for m in marks)), "`dev` itself")
