"""Validates rows against a contract in Polars, without a JVM.

The fastest layout found: each column is read once, with Polars' own strict cast; each expectation becomes one
boolean column; their "or" separates good rows from bad ones; names of violations are only written for bad
rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Any, cast

import polars as pl

from medallion_platform.contracts import casts, folders
from medallion_platform.contracts.contract import (
    Column,
    ColumnType,
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
    Severity,
    Sql,
    StartsWith,
    Unique,
    Value,
    Values,
    is_bound,
)
from medallion_platform.contracts.sql import Node, parse

VIOLATIONS = "_violations"
"""The column that names the violated expectations of a bad row."""

_TYPES: dict[str, pl.DataType] = {
    "string": pl.String(),
    "integer": pl.Int32(),
    "long": pl.Int64(),
    "float": pl.Float32(),
    "double": pl.Float64(),
    "boolean": pl.Boolean(),
    "date": pl.Date(),
    "timestamp": pl.Datetime("us", "UTC"),
}
_FIRST_DAY, _LAST_DAY = date(1, 1, 1), date(9999, 12, 31)


@dataclass(frozen=True)
class ValidationResult:
    """A frame, split. `good` and `bad` keep the order of the rows.

    `violations`, `warnings` and `failures` count the rows that violate each expectation of severity
    reject, warn and fail; every expectation is named, also with 0. Rows that violate only expectations
    of warn and fail are good; what `failures` says is the caller's to act on.
    """

    good: pl.DataFrame
    bad: pl.DataFrame
    violations: dict[str, int]
    warnings: dict[str, int]
    failures: dict[str, int]


def polars_type(type: ColumnType) -> pl.DataType:
    """The polars type of a contract's type."""
    if type.kind == "decimal":
        return pl.Decimal(type.precision, type.scale)
    return _TYPES[type.kind]


def type_of(kind: pl.DataType) -> ColumnType | None:
    """The contract's type that has this polars type, if one has."""
    if isinstance(kind, pl.Decimal):
        return ColumnType("decimal", kind.precision, kind.scale)
    return next((ColumnType(cast(Any, name)) for name, type in _TYPES.items() if type == kind), None)


def polars_schema(contract: Contract) -> pl.Schema:
    """The schema of good rows, columns of the contract only."""
    return pl.Schema({column.name: polars_type(column.type) for column in contract.columns})


def validate(contract: Contract, frame: pl.DataFrame) -> ValidationResult:
    """Splits a frame into typed good rows and bad rows as they came.

    Columns hold text or typed values; one that is missing counts as null; one that the contract does
    not know passes through behind the others. `Unique` and `Values` see this frame only.
    """
    typed, masks = _verdicts(contract, frame)
    counts = {e.name: _count(masks.get(e.name)) for e in contract.expectations}
    rejecting = {
        e.name: mask
        for e in contract.expectations
        if e.severity is Severity.REJECT and counts[e.name]
        for mask in (masks[e.name],)
        if isinstance(mask, pl.Series)
    }
    if rejecting:
        flags = pl.DataFrame([mask.alias(str(i)) for i, mask in enumerate(rejecting.values())])
        is_bad = flags.select(pl.any_horizontal(pl.all())).to_series()
        good = typed.filter(~is_bad)
        bad = frame.filter(is_bad).with_columns(_names(flags.filter(is_bad), list(rejecting)))
    else:
        good = typed
        bad = frame.clear().with_columns(pl.Series(VIOLATIONS, [], pl.List(pl.String)))
    by_severity: dict[Severity, dict[str, int]] = {severity: {} for severity in Severity}
    for expectation in contract.expectations:
        by_severity[expectation.severity][expectation.name] = counts[expectation.name]
    return ValidationResult(
        good,
        bad,
        by_severity[Severity.REJECT],
        by_severity[Severity.WARN],
        by_severity[Severity.FAIL],
    )


def verdicts(contract: Contract, frame: pl.DataFrame) -> pl.DataFrame:
    """One boolean column for each expectation: whether the row violates it.

    For tests and for looking into a table. An expectation of the frame has one verdict for all rows.
    """
    _, masks = _verdicts(contract, frame)
    columns: list[pl.Series] = []
    for expectation in contract.expectations:
        mask = masks.get(expectation.name)
        if not isinstance(mask, pl.Series):
            mask = pl.repeat(bool(mask), frame.height, dtype=pl.Boolean, eager=True)
        columns.append(mask.alias(expectation.name))
    return pl.DataFrame(columns)


def _names(flags: pl.DataFrame, names: list[str]) -> pl.Series:
    told = [
        pl.when(pl.col(column)).then(pl.lit(name)) for column, name in zip(flags.columns, names, strict=True)
    ]
    return flags.select(pl.concat_list(told).list.drop_nulls().alias(VIOLATIONS)).to_series()


