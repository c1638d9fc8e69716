"""Which way to lay out a table: as written, compacted, Z-ordered, or liquid clustered by Spark?

One table of events in random order, written by sixteen commits of four files each. Then the same rows
in each layout, and per filter (a user, a range of users, an hour, a user within a day) the files and
bytes that min/max of a file leave over, the rows of the row groups left over, and the time of the read.
Times are ratios to the table as written: the machine is shared.
"""

from __future__ import annotations

import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from medallion_platform.lakehouse import maintenance
from medallion_platform.lakehouse.lake import Lake, files_of

TABLE = "silver.events"
START = datetime(2026, 1, 1, tzinfo=UTC)
USERS = 50_000
ROWS = 400_000
WAYS: dict[str, tuple[str, ...]] = {
    "compacted": (),
    "sorted by user": ("user_id",),
    "Z-order of user, time": ("user_id", "event_timestamp"),
}
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
        footer = pq.read_metadata(Path(lake.path(TABLE)) / f["path"])
        left = [
            footer.row_group(g).num_rows
            for g in range(footer.num_row_groups)
            if all(_overlaps(footer.row_group(g), c, low, high) for c, (low, high) in bounds.items())
        ]
        files, size, rows = files + bool(left), size + f["size_bytes"] * bool(left), rows + sum(left)
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        scan = pl.scan_delta(table)
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
    from medallion_platform.installation.local_spark import local_spark

    session = local_spark(cores=2).session()
    session.conf.set("spark.databricks.delta.optimize.maxFileSize", TARGET)
    target = f"delta.`{lake.path(TABLE)}`"
    session.sql(f"create table {target} using delta cluster by ({columns}) as select * from delta.`{source}`")
    session.sql(f"optimize {target}").collect()
    session.stop()


def layouts(rows: int, *, with_spark: bool) -> list[dict[str, str]]:
    """What each kind of read opens in each layout; one line a read and layout."""
    with tempfile.TemporaryDirectory() as folder:
        return list(_compare(Path(folder), rows, with_spark))


def _compare(root: Path, rows: int, with_spark: bool) -> Iterator[dict[str, str]]:
    written = _as_written(Lake(root / "written"), rows)
    found = {"as written": (written, 0.0)}
    for name, columns in WAYS.items():
        lake = _copy(written, root / name)
        found[name] = (lake, _seconds(lambda lake=lake, columns=columns: _optimize(lake, columns)))
    by_delta_rs = _copy(written, root / "delta-rs")
    table = by_delta_rs.open(TABLE)
    assert table is not None
    both = list(WAYS["Z-order of user, time"])
    spent = _seconds(lambda: table.optimize.z_order(both, target_size=TARGET))
    found["delta-rs Z-order of user, time"] = (by_delta_rs, spent)
    if with_spark:
        lake = Lake(root / "liquid")
        spent = _seconds(lambda: liquid(lake, written.path(TABLE), ", ".join(both)))
        found["Spark liquid of user, time (JVM start included)"] = (lake, spent)
    for kind, bounds in filters().items():
        base = measure(written, bounds)[3]
        for name, (lake, spent) in found.items():
            files, size, left, seconds = measure(lake, bounds)
            opened = lake.open(TABLE)
            assert opened is not None
            yield {
                "read": kind,
                "layout": name,
                "files opened": f"{files} of {len(files_of(opened))}",
                "MB": f"{size / 1e6:.1f}",
                "rows left": f"{left:,}",
                "time of the read": f"{seconds / base:.2f}",
                "seconds to lay out": f"{spent:.1f}",
            }


def _as_written(lake: Lake, rows: int) -> Lake:
    """Sixteen commits of four files each, rows in random order."""
    seeded = random.Random(1)
    for commit in range(16):
        part = frame(rows // 16, commit, seeded)
        step = max(1, part.height // 4)
        for n in range(4):
            part.slice(n * step, step).write_delta(lake.path(TABLE), mode="append")
    return lake


def _copy(lake: Lake, to: Path) -> Lake:
    shutil.copytree(lake.root, to)
    return Lake(to)


def _optimize(lake: Lake, columns: tuple[str, ...]) -> None:
    maintenance.optimize(lake, TABLE, columns, target_bytes=TARGET)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
