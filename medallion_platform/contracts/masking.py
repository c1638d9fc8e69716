r"""Masks for personal data, the same in both engines.

- email: the first three characters of the local part, then `***@domain`. A shorter local part keeps
  what it has: the stars stand whatever its length, so the length is not told.
- phone: `***` and the last four digits, of 7 to 15 digits and the usual separators.
- What is neither (no single @, a domain with blanks, letters in a phone, too few digits) becomes `***`.
- Null stays null. A mask of a mask is the same mask; so a star ends what is kept of a local part.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from medallion_platform.contracts.contract import Pii

if TYPE_CHECKING:
    import polars as pl
    from pyspark.sql import Column

STARS = "***"
EMAIL = r"\A(?:([^@*]{1,3})[^@]*|\*[^@]*)@([A-Za-z0-9.\-\x{80}-\x{10FFFF}]+)\z"
PHONE = r"\A(?:[0-9]{7,15}|\*\*\*[0-9]{4})\z"
SEPARATORS = " ()+-./"


def mask(text: str | None, pii: Pii) -> str | None:
    """The mask of one value: the reference for the two engines."""
    if text is None:
        return None
    if pii == "email":
        # Python writes the two escapes differently
        pattern = EMAIL.replace(r"\x{80}-\x{10FFFF}", "\x80-\U0010ffff").replace(r"\z", r"\Z")
        found = re.search(pattern, text)
        return f"{found[1] or ''}{STARS}@{found[2]}" if found else STARS
    digits = text.translate(dict.fromkeys(map(ord, SEPARATORS)))
    return STARS + digits[-4:] if re.search(PHONE.replace(r"\z", r"\Z"), digits) else STARS


def mask_lean(values: pl.Expr, pii: Pii) -> pl.Expr:
    """The mask of a text column, in polars."""
    import polars as pl

    if pii == "email":
        masked = values.str.replace(EMAIL, "${1}***@${2}")
        taken = values.str.contains(EMAIL)
    else:
        digits = values.str.replace_all(r"[ ()+\-./]", "")
        masked = pl.concat_str(pl.lit(STARS), digits.str.slice(-4))
        taken = digits.str.contains(PHONE)
    return pl.when(taken).then(masked).when(values.is_not_null()).then(pl.lit(STARS))


def mask_spark(values: Column, pii: Pii) -> Column:
    """The mask of a text column, in Spark."""
    from pyspark.sql import functions as F

    if pii == "email":
        masked = F.regexp_replace(values, EMAIL, "$1***@$2")
        taken = values.rlike(EMAIL)
    else:
        digits = F.translate(values, SEPARATORS, "")
        masked = F.concat(F.lit(STARS), F.substring(digits, -4, 4))
        taken = digits.rlike(PHONE)
    return F.when(taken, masked).when(values.isNotNull(), F.lit(STARS))
