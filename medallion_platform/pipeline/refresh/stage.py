"""Stage "stage": compute the rows and write them as files that are not visible yet, rejected ones apart.

One write computes everything once: good rows, rejected rows, and the counters of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from medallion_platform.contracts.contract import Severity
from medallion_platform.contracts.violation_fields import broken
from medallion_platform.errors import Kind
from medallion_platform.lakehouse import dead_letters, paths, spark_tables
from medallion_platform.lakehouse.commit import StagedFile
from medallion_platform.lakehouse.commit_record import UNPARTITIONED
from medallion_platform.lakehouse.counts import counted, sum_counts
from medallion_platform.lakehouse.delta_log import FileEntry
from medallion_platform.lakehouse.lake import files_of
from medallion_platform.pipeline.refresh import personal, rows_by_key
from medallion_platform.pipeline.refresh.context import RefreshContext
from medallion_platform.pipeline.refresh.errors import UNTOUCHED, RefreshFailed
from medallion_platform.pipeline.refresh.validate import TypedRows, protect_rows
from medallion_platform.spark.provider import spark_uri

if TYPE_CHECKING:
    import polars as pl

_ROW_COUNT = "_row_count"
_PATH = "__path"

Inspection = Callable[[DataFrame, Mapping[str, str]], None]
"""Is given what was written, good and rejected, and where rejected values stand as they came."""


@dataclass
class Rejects:
    """The rejected rows of one refresh, staged as dead letters; only the rows of one file are in memory."""

    context: RefreshContext
    files: list[StagedFile] = field(default_factory=list)
    violations: dict[str, int] = field(default_factory=dict)
    homeless: int = 0

    @property
    def rows(self) -> int:
        """The number of rejected rows."""
        return sum(f.rows for f in self.files)

    def take(self, batches: Iterator[pl.DataFrame]) -> None:
        """Stage rejected rows, and count their violations."""
        import polars as pl

        run = self.context.run
        for rows in dead_letters.gathered(map(self._told, batches)):
            broken_names = rows["violations"].explode().drop_nulls().value_counts()
            self.violations = sum_counts((self.violations, dict(broken_names.iter_rows())))
            self.homeless += int((rows["partition"] == UNPARTITIONED).sum())
            letters = rows.with_columns(
                pl.lit(self.context.main_table).alias("source"),
                pl.lit(run.at, pl.Datetime("us", "UTC")).alias("at"),
                pl.lit(run.run_id).alias("run_id"),
            )
            self.files.append(dead_letters.stage(self.context.lake, self.context.table.name, letters))

    def _told(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rejected rows in the form of dead letters: their text, and the expectations they violate."""
        import polars as pl

        contract, row = self.context.table.contract, rows["row"].struct
        told = broken(contract, contract.expectations, row.unnest(), rows["violations"])
        payload = row.json_encode().cast(pl.Binary).alias("payload")
        return rows.drop("row").with_columns(payload, told.alias("broken"))


@dataclass(frozen=True)
class StageResult:
    """Files to commit, and the numbers that were counted while they were written.

    written: rows of the transform, without those of other keys. source_row_count: the source rows in an
    aggregate's rows.
    """

    files: list[StagedFile]
    written: int
    rejects: Rejects
    partitions: dict[str, int]
    warnings: dict[str, int]
    masked: dict[str, int]
    source_row_count: int | None


@dataclass(frozen=True)
class OtherKeys:
    """The rows that a merge copies: files with a merged key are replaced, the rows of other keys are kept.

    merged: the keys as text.
    """

    merged: list[str] = field(default_factory=list)
    files: list[StagedFile] = field(default_factory=list)
    replaced: list[FileEntry] = field(default_factory=list)


