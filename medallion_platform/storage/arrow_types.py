"""Questions about Arrow types, and types made from others. Nothing here looks at values."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa


def is_list(kind: pa.DataType) -> bool:
    """Whether its values are lists, of any kind."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether its values are texts."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """Whether its values are bytes."""
    kinds = (
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
        pa.types.is_fixed_size_binary,
    )
    return any(is_one(kind) for is_one in kinds)


def width_in_bytes(kind: pa.DataType) -> int:
    """Bytes of a value in memory if all have as many, else 0."""
    try:
        return -(-kind.bit_width // 8)
    except ValueError:
        return 0


def map_inner_types(kind: pa.DataType, of: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """The type with `of` applied to the types directly within it, if there are any."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(of(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(
            kind.key_field.with_type(of(kind.key_type)), kind.item_field.with_type(of(kind.item_type))
        )
    if not is_list(kind):
        return kind
    inner = kind.value_field.with_type(of(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inner, kind.list_size)
    return pa.large_list(inner) if pa.types.is_large_list(kind) else pa.list_(inner)


def decoded_type(kind: pa.DataType) -> pa.DataType:
    """The type whose values are not stored once for many rows: without dictionaries, at any depth."""
    return kind.value_type if pa.types.is_dictionary(kind) else map_inner_types(kind, decoded_type)
