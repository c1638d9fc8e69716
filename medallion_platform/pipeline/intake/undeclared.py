"""Fields that the contract does not declare: they become text columns, up to a limit.

A table makes columns for up to 500 undeclared fields, and none for a record that has more than 500. The rest
goes into one column, `_further`: a JSON object from field name to the text that its column would have.
Existing columns of a table are always used, however many there are. One that is not of text, because a
contract declared it once, has the values of its type; other texts of its field are in `_further`, too.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import polars as pl

from medallion_platform.contracts import polars_engine as contracts
from medallion_platform.lakehouse.counts import counted
from medallion_platform.pipeline.intake.column_names import column_of, folded, own_name
from medallion_platform.sources.formats.records import FURTHER
from medallion_platform.sources.formats.slices import replace_values

MOST = 500
"""Undeclared columns that a table gets, and undeclared fields of a record that get columns."""

NOTE = (
    f"with undeclared fields beyond the {MOST} columns that are made of such, or that do not fit the type of "
    f"their column: these are in the column {FURTHER}, as JSON; declare those that count"
)

Packed = dict[int, dict[str, str | None]]
"""Fields without a column, by the place of their row."""


def undeclared_columns(
    fields: Mapping[str, pl.Series],
    further: pl.Series | None,
    wanted: Collection[str],
    known: Collection[str],
) -> dict[str, pl.Series]:
    """The columns of undeclared fields, each in the table's spelling, and `_further` if it is needed.

    fields: text columns by field name. further: more fields of some rows, see `records.FURTHER`. wanted: the
    declared and derived columns. known: the columns of the table.
    """
    taken = {folded(name) for name in wanted}
    have = known_undeclared_columns(known, wanted)
    # A method of polars takes some names for patterns.
    fields = {name: values.alias("text") for name, values in fields.items()}
    named = _columns_of(fields, taken, have, known)
    room = MOST - len(have)
    height = max(map(len, (further if further is not None else (), *fields.values())))
    packed: Packed = {}
    if further is not None or len(fields) > MOST or _count_new_columns(named.values(), have) > room:
        packed = _unpack_further(further)
        names = {*named, *(name for texts in packed.values() for name in texts)}
        named = _columns_of(names, taken, have, known)
        fields = _split_within_bounds(fields, packed, named, set(have.values()), room, height)
    room -= _count_new_columns((named[name] for name in fields), have)
    groups: dict[str, dict[str, pl.Series]] = {}
    for name, values in fields.items():
        groups.setdefault(named[name], {})[name] = values
    columns: dict[str, pl.Series] = {}
    for column, group in groups.items():
        merged, clashing = _merge_fields(group)
        columns[column] = merged.alias(column)
        for name, values in clashing.items():
            own = own_name(name)
            if own in known or room > 0:
                columns[own] = values.alias(own)
                room -= own not in known
            else:
                _pack_field(name, values, packed)
    if packed:
        columns[FURTHER] = _packed_column(packed, height)
    return columns


def fit_types(columns: Mapping[str, pl.Series], known: Mapping[str, pl.DataType]) -> dict[str, pl.Series]:
    """The columns of undeclared fields in the types of the table; what does not fit is in `_further`.

    known: the columns of the table; one that it lacks is text.
    """
    fitted, unfit = dict(columns), dict[str, pl.Series]()
    for name, text in columns.items():
        kind = known.get(name, pl.String())
        if text.dtype != kind:
            fitted[name] = _cast_text(text, kind)
            left = text.set(fitted[name].is_not_null(), None)
            unfit |= {name: left} if left.null_count() < left.len() else {}
    if unfit:
        packed = _unpack_further(columns.get(FURTHER))
        for name, left in unfit.items():
            _pack_field(name, left, packed)
        fitted[FURTHER] = _packed_column(packed, max(map(len, columns.values())))
    return fitted


def _cast_text(text: pl.Series, kind: pl.DataType) -> pl.Series:
    """Text in the type of its column; null if it does not fit."""
    declared = contracts.column_type_of(kind)
    if declared is None:  # somebody gave the table a column of a type that no contract knows
        return pl.Series(text.name, [None], kind).new_from_index(0, text.len())
    return contracts.cast_column(text, declared)


def _packed_column(packed: Packed, height: int) -> pl.Series:
    texts = [json.dumps(packed[i], ensure_ascii=False) if i in packed else None for i in range(height)]
    return pl.Series(FURTHER, texts, pl.String)


def known_undeclared_columns(known: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """The columns of a table that come from undeclared fields, by their `folded` names."""
    taken = {folded(name) for name in wanted}
    return {folded(c): c for c in known if not c.startswith("_") and folded(c) not in taken}


def count_further(rows: pl.DataFrame) -> int:
    """The number of bronze rows with undeclared fields that have no column of their own."""
    return rows.height - rows[FURTHER].null_count() if FURTHER in rows.columns else 0


def notes_on_further(further: int) -> list[str]:
    """The note for people about these rows."""
    return [f"{counted(further, 'records')} {NOTE}"] if further else []


def _columns_of(
    fields: Iterable[str], taken: Collection[str], have: Mapping[str, str], known: Collection[str]
) -> dict[str, str]:
    """The column of each field; fields that differ only by case share one spelling."""
    spelled = dict(have)
    columns = {field: column_of(field, taken, known) for field in sorted(fields, reverse=True)}
    return {field: spelled.setdefault(folded(column), column) for field, column in columns.items()}


def _count_new_columns(columns: Iterable[str], have: Mapping[str, str]) -> int:
    """The number of columns that the table lacks."""
    return len(set(columns) - set(have.values()))


def _unpack_further(further: pl.Series | None) -> Packed:
    texts = [] if further is None else further.to_list()
    return {i: json.loads(text) for i, text in enumerate(texts) if text is not None}


def _pack_field(name: str, values: pl.Series, packed: Packed) -> None:
    """Add the values of a field to the fields without a column."""
    rows = values.is_not_null().arg_true().to_list()
    for row, value in zip(rows, values.drop_nulls().to_list(), strict=True):
        packed.setdefault(row, {})[name] = value


def _split_within_bounds(
    fields: Mapping[str, pl.Series],
    packed: Packed,
    named: Mapping[str, str],
    have: set[str],
    room: int,
    height: int,
) -> dict[str, pl.Series]:
    """The fields that have or get a column; all other fields are added to `packed`.

    named: the columns of all fields. have: the columns of the table, which may get `room` more.
    """
    widths = np.zeros(height, np.int64)
    for values in fields.values():
        widths += values.is_not_null().to_numpy()
    for row, texts in packed.items():
        widths[row] += len(texts)
    narrow = pl.Series(widths <= MOST)
    wanted = {named[name] for name, values in fields.items() if (values.is_not_null() & narrow).any()}
    wanted |= {named[name] for row, texts in packed.items() if narrow[row] for name in texts}
    columns = have | set(sorted(wanted - have)[: max(room, 0)])
    inside: dict[str, pl.Series] = {}
    found: dict[str, dict[int, str | None]] = {}
    for row in list(packed):
        for name in [name for name in packed[row] if named[name] in columns]:
            found.setdefault(name, {})[row] = packed[row].pop(name)
        if not packed[row]:
            del packed[row]
    for name, values in fields.items():
        if named[name] in columns:
            inside[name] = values
        else:
            _pack_field(name, values, packed)
    nothing = pl.Series([None], dtype=pl.String).new_from_index(0, height)
    for name, texts in found.items():
        inside[name] = replace_values(inside.get(name, nothing), list(texts), list(texts.values()))
    return inside


def _merge_fields(group: Mapping[str, pl.Series]) -> tuple[pl.Series, dict[str, pl.Series]]:
    """Merge fields that share a column; also returns, by field, the values that had no place there."""
    first, *others = sorted(group, reverse=True)
    merged = group[first]
    clashing: dict[str, pl.Series] = {}
    for name in others:
        there = merged.is_not_null()
        twice = there & group[name].is_not_null()
        if twice.any():
            clashing[name] = group[name].set(~twice, None)
        merged = merged.zip_with(there, group[name])
    return merged, clashing
