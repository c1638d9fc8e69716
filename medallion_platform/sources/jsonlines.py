"""JSON lines: one object a line, each of its fields a column of text.

A string is its content, a number its text as it was written (`1.50`, an integer of any length), a
nested value its JSON text as it was written, and `null` is null. Of a key that comes twice the last
value counts.
"""

from __future__ import annotations

import json
from json.decoder import JSONDecodeError, scanstring  # pyright: ignore
from typing import Any, cast

import numpy as np
import polars as pl

from medallion_platform.sources.records import LONGEST, TOO_LONG, Parsed, lines
from medallion_platform.sources.slices import Block, Ints

NOT_JSON = "not JSON"
NOT_AN_OBJECT = "not an object"
LONE_SURROGATE = "half of a surrogate pair"

_decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
_scan = cast(Any, _decoder).scan_once
_SPACE = " \t\r\n"


def whole(text: str) -> str | None:
    """The JSON value that `text` is, without space around; None if it is not one."""
    try:
        start = _after_space(text, 0)
        _, end = _scan(text, start)
    except (StopIteration, JSONDecodeError, RecursionError):
        return None
    return text[start:end] if _after_space(text, end) == len(text) else None


def fields_of(text: str) -> dict[str, str | None] | str:
    """The fields of the object that `text` is, or why it is none."""
    try:
        return _fields(text)
    except (StopIteration, JSONDecodeError, RecursionError, IndexError):
        return NOT_JSON if whole(text) is None else NOT_AN_OBJECT


def _fields(text: str) -> dict[str, str | None] | str:
    place = _after_space(text, 0)
    if text[place] != "{":
        raise StopIteration
    fields: dict[str, str | None] = {}
    halves = False
    place = _after_space(text, place + 1)
    if text[place] == "}":
        place += 1
    else:
        while True:
            if text[place] != '"':
                raise StopIteration
            key, place = scanstring(text, place + 1, True)
            place = _after_space(text, place)
            if text[place] != ":":
                raise StopIteration
            place = _after_space(text, place + 1)
            value, end = _scan(text, place)
            if value is not None and text[place] != '"':
                value = text[place:end]
            fields[key] = value
            halves = halves or not _encodes(key) or (value is not None and not _encodes(value))
            place = _after_space(text, end)
            mark, place = text[place], place + 1
            if mark == "}":
                break
            if mark != ",":
                raise StopIteration
            place = _after_space(text, place)
    if _after_space(text, place) != len(text):
        raise StopIteration
    return LONE_SURROGATE if halves else fields


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _after_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in _SPACE:
        place += 1
    return place


class JsonLinesParser:
    """Finds and takes apart the records of one file."""

    def begin(self, block: Block, final: bool) -> int | None:
        """Nothing stands before the first record."""
        return 0

    def split(self, block: Block, start: int, final: bool) -> tuple[Ints, Ints, int]:
        """The whole lines from `start` on that are not blank."""
        starts, ends, after = lines(block, start, final)
        kept = ends > starts
        # a line that begins with space is looked at closely
        for i in np.flatnonzero(kept & (block.bytes[starts] <= 32)).tolist():
            kept[i] = bool(block.get(int(starts[i]), int(ends[i])).strip(b" \t\r\n"))
        return (starts, ends, after) if kept.all() else (starts[kept], ends[kept], after)

    def parse(self, block: Block, starts: Ints, ends: Ints) -> Parsed:
        """The fields of records."""
        malformed: dict[int, str] = {}
        rows: list[dict[str, str | None]] = []
        names: dict[str, None] = {}
        for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            too_long = end - start >= LONGEST
            fields = TOO_LONG if too_long else fields_of(block.get(start, end).decode())
            if isinstance(fields, str):
                malformed[i] = fields
                fields = {}
            rows.append(fields)
            names.update(dict.fromkeys(fields))
        return Parsed(
            {n: pl.Series(n, [r.get(n) for r in rows], pl.String) for n in names}, malformed
        )
