"""docs/recovery.md, made from what drills said.

`python -m medallion_platform_tests.docs.recovery FILE` writes it from what `faults/test_drills.py` kept: the
answers of `medallion drill run all --json` and the same with `--unhealed`, in one project.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medallion_platform.drills.drill import Drill
from medallion_platform.drills.run import all_drills
from medallion_platform_tests.command import REPOSITORY
from medallion_platform_tests.docs.options import table

PAGE = REPOSITORY / "docs" / "recovery.md"
HEAD = (
    "drill",
    "what happens",
    "verdict",
    "detected after",
    "the fault lasted",
    "all well after that",
    "target",
    "rows lost, doubled",
    "what was done",
    "where nothing is tried again",
)
_BEFORE = """\
# How fast it heals

What one run of all [drills](drills.md) said, on a machine with two cores, in a project with two sources and
four tables of few rows. A refresh finds a warm Spark, but not the one after a kill. `medallion drill run all`
tells the same of your installation.

"""


def page(healed: Sequence[Mapping[str, Any]], unhealed: Sequence[Mapping[str, Any]]) -> str:
    """The page. Pure."""
    without = {row["drill"]: row for row in unhealed}
    drills = {drill.name: drill for drill in all_drills()}
    rows = (line(drills[row["drill"]], row, without[row["drill"]]) for row in healed)
    return _BEFORE + table(HEAD, rows)


def line(drill: Drill, row: Mapping[str, Any], without: Mapping[str, Any]) -> tuple[str, ...]:
    """What is told of a drill."""
    by = f", by {drill.resilient_by}" if drill.resilient_by and without["verdict"] != "Failed" else ""
    return (
        f"`{drill.name}`",
        drill.description,
        row["verdict"],
        seconds(row["detected_after"]),
        seconds(row["fault_lasted"]),
        seconds(row["healed_after"]),
        seconds(row["target_seconds"]),
        f"{row['rows_lost']}, {row['rows_doubled']}",
        "; ".join(told(row["done"])) or "nothing was to be done",
        f"{without['verdict']}{by}",
    )


def told(done: Iterable[str]) -> Iterable[str]:
    """What was done, without the names of the tables of that project."""
    return dict.fromkeys(line.partition(": ")[2] for line in done)


def seconds(found: float | None) -> str:
    """Seconds, to a whole one: they are of one run."""
    return "" if found is None else f"{found:.0f} s"


if __name__ == "__main__":
    PAGE.write_text(page(**json.loads(Path(sys.argv[1]).read_text())))
