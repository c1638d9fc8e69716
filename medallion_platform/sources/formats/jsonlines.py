"""JSON lines: one object per line, each of its fields a column of text.

A string becomes its content, a number its text as it is written (`1.50`, an integer of any length), a nested
value its JSON text as it is written, and `null` becomes null. If a key occurs twice, the last value counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from json.decoder import JSONDecodeError, scanstring  # pyright: ignore
from typing import Any, cast

import numpy as np
import polars as pl

from medallion_platform.sources.formats.json_shapes import Path, Quotes, ShapeMatch, Shapes
from medallion_platform.sources.formats.records import LONGEST, TOO_LONG, LineParser, ParseResult
from medallion_platform.sources.formats.slices import Block, Bools, Ints, replace_values
from medallion_platform.sources.formats.text import TextFormat

NOT_JSON = "not JSON"
NOT_AN_OBJECT = "not an object"
LONE_SURROGATE = "half of a surrogate pair"

NO_NUMBER = "not JSON: it has no NaN and no Infinity"
TOO_DEEP = "nested too deeply"

MOST_NAMES = 2_000
"""Undeclared fields of a frame that have a column in it; the others are told beside
(`ParseResult.further`).
"""

MOST_CELLS = 16 * 2**20
"""Values and nulls of a frame's undeclared columns: records that each name other fields have fewer names."""

_LEAST_NAMES = 64


class _NoNumber(ValueError):
    """A word (`NaN`, `Infinity`) that Python writes for a number that JSON does not have."""


def _refuse_constant(word: str) -> str:
    raise _NoNumber(word)


_decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_refuse_constant)
scan = cast(Any, _decoder).scan_once
_SPACE = " \t\r\n"
_UNREADABLE = (StopIteration, JSONDecodeError, RecursionError, IndexError, _NoNumber)
_MARK = re.compile(r"""\"(?:[^"\\]|\\.)*+"|[\[\]{},:"]|[^\s\[\]{},:"]+""", re.DOTALL)
_CLOSES = {"[": "]", "{": "}"}


def unescape_string(text: str) -> str:
    """The value of a JSON string, given the text between its quotes."""
    value, _ = scanstring(text + '"', 0, True)
    return value


def strip_json_value(text: str) -> str | None:
    """A JSON value without surrounding space; None if `text` is not exactly one value."""
    try:
        start = _skip_space(text, 0)
        _, end = scan(text, start)
    except _UNREADABLE:
        return None
    return text[start:end] if _skip_space(text, end) == len(text) else None


def split_list(text: str) -> list[str] | None:
    """The text of each item of a JSON list; None if `text` is no list.

    An item may be invalid JSON (`NaN`, a line feed in a string): its quotes and brackets show where it ends.
    """
    for how in (scan, _scan_loosely):
        try:
            return _scan_items(text, how)
        except _UNREADABLE:
            continue
    return None


def split_object(text: str) -> dict[str, str | None] | None:
    """The fields of a JSON object, whose values may be invalid JSON; None if `text` is no object."""
    fields = parse_object(text)
    if isinstance(fields, str):
        try:
            fields = _scan_fields(text, _scan_loosely)
        except _UNREADABLE:
            return None
    return None if isinstance(fields, str) else fields


_Scan = Callable[[str, int], tuple[Any, int]]
"""Gives the value at a place of a text, and where it ends."""


def _scan_loosely(text: str, place: int) -> tuple[str | None, int]:
    """The text of a value that may be invalid JSON: the content of a string, a nested value unchanged.

    Raises:
        StopIteration: its brackets and quotes do not show where it ends.
    """
    end = _end_of_nested_value(text, place)
    value = text[place:end]
    if value.startswith('"'):
        with suppress(JSONDecodeError):  # an escape that there is none of: as it stands
            value, _ = scanstring(value, 1, False)
    return None if value == "null" and text[place] != '"' else value, end


def _end_of_nested_value(text: str, place: int) -> int:
    awaited: list[str] = []
    for found in _MARK.finditer(text, place):
        mark = found[0]
        if mark in _CLOSES:
            awaited.append(_CLOSES[mark])
        elif mark in "]}" and awaited:
            if awaited.pop() != mark:
                break
        elif mark == '"' or (mark in "]},:" and not awaited):
            break
        if not awaited:
            return found.end()
    raise StopIteration


