"""What a refresh costs: one changed day against a rebuild of thirty, nothing to do, and how costs grow.

Refreshes run through `pipeline.refresh` in one warm Spark session, started as the platform starts it.
Growth is measured on the log alone: the plan, the status and one more commit, on tables of many
partitions and of many commits.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median

import polars as pl
from deltalake import DeltaTable

from medallion_platform.installation.local_spark import local_spark
from medallion_platform.lakehouse import polars_writer
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.maintenance import maintain_table
from medallion_platform.pipeline.refresh import refresh
from medallion_platform.pipeline.refresh.changes import out_of_date_partitions
from medallion_platform.pipeline.refresh.plan import CODE, code_version
from medallion_platform.pipeline.run import Run
from medallion_platform_tests.benchmarks.figure import Figure, spent
from medallion_sample.catalog import catalog_of

CATALOG = catalog_of({})
TABLE = CATALOG.by_name["gold.daily_user_metrics"]
SOURCE = CATALOG.by_name["silver.events"]
FIRST = date(2026, 1, 1)
DAYS, ROWS_A_DAY = 30, 100_000


def measure(rounds: int, rows: int = ROWS_A_DAY) -> list[Figure]:
    """One changed day of thirty, then nothing to do."""
    spark = local_spark().session()
    one, all_days, nothing = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        for day in range(DAYS):
            _events(lake, FIRST + timedelta(days=day), rows, f"first-{day}")

        def bring(rebuild: bool = False) -> None:
            refresh(
                TABLE,
                lake,
                lambda: spark,
                Run.now(),
                rebuild=rebuild,
                partition_columns=CATALOG.partition_columns,
            )

        bring()
        for n in range(-1, rounds):
            _events(lake, FIRST + timedelta(days=n + 5), 1000, f"late-{n}")
            late, idle, whole = spent(bring), spent(bring), spent(lambda: bring(rebuild=True))
            if n >= 0:
                one.append(late)
                nothing.append(idle)
                all_days.append(whole)
    return [
        Figure(
            f"a rebuild of {DAYS} days in refreshes of one changed day, CPU seconds",
            [a / o for a, o in zip(all_days, one, strict=True)],
            f"{median(all_days):.2f} s against {median(one):.2f} s, {rows:,} events a day",
            "at least 10",
        ),
        Figure(
            "a refresh with nothing to do, share of one changed day's CPU seconds",
            [max(i, 0.01) / o for i, o in zip(nothing, one, strict=True)],
            f"{median(nothing):.2f} s",
        ),
    ]


SIZES = ((10, 10), (100, 10), (1000, 10), (10, 100), (10, 1000), (10, 10_000))
MAINTAINED = 1000
"""From this many commits on, also as the nightly maintenance leaves the table."""


def growth(rounds: int, sizes: Sequence[tuple[int, int]] = SIZES) -> list[dict[str, str]]:
    """Milliseconds of planning, status and one more commit by partitions, commits and files; medians."""
    found = []
    for partitions, commits in sizes:
        with tempfile.TemporaryDirectory() as folder:
            lake = Lake(Path(folder))
            _grow(lake, partitions, commits)
            found.append(_costs(lake, partitions, commits, rounds))
            if commits >= MAINTAINED:
                maintain_table(lake, SOURCE.name)
                found.append(_costs(lake, partitions, commits, rounds))
    return found


def _costs(lake: Lake, partitions: int, commits: int, rounds: int) -> dict[str, str]:
    files = len(DeltaTable(lake.path(SOURCE.name)).file_uris())
    timed = {
        "plan": lambda: out_of_date_partitions(TABLE, lake, _no_spark, CATALOG.partition_columns),
        "status": lambda: (lake.last_record(SOURCE.name), lake.rows(SOURCE.name)),
        "one more commit": lambda: _events(lake, FIRST, 1, "more"),
    }
    return {"partitions": f"{partitions:,}", "commits": f"{commits:,}", "files": f"{files:,}"} | {
        name: f"{_milliseconds(work, rounds):.0f} ms" for name, work in timed.items()
    }


def _milliseconds(work: object, rounds: int) -> float:
    assert callable(work)
    work()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return median(times) * 1000


def _grow(lake: Lake, partitions: int, commits: int) -> None:
    """A source of so many partitions and commits, and a table that was made from its newest version."""
    days = [FIRST + timedelta(days=n) for n in range(partitions)]
    _write(lake, pl.concat([_frame(day, 1, f"p{day}") for day in days]))
    if commits > 1:
        _events(lake, FIRST, 1, "c")
        _repeat_last_commit(lake, commits - 2)
    version = lake.version(SOURCE.name)
    code = code_version(TABLE)
    record = CommitRecord(
        "refresh",
        "r",
        datetime.now(UTC).isoformat(),
        Counts(),
        {SOURCE.name: {UNPARTITIONED: version}, CODE: {UNPARTITIONED: code}},
    )
    made = pl.DataFrame({"event_date": days, "user_id": ["u"] * partitions})
    table = lake.ensure(TABLE.name, made.to_arrow().schema, ["event_date"])
    polars_writer.append_rows(table, made, CommitRecord(**{**record.__dict__, "sequence": 1}), {})


def _repeat_last_commit(lake: Lake, times: int) -> None:
    """Write the log as so many more commits would have left it, its last checkpoint 50 commits back."""
    root, first = Path(lake.path(SOURCE.name)), lake.version(SOURCE.name)
    log = (root / "_delta_log" / f"{first:020}.json").read_text()
    added = next(json.loads(line)["add"] for line in log.splitlines() if '"add"' in line)
    sequence = re.search(r'"appId":"writer","version":(\d+)', log)
    assert sequence
    for n in range(1, times + 1):
        path = added["path"].replace(".parquet", f"-{n}.parquet")
        (root / path).hardlink_to(root / added["path"])
        number = f'"appId":"writer","version":{int(sequence[1]) + n}'
        repeated = log.replace(added["path"], path).replace(sequence[0], number)
        (root / "_delta_log" / f"{first + n:020}.json").write_text(repeated)
        if n == times - 50:
            DeltaTable(root).create_checkpoint()


def _no_spark() -> object:
    raise AssertionError("a plan needs no Spark")


def _events(lake: Lake, day: date, rows: int, name: str) -> None:
    _write(lake, _frame(day, rows, name))


def _write(lake: Lake, frame: pl.DataFrame) -> None:
    table = lake.ensure(SOURCE.name, frame.to_arrow().schema, ["event_date"])
    sequence = max(table.transaction_version("writer") or 0, 0) + 1
    at = datetime.now(UTC).isoformat()
    polars_writer.append_rows(
        table,
        frame,
        CommitRecord("refresh", "r", at, sequence=sequence, counts=Counts(frame.height, frame.height)),
        {},
    )


def _frame(day: date, rows: int, name: str) -> pl.DataFrame:
    """Silver events of a day, the columns that the gold table is made from."""
    start = datetime.combine(day, datetime.min.time(), UTC)
    n = pl.int_range(pl.len(), dtype=pl.Int64)
    return pl.select(pl.int_range(rows)).select(
        event_id=pl.format("{}-{}", pl.lit(name), n),
        event_date=pl.lit(day),
        event_timestamp=pl.lit(start, pl.Datetime("us", "UTC")) + pl.duration(seconds=n % 86_400),
        user_id=pl.format("u{}", n % 2000),
        region_code=pl.lit("EU-W"),
        region_name=pl.lit("West"),
        event_type=pl.lit("click"),
        session_id=pl.format("s{}", n % 3000),
        session_seconds=n % 900,
        amount_usd=(n % 100).cast(pl.Decimal(18, 2)),
    )
