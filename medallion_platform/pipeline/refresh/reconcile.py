"""Stage "reconcile": is every row that was read accounted for? Checked before anything is committed.

What is checked depends on the declaration. `append`: each upstream row gives one row. `merge_by_key`: each
key gives at least one row unless a change deleted it, and further rows are superseded. An aggregate with a
row_count_column: its counts add up. `source_row_count` declares upstream rows that count as none or as
several. A difference is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from medallion_platform.contracts import spark_engine as contracts
from medallion_platform.contracts.spark_engine import quoted
from medallion_platform.errors import Kind
from medallion_platform.lakehouse import spark_tables
from medallion_platform.lakehouse.commit import files_that_may_hold
from medallion_platform.lakehouse.counts import Counts, counted
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.lakehouse.polars_writer import scan_rows
from medallion_platform.pipeline.refresh import personal
from medallion_platform.pipeline.refresh.commit import PendingRefresh
from medallion_platform.pipeline.refresh.context import RefreshContext
from medallion_platform.pipeline.refresh.errors import UNTOUCHED, RefreshFailed
from medallion_platform.pipeline.refresh.inputs import Inputs
from medallion_platform.pipeline.refresh.plan import upstream_days
from medallion_platform.pipeline.refresh.stage import Inspection, OtherKeys, StageResult
from medallion_platform.pipeline.refresh.transform import TransformResult
from medallion_platform.pipeline.refresh.validate import TypedRows
from medallion_platform.pipeline.row_counts import EACH_IS_ONE
from medallion_platform.sources.formats.debezium.operations import TRUNCATE, UPSERTS

if TYPE_CHECKING:
    from medallion_platform.pipeline.table import Table

_N = "_n"
_KEY = "__key_"
_UNIQUE = "__unique_"
_PLACE = ("_sequence", "_offset", "_source")


@dataclass
class Accounts:
    """Compares the rows that a refresh read with the rows that it wrote."""

    context: RefreshContext
    inputs: Inputs
    made: TransformResult
    _read_by_key: int = 0

    @property
    def inspection(self) -> Inspection | None:
        """The check of the staged rows, for tables whose lost rows are found by key."""
        return self._inspect if self.context.table.incremental == "merge_by_key" else None

    def balanced(self, validated: TypedRows, staged: StageResult, others: OtherKeys) -> PendingRefresh:
        """The staged files, checked and ready to be committed.

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
        """The rows that were read from the main upstream."""
        return self.inputs.frames[self.context.table.main_argument]

    def _inspect(self, written: DataFrame, kept: Mapping[str, str]) -> None:
        merging = self.inputs.keys is not None
        self._read_by_key = count_read_by_key(self.context.table, self._came, written, kept, merging=merging)

    def _counts(self, written: int, dead: int) -> Counts:
        """What happened to the rows that were read; written, dead: rows of the transform that were staged."""
        table, read = self.context.table, self._read_by_key
        if table.incremental == "merge_by_key":
            if self.inputs.whole and table.source_row_count == EACH_IS_ONE:
                _refuse_unread_rows(self.context, read)
            return Counts(read, written, dead, superseded=read - written - dead)
        if table.incremental == "append":
            return _counts_of_rows(self.context, self._came, self.made.returned, written, dead)
        return Counts(written + dead, written, dead)  # the source rows that it stands for are compared


def _counts_of_rows(
    context: RefreshContext, came: DataFrame, returned: DataFrame, written: int, dead: int
) -> Counts:
    """The counts for `incremental="append"`: the rows read are counted independently of the rows made.

    came: the rows read from the main upstream. returned: the rows that the transform made from them, also in
    partitions that were not requested.
    """
    table, main = context.table, context.main_table
    if table.partition and not context.plan.whole and context.main_column is None:
        # Only the transform says which of the rows are of these partitions.
        partition = F.col(table.partition.column)
        others = returned.where(
            partition.isNotNull() & ~partition.cast("string").isin(context.wanted)
        ).count()
        read = _sum_source_rows(table, came) - others
    elif table.source_row_count != EACH_IS_ONE:
        read = _sum_source_rows(table, came)
    else:
        read = count_rows_by_log(context)
    if read != written + dead:
        each = (
            "each of them gives one"
            if table.source_row_count == EACH_IS_ONE
            else f"they give {read} ({table.source_row_count})"
        )
        raise RefreshFailed(
            f"{table.name}: its transform returns {counted(written + dead, 'rows')} where {read} should "
            f"come of those that were read of {main}, since {each}. {UNTOUCHED}",
            remedy="fix the transform (a filter or a join that drops or doubles rows is the usual cause), or "
            "declare by `source_row_count` how many rows an upstream row gives, and refresh again",
            table=table.name,
        )
    return Counts(read, written, dead)


