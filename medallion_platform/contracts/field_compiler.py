"""One field of a model, compiled to a column and the expectations of its values.

`Any` is what pandera leaves untyped: options of fields and checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, cast

import pyspark.sql.types as T
from pandera.api.checks import Check

from medallion_platform.contracts.constants import constant
from medallion_platform.contracts.contract import (
    Column,
    ColumnType,
    Compare,
    Comparison,
    ContractError,
    EndsWith,
    Expectation,
    InRange,
    IsType,
    Length,
    Matches,
    NotNull,
    OneOf,
    Pii,
    Protect,
    Severity,
    StartsWith,
    Test,
    Unique,
    Value,
    Values,
)
from medallion_platform.contracts.expectations_in_words import name_of
from medallion_platform.contracts.patterns import portable_pattern

_FIELD_OPTIONS = ("severity", "pii", "protect", "unique")
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

_Bound = tuple[Any, bool]
"""A value, and whether it is excluded."""


class FieldCompiler:
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
        if not isinstance(declared.description or "", str):
            raise self.error(f"description {declared.description!r} is no text")
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
        """An error that names the field."""
        return ContractError(self.model, self.name, reason)

    def _type(self) -> ColumnType:
        found = getattr(self.declared.dtype, "type", None)
        if isinstance(found, T.DecimalType):
            if not 1 <= found.precision <= 38 or not 0 <= found.scale <= found.precision:
                raise self.error(
                    f"decimal({found.precision},{found.scale}) has more digits than 38, or than it has"
                )
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
        """What the field asks of its column.

        Raises:
            ContractError: a check means nothing for the column, or contradicts another one.
        """
        # The check, how pandera words it ("" where that is no other wording than ours), what it asks.
        found: list[tuple[str, str, Test, Severity | None]] = []
        found.append(("type", "", IsType(), None))
        if not self.column.nullable:
            found.append(("not_null", "", NotNull(), None))
        tests: list[Test] = []
        for check in self.declared.checks:
            kind_of_check, label, test = self._check(check)
            tests.append(test)
            found.append((kind_of_check, label, test, Severity.WARN if check.raise_warning else None))
        self._refuse_contradictions(tests)
        if self.is_unique:
            found.append(("unique", "", Unique(), None))
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
        name = name_of(test, self.name, self.type)
        return Expectation(name, (self.name,), severity, test, label and f"{self.name}: {label}")

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
        """The check's own name, how pandera words it, and the test."""
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
            if not isinstance(text, str) or not text:
                raise self.error(f"{kind}({text!r}) is no beginning or end of a text")
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
        if not values:
            does = "rejects every value" if kind == "isin" else "rejects no value"
            raise self.error(f"{kind} of nothing {does}")
        return kind, f"{kind}({_listed(values)})", OneOf(values, negated=kind == "notin")

    def _matches(self, kind: str, told: dict[str, Any]) -> tuple[str, str, Test]:
        self._text_only(kind)
        given = told["pattern"]
        if isinstance(given, re.Pattern) and given.flags & ~re.UNICODE:
            raise self.error(f"{kind}: flags of a compiled pattern are not seen by pandera's engines")
        pattern = cast(str, given.pattern if isinstance(given, re.Pattern) else given)
        try:
            common = portable_pattern(pattern, at_start=kind == "str_matches")
            _try_in_rust(common)
        except ValueError as error:
            raise self.error(f"{kind}({pattern!r}) {error}") from None
        return kind, f"{kind}({pattern!r})", Matches(common, pattern, anywhere=kind == "str_contains")

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
        if isinstance(values, str):
            raise self.error(f"{values!r} is one text, whose letters would be the values: [{values!r}]")
        found = {self._constant(value) for value in cast(Iterable[Any], values)}
        return tuple(sorted(found, key=lambda value: (str(type(value)), value)))

    def _constant(self, value: Any) -> Value:
        try:
            return constant(value, self.type)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise self.error(f"{value!r} is no {self.type}: {error}") from None

    def _refuse_contradictions(self, tests: list[Test]) -> None:
        low = max((bound for test in tests for bound in _lower_bounds(test)), default=None)
        high = min((bound for test in tests for bound in _upper_bounds(test)), default=None, key=_tightness)
        if low and high and (low[0] > high[0] or (low[0] == high[0] and (low[1] or high[1]))):
            raise self.error("its checks contradict each other: no value is in both bounds")
        lists = [test.values for test in tests if isinstance(test, OneOf) and not test.negated]
        left = [value for value in lists[0] if all(value in values for values in lists)] if lists else []
        left = [value for value in left if _is_within(value, low, high) and not _is_excluded(value, tests)]
        if lists and not left:
            raise self.error("its checks contradict each other: no value of isin is left")


def _lower_bounds(test: Test) -> list[_Bound]:
    match test:
        case InRange(low, _, with_low, _):
            return [(low, not with_low)]
        case Compare("gt" | "ge" | "eq" as operator, value):
            return [(value, operator == "gt")]
        case _:
            return []


def _upper_bounds(test: Test) -> list[_Bound]:
    match test:
        case InRange(_, high, _, with_high):
            return [(high, not with_high)]
        case Compare("lt" | "le" | "eq" as operator, value):
            return [(value, operator == "lt")]
        case _:
            return []


def _tightness(upper: _Bound) -> tuple[Any, bool]:
    return upper[0], not upper[1]


def _is_within(value: Any, low: _Bound | None, high: _Bound | None) -> bool:
    above = low is None or value > low[0] or (value == low[0] and not low[1])
    return above and (high is None or value < high[0] or (value == high[0] and not high[1]))


def _is_excluded(value: Value, tests: list[Test]) -> bool:
    """Whether a test says that it is none of a list, or not equal to one value."""
    return any(
        (isinstance(test, OneOf) and test.negated and value in test.values)
        or (isinstance(test, Compare) and test.operator == "ne" and value == test.value)
        for test in tests
    )


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
