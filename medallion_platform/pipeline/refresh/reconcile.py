"""Stage "reconcile": is every row that was read accounted for? Checked before anything is committed.

What is checked depends on the declaration. `append`: each upstream row gives one row. `merge_by_key`: each
key gives at least one row unless a change deleted it, and further rows are superseded. An aggregate with a
row_count_column: its counts add up. `source_row_count` declares upstream rows that count as none or as
several. A difference is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from medallion_platform.contracts import spark_engine as contracts
from medallion_platform.contracts.spark_engine import quoted
from medallion_platform.errors import Kind
from medallion_platform.lakehouse import spark as engine
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.pipeline.refresh import personal
from medallion_platform.pipeline.refresh.commit import PendingRefresh
from medallion_platform.pipeline.refresh.context import RefreshContext
from medallion_platform.pipeline.refresh.errors import UNTOUCHED, RefreshFailed
from medallion_platform.pipeline.refresh.inputs import Inputs
from medallion_platform.pipeline.refresh.plan import upstream_days
from medallion_platform.pipeline.refresh.stage import Inspection, OtherKeys, StageResult
from medallion_platform.pipeline.refresh.transform import TransformResult
from medallion_platform.pipeline.refresh.validate import TypedRows

if TYPE_CHECKING:
    from medallion_platform.pipeline.table import Table

_N = "_n"
_KEY = "__key_"
_UNIQUE = "__unique_"
_UPSERTS = ("c", "r", "u")
_PLACE = ("_sequence", "_offset", "_source")
_TRUNCATE = "t"


@dataclass
class Accounts:
    """What one refresh read, held against what became of it."""

    context: RefreshContext
    inputs: Inputs
    made: TransformResult
    _read_by_key: int = 0

    @property
    def inspection(self) -> Inspection | None:
        """Looks at what was written while it lies as Spark wrote it, where keys tell what was lost."""
        return self._inspect if self.context.table.incremental == "merge_by_key" else None

    def balanced(self, validated: TypedRows, staged: StageResult, others: OtherKeys) -> PendingRefresh:
        """What was staged, ready to be committed.

        Raises:
            RefreshFailed: rows are lost or doubled.
        """
        evolution = validated.evolution
        notes = [f"{c}: {why}" for c, why in evolution.refused.items()]
        notes += [f"new column: {c}" for c in evolution.added]
        notes += [f"widened column: {c}" for c in evolution.widened]
        counts = self._counts(staged.written, staged.rejects.rows)
        if staged.source_row_count is not None:
            refuse_lost_counts(self.context, staged.source_row_count)
        return PendingRefresh(
            [*staged.files, *others.files],
            staged.rejects.files,
            counts,
            self.inputs.whole,
            evolution.schema,
            self.made.lineage,
            others.merged,
            others.replaced,
            staged.partitions,
            staged.rejects.violations,
            staged.warnings,
            staged.masked,
            notes,
            staged.source_row_count,
        )

    @property
    def _came(self) -> DataFrame:
        """What was read of the main upstream."""
        return self.inputs.frames[self.context.table.main[0]]

    def _inspect(self, written: DataFrame, kept: Mapping[str, str]) -> None:
        merging = self.inputs.keys is not None
        self._read_by_key = read_by_key(self.context.table, self._came, written, kept, merging=merging)

    def _counts(self, written: int, dead: int) -> Counts:
        """Which way the rows went that were read; written, dead: rows of the transform that were staged."""
        table, read = self.context.table, self._read_by_key
        if table.incremental == "merge_by_key":
            if self.inputs.whole and table.source_row_count == "1":
                _refuse_unread_rows(self.context, read)
            return Counts(read, written, dead, superseded=read - written - dead)
        if table.incremental == "append":
            return _counts_of_rows(self.context, self._came, self.made.returned, written, dead)
        return Counts(written + dead, written, dead)  # the source rows that it stands for are compared


def _counts_of_rows(
    context: RefreshContext, came: DataFrame, returned: DataFrame, written: int, dead: int
) -> Counts:
    """The counts of `incremental="append"`: what was read is measured apart from what was made of it.

    came: what was read of the main upstream. returned: what the transform made of it, partitions included
    that nobody asked for.
    """
    table, main = context.table, context.main
    if table.partition and not context.plan.whole and context.main_column is None:
        # Only the transform says which of the rows are of these partitions.
        partition = F.col(table.partition.column)
        others = returned.where(
            partition.isNotNull() & ~partition.cast("string").isin(context.wanted)
        ).count()
        read = _source_rows_of(table, came) - others
    elif table.source_row_count != "1":
        read = _source_rows_of(table, came)
    else:
        read = rows_by_log(context)
    if read != written + dead:
        each = (
            "each of them gives one"
            if table.source_row_count == "1"
            else f"they give {read} ({table.source_row_count})"
        )
        raise RefreshFailed(
            f"{table.name}: its transform returns {written + dead} rows where {read} are to be made of those "
            f"that were read of {main}, since {each}. {UNTOUCHED}; fix the transform (a filter or a join "
            "that drops or doubles rows is the usual cause), or declare by `source_row_count` how many rows "
            "an upstream row gives, and refresh again.",
            table=table.name,
        )
    return Counts(read, written, dead)


def rows_by_log(context: RefreshContext) -> int:
    """Upstream rows that are to be read, by the log's own statistics."""
    table, lake, plan = context.table, context.lake, context.plan
    main, column, head = context.main, context.main_column, context.upstreams.heads[context.main]
    days = None
    if table.partition and not plan.whole:
        days = upstream_days(table, main, plan.replace)
    read = 0
    if plan.append:
        appended_to = upstream_days(table, main, plan.append) if table.partition and column else None
        read += engine.rows_appended(lake.path(main), context.base(main), head, column, appended_to)
    if plan.whole or plan.replace:
        read += lake_rows(lake, main, head, column, days)
    return read