def count_rows_by_log(context: RefreshContext) -> int:
    """The number of upstream rows to read, from the statistics in the Delta log."""
    table, lake, plan = context.table, context.lake, context.plan
    main, column, head = context.main_table, context.main_column, context.upstreams.heads[context.main_table]
    days = None
    if table.partition and not plan.whole:
        days = upstream_days(table, main, plan.replace)
    read = 0
    if plan.append:
        appended_to = upstream_days(table, main, plan.append) if table.partition and column else None
        read += spark_tables.rows_appended(lake.path(main), context.base(main), head, column, appended_to)
    if plan.whole or plan.replace:
        read += count_table_rows(lake, main, head, column, days)
    return read


def count_table_rows(
    lake: Lake, table: str, version: int, column: str | None = None, partitions: set[str] | None = None
) -> int:
    """The number of rows in a version of a table (or in some partitions), from the Delta log's statistics."""
    found = lake.open(table, version)
    if found is None:
        return 0
    return sum(
        f["num_records"]
        for f in files_of(found)
        if partitions is None or str(f.get(f"partition.{column}")) in partitions
    )


def _refuse_unread_rows(context: RefreshContext, read: int) -> None:
    """Compare the number of rows that Spark read from the main upstream with its Delta log."""
    main = context.main_table
    if read != (there := count_table_rows(context.lake, main, context.upstreams.heads[main])):
        raise RefreshFailed(
            f"{context.table.name}: {main} gave {counted(read, 'rows')}, and by its Delta log it has "
            f"{there}. {UNTOUCHED}",
            remedy="refresh again; if that does not help, check its files",
            kind=Kind.CORRUPT,
            table=context.table.name,
        )


def _sum_source_rows(table: Table, came: DataFrame) -> int:
    ((found,),) = _with_source_row_count(table, came).agg(F.sum(_N)).collect()
    return int(found or 0)


def _with_source_row_count(table: Table, came: DataFrame) -> DataFrame:
    """The upstream's rows with the number of source rows that each one counts as."""
    try:
        return came.withColumn(
            _N, F.coalesce(F.expr(f"CAST(({table.source_row_count}) AS BIGINT)"), F.lit(0))
        )
    except AnalysisException as error:
        why = str(error).strip().splitlines()[0]
        raise RefreshFailed(
            f"{table.name}: source_row_count={table.source_row_count!r} says nothing of a row of "
            f"{table.main_upstream.table} ({why}). {UNTOUCHED}",
            remedy="fix the declaration and refresh again",
            table=table.name,
        ) from None


