"""How a contract is declared: a pandera model, which is compiled when its class is created.

    class Events(ContractModel):
        event_id: T.StringType = Field(severity="reject", str_length=(1, 64))
        amount: T.DoubleType = Field(ge=0, nullable=True, severity={"ge": "warn"})
        email: T.StringType = Field(nullable=True, pii="email")

        class Config:
            metadata = {
                "key": ["event_id"],
                "event_time": "event_timestamp",
                "rows": {"session in order": expect("session_end >= session_start", severity="warn")},
            }

    Events.contract

`Field` is pandera's, with four more options (severity, pii, protect, unique), which can also be given in
pandera's `metadata`. Errors of pandera are raised when the model is compiled, with the names of model and
field. An invalid declaration raises ContractError where the class is defined.

In pandera, Python's `int` and `float` have 32 bits.

`Any` in this module is what pandera leaves untyped: options of fields and checks, models and their schemas.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import pandera.pyspark as pa
import pyspark.sql.types as T
from pandera.api.checks import Check
from pandera.api.dataframe.model_components import Field as _PanderaField
from pandera.api.dataframe.model_components import FieldInfo
from pandera.api.pyspark.model_config import BaseConfig

from medallion_platform.contracts.contract import (
    EVENT_DATE,
    Column,
    ColumnType,
    Compare,
    Comparison,
    Contract,
    ContractError,
    EndsWith,
    Expectation,
    InRange,
    IsType,
    Length,
    Matches,
    NamesFolder,
    NotNull,
    OneOf,
    Pii,
    Protect,
    Severity,
    Sql,
    StartsWith,
    Test,
    Unique,
    Value,
    Values,
)
from medallion_platform.contracts.folders import room
from medallion_platform.contracts.patterns import portable
from medallion_platform.contracts.sql import SqlError, columns_of

_TABLE_OPTIONS = (
    "key",
    "event_time",
    "partitioned_by",
    "watermark",
    "row_count_column",
    "rows",
    "unique_severity",
    "tolerated_share",
)
_FIELD_OPTIONS = ("severity", "pii", "protect", "unique")
_CONFIG_OPTIONS = ("metadata", "name", "unique", "strict", "ordered", "dtype")
_WITHOUT_EFFECT = ("default", "coerce", "on_missing", "parses")
_ILLEGAL = frozenset(" ,;{}()\n\t=\0")
"""What no name of a column may hold, for readers of Delta tables."""
_PII: dict[Pii, tuple[Protect, ...]] = {
    "email": ("mask", "tokenize"),
    "phone": ("mask", "tokenize"),
    "name": ("mask", "hash", "tokenize"),
}
_COMPARISONS: dict[str, Comparison] = {
    "equal_to": "eq",
    "not_equal_to": "ne",
    "greater_than": "gt",
    "greater_than_or_equal_to": "ge",
    "less_than": "lt",
    "less_than_or_equal_to": "le",
}
_ALIASES = {short: long for long, short in _COMPARISONS.items()} | {
    "between": "in_range",
    "nullable": "not_null",
    "dtype": "type",
}
_KINDS: dict[type[T.DataType], ColumnType] = {
    T.StringType: ColumnType("string"),
    T.IntegerType: ColumnType("integer"),
    T.LongType: ColumnType("long"),
    T.FloatType: ColumnType("float"),
    T.DoubleType: ColumnType("double"),
    T.BooleanType: ColumnType("boolean"),
    T.DateType: ColumnType("date"),
    T.TimestampType: ColumnType("timestamp"),
}
_ARTICLE = {"integer": "an integer"}


@dataclass(frozen=True)
class RowRule:
    """An expectation over several columns of a row, as declared."""

    sql: str
    severity: str = "reject"


def expect(sql: str, severity: str = "reject") -> RowRule:
    """A boolean SQL expression that every row keeps; null passes. See `contracts.sql` for the language.

    Example:
        >>> from medallion_platform import expect
        >>> expect("warmest >= coldest", severity="warn").severity
        'warn'
    """
    return RowRule(sql, severity)


class _BadField(FieldInfo):
    """A field whose declaration failed; the error is raised when the model is compiled."""

    reason: str = ""


def Field(
    *,
    severity: str | Mapping[str, str] | None = None,
    pii: Pii | None = None,
    protect: Protect | None = None,
    unique: bool = False,
    metadata: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """pandera's Field, with the severity of violations, the kind of personal data, and uniqueness.

    protect: how personal data is protected downstream of bronze: "mask" (the default), "tokenize", or for
    names "hash"; see `contracts.masking`.

    `severity` is one for all checks of the field, or one for each check by its name: pandera's short
    ("ge") or long ("greater_than_or_equal_to"), and "type", "not_null", "unique". Default: reject;
    for unique_values_eq, which validates no row: fail.

    Example:
        >>> import pyspark.sql.types as T
        >>> from medallion_platform import ContractModel, Field
        >>> class Customers(ContractModel):
        ...     email: T.StringType = Field(nullable=True, pii="email", protect="tokenize")
        ...     city: T.StringType = Field(isin=["Bonn", "Ulm"], severity={"isin": "warn"})
        >>> dict(Customers.contract.pii)
        {'email': 'email'}
    """
    words: dict[str, Any] = {
        "severity": severity,
        "pii": pii,
        "protect": protect,
        "unique": unique or None,
    }
    told = dict(metadata or {}) | {word: value for word, value in words.items() if value is not None}
    try:
        return _PanderaField(metadata=told or None, **options)
    except Exception as error:
        bad = _BadField()
        bad.reason = str(error)
        return bad


class _ContractAttribute:
    """The attribute `contract`: a descriptor, because pandera treats other public attributes as fields."""

    def __get__(self, _: object, model: type[ContractModel]) -> Contract:
        return vars(model)["_contract"]


class ContractModel(pa.DataFrameModel):
    """A pandera model that is compiled to a `Contract` when its class is created.

    Example:
        >>> import pyspark.sql.types as T
        >>> from medallion_platform import ContractModel, Field, expect
        >>> class Readings(ContractModel):
        ...     station: T.StringType = Field()
        ...     temperature: T.DoubleType = Field(ge=-90, le=60, severity="warn")
        ...
        ...     class Config:
        ...         metadata = {"key": ["station"], "rows": {"measured": expect("temperature is not null")}}
        >>> Readings.contract.key
        ('station',)

    Raises:
        ContractError: the declaration is invalid; the text names model and field.
    """

    contract = _ContractAttribute()

    if TYPE_CHECKING:
        Config: Any  # a plain class is what pandera takes

    def __init_subclass__(cls, **options: Any) -> None:
        _give_each_its_own_field(cls)
        super().__init_subclass__(**options)
        cls._contract = _compile(cls)


def _give_each_its_own_field(model: type[ContractModel]) -> None:
    """A field knows one name, the last it was given: one that several columns share is theirs as a copy."""
    for name, field in list(vars(model).items()):
        if isinstance(field, FieldInfo):
            own = copy.copy(field)
            own.__set_name__(model, name)
            setattr(model, name, own)


def _compile(model: type[ContractModel]) -> Contract:
    name = model.__name__
    if "contract" in vars(model):
        raise ContractError(name, "contract", "this name is taken; give the field an alias")
    for field_name, field in vars(model).items():
        if isinstance(field, _BadField):
            raise ContractError(name, field_name, field.reason)
    _refuse_what_is_not_seen(name, model)
    try:
        schema = cast(Any, model).to_schema()
        fields = cast(Any, model).__fields__
    except ContractError:
        raise
    except Exception as error:
        raise ContractError(name, _field_in(model, str(error)), str(error)) from error
    _refuse_table_options(name, schema)
    options = dict(schema.metadata or {}) if hasattr(schema, "metadata") else {}
    config = cast(Any, model).__config__
    told = getattr(config, "metadata", None) or options
    if not isinstance(told, Mapping):
        raise ContractError(
            name, None, f"Config.metadata is a {type(told).__name__}, not a mapping of options"
        )
    options: dict[str, Any] = dict(cast(Mapping[str, Any], told))
    if unknown := sorted(set(options) - set(_TABLE_OPTIONS)):
        raise ContractError(
            name, None, f"unknown option {unknown[0]!r}; known are {', '.join(_TABLE_OPTIONS)}"
        )
    if not schema.columns:
        raise ContractError(name, None, "has no columns")
    columns: list[Column] = []
    expectations: list[Expectation] = []
    for column_name, declared in schema.columns.items():
        info = fields[column_name][1]
        for option in _WITHOUT_EFFECT:
            if getattr(info, option, None) not in (None, False, []):
                raise ContractError(name, column_name, f"{option} is not supported: do it in the transform")
        if info.required is False:
            raise ContractError(name, column_name, "required=False is not supported: use nullable=True")
        compiled = _FieldCompiler(name, column_name, declared, unique=bool(info.unique))
        columns.append(compiled.column)
        expectations.extend(compiled.expectations())
    _refuse_names(name, columns)
    by_name = {column.name: column for column in columns}
    of_table = _TableOptions(name, by_name, options)
    expectations.extend(of_table.unique(schema.unique))
    expectations.extend(of_table.rows())
    expectations.extend(of_table.partitions())
    twice = {e.name for e in expectations if [x.name for x in expectations].count(e.name) > 1}
    if twice:
        raise ContractError(name, None, f"two expectations are called {sorted(twice)[0]!r}")
    return Contract(
        name=str(schema.name or name),
        columns=tuple(columns),
        key=of_table.key(),
        event_time=of_table.event_time(),
        partitioned_by=of_table.partitioned_by(),
        watermark=of_table.watermark(),
        expectations=tuple(expectations),
        row_count_column=of_table.row_count_column(),
        tolerated_share=of_table.tolerated_share(),
        description=(model.__doc__ or "").strip() if "__doc__" in vars(model) else "",
    )


def _refuse_what_is_not_seen(name: str, model: type[ContractModel]) -> None:
    """What pandera would pass over, or name in words of its own."""
    for field_name in vars(model).get("__annotations__", {}):
        if field_name.startswith("_") and field_name not in vars(ContractModel):
            raise ContractError(name, field_name, "names that begin with _ are reserved")
    config: Any = vars(model).get("Config")
    given = {option for kind in getattr(config, "__mro__", ()) for option in vars(kind)} if config else set()
    for option in sorted(o for o in given if not o.startswith("_")):
        if option in _CONFIG_OPTIONS or getattr(config, option) == getattr(BaseConfig, option, None):
            continue
        raise ContractError(
            name, None, f"Config.{option} is not supported; known are {', '.join(_CONFIG_OPTIONS[:3])}"
        )


def _refuse_names(name: str, columns: Iterable[Column]) -> None:
    spelled: dict[str, str] = {}
    for column in columns:
        if not column.name or _ILLEGAL & set(column.name) or column.name.startswith("_"):
            raise ContractError(
                name,
                column.name,
                "is no name of a column: it is empty, begins with _ (the platform's own) "
                "or has one of ' ,;{}()='",
            )
        if column.name == "*" or (column.name.startswith("^") and column.name.endswith("$")):
            raise ContractError(
                name,
                column.name,
                "stands for other columns: a field of this name is kept where it is not declared",
            )
        if (other := spelled.setdefault(column.name.lower(), column.name)) != column.name:
            raise ContractError(name, column.name, f"differs from {other!r} only by case")


def _field_in(model: type[ContractModel], text: str) -> str | None:
    """The field that a complaint of pandera speaks of."""
    names = vars(model).get("__annotations__", {})
    return next((name for name in names if re.search(rf"'{re.escape(name)}\b", text)), None)


def _refuse_table_options(name: str, schema: Any) -> None:
    for option in ("strict", "ordered", "dtype"):
        if getattr(schema, option, None):
            raise ContractError(
                name, None, f"Config.{option} is not supported: other columns pass through as they are"
            )
    if schema.checks:
        raise ContractError(
            name,
            None,
            f"frame check {schema.checks[0].name!r} is not supported: write it as SQL in metadata['rows']",
        )


class _FieldCompiler:
    """One field of a model, on its way to a column and its expectations."""

    def __init__(self, model: str, name: str, declared: Any, *, unique: bool) -> None:
        self.model = model
        self.name = name
        self.declared = declared
        self.options = dict(declared.metadata or {})
        if unknown := sorted(set(self.options) - set(_FIELD_OPTIONS)):
            raise self.error(f"unknown option {unknown[0]!r}; known are {', '.join(_FIELD_OPTIONS)}")
        if declared.regex:
            raise self.error("regex names are not supported: a column has one name")
        self.is_unique = unique or bool(self.options.get("unique"))
        self.type = self._type()
        self.column = Column(
            name=name,
            type=self.type,
            nullable=bool(declared.nullable),
            pii=(pii := self._pii()),
            protect=self._protect(pii),
            description=declared.description or "",
        )

    def error(self, reason: str) -> ContractError:
        return ContractError(self.model, self.name, reason)

    def _type(self) -> ColumnType:
        found = getattr(self.declared.dtype, "type", None)
        if isinstance(found, T.DecimalType):
            return ColumnType("decimal", found.precision, found.scale)
        type_ = _KINDS.get(type(found)) if found is not None else None
        if type_ is None:
            known = ", ".join(t.__name__ for t in (*_KINDS, T.DecimalType))
            raise self.error(f"type {found!r} is not supported; supported are {known}")
        return type_

    def _pii(self) -> Pii | None:
        pii = self.options.get("pii")
        if pii is None:
            return None
        if pii not in _PII:
            raise self.error(f"unknown pii {pii!r}; known are {', '.join(_PII)}")
        if self.type.kind != "string":
            raise self.error(f"pii is masked as text, and this is a {self.type}")
        return pii

    def _protect(self, pii: Pii | None) -> Protect:
        protect = self.options.get("protect")
        if protect is None:
            return "mask"
        if pii is None:
            raise self.error("protect is for personal data: declare its kind, pii=...")
        if protect not in _PII[pii]:
            raise self.error(f"protect={protect!r} of {pii} is not known; known are {', '.join(_PII[pii])}")
        return protect

    def expectations(self) -> Iterator[Expectation]:
        found: list[tuple[str, str, Test, Severity | None]] = []
        kind = self.type.kind
        if kind != "string":
            found.append(("type", f"is {_ARTICLE.get(kind, 'a ' + str(self.type))}", IsType(), None))
        else:
            found.append(("type", "is a string", IsType(), None))
        if not self.column.nullable:
            found.append(("not_null", "not null", NotNull(), None))
        tests: list[Test] = []
        for check in self.declared.checks:
            kind_of_check, label, test = self._check(check)
            tests.append(test)
            found.append((kind_of_check, label, test, Severity.WARN if check.raise_warning else None))
        self._refuse_contradictions(tests)
        if self.is_unique:
            found.append(("unique", "unique", Unique(), None))
        severities = self._severities([kind_of_check for kind_of_check, *_ in found])
        for kind_of_check, label, test, own in found:
            yield self._expectation(kind_of_check, label, test, own, severities)

    def _expectation(
        self,
        kind: str,
        label: str,
        test: Test,
        own: Severity | None,
        severities: Severity | dict[str, Severity],
    ) -> Expectation:
        default = Severity.FAIL if isinstance(test, Values) else Severity.REJECT
        if isinstance(severities, dict):
            severity = severities.get(kind, own or default)
        else:
            severity = severities
            if isinstance(test, Values) and severity is Severity.REJECT:
                severity = default
        if isinstance(test, Values) and severity is Severity.REJECT:
            raise self.error(
                "unique_values_eq checks all rows together and cannot reject single ones: use warn or fail"
            )
        return Expectation(f"{self.name}: {label}", (self.name,), severity, test)

    def _severities(self, present: list[str]) -> Severity | dict[str, Severity]:
        told = self.options.get("severity")
        if told is None:
            return {}
        if isinstance(told, str):
            return self._severity(told)
        if not isinstance(told, Mapping):
            raise self.error(f"severity {told!r} is neither a word nor a mapping by check")
        severities: dict[str, Severity] = {}
        for check, word in cast(Mapping[str, str], told).items():
            long = _ALIASES.get(check, check)
            if long not in present:
                raise self.error(f"severity for {check!r}, a check that is not there")
            severities[long] = self._severity(word)
        return severities

    def _severity(self, word: Any) -> Severity:
        try:
            return Severity(word)
        except ValueError:
            raise self.error(f"unknown severity {word!r}; known are reject, warn, fail") from None

    def _check(self, check: Check) -> tuple[str, str, Test]:
        """The check's own name, its wording, and the test."""
        kind = check.registry_name or check.name or "?"
        if not check.ignore_na:
            raise self.error(f"{kind} with ignore_na=False is not supported: use nullable=False")
        told = cast(dict[str, Any], check.statistics)
        if kind in _COMPARISONS:
            return self._comparison(kind, told)
        if kind == "in_range":
            return self._in_range(told)
        if kind in ("isin", "notin"):
            return self._one_of(kind, told)
        if kind in ("str_matches", "str_contains"):
            return self._matches(kind, told)
        if kind in ("str_startswith", "str_endswith"):
            self._text_only(kind)
            text = told["string"]
            test = StartsWith(text) if kind == "str_startswith" else EndsWith(text)
            return kind, f"{kind}({text!r})", test
        if kind == "str_length":
            return self._length(told)
        if kind == "unique_values_eq":
            values = self._constants(told["values"])
            return kind, f"{kind}({_listed(values)})", Values(values)
        raise self.error(f"check {kind!r} is not supported: write it as SQL in metadata['rows']")

    def _comparison(self, kind: str, told: dict[str, Any]) -> tuple[str, str, Test]:
        operator = _COMPARISONS[kind]
        if operator not in ("eq", "ne"):
            self._ordered_only(kind)
        value = self._constant(next(iter(told.values())))
        return kind, f"{kind}({_shown(value)})", Compare(operator, value)

    def _in_range(self, told: dict[str, Any]) -> tuple[str, str, Test]:
        self._ordered_only("in_range")
        low, high = self._constant(told["min_value"]), self._constant(told["max_value"])
        with_low, with_high = bool(told["include_min"]), bool(told["include_max"])
        shown = f"{_shown(low)}, {_shown(high)}"
        if not with_low:
            shown += ", low excluded"
        if not with_high:
            shown += ", high excluded"
        return "in_range", f"in_range({shown})", InRange(low, high, with_low, with_high)

    def _one_of(self, kind: str, told: dict[str, Any]) -> tuple[str, str, Test]:
        if self.type.kind == "boolean":
            raise self.error(f"{kind} of a boolean is not supported (nor by pandera)")
        values = self._constants(next(iter(told.values())))
        if kind == "isin" and not values:
            raise self.error("isin of nothing rejects every value")
        return kind, f"{kind}({_listed(values)})", OneOf(values, negated=kind == "notin")

    def _matches(self, kind: str, told: dict[str, Any]) -> tuple[str, str, Test]:
        self._text_only(kind)
        given = told["pattern"]
        if isinstance(given, re.Pattern) and given.flags & ~re.UNICODE:
            raise self.error(f"{kind}: flags of a compiled pattern are not seen by pandera's engines")
        pattern = cast(str, given.pattern if isinstance(given, re.Pattern) else given)
        try:
            common = portable(pattern, at_start=kind == "str_matches")
            _try_in_rust(common)
        except ValueError as error:
            raise self.error(f"{kind}({pattern!r}) {error}") from None
        return kind, f"{kind}({pattern!r})", Matches(common, pattern)

    def _length(self, told: dict[str, Any]) -> tuple[str, str, Test]:
        self._text_only("str_length")
        exact = told.get("exact_value")
        least = exact if exact is not None else told.get("min_value")
        most = exact if exact is not None else told.get("max_value")
        for bound in (least, most):
            if bound is not None and (not isinstance(bound, int) or bound < 0):
                raise self.error(f"str_length bound {bound!r} is not a length")
        shown = str(exact) if exact is not None else f"{least}, {most}"
        return "str_length", f"str_length({shown})", Length(least, most)

    def _text_only(self, kind: str) -> None:
        if self.type.kind != "string":
            raise self.error(f"{kind} checks text, and this is a {self.type}")

    def _ordered_only(self, kind: str) -> None:
        if self.type.kind in ("string", "boolean"):
            raise self.error(f"{kind} of a {self.type} is not supported (nor by pandera.pyspark)")

    def _constants(self, values: Any) -> tuple[Value, ...]:
        found = {self._constant(value) for value in cast(Iterable[Any], values)}
        return tuple(sorted(found, key=lambda value: (str(type(value)), value)))

    def _constant(self, value: Any) -> Value:
        try:
            return constant(value, self.type)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise self.error(f"{value!r} is no {self.type}: {error}") from None

    def _refuse_contradictions(self, tests: list[Test]) -> None:
        low: tuple[Any, bool] | None = None  # the bound, and whether it is excluded
        high: tuple[Any, bool] | None = None
        for test in tests:
            lows: list[tuple[Any, bool]] = []
            highs: list[tuple[Any, bool]] = []
            if isinstance(test, InRange):
                lows.append((test.low, not test.include_low))
                highs.append((test.high, not test.include_high))
            elif isinstance(test, Length):
                lows.append((test.least or 0, False))
                continue
            elif isinstance(test, Compare) and test.operator in ("gt", "ge", "eq"):
                lows.append((test.value, test.operator == "gt"))
            if isinstance(test, Compare) and test.operator in ("lt", "le", "eq"):
                highs.append((test.value, test.operator == "lt"))
            for bound in lows:
                low = bound if low is None else max(low, bound)
            for bound in highs:
                high = bound if high is None else min(high, (bound[0], bound[1]), key=_tightness)
        if low is None or high is None:
            allowed: list[Value] = []
        else:
            if low[0] > high[0] or (low[0] == high[0] and (low[1] or high[1])):
                raise self.error("its checks contradict each other: no value is in both bounds")
            allowed = []
        for test in tests:
            if isinstance(test, OneOf) and not test.negated:
                allowed = [v for v in test.values if not allowed or v in allowed]
                within = [
                    v
                    for v in allowed
                    if (low is None or v > low[0] or (v == low[0] and not low[1]))  # type: ignore[operator]
                    and (high is None or v < high[0] or (v == high[0] and not high[1]))  # type: ignore[operator]
                    and not any(isinstance(t, OneOf) and t.negated and v in t.values for t in tests)
                    and not any(isinstance(t, Compare) and t.operator == "ne" and t.value == v for t in tests)
                ]
                if not within:
                    raise self.error("its checks contradict each other: no value of isin is left")


