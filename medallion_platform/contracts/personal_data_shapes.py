"""Detects personal data in text that is not declared as such.

- An e-mail address, whose domain ends in letters (`x@example.org`, not `icon@2x.png`). The address of a
  machine is not one: a user in a URL (`ssh://user:password@host.example`), a host followed by a port or a
  path (`git@host.example:owner/project.git`).
- A phone number as people write it, with blanks and hyphens of any kind: international (`+49 170 5550123`,
  `0049 170 5550123`), of the North American plan, whose area codes and exchanges begin with 2 to 9
  (`(212) 555-0104`, `212-555-0104`), and national with a leading 0 and separators (`030/5550123`, `0170
  5550123`, `01 23 45 67 89`, `090-1234-5678`).

Not detected: digits without separators (except a `+` and at least ten of them), dates, decimals, sums, ids,
UUIDs, IP addresses and file names.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

VERSION = 2
"""The number of these rules. Tables with `mask_undeclared` are recomputed when it changes."""

_LONGEST_USER = 64
"""Characters of a URL's user and password, up to which they are seen as such."""


def _email_pattern(letter: str, sign: str, signs: str) -> str:
    """The pattern of an e-mail address in the words of one engine; its two groups are what a mask keeps.

    letter: any letter. sign: any letter or digit. signs: the same within a class.
    """
    local = rf"[{signs}._%+\-]"
    # From the beginning of a word on only, and without going back: else long text takes quadratic time.
    user = rf"(?<!{local})({local}{{1,3}}){local}*+@"
    # For each length, as Python looks back over fixed ones only; asked at an @ alone.
    in_url = "".join(rf"(?<!//[^\s/@?#]{{{n}}}@)" for n in range(1, _LONGEST_USER + 1))
    domain = rf"(?![1-9]x\.)((?:{sign}(?:{sign}|-)*+\.)+{letter}{{2,}})"
    path = rf":(?:[{signs}.~_\-]*+/|[{signs}_\-]*+\.git(?!{sign})|\d{{2,5}}(?!{sign}))"
    return rf"{user}{in_url}{domain}(?!{letter}|[{signs}.\-]*+{path})"


EMAIL = _email_pattern(r"\p{L}", r"[\p{L}\p{N}]", r"\p{L}\p{N}")
"""In Java's words."""