def _count(mask: pl.Series | bool | None) -> int:
    return int(mask.sum()) if isinstance(mask, pl.Series) else int(bool(mask))


def _verdicts(contract: Contract, frame: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, pl.Series | bool]]:
    """The typed frame, and for each expectation the rows that violate it (none: it is missing)."""
    columns: list[pl.Series] = []
    unread: dict[str, pl.Series] = {}
    for column in contract.columns:
        if column.name in frame.columns:
            given = frame.get_column(column.name)
            series = convert(given, column.type)
            if series is not given and series.null_count() > given.null_count():
                unread[column.name] = series.is_null() & given.is_not_null()
        else:
            series = pl.repeat(None, frame.height, dtype=polars_type(column.type), eager=True)
        columns.append(series.alias(column.name))
    known = set(contract.column_names)
    columns.extend(frame.get_column(name) for name in frame.columns if name not in known)
    # By name: of a list polars would number the one whose name is empty.
    typed = pl.DataFrame({series.name: series for series in columns})
    masks: dict[str, pl.Series | bool] = {}
    wanted: list[pl.Expr] = []
    for position, expectation, expression in _compiled(contract):
        name = expectation.columns[0]
        if isinstance(expectation.test, IsType):
            if name in unread:
                masks[expectation.name] = unread[name]
        elif isinstance(expectation.test, NotNull):
            if typed.get_column(name).null_count():
                missing = typed.get_column(name).is_null()
                masks[expectation.name] = missing & ~unread[name] if name in unread else missing
        elif isinstance(expectation.test, Unique):
            masks[expectation.name] = _duplicated(typed, expectation, unread)
        elif isinstance(expectation.test, Values):
            masks[expectation.name] = _other_values(typed, expectation)
        elif expression is not None:
            wanted.append(expression.alias(str(position)))
    if wanted:
        found = typed.select(wanted)
        for position, expectation, _ in _compiled(contract):
            if str(position) in found.columns:
                masks[expectation.name] = found.get_column(str(position))
    return typed, masks


def _duplicated(typed: pl.DataFrame, expectation: Expectation, unread: Mapping[str, pl.Series]) -> pl.Series:
    names = list(expectation.columns)
    excluded = [unread[name] for name in names if name in unread]
    if not excluded:
        return typed.select(names).is_duplicated()
    out = pl.DataFrame([s.alias(str(i)) for i, s in enumerate(excluded)]).select(
        pl.any_horizontal(pl.all())
    ).to_series()  # fmt: skip
    readable = typed.select(names).with_columns(pl.int_range(pl.len()).alias("\0row")).filter(~out)
    twice = readable.filter(readable.select(names).is_duplicated()).get_column("\0row")
    return pl.int_range(typed.height, eager=True).is_in(twice.implode())


def _other_values(typed: pl.DataFrame, expectation: Expectation) -> bool:
    assert isinstance(expectation.test, Values)
    present = typed.get_column(expectation.columns[0]).drop_nulls().unique()
    expected = pl.Series(list(expectation.test.values), dtype=present.dtype)
    return not (present.len() == expected.len() and bool(present.is_in(expected.implode()).all()))


# casts -----------------------------------------------------------------------------------------


def convert(given: pl.Series, type: ColumnType) -> pl.Series:
    """The values as this type; what cannot be read as `casts` says is null."""
    target = polars_type(type)
    if given.dtype == pl.Binary:
        given = _decoded(given)
    if given.dtype == target and type.kind not in ("date", "timestamp"):
        return given
    if given.dtype == pl.Null:
        return given.cast(target)
    if given.dtype == pl.String:
        return _from_text(given, type, target)
    return _from_typed(given, type, target)


def _decoded(given: pl.Series) -> pl.Series:
    """Bytes as the text that they are; null where they are none."""
    try:
        return given.cast(pl.String)
    except pl.exceptions.ComputeError:
        return pl.Series(given.name, [_text_of(value) for value in given], pl.String)