def lake_rows(
    lake: Lake, table: str, version: int, column: str | None = None, partitions: set[str] | None = None
) -> int:
    """Rows of a table's version (of some of its partitions), by the log's statistics."""
    found = lake.open(table, version)
    if found is None:
        return 0
    return sum(
        f["num_records"]
        for f in files_of(found)
        if partitions is None or str(f.get(f"partition.{column}")) in partitions
    )


def _refuse_unread_rows(context: RefreshContext, read: int) -> None:
    """Compare what Spark read of the main upstream's version with its log."""
    main = context.main
    if read != (there := lake_rows(context.lake, main, context.upstreams.heads[main])):
        raise RefreshFailed(
            f"{context.table.name}: {read} rows of {main} were read, and by its Delta log there are {there}. "
            f"{UNTOUCHED}; refresh again; if that does not help, check its files.",
            kind=Kind.CORRUPT,
            table=context.table.name,
        )


def _source_rows_of(table: Table, came: DataFrame) -> int:
    ((found,),) = _with_counts(table, came).agg(F.sum(_N)).collect()
    return int(found or 0)


def _with_counts(table: Table, came: DataFrame) -> DataFrame:
    """The upstream's rows with how many rows each of them stands for."""
    try:
        return came.withColumn(
            _N, F.coalesce(F.expr(f"CAST(({table.source_row_count}) AS BIGINT)"), F.lit(0))
        )
    except AnalysisException as error:
        why = str(error).strip().splitlines()[0]
        raise RefreshFailed(
            f"{table.name}: source_row_count={table.source_row_count!r} says nothing of a row of "
            f"{table.main[1].table} ({why}). "
            f"{UNTOUCHED}; fix the declaration and refresh again.",
            table=table.name,
        ) from None


