"""The compiled form of a contract: plain, frozen data, independent of pandera and of the engines.

A contract consists of columns and expectations. Every expectation has one of the tests below; each engine
translates a test into its own expression, so a new engine is one more translation.

For all tests: a null passes (except `NotNull`), a NaN equals itself, is greater than every number but passes
no upper or lower bound, and 0.0 equals -0.0. Except for the bounds, these are the rules of Spark and Polars.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from typing import Literal

from medallion_platform.errors import DeclarationError

EVENT_DATE = "event_date"
"""A partition column that need not be declared: the writer derives it as the UTC date of the event time."""

Kind = Literal["string", "integer", "long", "float", "double", "boolean", "date", "timestamp", "decimal"]
Value = str | int | float | bool | date | datetime | Decimal
Comparison = Literal["eq", "ne", "gt", "ge", "lt", "le"]
Pii = Literal["email", "phone", "name"]
Protect = Literal["mask", "hash", "tokenize"]


class ContractError(DeclarationError):
    """A declaration that makes no sense; says which model, which field, and why.

    Example:
        >>> import pyspark.sql.types as T
        >>> from medallion_platform import ContractError, ContractModel, Field
        >>> try:
        ...     class Readings(ContractModel):
        ...         station: T.StringType = Field(severity="sometimes")
        ... except ContractError as error:
        ...     print("sometimes" in str(error))
        True
    """

    def __init__(self, model: str, field: str | None, reason: str) -> None:
        self.model = model
        self.field = field
        self.reason = reason
        super().__init__(f"{model}.{field}: {reason}" if field else f"{model}: {reason}")


class Severity(StrEnum):
    """What happens when a row violates an expectation.

    Example:
        >>> from medallion_platform import Severity
        >>> [severity.value for severity in Severity]
        ['reject', 'warn', 'fail']
    """

    REJECT = "reject"
    """The row goes to the dead letters."""
    WARN = "warn"
    """The row stays, the violation is counted."""
    FAIL = "fail"
    """The refresh fails."""


@dataclass(frozen=True)
class ColumnType:
    """A logical type. `integer` has 32 bits, `long` 64; a `timestamp` is a point in time, in microseconds."""

    kind: Kind
    precision: int = 0
    scale: int = 0

    def __str__(self) -> str:
        if self.kind == "decimal":
            return f"decimal({self.precision},{self.scale})"
        return self.kind


@dataclass(frozen=True)
class Column:
    """One column of a contract."""

    name: str
    type: ColumnType
    nullable: bool = False
    pii: Pii | None = None
    protect: Protect = "mask"
    """How personal data is protected downstream of bronze; see `masking`."""
    description: str = ""


@dataclass(frozen=True)
class IsType:
    """The value, if present, can be read as the column's type."""


@dataclass(frozen=True)
class NotNull:
    """The value is present. A value that cannot be read violates `IsType` instead."""


@dataclass(frozen=True)
class Compare:
    """The value compares as stated with a constant of the column's type."""

    operator: Comparison
    value: Value


@dataclass(frozen=True)
class InRange:
    """The value is between two constants."""

    low: Value
    high: Value
    include_low: bool = True
    include_high: bool = True


@dataclass(frozen=True)
class OneOf:
    """The value is one of these constants, or (negated) none of them."""

    values: tuple[Value, ...]
    negated: bool = False


@dataclass(frozen=True)
class Matches:
    """A regular expression is found in the text; `pattern` means the same to every engine.

    declared: the pattern as it was written, for people. anywhere: it need not be at the beginning (`pattern`
    says that, too).
    """

    pattern: str
    declared: str = field(default="", compare=False, repr=False)
    anywhere: bool = field(default=False, compare=False, repr=False)


@dataclass(frozen=True)
class StartsWith:
    """The text starts with this one."""

    text: str


@dataclass(frozen=True)
class EndsWith:
    """The text ends with this one."""

    text: str


@dataclass(frozen=True)
class Length:
    """The text has at least and at most this many characters (Unicode code points)."""

    least: int | None = None
    most: int | None = None


@dataclass(frozen=True)
class NamesFolder:
    """The text can be a partition value: not empty, and as a folder name at most `most` bytes long."""

    most: int


