"""What it costs to start: the command line, and a process that loads all of Dagster's definitions."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from medallion_platform_tests.benchmarks.figure import Figure

HELP = "from medallion_platform.cli import app; app(['--help'])"
LOAD = "import medallion_platform.definitions as d; d.defs.get_repository_def()"


def measure(rounds: int) -> list[Figure]:
    """CPU seconds against an empty Python process and against `import dagster`."""
    found = []
    for name, program, bare_name, bare, goal in (
        ("`medallion --help`", HELP, "an empty Python process", "pass", ""),
        ("loading the code location", LOAD, "`import dagster`", "import dagster", ""),
    ):
        ours, theirs = [], []
        for n in range(-1, rounds):
            one, other = _spent(program), _spent(bare)
            if n >= 0:
                ours.append(one)
                theirs.append(other)
        found.append(
            Figure(
                f"{name}, CPU seconds of {bare_name}",
                [o / t for o, t in zip(ours, theirs, strict=True)],
                f"{median(ours):.2f} s against {median(theirs):.2f} s",
                goal,
            )
        )
    return found


def _spent(program: str) -> float:
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
