"""What a rejected row violates, in fields for programs, so that none has to parse the sentences for people.

- `code`: what the expectation requires, a `Rule`.
- `columns`: the columns that it is about.
- `bound`: what their values are compared with, as JSON text (`0`, `["click", "login"]`, `{"at_least": 0}`);
  null if they are compared with nothing.
- `values`: the value of each of these columns as it came, as text of at most `LONGEST` characters. Null if
  there is none, if it is nested or bytes, and always if it is personal data.

Pure, in polars, and the same for both engines: rows that Spark rejects become dead letters in polars too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
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
    import numpy as np
    import numpy.typing as npt
    import polars as pl

    Numbers = npt.NDArray[np.integer[Any]]

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

    from medallion_platform.contracts.polars_engine import lists

    lengths = violations.list.len().fill_null(0).to_numpy()
    names = violations.filter(violations.list.len() > 0).explode()
    if names.is_empty():
        return pl.Series("broken", [[]], polars_type()).new_from_index(0, len(violations))
    by_name = {e.name: e for e in expectations}
    distinct = names.unique(maintain_order=True)
    demands = [demand_of(by_name[name], contract) for name in distinct]
    # The numbers of each violation's demand and row: what follows looks up by these and compares no name.
    demand = names.cast(pl.Enum(distinct)).to_physical().to_numpy()
    row = np.repeat(np.arange(len(violations), dtype=np.uint32), lengths)
    values = _values(contract, rows, demands, demand, row)
    schema = {"code": pl.String, "columns": pl.List(pl.String), "bound": pl.String}
    told = pl.DataFrame([asdict(d) for d in demands], schema)[demand]
    return lists(told.with_columns(values).to_struct(), lengths).alias("broken")


def _values(
    contract: Contract, rows: pl.DataFrame, demands: Sequence[Demand], demand: Numbers, row: Numbers
) -> pl.Series:
    """Of each violation, told by the numbers of its demand and row, the list of values that broke it."""
    import numpy as np
    import polars as pl

    from medallion_platform.contracts.polars_engine import lists

    texts = {c: _texts(contract, rows, c) for d in demands for c in d.columns}
    widths = np.array([len(d.columns) for d in demands])[demand]
    begins = np.cumsum(widths) - widths
    # Gathered demand by demand and column by column, then brought into the order of the violations.
    found, places = [pl.Series([], dtype=pl.String)], [begins[:0]]
    for number, columns in enumerate(d.columns for d in demands):
        mine = np.flatnonzero(demand == number)
        found += [texts[c].gather(row[mine]) for c in columns]
        places += [begins[mine] + nth for nth in range(len(columns))]
    order = np.empty(int(widths.sum()), dtype=np.uint32)
    order[np.concatenate(places)] = np.arange(len(order), dtype=np.uint32)
    return lists(pl.concat(found).gather(order), widths).alias("values")


def _texts(contract: Contract, rows: pl.DataFrame, column: str) -> pl.Series:
    """A column's values as text."""
    import polars as pl

    nothing = pl.Series([None], dtype=pl.String).new_from_index(0, rows.height)
    if column in contract.pii or column not in rows.columns:
        return nothing
    came = rows.get_column(column)
    if came.dtype.is_nested() or came.dtype == pl.Binary or came.dtype == pl.Object:
        return nothing
    text = came.dt.to_string("iso") if came.dtype.is_temporal() else came.cast(pl.String)
    return text.str.slice(0, LONGEST) if (text.str.len_bytes() > LONGEST).any() else text
