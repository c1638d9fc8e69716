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

from medallion_platform.sources.formats.avro import decimal_digits, time_after_epoch

UNTOLD = "__debezium_unavailable_value"
"""What stands for a value that an update left alone, in whichever way the connector spelled that."""


Convert = Callable[[str], str]
"""Gives the plain text of a value, or raises what Python raises where it is none."""

_SCALES = range(-20_000, 20_001)
"""How many digits a decimal may have behind the point; Postgres knows 16,383."""


@lru_cache(maxsize=64)
def placeholder_texts(placeholder: str = UNTOLD) -> frozenset[str]:
    """The texts that a connector writes instead of a value that an update did not change, for all types.

    They are the placeholder, its bytes (base64 or hexadecimal), an array of these, of numbers or of a UUID
    made from it, or a map; nested ones without blanks.
    """
    raw = placeholder.encode()
    texts = [placeholder, b64encode(raw).decode(), urlsafe_b64encode(raw).decode(), raw.hex()]
    name = str(UUID(bytes=md5(raw, usedforsecurity=False).digest(), version=3))
    values = [*([text] for text in texts), list(raw), [name], {placeholder: placeholder}]
    return frozenset([*texts, *("".join(json.dumps(v, ensure_ascii=False).split()) for v in values)])


_BLANKS = r"\s"


def mark_placeholders(column: pl.Series, placeholder: str) -> pl.Series:
    """A column with `UNTOLD` in place of every placeholder of a missing value."""
    known = list(placeholder_texts(placeholder))
    found = column.is_in(known) | (
        column.str.contains(r"^\s*[\[{]") & column.str.replace_all(_BLANKS, "").is_in(known)
    )
    return column.set(found, UNTOLD) if found.any() else column


def mark_placeholders_in_record(fields: Mapping[str, str | None], placeholder: str) -> dict[str, str | None]:
    """The same for the fields of one record that have no column."""
    values = mark_placeholders(pl.Series(list(fields.values()), dtype=pl.String), placeholder)
    return dict(zip(fields, values, strict=True))


def document_fields(fields: Mapping[str, str | None]) -> dict[str, str | None]:
    """The fields of a MongoDB document as plain text; `_id` becomes `id`, as in the message's key."""
    named = {"id" if name == "_id" and "id" not in fields else name: v for name, v in fields.items()}
    return {name: _bson_text(value) for name, value in named.items()}


def _bson_text(text: str | None) -> str | None:
    """A scalar of MongoDB's extended JSON as plain text; other text unchanged."""
    if text is None or not text.startswith("{"):
        return text
    try:
        ((kind, value),) = json.loads(text).items()
        if kind == "$date":
            value = value["$numberLong"] if isinstance(value, dict) else value
            return (
                value
                if not str(value).lstrip("-").isdecimal()
                else _timestamp_conversion(1000)(str(value)) + "Z"
            )
        return str(value) if kind in _BSON and isinstance(value, str | int) else text
    except (ValueError, AttributeError, KeyError, TypeError, OverflowError, RecursionError):
        return text


_BSON = ("$oid", "$numberLong", "$numberInt", "$numberDouble", "$numberDecimal", "$uuid")


def _date_from_days(text: str) -> str:
    return (date(1970, 1, 1) + timedelta(days=int(text))).isoformat()


def _timestamp_conversion(per_second: int) -> Convert:
    digits = "milliseconds" if per_second == 1000 else "microseconds"

    def convert(text: str) -> str:
        return time_after_epoch(int(text) * 1_000_000 // per_second).isoformat(timespec=digits)

    return convert


def _time_of_day_conversion(per_second: int) -> Convert:
    digits = "milliseconds" if per_second == 1000 else "microseconds"

    def convert(text: str) -> str:
        at = time_after_epoch(int(text) * 1_000_000 // per_second)
        if at.date() != date(1970, 1, 1):
            raise ValueError(text)
        return at.time().isoformat(timespec=digits)

    return convert


def _decimal_conversion(scale: int) -> Convert:
    if scale not in _SCALES:
        raise ValueError(scale)

    def convert(text: str) -> str:
        return decimal_digits(b64decode(text, validate=True), scale)

    return convert


def _scaled_decimal(text: str) -> str:
    value = json.loads(text)
    return _decimal_conversion(int(value["scale"]))(value["value"])


def value_conversion(field: Mapping[str, Any]) -> Convert | None:
    """The conversion of a field's values to plain text; None if they are plain text already."""
    name = field.get("name")
    if name == "org.apache.kafka.connect.data.Decimal":
        try:
            return _decimal_conversion(int((field.get("parameters") or {}).get("scale", 0)))
        except (TypeError, ValueError, AttributeError):
            return None
    return _CONVERSIONS.get(name) if isinstance(name, str) else None


_CONVERSIONS: dict[str, Convert] = {
    "io.debezium.time.Date": _date_from_days,
    "io.debezium.time.Timestamp": _timestamp_conversion(1000),
    "io.debezium.time.MicroTimestamp": _timestamp_conversion(1_000_000),
    "io.debezium.time.NanoTimestamp": _timestamp_conversion(1_000_000_000),
    "io.debezium.time.Time": _time_of_day_conversion(1000),
    "io.debezium.time.MicroTime": _time_of_day_conversion(1_000_000),
    "io.debezium.time.NanoTime": _time_of_day_conversion(1_000_000_000),
    "org.apache.kafka.connect.data.Date": _date_from_days,
    "org.apache.kafka.connect.data.Timestamp": _timestamp_conversion(1000),
    "org.apache.kafka.connect.data.Time": _time_of_day_conversion(1000),
    "io.debezium.data.VariableScaleDecimal": _scaled_decimal,
}


def column_conversions(schema: str) -> dict[str, Convert]:
    """The conversions of a captured table's columns to plain text, from the schema of its events."""
    try:
        by_column: dict[str, Convert] = {}
        for part in json.loads(schema)["fields"]:
            if part.get("field") in ("after", "before"):
                for field in part["fields"]:
                    if convert := value_conversion(field):
                        by_column[str(field["field"])] = convert
        return by_column
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
