"""Validates rows against a contract in Spark: one pass, no UDF, nothing evaluated twice.

The result for a row is one number whose bits are the violated expectations, in hidden columns beside the
typed ones. Everything else is derived from these bits: whether the row is good, the names of its violations,
the counters, the guard. Nothing here depends on the session's ANSI mode or time zone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property, reduce
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

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

VIOLATIONS = "_violations"
"""The column that names the violated expectations of a bad row."""

_WAS = "__was_"
_BITS = "__violated_"
_BITS_A_COLUMN = 62
_RAISED = "USER_RAISED_EXCEPTION"
_VIOLATED = "violated"

_TYPES: dict[str, T.DataType] = {
    "string": T.StringType(),
    "integer": T.IntegerType(),
    "long": T.LongType(),
    "float": T.FloatType(),
    "double": T.DoubleType(),
    "boolean": T.BooleanType(),
    "date": T.DateType(),
    "timestamp": T.TimestampType(),
}
_WHOLE = (T.ByteType, T.ShortType, T.IntegerType, T.LongType)
_FLOATING = (T.FloatType, T.DoubleType)
_EPOCH = date(1970, 1, 1)


def spark_type(type: ColumnType) -> T.DataType:
    """The Spark type of a contract's type."""
    if type.kind == "decimal":
        return T.DecimalType(type.precision, type.scale)
    return _TYPES[type.kind]


def spark_schema(contract: Contract) -> T.StructType:
    """The schema of good rows, columns of the contract only; all may be null, as Delta stores them."""
    return T.StructType([T.StructField(column.name, spark_type(column.type)) for column in contract.columns])


@dataclass(frozen=True)
class SparkValidationResult:
    """A frame with hidden columns that say which expectations each row violates.

    `df` has the typed columns of the contract, then the undeclared columns, then the hidden ones. Put
    `counters` into an Observation on `df`, then write `good()`; take `bad()` only if some were rejected.
    """

    contract: Contract
    df: DataFrame
    ok: SparkColumn
    """Whether the row violates no expectation of severity reject."""
    violations: SparkColumn
    """The names of the violated expectations of severity reject."""
    counters: dict[str, SparkColumn]
    """For each expectation the number of rows that violate it (of the frame: 0 or 1), to aggregate."""
    guard: SparkColumn | None
    """True, or an error naming the violated expectation of severity fail; None if there is no such."""
    verdicts: dict[str, SparkColumn]
    """For each expectation whether the row violates it (of the frame: false)."""
    hidden: tuple[str, ...]

    @cached_property
    def original_columns(self) -> dict[str, str]:
        """For each column that was cast, the hidden column with its original values."""
        return {name.removeprefix(_WAS): name for name in self.hidden if name.startswith(_WAS)}

    @cached_property
    def columns(self) -> list[str]:
        """The columns that are not hidden."""
        return [name for name in self.df.columns if name not in self.hidden]

    @cached_property
    def counters_without_letters(self) -> dict[str, SparkColumn]:
        """The counters of violations that reject no row; rejected rows name their violations themselves."""
        named = {e.name for e in self.contract.expectations if e.of_frame or e.severity is Severity.WARN}
        return {name: counter for name, counter in self.counters.items() if name in named}

    def good(self, df: DataFrame | None = None) -> DataFrame:
        """The good rows, typed. `df` is this one with an observation on it."""
        df = self.df if df is None else df
        ok = self.ok if self.guard is None else F.when(self.guard, self.ok)
        return df.filter(ok).select(*map(quoted, self.columns))

    def bad(self, df: DataFrame | None = None) -> DataFrame:
        """The rejected rows with their original values, `VIOLATIONS` as the last column."""
        df = self.df if df is None else df
        as_came = [
            quoted(_WAS + name).alias(name) if _WAS + name in self.hidden else quoted(name)
            for name in self.columns
            if name != VIOLATIONS
        ]
        return df.filter(~self.ok).select(*as_came, self.violations.alias(VIOLATIONS))


