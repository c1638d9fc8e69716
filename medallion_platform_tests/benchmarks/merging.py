"""Changes merged into a big table: the platform's refresh against a bare MERGE, by CPU seconds.

Both sides get the same change events of 2 million users, newest image per key wins. The refresh reads them
from bronze, validates every row by the contract, counts what became of each and leaves a table that every
reader can read; the bare side is Delta's MERGE from typed images, once as it is and once with deletion
vectors, which readers outside of Spark have to know.
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import polars as pl

from medallion_platform.installation.local_spark import local_spark
from medallion_platform.lakehouse import polars_writer
from medallion_platform.lakehouse.commit import next_sequence
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.intake.triage import bronze_schema
from medallion_platform.pipeline.refresh import refresh
from medallion_platform.pipeline.run import Run
from medallion_platform_tests.benchmarks.figure import Figure, spent
from medallion_sample.catalog import catalog_of

CATALOG = catalog_of({})
TABLE, SOURCE = CATALOG.by_name["silver.users"], CATALOG.source_of["bronze.users"]
ROWS, CHANGES = 2_000_000, 100_000
BARE = {"plain": "false", "vectors": "true"}
_AT = datetime(2026, 1, 5, tzinfo=UTC)


def measure(rounds: int, rows: int = ROWS, changes: int = CHANGES) -> list[Figure]:
    """The refresh, and both kinds of MERGE, of one batch of changes after the other."""
    spark = local_spark().session(quick=False)
    seconds: dict[str, list[float]] = {"refresh": [], **{name: [] for name in BARE}}
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        _append(lake, _changes(0, rows, "c", 0))

        def bring() -> None:
            done = refresh(TABLE, lake, lambda: spark, Run.now(), partition_columns=CATALOG.partition_columns)
            assert done.record
            assert done.record.counts.missing == 0

        bring()
        for name, vectors in BARE.items():
            there = spark.read.format("delta").load(lake.path(TABLE.name))
            option = "delta.enableDeletionVectors"
            there.write.format("delta").option(option, vectors).save(f"{folder}/{name}")
        for n in range(-1, rounds):
            batch = _next(n + 2, rows, changes)
            _append(lake, batch)
            spent_on = {"refresh": spent(bring)}
            batch.write_parquet(f"{folder}/changes.parquet")
            for name in BARE:
                spent_on[name] = spent(lambda name=name: _merge(spark, folder, name))
            if n >= 0:
                for name, took in spent_on.items():
                    seconds[name].append(took)
        left = {name: spark.read.format("delta").load(f"{folder}/{name}").count() for name in BARE}
        assert left == dict.fromkeys(BARE, lake.rows(TABLE.name)), left

    def figure(name: str, what: str) -> Figure:
        mine, theirs = seconds["refresh"], seconds[name]
        return Figure(
            f"CDC: a refresh of {rows:,} users by {changes:,} changes, CPU seconds of a bare MERGE{what}",
            [m / t for m, t in zip(mine, theirs, strict=True)],
            f"{changes / median(mine):,.0f} changes per CPU-second ({median(mine):.1f} s) against "
            f"{changes / median(theirs):,.0f} ({median(theirs):.1f} s)",
        )

    return [figure("plain", ""), figure("vectors", " with deletion vectors")]


def _changes(first: int, many: int, op: str, offset: int) -> pl.DataFrame:
    """Change events of users, as intake leaves them in bronze."""
    number = pl.int_range(pl.len(), dtype=pl.Int64)
    told = {
        "user_id": pl.format("u{}", number + first),
        "email": pl.format("user{}-{}@example.com", number + first, pl.lit(offset)),
        "phone": pl.format("+1 555 01{}", number % 90 + 10),
        "region_code": pl.lit("EU-W"),
        "signed_up_at": pl.lit(_AT, pl.Datetime("us", "UTC")),
        "_op": pl.lit(op),
        "_sequence": (number + offset).cast(pl.String).str.zfill(20),
        "_changed_at": pl.lit(_AT, pl.Datetime("us", "UTC")),
        "_snapshot": pl.lit(value=False),
        "_source": pl.lit(SOURCE.name),
        "_row": number + offset + 1,
        "_offset": number + offset,
        "_ingested_at": pl.lit(_AT, pl.Datetime("us", "UTC")),
    }
    kinds = pl.DataFrame(pl.from_arrow(bronze_schema(SOURCE).empty_table())).schema
    made = pl.select(pl.int_range(many)).select(
        (told[name] if name in told else pl.lit(None)).cast(kind).alias(name) for name, kind in kinds.items()
    )
    assert isinstance(made, pl.DataFrame)
    return made


def _next(turn: int, rows: int, changes: int) -> pl.DataFrame:
    """Nine updates of scattered users for each insert and delete."""
    offset = rows + 2 * turn * changes
    updates = _changes(0, rows, "u", offset).sample(changes * 9 // 10, seed=turn)
    news = _changes(rows + turn * changes, changes // 20, "c", offset + changes)
    gone = _changes(turn * changes // 20, changes // 20, "d", offset + changes + changes // 2)
    return pl.concat([updates, news, gone])


def _append(lake: Lake, frame: pl.DataFrame) -> None:
    table = lake.ensure(SOURCE.table, bronze_schema(SOURCE), SOURCE.contract.partitioned_by)
    counts = Counts(frame.height, frame.height)
    at = datetime.now(UTC).isoformat()
    polars_writer.append_rows(
        table, frame, CommitRecord("intake", "r", at, counts, sequence=next_sequence(table)), {}
    )


def _merge(spark: object, folder: str, name: str) -> None:
    """The newest image of each key into the table: what a home-grown job does."""
    from delta.tables import DeltaTable
    from pyspark.sql import SparkSession, Window
    from pyspark.sql import functions as F

    assert isinstance(spark, SparkSession)
    newest = Window.partitionBy("user_id").orderBy(F.col("_sequence").desc())
    changes = spark.read.parquet(f"{folder}/changes.parquet")
    changes = changes.withColumn("_n", F.row_number().over(newest)).where("_n = 1")
    target = DeltaTable.forPath(spark, f"{folder}/{name}")
    images = {
        c: F.col(f"s.{c}") for c in target.toDF().columns if c in changes.columns and not c.startswith("_")
    }
    (
        target.alias("t")
        .merge(changes.alias("s"), "t.user_id = s.user_id")
        .whenMatchedDelete("s._op = 'd'")
        .whenMatchedUpdate(set=images)
        .whenNotMatchedInsert("s._op <> 'd'", values=images)
        .execute()
    )