def _tightness(bound: tuple[Any, bool]) -> tuple[Any, bool]:
    return bound[0], not bound[1]


def _try_in_rust(pattern: str) -> None:
    import polars as pl

    try:
        pl.Series([""]).str.contains(pattern)
    except Exception as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"is not taken by Rust's engine: {reason}") from None


def _shown(value: Value) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value)


def _listed(values: tuple[Value, ...]) -> str:
    shown = [_shown(value) for value in values]
    if len(shown) > 8:
        return ", ".join(shown[:6]) + f", and {len(shown) - 6} more"
    return ", ".join(shown)


def constant(value: Any, type: ColumnType) -> Value:
    """A constant of a declaration as a value of the column's type; a ValueError says why it is none.

    So a comparison is between equal types in every engine: 0.1 for a `float` column is the 32-bit
    0.1, where pandera would compare with the 64-bit one in Spark and with the 32-bit one in polars.
    """
    kind = type.kind
    if kind == "string":
        if not isinstance(value, str):
            raise ValueError("not text")
        return value
    if kind == "boolean":
        if not isinstance(value, bool):
            raise ValueError("neither True nor False")
        return value
    if isinstance(value, bool):
        raise ValueError("True and False are not numbers here")
    if kind in ("integer", "long"):
        return _integer(value, 32 if kind == "integer" else 64)
    if kind in ("float", "double"):
        return _float(value, 32 if kind == "float" else 64)
    if kind == "decimal":
        return _decimal(value, type)
    if kind == "date":
        if isinstance(value, str):
            value = date.fromisoformat(value)
        if isinstance(value, datetime) or not isinstance(value, date):
            raise ValueError("not a date")
        return value
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise ValueError("not a datetime")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _integer(value: Any, bits: int) -> int:
    if not isinstance(value, int | float | Decimal) or value != int(value):
        raise ValueError("not a whole number")
    whole = int(value)
    if not -(2 ** (bits - 1)) <= whole < 2 ** (bits - 1):
        raise ValueError(f"beyond {bits} bits")
    return whole


