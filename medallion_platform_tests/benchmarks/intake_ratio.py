"""Intake against a bare Spark read-and-append of the same files, in rows per CPU-second.

Each side is a process of its own that first takes in a small file (imports, JVM and compilers get
warm) and then measures the CPU seconds of the big ones, its children's included. The polars side
checks a contract of the same columns, keeps payload and provenance, drops duplicates and commits with
counts and position; Spark casts to the same types and appends to a Delta table.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from medallion_platform_tests.benchmarks.figure import Figure, cpu_seconds

ROWS, FILES, WARM_ROWS = 400_000, 4, 5_000
COLUMNS = (
    *("event_id", "user_id", "event_type", "event_timestamp", "page", "amount", "currency"),
    *("session_id", "session_start", "session_end", "region_code", "email", "phone"),
)


def measure(rounds: int, rows: int = ROWS) -> list[Figure]:
    """Paired runs of both formats."""
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for form in ("csv", "jsonl"):
            landing = Path(folder) / form
            write(landing, form, rows)
            ours, spark = [], []
            for n in range(rounds):
                ours.append(_in_own_process("polars", form, landing, Path(folder) / f"ours-{form}-{n}"))
                spark.append(_in_own_process("spark", form, landing, Path(folder) / f"spark-{form}-{n}"))
            figures.append(
                Figure(
                    f"intake of {form}, checks included, rows per CPU-second of bare Spark",
                    [s / n for s, n in zip(spark, ours, strict=True)],
                    f"{rows / median(ours):,.0f} rows per CPU-second against {rows / median(spark):,.0f}",
                    "at least 3",
                )
            )
    return figures


def write(landing: Path, form: str, total: int) -> None:
    """Clean events, a few of them redelivered, as `FILES` files and a small one to get warm."""
    chance = random.Random(7)
    for name, rows in [("warm", WARM_ROWS), *((f"part-{n}", total // FILES) for n in range(FILES))]:
        folder = landing / ("warm" if name == "warm" else "events")
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.{form}"
        if form == "jsonl":
            file.write_bytes(json_lines(chance, name, rows))
            continue
        with file.open("w") as out:
            out.write(",".join(COLUMNS) + "\n")
            for n in range(rows):
                out.write(",".join(str(v) for v in _event(chance, f"{name}-{n}").values()) + "\n")


def json_lines(chance: random.Random, name: str, rows: int) -> bytes:
    """Clean events whose ids are `evt-NAME-0` and so on."""
    return b"".join(json.dumps(_event(chance, f"{name}-{n}")).encode() + b"\n" for n in range(rows))


def _event(chance: random.Random, number: str) -> dict[str, Any]:
    at = datetime(2026, 1, 5, tzinfo=UTC) + timedelta(seconds=chance.randrange(7 * 86_400))
    user = chance.randrange(50_000)
    return {
        "event_id": f"evt-{number}",
        "user_id": f"u{user:06}",
        "event_type": chance.choice(["page_view", "click", "search", "add_to_cart", "purchase"]),
        "event_timestamp": at.isoformat(),
        "page": f"/products/{chance.randrange(5_000)}",
        "amount": chance.randrange(100_000) / 100,
        "currency": "USD",
        "session_id": f"s{user:06}-{at.day}",
        "session_start": at.isoformat(),
        "session_end": (at + timedelta(minutes=9)).isoformat(),
        "region_code": chance.choice(["EU-W", "NA-E", "AP-S"]),
        "email": f"user{user}@example.com",
        "phone": f"+1555{user:07}",
    }


def _in_own_process(engine: str, form: str, landing: Path, lake: Path) -> float:
    done = subprocess.run(
        [sys.executable, "-m", __name__, engine, form, str(landing), str(lake)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


def _lean(form: str, landing: Path, lake: Path) -> float:
    from medallion_platform.lakehouse.lake import Lake
    from medallion_platform.pipeline.intake.landing_zone import landed_files
    from medallion_platform.pipeline.intake.polars_engine import intake
    from medallion_platform.pipeline.run import Run
    from medallion_platform.sources.connectors import landing_scan as zone
    from medallion_platform.sources.connectors.files import FileSource
    from medallion_platform.sources.formats.csv import Csv
    from medallion_platform.sources.formats.jsonlines import JsonLines
    from medallion_sample.clickstream.contracts import BronzeEvents

    where = Lake(lake)
    for folder in ("warm", "events"):
        kind = Csv() if form == "csv" else JsonLines()
        source = FileSource(
            folder, f"bronze.{folder}", BronzeEvents.contract, kind, "x", claims=(f"{folder}/**",)
        )
        seen = zone.scan_landing_zone(landing, [source], datetime.now(UTC), 0).claimed[folder]
        before = cpu_seconds()
        run = Run.now()
        taken = intake(landed_files(source, landing, seen, where, run), where, run)
        spent = cpu_seconds() - before
    assert taken.counts.missing == 0, taken
    assert taken.counts.written == taken.counts.read > WARM_ROWS, taken
    return spent


def _spark(form: str, landing: Path, lake: Path) -> float:
    from pyspark.sql import functions as F

    from medallion_platform.contracts.spark_engine import spark_schema
    from medallion_platform.installation.local_spark import local_spark
    from medallion_sample.clickstream.contracts import BronzeEvents

    spark = local_spark().session(quick=False)
    schema = spark_schema(BronzeEvents.contract)
    for folder in ("warm", "warm", "events"):
        reader = spark.read.schema(schema)
        before = cpu_seconds()
        files = str(landing / folder)
        rows = reader.option("header", True).csv(files) if form == "csv" else reader.json(files)
        rows = rows.withColumn("event_date", F.to_date("event_timestamp"))
        rows.write.format("delta").mode("append").partitionBy("event_date").save(str(lake / folder))
        spent = cpu_seconds() - before
    return spent


if __name__ == "__main__":
    engine, form, landing, lake = sys.argv[1:]
    print({"polars": _lean, "spark": _spark}[engine](form, Path(landing), Path(lake)))
