"""The column name of an undeclared field, legal for every reader of the table.

A plain name stays: letters, digits and `_` (Unicode, composed), at most 128 characters, not one of the
platform's own names. Any other name is replaced by its legal characters, `__` and eight hexadecimal digits
derived from the whole name, such as `utm_source__e3a9b1c0` for `utm.source`. So the column depends only on
the name of the field, and two fields never share a column.

Names that differ only by case are one column for Spark, Trino and DuckDB, and therefore here. If one record
has two of them, the first in sort order gets a column of its own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache
from hashlib import sha256

LONGEST = 128
"""Characters that a column's name may have: as many as the strictest metastore takes."""

PLATFORM = frozenset({"effective_from", "effective_to", "is_current", "source_position", "changed_at"})
"""Columns that a refresh adds, beside those that begin with `_`."""

_OWN = re.compile(r"__[0-9a-f]{8}\Z")
_GAP = re.compile("__+")


def column_of(field: str, taken: Collection[str] = (), known: Collection[str] = ()) -> str:
    """The column of an undeclared field.

    taken: names of declared and derived columns, `folded`. known: the columns that the table has; one that
    was made by other rules, and is named exactly so, stays the field's.
    """
    reserved = folded(field) in PLATFORM or folded(field) in taken or field.startswith("_")
    if not reserved and (is_plain(field) or field in known):
        return field
    return own_name(field)


@lru_cache(maxsize=8192)
def own_name(field: str) -> str:
    """A column that no other field has: what is legal of the name, and a mark made of the whole."""
    letters = unicodedata.normalize("NFKC", field)[:LONGEST]
    legal = _GAP.sub("_", "".join(c if _is_legal(c) else "_" for c in letters)).strip("_")
    mark = sha256(field.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{legal[: LONGEST - 10].rstrip('_') or 'field'}__{mark}"


@lru_cache(maxsize=8192)
def is_plain(name: str) -> bool:
    """Whether every reader takes a name as it is."""
    return (
        bool(name)
        and _is_legal(name)
        and len(name) <= LONGEST
        and not name.startswith("_")
        and not _OWN.search(name)
        and unicodedata.is_normalized("NFKC", name)
        and folded(name) == name.lower()  # else it looks like another one to some
    )


@lru_cache(maxsize=8192)
def folded(name: str) -> str:
    """What names have in common that readers take for one: all but case, letter by letter."""
    return "".join(map(_without_case, unicodedata.normalize("NFC", name)))


def _without_case(letter: str) -> str:
    upper = letter.upper()
    upper = upper if len(upper) == 1 else letter
    lower = upper.lower()
    return lower if len(lower) == 1 else upper


def _is_legal(text: str) -> bool:
    return f"a{text}".isidentifier()
