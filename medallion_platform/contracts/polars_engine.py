"""Validates rows against a contract in Polars, without a JVM.

The fastest layout found: each column is read once, with Polars' own strict cast; each expectation becomes one
boolean column; their "or" separates good rows from bad ones; names of violations are only written for bad
rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

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
from medallion_platform.contracts.sql import Node, parse_sql

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

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
    """The good and the bad rows of a frame, both in its order.

    `violations`, `warnings` and `failures` count the rows that violate each expectation of severity
    reject, warn and fail; every expectation is named, also with 0. Rows that violate only expectations
    of warn and fail are good; the caller decides what follows from `failures`.
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


def column_type_of(kind: pl.DataType) -> ColumnType | None:
    """The contract's type for this Polars type, None if there is none."""
    if isinstance(kind, pl.Decimal):
        return ColumnType("decimal", kind.precision, kind.scale)
    return next((ColumnType(cast(Any, name)) for name, type in _TYPES.items() if type == kind), None)


def polars_schema(contract: Contract) -> pl.Schema:
    """The schema of good rows, columns of the contract only."""
    return pl.Schema({column.name: polars_type(column.type) for column in contract.columns})


def validate(contract: Contract, frame: pl.DataFrame) -> ValidationResult:
    """Split a frame into good rows, cast to the contract's types, and bad rows with their original values.

    Columns hold text or typed values; one that is missing counts as null; one that the contract does
    not know passes through behind the others. `Unique` and `Values` see this frame only.
    """
    typed, masks = _find_violations(contract, frame)
    counts = {e.name: _count_violations(masks.get(e.name)) for e in contract.expectations}
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
        bad = frame.filter(is_bad).with_columns(_violated_names(flags.filter(is_bad), list(rejecting)))
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


def violation_flags(contract: Contract, frame: pl.DataFrame) -> pl.DataFrame:
    """One boolean column for each expectation: whether the row violates it.

    For tests and for looking into a table. An expectation of the frame has the same value in every row.
    """
    _, masks = _find_violations(contract, frame)
    columns: list[pl.Series] = []
    for expectation in contract.expectations:
        mask = masks.get(expectation.name)
        if not isinstance(mask, pl.Series):
            mask = pl.repeat(bool(mask), frame.height, dtype=pl.Boolean, eager=True)
        columns.append(mask.alias(expectation.name))
    return pl.DataFrame(columns)


def _violated_names(flags: pl.DataFrame, names: list[str]) -> pl.Series:
    """Of each row the names of its violations, in order: looked up by number, so no text is compared."""
    import numpy as np

    violated = flags.to_numpy(order="c")
    found = pl.Series(names, dtype=pl.String).gather(np.nonzero(violated)[1].astype(np.uint32))
    return lists(found, violated.sum(axis=1)).alias(VIOLATIONS)


def lists(values: pl.Series, lengths: npt.NDArray[np.integer[Any]]) -> pl.Series:
    """Values in a row as lists of these lengths, built at once: an expression would build each by itself."""
    import numpy as np
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(offsets, values.to_arrow())))


def _count_violations(mask: pl.Series | bool | None) -> int:
    return int(mask.sum()) if isinstance(mask, pl.Series) else int(bool(mask))


def _cast_columns(contract: Contract, frame: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, pl.Series]]:
    """The typed frame, and for each column with such values the rows whose value is none of its type."""
    columns: list[pl.Series] = []
    unread: dict[str, pl.Series] = {}
    for column in contract.columns:
        if column.name in frame.columns:
            given = frame.get_column(column.name)
            series = cast_column(given, column.type)
            if series is not given and series.null_count() > given.null_count():
                unread[column.name] = series.is_null() & given.is_not_null()
        else:
            series = pl.repeat(None, frame.height, dtype=polars_type(column.type), eager=True)
        columns.append(series.alias(column.name))
    known = set(contract.column_names)
    columns.extend(frame.get_column(name) for name in frame.columns if name not in known)
    # By name: of a list polars would number the one whose name is empty.
    return pl.DataFrame({series.name: series for series in columns}), unread


def _find_violations(
    contract: Contract, frame: pl.DataFrame
) -> tuple[pl.DataFrame, dict[str, pl.Series | bool]]:
    """The typed frame, and the rows that violate each expectation; one that all rows keep may be missing."""
    typed, unread = _cast_columns(contract, frame)
    masks: dict[str, pl.Series | bool] = {}
    wanted: list[pl.Expr] = []
    for position, expectation, expression in _compile_expectations(contract):
        name = expectation.columns[0]
        if isinstance(expectation.test, IsType):
            if name in unread:
                masks[expectation.name] = unread[name]
        elif isinstance(expectation.test, NotNull):
            if typed.get_column(name).null_count():
                missing = typed.get_column(name).is_null()
                masks[expectation.name] = missing & ~unread[name] if name in unread else missing
        elif isinstance(expectation.test, Unique):
            masks[expectation.name] = _find_duplicates(typed, expectation, unread)
        elif isinstance(expectation.test, Values):
            masks[expectation.name] = _has_unexpected_values(typed, expectation)
        elif expression is not None:
            wanted.append(expression.alias(str(position)))
    if wanted:
        found = typed.select(wanted)
        for position, expectation, _ in _compile_expectations(contract):
            if str(position) in found.columns:
                masks[expectation.name] = found.get_column(str(position))
    return typed, masks


