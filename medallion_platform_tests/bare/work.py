"""The work that is disturbed: a file, a table of its rows, one that is made from that, dead letters of each.

A fault comes where the same one of a drill does: after the dead letters of a table and before its rows.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SCHEMA = "file STRING, id INT, amount INT"
AMOUNTS = [-1, 150, *range(2, 20)]
"""Of the rows of a file: bronze refuses those below 0, silver those above 100."""
WELL = {"bronze": "amount >= 0", "silver": "amount <= 100"}
"""Which rows are good."""
TABLES = ("bronze", "silver", "bronze_letters", "silver_letters")
FILE = "a.json"
WHERE = {"killed-intake": "bronze", "killed-refresh": "silver", "second-writer": "silver"}
"""Before whose rows each fault comes; that of the landing zone comes to whoever reads it."""
FAULTS = (*WHERE, "source-unavailable")


def home() -> Path:
    """Where this process works."""
    return Path(os.environ["BARE_HOME"])


def land(where: Path) -> None:
    """A file arrives."""
    landing = where / "landing"
    landing.mkdir()
    rows = [{"file": FILE, "id": n, "amount": amount} for n, amount in enumerate(AMOUNTS)]
    (landing / FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))


def expected() -> dict[str, Counter[str]]:
    """What is in each table where nothing goes wrong."""
    ids = {
        "bronze": [n for n, amount in enumerate(AMOUNTS) if amount >= 0],
        "silver": [n for n, amount in enumerate(AMOUNTS) if 0 <= amount <= 100],
        "bronze_letters": [n for n, amount in enumerate(AMOUNTS) if amount < 0],
        "silver_letters": [n for n, amount in enumerate(AMOUNTS) if amount > 100],
    }
    return {table: Counter(map(str, of)) for table, of in ids.items()}


def content(where: Path) -> dict[str, Counter[str]]:
    """What is in each table."""
    there = {table: where / table for table in TABLES}
    return {
        table: Counter(map(str, pl.read_delta(str(path))["id"])) if path.exists() else Counter()
        for table, path in there.items()
    }


def spark() -> SparkSession:
    """Spark, with Delta's jars."""
    from medallion_platform.installation.local_spark import local_spark

    return local_spark(memory="1g", cores=1).session()


def strike(table: str, write: Callable[[], object]) -> None:
    """Cause, once, the fault that comes before the rows of this table are written, which `write` does."""
    armed = home() / "fault"
    fault = armed.read_text() if armed.exists() else ""
    if WHERE.get(fault) != table:
        return
    armed.unlink()
    if fault == "second-writer":
        write()
    else:
        os.kill(os.getpid(), signal.SIGKILL)
