"""Expectations in plain words for people; commits store their names, which are the declared rules."""

from __future__ import annotations

from collections.abc import Iterable

from medallion_platform.contracts.contract import (
    Compare,
    EndsWith,
    Expectation,
    InRange,
    Length,
    Matches,
    NamesFolder,
    OneOf,
    Sql,
    StartsWith,
    Unique,
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
_LISTED = 60
"""Characters of a list of values, at the most."""


def in_words(expectation: Expectation) -> str:
    """What is asked of the expectation's column, or of the row, such as `one of click, login`."""
    match expectation.test:
        case Compare(operator, value):
            return f"{_COMPARED[operator]} {value}"
        case InRange(low, high, with_low, with_high):
            return (
                f"{'at least' if with_low else 'above'} {low}, {'at most' if with_high else 'below'} {high}"
            )
        case OneOf(values, negated):
            return f"{'none' if negated else 'one'} of {_listed(values)}"
        case Matches() as test:
            return f"matches {test.declared}"
        case StartsWith(text):
            return f"starts with {text}"
        case EndsWith(text):
            return f"ends with {text}"
        case Length(least, most):
            return _length(least, most)
        case NamesFolder(most):
            return f"not empty, at most {most} bytes"
        case Unique():
            together = ", ".join(expectation.columns)
            return "unique" if len(expectation.columns) == 1 else f"unique by {together}"
        case Values(values):
            return f"all of its values are {_listed(values)}"
        case Sql(text):
            return text
        case _:  # its type, and that it is there
            return _rule(expectation)


def sentence(expectation: Expectation) -> str:
    """The same with what it is asked of: `event_type: one of click, login`."""
    told = in_words(expectation)
    if isinstance(expectation.test, Sql):
        return f"{expectation.name}: {told}"
    return f"{expectation.columns[0]}: {told}" if len(expectation.columns) == 1 else told


def _length(least: int | None, most: int | None) -> str:
    if least == most:
        return f"{least} characters"
    bounds = [f"{word} {n}" for word, n in (("at least", least), ("at most", most)) if n is not None]
    return f"{', '.join(bounds)} character{'' if bounds[-1].endswith(' 1') else 's'}"


def _listed(values: Iterable[object]) -> str:
    """As many of the values as are read at a glance."""
    told = [str(value) for value in values]
    text = ", ".join(told)
    while len(text) > _LISTED and len(told) > 1:
        told.pop()
        text = f"{', '.join(told)}, ..."
    return text


def _rule(expectation: Expectation) -> str:
    return expectation.name.removeprefix(f"{expectation.columns[0]}: ")
