"""Change events taken apart: what happened, where and when, and the row as it is then."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, cast

import numpy as np
import polars as pl

from medallion_platform.sources.formats.debezium.places import PLACES, changed_at, position, snapshot
from medallion_platform.sources.formats.debezium.values import (
    UNTOLD,
    Convert,
    as_untold,
    conversions,
    of_document,
    with_untold,
)
from medallion_platform.sources.formats.jsonlines import (
    NOT_AN_OBJECT,
    Columns,
    fields_of,
    scan,
    scannable,
    unescaped,
)
from medallion_platform.sources.formats.records import LONGEST, TOO_LONG, LineParser, ParseResult, lines
from medallion_platform.sources.formats.shapes import Nesting, Path, Quotes, ShapeMatch, Shapes
from medallion_platform.sources.formats.slices import Block, Ints

RESERVED = ("_op", "_sequence", "_changed_at", "_snapshot")
TOMBSTONE = "tombstone"
OPERATIONS = ("c", "r", "u", "d", "t", "m")


NOT_AN_EVENT = "not a change event"
NO_ROW = "a change event without its row"
NO_SOURCE = "a change event without its source"

NO_DOCUMENT = "an update without its document: set capture.mode=change_streams_update_full"
REFUSED = ("cassandra", "spanner")
"""Connectors whose events do not say what a row is after a change: they name single cells."""


class DebeziumParser(LineParser):
    """Finds and takes apart the change events of one file."""

    def __init__(self, declared: Collection[str] = (), placeholder: str = UNTOLD) -> None:
        self.declared = frozenset(declared)
        self.placeholder = placeholder
        self.shapes = Shapes(scan)
        self.schemas: dict[str, dict[str, Convert]] = {}
        self.prefixes: dict[bytes, str] = {}

    def split(self, block: Block, start: int, final: bool) -> tuple[Ints, Ints, int]:
        """The whole lines from `start` on; a blank one is a record without value: a tombstone."""
        return lines(block, start, final)

    def parse(self, block: Block, starts: Ints, ends: Ints) -> ParseResult:
        """The fields of change events."""
        events = _Events(block, len(starts), self.declared)
        quotes = Quotes(block)
        plain = scannable(block, starts, ends)
        inner_starts, inner_ends = starts.copy(), ends.copy()
        self._unwrap(block, inner_starts, inner_ends, plain, events)
        rows = np.flatnonzero(plain)
        for found in self.shapes.matched(block, quotes, inner_starts, inner_ends, rows):
            events.add_events(found, quotes)
        for row in events.left():
            start, end = int(starts[row]), int(ends[row])
            if end - start >= LONGEST:
                events.put(row, TOO_LONG)
            else:
                self._one(block.get(start, end).decode(), row, events)
        parsed = events.finished()
        columns = {name: as_untold(column, self.placeholder) for name, column in parsed.columns.items()}
        further = {row: with_untold(fields, self.placeholder) for row, fields in parsed.further.items()}
        return replace(parsed, columns=columns, further=further)

    def _unwrap(self, block: Block, starts: Ints, ends: Ints, plain: Any, events: _Events) -> None:
        """Leave out the schema around events, where it is the same text for many."""
        wrapped = plain & block.literal_at(starts, b'{"schema"')
        tried = 0
        while wrapped.any() and tried < 8:
            tried += 1
            first = int(np.flatnonzero(wrapped)[0])
            record = block.get(int(starts[first]), int(ends[first]))
            prefix = next((p for p in self.prefixes if record.startswith(p)), None)
            if prefix is None:
                prefix = self._prefix(record)
            if prefix is None:
                wrapped[first] = plain[first] = False
                continue
            rows = np.flatnonzero(wrapped)
            texts = block.texts(starts[rows], ends[rows] - starts[rows], binary=True)
            same = rows[texts.bin.starts_with(prefix).to_numpy()]
            wrapped[same] = False
            closed = block.bytes[ends[same] - 1] == 0x7D
            plain[same[~closed]] = False
            same = same[closed]
            starts[same] += len(prefix)
            ends[same] -= 1
            events.converts(same, self._conversions(self.prefixes[prefix]))
        plain[wrapped] = False

    def _prefix(self, record: bytes) -> bytes | None:
        """The text of a record up to its payload, where that comes right behind the schema."""
        text = record.decode("latin-1")
        try:
            begin = len('{"schema"')
            begin += len(text) - begin - len(text[begin:].lstrip(" \t:"))
            _, end = scan(text, begin)
            behind = end + len(text[end:]) - len(text[end:].lstrip(" \t,"))
            if not text.startswith('"payload"', behind):
                return None
            behind += len('"payload"')
            behind += len(text) - behind - len(text[behind:].lstrip(" \t:"))
        except (StopIteration, ValueError, RecursionError):
            return None
        fields = fields_of(record.decode())
        if isinstance(fields, str) or list(fields) != ["schema", "payload"]:
            return None
        self.prefixes[record[:behind]] = fields["schema"] or "null"
        return record[:behind]

    def _conversions(self, schema: str) -> dict[str, Convert]:
        if schema not in self.schemas:
            self.schemas[schema] = conversions(schema)
        return self.schemas[schema]

    def _one(self, text: str, row: int, events: _Events) -> None:
        """One record, by the scanner."""
        if not text.strip(" \t\r\n") or text.strip(" \t\r\n") == "null":
            events.meta(row, TOMBSTONE, None, None, None)
            events.put(row, {})
            return
        envelope = fields_of(text)
        if isinstance(envelope, str):
            events.put(row, envelope)
            return
        if "payload" in envelope and "op" not in envelope:
            inner = envelope["payload"]
            if inner is None:
                events.meta(row, TOMBSTONE, None, None, None)
                events.put(row, {})
                return
            payload = fields_of(inner)
            if isinstance(payload, str):
                events.put(row, f"payload is {payload}")
                return
            if envelope.get("schema"):
                chosen = self._conversions(envelope["schema"] or "")
                events.converts(np.array([row]), chosen)
            envelope = payload
        op = envelope.get("op")
        source = fields_of(envelope.get("source") or "null")
        connector = None if isinstance(source, str) else source.get("connector")
        if op and connector in REFUSED:
            events.put(row, f"events of the {connector} connector are not supported")
            return
        if op not in OPERATIONS:
            events.put(row, NOT_AN_EVENT)
            return
        if isinstance(source, str):
            events.put(row, NO_SOURCE)
            return
        fields: dict[str, str | None] | str = {}
        if op not in ("t", "m"):
            image = envelope.get("before" if op == "d" else "after")
            fields = NO_ROW if image is None else fields_of(image)
            if isinstance(fields, str):
                why = NO_ROW if fields in (NO_ROW, NOT_AN_OBJECT) else f"its row is {fields}"
                if image is None and connector == "mongodb" and op == "u":
                    why = NO_DOCUMENT
                events.put(row, why)
                return
            if connector == "mongodb":
                fields = of_document(fields)
        events.meta(
            row,
            op,
            position(source, op, envelope.get("ts_ms")),
            changed_at(source, envelope.get("ts_ms")),
            "true" if snapshot(source, op) else "false",
        )
        events.put(row, fields)


class _Events(Columns):
    """Change events in the making."""

    def __init__(self, block: Block, count: int, declared: frozenset[str]) -> None:
        super().__init__(block, count, declared)
        self.facts: dict[str, list[str | None]] = {name: [None] * count for name in RESERVED}
        self.conversions: list[dict[str, Convert]] = []
        self.converted = np.full(count, -1, np.int64)

    def converts(self, rows: Ints, conversions: dict[str, Convert]) -> None:
        """Have the values of `rows` converted, by these and no others."""
        self.converted[rows] = len(self.conversions)
        self.conversions.append(conversions)

    def meta(self, row: int, op: str, sequence: str | None, at: str | None, snapshot: str | None) -> None:
        """What happened, where, when and how it was seen."""
        ops, sequences, times, snapshots = self.facts.values()
        ops[row], sequences[row], times[row], snapshots[row] = op, sequence, at, snapshot

    def add_events(self, found: ShapeMatch, quotes: Quotes) -> None:
        """Put in those records of one shape that are plain changes of a row."""
        nodes, children = found.shape.nodes, found.shape.children
        image = next((k for k in ("after", "before") if isinstance(nodes.get((k,)), Nesting)), None)
        if (
            image is None
            or (image,) not in children
            or ("source",) not in children
            or not isinstance(nodes.get(("op",)), int)
            or ("payload" in children[()] and "op" not in children[()])
            or (image == "before" and isinstance(nodes.get(("after",)), Nesting))
        ):
            return
        start, end, is_text, _ = found.value(("op",))
        letter = self.block.bytes[start]
        fits = (end - start == 1) & cast(Any, is_text)
        fits &= (letter == ord("d")) if image == "before" else np.isin(letter, [99, 114, 117])
        found = found.only(fits)
        if not len(found.rows):
            return
        ops = self._values(found, ("op",), quotes)
        event_ms = self._values(found, ("ts_ms",), quotes)
        names = [name for name in PLACES if name in children[("source",)]]
        values = [self._values(found, ("source", name), quotes) for name in names]
        nothing: list[tuple[str | None, ...]] = [()] * len(found.rows)
        if "connector" in names and not {*REFUSED, "mongodb"}.isdisjoint(values[names.index("connector")]):
            return  # one by one
        for row, op, at, facts in zip(
            found.rows.tolist(),
            ops,
            event_ms,
            zip(*values, strict=True) if values else nothing,
            strict=True,
        ):
            source = dict(zip(names, facts, strict=True))
            op = op or ""
            seen = "true" if snapshot(source, op) else "false"
            self.meta(row, op, position(source, op, at), changed_at(source, at), seen)
        self.add(found, quotes, (image,))

    def _values(self, found: ShapeMatch, path: Path, quotes: Quotes) -> list[str | None]:
        if path not in found.shape.nodes:
            return [None] * len(found.rows)
        start, end, _, is_null = found.value(path)
        values: list[str | None] = self.block.texts(start, end - start).to_list()
        if len(quotes.backslashes) and quotes.escapes(start, end).any():
            values = [unescaped(v) if v and "\\" in v else v for v in values]
        if is_null is not None and is_null.any():
            values = [None if null else v for v, null in zip(values, is_null.tolist(), strict=True)]
        return values

    def finished(self) -> ParseResult:
        """The events, values converted."""
        parsed = self.parsed()
        for i, chosen in enumerate(self.conversions):
            rows = np.flatnonzero(self.converted == i)
            for name, convert in chosen.items():
                if name in parsed.columns:
                    parsed.columns[name] = _converted(parsed.columns[name], rows, convert)
        for row in parsed.malformed:
            self.meta(row, *cast(Any, [None] * 4))
        facts = {name: pl.Series(name, v, pl.String) for name, v in self.facts.items()}
        return replace(parsed, facts=facts)


def _converted(column: pl.Series, rows: Ints, convert: Convert) -> pl.Series:
    """The column with the values at `rows` converted; one that cannot be stays as it is."""
    old = column.gather(rows)
    values: dict[str, str] = {}
    for value in cast("list[str]", old.drop_nulls().unique().to_list()):
        try:
            values[value] = convert(value)
        except (ValueError, OverflowError, ArithmeticError, KeyError, TypeError, RecursionError):
            values[value] = value
    if not values:
        return column
    new = old.replace_strict(list(values), list(values.values()), return_dtype=pl.String)
    places = np.arange(len(column), dtype=np.int64)
    places[rows] = np.arange(len(column), len(column) + len(rows))
    return pl.concat([column, new]).gather(places)
