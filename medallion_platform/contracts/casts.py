"""How values are written as text: the lexical forms that both engines accept, and no others.

The engines' own casts accept more, and differ (Spark: surrounding blanks, `1d`, hexadecimal floats,
one-digit months; polars: blanks inside dates, fractions cut off). A form is a regular expression in the
common language of `patterns`. If an engine's own strict cast accepts exactly the form, it is used without the
expression: polars needs none for integers and floats.

- integer, long: `[+-]?digits`, in range.
- float, double: digits with optional point and exponent; NaN, Inf, Infinity in any case, with optional sign.
  A number beyond the range is invalid (it would become an infinity).
- decimal: digits with optional point, no exponent; beyond the scale only zeros, because a value is never
  rounded.
- boolean: true, t, yes, y, 1, false, f, no, n, 0, in lower, upper or title case.
- date: `YYYY-MM-DD`, a day of the calendar, years 0001 to 9999.
- timestamp: a date, `T` or a blank, `HH:MM`, optional `:SS` and up to six digits of a fraction, optional `Z`
  or offset (`+02`, `+0200`, `+02:00`, at most 18 hours). Without a zone it is UTC. No leap second.

Typed values are accepted if the column's type can represent them: a wider integer or a whole float in range,
an integer as a float, a decimal or text, a decimal that need not be rounded, a date as a timestamp at
midnight UTC, a timestamp at midnight as a date. A float may be narrowed, which rounds it, but must not become
an infinity. Everything else is invalid.
"""

from __future__ import annotations

from medallion_platform.contracts.contract import ColumnType

INTEGER = r"\A[+-]?[0-9]+\z"
NAN = r"\A[+-]?[nN][aA][nN]\z"
INFINITY = r"\A[+-]?[iI][nN][fF](?:[iI][nN][iI][tT][yY])?\z"
NUMBER = r"\A[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\z"
DIGIT = r"[0-9]"
TRUE = ("true", "True", "TRUE", "t", "T", "yes", "Yes", "YES", "y", "Y", "1")
FALSE = ("false", "False", "FALSE", "f", "F", "no", "No", "NO", "n", "N", "0")

_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DAY = (
    rf"(?:{_YEAR}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
    rf"|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)|{_LEAP}-02-29)"
)
ZONE = r"(?:Z|[+-](?:0[0-9]|1[0-7])(?::?[0-5][0-9])?|[+-]18(?::?00)?)\z"
DATE = rf"\A{_DAY}\z"
TIMESTAMP = (
    rf"\A{_DAY}[T ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{{1,6}})?)?(?:{ZONE[:-2]})?\z"
)
ZONED = r":[^+\-Z]*[+\-Z]"
"""Of a timestamp in its form: whether it says its zone."""

FIRST_INSTANT = -62_135_596_800_000_000
"""0001-01-01T00:00:00Z in microseconds since 1970."""
LAST_INSTANT = 253_402_300_799_999_999
"""9999-12-31T23:59:59.999999Z in microseconds since 1970."""
MICROSECONDS_A_DAY = 86_400_000_000


def decimal_pattern(type: ColumnType) -> str:
    """The form of a decimal of this precision and scale."""
    whole = type.precision - type.scale
    before = rf"0*[0-9]{{1,{whole}}}" if whole else "0+"
    after = rf"(?:\.[0-9]{{0,{type.scale}}}0*)?"
    bare = rf"|\.[0-9]{{1,{type.scale}}}0*" if type.scale else ""
    return rf"\A[+-]?(?:{before}{after}{bare})\z"
