"""How a table's schema may change: columns are added, types widen, nothing ever narrows.

A narrowing is refused: the table keeps its wider type, and rows that break the narrower contract
are dead letters. A widening rewrites the table, which only a rebuild does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_WIDER = {
    "int8": ("int16", "int32", "int64", "double"),
    "int16": ("int32", "int64", "double"),
    "int32": ("int64", "double"),
    "float": ("double",),
    "date32[day]": ("timestamp[us, tz=UTC]",),
}


@dataclass(frozen=True)
class Evolution:
    """How a table's schema changes.

    schema: the table's columns afterwards. added, widened: column names. refused: why a column cannot change.
    """

    schema: pa.Schema
    added: tuple[str, ...] = ()
    widened: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)


def evolve_schema(current: pa.Schema, wanted: pa.Schema) -> Evolution:
    """Compare the table's schema with the schema of new rows; columns are never dropped."""
    import pyarrow as pa

    fields = {f.name: f for f in current}
    added, widened, refused = [], [], {}
    for f in wanted:
        have = fields.get(f.name)
        if have is None:
            added.append(f.name)
            fields[f.name] = pa.field(f.name, f.type, True)
        elif have.type == f.type:
            continue
        elif _is_wider_type(have.type, f.type):
            widened.append(f.name)
            fields[f.name] = pa.field(f.name, f.type, True)
        else:
            refused[f.name] = f"stays {have.type}: {f.type} cannot hold all of its values"
    return Evolution(pa.schema(list(fields.values())), tuple(added), tuple(widened), refused)


def _is_wider_type(have: pa.DataType, wanted: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_decimal(have) and pa.types.is_decimal(wanted):
        whole_have, whole_wanted = have.precision - have.scale, wanted.precision - wanted.scale
        return whole_wanted >= whole_have and wanted.scale >= have.scale
    return str(wanted) in _WIDER.get(str(have), ())