def _scan_items(text: str, scan: _Scan) -> list[str] | None:
    place = _skip_space(text, 0)
    if text[place] != "[":
        return None
    items: list[str] = []
    place = _skip_space(text, place + 1)
    mark = text[place]
    while mark != "]":
        _, end = scan(text, place)
        items.append(text[place:end])
        place = _skip_space(text, end)
        mark = text[place]
        if mark == ",":
            place = _skip_space(text, place + 1)
        elif mark != "]":
            return None
    return items if _skip_space(text, place + 1) == len(text) else None


def parse_object(text: str) -> dict[str, str | None] | str:
    """The fields of a JSON object, or the reason why `text` is none."""
    try:
        return _scan_fields(text, scan)
    except _NoNumber:
        return NO_NUMBER
    except RecursionError:
        return TOO_DEEP
    except _UNREADABLE:
        return NOT_JSON if strip_json_value(text) is None else NOT_AN_OBJECT


def _scan_fields(text: str, scan: _Scan) -> dict[str, str | None] | str:
    place = _skip_space(text, 0)
    if text[place] != "{":
        raise StopIteration
    fields: dict[str, str | None] = {}
    halves = False
    place = _skip_space(text, place + 1)
    if text[place] == "}":
        place += 1
    else:
        while True:
            if text[place] != '"':
                raise StopIteration
            key, place = scanstring(text, place + 1, True)
            place = _skip_space(text, place)
            if text[place] != ":":
                raise StopIteration
            place = _skip_space(text, place + 1)
            value, end = scan(text, place)
            if value is not None and text[place] != '"':
                value = text[place:end]
            fields[key] = value
            halves = (
                halves or not _is_valid_unicode(key) or (value is not None and not _is_valid_unicode(value))
            )
            place = _skip_space(text, end)
            mark, place = text[place], place + 1
            if mark == "}":
                break
            if mark != ",":
                raise StopIteration
            place = _skip_space(text, place)
    if _skip_space(text, place) != len(text):
        raise StopIteration
    return LONE_SURROGATE if halves else fields


def _is_valid_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _skip_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in _SPACE:
        place += 1
    return place


@dataclass(frozen=True)
class JsonLines(TextFormat, kind="jsonlines"):
    """One JSON object per line. Every field becomes a text column, nested ones as JSON.

    Example:
        >>> from medallion_platform import JsonLines
        >>> JsonLines().suffixes
        ('.jsonl', '.ndjson', '.json')
    """

    encoding: str = "utf-8"
    """The encoding of the text; a byte order mark in a file takes precedence."""

    suffixes = (".jsonl", ".ndjson", ".json")
    of_messages = True

    def parser(self, declared: Collection[str] = (), columns: Sequence[str] | None = None) -> JsonLinesParser:
        """A parser of one file."""
        return JsonLinesParser(declared)


class JsonLinesParser(LineParser):
    """Finds and parses the records of one file. declared: fields that always have a column."""

    def __init__(self, declared: Collection[str] = ()) -> None:
        self.shapes = Shapes(scan)
        self.declared = frozenset(declared)

    def parse(self, block: Block, starts: Ints, ends: Ints) -> ParseResult:
        """The fields of records."""
        columns = Columns(block, len(starts), self.declared)
        quotes = Quotes(block)
        plain = np.flatnonzero(has_scannable_shape(block, starts, ends))
        for found in self.shapes.matched(block, quotes, starts, ends, plain):
            columns.add(found, quotes, ())
        for row in columns.left():
            start, end = int(starts[row]), int(ends[row])
            too_long = end - start >= LONGEST
            fields = TOO_LONG if too_long else parse_object(block.get(start, end).decode())
            columns.put(row, fields)
        return columns.parsed()