def count_read_by_key(
    table: Table, came: DataFrame, written: DataFrame, kept: Mapping[str, str], *, merging: bool
) -> int:
    """The number of upstream rows that were read, if each of their keys is accounted for in the staged rows.

    A key is accounted for by a row, good or rejected, or else by an upstream row that counts as 0 rows or
    deletes the key. Rows that were read and not written were superseded.

    written: the staged rows, with `DEAD`. kept: see `spark_tables.stage`. merging: `came` has only the rows
    of some keys, and rows without a key, which concern all keys.

    Raises:
        RefreshFailed: a key is lost, has more rows than before, or was never in the upstream.
    """
    main, key_names = table.main_upstream.table, ", ".join(table.recompute_key)
    if not set(table.recompute_key) <= set(came.columns):
        read, made = _sum_source_rows(table, came), written.count()
        if read == made:
            return read
        _refuse_keys(table, f"{main} has no column {key_names}, so missing keys cannot be found")
    keyed = came.where(quoted(table.recompute_key[0]).isNotNull()) if merging else came
    keys = _rows_by_key(table, keyed, written, kept)
    said = keys.agg(
        F.sum(_N).alias("read"),
        F.count_if(_is_lost()).alias("lost"),
        F.count_if(F.col("came") == 0).alias("others"),
        F.count_if(F.col("made") > F.col(_N)).alias("more"),
        F.count_if(F.col("same") > 1).alias("doubled"),
    ).first()
    assert said is not None
    lost = said.lost
    if lost and "_op" in came.columns:
        lost = _lost_without_truncate(
            _rows_by_key(table, keyed, written, kept, _position_columns(came)), came
        )
    if lost:
        _refuse_keys(
            table,
            f"its transform leaves out {counted(lost, 'keys')} ({key_names}) of {main}: neither in the "
            "rows that it returns nor among the rejected ones, and nothing says that a change deleted them",
        )
    if said.others:
        _refuse_keys(
            table,
            f"its transform returns {counted(said.others, 'keys')} ({key_names}) that {main} does not have",
        )
    if said.more:
        _refuse_keys(
            table,
            f"its transform returns more rows of {counted(said.more, 'keys')} ({key_names}) than {main} has",
        )
    if said.doubled:
        unique = ", ".join(table.contract.key)
        times = counted(said.doubled, "times")
        _refuse_keys(table, f"its transform returns several rows of one key ({unique}), {times}")
    return int(said.read or 0)


def _refuse_keys(table: Table, why: str) -> None:
    raise RefreshFailed(
        f"{table.name}: {why}. {UNTOUCHED}",
        remedy="fix the transform, or declare by `source_row_count` which upstream rows give no row or "
        "several, and refresh again",
        table=table.name,
    )


def _rows_by_key(
    table: Table, came: DataFrame, written: DataFrame, kept: Mapping[str, str], places: Sequence[str] = ()
) -> DataFrame:
    """A row for each key of either side, in one aggregation.

    `came`, its upstream rows, and `_N`, as how many they count; `gone`, whether a change deleted it; `made`,
    its written rows; `same`, the most good rows with one key of the contract. places: columns of a change's
    position, of which the newest are told as well (texts cost a sort).
    """
    upstream, made = _upstream_rows(table, came, places), _written_rows(table, written, kept)
    newest = [F.max(c).alias(c) for c in places]
    if places:
        newest.append(F.min("_source").alias("_first_source"))
    return (
        upstream.unionByName(made, allowMissingColumns=True)
        .groupBy(*_key_columns(table))
        .agg(
            F.count("_gone").alias("came"),
            F.coalesce(F.sum(_N), F.lit(0)).alias(_N),
            F.coalesce(F.max("_gone"), F.lit(False)).alias("gone"),
            F.coalesce(F.sum("_made"), F.lit(0)).alias("made"),
            (F.max if _further_key(table) else F.sum)("_good").alias("same"),
            *newest,
        )
    )


def _upstream_rows(table: Table, came: DataFrame, places: Sequence[str]) -> DataFrame:
    """The upstream rows: their key, `_N`, as how many they count, and `_gone`, whether they delete it."""
    gone = F.col(_N) == 0
    if "_op" in came.columns:
        gone |= ~F.coalesce(F.col("_op").isin(*UPSERTS), F.lit(False))
    rows = _with_source_row_count(table, came).select(
        *map(quoted, table.recompute_key), _N, gone.alias("_gone"), *places
    )
    rows, _ = personal.protect_personal_data(table, rows)
    kinds = {f.name: f.dataType for f in rows.schema.fields}
    texts = [
        _key_text(quoted(c), kinds[c], table, c).alias(name)
        for c, name in zip(table.recompute_key, _key_columns(table), strict=True)
    ]
    return rows.select(*texts, _N, "_gone", *places)