def read_by_key(
    table: Table, came: DataFrame, written: DataFrame, kept: Mapping[str, str], *, merging: bool
) -> int:
    """The upstream rows that were read, if each of their keys is accounted for in what was written.

    A key is accounted for by any row, good or rejected; without one, by an upstream row that counts for
    nothing or says that the key was deleted. What is read and not written was superseded then.

    written: what was staged, with `DEAD`. kept: see `engine.stage`. merging: `came` are the rows of some keys
    only, and those without a key, which concern all of them.

    Raises:
        RefreshFailed: a key is lost, has more rows than there were, or was never in the upstream.
    """
    main, told = table.main[1].table, ", ".join(table.recompute_key)
    if not set(table.recompute_key) <= set(came.columns):
        read, made = _source_rows_of(table, came), written.count()
        if read == made:
            return read
        _refuse(table, f"{main} has no column {told}, so missing keys cannot be found")
    if merging:
        came = came.where(quoted(table.recompute_key[0]).isNotNull())
    upstream, made = _upstream_keys(table, came), _made_keys(table, written, kept)
    names = [f"{_KEY}{n}" for n in range(len(table.recompute_key))]
    same = reduce(Column.__and__, [upstream[c].eqNullSafe(made[c]) for c in names])
    both = upstream.join(made, same, "full_outer")
    gone = F.col("gone")
    if "_op" in came.columns:
        both = both.crossJoin(F.broadcast(_truncates(came)))
        gone |= _may_be_truncated(_places(came))
    said = both.agg(
        F.sum(_N).alias("read"),
        F.count_if(F.col("made").isNull() & ~gone).alias("lost"),
        F.count_if(F.col(_N).isNull()).alias("others"),
        F.count_if(F.col("made") > F.col(_N)).alias("more"),
        F.count_if(F.col("same") > 1).alias("doubled"),
    ).first()
    assert said is not None
    if said.lost:
        _refuse(
            table,
            f"{said.lost} keys ({told}) of {main} are neither in the rows that its transform returns nor "
            "among the rejected ones, and nothing says that they were deleted",
        )
    if said.others:
        _refuse(table, f"its transform returns {said.others} keys ({told}) that {main} does not have")
    if said.more:
        _refuse(table, f"its transform returns more rows of {said.more} keys ({told}) than {main} has")
    if said.doubled:
        unique = ", ".join(table.contract.key)
        _refuse(table, f"its transform returns several rows of one key ({unique}), {said.doubled} times")
    return int(said.read or 0)


def _refuse(table: Table, why: str) -> None:
    raise RefreshFailed(
        f"{table.name}: {why}. {UNTOUCHED}; fix the transform, or declare by `source_row_count` which "
        "upstream rows give no row or several, and refresh again.",
        table=table.name,
    )


def _upstream_keys(table: Table, came: DataFrame) -> DataFrame:
    """Of each key upstream: how many rows it gives, whether a row says that it is gone, when it came last."""
    gone, facts = F.col(_N) == 0, _places(came)
    if "_op" in came.columns:
        gone |= ~F.coalesce(F.col("_op").isin(*_UPSERTS), F.lit(False))
    further = [F.max(c).alias(c) for c in facts]
    if facts:
        further.append(F.min("_source").alias("_first_source"))
    rows = _with_counts(table, came).select(
        *map(quoted, table.recompute_key), _N, gone.alias("_gone"), *facts
    )
    rows, _ = personal.protect(table, rows)
    kinds = {f.name: f.dataType for f in rows.schema.fields}
    texts = [
        _text(quoted(c), kinds[c], table, c).alias(f"{_KEY}{n}") for n, c in enumerate(table.recompute_key)
    ]
    return (
        rows.select(*texts, _N, "_gone", *facts)
        .groupBy(*(f"{_KEY}{n}" for n in range(len(texts))))
        .agg(F.sum(_N).alias(_N), F.max("_gone").alias("gone"), *further)
    )