def _find_duplicates(
    typed: pl.DataFrame, expectation: Expectation, unread: Mapping[str, pl.Series]
) -> pl.Series:
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


def _has_unexpected_values(typed: pl.DataFrame, expectation: Expectation) -> bool:
    assert isinstance(expectation.test, Values)
    present = typed.get_column(expectation.columns[0]).drop_nulls().unique()
    expected = pl.Series(list(expectation.test.values), dtype=present.dtype)
    return not (present.len() == expected.len() and bool(present.is_in(expected.implode()).all()))


# casts -----------------------------------------------------------------------------------------


def cast_column(given: pl.Series, type: ColumnType) -> pl.Series:
    """The values cast to this type; null where `casts` does not allow it."""
    target = polars_type(type)
    if given.dtype == pl.Binary:
        given = _decode_column(given)
    if given.dtype == target and type.kind not in ("date", "timestamp"):
        return given
    if given.dtype == pl.Null:
        return given.cast(target)
    if given.dtype == pl.String:
        return _cast_text(given, type, target)
    return _cast_typed(given, type, target)


def _decode_column(given: pl.Series) -> pl.Series:
    """Decode UTF-8; null where the bytes are not valid."""
    try:
        return given.cast(pl.String)
    except pl.exceptions.ComputeError:
        return pl.Series(given.name, [_decode_value(value) for value in given], pl.String)


