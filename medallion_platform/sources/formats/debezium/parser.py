"""Parses change events: what happened, where and when, and the row after the change."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, cast

import numpy as np
import polars as pl

from medallion_platform.sources.formats.debezium.operations import OPERATIONS
from medallion_platform.sources.formats.debezium.source_position import (
    PLACES,
    changed_at,
    is_snapshot,
    source_position,
)
from medallion_platform.sources.formats.debezium.values import (
    UNTOLD,
    Convert,
    column_conversions,
    document_fields,
    mark_placeholders,
    mark_placeholders_in_record,
)
from medallion_platform.sources.formats.json_shapes import Nesting, Path, Quotes, ShapeMatch, Shapes
from medallion_platform.sources.formats.jsonlines import (
    NOT_AN_OBJECT,
    Columns,
    has_scannable_shape,
    parse_object,
    scan,
    unescape_string,
)
from medallion_platform.sources.formats.records import LONGEST, TOO_LONG, LineParser, ParseResult, split_lines
from medallion_platform.sources.formats.slices import Block, Ints

RESERVED = ("_op", "_sequence", "_changed_at", "_snapshot")
TOMBSTONE = "tombstone"


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
        """The complete lines from `start` on; a blank line is a record without a value (a tombstone)."""
        return split_lines(block, start, final)

    def parse(self, block: Block, starts: Ints, ends: Ints) -> ParseResult:
        """The fields of change events."""
        events = _Events(block, len(starts), self.declared)
        quotes = Quotes(block)
        plain = has_scannable_shape(block, starts, ends)
        inner_starts, inner_ends = starts.copy(), ends.copy()
        self._unwrap_envelopes(block, inner_starts, inner_ends, plain, events)
        rows = np.flatnonzero(plain)
        for found in self.shapes.matched(block, quotes, inner_starts, inner_ends, rows):
            events.add_events(found, quotes)
        for row in events.left():
            start, end = int(starts[row]), int(ends[row])
            if end - start >= LONGEST:
                events.put(row, TOO_LONG)
            else:
                self._parse_one_record(block.get(start, end).decode(), row, events)
        parsed = events.finished()
        columns = {
            name: mark_placeholders(column, self.placeholder) for name, column in parsed.columns.items()
        }
        further = {
            row: mark_placeholders_in_record(fields, self.placeholder)
            for row, fields in parsed.further.items()
        }
        return replace(parsed, columns=columns, further=further)

    def _unwrap_envelopes(self, block: Block, starts: Ints, ends: Ints, plain: Any, events: _Events) -> None:
        """Skip the schema around events, if many events have the same one."""
        wrapped = plain & block.literal_at(starts, b'{"schema"')
        tried = 0
        while wrapped.any() and tried < 8:
            tried += 1
            first = int(np.flatnonzero(wrapped)[0])
            record = block.get(int(starts[first]), int(ends[first]))
            prefix = next((p for p in self.prefixes if record.startswith(p)), None)
            if prefix is None:
                prefix = self._schema_prefix(record)
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

    def _schema_prefix(self, record: bytes) -> bytes | None:
        """The text of a record up to its payload, if the payload follows the schema directly."""
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
        fields = parse_object(record.decode())
        if isinstance(fields, str) or list(fields) != ["schema", "payload"]:
            return None
        self.prefixes[record[:behind]] = fields["schema"] or "null"
        return record[:behind]

    def _conversions(self, schema: str) -> dict[str, Convert]:
        if schema not in self.schemas:
            self.schemas[schema] = column_conversions(schema)
        return self.schemas[schema]

    def _parse_one_record(self, text: str, row: int, events: _Events) -> None:
        """Parse one record with the JSON scanner."""
        try:
            envelope = self._read_envelope(text, row, events)
            if envelope is None:
                events.meta(row, TOMBSTONE, None, None, None)
                events.put(row, {})
                return
            op, source, fields = _read_change(envelope)
        except _NoChange as error:
            events.put(row, error.reason)
            return
        at = envelope.get("ts_ms")
        snapshot = "true" if is_snapshot(source, op) else "false"
        events.meta(row, op, source_position(source, op, at), changed_at(source, at), snapshot)
        events.put(row, fields)

    def _read_envelope(self, text: str, row: int, events: _Events) -> _Fields | None:
        """The fields of an event, without the schema around it; None of a tombstone.

        Raises:
            _NoChange: it is no object.
        """
        if text.strip(" \t\r\n") in ("", "null"):
            return None
        envelope = _read_object(text)
        if "payload" not in envelope or "op" in envelope:
            return envelope
        if envelope["payload"] is None:
            return None
        payload = _read_object(envelope["payload"], "payload is ")
        if schema := envelope.get("schema"):
            events.converts(np.array([row]), self._conversions(schema))
        return payload


_Fields = dict[str, str | None]


class _NoChange(Exception):
    """A record is no change event, or one that cannot be taken in."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _read_object(text: str, what: str = "") -> _Fields:
    fields = parse_object(text)
    if isinstance(fields, str):
        raise _NoChange(f"{what}{fields}")
    return fields


