"""The Spark side of the lakehouse: reading tables at a version, staging files.

Only code that processes rows with Spark imports this module. It works with any Spark session;
`spark.provider` creates one.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts.spark_engine import quoted
from medallion_platform.errors import classify
from medallion_platform.lakehouse import paths
from medallion_platform.lakehouse.commit import StagedFile, files_that_may_hold, move_staged_files
from medallion_platform.lakehouse.damaged_files import DamagedFile, verify_file_ends
from medallion_platform.lakehouse.delta_log import FileEntry, FilesGone, LogEntry, files_added
from medallion_platform.lakehouse.lake import files_of
from medallion_platform.lakehouse.polars_writer import read_file_batches
from medallion_platform.spark.provider import delete_folder
from medallion_platform.storage import store

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from deltalake import DeltaTable
    from pyspark.sql import Column
    from pyspark.sql.types import DataType

    from medallion_platform.lakehouse.lake import Lake

DEAD = "_dead"
"""Whether a row that was written was rejected."""
_VIOLATIONS = "_violations"
_PARTITION = "_partition"
_KEPT = "_kept_"
_GLOB = frozenset("*?[]{}\\")
_PLAIN_PATH = re.compile(r"(\w+=[\w.\-]+/)*[\w.\-]+", re.ASCII)


def read(
    spark: SparkSession,
    lake: Lake,
    table: str,
    version: int,
    partitions: tuple[str, Collection[str]] | None = None,
) -> DataFrame:
    """The table as of a version.

    partitions: a column and those of its partitions that are wanted. If the table is partitioned by it, files
    of others are left out, so that nobody waits for them.

    delta-rs reads the log and Spark is given the list of files: Spark's own Delta reader replays the
    log in jobs, which costs a second per table and version before the first row is read.

    Raises:
        DamagedFile: one of these files is missing, or its end is damaged.
    """
    found = lake.open(table, version)
    assert found is not None
    path = lake.path(table)
    entries = files_of(found) if partitions is None else files_that_may_hold(found, *partitions)
    verify_file_ends(found, entries)
    files = [f["path"] for f in entries]
    if _is_plain(found, path, files):
        return _of_files(spark, path, found, files)
    return spark.read.format("delta").option("versionAsOf", version).load(path)


def read_both(
    spark: SparkSession, lake: Lake, table: str, before: int, now: int
) -> tuple[DataFrame, DataFrame] | None:
    """The table as of two versions, the former one first: the columns that both have, in one order.

    None where their rows cannot be compared: the former version was cleaned up, a file is damaged, or a
    column has another type.
    """
    from deltalake.exceptions import DeltaError

    try:
        if lake.open(table, before) is None:
            return None
        old, new = (read(spark, lake, table, version) for version in (before, now))
    except DamagedFile:
        return None  # of a former version; one of the newest fails whoever reads it next
    except DeltaError as error:
        if not classify(error).of_content:
            raise
        return None
    same = [c for c in new.columns if c in old.columns]
    if any(old.schema[c].dataType != new.schema[c].dataType for c in same):
        return None
    return old.select(*map(quoted, same)), new.select(*map(quoted, same))


def appended(spark: SparkSession, lake: Lake, table: str, since: int, until: int) -> DataFrame:
    """The rows that commits after `since` up to `until` added, those of rewritten files included.

    Raises:
        LogGone: one of these commits is no longer in the log.
        FilesGone: a file that one of them added is gone or damaged; it may have been replaced since.
    """
    found = lake.open(table, until)
    assert found is not None
    path = lake.path(table)
    entries = [_entry(added) for added in files_added(path, since, until)]
    files = [entry["path"] for entry in entries]
    try:
        verify_file_ends(found, entries)
    except DamagedFile as error:
        raise FilesGone(f"{path}: not all files are whole that were added after version {since}") from error
    if _is_plain(found, path, files):
        return _of_files(spark, path, found, files)
    feed = (
        spark.read.format("delta")
        .option("readChangeFeed", "true")
        .option("startingVersion", since + 1)
        .option("endingVersion", until)
        .load(path)
    )
    return feed.where(F.col("_change_type") == "insert").drop(
        "_change_type", "_commit_version", "_commit_timestamp"
    )


def _entry(added: LogEntry) -> FileEntry:
    """An `add` action of the log as `files_of` has it."""
    rows = json.loads(added.get("stats") or "{}").get("numRecords")
    return {"path": paths.path_below_table(added["path"]), "size_bytes": added["size"], "num_records": rows}


def _is_plain(table: DeltaTable, path: str, files: Iterable[str]) -> bool:
    """Whether the table is its files: no deletion vectors, no mapped columns, no path with marks
    that Spark reads as a pattern or unescapes in its own way.
    """
    plain = table.protocol().min_reader_version == 1 and not _GLOB & set(path)
    return plain and all(map(_PLAIN_PATH.fullmatch, files))


def _of_files(spark: SparkSession, path: str, table: DeltaTable, files: Sequence[str]) -> DataFrame:
    """The rows of a table's files, with the table's columns in their order."""
    from pyspark.sql.types import StructType

    schema = StructType.fromJson(json.loads(table.schema().to_json()))
    if not files:
        return spark.createDataFrame([], schema)
    found = spark.read.schema(schema).option("basePath", path).parquet(*(f"{path}/{f}" for f in files))
    return found.select(*map(quoted, schema.fieldNames()))


@dataclass(frozen=True)
class ContractColumns:
    """What a contract says of every row, as columns of the frame that is staged.

    partition: text of the partition a rejected row would go to. as_came: column -> column with its value
    before the cast. counters: aggregates over all rows. guard: true, or an error that stops all.
    """

    ok: Column
    violations: Column
    partition: Column
    as_came: Mapping[str, str]
    counters: Mapping[str, Column]
    guard: Column | None


@dataclass(frozen=True)
class StagingResult:
    """Files of one Spark write that wait for their commit."""

    files: list[StagedFile]
    counters: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows that will be in the table."""
        return sum(f.rows for f in self.files)