def _float(value: Any, bits: int) -> float:
    import struct

    number = float(value)
    if math.isnan(number):
        raise ValueError("NaN compares with nothing")
    if bits == 32 and math.isfinite(number):
        number = struct.unpack("f", struct.pack("f", number))[0]
    return number + 0.0  # -0.0 is 0.0


def _decimal(value: Any, type: ColumnType) -> Decimal:
    number = Decimal(str(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite():
        raise ValueError("not a number")
    quantum = Decimal(1).scaleb(-type.scale)
    whole = number.quantize(quantum) if abs(number) < Decimal(10) ** 28 else number
    if whole != number:
        raise ValueError(f"more than {type.scale} digits after the point")
    if abs(number) >= Decimal(10) ** (type.precision - type.scale):
        raise ValueError(f"more than {type.precision - type.scale} digits before the point")
    return whole


class _TableOptions:
    """The options of the whole table."""

    def __init__(self, model: str, columns: Mapping[str, Column], options: Mapping[str, Any]) -> None:
        self.model = model
        self.columns = columns
        self.options = options

    def error(self, field: str | None, reason: str) -> ContractError:
        return ContractError(self.model, field, reason)

    def _column(self, option: str, name: Any) -> Column:
        if not isinstance(name, str) or name not in self.columns:
            raise self.error(option, f"unknown column {name!r}")
        return self.columns[name]

    def _list(self, option: str) -> tuple[str, ...]:
        told = self.options.get(option) or ()
        names = (told,) if isinstance(told, str) else tuple(told)
        if len(set(names)) != len(names):
            raise self.error(option, "names a column twice")
        return names

    def key(self) -> tuple[str, ...]:
        names = self._list("key")
        for name in names:
            if self._column("key", name).nullable:
                raise self.error("key", f"column {name!r} may be null")
        return names

    def event_time(self) -> str | None:
        name = self.options.get("event_time")
        if name is None:
            return None
        column = self._column("event_time", name)
        if column.type.kind not in ("timestamp", "date"):
            raise self.error("event_time", f"column {name!r} is a {column.type}")
        return column.name

    def partitioned_by(self) -> tuple[str, ...]:
        names = self._list("partitioned_by")
        for name in names:
            if name == EVENT_DATE and name not in self.columns:
                if self.event_time() is None:
                    raise self.error("partitioned_by", f"{EVENT_DATE} needs an event_time")
                continue
            if self._column("partitioned_by", name).type.kind in ("float", "double"):
                raise self.error("partitioned_by", f"column {name!r} is a floating number")
        return names

    def partitions(self) -> Iterator[Expectation]:
        """Of a text that parts the table, that it can name a folder."""
        for name in self.partitioned_by():
            if name in self.columns and self.columns[name].type.kind == "string":
                most = room(name)
                label = f"{name}: names a folder (not empty, at most {most} bytes)"
                yield Expectation(label, (name,), Severity.REJECT, NamesFolder(most))

    def watermark(self) -> timedelta | None:
        told = self.options.get("watermark")
        if told is None:
            return None
        if not isinstance(told, timedelta) or told <= timedelta(0):
            raise self.error("watermark", f"{told!r} is not a positive timedelta")
        if self.options.get("event_time") is None or not self.options.get("key"):
            raise self.error("watermark", "needs a key and an event_time")
        return told

    def row_count_column(self) -> str | None:
        name = self.options.get("row_count_column")
        if name is None:
            return None
        column = self._column("row_count_column", name)
        if column.type.kind not in ("integer", "long"):
            raise self.error("row_count_column", f"column {name!r} is a {column.type}, not a count")
        return column.name

    def tolerated_share(self) -> float:
        told = self.options.get("tolerated_share", Contract.tolerated_share)
        if isinstance(told, bool) or not isinstance(told, int | float) or not 0 <= told <= 1:
            raise self.error("tolerated_share", f"{told!r} is no share from 0 to 1")
        return float(told)

    def unique(self, told: Any) -> Iterator[Expectation]:
        if not told:
            if "unique_severity" in self.options:
                raise self.error("unique_severity", "is of Config.unique, which names no column")
            return
        names = (told,) if isinstance(told, str) else tuple(cast(Iterable[str], told))
        for name in names:
            self._column("Config.unique", name)
        severity = self._severity("unique", self.options.get("unique_severity", "reject"))
        yield Expectation(f"unique({', '.join(names)})", names, severity, Unique())

    def rows(self) -> Iterator[Expectation]:
        told = self.options.get("rows") or {}
        if not isinstance(told, Mapping):
            raise self.error("rows", "is a mapping from a name to expect('...')")
        for name, rule in cast(Mapping[str, Any], told).items():
            if isinstance(rule, str):
                rule = RowRule(rule)
            if not isinstance(rule, RowRule):
                raise self.error(name, f"{rule!r} is neither SQL nor expect('...')")
            try:
                columns = columns_of(rule.sql, self.columns)
            except SqlError as error:
                raise self.error(name, f"{rule.sql!r}: {error}") from None
            yield Expectation(name, columns, self._severity(name, rule.severity), Sql(rule.sql))

    def _severity(self, name: str, word: Any) -> Severity:
        try:
            return Severity(word)
        except ValueError:
            raise self.error(name, f"unknown severity {word!r}; known are reject, warn, fail") from None
