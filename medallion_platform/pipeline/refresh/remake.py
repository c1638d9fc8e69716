"""The Spark half of a refresh: read what the plan names, transform, validate, stage.

Imported only when there are rows to make. Nothing in here commits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from medallion_platform.contracts import spark_engine as contracts
from medallion_platform.contracts.contract import Severity
from medallion_platform.contracts.masking import NoTokenKey
from medallion_platform.contracts.spark_engine import quoted
from medallion_platform.lakehouse import dead_letters, paths, polars_writer
from medallion_platform.lakehouse import spark as engine
from medallion_platform.lakehouse.commit import StagedFile
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.counts import Counts, summed
from medallion_platform.lakehouse.delta_log import LogGone, commits
from medallion_platform.lakehouse.evolution import Evolution, evolve
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.pipeline.refresh import personal, reconcile
from medallion_platform.pipeline.refresh.lineage import Lineage, lineage
from medallion_platform.pipeline.refresh.plan import RefreshPlan, Upstreams, upstream_days
from medallion_platform.pipeline.refresh.reconcile import RefreshRefusal
from medallion_platform.storage import of_request, reason

if TYPE_CHECKING:
    import polars as pl

    from medallion_platform.pipeline.run import Run
    from medallion_platform.pipeline.table import Lookup, Table

STALE = "_stale_dimension"
"""Whether a row was enriched from a lookup that was behind its own upstream."""

_ROW_COUNT = "_row_count"
_PATH = "__path"
_KEY = "__key_"
_IGNORED_IN_LOOKUPS = ("effective_to", "is_current")


class Widening(Exception):
    """A column becomes wider: all files must be written anew, not only those of some partitions or keys."""


@dataclass
class Rejects:
    """The rejected rows of one refresh, staged as dead letters as they come: a file of them is in memory."""

    table: Table
    lake: Lake
    run: Run
    files: list[StagedFile] = field(default_factory=list)
    violations: dict[str, int] = field(default_factory=dict)
    homeless: int = 0

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(f.rows for f in self.files)

    def take(self, batches: Iterator[pl.DataFrame]) -> None:
        """Stage them, and count what they violate."""
        import polars as pl

        for rows in dead_letters.gathered(batches):
            told = rows["violations"].explode().drop_nulls().value_counts()
            self.violations = summed((self.violations, dict(told.iter_rows())))
            self.homeless += int((rows["partition"] == UNPARTITIONED).sum())
            letters = rows.with_columns(
                pl.col("payload").cast(pl.Binary),
                pl.lit(self.table.main[1].table).alias("source"),
                pl.lit(self.run.at, pl.Datetime("us", "UTC")).alias("at"),
                pl.lit(self.run.run_id).alias("run_id"),
            )
            self.files.append(dead_letters.stage(self.lake, self.table.name, letters))


@dataclass
class PendingRefresh:
    """Staged files and what is known of them; `keys` are the merged keys as text."""

    files: list[StagedFile]
    rejects: Rejects
    counts: Counts
    partitions: dict[str, int] = field(default_factory=dict)
    violations: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    replaced_files: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    whole: bool = False
    schema: pa.Schema | None = None
    source_row_count: int | None = None
    lineage: Lineage = field(default_factory=Lineage)
    masked: dict[str, int] = field(default_factory=dict)


def remake(
    table: Table,
    lake: Lake,
    spark: SparkSession,
    plan: RefreshPlan,
    last: CommitRecord | None,
    upstreams: Upstreams,
    partition_columns: Mapping[str, str | None],
    run: Run,
    *,
    stale: bool,
) -> PendingRefresh:
    """Make the rows that `plan` names and stage them; creates or evolves the table first."""
    keys = _changed_keys(table, lake, spark, last, upstreams) if plan.merge else None
    if keys is not None and _has_null(keys):
        keys = None  # a table-level event (truncate) concerns every key
    merging = keys is not None
    whole = plan.whole or (plan.merge and not merging)
    frames = _frames(table, lake, spark, plan, last, upstreams, partition_columns, keys)
    rows = returned = table.transform(**frames)
    _refuse_other_columns(table, rows)
    read = {source.table: frames[argument].columns for argument, source in table.inputs.items()}
    origins = lineage(_plan_of(rows), rows.columns, read)
    if table.partition and not whole:
        wanted = sorted((plan.append | plan.replace) - {UNPARTITIONED})
        partition = F.col(table.partition.column)
        rows = rows.where(partition.isNull() | partition.cast("string").isin(wanted))
    if merging:
        # What stands without a key is as it was made with the whole table.
        rows = rows.where(quoted(table.recompute_key[0]).isNotNull())
    rows, masked = _protect(table, rows)
    if table.lookups:
        rows = rows.withColumn(STALE, F.lit(stale))
    validated = contracts.validate(table.contract, rows)
    frame, columns, evolution = _fit(table, lake, validated, whole)
    counters = dict(validated.left_in_place)  # observing every row is a third of the gate's cost
    if table.contract.row_count_column:
        counters[_ROW_COUNT] = F.sum(F.col(table.contract.row_count_column))
    counters |= personal.counters(table)
    came, main = frames[table.main[0]], table.main[1].table
    rejects = Rejects(table, lake, run)
    by_key = 0

    def look(written: DataFrame, kept: Mapping[str, str]) -> None:
        nonlocal by_key
        by_key = reconcile.read_by_key(table, came, written, kept, merging=merging)

    staged = engine.stage(
        frame,
        lake.path(table.name),
        table.contract.partitioned_by,
        columns=columns,
        verdict=engine.Verdict(
            validated.ok,
            validated.violations,
            _partition_text(table, validated.was),
            validated.was,
            counters,
            validated.guard,
        ),
        reject=rejects.take,
        look=look if table.incremental == "merge_by_key" else None,
    )
    _refuse_failures(table, staged, rejects)
    made = PendingRefresh(
        staged.files, rejects, Counts(), whole=whole, schema=evolution.schema, lineage=origins
    )
    made.violations = rejects.violations
    made.source_row_count = staged.counters.pop(_ROW_COUNT, None)
    made.masked = personal.told(staged.counters, masked)
    made.warnings = {e: n for e, n in staged.counters.items() if n}
    made.notes = [f"{c}: {why}" for c, why in evolution.refused.items()]
    made.notes += [f"new column: {c}" for c in evolution.added]
    made.notes += [f"widened column: {c}" for c in evolution.widened]
    if table.partition:
        for f in staged.files:
            partition = f.partition[table.partition.column] or UNPARTITIONED
            made.partitions[partition] = made.partitions.get(partition, 0) + f.rows
    if keys is not None:
        _keep_other_keys(table, lake, spark, keys, made)
    written, dead = staged.rows, rejects.rows
    if table.incremental == "merge_by_key":
        if whole and table.source_row_count == "1":
            reconcile.refuse_unread_rows(table, lake, upstreams.heads[main], by_key)
        made.counts = Counts(by_key, written, dead, superseded=by_key - written - dead)
    elif table.incremental == "append":
        made.counts = reconcile.counts_of_rows(
            table, lake, plan, last, upstreams, partition_columns[main], came, returned, written, dead
        )
    else:
        made.counts = Counts(written + dead, written, dead)  # the source rows that it stands for are compared
    if made.source_row_count is not None:
        reconcile.refuse_lost_counts(
            table, lake, plan, upstreams, partition_columns[main], made.source_row_count
        )
    return made


def _plan_of(rows: DataFrame) -> str:
    """The analyzed plan, its first line the columns of the frame."""
    frame: Any = rows.select(*map(quoted, rows.columns))
    return str(frame._jdf.queryExecution().analyzed().toString())


def _refuse_other_columns(table: Table, rows: DataFrame) -> None:
    """A column that the transform forgot, or spelled otherwise, would be null in every row."""
    missing = [c for c in table.contract.column_names if c not in rows.columns]
    if missing:
        further = [c for c in rows.columns if c not in table.contract.by_name]
        returned = f", and returns {', '.join(further)} (not declared)" if further else ""
        raise RefreshRefusal(
            f"{table.name}: its transform returns no column {', '.join(missing)} (declared){returned}. "
            "Nothing was written, the table is as it was; mend the one or the other and refresh again."
        )


def _protect(table: Table, rows: DataFrame) -> tuple[DataFrame, Observation | None]:
    try:
        return personal.protect(table, rows)
    except NoTokenKey as error:
        raise RefreshRefusal(
            f"{table.name}: its contract asks for tokens, and {error}. Nothing was written, the table "
            "is as it was; refresh again then."
        ) from None


def _refuse_failures(table: Table, staged: engine.StagingResult, rejects: Rejects) -> None:
    """What holds for the frame as a whole is only known when all of it was seen."""
    column = table.partition.column if table.partition else None
    homeless = column and sum(f.rows for f in staged.files if f.partition[column] is None) + rejects.homeless
    if homeless:
        raise RefreshRefusal(
            f"{table.name}: {homeless} rows have no {column}, so they belong to no partition. Nothing was "
            "written, the table is as it was; mend the transform (where it makes the column, give every row "
            "one) and refresh again."
        )
    broken = [e for e in table.contract.named(Severity.FAIL) if staged.counters.get(e)]
    if broken:
        raise RefreshRefusal(
            f"{table.name}: the expectation {broken[0]!r} (severity fail) was violated. Nothing was written, "
            "the table is as it was. Mend the rows upstream or the contract, and refresh again."
        )


def partitions_affected(
    table: Table,
    lake: Lake,
    spark: SparkSession,
    lookup: Lookup,
    before: int,
    now: int,
    existing: set[str],
) -> set[str]:
    """Partitions that hold rows which the lookup's newest history enriches differently.

    A history row that is new or changed at `effective_from` concerns the rows of its key from
    then on; the earliest one of a key also those before it.
    """
    assert table.partition is not None
    if before < 0 or not existing:
        return existing
    new = engine.read(spark, lake, lookup.table, now).drop(*_IGNORED_IN_LOOKUPS)
    try:
        old = engine.read(spark, lake, lookup.table, before).drop(*_IGNORED_IN_LOOKUPS)
        same = [quoted(c) for c in new.columns if c in old.columns]
        changed = (
            new.select(*same)
            .exceptAll(old.select(*same))
            .unionByName(old.select(*same).exceptAll(new.select(*same)))
        )
        since = changed.groupBy(lookup.key).agg(F.min("effective_from").alias("_since"))
        first = (
            new.select(*same)
            .unionByName(old.select(*same))
            .groupBy(lookup.key)
            .agg(F.min("effective_from").alias("_first"))
        )
        since = since.join(first, lookup.key).withColumn(
            "_since", F.when(F.col("_since") > F.col("_first"), F.col("_since"))
        )
        rows = engine.read(spark, lake, table.name, lake.version(table.name))
        event_time = F.col(str(table.contract.event_time))
        hit = rows.join(
            F.broadcast(since.withColumnRenamed(lookup.key, "_key")),
            (rows[lookup.by] == F.col("_key")) & (F.col("_since").isNull() | (event_time >= F.col("_since"))),
        )
        partition = F.col(table.partition.column).cast("string")
        found = {str(r[0]) for r in hit.select(partition).distinct().collect()}
        return found | _rejected_partitions(table, lake, lookup, {str(r[0]) for r in since.collect()})
    except PySparkException:
        return existing  # the old version is gone: whatever may be affected is recomputed


def _rejected_partitions(table: Table, lake: Lake, lookup: Lookup, keys: set[str]) -> set[str]:
    """Partitions of dead letters that point to `keys`: what the lookup says now may make good rows of
    them.
    """
    found: set[str] = set()
    for letters in dead_letters.batches(lake, table.name):
        # Not by a JSON path, for which a mark in a name has a meaning.
        told = [json.loads(payload).get(lookup.by) for payload in letters["payload"]]
        partitions = zip(letters["partition"], told, strict=True)
        found |= {
            partition
            for partition, key in partitions
            if partition != UNPARTITIONED and key is not None and str(key) in keys
        }
    return found


def stale_lookups(table: Table, lake: Lake) -> tuple[str, ...]:
    """Lookups that are behind their own upstream: their refresh failed, the last good one serves."""
    found = []
    for lookup in table.lookups.values():
        record = lake.last_record(lookup.table, ("refresh", "restore"))
        for upstream, versions in (record.position if record else {}).items():
            if "." in upstream and _has_changed(lake, upstream, versions.get(UNPARTITIONED, -1)):
                found.append(lookup.table)
                break
    return tuple(found)


def _has_changed(lake: Lake, table: str, since: int) -> bool:
    """Whether rows came or went since a version; upkeep and commits without rows do not count."""
    try:
        return any(
            c.appended or c.rewritten for c in commits(lake.path(table), since, lake.version(table), None)
        )
    except LogGone:
        return True


def is_about_rows(error: Exception) -> bool:
    """Whether the engine's text may quote a row; what fails before rows are read names columns only."""
    return isinstance(error, PySparkException) and not isinstance(error, AnalysisException)