def _decode_value(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _cast_text(text: pl.Series, type: ColumnType, target: pl.DataType) -> pl.Series:
    kind = type.kind
    if kind in ("integer", "long"):
        return text.cast(target, strict=False)
    if kind in ("float", "double"):
        return _null_overflows(text.cast(target, strict=False), text, casts.DIGIT)
    if kind == "boolean":
        return _parse_booleans(text)
    form = {"date": casts.DATE, "timestamp": casts.TIMESTAMP}.get(kind) or casts.decimal_pattern(type)
    formed = _null_unless(text, text.str.contains(form))
    if kind == "date":
        return formed.str.to_date("%Y-%m-%d", strict=False)
    if kind == "timestamp":
        return _parse_timestamps(formed)
    return formed.cast(target, strict=False)


def _null_unless(values: pl.Series, mask: pl.Series) -> pl.Series:
    """The values where the mask holds, else null; the same series if it always holds."""
    if mask.all():  # nulls are left out
        return values
    return values.to_frame("v").select(pl.when(mask).then(pl.col("v"))).to_series()


def _null_overflows(numbers: pl.Series, text: pl.Series, digit: str) -> pl.Series:
    """Replace by null what was written with digits and became infinite."""
    infinite = numbers.is_infinite()
    if not infinite.any():
        return numbers
    return _null_unless(numbers, ~(infinite & text.str.contains(digit)))


def _parse_booleans(text: pl.Series) -> pl.Series:
    true = text.is_in(pl.Series(casts.TRUE).implode())
    known = true | text.is_in(pl.Series(casts.FALSE).implode())
    return _null_unless(true, known)


def _parse_timestamps(text: pl.Series) -> pl.Series:
    """Parse timestamps by Arrow: it is strict, and four times as fast as a format with a zone."""
    import pyarrow as pa

    if not text.str.ends_with("Z").all():
        zoned = pl.col("t").str.contains(casts.ZONED)
        text = text.to_frame("t").select(
            pl.when(zoned).then("t").otherwise(pl.col("t") + "Z")
        ).to_series()  # fmt: skip
    read = text.to_arrow().cast(pa.large_string()).cast(pa.timestamp("us", "UTC"))
    return _null_outside_years(pl.Series(pl.from_arrow(read)).cast(pl.Datetime("us", "UTC")))


def _null_outside_years(moments: pl.Series) -> pl.Series:
    if moments.len() == moments.null_count():
        return moments
    if moments.dtype == pl.Date:
        number, first, last = moments.cast(pl.Int32), -719_162, 2_932_896
    else:
        number, first, last = moments.cast(pl.Int64), casts.FIRST_INSTANT, casts.LAST_INSTANT
    inside = (number >= first) & (number <= last)
    return _null_unless(moments, inside)


def _cast_typed(given: pl.Series, type: ColumnType, target: pl.DataType) -> pl.Series:
    cast_typed = _CASTS.get(type.kind)
    found = cast_typed(given, target) if cast_typed else None
    return pl.repeat(None, given.len(), dtype=target, eager=True) if found is None else found


def _cast_to_whole(given: pl.Series, target: pl.DataType) -> pl.Series | None:
    if given.dtype.is_integer():
        return given.cast(target, strict=False)
    if given.dtype.is_float():
        return _null_unless(given.cast(target, strict=False), given == given.floor())
    return None


def _cast_to_floating(given: pl.Series, target: pl.DataType) -> pl.Series | None:
    if given.dtype.is_integer():
        return given.cast(target, strict=False)
    if given.dtype.is_float():
        narrowed = given.cast(target)
        lost = narrowed.is_infinite() & given.is_finite()
        return _null_unless(narrowed, ~lost) if lost.any() else narrowed
    return None


def _cast_to_decimal(given: pl.Series, target: pl.DataType) -> pl.Series | None:
    if given.dtype.is_integer():
        return given.cast(pl.Int128).cast(target, strict=False)
    if isinstance(given.dtype, pl.Decimal):
        rescaled = given.cast(target, strict=False)
        return _null_unless(rescaled, rescaled.cast(pl.Decimal(38, given.dtype.scale)) == given)
    return None


def _cast_to_text(given: pl.Series, target: pl.DataType) -> pl.Series | None:
    plain = given.dtype.is_integer() or isinstance(given.dtype, pl.Categorical | pl.Enum)
    return given.cast(target) if plain else None


def _cast_to_date(given: pl.Series, _: pl.DataType) -> pl.Series | None:
    if given.dtype == pl.Date:
        return _null_outside_years(given)
    if isinstance(given.dtype, pl.Datetime):
        moments = _convert_to_utc(given)
        midnight = moments.cast(pl.Int64) % casts.MICROSECONDS_A_DAY == 0
        return _null_unless(moments.cast(pl.Date), midnight)
    return None


def _cast_to_instant(given: pl.Series, _: pl.DataType) -> pl.Series | None:
    if isinstance(given.dtype, pl.Datetime):
        return _convert_to_utc(given)
    if given.dtype == pl.Date:
        return _convert_to_utc(_null_outside_years(given).cast(pl.Datetime("us")))
    return None


_CASTS: Mapping[str, Callable[[pl.Series, pl.DataType], pl.Series | None]] = {
    "integer": _cast_to_whole,
    "long": _cast_to_whole,
    "float": _cast_to_floating,
    "double": _cast_to_floating,
    "decimal": _cast_to_decimal,
    "string": _cast_to_text,
    "date": _cast_to_date,
    "timestamp": _cast_to_instant,
}
"""Typed values as those of a kind of column; None if no value of their type is one."""


def _convert_to_utc(moments: pl.Series) -> pl.Series:
    assert isinstance(moments.dtype, pl.Datetime)
    if moments.dtype.time_zone is None:
        moments = moments.dt.replace_time_zone("UTC")
    if moments.dtype.time_unit == "ms":  # type: ignore[union-attr]
        number = moments.cast(pl.Int64)  # in microseconds it may have no number at all
        held = number.is_between(casts.FIRST_INSTANT // 1_000, casts.LAST_INSTANT // 1_000)
        moments = _null_unless(number, held).cast(moments.dtype)
    return _null_outside_years(moments.cast(pl.Datetime("us", "UTC")))


# expectations ----------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _compile_expectations(contract: Contract) -> tuple[tuple[int, Expectation, pl.Expr | None], ...]:
    return tuple(
        (position, expectation, _violation_expression(contract, expectation))
        for position, expectation in enumerate(contract.expectations)
    )


def _violation_expression(contract: Contract, expectation: Expectation) -> pl.Expr | None:
    if isinstance(expectation.test, IsType | NotNull | Unique | Values):
        return None
    if isinstance(expectation.test, Sql):
        passes = _sql_expression(parse_sql(expectation.test.text, contract.columns))
    else:
        passes = _pass_expression(expectation, contract.column(expectation.columns[0]))
    return passes.not_().fill_null(False)


def _pass_expression(expectation: Expectation, column: Column) -> pl.Expr:
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
        return _length_expression(value.str.len_chars(), test)
    if isinstance(test, NamesFolder):
        size = value.str.len_bytes() + 2 * value.str.count_matches(folders.ESCAPED)
        other = value.is_in(["", folders.HIVE_NULL]) | value.str.contains("\0", literal=True)
        return (size <= test.most) & ~other
    raise TypeError(f"no translation of {test!r}")


def _length_expression(length: pl.Expr, test: Length) -> pl.Expr:
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


def _sql_expression(node: Node) -> pl.Expr:
    operation = node.operation
    if operation == "column":
        column = pl.col(node.value)
        return column.cast(_sql_type(node)) if node.type.kind in ("int", "float") else column
    if operation == "literal":
        return _sql_literal(node)
    arguments: list[Any] = [_sql_expression(argument) for argument in node.arguments]
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
