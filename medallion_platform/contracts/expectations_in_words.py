"""Expectations in words: the names that the terminal, dead letters, commits and Dagster use for them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal

from medallion_platform.contracts.contract import (
    ColumnType,
    Compare,
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
    Test,
    Unique,
    Value,
    Values,
)

_COMPARED = {
    "ge": "at least",
    "gt": "above",
    "le": "at most",
    "lt": "below",
    "eq": "equal to",
    "ne": "other than",
}
_ARTICLE = {"integer": "an integer"}
_LISTED = 60
"""Characters of a list of values, at the most."""


def name_of(test: Test, column: str, type: ColumnType) -> str:
    """What a contract calls an expectation of a column of this type: `amount: at least 0`."""
    return f"{column}: {_asked(test, type)}"


def rule_in_words(expectation: Expectation) -> str:
    """What is asked of the expectation's column, or of the row, such as `one of click, login`."""
    if isinstance(expectation.test, Sql):
        return expectation.test.text
    return expectation.name.removeprefix(f"{expectation.columns[0]}: ")


def expectation_sentence(expectation: Expectation) -> str:
    """The name of an expectation; of one in SQL, with what it says."""
    told = expectation.name
    return f"{told}: {expectation.test.text}" if isinstance(expectation.test, Sql) else told


def _asked(test: Test, type: ColumnType) -> str:
    match test:
        case IsType():
            return f"is {_ARTICLE.get(type.kind, f'a {type}')}"
        case NotNull():
            return "not null"
        case Compare(operator, value):
            return f"{_COMPARED[operator]} {value_in_words(value)}"
        case InRange(low, high, with_low, with_high):
            least, most = "at least" if with_low else "above", "at most" if with_high else "below"
            return f"{least} {value_in_words(low)}, {most} {value_in_words(high)}"
        case OneOf(values, negated):
            return f"{'none' if negated else 'one'} of {_listed(values)}"
        case Matches() as found:
            return f"{'contains' if found.anywhere else 'matches'} {found.declared}"
        case StartsWith(text):
            return f"starts with {text}"
        case EndsWith(text):
            return f"ends with {text}"
        case Length(least, most):
            return _length_in_words(least, most)
        case NamesFolder(most):
            return f"names a folder (not empty, at most {most} bytes)"
        case Unique():
            return "unique"
        case Values(values):
            return f"all of its values are {_listed(values)}"
        case Sql(text):
            return text


def value_in_words(value: Value) -> str:
    """A constant as a person writes it: `0` of whole, floating and decimal columns; times by ISO 8601."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        text = f"{value:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)


def _length_in_words(least: int | None, most: int | None) -> str:
    if least == most:
        return f"{least} characters"
    bounds = [f"{word} {n}" for word, n in (("at least", least), ("at most", most)) if n is not None]
    return f"{', '.join(bounds)} character{'' if bounds[-1].endswith(' 1') else 's'}"


def _listed(values: Iterable[Value]) -> str:
    """As many of the values as are read at a glance."""
    told = [value_in_words(value) for value in values]
    text = ", ".join(told)
    while len(text) > _LISTED and len(told) > 1:
        told.pop()
        text = f"{', '.join(told)}, ..."
    return text