def _made_keys(table: Table, written: DataFrame, kept: Mapping[str, str]) -> DataFrame:
    """Of each key that was written: `made`, its rows; `same`, the most good ones of one contract key."""
    kinds = {f.name: f.dataType for f in written.schema.fields}
    dead = F.col(engine.DEAD)

    def text(c: str) -> Column:
        value = _text(quoted(c), kinds[c], table, c)
        if c not in kept:
            return value
        return F.when(dead, _text(quoted(kept[c]), kinds[kept[c]], table, c)).otherwise(value)

    names = [f"{_KEY}{n}" for n in range(len(table.recompute_key))]
    unique = [quoted(c).alias(f"{_UNIQUE}{n}") for n, c in enumerate(table.contract.key)]
    keys = [text(c).alias(name) for c, name in zip(table.recompute_key, names, strict=True)]
    rows = written.select(*keys, *unique, dead)
    one = rows.groupBy(*names, *(f"{_UNIQUE}{n}" for n in range(len(unique)))).agg(
        F.count_if(~dead).alias("good"), F.count(F.lit(1)).alias("made")
    )
    return one.groupBy(*names).agg(F.sum("made").alias("made"), F.max("good").alias("same"))


def _text(value: Column, kind: contracts.T.DataType, table: Table, column: str) -> Column:
    """A key's value as the table reads it, or as it came where the table cannot."""
    read = contracts.convert(value, kind, table.contract.column(column).type)
    return F.coalesce(read.cast("string"), value.cast("string"))


def _places(came: DataFrame) -> tuple[str, ...]:
    """The columns that say where a change event stood, if its upstream has all of them."""
    return _PLACE if {"_op", *_PLACE} <= set(came.columns) else ()


def _truncates(came: DataFrame) -> DataFrame:
    """The last change that emptied the whole table: one row, of nulls where there is none."""
    facts = [F.max(c).alias(f"_truncated{c}") for c in _places(came)]
    if facts:
        facts.append(F.min("_source").alias("_first_truncated"))
    return came.where(F.col("_op") == _TRUNCATE).agg(F.count(F.lit(1)).alias("_truncates"), *facts)


def _may_be_truncated(places: tuple[str, ...]) -> Column:
    """Whether a truncate took a key away: unless position and arrival both say that the key came after it.

    Positions of two logs cannot be compared, nor places in two topics.
    """
    truncated = F.col("_truncates") > 0
    if not places:
        return truncated
    sources = F.array("_source", "_first_source", "_truncated_source", "_first_truncated")
    after = F.size(F.array_distinct(sources)) == 1
    for place in ("_sequence", "_offset"):
        after &= F.col(place) > F.col(f"_truncated{place}")
    return truncated & ~F.coalesce(after, F.lit(False))


def refuse_lost_counts(context: RefreshContext, source_row_count: int) -> None:
    """Compare what an aggregate's rows stand for with the source rows, counted without Spark.

    Raises:
        RefreshFailed: they are not the same.
    """
    import polars as pl

    table, plan, main = context.table, context.plan, context.main
    source = pl.scan_delta(context.lake.open(main, context.upstreams.heads[main]))  # type: ignore[arg-type]
    if context.main_column and table.partition and not plan.whole:
        days = sorted(upstream_days(table, main, plan.append | plan.replace))
        source = source.filter(pl.col(context.main_column).cast(pl.String).is_in(days))
    counted = pl.sql_expr(table.source_row_count).cast(pl.Int64)
    expected = source.with_columns(n=counted).select(pl.col("n").sum()).collect().item()
    if expected != source_row_count:
        raise RefreshFailed(
            f"{table.name}: its transform counts {source_row_count} rows of {main}, and there are "
            f"{expected} to count ({table.source_row_count}). {UNTOUCHED}; fix the transform (a join that "
            "drops or doubles rows is the usual cause) and refresh again.",
            table=table.name,
        )
