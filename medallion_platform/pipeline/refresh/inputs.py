"""Stage "inputs": read only what the plan names, a DataFrame for each argument of the transform."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import partial

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from medallion_platform.contracts.spark_engine import quoted
from medallion_platform.lakehouse import spark as engine
from medallion_platform.pipeline.refresh import keys
from medallion_platform.pipeline.refresh.context import RefreshContext
from medallion_platform.pipeline.refresh.plan import upstream_days
from medallion_platform.pipeline.table import Lookup, Upstream


@dataclass(frozen=True)
class Inputs:
    """What was read. keys: those whose rows are recomputed, None where it is not by key.

    whole: whether the table is recomputed as a whole.
    """

    frames: dict[str, DataFrame]
    keys: DataFrame | None
    whole: bool


def read(context: RefreshContext) -> Inputs:
    """The upstream rows that the plan names.

    Raises:
        FilesGone: a file that held new rows was deleted by now: all must be read.
    """
    changed = _changed_keys(context) if context.plan.merge else None
    if changed is not None and _has_null(changed):
        changed = None  # a table-level event (truncate) concerns every key
    whole = context.plan.whole or (context.plan.merge and changed is None)
    frames = {a: _frame(context, a, source, changed) for a, source in context.table.inputs.items()}
    return Inputs(frames, changed, whole)


def _frame(
    context: RefreshContext, argument: str, source: Upstream | Lookup, changed: DataFrame | None
) -> DataFrame:
    table, plan, main = context.table, context.plan, context.main
    # Not made where only new rows count: it names every file of the table.
    every = partial(
        engine.read, context.spark(), context.lake, source.table, context.upstreams.heads[source.table]
    )
    column = context.partition_columns[source.table]
    appends = source.table == main and bool(plan.append) and not plan.whole
    if argument in table.upstreams and table.partition and column and not plan.whole:
        if not appends:
            return every().where(
                _in_days(column, upstream_days(table, source.table, plan.append | plan.replace))
            )
        frame = _new_rows(context).where(_in_days(column, upstream_days(table, main, plan.append)))
        if days := sorted(upstream_days(table, main, plan.replace)):
            again = every().where(F.col(column).cast("string").isin(days))
            frame = frame.unionByName(again, allowMissingColumns=True)
        return frame
    if appends:
        return _new_rows(context)
    if source.table == main and changed is not None:
        frame = every()
        # Rows without a key are about the whole table (a truncate): every key needs them.
        null_key = F.col(table.recompute_key[0]).isNull()
        return keys.rows_of(table, frame, changed, "left_semi").unionByName(frame.where(null_key))
    return every()


def _new_rows(context: RefreshContext) -> DataFrame:
    """What was appended to the main upstream since the last refresh."""
    main = context.main
    return engine.appended(
        context.spark(), context.lake, main, context.base(main), context.upstreams.heads[main]
    )


def _in_days(column: str, days: set[str]) -> Column:
    return F.col(column).isin([date.fromisoformat(day) for day in sorted(days)])


def _changed_keys(context: RefreshContext) -> DataFrame | None:
    """The distinct keys whose upstream rows changed; None where that cannot be told any more."""
    lake, spark, main = context.lake, context.spark(), context.main
    before, now = context.base(main), context.upstreams.heads[main]
    change = context.upstreams.changed[main]
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
        found = changed.select(*context.table.recompute_key).distinct().cache()
        found.count()
        return found
    except PySparkException:
        return None


def _has_null(found: DataFrame) -> bool:
    return bool(found.where(F.col(found.columns[0]).isNull()).take(1))
