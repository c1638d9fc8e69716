"""Values of typed columns as text and as JSON, for tables and dead letters that store them so.

A value that no type of a contract can represent (a day outside of the years 0001 to 9999, a decimal of more
than 38 digits) is a violation of the contract and never becomes another value; its text says what the file
had.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from math import isfinite
from typing import Any

import polars as pl

from medallion_platform.contracts import casts


def instants_in_json(values: pl.Series) -> pl.Series:
    """Instants as the JSON of nested values has them, by their number outside of the years 0001 to 9999."""
    told = _text_if_out_of_range(values, _as_polars_json)
    return told if told.dtype == pl.String else _as_polars_json(told)


def is_far(values: pl.Series) -> bool:
    """Whether an instant lies outside of the years 0001 to 9999."""
    return _text_if_out_of_range(values).dtype == pl.String


def _as_polars_json(held: pl.Series) -> pl.Series:
    return _encode_as_json(held).str.strip_chars('"').set(held.is_null(), None)


def _in_iso(held: pl.Series) -> pl.Series:
    """Days and instants as text."""
    if held.dtype == pl.Date:
        return held.cast(pl.String)
    if zone := getattr(held.dtype, "time_zone", None):
        held = held.dt.convert_time_zone("UTC")
    return held.dt.strftime("%Y-%m-%dT%H:%M:%S%.6f") + ("Z" if zone else "")


def _text_if_out_of_range(values: pl.Series, told: Callable[[pl.Series], pl.Series] = _in_iso) -> pl.Series:
    """Days and instants as they are, or `told` where one lies outside of the years 0001 to 9999."""
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
    texts = told(pl.select(pl.when(inside).then(values)).to_series())
    outside = number.cast(pl.String) + f" {partition} since 1970-01-01"
    return pl.select(pl.when(inside).then(texts).otherwise(outside).alias(values.name)).to_series()


def rows_as_json(rows: pl.DataFrame, *, bytes_are_text: bool = False) -> pl.Series:
    """Each row as JSON: what a dead letter keeps of it.

    Bytes that are no text stay what they are, and are no text either when the JSON is read again. Within
    nested values bytes are base64; if `bytes_are_text`, a value with bytes that are none is one text.
    """
    keep = _keep_nested_text if bytes_are_text else _keep_value
    rows = rows.with_columns(_text_if_out_of_range(column) for column in rows.iter_columns())
    # Python's durations and dates within lists hold less than the file's.
    narrow = [
        c.name
        for c in rows.iter_columns()
        if isinstance(c.dtype, pl.Duration | pl.Time) or _holds_times(c.dtype)
    ]
    rows = rows.with_columns(values_as_text(rows[name]) for name in narrow)
    no_json = [c.name for c in rows.iter_columns() if _may_be_no_json(c)]
    as_text = json.JSONEncoder(default=_plain_text if bytes_are_text else _plain_value).encode
    texts = [
        as_text({**row, **{name: keep(row[name]) for name in no_json}}) for row in rows.iter_rows(named=True)
    ]
    return pl.Series("payload", texts, pl.String)


def _may_be_no_json(column: pl.Series) -> bool:
    """Whether values are looked at one by one: bytes, numbers that JSON lacks, or either of them inside."""
    kind = column.dtype
    if kind.is_float():
        return not column.is_finite().all()
    return kind.is_nested() or kind == pl.Binary or kind == pl.Object


def values_as_text(values: pl.Series) -> pl.Series:
    """Typed values as text: nested ones as JSON, bytes in base64."""
    # Under a name that no method of polars takes for a pattern.
    return _nested_as_text(values.alias("v")).alias(values.name)


def _nested_as_text(values: pl.Series) -> pl.Series:
    values = _text_if_out_of_range(values)
    kind = values.dtype
    if kind == pl.Binary:
        return values.bin.encode("base64")
    if isinstance(kind, pl.Duration | pl.Time):  # a cast drops the parts of a second
        return values.dt.to_string("iso")
    if not kind.is_nested():
        return values.cast(pl.String)
    if _holds_bytes(kind):  # what polars has no JSON for
        told = [
            None if v is None else json.dumps(_json_value(v), default=_plain_value) for v in values.to_list()
        ]
        return pl.Series(values.name, told, pl.String)
    told = _encode_as_json(values)
    if _holds_floats(kind) and len(rows := _rows_with_non_finite(values, told)):
        told = told.scatter(
            rows, [json.dumps(_json_value(v), default=_plain_value) for v in values.gather(rows)]
        )
    return told.set(values.is_null(), None)


def _encode_as_json(values: pl.Series) -> pl.Series:
    wrapped = values.to_frame("v").select(pl.struct("v").struct.json_encode().alias("v"))
    return wrapped["v"].str.strip_prefix('{"v":').str.strip_suffix("}")


def _rows_with_non_finite(values: pl.Series, told: pl.Series) -> pl.Series:
    """The rows that may hold a NaN or an infinity, for which polars writes null."""
    rows = told.str.contains("null", literal=True).fill_null(False).arg_true()
    words = _encode_as_json(values.gather(rows).cast(_floats_as_text(values.dtype)))
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
    if isinstance(kind, pl.Map):
        return _holds_bytes(kind.value)
    return kind == pl.Binary or (isinstance(kind, pl.List | pl.Array) and _holds_bytes(kind.inner))


def _holds_times(kind: Any) -> bool:
    """Whether a nested type has days or instants inside."""
    if isinstance(kind, pl.Struct):
        inner = [field.dtype for field in kind.fields]
    elif isinstance(kind, pl.List | pl.Array):
        inner = [kind.inner]
    elif isinstance(kind, pl.Map):
        inner = [kind.value]
    else:
        return False
    return any(k.is_temporal() or _holds_times(k) for k in map(_type_of, inner))


def _type_of(kind: Any) -> pl.DataType:
    return kind() if isinstance(kind, type) else kind


def _keep_value(value: Any) -> Any:
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else _json_value(value)


def _keep_nested_text(value: Any) -> Any:
    """A reader of JSON looks for what is no text in the fields of a record, and not within them."""
    kept = _keep_value(value)
    if not isinstance(kept, dict | list):
        return kept
    text = json.dumps(kept, default=_plain_text, ensure_ascii=False)
    return text if text.encode(errors="replace").decode() != text else kept


def _json_value(value: Any) -> Any:
    """A value with words in the place of the numbers that JSON does not have."""
    if isinstance(value, float) and not isfinite(value):
        return str(value).replace("nan", "NaN")
    if isinstance(value, list | tuple | pl.Series):
        return [_json_value(v) for v in value]
    return {k: _json_value(v) for k, v in value.items()} if isinstance(value, dict) else value


def _plain_text(value: Any) -> Any:
    return _keep_value(value) if isinstance(value, bytes) else _plain_value(value)


def _plain_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)
