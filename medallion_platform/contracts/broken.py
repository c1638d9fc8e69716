"""What a rejected row broke, in fields for code: so nobody reads them out of the sentences for people.

- `code`: what the expectation asks, a `Rule`.
- `columns`: of which columns.
- `bound`: what their values are compared with, as JSON text (`0`, `["click", "login"]`, `{"at_least": 0}`);
  null where they are compared with nothing.
- `values`: of each column the value as it came, as text of at most `LONGEST` characters. Null where there is
  none, where it is nested or bytes, and always of personal data.

Pure, in polars, and the same for both engines: rows that Spark rejects become dead letters in polars too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from medallion_platform.contracts.codes import Rule
from medallion_platform.contracts.contract import (
    Compare,
    Contract,
    EndsWith,
    Expectation,
    InRange,
    IsType,
    Length,
    Matches,
    NamesFolder,
    NotNull,
    OneOf,
    Sql,
    StartsWith,
    Unique,
    Values,
)

if TYPE_CHECKING:
    import polars as pl

BROKEN = "_broken"
"""The column of rejected rows that tells it."""
LONGEST = 200
"""Characters of a value that are told: the payload has all of it."""

_COMPARED = {
    "ge": Rule.AT_LEAST,
    "gt": Rule.ABOVE,
    "le": Rule.AT_MOST,
    "lt": Rule.BELOW,
    "eq": Rule.EQUAL_TO,
    "ne": Rule.OTHER_THAN,
}


@dataclass(frozen=True)
class Demand:
    """What an expectation demands: the rule, of which columns, and the bound as JSON text."""

    code: Rule
    columns: tuple[str, ...]
    bound: str | None = None


def polars_type() -> pl.DataType:
    """The type of the column `broken` of dead letters."""
    import polars as pl

    texts = pl.List(pl.String)
    return pl.List(pl.Struct({"code": pl.String, "columns": texts, "bound": pl.String, "values": texts}))


def demand_of(expectation: Expectation, contract: Contract) -> Demand:
    """What an expectation demands, in fields."""
    code, bound = _told(expectation, contract)
    told = None if bound is None else json.dumps(bound, ensure_ascii=False, default=_as_text)
    return Demand(code, expectation.columns, told)


def _told(expectation: Expectation, contract: Contract) -> tuple[Rule, Any]:
    match expectation.test:
        case IsType():
            return Rule.TYPE, str(contract.column(expectation.columns[0]).type)
        case NotNull():
            return Rule.NOT_NULL, None
        case Compare(operator, value):
            return _COMPARED[operator], value
        case InRange(low, high, with_low, with_high):
            lower = Rule.AT_LEAST if with_low else Rule.ABOVE
            return Rule.BETWEEN, {lower: low, (Rule.AT_MOST if with_high else Rule.BELOW): high}
        case OneOf(values, negated):
            return Rule.NONE_OF if negated else Rule.ONE_OF, values
        case Matches() as test:
            return Rule.MATCHES, test.declared or test.pattern
        case StartsWith(text):
            return Rule.STARTS_WITH, text
        case EndsWith(text):
            return Rule.ENDS_WITH, text
        case Length(least, most):
            bounds = {Rule.AT_LEAST: least, Rule.AT_MOST: most}
            return Rule.LENGTH, {rule: n for rule, n in bounds.items() if n is not None}
        case NamesFolder(most):
            return Rule.NAMES_FOLDER, {Rule.AT_MOST: most}
        case Unique():
            return Rule.UNIQUE, None
        case Values(values):
            return Rule.VALUES, values
        case Sql(text):
            return Rule.SQL, text


def _as_text(value: object) -> str:
    """A decimal keeps its digits, a date or an instant is written as ISO 8601 does."""
    return value.isoformat() if isinstance(value, date) else str(value)


def broken(
    contract: Contract, expectations: Iterable[Expectation], rows: pl.DataFrame, violations: pl.Series
) -> pl.Series:
    """What each of the rows broke (`polars_type`), an entry for each of its violations, in their order.

    rows: as they came; columns may be missing. violations: the names of expectations, some of `expectations`.
    """
    import numpy as np
    import polars as pl

    lengths = violations.list.len().fill_null(0).to_numpy()
    names = violations.filter(violations.list.len() > 0).explode().alias("name")
    if names.is_empty():
        return pl.Series("broken", [[]], polars_type()).new_from_index(0, len(violations))
    # A row number for each violation: the lists are built from these at once, none by itself.
    row = np.repeat(np.arange(len(violations), dtype=np.uint32), lengths)
    demands = _demands(contract, expectations, names)
    values = [
        pl.when(pl.col("name") == name).then(pl.concat_list(_value(contract, rows, c, row) for c in columns))
        for name, columns in demands.select("name", "columns").iter_rows()
    ]
    entries = (
        names.to_frame()
        .with_columns(pl.coalesce(values).alias("values"))
        .join(demands, on="name", how="left", maintain_order="left")
        .select(pl.struct("code", "columns", "bound", "values").alias("entry"))
        .to_series()
    )
    return _lists(entries, lengths)


def _demands(contract: Contract, expectations: Iterable[Expectation], names: pl.Series) -> pl.DataFrame:
    """What each expectation demands that is among the names; no name is told twice."""
    import polars as pl

    by_name = {e.name: e for e in expectations}
    rows = [
        {"name": name, "code": d.code, "columns": d.columns, "bound": d.bound}
        for name in names.unique(maintain_order=True)
        for d in (demand_of(by_name[name], contract),)
    ]
    texts = pl.List(pl.String)
    schema = {"name": pl.String, "code": pl.String, "columns": texts, "bound": pl.String}
    return pl.DataFrame(rows, schema=schema)


def _value(contract: Contract, rows: pl.DataFrame, column: str, row: Any) -> pl.Series:
    """The text of a column's values at these row numbers."""
    import polars as pl

    if column in contract.pii or column not in rows.columns:
        return pl.Series(column, [None], pl.String).new_from_index(0, len(row))
    came = rows.get_column(column)
    if came.dtype.is_nested() or came.dtype == pl.Binary or came.dtype == pl.Object:
        return pl.Series(column, [None], pl.String).new_from_index(0, len(row))
    text = came.dt.to_string("iso") if came.dtype.is_temporal() else came.cast(pl.String)
    return text.str.slice(0, LONGEST).gather(row)


def _lists(entries: pl.Series, lengths: Any) -> pl.Series:
    """Entries in a row as lists of these lengths."""
    import numpy as np
    import polars as pl
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    lists = pa.LargeListArray.from_arrays(offsets, entries.to_arrow())
    return pl.Series("broken", pl.from_arrow(lists), polars_type())