def stage(
    rows: DataFrame,
    table_path: str,
    partition_by: Sequence[str],
    *,
    columns: Sequence[str],
    checks: ContractColumns | None = None,
    reject: Callable[[Iterator[pl.DataFrame]], None] | None = None,
    inspect: Callable[[DataFrame, Mapping[str, str]], None] | None = None,
) -> StagingResult:
    """Write the good rows as files of the table and the rejected ones beside them, in one pass.

    The split is a partition of the same write: nothing is computed twice, nothing is cached, and
    row counts are read from the files' footers. rows: `columns`, and what the checks refer to.
    Without checks all rows are good.

    reject: is given the rejected rows, some at a time: `row` (a struct: the row as it came),
    `violations`, `partition`. inspect: is given all that was written, with `DEAD`, and by column the one that
    holds a rejected row's value as it came, where the column itself does not.
    """
    # Right below the table: S3A leaves an object in the place of a folder that it emptied.
    folder = f"staged-{uuid.uuid4().hex}"
    observed = Observation()
    kept: dict[str, str] = {}
    if checks is None:
        rows = rows.select(*map(quoted, columns), F.lit(False).alias(DEAD))
    else:
        if checks.counters:
            counters = (c.alias(n) for n, c in checks.counters.items())
            rows = rows.observe(observed, *counters)
        if checks.guard is not None:
            rows = rows.where(checks.guard)
        in_place, kept = _places(rows, partition_by, checks.as_came)
        rows = _with_dead_letters(rows, partition_by, columns, checks, in_place, kept)
    rows.write.partitionBy(DEAD, *partition_by).parquet(f"{table_path}/{folder}")
    if inspect is not None:
        inspect(_written(rows, f"{table_path}/{folder}"), {c: _KEPT + c for c in kept})
    files = move_staged_files(table_path, f"{folder}/{DEAD}=false", partition_by)
    left = sorted(f["path"] for f in store(table_path).list(f"{folder}/{DEAD}=true").collect())
    if reject is not None:
        dead = (batch for f in left if f.endswith(".parquet") for batch in read_file_batches(table_path, f))
        reject(_dead_rows(batch, columns, kept) for batch in dead)
    delete_folder(rows.sparkSession, f"{table_path}/{folder}")
    counted: dict[str, int] = {}
    if checks is not None and checks.counters:
        counted = {name: int(n or 0) for name, n in observed.get.items()}
    return StagingResult(files, counted)