def explain(table: str, error: Exception) -> str:
    """A failure in words, without row values: what broke, that nothing was written, what to do."""
    text = str(error)
    guard = re.search(r"a row violates (['\"])(.+?)\1(?: SQLSTATE|$)", text, re.MULTILINE)
    if guard:
        return (
            f"{table}: the expectation '{guard[2]}' (severity fail) was violated. Nothing was written, "
            "the table is as it was. Look at the rows upstream that break it, mend them or the "
            "contract, and refresh again."
        )
    if of_request(error):
        return (
            f"{table}: a request to the bucket failed: {reason(error)}. Nothing was written, the table is as "
            "it was; mend the cause and refresh again."
        )
    kind = type(error).__name__
    condition = error.getCondition() if isinstance(error, PySparkException) else None
    first = text.strip().splitlines()[0][:300] if text.strip() else kind
    if isinstance(error, PySparkException) and str(error.getSqlState()).startswith("22"):
        first = "a row's value does not fit"  # SQLSTATE 22 is a data exception: the text quotes the value
    return (
        f"{table}: its transform failed ({condition or kind}: {first}). Nothing was written, the "
        "table is as it was; mend the cause and refresh again."
    )


def _frames(
    table: Table,
    lake: Lake,
    spark: SparkSession,
    plan: RefreshPlan,
    last: CommitRecord | None,
    upstreams: Upstreams,
    partition_columns: Mapping[str, str | None],
    keys: DataFrame | None,
) -> dict[str, DataFrame]:
    main = table.main[1].table
    frames: dict[str, DataFrame] = {}

    def new_rows() -> DataFrame:
        assert last is not None
        return engine.appended(spark, lake, main, last.position[main][UNPARTITIONED], upstreams.heads[main])

    for argument, source in table.inputs.items():
        # Not made where only new rows count: it names every file of the table.
        read = partial(engine.read, spark, lake, source.table, upstreams.heads[source.table])
        column = partition_columns[source.table]
        appends = source.table == main and bool(plan.append) and not plan.whole
        if argument in table.upstreams and table.partition and column and not plan.whole:
            days = sorted(upstream_days(table, source.table, plan.replace))
            if appends:
                added = sorted(upstream_days(table, main, plan.append))
                frame = new_rows().where(F.col(column).isin([_date(d) for d in added]))
                if days:
                    again = read().where(F.col(column).cast("string").isin(days))
                    frame = frame.unionByName(again, allowMissingColumns=True)
            else:
                days = sorted(upstream_days(table, source.table, plan.append | plan.replace))
                frame = read().where(F.col(column).isin([_date(d) for d in days]))
        elif appends:
            frame = new_rows()
        elif source.table == main and keys is not None:
            frame = read()
            # Rows without a key are about the whole table (a truncate): every key needs them.
            null_key = F.col(table.recompute_key[0]).isNull()
            frame = _of_keys(table, frame, keys, "left_semi").unionByName(frame.where(null_key))
        else:
            frame = read()
        frames[argument] = frame
    return frames