def validate(contract: Contract, df: DataFrame) -> SparkValidationResult:
    """Cast the columns and add hidden ones that say what each row violates; nothing is computed yet.

    Columns hold text or typed values; one that is missing counts as null; one that the contract does
    not know passes through. `Unique` and `Values` see the whole frame; `Unique` costs a shuffle.
    """
    given = {field.name: field.dataType for field in df.schema.fields}
    typed: list[SparkColumn] = []
    hidden: list[str] = []
    for column in contract.columns:
        target = spark_type(column.type)
        if column.name not in given:
            typed.append(F.lit(None).cast(target).alias(column.name))
            continue
        value = quoted(column.name)
        if given[column.name] == target and column.type.kind not in ("date", "timestamp"):
            typed.append(value)
            continue
        typed.append(cast_column(value, given[column.name], column.type).alias(column.name))
        hidden.append(_WAS + column.name)
    known = set(contract.column_names)
    through = [quoted(name) for name in df.columns if name not in known]
    was = [quoted(name.removeprefix(_WAS)).alias(name) for name in hidden]
    staged = df.select(*typed, *through, *was)
    cast_columns = frozenset(name.removeprefix(_WAS) for name in hidden)
    of_row = [
        (expectation, violated)
        for expectation in contract.expectations
        if not expectation.of_frame
        for violated in (_violation_column(contract, expectation, cast_columns),)
        if violated is not None
    ]
    groups = [of_row[i : i + _BITS_A_COLUMN] for i in range(0, len(of_row), _BITS_A_COLUMN)]
    bits = {f"{_BITS}{i}": _pack_violations([v for _, v in group]) for i, group in enumerate(groups)}
    staged = staged.withColumns(bits) if bits else staged
    verdicts = {expectation.name: F.lit(False) for expectation in contract.expectations}
    rejecting: list[SparkColumn] = []
    for i, group in enumerate(groups):
        column = F.col(f"{_BITS}{i}")
        mask = 0
        for place, (expectation, _) in enumerate(group):
            verdicts[expectation.name] = column.bitwiseAND(F.lit(1 << place)) != 0
            if expectation.severity is Severity.REJECT:
                mask |= 1 << place
        if mask:
            rejecting.append(column.bitwiseAND(F.lit(mask)) == 0)
    present = frozenset(expectation.name for expectation, _ in of_row)
    return SparkValidationResult(
        contract=contract,
        df=staged,
        ok=reduce(lambda a, b: a & b, rejecting) if rejecting else F.lit(True),
        violations=_violated_names(contract, verdicts, present),
        counters=dict(_violation_counters(contract, verdicts)),
        guard=_guard_against_failures(contract, verdicts, present),
        verdicts=verdicts,
        hidden=(*hidden, *bits),
    )


def quoted(name: str) -> SparkColumn:
    """The column of exactly this name: Spark takes a dot in a name for a step into a struct."""
    return F.col("`" + name.replace("`", "``") + "`")


def _pack_violations(violated: list[SparkColumn]) -> SparkColumn:
    bits = [F.when(v, F.lit(1 << i).cast("long")) for i, v in enumerate(violated)]
    zero = F.lit(0).cast("long")
    return reduce(lambda a, b: a.bitwiseOR(b), [bit.otherwise(zero) for bit in bits])


def _violated_names(
    contract: Contract, verdicts: dict[str, SparkColumn], present: frozenset[str]
) -> SparkColumn:
    names = [name for name in contract.named(Severity.REJECT) if name in present]
    if not names:
        return F.array().cast("array<string>")
    return F.array_compact(F.array(*(F.when(verdicts[name], F.lit(name)) for name in names)))


def _violation_counters(
    contract: Contract, verdicts: dict[str, SparkColumn]
) -> Iterator[tuple[str, SparkColumn]]:
    for expectation in contract.expectations:
        if isinstance(expectation.test, Values):
            column = contract.column(expectation.columns[0])
            counter = _has_unexpected_values(column, expectation.test).cast("long")
        else:
            counter = F.count_if(verdicts[expectation.name])
        yield expectation.name, counter


def _guard_against_failures(
    contract: Contract, verdicts: dict[str, SparkColumn], present: frozenset[str]
) -> SparkColumn | None:
    guard: Any = F
    for name in contract.named(Severity.FAIL):
        if name in present:
            message = json.dumps({"contract": contract.name, _VIOLATED: name})
            guard = guard.when(verdicts[name], F.raise_error(F.lit(message)).cast("boolean"))
    return None if guard is F else guard.otherwise(F.lit(True))


