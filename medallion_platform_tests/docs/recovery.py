"""docs/recovery.md, made from what drills said, and from what became of the same faults elsewhere.

`python -m medallion_platform_tests.docs.recovery FILE` writes it from what `faults/test_drills.py` kept (the
answers of `medallion drill run all --json`, and of the same with `--unhealed`, in one project), and what
`python -m medallion_platform_tests.bare FILE` added.
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

Row = Mapping[str, Any]
PAGE = REPOSITORY / "docs" / "recovery.md"
HEALED = (
    "drill",
    "what happens",
    "verdict",
    "detected after",
    "the fault lasted",
    "all well after that",
    "target",
    "rows lost",
    "doubled",
    "dead-lettered",
    "what was done",
)
WITHOUT = ("drill", "where nothing is tried again", "Dagster alone", "Spark alone")
_BEFORE = """\
# How fast it heals

What one run of all [drills](drills.md) said, on a machine with two cores, in a project with two sources and
four tables of few rows. A refresh finds a warm Spark, but not the one after a kill. `medallion drill run all`
tells the same of your installation.

"""
_BETWEEN = """
## What heals it

The same drills where nothing that failed is tried again (`--unhealed`); rows are missing there that wait for
a person (a row with an old value counts as missing and as doubled). Beside it some of the faults, at the same
moment of the same work, in a project of two tables that has no platform, by what claims to heal them:

- Dagster: two assets that append by Spark, a retry policy of three retries each, run retries, and a daemon;
- Spark: two streams with checkpoints, whose batches are written with Delta's `txnVersion`. A stream does not
  begin again after its process has ended, so it was started once more.

"""


def page(healed: Sequence[Row], unhealed: Sequence[Row], bare: Sequence[Row]) -> str:
    """The page. Pure."""
    drills = {drill.name: drill for drill in all_drills()}
    with_healer = (line(drills[row["drill"]], row) for row in healed)
    elsewhere = {(row["drill"], row["system"]): row for row in bare}
    without = (
        (
            f"`{row['drill']}`",
            unattended(drills[row["drill"]], row),
            *(alone(elsewhere.get((row["drill"], system))) for system in ("Dagster", "Spark")),
        )
        for row in unhealed
    )
    return _BEFORE + table(HEALED, with_healer) + _BETWEEN + table(WITHOUT, without)


def line(drill: Drill, row: Row) -> tuple[str, ...]:
    """What is told of a drill."""
    return (
        f"`{drill.name}`",
        drill.description,
        row["verdict"],
        seconds(row["detected_after"]),
        seconds(row["fault_lasted"]),
        seconds(row["healed_after"]),
        seconds(row["target_seconds"]),
        f"{row['rows_lost']}",
        f"{row['rows_doubled']}",
        f"{row['dead_lettered']}",
        "; ".join(told(row["done"])) or "nothing was to be done",
    )


def unattended(drill: Drill, row: Row) -> str:
    """What is told of a drill where nothing is tried again."""
    if row["verdict"] == "Inconclusive":
        return "Inconclusive"
    if row["verdict"] != "Failed":
        return f"{row['verdict']}, by {drill.resilient_by}" if drill.resilient_by else row["verdict"]
    return f"Failed: {row['rows_lost']} rows missing, {row['rows_doubled']} doubled"


def alone(row: Row | None) -> str:
    """What became of a fault without the platform; "" where that was not tried."""
    if row is None:
        return ""
    rows = f"{row['lost']} rows lost, {row['doubled']} doubled"
    return rows if row["by_itself"] else f"ends; started again: {rows}"


def told(done: Iterable[str]) -> Iterable[str]:
    """What was done, without the names of the tables of that project."""
    return dict.fromkeys(line.partition(": ")[2] for line in done)


def seconds(found: float | None) -> str:
    """Seconds, to a whole one: they are of one run."""
    return "" if found is None else f"{found:.0f} s"


if __name__ == "__main__":
    PAGE.write_text(page(**json.loads(Path(sys.argv[1]).read_text())))