def _read_change(event: _Fields) -> tuple[str, _Fields, _Fields]:
    """The operation of an event, where it comes from, and the row that it is about."""
    op = event.get("op")
    source = parse_object(event.get("source") or "null")
    connector = None if isinstance(source, str) else source.get("connector")
    if op and connector in REFUSED:
        raise _NoChange(f"events of the {connector} connector are not supported")
    if op not in OPERATIONS:
        raise _NoChange(NOT_AN_EVENT)
    if isinstance(source, str):
        raise _NoChange(NO_SOURCE)
    return op, source, {} if op in ("t", "m") else _read_row(event, op, connector)


def _read_row(event: _Fields, op: str, connector: str | None) -> _Fields:
    """The row after a change, of a delete the one before."""
    image = event.get("before" if op == "d" else "after")
    if image is None:
        raise _NoChange(NO_DOCUMENT if connector == "mongodb" and op == "u" else NO_ROW)
    fields = parse_object(image)
    if isinstance(fields, str):
        raise _NoChange(NO_ROW if fields == NOT_AN_OBJECT else f"its row is {fields}")
    return document_fields(fields) if connector == "mongodb" else fields


class _Events(Columns):
    """Collects change events."""

    def __init__(self, block: Block, count: int, declared: frozenset[str]) -> None:
        super().__init__(block, count, declared)
        self.facts: dict[str, list[str | None]] = {name: [None] * count for name in RESERVED}
        self.conversions: list[dict[str, Convert]] = []
        self.converted = np.full(count, -1, np.int64)

    def converts(self, rows: Ints, conversions: dict[str, Convert]) -> None:
        """Use exactly these conversions for the values of `rows`."""
        self.converted[rows] = len(self.conversions)
        self.conversions.append(conversions)

    def meta(self, row: int, op: str, sequence: str | None, at: str | None, snapshot: str | None) -> None:
        """Set the operation, position, time and snapshot flag of an event."""
        ops, sequences, times, snapshots = self.facts.values()
        ops[row], sequences[row], times[row], snapshots[row] = op, sequence, at, snapshot

    def add_events(self, found: ShapeMatch, quotes: Quotes) -> None:
        """Add the records of one shape that are plain changes of a row."""
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
            seen = "true" if is_snapshot(source, op) else "false"
            self.meta(row, op, source_position(source, op, at), changed_at(source, at), seen)
        self.add(found, quotes, (image,))

    def _values(self, found: ShapeMatch, path: Path, quotes: Quotes) -> list[str | None]:
        if path not in found.shape.nodes:
            return [None] * len(found.rows)
        start, end, _, is_null = found.value(path)
        values: list[str | None] = self.block.texts(start, end - start).to_list()
        if len(quotes.backslashes) and quotes.escapes(start, end).any():
            values = [unescape_string(v) if v and "\\" in v else v for v in values]
        if is_null is not None and is_null.any():
            values = [None if null else v for v, null in zip(values, is_null.tolist(), strict=True)]
        return values

    def finished(self) -> ParseResult:
        """The events with converted values."""
        parsed = self.parsed()
        for i, chosen in enumerate(self.conversions):
            rows = np.flatnonzero(self.converted == i)
            for name, convert in chosen.items():
                if name in parsed.columns:
                    parsed.columns[name] = _convert_values(parsed.columns[name], rows, convert)
        for row in parsed.malformed:
            self.meta(row, *cast(Any, [None] * 4))
        facts = {name: pl.Series(name, v, pl.String) for name, v in self.facts.items()}
        return replace(parsed, facts=facts)


def _convert_values(column: pl.Series, rows: Ints, convert: Convert) -> pl.Series:
    """The column with the values at `rows` converted; a value that cannot be converted is unchanged."""
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
