"""The memory of an intake and of a refresh that reject every row, against the same with one row of a hundred.

Each is a process of its own with the same rows: of the contract's bound alone it depends which of them are
bad. What counts is the most memory that the process had (for a refresh that of the driver; Java's own is
bounded by its setting), and what it had before it began.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import ClassVar

import pyspark.sql.types as T
from pyspark.sql import DataFrame

from medallion_platform.contracts.contract import Contract
from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.table import daily, table
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.formats.jsonlines import JsonLines
from medallion_platform_tests.benchmarks.figure import Figure

MEGABYTES = 512
_LINE_BYTES = 256
_BOUNDS = {1: 1, 100: 100}
"""Of a number from 0 to 99: by the percentage of rows that are below."""


def contract_of(at_least: int, *, dated: bool = False) -> Contract:
    """Rows whose number is at least so much. dated: they have their day as a column already."""

    class Measured(ContractModel):
        at: T.TimestampType = Field()
        n: T.LongType = Field(ge=at_least)
        text: T.StringType = Field()

        class Config:
            """Table options."""

            metadata: ClassVar = {"event_time": "at", "partitioned_by": ["event_date"]}

    class Dated(Measured):
        event_date: T.DateType = Field()

    return (Dated if dated else Measured).contract


def measure(rounds: int, megabytes: int = MEGABYTES) -> list[Figure]:
    """Peak memory, ratios of paired runs."""
    with TemporaryDirectory(prefix="medallion-bench-") as folder:
        home = Path(folder)
        rows = fill(home / "landing/measured", megabytes * 10**6)
        peak_of("intake", 0, home)  # what the refreshes read
        peaks = {
            (verb, percent): [peak_of(verb, percent, home) for _ in range(rounds)]
            for verb in ("intake", "refresh")
            for percent in _BOUNDS
        }
    return [
        Figure(
            f"{process} of {megabytes} MB, all rows rejected, peak memory of the same with 1 % of them",
            [a / o for a, o in zip(peaks[verb, 100], peaks[verb, 1], strict=True)],
            f"{median(peaks[verb, 100]):.0f} MB against {median(peaks[verb, 1]):.0f} MB for {rows:,} rows",
        )
        for verb, process in (("intake", "an intake"), ("refresh", "the driver of a refresh"))
    ]


def fill(landing: Path, size: int) -> int:
    """A file of so many bytes; gives its rows."""
    landing.mkdir(parents=True)
    file, rows = landing / "all.jsonl", size // _LINE_BYTES // 100 * 100
    with file.open("w") as out:
        for n in range(rows):
            text = f"{n:012} {'some text of a usual length, as it is found in a comment. ' * 3}"
            line = json.dumps({"at": f"2026-01-05T{n % 24:02}:00:00Z", "n": n % 100, "text": text[:180]})
            out.write(line.ljust(_LINE_BYTES - 1) + "\n")
    os.utime(file, (0, 0))  # complete long ago
    return rows


def peak_of(verb: str, percent: int, home: Path) -> float:
    """MB that a process had at most; percent: of the rows that are rejected."""
    command = [sys.executable, "-m", __name__, verb, str(percent), str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def _intake(percent: int, home: Path, lake: Lake) -> None:
    from medallion_platform.pipeline.intake.landing_zone import landed_files
    from medallion_platform.pipeline.intake.polars_engine import intake
    from medallion_platform.pipeline.run import Run
    from medallion_platform.sources.connectors import landing_scan as zone

    source = FileSource(
        name="measured",
        table="bronze.measured",
        contract=contract_of(_BOUNDS.get(percent, 0)),
        claims=("measured/**",),
        format=JsonLines(),
        domain="bench",
    )
    seen = zone.scan_landing_zone(home / "landing", [source], datetime.now(UTC), 0).claimed[source.name]
    run = Run.now()
    counts = intake(landed_files(source, home / "landing", seen, lake, run), lake, run).counts
    assert counts.dead_lettered == counts.read * percent // 100, counts


def _refresh(percent: int, lake: Lake) -> None:
    from medallion_platform.installation.local_spark import local_spark
    from medallion_platform.pipeline.refresh import refresh
    from medallion_platform.pipeline.run import Run

    def same(rows: DataFrame) -> DataFrame:
        return rows.select("at", "n", "text", "event_date")

    made = table(
        f"silver.measured_{percent}",
        contract=contract_of(_BOUNDS[percent], dated=True),
        inputs={"rows": "bronze.measured"},
        incremental="append",
        partition=daily("event_date"),
    )(same)
    spark = local_spark().session()
    columns = {"bronze.measured": "event_date"}
    record = refresh(made, lake, lambda: spark, Run.now(), rebuild=True, partition_columns=columns).record
    assert record is not None
    assert record.counts.dead_lettered == record.counts.read * percent // 100, record.counts


def main(verb: str, percent: int, home: Path) -> float:
    """MB that this process had at most while it did that."""
    if verb == "refresh":
        _refresh(percent, Lake(home / "lake"))
    elif percent:
        with TemporaryDirectory(prefix="medallion-bench-") as other:
            _intake(percent, home, Lake(Path(other)))
    else:
        _intake(0, home, Lake(home / "lake"))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    print(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
