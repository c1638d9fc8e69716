"""Checks that options of declarations of any kind share: names, days, durations, numbers."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from types import UnionType
from typing import cast

from medallion_platform.errors import DeclarationError


def texts(what: str, given: object, *, once: bool = True) -> tuple[str, ...]:
    """The texts of an option that takes several, as a tuple.

    what: the option, for people. once: each text may stand there once only.

    Raises:
        DeclarationError: it is a single text, whose letters would be taken for the texts; or one of them is
            no text, is empty, has a NUL or stands there twice.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise DeclarationError(f"{what} is {given!r}, and not a tuple of texts: ({given!r},)")
    found = tuple(cast("Iterable[object]", given))
    for one in found:
        text(what, one)
    if once and len(set(found)) < len(found):
        twice = next(one for one in found if found.count(one) > 1)
        raise DeclarationError(f"{what} names {twice!r} twice")
    return cast("tuple[str, ...]", found)


def text(what: str, given: object) -> str:
    """The text of an option.

    Raises:
        DeclarationError: it is no text, is empty or has a NUL, which neither files nor tables can hold.
    """
    if not isinstance(given, str):
        raise DeclarationError(f"{what}: {given!r} is no text")
    if not given or "\0" in given:
        raise DeclarationError(f"{what}: {given!r} {'has a NUL' if given else 'is empty'}")
    return given


def flag(what: str, given: object) -> bool:
    """The yes or no of an option.

    Raises:
        DeclarationError: it is neither True nor False; a text such as "no" would count as yes.
    """
    if not isinstance(given, bool):
        raise DeclarationError(f"{what} is {given!r}, and neither True nor False")
    return given


def printable(what: str, given: object) -> str:
    """The text of an option that people are shown in one line.

    Raises:
        DeclarationError: it is no text, is empty, or has a control character, a line end or half a pair.
    """
    found = text(what, given)
    if not has_one_line(found):
        raise DeclarationError(f"{what}: {found!a} has a character that cannot stand in a line")
    return found


def has_one_line(given: str) -> bool:
    """Whether a text can be shown in one line and stored as UTF-8. Pure."""
    return not any(unicodedata.category(c) in _NOT_SHOWN for c in given)


_NOT_SHOWN = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's categories of controls, halves of pairs and ends of lines."""


def duration(what: str, given: object, *, least: timedelta) -> timedelta:
    """The duration of an option.

    Raises:
        DeclarationError: it is no timedelta, or shorter than `least`.
    """
    if not isinstance(given, timedelta):
        raise DeclarationError(f"{what} is {given!r}, and not a timedelta")
    if given < least:
        raise DeclarationError(f"{what} is {given}: it has to be at least {least}")
    return given


def day(what: str, given: object) -> date:
    """The day of an option.

    Raises:
        DeclarationError: it is no date, or a datetime, which is a date to Python.
    """
    if isinstance(given, datetime) or not isinstance(given, date):
        raise DeclarationError(f"{what} is {given!r}, and not a date such as date(2026, 1, 31)")
    return given


def whole(what: str, given: object, *, least: int, most: int | None = None) -> int:
    """The whole number of an option.

    Raises:
        DeclarationError: it is no whole number, or not from `least` to `most`.
    """
    if isinstance(given, bool) or not isinstance(given, int):
        raise DeclarationError(f"{what} is {given!r}, and not a whole number")
    if given < least:
        raise DeclarationError(f"{what} is {given}: it has to be at least {least}")
    if most is not None and given > most:
        raise DeclarationError(f"{what} is {given}: it has to be at most {most}")
    return given


def instance(what: str, given: object, kind: type | UnionType, hint: str) -> None:
    """Refuse what is of another type than an option takes.

    hint: what to write instead.

    Raises:
        DeclarationError: it is of another type; a class in the place of its instance is the usual slip.
    """
    if not isinstance(given, kind):
        shown = f"the class {given.__name__}" if isinstance(given, type) else f"{given!r:.80}"
        raise DeclarationError(f"{what} is {shown}, and not {hint}")
