"""Protects and counts declared personal data of tables downstream of bronze.

Undeclared text is passed on unchanged, unless the table declares `mask_undeclared`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts import masking, personal_data_shapes
from medallion_platform.spark.provider import secret_row

if TYPE_CHECKING:
    from medallion_platform.contracts import contract as contracts
    from medallion_platform.pipeline.table import Table

_MASKED = "_masked "
"""How the counters begin that tell of a declared column's values."""


def protect_personal_data(table: Table, rows: DataFrame) -> tuple[DataFrame, Observation | None]:
    """The rows with protected personal data: declared columns, and undeclared text if the table asks for it.

    The original record is dropped. For undeclared text, the number of masked values by column is observed.

    Raises:
        NoTokenKey: a column is tokenized, and there is no key.
    """
    rows = rows.drop("_payload")
    declared = [c for c in table.contract.columns if c.pii and c.name in rows.columns]
    protected = {c.name: _protect_column(rows, c) for c in declared}
    observed = None
    undeclared = _undeclared_text(table, rows) if table.mask_undeclared else []
    if undeclared:
        observed = Observation()
        masked = {name: masked_in_text(_counter_column(name)) for name in undeclared}
        changed = [F.count_if(text != _counter_column(name)).alias(name) for name, text in masked.items()]
        rows = rows.observe(observed, *changed)
        protected |= masked
    return (rows.withColumns(protected) if protected else rows), observed


def masked_value_counters(table: Table) -> dict[str, Column]:
    """What is counted of rows on their way into the table, by the names that `masked_value_counts` knows."""
    return {_MASKED + name: F.count(_counter_column(name)) for name in table.contract.pii}


def masked_value_counts(counted: dict[str, int], observed: Observation | None) -> dict[str, int]:
    """The number of protected values by column; moves those of `masked_value_counters` out of `counted`."""
    names = [name for name in counted if name.startswith(_MASKED)]
    found = {name.removeprefix(_MASKED): counted.pop(name) for name in names}
    found |= observed.get if observed else {}
    return {name: n for name, n in found.items() if n}


def _undeclared_text(table: Table, rows: DataFrame) -> list[str]:
    """Undeclared text columns, without the platform's own columns."""
    known = table.contract.by_name
    return [n for n, kind in rows.dtypes if kind == "string" and n not in known and not n.startswith("_")]


def _protect_column(rows: DataFrame, column: contracts.Column) -> Column:
    assert column.pii
    values = _counter_column(column.name)
    if column.protect == "mask":
        return masking.mask_spark(values, column.pii)
    if column.protect == "hash":
        return masking.digest_spark(values, None)
    return masking.digest_spark(values, key_pads(rows.sparkSession, masking.token_key()))


def key_pads(spark: SparkSession, key: bytes) -> Column:
    """The pads of a key for `digest_spark`: a subquery over a row that never appears in plans or logs."""
    return secret_row(spark, masking.hmac_pads(key)).select(F.struct("inner", "outer")).scalar()


def masked_in_text(text: Column) -> Column:
    """The text without its addresses and phone numbers."""
    masked = F.when(
        text.contains("@"), F.regexp_replace(text, personal_data_shapes.EMAIL, r"$1***@$2")
    ).otherwise(text)
    return F.regexp_replace(masked, personal_data_shapes.PHONE, masking.STARS)


def _counter_column(name: str) -> Column:
    return F.col("`" + name.replace("`", "``") + "`")