def _written(rows: DataFrame, folder: str) -> DataFrame:
    """What was written of these rows, where it still lies as Spark wrote it."""
    reader = rows.sparkSession.read.schema(rows.schema).option("basePath", folder)
    return reader.option("__globPaths__", "false").parquet(folder)  # as Delta reads its own files


def _places(
    rows: DataFrame, partition_by: Sequence[str], as_came: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Where a dead letter's values before the cast go: (into the columns themselves, into further ones).

    A further column costs every good row a null. It is needed for values of another type, and for
    partition values, which leave the file.
    """
    types = {f.name: f.dataType for f in rows.schema.fields}
    in_place = {c: was for c, was in as_came.items() if c not in partition_by and types[c] == types[was]}
    further = {c: was for c, was in as_came.items() if c not in in_place}
    return in_place, {c: c for c in partition_by} | further


def _with_dead_letters(
    rows: DataFrame,
    partition_by: Sequence[str],
    columns: Sequence[str],
    checks: ContractColumns,
    in_place: Mapping[str, str],
    kept: Mapping[str, str],
) -> DataFrame:
    """The columns of the file to write: those of the table, then what only a dead letter has."""
    bad = ~checks.ok

    def written(column: str) -> Column:
        if column in partition_by:  # dead letters go to one file, not to one per partition
            return F.when(~bad, quoted(column)).alias(column)
        if column in in_place:
            return F.when(bad, quoted(in_place[column])).otherwise(quoted(column)).alias(column)
        return quoted(column)

    return rows.select(
        *map(written, columns),
        bad.alias(DEAD),
        F.when(bad, checks.violations).alias(_VIOLATIONS),
        F.when(bad, checks.partition).alias(_PARTITION),
        *(F.when(bad, quoted(was)).alias(_KEPT + name) for name, was in kept.items()),
    )


def _dead_rows(dead: pl.DataFrame, columns: Sequence[str], kept: Mapping[str, str]) -> pl.DataFrame:
    """Rejected rows as they came: `row` (a struct), `violations`, `partition`."""
    import polars as pl

    # Column by column, by name: an expression would take some names for patterns.
    row = pl.struct(dead[_KEPT + c if c in kept else c].alias(c) for c in columns if not c.startswith("_"))
    return dead.select(
        row.alias("row"),
        pl.col(_VIOLATIONS).alias("violations"),
        pl.col(_PARTITION).alias("partition"),
    )


def rows_appended(
    table_path: str, since: int, until: int, column: str | None, partitions: Iterable[str] | None
) -> int:
    """Rows that commits after `since` up to `until` added, by the log's own statistics."""
    wanted = None if partitions is None else set(partitions)
    total = 0
    for added in files_added(table_path, since, until):
        partition = (added.get("partitionValues") or {}).get(column) if column else None
        if wanted is None or partition in wanted:
            total += json.loads(added["stats"])["numRecords"]
    return total


def spark_types(schema: pa.Schema) -> dict[str, DataType]:
    """Spark's type of every column of an Arrow schema."""
    from pyspark.sql.pandas.types import from_arrow_schema

    return {f.name: f.dataType for f in from_arrow_schema(schema)}
