"""Stage "validate": protect personal data, check rows against the contract, cast to the table's types."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from medallion_platform.contracts import spark_engine as contracts
from medallion_platform.contracts.masking import NoTokenKey
from medallion_platform.contracts.spark_engine import quoted
from medallion_platform.errors import Kind
from medallion_platform.lakehouse import polars_writer, spark_tables
from medallion_platform.lakehouse.evolution import Evolution, evolve_schema
from medallion_platform.pipeline.refresh import personal
from medallion_platform.pipeline.refresh.context import RefreshContext
from medallion_platform.pipeline.refresh.errors import UNTOUCHED, NeedsRebuild, RefreshFailed
from medallion_platform.pipeline.table import Table

STALE = "_stale_dimension"
"""Whether a row was enriched from a lookup that was behind its own upstream."""


@dataclass(frozen=True)
class TypedRows:
    """Rows in the table's types, with hidden columns about their violations.

    columns: those of the table. masked: counts the values that were masked in undeclared text.
    """

    result: contracts.SparkValidationResult
    rows: DataFrame
    columns: list[str]
    evolution: Evolution
    masked: Observation | None


def validate_rows(context: RefreshContext, rows: DataFrame, *, whole: bool) -> TypedRows:
    """Plan the validation of rows; creates the table, or adds columns to it.

    Raises:
        RefreshFailed: a column must be tokenized, and there is no key.
        NeedsRebuild: a column gets a wider type, so the whole table must be written.
    """
    rows, masked = protect_rows(context.table, rows)
    if context.table.lookups:
        rows = rows.withColumn(STALE, F.lit(bool(context.stale)))
    result = contracts.validate(context.table.contract, rows)
    return _fit_to_table(context, result, masked, whole)


def protect_rows(table: Table, rows: DataFrame) -> tuple[DataFrame, Observation | None]:
    """The rows with protected personal data.

    Raises:
        RefreshFailed: a column must be tokenized, and there is no key.
    """
    try:
        return personal.protect_personal_data(table, rows)
    except NoTokenKey as error:
        raise RefreshFailed(
            f"{table.name}: its contract asks for tokens, and {error.args[0]}. {UNTOUCHED}",
            remedy=f"{error.remedy}, and refresh again",
            kind=Kind.AUTH,
            table=table.name,
        ) from None


def _fit_to_table(
    context: RefreshContext, result: contracts.SparkValidationResult, masked: Observation | None, whole: bool
) -> TypedRows:
    """Create the table or change its schema, and cast the rows to its types."""
    table, rows = context.table, result.df
    wanted = _arrow_schema(rows.select(*map(quoted, result.columns)))
    current = context.lake.open(table.name)
    if current is None:
        context.lake.ensure(table.name, wanted, table.contract.partitioned_by)
        return TypedRows(result, rows, result.columns, Evolution(wanted), masked)
    evolution = evolve_schema(pa.schema(current.schema()), wanted)
    if evolution.widened and not whole:
        wider = ", ".join(evolution.widened)
        raise NeedsRebuild(
            f"{table.name}: {wider} becomes wider, so the whole table is made", table=table.name
        )
    if evolution.added and not whole:
        added = [evolution.schema.field(c) for c in evolution.added]
        polars_writer.add_columns(current, pa.schema(added), context.run.guard)
    types = spark_tables.spark_types(evolution.schema)
    given = dict(rows.dtypes)
    fitted = {c: quoted(c).cast(t) for c, t in types.items() if c in given and given[c] != t.simpleString()}
    fitted |= {c: F.lit(None).cast(t) for c, t in types.items() if c not in given}
    rows = rows.withColumns(fitted) if fitted else rows
    return TypedRows(result, rows, list(types), evolution, masked)


def _arrow_schema(rows: DataFrame) -> pa.Schema:
    schema = to_arrow_schema(rows.schema, timezone="UTC")
    return pa.schema([pa.field(f.name, _delta_type(f.type), True) for f in schema])


def _delta_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC")
    if pa.types.is_list(kind):
        return pa.list_(_delta_type(kind.value_type))
    return kind
