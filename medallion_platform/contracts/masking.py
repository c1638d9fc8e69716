"""What remains of personal data downstream of bronze, the same in both engines.

| kind | `mask` (the default) | `hash` | `tokenize` |
|---|---|---|---|
| email | `jan***@example.com` | refused | 64 hexadecimal digits |
| phone | `***4567` | refused | 64 hexadecimal digits |
| name | `J. D.` | 64 hexadecimal digits | 64 hexadecimal digits |

- mask of an email: the first three characters of the local part, then `***@domain`. A shorter local part is
  kept whole; the number of stars is always three, so it does not show the length.
- mask of a phone: `***` and the last four digits, of 7 to 15 digits and the usual separators.
- mask of a name: the first letter of each word, and of each part of a double name, with a point.
- A value that is not of its kind (no single @, a domain with blanks, letters in a phone, too few digits,
  digits or an @ in a name) becomes `***`. A star in a local part ends what is kept of it.
- hash: SHA-256 of the text as UTF-8. Because it has no key, values can be found by trying: names, and even
  more easily addresses and numbers, for which a hash is therefore refused.
- tokenize: HMAC-SHA-256 with the key in `MEDALLION_TOKEN_KEY`: equal values have equal tokens in all tables,
  and nobody without the key can try values. Values are compared exactly, so trim and lower them in the
  transform.
- Null stays null. A protected value stays as it is, so a further table downstream changes nothing; a text of
  exactly 64 hexadecimal digits is assumed to be a hash or a token.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import unicodedata
from typing import TYPE_CHECKING

from medallion_platform.contracts.contract import Pii, Protect
from medallion_platform.errors import Kind, MedallionError

if TYPE_CHECKING:
    import polars as pl
    from pyspark.sql import Column

STARS = "***"
EMAIL = r"\A(?:([^@*]{1,3})[^@]*|\*[^@]*)@([A-Za-z0-9.\-\x{80}-\x{10FFFF}]+)\z"
PHONE = r"\A(?:[0-9]{7,15}|\*\*\*[0-9]{4})\z"
NAME = r"\A[^@\p{N}]*\p{L}[^@\p{N}]*\z"
SEPARATORS = " ()+-./"
DIGEST = r"\A[0-9a-f]{64}\z"

_LETTER_AND_REST = r"(\p{L})[^\p{Z}\t\n\r\-]*"

KEY_VARIABLE = "MEDALLION_TOKEN_KEY"
"""The environment variable that holds the key of tokens."""
SHORTEST_KEY = 16
"""Characters that a key must have: what is shorter can be tried."""

_BLOCK = 64
"""Bytes of a block of SHA-256."""
_PADS = {"inner": 0x36, "outer": 0x5C}


class NoTokenKey(MedallionError):
    """Tokens need a key, and there is none; the text does not quote a key that was refused."""

    kind = Kind.AUTH


def token_key() -> bytes:
    """The key of tokens.

    Raises:
        NoTokenKey: it is missing or too short.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    if len(key) < SHORTEST_KEY:
        what = "is too short" if key else "is not set"
        raise NoTokenKey(
            f"{KEY_VARIABLE} {what}",
            remedy=f"set it to a secret of at least {SHORTEST_KEY} random characters",
        )
    return key.encode()


def key_fingerprint() -> str:
    """A text that differs from key to key and reveals nothing else; empty without a key."""
    try:
        return hmac.digest(token_key(), b"medallion: which key is it", "sha256").hex()[:16]
    except NoTokenKey:
        return ""


def mask(text: str | None, pii: Pii) -> str | None:
    """The mask of one value: the reference for the two engines."""
    if text is None:
        return None
    if pii == "email":
        # Python writes the two escapes differently
        pattern = EMAIL.replace(r"\x{80}-\x{10FFFF}", "\x80-\U0010ffff").replace(r"\z", r"\Z")
        found = re.search(pattern, text)
        return f"{found[1] or ''}{STARS}@{found[2]}" if found else STARS
    if pii == "name":
        return _initials(text)
    digits = text.translate(dict.fromkeys(map(ord, SEPARATORS)))
    return STARS + digits[-4:] if re.search(PHONE.replace(r"\z", r"\Z"), digits) else STARS


