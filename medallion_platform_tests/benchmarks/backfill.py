"""Years of history in one file: what the platform adds to a bare Spark job that writes the same partitions.

Each side is a process of its own that starts in an empty home. `medallion run` takes the file into bronze,
refreshes gold, and tells Dagster of every partition; Spark, started alike, appends the same rows to one Delta
table by day and writes the sums of the days to another. It is the module of a project (MEDALLION_MODULE) for
which `MEDALLION_BACKFILL` tells the first day.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.table import daily, table
from medallion_platform.sources.connectors.files import FileSource
from medallion_platform.sources.formats.csv import Csv
from medallion_platform_tests.benchmarks import many
from medallion_platform_tests.benchmarks.figure import Figure, cpu_seconds

DAYS, ROWS_A_DAY = 1_800, 200


def measure(rounds: int, days: int = DAYS) -> list[Figure]:
    """CPU seconds of both, with all processes that they start."""
    ours, bare = [], []
    first = datetime.now(UTC).date() - timedelta(days=days)
    os.environ |= {"MEDALLION_BACKFILL": first.isoformat(), "MEDALLION_MODULE": __name__}
    with TemporaryDirectory(prefix="medallion-bench-") as folder:
        for n in range(rounds):
            home = Path(folder) / str(n)
            _fill(home / "landing/sales", first, days)
            ours.append(in_own_process("platform", home))
            bare.append(in_own_process("spark", home))
            lake = Lake(home / "lake")
            assert lake.rows("bronze.sales") == days * ROWS_A_DAY
            assert lake.rows("gold.sales") == Lake(home).rows("spark.gold") == days
    return [
        Figure(
            f"a backfill of {days:,} days in one file, to bronze and gold, CPU seconds of bare Spark",
            [o / b for o, b in zip(ours, bare, strict=True)],
            f"{median(ours):.1f} s against {median(bare):.1f} s for {days * ROWS_A_DAY:,} rows",
        )
    ]


def catalog_of(first: date) -> Catalog:
    """One source with one gold table of a row a day."""
    source = FileSource(
        name="sales",
        table="bronze.sales",
        contract=many.Sales.contract,
        claims=("sales/**",),
        format=Csv(),
        domain="shops",
        first_day=first,
    )
    gold = table(
        "gold.sales",
        contract=many.DailySales.contract,
        inputs={"sales": source.table},
        incremental="replace_partitions",
        partition=daily("event_date"),
    )(many.summed)
    return Catalog((source,), (gold,))


def _fill(landing: Path, first: date, days: int) -> None:
    landing.mkdir(parents=True)
    file = landing / "all.csv"
    with file.open("w") as out:
        out.write("sold_at,euros\n")
        for n in range(days * ROWS_A_DAY):
            out.write(f"{first + timedelta(days=n % days)}T10:00:00Z,{n % 100}\n")
    os.utime(file, (0, 0))  # complete long ago


def in_own_process(side: str, home: Path) -> float:
    """The CPU seconds of one side in a home, with all processes that it starts."""
    command = [sys.executable, "-m", __name__, side, str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def _platform(home: Path) -> None:
    from medallion_platform.cli import app

    app(["run", "--home", str(home)], standalone_mode=False)


def _spark(home: Path) -> None:
    from pyspark.sql import functions as F

    from medallion_platform.installation.local_spark import local_spark

    spark = local_spark().session()
    reader = spark.read.schema("sold_at timestamp, euros long").option("header", True)
    sales = reader.csv(str(home / "landing/sales")).withColumn("event_date", F.to_date("sold_at"))
    _write(sales, home / "spark/bronze")
    _write(many.summed(spark.read.format("delta").load(str(home / "spark/bronze"))), home / "spark/gold")


def _write(rows: many.DataFrame, to: Path) -> None:
    rows.write.format("delta").partitionBy("event_date").save(str(to))


if first_day := os.environ.get("MEDALLION_BACKFILL"):
    catalog = catalog_of(date.fromisoformat(first_day))

if __name__ == "__main__":
    {"platform": _platform, "spark": _spark}[sys.argv[1]](Path(sys.argv[2]))
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(cpu_seconds() + ended.ru_utime + ended.ru_stime)
