"""Dead letters of older versions, which are never rewritten: there may be very many.

Before there were codes, only their sentences said what happened. These old sentences are translated to codes
here, and nowhere else; sentences written today need not look like them. In lakes of format 1 the column
`partition` was named `unit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medallion_platform.contracts.codes import Code

if TYPE_CHECKING:
    from collections.abc import Collection

    import polars as pl


def partition_of_old_letters(columns: Collection[str]) -> pl.Expr:
    """The `partition` (String) of letters with these columns; null if none of them holds it."""
    import polars as pl

    return pl.coalesce(*(c for c in ("partition", "unit") if c in columns), pl.lit(None, pl.String)).alias(
        "partition"
    )


def add_codes(letters: pl.LazyFrame) -> pl.LazyFrame:
    """The letters, with a `code` (String) where it is missing, and the `detail` (JSON text) of lost files."""
    import polars as pl

    sentence = pl.col("violations").list.first()
    row, old = pl.col("row"), pl.col("code").is_null()
    from_row = sentence.str.extract(r"^file: lost from record (\d+) on: ")
    code = (
        pl.when(row == 0, from_row.is_not_null())
        .then(pl.lit(Code.LOST))
        .when(row == 0, sentence.str.starts_with("topic: "))
        .then(pl.lit(Code.GAP))
        .when(row == 0)
        .then(pl.lit(Code.UNREADABLE))
        .when(sentence.str.starts_with("record: not valid "))
        .then(pl.lit(Code.UNDECODED))
        .when(sentence.str.starts_with("record: "))
        .then(pl.lit(Code.MALFORMED))
        .otherwise(pl.lit(Code.VIOLATES))
    )
    detail = pl.concat_str(pl.lit('{"from_row": '), from_row, pl.lit("}"))
    return letters.with_columns(
        pl.when(old).then(code).otherwise(pl.col("code")).alias("code"),
        pl.when(old & (row == 0)).then(detail).otherwise(pl.col("detail")).alias("detail"),
    )
