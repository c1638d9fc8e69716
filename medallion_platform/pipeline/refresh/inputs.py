"""Stage "inputs": read only what the plan names, a DataFrame for each argument of the transform."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import partial

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from medallion_platform.errors import Kind, classify
from medallion_platform.lakehouse import spark_tables
from medallion_platform.pipeline.refresh import rows_by_key
from medallion_platform.pipeline.refresh.context import RefreshContext
from medallion_platform.pipeline.refresh.plan import upstream_days
from medallion_platform.pipeline.table import Lookup, Upstream


@dataclass(frozen=True)
class Inputs:
    """The rows that were read. keys: the keys to recompute, None if the refresh is not by key.

    whole: whether the whole table is recomputed.
    """

    frames: dict[str, DataFrame]
    keys: DataFrame | None
    whole: bool


def read_inputs(context: RefreshContext) -> Inputs:
    """The upstream rows that the plan names.

    Raises:
        FilesGone: a file with new rows was deleted since, or damaged: all rows must be read.
    """
    changed = _changed_keys(context) if context.plan.merge else None
    whole = context.plan.whole or (context.plan.merge and changed is None)
    frames = {a: _read_input(context, a, source, changed) for a, source in context.table.inputs.items()}
    return Inputs(frames, changed, whole)


def _read_input(
    context: RefreshContext, argument: str, source: Upstream | Lookup, changed: DataFrame | None
) -> DataFrame:
    table, plan, main = context.table, context.plan, context.main_table
    # Not made where only new rows count: it names every file of the table.
    every = partial(
        spark_tables.read, context.spark(), context.lake, source.table, context.upstreams.heads[source.table]
    )
    column = context.partition_columns[source.table]
    appends = source.table == main and bool(plan.append) and not plan.whole
    if argument in table.upstreams and table.partition and column and not plan.whole:
        if not appends:
            days = upstream_days(table, source.table, plan.append | plan.replace)
            return every(partitions=(column, days)).where(_is_in_days(column, days))
        frame = _appended_rows(context).where(_is_in_days(column, upstream_days(table, main, plan.append)))
        if days := upstream_days(table, main, plan.replace):
            again = every(partitions=(column, days)).where(F.col(column).cast("string").isin(sorted(days)))
            frame = frame.unionByName(again, allowMissingColumns=True)
        return frame
    if appends:
        return _appended_rows(context)
    if source.table == main and changed is not None:
        frame = every()
        # Rows without a key are about the whole table (a truncate): every key needs them.
        null_key = F.col(table.recompute_key[0]).isNull()
        return rows_by_key.rows_with_keys(table, frame, changed, "left_semi").unionByName(
            frame.where(null_key)
        )
    return every()


def _appended_rows(context: RefreshContext) -> DataFrame:
    """The rows that were appended to the main upstream since the last refresh."""
    main = context.main_table
    return spark_tables.appended(
        context.spark(), context.lake, main, context.base(main), context.upstreams.heads[main]
    )


def _is_in_days(column: str, days: set[str]) -> Column:
    return F.col(column).isin([date.fromisoformat(day) for day in sorted(days)])


def _changed_keys(context: RefreshContext) -> DataFrame | None:
    """The distinct keys whose upstream rows changed; None if all may have, or this can no longer be told."""
    lake, spark, main = context.lake, context.spark(), context.main_table
    before, now = context.base(main), context.upstreams.heads[main]
    change = context.upstreams.changed[main]
    try:
        if change is not None and not change.rewritten:
            changed = spark_tables.appended(spark, lake, main, before, now)
        elif (both := spark_tables.read_both(spark, lake, main, before, now)) is not None:
            old, new = both
            changed = new.exceptAll(old).unionByName(old.exceptAll(new))
        else:
            return None
        if not set(context.table.recompute_key) <= set(changed.columns):
            return None
        if "_op" in changed.columns:
            # A tombstone has no key either, and says nothing that its delete did not say.
            changed = changed.where(F.col("_op") != "tombstone")
        found = changed.select(*context.table.recompute_key).distinct().cache()
        without_key = found.agg(F.count_if(F.col(found.columns[0]).isNull())).first()
        # A table-level event (truncate) concerns every key.
        return None if without_key and without_key[0] else found
    except Exception as error:  # some come by way of py4j alone
        if classify(error).kind is not Kind.CORRUPT:
            raise
        return None  # a file of a former version; one of the newest fails whoever reads it next