def _date(text: str) -> Any:
    from datetime import date

    return date.fromisoformat(text)


def _changed_keys(
    table: Table,
    lake: Lake,
    spark: SparkSession,
    last: CommitRecord | None,
    upstreams: Upstreams,
) -> DataFrame | None:
    """The distinct keys whose upstream rows changed; None where that cannot be told any more."""
    assert last is not None
    main = table.main[1].table
    before, now = last.position[main][UNPARTITIONED], upstreams.heads[main]
    change = upstreams.changed[main]
    try:
        if change is not None and not change.rewritten:
            changed = engine.appended(spark, lake, main, before, now)
        else:
            new = engine.read(spark, lake, main, now)
            old = engine.read(spark, lake, main, before)
            same = [quoted(c) for c in new.columns if c in old.columns]
            new, old = new.select(*same), old.select(*same)
            changed = new.exceptAll(old).unionByName(old.exceptAll(new))
        if "_op" in changed.columns:
            # A tombstone has no key either, and says nothing that its delete did not say.
            changed = changed.where(F.col("_op") != "tombstone")
        keys = changed.select(*table.recompute_key).distinct().cache()
        keys.count()
        return keys
    except PySparkException:
        return None


def _has_null(keys: DataFrame) -> bool:
    return bool(keys.where(F.col(keys.columns[0]).isNull()).take(1))


