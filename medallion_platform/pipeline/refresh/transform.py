"""Stage "transform": call the table's own function on its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from medallion_platform.contracts.spark_engine import quoted
from medallion_platform.pipeline.refresh.context import RefreshContext
from medallion_platform.pipeline.refresh.errors import UNTOUCHED, RefreshFailed
from medallion_platform.pipeline.refresh.inputs import Inputs
from medallion_platform.pipeline.refresh.lineage import Lineage, column_lineage_of_plan
from medallion_platform.spark.provider import analyzed_plan

if TYPE_CHECKING:
    from medallion_platform.pipeline.table import Table


@dataclass(frozen=True)
class TransformResult:
    """What the transform returned, and the requested `rows` of it."""

    returned: DataFrame
    rows: DataFrame
    lineage: Lineage


def run_transform(context: RefreshContext, inputs: Inputs) -> TransformResult:
    """Call the transform, which only builds a Spark plan; nothing is computed yet.

    Raises:
        RefreshFailed: a declared column is missing.
    """
    table = context.table
    rows = returned = table.transform(**inputs.frames)
    _refuse_other_columns(table, rows)
    read = {source.table: inputs.frames[argument].columns for argument, source in table.inputs.items()}
    if table.partition and not inputs.whole:
        partition = F.col(table.partition.column)
        rows = rows.where(partition.isNull() | partition.cast("string").isin(context.wanted))
    if inputs.keys is not None:
        # What stands without a key is as it was made with the whole table.
        rows = rows.where(quoted(table.recompute_key[0]).isNotNull())
    return TransformResult(
        returned, rows, column_lineage_of_plan(analyzed_plan_text(returned), returned.columns, read)
    )


def analyzed_plan_text(rows: DataFrame) -> str:
    """The analyzed plan, its first line the columns of the frame."""
    return analyzed_plan(rows.select(*map(quoted, rows.columns)))


def _refuse_other_columns(table: Table, rows: DataFrame) -> None:
    """Refuse a missing or misspelled declared column, which would be null in every row."""
    missing = [c for c in table.contract.column_names if c not in rows.columns]
    if missing:
        further = [c for c in rows.columns if c not in table.contract.by_name]
        returned = f", and returns {', '.join(further)} (not declared)" if further else ""
        raise RefreshFailed(
            f"{table.name}: its transform returns no column {', '.join(missing)} (declared){returned}. "
            f"{UNTOUCHED}",
            remedy="fix the one or the other and refresh again",
            table=table.name,
        )