def stage_rows(context: RefreshContext, validated: TypedRows, inspect: Inspection | None) -> StageResult:
    """Write good and rejected rows as files.

    Raises:
        RefreshFailed: an expectation of severity `fail` was violated, or rows belong to no partition.
    """
    table, result = context.table, validated.result
    counters = dict(result.counters_without_letters)  # observing every row is a third of the gate's cost
    if table.contract.row_count_column:
        counters[_ROW_COUNT] = F.sum(F.col(table.contract.row_count_column))
    counters |= personal.masked_value_counters(table)
    rejects = Rejects(context)
    written = spark_tables.stage(
        validated.rows,
        context.lake.path(table.name),
        table.contract.partitioned_by,
        columns=validated.columns,
        checks=spark_tables.ContractColumns(
            result.ok,
            result.violations,
            rows_by_key.partition_text(table, result.original_columns),
            result.original_columns,
            counters,
            result.guard,
        ),
        reject=rejects.take,
        inspect=inspect,
    )
    _refuse_failures(context, written, rejects)
    row_count = written.counters.pop(_ROW_COUNT, None)
    masked = personal.masked_value_counts(written.counters, validated.masked)
    return StageResult(
        written.files,
        written.rows,
        rejects,
        _rows_by_partition(context, written.files),
        {e: n for e, n in written.counters.items() if n},
        masked,
        row_count,
    )


def _rows_by_partition(context: RefreshContext, files: list[StagedFile]) -> dict[str, int]:
    """Rows of each partition."""
    partition = context.table.partition
    if partition is None:
        return {}
    return sum_counts({f.partition[partition.column] or UNPARTITIONED: f.rows} for f in files)


def _refuse_failures(context: RefreshContext, staged: spark_tables.StagingResult, rejects: Rejects) -> None:
    """Stop if an expectation of severity `fail` was violated; some need all rows to be decided."""
    table = context.table
    column = table.partition.column if table.partition else None
    homeless = column and sum(f.rows for f in staged.files if f.partition[column] is None) + rejects.homeless
    if homeless:
        raise RefreshFailed(
            f"{table.name}: there is no {column} in {counted(homeless, 'rows')}, so that they belong to no "
            f"partition. {UNTOUCHED}",
            remedy="fix the transform (where it makes the column, give every row one) and refresh again",
            table=table.name,
        )
    broken = [e for e in table.contract.named(Severity.FAIL) if staged.counters.get(e)]
    if broken:
        raise RefreshFailed(
            f"{table.name}: the expectation {broken[0]!r} (severity fail) was violated. {UNTOUCHED}",
            remedy="fix the rows upstream or the contract, and refresh again",
            kind=Kind.DATA,
            table=table.name,
        )


def keep_other_keys(context: RefreshContext, changed: DataFrame) -> OtherKeys:
    """Copy the rows of other keys from every file that has a changed key (copy on write).

    Raises:
        RefreshFailed: the number of rows in these files is unknown, or not all of them were read.
    """
    table, lake, spark = context.table, context.lake, context.spark()
    changed, _ = protect_rows(table, changed)  # as the table has them
    merged = sorted({str(r[0]) for r in changed.select(rows_by_key.partition_text(table)).collect()})
    target = lake.open(table.name)
    assert target is not None
    files = {f["path"]: f for f in files_of(target)}
    if not files:
        return OtherKeys(merged)  # of an empty table Spark cannot name the files
    root = lake.path(table.name)
    rows = spark_tables.read(spark, lake, table.name, target.version())
    # Named before the join: behind one Spark no longer knows where a row came from.
    located = rows.withColumn(_PATH, F.col("_metadata.file_path"))
    typed = rows_by_key.cast_keys(table, changed)
    hit = dict(
        rows_by_key.rows_with_keys(table, located, typed, "left_semi").groupBy(_PATH).count().collect()
    )
    if not hit:
        return OtherKeys(merged)
    try:
        names = paths.paths_from_spark(hit, spark_uri(spark, root), files)
    except paths.UnknownFile as error:
        raise RefreshFailed(
            f"{table.name}: {error}, so that its rows cannot be replaced. {UNTOUCHED}",
            remedy="materialize it with `rebuild: true`, which recomputes the whole table",
            table=table.name,
        ) from error
    replaced = [files[name] for name in sorted(names)]
    same_files = located.where(F.col(_PATH).isin(list(hit)))
    kept = rows_by_key.rows_with_keys(table, same_files, typed, "left_anti")
    staged = spark_tables.stage(kept, root, table.contract.partitioned_by, columns=rows.columns)
    others = sum(f["num_records"] for f in replaced) - sum(hit.values())
    if staged.rows != others:
        raise RefreshFailed(
            f"{table.name}: {others} rows of other keys lie in the {len(names)} files to replace, and "
            f"{staged.rows} of them were read. {UNTOUCHED}",
            remedy="refresh again",
            kind=Kind.CORRUPT,
            table=table.name,
        )
    return OtherKeys(merged, staged.files, replaced)
