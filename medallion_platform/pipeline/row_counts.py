"""Checks of `source_row_count`: SQL for how many rows an upstream row counts as, looked at without rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medallion_platform.contracts.contract import EVENT_DATE, ColumnType, Contract

if TYPE_CHECKING:
    import polars as pl

EACH_IS_ONE = "1"
"""The default: each row counts as one."""


def unreadable(sql: str) -> str | None:
    """Why a text is no SQL expression that Spark and Polars both know; None where it is one."""
    if sql == EACH_IS_ONE:
        return None
    import polars as pl

    try:
        _ = _expression(sql)
    except pl.exceptions.PolarsError:
        return f"source_row_count={sql!r} is no SQL expression that Spark and Polars both know"
    return None


def unfit(sql: str, upstream: Contract) -> str | None:
    """Why a readable expression does not count rows of an upstream; None where it does."""
    if sql == EACH_IS_ONE:
        return None
    import polars as pl

    from medallion_platform.contracts.polars_engine import polars_type

    types = {c.name: c.type for c in upstream.columns} | {EVENT_DATE: ColumnType("date")}
    expression = _expression(sql)
    # What begins with _ is the platform's own, and in no contract.
    named = [name for name in expression.meta.root_names() if not name.startswith("_")]
    if unknown := [name for name in named if name not in types]:
        return f"source_row_count={sql!r} speaks of {unknown[0]!r}, which {upstream.name} does not declare"
    if len(named) < len(expression.meta.root_names()):
        return None
    rows = pl.LazyFrame(schema={name: polars_type(kind) for name, kind in types.items()})
    try:
        kind = rows.select(expression).collect_schema().dtypes()[0]
    except pl.exceptions.PolarsError as error:
        return f"source_row_count={sql!r} cannot be computed of {upstream.name}: {_first_line(error)}"
    if kind != pl.Boolean and not kind.is_integer():
        return f"source_row_count={sql!r} is neither a condition nor a whole number"
    return None


def _expression(sql: str) -> pl.Expr:
    """The expression. Read in brackets no alias can follow it (`a b`), and without them it is no query.

    Raises:
        PolarsError: it is none.
    """
    import polars as pl

    _ = pl.sql_expr(f"({sql})")
    return pl.sql_expr(sql)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