def failed_expectation(error: BaseException) -> str | None:
    """The expectation of severity fail that stopped Spark; None if something else did."""
    if not isinstance(error, PySparkException) or error.getCondition() != _RAISED:
        return None
    try:
        message: Any = json.loads((error.getMessageParameters() or {}).get("errorMessage", ""))
        return str(message[_VIOLATED])
    except (ValueError, TypeError, KeyError):  # raised by the transform itself
        return None


def _has_unexpected_values(column: Column, test: Values) -> SparkColumn:
    """An aggregate: whether the values, without nulls, differ from the expected ones."""
    value = quoted(column.name)
    if not test.values:
        return F.count(value) > 0
    each = [F.count_if(value == _literal(v, column.type)) > 0 for v in test.values]
    alien = F.count_if(~_is_one_of(value, test.values, column.type)) > 0
    return alien | ~reduce(lambda a, b: a & b, each)


# casts -----------------------------------------------------------------------------------------


def cast_column(value: SparkColumn, source: T.DataType, type: ColumnType) -> SparkColumn:
    """The value cast to this type; null where `casts` does not allow it."""
    target = spark_type(type)
    if source == T.NullType():
        return value.cast(target)
    converted = (
        _cast_text(value, type, target)
        if isinstance(source, T.StringType)
        else _cast_typed(value, source, type, target)
    )
    return F.lit(None).cast(target) if converted is None else converted


def _cast_text(text: SparkColumn, type: ColumnType, target: T.DataType) -> SparkColumn:
    kind = type.kind
    if kind == "string":
        return text
    if kind == "boolean":
        return F.when(text.isin(*casts.TRUE), F.lit(True)).when(text.isin(*casts.FALSE), F.lit(False))
    if kind in ("integer", "long"):
        return F.when(text.rlike(casts.INTEGER), text.try_cast(target))
    if kind in ("float", "double"):
        number = text.try_cast(target)
        finite = F.abs(number) < F.lit(float("inf")).cast(target)
        return (
            F.when(text.rlike(casts.NUMBER), F.when(finite, number))
            .when(text.rlike(casts.NAN), F.lit(float("nan")).cast(target))
            .when(text.rlike(casts.INFINITY), number)
        )
    if kind == "decimal":
        return F.when(text.rlike(casts.decimal_pattern(type)), text.try_cast(target))
    if kind == "date":
        return F.when(text.rlike(casts.DATE), text.try_cast(target))
    return _parse_timestamp(text)


def _parse_timestamp(text: SparkColumn) -> SparkColumn:
    """Parse a timestamp. Only on the first and the last day can an offset lead out of the years."""
    to_seconds = F.when(F.substring(text, 17, 1) == ":", text).otherwise(
        F.concat(F.substring(text, 1, 16), F.lit(":00"), F.substring(text, 17, 6))
    )
    zoned = text.endswith("Z") | text.rlike(casts.ZONED)
    moment = F.when(zoned, to_seconds).otherwise(F.concat(to_seconds, F.lit("Z"))).try_cast("timestamp")
    at_an_end = text.startswith("0001-01-01") | text.startswith("9999-12-31")
    return F.when(
        text.rlike(casts.TIMESTAMP), F.when(at_an_end, _null_outside_years(moment)).otherwise(moment)
    )


def _null_outside_years(moment: SparkColumn) -> SparkColumn:
    inside = F.unix_micros(moment).between(F.lit(casts.FIRST_INSTANT), F.lit(casts.LAST_INSTANT))
    return F.when(inside, moment)


def _null_days_outside_years(day: SparkColumn) -> SparkColumn:
    return F.when(F.unix_date(day).between(-719_162, 2_932_896), day)


def _cast_typed(
    value: SparkColumn, source: T.DataType, type: ColumnType, target: T.DataType
) -> SparkColumn | None:
    kind = type.kind
    whole, floating = isinstance(source, _WHOLE), isinstance(source, _FLOATING)
    if kind in ("integer", "long"):
        if whole:
            return value.try_cast(target)
        if floating:
            return F.when(F.rint(value) == value, value.try_cast(target))
    elif kind in ("float", "double"):
        if whole:
            return value.cast(target)
        if floating:
            narrowed = value.cast(target)
            infinite = F.lit(float("inf"))
            lost = (F.abs(narrowed) == infinite.cast(target)) & (F.abs(value) != infinite)
            return F.when(~lost, narrowed)
    elif kind == "decimal":
        if whole:
            return value.try_cast(target)
        if isinstance(source, T.DecimalType):
            rescaled = value.try_cast(target)
            return F.when(rescaled.try_cast(source) == value, rescaled)
    elif kind == "string":
        return value.cast(target) if whole else None
    elif kind in ("date", "timestamp"):
        return _cast_to_timestamp(value, source, kind)
    return None