_BLANKS = " \u00a0\u2007\u2009\u202f"
_HYPHENS = "\u2010-\u2013\\-"
_B = f"[{_BLANKS}]"
_H = f"[{_HYPHENS}]"
_S = f"[{_BLANKS}.{_HYPHENS}]"
_JOIN = rf"[{_BLANKS}()/{_HYPHENS}]{{0,3}}"
"""What may stand between two digits of an international number; also nothing."""
_COUNTRY = (
    r"(?:2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    r"|(?:2[1-689]|3[578]|42|5[09]|6[7-9]|8[0578]|9[679])\d)"
)
"""The calling codes of E.164 without 1 and 7, whose numbers have one length."""
_PLAN = rf"\(?[2-9]\d\d\)?{_S}?[2-9]\d\d{_S}?\d{{4}}"
_BEHIND_PLUS = (
    # No thousands with decimals, no day of ISO 8601's long years.
    rf"(?!\d{{1,3}}(?:[{_BLANKS}.]\d{{3}})+,\d)(?!\d{{4}}-\d\d-\d\d(?!\d))"
    rf"(?:\(?1\)?{_S}?{_PLAN}"
    rf"|\(?7(?:{_JOIN}\d){{10}}"
    # A long number with nothing in it; `sum=+1234567890` is rather a sum.
    r"|[2-9]\d{10,14}|(?<!=\+)[2-9]\d{9}"
    rf"|(?=\(?\d+[{_BLANKS}/(){_HYPHENS}]{{1,4}}\d)\(?{_COUNTRY}(?:{_JOIN}\d){{6,13}}"
    # With dots: two of them at least, one is a decimal point.
    rf"|(?=[\d{_BLANKS}()]+\.\d+\.\d){_COUNTRY}(?:\)?[.{_BLANKS}]?\(?\d){{8,13}})"
)
_BEHIND_BRACKET = (
    rf"[2-9]\d\d\)[{_BLANKS}{_HYPHENS}]?[2-9]\d\d{_S}\d{{4}}"  # (212) 555-0104
    rf"|(?=(?:[{_BLANKS}/){_HYPHENS}]*\d){{9,13}}(?![{_BLANKS}/{_HYPHENS}]*\d))"
    rf"0[1-9]\d{{0,3}}\){_B}?\d{{2,8}}(?:(?:{_B}\d{{2,5}}){{1,3}}|[/{_HYPHENS}]\d{{3,5}})?"  # (02) 9876 5432
    rf"|[1-9]\d\){_B}?9\d{{4}}[{_BLANKS}{_HYPHENS}]\d{{4}}"  # (11) 98765-4321
)
_BEHIND_ZERO = (
    rf"0{_B}?1{_S}{_PLAN}"  # 001 212 555 0104
    rf"|0{_B}?(?=(?:{_JOIN}\d){{10,15}}(?!{_JOIN}\d)){_COUNTRY}"  # 0049 170 5550123
    rf"(?:{_B}?\(0\){_B}?|{_B}|[/{_HYPHENS}](?=\d+[/{_HYPHENS}]))[1-9]\d*(?:{_JOIN}\d+)*"
    rf"|(?=(?:[{_BLANKS}/{_HYPHENS}]*\d){{8,12}}(?![{_BLANKS}/{_HYPHENS}]*\d))(?:"
    # 0170 5550123, 030/555 01 23; no postcode such as 02139-4307
    rf"(?!\d{{4}}{_H}\d{{4}}(?!\d))[1-9]\d{{1,4}}(?:{_B}?[/{_HYPHENS}]{_B}?|{_B})\d{{3,8}}(?:{_B}\d{{2,5}}){{0,3}}"
    rf"|[1-9][{_BLANKS}{_HYPHENS}]\d{{3,4}}{_B}\d{{2,4}}(?:{_B}\d\d)?"  # 02 9876 5432, 08-123 456 78
    rf"|[1-9]\d{{0,2}}{_H}[1-9]\d{{2,3}}{_H}\d{{4}}"  # 090-1234-5678
    rf"|[1-9]\d{{1,2}}[{_BLANKS}/]\d\d(?:{_B}\d\d){{2,3}}"  # 0470 12 34 56
    rf"|6[{_BLANKS}{_HYPHENS}]\d{{8}})"  # 06-12345678
    rf"|(?:[1-9][{_BLANKS}/]\d{{3}}|[1-9]\d{{1,2}}[{_BLANKS}/]\d\d)(?:\.\d\d){{2}}"  # 02/123.45.67
    rf"|[1-9](?:{_S}\d\d){{4}}"  # 01 23 45 67 89
)
_AMERICAN = rf"(?:(?<=1){_S}(?:\([2-9]\d\d\){_S}?|[2-9]\d\d{_S})|(?<=[2-9])\d\d{_S})[2-9]\d\d{_S}\d{{4}}"
_ENDS = rf"(?:x\d{{1,6}})?(?![\w@]|[./:+{_HYPHENS}]\w)"
PHONE = (
    # By its first character, so that an engine can search for it; behind it, what may not stand before it.
    rf"[+(\d](?<![\w.+/@#{_HYPHENS}].)(?<!\d{_B}.)(?:(?<=\+)(?:{_BEHIND_PLUS}){_ENDS}"
    rf"|(?:(?<=\()(?:{_BEHIND_BRACKET})|(?<=0)(?:{_BEHIND_ZERO})|(?<=[1-9])(?:{_AMERICAN})){_ENDS}(?!{_B}\d))"
)
"""In Java's words as in Python's, with ASCII digits."""

_email = re.compile(_email_pattern(r"[^\W\d_]", r"[^\W_]", r"\w"))
_phone = re.compile(PHONE, re.ASCII)

_SHORTEST = len("a@b.cd")
_SIGN = "[@+(]"
_BEGINS = (
    rf"\A(?:0[1-9][0-9]{{0,4}}[{_BLANKS}./{_HYPHENS}]|00{_B}?[1-9][0-9]{{0,2}}[{_BLANKS}./({_HYPHENS}]"
    rf"|(?:1{_S})?[2-9][0-9][0-9]{_S}[2-9][0-9][0-9]{_S})"
)
"""How a phone number without a sign begins: one look at each text, in Rust's words."""


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
    values = values.filter(values.str.len_bytes() >= _SHORTEST)
    signed = values.str.contains(_SIGN)
    # A pattern is tried on what begins with a digit only: to compare texts takes a fifth of that time.
    digit_first = values.filter((values >= "0") & (values < ":") & ~signed)
    maybe = values.filter(signed), digit_first.filter(digit_first.str.contains(_BEGINS))
    return sum(looks_personal(text) for texts in maybe for text in texts)
