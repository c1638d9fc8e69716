"""Detects personal data in text that is not declared as such.

- An e-mail address, whose domain ends in letters (`x@example.org`, not `icon@2x.png`).
- A phone number as people write it: international with its `+` (`+49 170 5550123`), in North American groups
  (`(555) 010-4477`, `555-010-4477`), and national with a leading 0 and separators (`030/5550123`, `0170
  5550123`, `01 23 45 67 89`).

Digits without separators are not detected, nor are dates, decimals, ids, UUIDs, IP addresses and file names.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

_LOCAL = r"\p{L}\p{N}._%+\-"
# From the beginning of a word on only, and without going back: else long text takes quadratic time.
EMAIL = (
    rf"(?<![{_LOCAL}])([{_LOCAL}]{{1,3}})[{_LOCAL}]*+"
    r"@(?![1-9]x\.)((?:[\p{L}\p{N}][\p{L}\p{N}\-]*+\.)+\p{L}{2,})"
)
"""In Java's words; its groups are what a mask keeps."""

_INTERNATIONAL = r"\+(?!\d+\.\d+(?![\d .\-]))\(?[1-9](?:[ ().\-/]{0,2}\d){7,14}"
_AMERICAN = r"(?:1[ .\-])?(?:\(\d{3}\) ?|\d{3}[ .\-])\d{3}[ .\-]\d{4}"
_NATIONAL = r"(?=(?:[ /\-]*\d){9,13}(?![ /\-]*\d))0[1-9]\d{1,4}(?: ?[/\-] ?| )\d{3,8}(?: \d{2,5}){0,3}"
_IN_PAIRS = r"0[1-9](?:[ .\-]\d\d){4}"
PHONE = (
    r"(?<![\w.+\-/@#])(?<!\d )"
    rf"(?:{_INTERNATIONAL}|{_AMERICAN}|{_NATIONAL}|{_IN_PAIRS})"
    r"(?![\w@]|[.\-/:+]\w| \d)"
)

_email = re.compile(
    EMAIL.replace(r"[\p{L}\p{N}\-]", r"(?:[^\W_]|-)")
    .replace(r"[\p{L}\p{N}]", r"[^\W_]")
    .replace(r"\p{L}{2,}", r"[^\W\d_]{2,}")
    .replace(r"\p{L}\p{N}", r"\w")
)
_phone = re.compile(PHONE, re.ASCII)

_MAYBE = r"[@+(]|\A(?:0[1-9]|(?:1[ .\-])?[0-9]{3}[ .\-][0-9]{3}[ .\-])"
"""A sign of either shape, or how a phone number without one begins: one look at each text."""


def looks_personal(text: str) -> bool:
    """Whether there is an e-mail address or a phone number in the text.

    A phone number without a + or a bracket is seen where the text begins with it.
    """
    signed = "+" in text or "(" in text
    phone = _phone.search(text) if signed else _phone.match(text)
    return phone is not None or ("@" in text and _email.search(text) is not None)


def masked(text: str) -> str:
    """The text without its e-mail addresses and phone numbers, for the few texts that are shown."""
    return _phone.sub("***", _email.sub(r"\1***@\2", text))


def count(values: pl.Series) -> int:
    """How many values of a text column look personal; few are looked at in Python."""
    values = values.alias("text")  # some names of fields are patterns to polars
    return sum(map(looks_personal, values.filter(values.str.contains(_MAYBE))))