def _keep_other_keys(
    table: Table, lake: Lake, spark: SparkSession, keys: DataFrame, made: PendingRefresh
) -> None:
    """Carry over the other keys' rows of every file that holds a changed key (copy on write)."""
    keys, _ = _protect(table, keys)  # as the table has them
    made.keys = [str(r[0]) for r in keys.select(_partition_text(table)).distinct().collect()]
    target = lake.open(table.name)
    assert target is not None
    files = {f["path"]: f for f in files_of(target)}
    if not files:
        return  # of an empty table Spark cannot name the files
    root = lake.path(table.name)
    rows = engine.read(spark, lake, table.name, target.version())
    # Named before the join: behind one Spark no longer knows where a row came from.
    located = rows.withColumn(_PATH, F.col("_metadata.file_path"))
    typed = _typed(table, keys)
    hit = dict(_of_keys(table, located, typed, "left_semi").groupBy(_PATH).count().collect())
    if not hit:
        return
    try:
        names = paths.by_spark(hit, engine.name_of(spark, root), files)
    except paths.Unknown as error:
        raise RefreshRefusal(
            f"{table.name}: {error}, so that its rows cannot be replaced. Nothing was written, the table is "
            "as it was; materialize it with `rebuild: true`, which makes it anew as a whole"
        ) from error
    made.replaced_files = [files[name] for name in sorted(names)]
    same_files = located.where(F.col(_PATH).isin(list(hit)))
    kept = _of_keys(table, same_files, typed, "left_anti")
    staged = engine.stage(kept, root, table.contract.partitioned_by, columns=rows.columns)
    others = sum(f["num_records"] for f in made.replaced_files) - sum(hit.values())
    if staged.rows != others:
        raise RefreshRefusal(
            f"{table.name}: {others} rows of other keys lie in the {len(names)} files to replace, and "
            f"{staged.rows} of them were read. Nothing was written, the table is as it was; refresh again"
        )
    made.files = [*made.files, *staged.files]


