"""What Debezium writes for values of types that JSON does not have, as plain text."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from functools import lru_cache
from hashlib import md5
from typing import Any
from uuid import UUID

import polars as pl

from medallion_platform.sources.formats.avro import decimal, moment

UNTOLD = "__debezium_unavailable_value"
"""What stands for a value that an update left alone, in whichever way the connector spelled that."""


Convert = Callable[[str], str]
"""Gives the plain text of a value, or raises what Python raises where it is none."""

_SCALES = range(-20_000, 20_001)
"""How many digits a decimal may have behind the point; Postgres knows 16,383."""


@lru_cache(maxsize=64)
def untold(placeholder: str = UNTOLD) -> frozenset[str]:
    """What a connector writes for a value that an update left alone, by the type of its column.

    Nested ones are without blanks. That is the placeholder, or its bytes (base64, hexadecimal), an array of
    the one or the other, of numbers or of a UUID made of it, or a map.
    """
    raw = placeholder.encode()
    texts = [placeholder, b64encode(raw).decode(), urlsafe_b64encode(raw).decode(), raw.hex()]
    name = str(UUID(bytes=md5(raw, usedforsecurity=False).digest(), version=3))
    values = [*([text] for text in texts), list(raw), [name], {placeholder: placeholder}]
    return frozenset([*texts, *("".join(json.dumps(v, ensure_ascii=False).split()) for v in values)])


_BLANKS = r"\s"


def as_untold(column: pl.Series, placeholder: str) -> pl.Series:
    """A column in which all that stands for a value that was not told is `UNTOLD`."""
    known = list(untold(placeholder))
    found = column.is_in(known) | (
        column.str.contains(r"^\s*[\[{]") & column.str.replace_all(_BLANKS, "").is_in(known)
    )
    return column.set(found, UNTOLD) if found.any() else column


def with_untold(fields: Mapping[str, str | None], placeholder: str) -> dict[str, str | None]:
    """The same for the fields of one record that have no column."""
    values = as_untold(pl.Series(list(fields.values()), dtype=pl.String), placeholder)
    return dict(zip(fields, values, strict=True))


def of_document(fields: Mapping[str, str | None]) -> dict[str, str | None]:
    """The fields of a MongoDB document as plain text; `_id` is `id`, as the message's key calls it."""
    named = {"id" if name == "_id" and "id" not in fields else name: v for name, v in fields.items()}
    return {name: _of_bson(value) for name, value in named.items()}


def _of_bson(text: str | None) -> str | None:
    """A scalar of MongoDB's extended JSON as plain text; anything else as it is."""
    if text is None or not text.startswith("{"):
        return text
    try:
        ((kind, value),) = json.loads(text).items()
        if kind == "$date":
            value = value["$numberLong"] if isinstance(value, dict) else value
            return value if not str(value).lstrip("-").isdecimal() else _instant(1000)(str(value)) + "Z"
        return str(value) if kind in _BSON and isinstance(value, str | int) else text
    except (ValueError, AttributeError, KeyError, TypeError, OverflowError, RecursionError):
        return text


_BSON = ("$oid", "$numberLong", "$numberInt", "$numberDouble", "$numberDecimal", "$uuid")


def _days(text: str) -> str:
    return (date(1970, 1, 1) + timedelta(days=int(text))).isoformat()


def _instant(per_second: int) -> Convert:
    digits = "milliseconds" if per_second == 1000 else "microseconds"

    def convert(text: str) -> str:
        return moment(int(text) * 1_000_000 // per_second).isoformat(timespec=digits)

    return convert


def _clock(per_second: int) -> Convert:
    digits = "milliseconds" if per_second == 1000 else "microseconds"

    def convert(text: str) -> str:
        at = moment(int(text) * 1_000_000 // per_second)
        if at.date() != date(1970, 1, 1):
            raise ValueError(text)
        return at.time().isoformat(timespec=digits)

    return convert


def _decimal(scale: int) -> Convert:
    if scale not in _SCALES:
        raise ValueError(scale)

    def convert(text: str) -> str:
        return decimal(b64decode(text, validate=True), scale)

    return convert


def _scaled(text: str) -> str:
    value = json.loads(text)
    return _decimal(int(value["scale"]))(value["value"])


def conversion(field: Mapping[str, Any]) -> Convert | None:
    """How the values of a field of a schema become plain text; None where they are."""
    name = field.get("name")
    if name == "org.apache.kafka.connect.data.Decimal":
        try:
            return _decimal(int((field.get("parameters") or {}).get("scale", 0)))
        except (TypeError, ValueError, AttributeError):
            return None
    return _CONVERSIONS.get(name) if isinstance(name, str) else None


_CONVERSIONS: dict[str, Convert] = {
    "io.debezium.time.Date": _days,
    "io.debezium.time.Timestamp": _instant(1000),
    "io.debezium.time.MicroTimestamp": _instant(1_000_000),
    "io.debezium.time.NanoTimestamp": _instant(1_000_000_000),
    "io.debezium.time.Time": _clock(1000),
    "io.debezium.time.MicroTime": _clock(1_000_000),
    "io.debezium.time.NanoTime": _clock(1_000_000_000),
    "org.apache.kafka.connect.data.Date": _days,
    "org.apache.kafka.connect.data.Timestamp": _instant(1000),
    "org.apache.kafka.connect.data.Time": _clock(1000),
    "io.debezium.data.VariableScaleDecimal": _scaled,
}


def conversions(schema: str) -> dict[str, Convert]:
    """How the columns of a captured table become plain text, by the schema of its events."""
    try:
        made: dict[str, Convert] = {}
        for part in json.loads(schema)["fields"]:
            if part.get("field") in ("after", "before"):
                for field in part["fields"]:
                    if convert := conversion(field):
                        made[str(field["field"])] = convert
        return made
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