def _text_of(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _from_text(text: pl.Series, type: ColumnType, target: pl.DataType) -> pl.Series:
    kind = type.kind
    if kind in ("integer", "long"):
        return text.cast(target, strict=False)
    if kind in ("float", "double"):
        return _without(text.cast(target, strict=False), text, casts.DIGIT)
    if kind == "boolean":
        return _boolean(text)
    form = {"date": casts.DATE, "timestamp": casts.TIMESTAMP}.get(kind) or casts.decimal_form(type)
    formed = _where(text, text.str.contains(form))
    if kind == "date":
        return formed.str.to_date("%Y-%m-%d", strict=False)
    if kind == "timestamp":
        return _instant(formed)
    return formed.cast(target, strict=False)


def _where(values: pl.Series, mask: pl.Series) -> pl.Series:
    """The values where the mask holds, else null; the same series if it always holds."""
    if mask.all():  # nulls are left out
        return values
    return values.to_frame("v").select(pl.when(mask).then(pl.col("v"))).to_series()


def _without(numbers: pl.Series, text: pl.Series, digit: str) -> pl.Series:
    """Numbers that became infinite though they were written with digits are none."""
    infinite = numbers.is_infinite()
    if not infinite.any():
        return numbers
    return _where(numbers, ~(infinite & text.str.contains(digit)))


def _boolean(text: pl.Series) -> pl.Series:
    true = text.is_in(pl.Series(casts.TRUE).implode())
    known = true | text.is_in(pl.Series(casts.FALSE).implode())
    return _where(true, known)


def _instant(text: pl.Series) -> pl.Series:
    """Timestamps in their form, read by Arrow: strict, and four times as fast as a format with a zone."""
    import pyarrow as pa

    if not text.str.ends_with("Z").all():
        zoned = pl.col("t").str.contains(casts.ZONED)
        text = text.to_frame("t").select(
            pl.when(zoned).then("t").otherwise(pl.col("t") + "Z")
        ).to_series()  # fmt: skip
    read = text.to_arrow().cast(pa.large_string()).cast(pa.timestamp("us", "UTC"))
    return _in_years(pl.Series(pl.from_arrow(read)).cast(pl.Datetime("us", "UTC")))


def _in_years(moments: pl.Series) -> pl.Series:
    if moments.len() == moments.null_count():
        return moments
    if moments.dtype == pl.Date:
        number, first, last = moments.cast(pl.Int32), -719_162, 2_932_896
    else:
        number, first, last = moments.cast(pl.Int64), casts.FIRST_INSTANT, casts.LAST_INSTANT
    inside = (number >= first) & (number <= last)
    return _where(moments, inside)


def _from_typed(given: pl.Series, type: ColumnType, target: pl.DataType) -> pl.Series:
    kind, source = type.kind, given.dtype
    if kind in ("integer", "long"):
        if source.is_integer():
            return given.cast(target, strict=False)
        if source.is_float():
            whole = given.cast(target, strict=False)
            return _where(whole, given == given.floor())
    elif kind in ("float", "double"):
        if source.is_integer():
            return given.cast(target, strict=False)
        if source.is_float():
            narrowed = given.cast(target)
            lost = narrowed.is_infinite() & given.is_finite()
            return _where(narrowed, ~lost) if lost.any() else narrowed
    elif kind == "decimal":
        if source.is_integer():
            return given.cast(pl.Int128).cast(target, strict=False)
        if isinstance(source, pl.Decimal):
            rescaled = given.cast(target, strict=False)
            return _where(rescaled, rescaled.cast(pl.Decimal(38, source.scale)) == given)
    elif kind == "string":
        if source.is_integer() or isinstance(source, pl.Categorical | pl.Enum):
            return given.cast(target)
    elif kind == "date":
        if source == pl.Date:
            return _in_years(given)
        if isinstance(source, pl.Datetime):
            moments = _utc(given)
            midnight = moments.cast(pl.Int64) % casts.MICROSECONDS_A_DAY == 0
            return _where(moments.cast(pl.Date), midnight)
    elif kind == "timestamp":
        if isinstance(source, pl.Datetime):
            return _utc(given)
        if source == pl.Date:
            return _utc(_in_years(given).cast(pl.Datetime("us")))
    return pl.repeat(None, given.len(), dtype=target, eager=True)


def _utc(moments: pl.Series) -> pl.Series:
    assert isinstance(moments.dtype, pl.Datetime)
    if moments.dtype.time_zone is None:
        moments = moments.dt.replace_time_zone("UTC")
    if moments.dtype.time_unit == "ms":  # type: ignore[union-attr]
        number = moments.cast(pl.Int64)  # in microseconds it may have no number at all
        held = number.is_between(casts.FIRST_INSTANT // 1_000, casts.LAST_INSTANT // 1_000)
        moments = _where(number, held).cast(moments.dtype)
    return _in_years(moments.cast(pl.Datetime("us", "UTC")))


# expectations ----------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _compiled(contract: Contract) -> tuple[tuple[int, Expectation, pl.Expr | None], ...]:
    return tuple(
        (position, expectation, _violates(contract, expectation))
        for position, expectation in enumerate(contract.expectations)
    )


def _violates(contract: Contract, expectation: Expectation) -> pl.Expr | None:
    if isinstance(expectation.test, IsType | NotNull | Unique | Values):
        return None
    if isinstance(expectation.test, Sql):
        passes = _sql(parse(expectation.test.text, contract.columns))
    else:
        passes = _passes(expectation, contract.column(expectation.columns[0]))
    return passes.not_().fill_null(False)


def _passes(expectation: Expectation, column: Column) -> pl.Expr:
    test, value = expectation.test, pl.col(column.name)
    if isinstance(test, Compare):
        passes = getattr(value, test.operator)(_literal(test.value, column.type))
        return passes & value.is_not_nan() if is_bound(test, column.type) else passes
    if isinstance(test, InRange):
        low, high = _literal(test.low, column.type), _literal(test.high, column.type)
        above = value >= low if test.include_low else value > low
        below = value <= high if test.include_high else value < high
        return above & below & value.is_not_nan() if is_bound(test, column.type) else above & below
    if isinstance(test, OneOf):
        inside = value.is_in(pl.Series(list(test.values), dtype=polars_type(column.type)).implode())
        return inside.not_() if test.negated else inside
    if isinstance(test, Matches):
        return value.str.contains(test.pattern)
    if isinstance(test, StartsWith):
        return value.str.starts_with(test.text)
    if isinstance(test, EndsWith):
        return value.str.ends_with(test.text)
    if isinstance(test, Length):
        return _length(value.str.len_chars(), test)
    if isinstance(test, NamesFolder):
        size = value.str.len_bytes() + 2 * value.str.count_matches(folders.ESCAPED)
        other = value.is_in(["", folders.HIVE_NULL]) | value.str.contains("\0", literal=True)
        return (size <= test.most) & ~other
    raise TypeError(f"no translation of {test!r}")


def _length(length: pl.Expr, test: Length) -> pl.Expr:
    if test.least is not None and test.most is not None:
        return length == test.least if test.least == test.most else length.is_between(
            test.least, test.most
        )  # fmt: skip
    return length >= test.least if test.least is not None else length <= test.most


def _literal(value: Value, type: ColumnType) -> pl.Expr:
    return pl.lit(value, dtype=polars_type(type))


def _sql_type(node: Node) -> pl.DataType:
    kind = node.type.kind
    if kind in ("int", "interval"):
        return pl.Int128() if node.type.wide else pl.Int64()
    if kind == "float":
        return pl.Float64()
    if kind == "decimal":
        return pl.Decimal(38, node.type.scale)
    return _TYPES[kind]


def _sql(node: Node) -> pl.Expr:
    operation = node.operation
    if operation == "column":
        column = pl.col(node.value)
        return column.cast(_sql_type(node)) if node.type.kind in ("int", "float") else column
    if operation == "literal":
        return _sql_literal(node)
    arguments: list[Any] = [_sql(argument) for argument in node.arguments]
    first = arguments[0]
    if operation in ("eq", "ne", "lt", "le", "gt", "ge"):
        return getattr(first, operation)(arguments[1])
    if operation in ("and", "or"):
        return first & arguments[1] if operation == "and" else first | arguments[1]
    if operation == "divide":
        return pl.when(arguments[1] != 0.0).then(first / arguments[1])
    if operation in ("add", "subtract", "multiply"):
        return _arithmetic(node, first, arguments[1])
    if operation in ("elapsed", "days"):
        number = pl.Int64 if operation == "elapsed" else pl.Int32
        return (first.cast(number) - arguments[1].cast(number)).cast(pl.Int64)
    simple: dict[str, Any] = {
        "not": lambda: first.not_(),
        "is_null": lambda: first.is_null(),
        "is_nan": lambda: first.is_nan(),
        "matches": lambda: first.str.contains(node.value),
        "as": lambda: first.cast(_sql_type(node)),
        "negate": lambda: pl.lit(0, dtype=pl.Int128) - first if node.type.wide else -first,
        "abs": lambda: first.abs(),
        "length": lambda: first.str.len_chars().cast(pl.Int64),
        "date": lambda: first.dt.date(),
        "coalesce": lambda: pl.coalesce(arguments),
    }
    return simple[operation]()


def _arithmetic(node: Node, left: pl.Expr, right: pl.Expr) -> pl.Expr:
    if node.type.kind == "timestamp":
        left = left.cast(pl.Int64)
    combined = {"add": left + right, "subtract": left - right, "multiply": left * right}
    result = combined[node.operation]
    return result.cast(_sql_type(node)) if node.type.kind in ("timestamp", "decimal") else result


def _sql_literal(node: Node) -> pl.Expr:
    value: Any = node.value
    if isinstance(value, datetime):
        return pl.lit(value, dtype=pl.Datetime("us", "UTC"))
    return pl.lit(value, dtype=_sql_type(node))
