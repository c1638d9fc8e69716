"""Values of typed columns as text and as JSON, where a table or a dead letter keeps them so.

A value that no type of ours can hold (a day outside of the years 0001 to 9999, a decimal of more than 38
digits) is a violation of the contract and never another value; as text it says what stood there.
"""

from __future__ import annotations

import json
from base64 import b64encode
from math import isfinite
from typing import Any

import polars as pl

from medallion_platform.contracts import casts


def _bounded(values: pl.Series) -> pl.Series:
    """Days and instants as they are, or as text where one lies outside of the years 0001 to 9999."""
    kind = values.dtype
    if kind == pl.Date:
        number, partition, first, last = (
            values.cast(pl.Int32),
            "days",
            *(instant // casts.MICROSECONDS_A_DAY for instant in (casts.FIRST_INSTANT, casts.LAST_INSTANT)),
        )
    elif isinstance(kind, pl.Datetime) and kind.time_unit != "ns":  # in which all lie inside
        parts = 1_000 if kind.time_unit == "ms" else 1
        number, partition = values.cast(pl.Int64), kind.time_unit
        first, last = casts.FIRST_INSTANT // parts, casts.LAST_INSTANT // parts
    else:
        return values
    inside = number.is_between(first, last)
    if inside.all():
        return values
    held = pl.select(pl.when(inside).then(values)).to_series()
    if isinstance(kind, pl.Datetime):
        if kind.time_zone is not None:
            held = held.dt.convert_time_zone("UTC")
        told = held.dt.strftime("%Y-%m-%dT%H:%M:%S%.6f") + ("" if kind.time_zone is None else "Z")
    else:
        told = held.cast(pl.String)
    outside = number.cast(pl.String) + f" {partition} since 1970-01-01"
    return pl.select(pl.when(inside).then(told).otherwise(outside).alias(values.name)).to_series()


def payloads(rows: pl.DataFrame) -> pl.Series:
    """Each row as JSON: what a dead letter keeps of it.

    Bytes that are no text stay what they are, and are no text either when the JSON is read again.
    """
    rows = rows.with_columns(_bounded(column) for column in rows.iter_columns())
    # Python's durations and dates within lists hold less than the file's.
    narrow = [c.name for c in rows.iter_columns() if c.dtype == pl.Duration or _holds_times(c.dtype)]
    rows = rows.with_columns(text(rows[name]) for name in narrow)
    texts = [
        json.dumps({k: _as_they_came(v) for k, v in row.items()}, default=_plain)
        for row in rows.iter_rows(named=True)
    ]
    return pl.Series("payload", texts, pl.String)


def text(values: pl.Series) -> pl.Series:
    """Typed values as text: nested ones as JSON, bytes in base64."""
    # Under a name that no method of polars takes for a pattern.
    return _text(values.alias("v")).alias(values.name)


def _text(values: pl.Series) -> pl.Series:
    values = _bounded(values)
    kind = values.dtype
    if kind == pl.Binary:
        return values.bin.encode("base64")
    if kind == pl.Duration:
        return values.dt.to_string("iso")
    if not kind.is_nested():
        return values.cast(pl.String)
    if _holds_bytes(kind):  # what polars has no JSON for
        told = [None if v is None else json.dumps(_in_json(v), default=_plain) for v in values.to_list()]
        return pl.Series(values.name, told, pl.String)
    told = _as_json(values)
    if _holds_floats(kind) and len(rows := _not_finite(values, told)):
        told = told.scatter(rows, [json.dumps(_in_json(v), default=_plain) for v in values.gather(rows)])
    return told.set(values.is_null(), None)


def _as_json(values: pl.Series) -> pl.Series:
    wrapped = values.to_frame("v").select(pl.struct("v").struct.json_encode().alias("v"))
    return wrapped["v"].str.strip_prefix('{"v":').str.strip_suffix("}")


def _not_finite(values: pl.Series, told: pl.Series) -> pl.Series:
    """The rows that may hold a NaN or an infinity, for which polars writes null."""
    rows = told.str.contains("null", literal=True).fill_null(False).arg_true()
    words = _as_json(values.gather(rows).cast(_floats_as_text(values.dtype)))
    return rows.filter(words.str.contains(r'"(NaN|-?inf)"').fill_null(False))


def _floats_as_text(kind: Any) -> Any:
    if isinstance(kind, pl.Struct):
        return pl.Struct({field.name: _floats_as_text(field.dtype) for field in kind.fields})
    if isinstance(kind, pl.List | pl.Array):
        inner = _floats_as_text(kind.inner)
        return pl.List(inner) if isinstance(kind, pl.List) else pl.Array(inner, kind.size)
    if isinstance(kind, pl.Map):
        return pl.Map(kind.key, _floats_as_text(kind.value))
    return pl.String if kind.is_float() else kind


def _holds_floats(kind: Any) -> bool:
    if isinstance(kind, pl.Struct):
        return any(_holds_floats(field.dtype) for field in kind.fields)
    if isinstance(kind, pl.List | pl.Array):
        return _holds_floats(kind.inner)
    return _holds_floats(kind.value) if isinstance(kind, pl.Map) else kind.is_float()


def _holds_bytes(kind: Any) -> bool:
    if isinstance(kind, pl.Struct):
        return any(_holds_bytes(field.dtype) for field in kind.fields)
    return kind == pl.Binary or (isinstance(kind, pl.List | pl.Array) and _holds_bytes(kind.inner))


def _holds_times(kind: Any) -> bool:
    """Whether a nested type has days or instants inside."""
    if isinstance(kind, pl.Struct):
        inner = [field.dtype for field in kind.fields]
    elif isinstance(kind, pl.List | pl.Array):
        inner = [kind.inner]
    else:
        return False
    return any(k.is_temporal() or _holds_times(k) for k in map(_type_of, inner))


def _type_of(kind: Any) -> pl.DataType:
    return kind() if isinstance(kind, type) else kind


def _as_they_came(value: Any) -> Any:
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else _in_json(value)


def _in_json(value: Any) -> Any:
    """A value with words in the place of the numbers that JSON does not have."""
    if isinstance(value, float) and not isfinite(value):
        return str(value).replace("nan", "NaN")
    if isinstance(value, list | tuple | pl.Series):
        return [_in_json(v) for v in value]
    return {k: _in_json(v) for k, v in value.items()} if isinstance(value, dict) else value


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)