def has_scannable_shape(block: Block, starts: Ints, ends: Ints) -> Bools:
    """Which records may have a shape: those that are not too long and have no control character."""
    fine = ends - starts < LONGEST
    control = block.bytes[: block.size] < 32
    # mostly there are no more than the line ends behind the records
    if np.count_nonzero(control) > np.count_nonzero(block.bytes[ends] == 10):
        controls = np.flatnonzero(control)
        fine &= np.searchsorted(controls, starts) == np.searchsorted(controls, ends)
    return fine


class Columns:
    """Builds text columns from records with and without a shape.

    declared: fields that always have a column; other fields get one as long as the frame stays within bounds.
    """

    def __init__(self, block: Block, count: int, declared: frozenset[str] = frozenset()) -> None:
        self.block = block
        self.count = count
        self.declared = declared
        self.room = max(_LEAST_NAMES, min(MOST_NAMES, MOST_CELLS // max(count, 1)))
        self.names: set[str] = set()
        self.further: dict[int, dict[str, str | None]] = {}
        self.places: dict[str, tuple[Ints, Ints]] = {}
        self.patches: dict[str, dict[int, str | None]] = {}
        self.malformed: dict[int, str] = {}
        self.done = np.zeros(count, np.bool_)

    def left(self) -> list[int]:
        """The records that were not added yet."""
        return np.flatnonzero(~self.done).tolist()

    def add(self, found: ShapeMatch, quotes: Quotes, path: Path) -> None:
        """Add the fields of the object at `path` of records with a shape.

        If there is no room for new columns, these records must be added one by one.
        """
        rows = found.rows
        keys = found.shape.children[path]
        if len(keys) > self.room - len(self.names) and not all(map(self._has_column, keys)):
            return
        self.names.update(keys)
        self.done[rows] = True
        for key in keys:
            start, end, is_text, is_null = found.value((*path, key))
            length = end - start
            if is_null is not None:
                length[is_null] = -1
            if is_text is not None and len(quotes.backslashes):
                self._unescape(key, rows, start, end, is_text, quotes)
            self._column(key, rows, start, length)

    def _has_column(self, name: str) -> bool:
        """Whether a field has a column; creates it if there is room."""
        if name in self.names:
            return True
        if name not in self.declared and len(self.names) >= self.room:
            return False
        self.names.add(name)
        return True

    def _column(self, name: str, rows: Ints, start: Ints, length: Ints) -> None:
        """Add one field of `rows`; null where the length is negative."""
        if len(rows) == self.count:
            self.places[name] = (start, length)
            return
        if name not in self.places:
            self.places[name] = (np.zeros(self.count, np.int64), np.full(self.count, -1, np.int64))
        starts, lengths = self.places[name]
        starts[rows], lengths[rows] = start, length

    def _unescape(
        self, name: str, rows: Ints, start: Ints, end: Ints, is_text: Bools, quotes: Quotes
    ) -> None:
        for i in np.flatnonzero(is_text & quotes.escapes(start, end)).tolist():
            value = unescape_string(self.block.get(int(start[i]), int(end[i])).decode())
            self.patches.setdefault(name, {})[int(rows[i])] = value

    def put(self, row: int, fields: Mapping[str, str | None] | str) -> None:
        """Add a record without a shape, or the reason why it is malformed."""
        self.done[row] = True
        if isinstance(fields, str):
            self.malformed[row] = fields
            return
        for name, value in fields.items():
            if self._has_column(name):
                self.patches.setdefault(name, {})[row] = value
            else:
                self.further.setdefault(row, {})[name] = value

    def parsed(self) -> ParseResult:
        """The added records."""
        bad = list(self.malformed)
        columns: dict[str, pl.Series] = {}
        for name, (starts, lengths) in self.places.items():
            if bad:
                lengths = lengths.copy()
                lengths[bad] = -1
            valid = lengths >= 0
            if not valid.all():
                starts, lengths = np.where(valid, starts, 0), np.where(valid, lengths, 0)
            columns[name] = self.block.texts(starts, lengths, valid)
        for name, patches in self.patches.items():
            if name not in columns:
                columns[name] = pl.Series([None], dtype=pl.String).new_from_index(0, self.count)
            rows = [row for row in patches if row not in self.malformed]
            columns[name] = replace_values(columns[name], rows, [patches[row] for row in rows])
        return ParseResult(columns, self.malformed, self.further)
