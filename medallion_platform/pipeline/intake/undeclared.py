"""Fields that the contract does not declare: they become text columns, up to a limit.

A table makes columns for up to 500 undeclared fields, and none for a record that has more than 500. The rest
goes into one column, `_further`: a JSON object from field name to the text that its column would have.
Existing columns of a table are always used, however many there are.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import polars as pl

from medallion_platform.pipeline.intake.names import column_of, folded, own_name
from medallion_platform.sources.formats.records import FURTHER
from medallion_platform.sources.formats.slices import patched

MOST = 500
"""Undeclared columns that a table gets, and undeclared fields of a record that get columns."""

NOTE = (
    f"{{}} records have undeclared fields beyond the {MOST} columns that are made of such: they are in the "
    f"column {FURTHER}, as JSON; declare those that count"
)

Packed = dict[int, dict[str, str | None]]
"""Fields without a column, by the place of their row."""


def undeclared(
    fields: Mapping[str, pl.Series],
    further: pl.Series | None,
    wanted: Collection[str],
    known: Collection[str],
) -> dict[str, pl.Series]:
    """The columns of undeclared fields, each in the table's spelling, and `_further` where it is needed.

    fields: columns of text by the names of their fields. further: of some rows more of them, as
    `records.FURTHER` tells. wanted: the columns that are not theirs. known: those of the table.
    """
    taken = {folded(name) for name in wanted}
    have = undeclared_of(known, wanted)
    # A method of polars takes some names for patterns.
    fields = {name: values.alias("text") for name, values in fields.items()}
    named = _columns_of(fields, taken, have, known)
    room = MOST - len(have)
    height = max(map(len, (further if further is not None else (), *fields.values())))
    packed: Packed = {}
    if further is not None or len(fields) > MOST or _new(named.values(), have) > room:
        packed = _unpacked(further)
        names = {*named, *(name for texts in packed.values() for name in texts)}
        named = _columns_of(names, taken, have, known)
        fields = _within_bounds(fields, packed, named, set(have.values()), room, height)
    room -= _new((named[name] for name in fields), have)
    groups: dict[str, dict[str, pl.Series]] = {}
    for name, values in fields.items():
        groups.setdefault(named[name], {})[name] = values
    columns: dict[str, pl.Series] = {}
    for column, group in groups.items():
        merged, clashing = _merged(group)
        columns[column] = merged.alias(column)
        for name, values in clashing.items():
            own = own_name(name)
            if own in known or room > 0:
                columns[own] = values.alias(own)
                room -= own not in known
            else:
                _pack(name, values, packed)
    if packed:
        texts = [json.dumps(packed[i], ensure_ascii=False) if i in packed else None for i in range(height)]
        columns[FURTHER] = pl.Series(FURTHER, texts, pl.String)
    return columns


def undeclared_of(known: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """The columns of a table that were made of undeclared fields, by their `folded` names."""
    taken = {folded(name) for name in wanted}
    return {folded(c): c for c in known if not c.startswith("_") and folded(c) not in taken}


def count_further(rows: pl.DataFrame) -> int:
    """Bronze rows some of whose undeclared fields have no column of their own."""
    return rows.height - rows[FURTHER].null_count() if FURTHER in rows.columns else 0


def notes(further: int) -> list[str]:
    """What is told of them."""
    return [NOTE.format(further)] if further else []


def _columns_of(
    fields: Iterable[str], taken: Collection[str], have: Mapping[str, str], known: Collection[str]
) -> dict[str, str]:
    """The column of each field; of those that differ by case only, in one spelling."""
    spelled = dict(have)
    columns = {field: column_of(field, taken, known) for field in sorted(fields, reverse=True)}
    return {field: spelled.setdefault(folded(column), column) for field, column in columns.items()}


def _new(columns: Iterable[str], have: Mapping[str, str]) -> int:
    """How many columns the table has not."""
    return len(set(columns) - set(have.values()))


def _unpacked(further: pl.Series | None) -> Packed:
    texts = [] if further is None else further.to_list()
    return {i: json.loads(text) for i, text in enumerate(texts) if text is not None}


def _pack(name: str, values: pl.Series, packed: Packed) -> None:
    """Put the values of a field among those without a column."""
    rows = values.is_not_null().arg_true().to_list()
    for row, value in zip(rows, values.drop_nulls().to_list(), strict=True):
        packed.setdefault(row, {})[name] = value


def _within_bounds(
    fields: Mapping[str, pl.Series],
    packed: Packed,
    named: Mapping[str, str],
    have: set[str],
    room: int,
    height: int,
) -> dict[str, pl.Series]:
    """The fields that have columns, or get them; `packed` has all others afterwards.

    named: the columns of all fields. have: those of the table, which may get `room` more.
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
    kept: dict[str, pl.Series] = {}
    found: dict[str, dict[int, str | None]] = {}
    for row in list(packed):
        for name in [name for name in packed[row] if named[name] in columns]:
            found.setdefault(name, {})[row] = packed[row].pop(name)
        if not packed[row]:
            del packed[row]
    for name, values in fields.items():
        if named[name] in columns:
            kept[name] = values
        else:
            _pack(name, values, packed)
    nothing = pl.Series([None], dtype=pl.String).new_from_index(0, height)
    for name, texts in found.items():
        kept[name] = patched(kept.get(name, nothing), list(texts), list(texts.values()))
    return kept


def _merged(group: Mapping[str, pl.Series]) -> tuple[pl.Series, dict[str, pl.Series]]:
    """Fields of one column as one; and of each, where one before it has the place, its values."""
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