def _written_rows(table: Table, written: DataFrame, kept: Mapping[str, str]) -> DataFrame:
    """The written rows: their key, `_made`, how many they are, and `_good`, how many of them are good.

    They are counted for each key of the contract if that has columns beyond the key to recompute.
    """
    kinds = {f.name: f.dataType for f in written.schema.fields}
    dead = F.col(spark_tables.DEAD)

    def text(c: str) -> Column:
        value = _key_text(quoted(c), kinds[c], table, c)
        if c not in kept:
            return value
        return F.when(dead, _key_text(quoted(kept[c]), kinds[kept[c]], table, c)).otherwise(value)

    names, further = _key_columns(table), _further_key(table)
    unique = [f"{_UNIQUE}{n}" for n in range(len(further))]
    rows = written.select(
        *(text(c).alias(name) for c, name in zip(table.recompute_key, names, strict=True)),
        *(quoted(c).alias(name) for c, name in zip(further, unique, strict=True)),
        F.lit(1).alias("_made"),
        (~dead).cast("int").alias("_good"),
    )
    if not further:
        return rows
    sums = (F.sum(c).alias(c) for c in ("_made", "_good"))
    return rows.groupBy(*names, *unique).agg(*sums).drop(*unique)


def _key_columns(table: Table) -> list[str]:
    """Names for the columns of the key to recompute, as text."""
    return [f"{_KEY}{n}" for n in range(len(table.recompute_key))]


def _further_key(table: Table) -> list[str]:
    """The columns that the contract's key has beyond the key to recompute."""
    return [c for c in table.contract.key if c not in table.recompute_key]


def _is_lost() -> Column:
    return (F.col("made") == 0) & ~F.col("gone")


def _lost_without_truncate(keys: DataFrame, came: DataFrame) -> int:
    """The number of lost keys that no truncate of the whole table can have deleted."""
    gone = _may_be_gone_by_truncate(_position_columns(came))
    return keys.where(_is_lost()).crossJoin(F.broadcast(_last_truncate(came))).where(~gone).count()


def _key_text(value: Column, kind: contracts.T.DataType, table: Table, column: str) -> Column:
    """The value of a key, cast to the table's type, or the original value if it cannot be cast."""
    read = contracts.cast_column(value, kind, table.contract.column(column).type)
    return F.coalesce(read.cast("string"), value.cast("string"))


def _position_columns(came: DataFrame) -> tuple[str, ...]:
    """The columns with the position of a change event, if the upstream has all of them."""
    return _PLACE if {"_op", *_PLACE} <= set(came.columns) else ()


def _last_truncate(came: DataFrame) -> DataFrame:
    """The last change that emptied the whole table: one row; all nulls if there is none."""
    facts = [F.max(c).alias(f"_truncated{c}") for c in _position_columns(came)]
    if facts:
        facts.append(F.min("_source").alias("_first_truncated"))
    return came.where(F.col("_op") == TRUNCATE).agg(F.count(F.lit(1)).alias("_truncates"), *facts)


def _may_be_gone_by_truncate(places: tuple[str, ...]) -> Column:
    """Whether a truncate may have removed a key: unless both position and arrival show that it came later.

    Positions in two different logs or topics cannot be compared.
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
    """Compare the source rows in an aggregate with the actual source rows, counted without Spark.

    Raises:
        DamagedFile: a file with these rows is missing, or its end is damaged.
        RefreshFailed: the numbers differ.
    """
    import polars as pl

    table, plan, main = context.table, context.plan, context.main_table
    opened = context.lake.open(main, context.upstreams.heads[main])
    assert opened is not None
    if context.main_column is None or table.partition is None or plan.whole:
        source = scan_rows(opened)
    else:
        days = sorted(upstream_days(table, main, plan.append | plan.replace))
        source = scan_rows(opened, files_that_may_hold(opened, context.main_column, days))
        source = source.filter(pl.col(context.main_column).cast(pl.String).is_in(days))
    each = pl.sql_expr(table.source_row_count).cast(pl.Int64)
    expected = source.with_columns(n=each).select(pl.col("n").sum()).collect().item()
    if expected != source_row_count:
        raise RefreshFailed(
            f"{table.name}: its transform counts {counted(source_row_count, 'rows')} of {main}, and there "
            f"are {expected} to count ({table.source_row_count}). {UNTOUCHED}",
            remedy="fix the transform (a join that drops or doubles rows is the usual cause) and refresh "
            "again",
            table=table.name,
        )