def _initials(text: str) -> str:
    kinds = [unicodedata.category(c)[0] for c in text]
    if "@" in text or "N" in kinds or "L" not in kinds:
        return STARS
    initials, inside = "", False
    for character, kind in zip(text, kinds, strict=True):
        if kind == "Z" or character in "\t\n\r-":
            initials, inside = initials + character, False
        elif not inside:
            inside = kind == "L"
            initials += f"{character}." if inside else character
    return initials


def digest(text: str | None, key: bytes | None) -> str | None:
    """The token of one value, or without a key its hash: the reference for the two engines."""
    if text is None or re.search(DIGEST.replace(r"\z", r"\Z"), text):
        return text
    raw = text.encode()
    return hmac.digest(key, raw, "sha256").hex() if key is not None else hashlib.sha256(raw).hexdigest()


def mask_polars(values: pl.Expr, pii: Pii) -> pl.Expr:
    """The mask of a text column, in polars."""
    import polars as pl

    if pii == "email":
        masked = values.str.replace(EMAIL, "${1}***@${2}")
        taken = values.str.contains(EMAIL)
    elif pii == "name":
        masked = values.str.replace_all(_LETTER_AND_REST, "${1}.")
        taken = values.str.contains(NAME)
    else:
        digits = values.str.replace_all(r"[ ()+\-./]", "")
        masked = pl.concat_str(pl.lit(STARS), digits.str.slice(-4))
        taken = digits.str.contains(PHONE)
    return pl.when(taken).then(masked).when(values.is_not_null()).then(pl.lit(STARS))


def digest_polars(values: pl.Expr, key: bytes | None) -> pl.Expr:
    """The tokens of a text column, or without a key its hashes; by Python, because Polars cannot."""
    import polars as pl

    return values.map_elements(lambda text: digest(text, key), return_dtype=pl.String)


def mask_for_display(values: pl.Expr, pii: Pii, protect: Protect) -> pl.Expr:
    """A text column as it may be displayed: hashes and tokens unchanged, everything else masked."""
    import polars as pl

    if protect == "mask":
        return mask_polars(values, pii)
    return pl.when(values.str.contains(DIGEST)).then(values).otherwise(mask_polars(values, pii))


def mask_spark(values: Column, pii: Pii) -> Column:
    """The mask of a text column, in Spark."""
    from pyspark.sql import functions as F

    if pii == "email":
        masked = F.regexp_replace(values, EMAIL, "$1***@$2")
        taken = values.rlike(EMAIL)
    elif pii == "name":
        masked = F.regexp_replace(values, _LETTER_AND_REST, "$1.")
        taken = values.rlike(NAME)
    else:
        digits = F.translate(values, SEPARATORS, "")
        masked = F.concat(F.lit(STARS), F.substring(digits, -4, 4))
        taken = digits.rlike(PHONE)
    return F.when(taken, masked).when(values.isNotNull(), F.lit(STARS))


def hmac_pads(key: bytes) -> dict[str, bytes]:
    """The key as HMAC uses it ("HMAC" of RFC 2104): the pads `inner` and `outer`."""
    key = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    return {name: bytes(byte ^ pad for byte in key) for name, pad in _PADS.items()}


def digest_spark(values: Column, pads: Column | None) -> Column:
    """The tokens of a text column, or without a key its hashes. pads: a struct as `hmac_pads` says."""
    from pyspark.sql import functions as F

    raw = values.cast("binary")
    if pads is None:
        digested = F.sha2(raw, 256)
    else:
        inner = F.unhex(F.sha2(F.concat(pads["inner"], raw), 256))
        digested = F.sha2(F.concat(pads["outer"], inner), 256)
    return F.when(values.rlike(DIGEST), values).otherwise(digested)