def _cast_to_timestamp(value: SparkColumn, source: T.DataType, kind: str) -> SparkColumn | None:
    a_day = F.lit(casts.MICROSECONDS_A_DAY)
    if isinstance(source, T.DateType):
        day = _null_days_outside_years(value)
        if kind == "date":
            return day
        return F.timestamp_micros(F.unix_date(day).cast("long") * a_day)
    if isinstance(source, T.TimestampNTZType):
        value = F.concat(value.cast("string"), F.lit("Z")).try_cast("timestamp")
    elif not isinstance(source, T.TimestampType):
        return None
    moment = _null_outside_years(value)
    if kind == "timestamp":
        return moment
    number = F.unix_micros(moment)
    day = F.date_from_unix_date(F.call_function("div", number, a_day).cast("integer"))
    return F.when(number % a_day == 0, day)


# expectations ----------------------------------------------------------------------------------


def _violation_column(
    contract: Contract, expectation: Expectation, cast_columns: frozenset[str]
) -> SparkColumn | None:
    """Whether a row violates it (null: no); None if no row can."""
    name = expectation.columns[0]
    test, value, was = expectation.test, quoted(name), quoted(_WAS + name)
    if isinstance(test, IsType):
        return was.isNotNull() & value.isNull() if name in cast_columns else None
    if isinstance(test, NotNull):
        return was.isNull() if name in cast_columns else value.isNull()
    if isinstance(test, Unique):
        return _duplicate_column(expectation, cast_columns)
    if isinstance(test, Sql):
        return ~_sql_column(parse_sql(test.text, contract.columns))
    return ~_pass_column(expectation, contract.column(name))


def _duplicate_column(expectation: Expectation, cast_columns: frozenset[str]) -> SparkColumn:
    group = Window.partitionBy(*map(quoted, expectation.columns))
    unread = [
        quoted(_WAS + name).isNotNull() & quoted(name).isNull()
        for name in expectation.columns
        if name in cast_columns
    ]
    if not unread:
        return F.count(F.lit(1)).over(group) > 1
    readable = ~reduce(lambda a, b: a | b, unread)
    return readable & (F.count_if(readable).over(group) > 1)


def _pass_column(expectation: Expectation, column: Column) -> SparkColumn:
    test, value = expectation.test, quoted(column.name)
    if isinstance(test, Compare):
        passes = _comparison_column(test.operator, value, _literal(test.value, column.type))
        return passes & ~F.isnan(value) if is_bound(test, column.type) else passes
    if isinstance(test, InRange):
        low, high = _literal(test.low, column.type), _literal(test.high, column.type)
        above = value >= low if test.include_low else value > low
        below = value <= high if test.include_high else value < high
        return above & below & ~F.isnan(value) if is_bound(test, column.type) else above & below
    if isinstance(test, OneOf):
        inside = _is_one_of(value, test.values, column.type)
        return ~inside if test.negated else inside
    if isinstance(test, Matches):
        return value.rlike(test.pattern)
    if isinstance(test, StartsWith):
        return value.startswith(test.text)
    if isinstance(test, EndsWith):
        return value.endswith(test.text)
    if isinstance(test, Length):
        return _length_column(F.length(value), test)
    if isinstance(test, NamesFolder):
        size = F.octet_length(value) + 2 * F.regexp_count(value, F.lit(folders.ESCAPED))
        other = value.isin("", folders.HIVE_NULL) | value.contains("\0")
        return (size <= test.most) & ~other
    raise TypeError(f"no translation of {test!r}")


def _comparison_column(operator: str, left: SparkColumn, right: SparkColumn) -> SparkColumn:
    return {
        "eq": lambda: left == right,
        "ne": lambda: left != right,
        "lt": lambda: left < right,
        "le": lambda: left <= right,
        "gt": lambda: left > right,
        "ge": lambda: left >= right,
    }[operator]()