def _typed(table: Table, keys: DataFrame) -> DataFrame:
    """The keys in the types of the table, as the gate reads them; one that it cannot read is in no row."""
    types = {f.name: f.dataType for f in keys.schema.fields}
    typed = {
        c: contracts.convert(F.col(c), types[c], table.contract.column(c).type) for c in table.recompute_key
    }
    readable = [F.col(c).isNull() | value.isNotNull() for c, value in typed.items()]
    return keys.where(reduce(Column.__and__, readable)).select(*(v.alias(c) for c, v in typed.items()))


def _of_keys(
    table: Table, rows: DataFrame, keys: DataFrame, how: Literal["left_semi", "left_anti"]
) -> DataFrame:
    """The rows of these keys, or of all others; a null is the same as another one."""
    names = {c: f"{_KEY}{n}" for n, c in enumerate(table.recompute_key)}
    small = keys.select(*(F.col(c).alias(name) for c, name in names.items()))
    same = [F.col(c).eqNullSafe(F.col(name)) for c, name in names.items()]
    return rows.join(F.broadcast(small), reduce(Column.__and__, same), how)


def _fit(
    table: Table, lake: Lake, validated: contracts.SparkValidationResult, whole: bool
) -> tuple[DataFrame, list[str], Evolution]:
    """Create the table or evolve its schema; gives rows in its types, its columns, the change."""
    rows = validated.df
    wanted = _arrow_schema(rows.select(*map(quoted, validated.columns)))
    current = lake.open(table.name)
    if current is None:
        lake.ensure(table.name, wanted, table.contract.partitioned_by)
        return rows, validated.columns, Evolution(wanted)
    evolution = evolve(pa.schema(current.schema()), wanted)
    if evolution.widened and not whole:
        raise Widening
    if evolution.added and not whole:
        added = [evolution.schema.field(c) for c in evolution.added]
        polars_writer.add_columns(current, pa.schema(added))
    types = engine.spark_types(evolution.schema)
    given = dict(rows.dtypes)
    fitted = {c: quoted(c).cast(t) for c, t in types.items() if c in given and given[c] != t.simpleString()}
    fitted |= {c: F.lit(None).cast(t) for c, t in types.items() if c not in given}
    return rows.withColumns(fitted) if fitted else rows, list(types), evolution


def _arrow_schema(rows: DataFrame) -> pa.Schema:
    schema = to_arrow_schema(rows.schema, timezone="UTC")
    return pa.schema([pa.field(f.name, _delta_type(f.type), True) for f in schema])


def _delta_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC")
    if pa.types.is_list(kind):
        return pa.list_(_delta_type(kind.value_type))
    return kind


def _partition_text(table: Table, was: Mapping[str, str] | None = None) -> Column:
    """The partition of a row as text. was: where keys stand as they came, if the gate reads them
    otherwise.
    """
    if table.incremental == "merge_by_key":
        came = {c: c for c in table.recompute_key} | dict(was or {})
        parts = [F.coalesce(quoted(came[c]).cast("string"), F.lit("")) for c in table.recompute_key]
        # Several as JSON: no value of one can look like the border to the next.
        return parts[0] if len(parts) == 1 else F.to_json(F.array(*parts))
    if table.partition:
        return F.coalesce(F.col(table.partition.column).cast("string"), F.lit(UNPARTITIONED))
    return F.lit(UNPARTITIONED)
