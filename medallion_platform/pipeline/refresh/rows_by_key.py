"""Rows selected by the keys of a merged table: in the table's types, with nulls equal to each other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import TYPE_CHECKING, Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from medallion_platform.contracts import spark_engine as contracts
from medallion_platform.contracts.spark_engine import quoted
from medallion_platform.lakehouse.commit_record import UNPARTITIONED

if TYPE_CHECKING:
    from medallion_platform.pipeline.table import Table

_KEY = "__key_"


def cast_keys(table: Table, keys: DataFrame) -> DataFrame:
    """The keys cast to the types of the table; a key that cannot be cast is in no row of the table."""
    types = {f.name: f.dataType for f in keys.schema.fields}
    read = {
        c: contracts.cast_column(F.col(c), types[c], table.contract.column(c).type)
        for c in table.recompute_key
    }
    readable = [F.col(c).isNull() | value.isNotNull() for c, value in read.items()]
    return keys.where(reduce(Column.__and__, readable)).select(*(v.alias(c) for c, v in read.items()))


def rows_with_keys(
    table: Table, rows: DataFrame, keys: DataFrame, how: Literal["left_semi", "left_anti"]
) -> DataFrame:
    """The rows with these keys, or with other keys."""
    names = {c: f"{_KEY}{n}" for n, c in enumerate(table.recompute_key)}
    small = keys.select(*(F.col(c).alias(name) for c, name in names.items()))
    same = [F.col(c).eqNullSafe(F.col(name)) for c, name in names.items()]
    return rows.join(F.broadcast(small), reduce(Column.__and__, same), how)


def partition_text(table: Table, was: Mapping[str, str] | None = None) -> Column:
    """The partition of a row as text; the key, if the table is merged by key.

    was: the columns with the original values of keys that were cast.
    """
    if table.incremental == "merge_by_key":
        came = {c: c for c in table.recompute_key} | dict(was or {})
        parts = [F.coalesce(quoted(came[c]).cast("string"), F.lit("")) for c in table.recompute_key]
        # Several as JSON: no value of one can look like the border to the next.
        return parts[0] if len(parts) == 1 else F.to_json(F.array(*parts))
    if table.partition:
        return F.coalesce(F.col(table.partition.column).cast("string"), F.lit(UNPARTITIONED))
    return F.lit(UNPARTITIONED)
