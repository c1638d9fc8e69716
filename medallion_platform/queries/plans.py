"""What the next run would do to each silver and gold table, and why; from the Delta logs, without Spark."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.out_of_date import NeedsRows, refuse_reading_rows
from medallion_platform.pipeline.refresh.changes import newest, with_changes, with_plan
from medallion_platform.pipeline.refresh.errors import MissingUpstream
from medallion_platform.pipeline.refresh.explain import Action, Cause, Explanation, Why, causes, explain_plan
from medallion_platform.pipeline.table import Table


def plans_of_tables(catalog: Catalog, lake: Lake, tables: Collection[str] = ()) -> list[Explanation]:
    """The plan of each of these tables (all if none is named), upstream tables first.

    If an input is refreshed first, the table is planned again after it; its plan here names that input.

    Raises:
        DamagedLog: the log of a table cannot be read.
    """
    lake = lake.snapshot()
    found: dict[str, Explanation] = {}
    for table in catalog.in_order:
        inputs = [found[name] for name in table.upstream_names if name in found]
        first = [i.table for i in inputs if i.action not in (Action.NOTHING, Action.WAITS)]
        found[table.name] = _plan_after_inputs(_plan_of_table(table, catalog, lake), first)
    return [e for name, e in found.items() if not tables or name in tables]


def _plan_of_table(table: Table, catalog: Catalog, lake: Lake) -> Explanation:
    missing = tuple(Cause(Why.INPUT_MISSING, name) for name in table.upstream_names if not lake.exists(name))
    if missing:
        return Explanation(table.name, Action.WAITS, missing)
    try:
        context = with_changes(newest(table, lake, refuse_reading_rows, catalog.partition_columns))
    except MissingUpstream:  # dropped meanwhile
        return Explanation(table.name, Action.WAITS)
    try:
        return explain_plan(with_plan(context))
    except NeedsRows:
        return Explanation(table.name, Action.UNSURE, tuple(causes(context)), None, None, None)


def _plan_after_inputs(plan: Explanation, first: list[str]) -> Explanation:
    """The plan, with the inputs that are refreshed before the table."""
    causes = (*plan.causes, *(Cause(Why.FOLLOWS, name) for name in first))
    return replace(plan, causes=causes)
