"""How a schema may change: wider, never narrower, and no column ever goes."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.lakehouse.evolution import evolve_schema

TYPES = [
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.float32(),
    pa.float64(),
    pa.string(),
    pa.bool_(),
    pa.date32(),
    pa.timestamp("us", "UTC"),
    pa.decimal128(10, 2),
    pa.decimal128(12, 2),
    pa.decimal128(12, 4),
]
schemas = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(TYPES), max_size=4).map(pa.schema)


def holds_all(kind: pa.DataType, of: pa.DataType) -> bool:
    """Whether every value of one type fits into another: extremes are the oracle."""
    if kind == of:
        return True
    if pa.types.is_decimal(of):
        return pa.types.is_decimal(kind) and (
            kind.scale >= of.scale and kind.precision - kind.scale >= of.precision - of.scale
        )
    if pa.types.is_integer(of):
        if pa.types.is_integer(kind):
            return kind.bit_width > of.bit_width
        return kind == pa.float64() and of.bit_width < 64
    if of == pa.float32():
        return kind == pa.float64()
    return of == pa.date32() and pa.types.is_timestamp(kind)


@given(schemas, schemas)
def test_nothing_goes_and_nothing_narrows(current: pa.Schema, wanted: pa.Schema) -> None:
    after = evolve_schema(current, wanted)
    assert after.schema.names == [*current.names, *(n for n in wanted.names if n not in current.names)]
    assert list(after.added) == [n for n in wanted.names if n not in current.names]
    for name in after.schema.names:
        kind = after.schema.field(name).type
        if name not in wanted.names:
            assert kind == current.field(name).type
        elif name in after.refused:
            assert kind == current.field(name).type
            assert not holds_all(wanted.field(name).type, kind)
        else:
            assert kind == wanted.field(name).type
            assert name not in current.names or holds_all(kind, current.field(name).type)
        assert (name in after.widened) == (name in current.names and kind != current.field(name).type)


@given(schemas, schemas)
def test_the_same_again_changes_nothing(current: pa.Schema, wanted: pa.Schema) -> None:
    once = evolve_schema(current, wanted)
    twice = evolve_schema(once.schema, wanted)
    assert twice.schema == once.schema
    assert not twice.added
    assert not twice.widened
    assert twice.refused == once.refused


@pytest.mark.parametrize(
    ("have", "wanted", "becomes"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.int64(), pa.int32(), pa.int64()),
        (pa.int64(), pa.float64(), pa.int64()),
        (pa.date32(), pa.timestamp("us", "UTC"), pa.timestamp("us", "UTC")),
        (pa.string(), pa.int32(), pa.string()),
        (pa.decimal128(10, 2), pa.decimal128(11, 4), pa.decimal128(10, 2)),
    ],
)
def test_known_changes(have: pa.DataType, wanted: pa.DataType, becomes: pa.DataType) -> None:
    assert evolve_schema(pa.schema({"a": have}), pa.schema({"a": wanted})).schema.field("a").type == becomes
