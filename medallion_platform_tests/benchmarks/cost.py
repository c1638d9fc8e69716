"""What ten million events cost from their files to gold, as gigabytes of input per core-hour.

The sample's tables are made of them by one `medallion run` in an empty home: bronze, silver (looked up in the
histories of users and regions), and gold. Core-hours are told twice, as CPU that was used and as all cores of
the machine for as long as it took; the latter is what lakebench-k8s publishes (3.41 GB per core-hour).
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.benchmarks.backfill import in_own_process
from medallion_platform_tests.benchmarks.intake_ratio import json_lines
from medallion_sample.sample import write_sample

EVENTS, FILES = 10_000_000, 10
TABLES = ("bronze.events", "silver.events", "gold.daily_user_metrics")


def measure(rounds: int, events: int = EVENTS) -> list[dict[str, str]]:
    """Gigabytes (10^9 bytes) of events per core-hour."""
    used, wall = [], []
    with TemporaryDirectory(prefix="medallion-bench-") as folder:
        for n in range(rounds):
            home = Path(folder) / str(n)
            size = fill(home / "landing", events)
            began = time.monotonic()
            used.append(in_own_process("platform", home))
            wall.append(time.monotonic() - began)
            lake = Lake(home / "lake")
            assert all(lake.rows(table) > 0 for table in TABLES), "a table is empty"
            assert lake.rows("bronze.events") >= events
            assert lake.rows("silver.events") >= events * 0.99
    hours = 3600 * size / 10**9
    cores = os.cpu_count() or 1
    return [
        {
            "events": f"{events:,} in {size / 10**9:.2f} GB",
            "core-hours": what,
            "GB per core-hour, median": f"{hours / median(seconds):.2f}",
            "min": f"{hours / max(seconds):.2f}",
            "max": f"{hours / min(seconds):.2f}",
            "rounds": str(rounds),
            "goal": "at least 6",
        }
        for what, seconds in (
            ("CPU that was used", used),
            (f"{cores} cores for as long as it took", [s * cores for s in wall]),
        )
    ]


def fill(landing: Path, events: int) -> int:
    """The sample, and so many clean events of its week; returns the bytes of these."""
    write_sample(landing)
    folder = landing / "clickstream" / "events" / "many"
    folder.mkdir(parents=True)
    rows = json_lines(random.Random(7), "0000", events // FILES)
    size = 0
    for number in range(FILES):
        file = folder / f"{number:04}.jsonl"
        size += file.write_bytes(rows.replace(b'"evt-0000-', b'"evt-%04d-' % number))
        os.utime(file, (0, 0))  # complete long ago
    return size
