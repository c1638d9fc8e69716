"""Which way to lay out a table: as written, compacted, Z-ordered, or liquid clustered by Spark?

    python -m medallion_platform_tests.benchmarks.clustering [--rows N] [--spark]

One table of events in random order, written by sixteen commits of four files each. Then the same rows
in each layout, and per filter (a user, a range of users, an hour, a user within a day) the files and
bytes that min/max of a file leave over, the rows of the row groups left over, and the time of the read.
Times are ratios to the table as written: the machine is shared.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl
import pyarrow.parquet as pq

from medallion_platform.lakehouse import maintenance
from medallion_platform.lakehouse.lake import Lake, files_of

TABLE = "silver.events"
START = datetime(2026, 1, 1, tzinfo=UTC)
USERS = 50_000
TARGET = 1024 * 1024
"""Small, so that a small table has as many files as a big one."""


def frame(rows: int, commit: int, seeded: random.Random) -> pl.DataFrame:
    """One commit's rows: users at random, times within the thirty days."""
    n = range(rows)
    return pl.DataFrame(
        {
            "user_id": [f"u{seeded.randrange(USERS):06}" for _ in n],
            "event_timestamp": [START + timedelta(seconds=seeded.randrange(30 * 86_400)) for _ in n],
            "event_id": [f"{commit:02}-{seeded.getrandbits(64):016x}" for _ in n],
            "amount": [seeded.randrange(100_000) / 100 for _ in n],
            "page": [f"/p/{seeded.randrange(5_000)}/{seeded.getrandbits(32):08x}" for _ in n],
        },
        schema_overrides={"event_timestamp": pl.Datetime("us", "UTC")},
    )


def filters() -> dict[str, dict[str, tuple[Any, Any]]]:
    """The bounds of each kind of read, both ends included."""
    users, times = ("u012345", "u012345"), (START + timedelta(days=12), START + timedelta(days=13))
    return {
        "one user": {"user_id": users},
        "range of users (1 %)": {"user_id": ("u020000", "u020499")},
        "one hour": {"event_timestamp": (times[0], times[0] + timedelta(hours=1))},
        "users in a day": {"user_id": ("u020000", "u029999"), "event_timestamp": times},
    }


def measure(lake: Lake, bounds: dict[str, tuple[Any, Any]]) -> tuple[int, int, int, float]:
    """(files, bytes, rows of row groups) that min/max leave over, and the seconds of the read."""
    table = lake.open(TABLE)
    assert table is not None
    files = size = rows = 0
    for f in files_of(table):
        footer = pq.read_metadata(Path(lake.path(TABLE)) / unquote(f["path"]))
        left = [
            footer.row_group(g).num_rows
            for g in range(footer.num_row_groups)
            if all(_overlaps(footer.row_group(g), c, low, high) for c, (low, high) in bounds.items())
        ]
        files, size, rows = files + bool(left), size + f["size_bytes"] * bool(left), rows + sum(left)
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        scan = pl.scan_delta(lake.path(TABLE))
        for column, (low, high) in bounds.items():
            scan = scan.filter(pl.col(column).is_between(pl.lit(low), pl.lit(high)))
        scan.select(pl.len(), pl.col("amount").sum()).collect()
        seconds.append(time.perf_counter() - started)
    return files, size, rows, statistics.median(seconds)


def _overlaps(group: Any, column: str, low: Any, high: Any) -> bool:
    for c in range(group.num_columns):
        chunk = group.column(c)
        if chunk.path_in_schema == column and chunk.statistics is not None:
            return not (chunk.statistics.max < low or chunk.statistics.min > high)
    return True


def liquid(lake: Lake, source: str, columns: str) -> None:
    """The same rows by Spark's liquid clustering."""
    from medallion_platform.lakehouse import spark as engine

    session = engine.session(sorted((Path.home() / ".cache/medallion/jars").glob("*.jar")), cores=2)
    session.conf.set("spark.databricks.delta.optimize.maxFileSize", TARGET)
    target = f"delta.`{lake.path(TABLE)}`"
    session.sql(f"create table {target} using delta cluster by ({columns}) as select * from delta.`{source}`")
    session.sql(f"optimize {target}").collect()
    session.stop()


def main() -> None:
    """Print one line a layout and filter."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=400_000)
    arguments.add_argument("--spark", action="store_true", help="also liquid clustering (starts a JVM)")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as root:
        run(Path(root), chosen.rows, chosen.spark)


def run(root: Path, rows: int, spark: bool) -> None:
    """Lay the rows out in every way and measure each."""
    written = Lake(root / "written")
    seeded = random.Random(1)
    for commit in range(16):
        part = frame(rows // 16, commit, seeded)
        step = max(1, part.height // 4)
        for n in range(4):
            part.slice(n * step, step).write_delta(written.path(TABLE), mode="append")
    layouts = {"as written": written}
    ways: dict[str, tuple[str, ...]] = {
        "compacted": (),
        "sorted by user": ("user_id",),
        "Z-order user, time": ("user_id", "event_timestamp"),
    }
    for name, columns in ways.items():
        layouts[name] = Lake(root / name.replace(" ", "_").replace(",", ""))
        shutil.copytree(written.root, layouts[name].root)
        started = time.perf_counter()
        done = maintenance.optimize(layouts[name], TABLE, columns, target_bytes=TARGET)
        print(
            f"{name}: {done.files_before} -> {done.files_after} files, {done.bytes_before / 1e6:.0f} -> "
            f"{done.bytes_after / 1e6:.0f} MB in {time.perf_counter() - started:.1f} s"
        )
    delta_rs = Lake(root / "delta_rs")
    shutil.copytree(written.root, delta_rs.root)
    opened = delta_rs.open(TABLE)
    assert opened is not None
    started = time.perf_counter()
    opened.optimize.z_order(["user_id", "event_timestamp"], target_size=TARGET)
    print(f"delta-rs z_order: {time.perf_counter() - started:.1f} s")
    layouts["delta-rs Z-order"] = delta_rs
    if spark:
        for label, columns in (("liquid user, time", "user_id, event_timestamp"),):
            layouts[label] = Lake(root / label.replace(" ", "_").replace(",", ""))
            started = time.perf_counter()
            liquid(layouts[label], written.path(TABLE), columns)
            print(f"{label}: {time.perf_counter() - started:.1f} s with the start of Spark")
    for kind, bounds in filters().items():
        print(f"\n{kind}")
        base = measure(written, bounds)[3]
        for name, lake in layouts.items():
            files, size, left, seconds = measure(lake, bounds)
            opened = lake.open(TABLE)
            assert opened is not None
            print(
                f"  {name:20} {files:3}/{len(files_of(opened)):3} files {size / 1e6:6.1f} MB "
                f"{left:9,} rows  time {seconds / base:5.2f}"
            )


if __name__ == "__main__":
    main()