def _is_one_of(value: SparkColumn, values: tuple[Value, ...], type: ColumnType) -> SparkColumn:
    if not values:
        return F.when(value.isNotNull(), F.lit(False))
    return value.isin(*(_literal(v, type) for v in values))


def _length_column(length: SparkColumn, test: Length) -> SparkColumn:
    if test.least is not None and test.most is not None:
        return length.between(test.least, test.most)
    return length >= F.lit(test.least) if test.least is not None else length <= F.lit(test.most)


def _literal(value: Value, type: ColumnType) -> SparkColumn:
    if isinstance(value, datetime):
        return _timestamp_literal(value)
    if isinstance(value, date):
        return F.date_from_unix_date(F.lit((value - _EPOCH).days))
    return F.lit(value).cast(spark_type(type))


def _timestamp_literal(value: datetime) -> SparkColumn:
    since = value - datetime(1970, 1, 1, tzinfo=value.tzinfo)
    micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return F.timestamp_micros(F.lit(micros).cast("long"))


def _sql_type(node: Node) -> T.DataType:
    kind = node.type.kind
    if kind in ("int", "interval"):
        return T.DecimalType(38, 0) if node.type.wide else T.LongType()
    if kind == "float":
        return T.DoubleType()
    if kind == "decimal":
        return T.DecimalType(node.type.precision, node.type.scale)
    return _TYPES[kind]


def _sql_column(node: Node) -> SparkColumn:
    operation = node.operation
    if operation == "column":
        column = quoted(node.value)
        return column.cast(_sql_type(node)) if node.type.kind in ("int", "float") else column
    if operation == "literal":
        return _sql_literal(node)
    arguments = [_sql_column(argument) for argument in node.arguments]
    first = arguments[0]
    if operation in ("eq", "ne", "lt", "le", "gt", "ge"):
        return _comparison_column(operation, first, arguments[1])
    if operation in ("and", "or"):
        return first & arguments[1] if operation == "and" else first | arguments[1]
    if operation == "divide":
        return F.try_divide(first, arguments[1])
    if operation in ("add", "subtract", "multiply"):
        return _arithmetic(node, first, arguments[1])
    simple: dict[str, Any] = {
        "elapsed": lambda: F.unix_micros(first) - F.unix_micros(arguments[1]),
        "days": lambda: F.unix_date(first).cast("long") - F.unix_date(arguments[1]).cast("long"),
        "not": lambda: ~first,
        "is_null": lambda: first.isNull(),
        "is_nan": lambda: F.isnan(first),
        "matches": lambda: first.rlike(node.value),
        "as": lambda: first.cast(_sql_type(node)),
        "negate": lambda: -first,
        "abs": lambda: F.abs(first),
        "length": lambda: F.length(first).cast("long"),
        "date": lambda: _utc_day(first),
        "coalesce": lambda: F.coalesce(*arguments),
    }
    return simple[operation]()


def _utc_day(moment: SparkColumn) -> SparkColumn:
    """The day in UTC, whatever the session's zone: whole days since 1970, rounded down."""
    number, a_day = F.unix_micros(moment), F.lit(casts.MICROSECONDS_A_DAY)
    days = F.call_function("div", number - F.pmod(number, a_day), a_day)
    return F.date_from_unix_date(days.cast("integer"))


def _arithmetic(node: Node, left: SparkColumn, right: SparkColumn) -> SparkColumn:
    if node.type.kind == "timestamp":
        left = F.unix_micros(left)
    result = {
        "add": lambda: left + right,
        "subtract": lambda: left - right,
        "multiply": lambda: left * right,
    }[node.operation]()
    if node.type.kind == "timestamp":
        return F.timestamp_micros(result)
    return result.cast(_sql_type(node)) if node.type.kind == "decimal" or node.type.wide else result


def _sql_literal(node: Node) -> SparkColumn:
    value: Any = node.value
    if isinstance(value, datetime):
        return _timestamp_literal(value)
    if isinstance(value, date):
        return F.date_from_unix_date(F.lit((value - _EPOCH).days))
    if node.type.wide:
        return F.lit(str(value)).cast(_sql_type(node))
    return F.lit(value).cast(_sql_type(node))