@dataclass(frozen=True)
class Unique:
    """No other validated row has the same values; of several equal rows, each one violates this.

    As in pandera, nulls are equal to each other. Rows with a value that cannot be read are ignored.
    """


@dataclass(frozen=True)
class Values:
    """About all rows together: the column's values, without nulls, are exactly these."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Sql:
    """A boolean SQL expression over the columns of a row; null passes."""

    text: str


Test = (
    IsType
    | NotNull
    | Compare
    | InRange
    | OneOf
    | Matches
    | StartsWith
    | EndsWith
    | Length
    | NamesFolder
    | Unique
    | Values
    | Sql
)


def is_bound(test: Compare | InRange, type: ColumnType) -> bool:
    """Whether a test is an upper or lower bound of a floating-point number, which NaN does not pass."""
    ordered = isinstance(test, InRange) or test.operator not in ("eq", "ne")
    return ordered and type.kind in ("float", "double")


@dataclass(frozen=True)
class Expectation:
    """A named test of one or several columns. The name holds the rule, never a value of a row.

    Messages, dead letters, commits and Dagster call it so. former_name: what older versions called it, by the
    check's own name in pandera ("" where that was the same); fingerprints go on with that one.

    Example:
        >>> import pyspark.sql.types as T
        >>> from medallion_platform import ContractModel, Field
        >>> class Readings(ContractModel):
        ...     humidity: T.LongType = Field(ge=0, severity="warn")
        >>> [(e.name, e.severity.value) for e in Readings.contract.expectations]
        [('humidity: is a long', 'warn'), ('humidity: not null', 'warn'), ('humidity: at least 0', 'warn')]
    """

    name: str
    columns: tuple[str, ...]
    severity: Severity
    test: Test
    former_name: str = field(default="", compare=False, repr=False)

    @property
    def of_frame(self) -> bool:
        """Whether it is about all rows together; violations are then counted as 0 or 1."""
        return isinstance(self.test, Values)


@dataclass(frozen=True)
class Contract:
    """What a good row of one table is.

    Example:
        >>> import pyspark.sql.types as T
        >>> from medallion_platform import Contract, ContractModel, Field
        >>> class Readings(ContractModel):
        ...     station: T.StringType = Field()
        >>> isinstance(Readings.contract, Contract), Readings.contract.column_names
        (True, ('station',))
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    event_time: str | None = None
    partitioned_by: tuple[str, ...] = ()
    watermark: timedelta | None = None
    expectations: tuple[Expectation, ...] = ()
    row_count_column: str | None = None
    """The column of an aggregate that counts the source rows of each row."""
    tolerated_share: float = field(default=0.05, compare=False)
    """The share of bad rows in a write above which a check warns."""
    description: str = field(default="", compare=False)

    @cached_property
    def by_name(self) -> Mapping[str, Column]:
        """The columns by their names."""
        return {column.name: column for column in self.columns}

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def pii(self) -> Mapping[str, Pii]:
        """The columns with personal data, each with its kind."""
        return {column.name: column.pii for column in self.columns if column.pii}

    @cached_property
    def has_tokens(self) -> bool:
        """Whether a column is tokenized, which requires a key."""
        return any(column.pii and column.protect == "tokenize" for column in self.columns)

    @cached_property
    def fingerprint(self) -> str:
        """A stable hash of everything that affects rows, without descriptions."""
        # A later option is included only if it is used, so that the hashes of other tables do not change.
        protect = {c.name: (c.protect,) if c.protect != "mask" else () for c in self.columns}
        columns = [(c.name, str(c.type), c.nullable, c.pii, *protect[c.name]) for c in self.columns]
        # By their former names, so that the hashes of tables do not change.
        expectations = [
            (e.former_name or e.name, e.columns, e.severity.value, e.test) for e in self.expectations
        ]
        facts = (
            self.name,
            columns,
            self.key,
            self.event_time,
            self.partitioned_by,
            self.watermark,
            expectations,
            self.row_count_column,
        )
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def column(self, name: str) -> Column:
        """The column of this name."""
        return self.by_name[name]

    def named(self, *severities: Severity) -> tuple[str, ...]:
        """The names of the expectations of these severities."""
        return tuple(e.name for e in self.expectations if e.severity in severities)
