"""Debezium change events as JSON lines, with or without the schema around them.

A record gives what happened (`_op`: the letter Debezium writes, or `tombstone`), where in the
source's order (`_sequence`), when (`_changed_at`), whether it was read by a snapshot (`_snapshot`),
and the fields of the row as it is then (of a deleted row: as it was).

`_sequence` sorts as text in the order of the source, for events of one log of one source: by the
position in its log, and at the same position what a snapshot read before what was streamed, since a
snapshot reads what was committed up to there. Behind a `~` it names the transaction (of MySQL and
MariaDB, where they have GTIDs), by which one that another server tells again is known. One that ends
with `OPEN` is of an event that does not say where it stood: its place in its topic or file decides.

Positions of two logs say nothing of each other, and nothing in an event says that the log began anew
(another server after a failover, a database restored): that shows only beside the other events of a
row, so `transforms/history.py` looks for it.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import date, timedelta
from functools import lru_cache
from hashlib import md5
from typing import Any, cast
from uuid import UUID

import numpy as np
import polars as pl

from medallion_platform.sources.formats.avro import decimal, moment
from medallion_platform.sources.formats.jsonlines import (
    NOT_AN_OBJECT,
    Columns,
    fields_of,
    scan,
    scannable,
    unescaped,
)
from medallion_platform.sources.formats.records import LONGEST, TOO_LONG, ParseResult, lines
from medallion_platform.sources.formats.shapes import Nesting, Path, Quotes, ShapeMatch, Shapes
from medallion_platform.sources.formats.slices import Block, Ints

RESERVED = ("_op", "_sequence", "_changed_at", "_snapshot")
TOMBSTONE = "tombstone"
OPERATIONS = ("c", "r", "u", "d", "t", "m")

UNTOLD = "__debezium_unavailable_value"
"""What stands for a value that an update left alone, in whichever way the connector spelled that."""

NOT_AN_EVENT = "not a change event"
NO_ROW = "a change event without its row"
NO_SOURCE = "a change event without its source"

NO_DOCUMENT = "an update without its document: set capture.mode=change_streams_update_full"
REFUSED = ("cassandra", "spanner")
"""Connectors whose events do not say what a row is after a change: they name single cells."""

_PLACES = (
    *("connector", "snapshot", "ts_ms", "ts_us", "ts_ns", "lsn", "sequence", "file", "pos", "row", "gtid"),
    *("commit_lsn", "change_lsn", "event_serial_no", "scn", "commit_scn", "rs_id", "ssn", "ord"),
)
"""The fields of an event's source that say where and when."""

Source = Mapping[str, str | None]
Convert = Callable[[str], str]


OPEN = "+"
"""Ends a position to which the place in topic or file belongs."""
TRANSACTION = "~"
"""Stands before what a position tells of its transaction: who made it, and the how manieth it was."""

_DIGITS = 40
"""Digits of a time, in whichever partition; a longer number is none."""
_SCALES = range(-20_000, 20_001)
"""How many digits a decimal may have behind the point; Postgres knows 16,383."""

_WITH_A_LOG = ("mysql", "mariadb", "postgresql", "sqlserver", "db2", "oracle", "informix")


def position(source: Source, op: str, event_ms: str | None = None) -> str:
    """Where in the order of its source an event is: text that sorts as the source does.

    event_ms: when the connector made the event, which counts where the source tells neither place nor time.
    """
    rank = "0" if snapshot(source, op) else "1"
    connector = source.get("connector")
    if connector in ("mysql", "mariadb") and source.get("file"):
        file = source["file"] or ""
        log = file.rpartition(".")[2] if file.rpartition(".")[2].isdecimal() else file
        if (source.get("pos") or "0") == "0":
            return ".".join((_whole(log), _whole(None), rank, _time(source, event_ms), OPEN))
        # row counts within the event at pos
        place = ".".join((_whole(log), _whole(source.get("pos")), rank, _whole(source.get("row"))))
        return place + _transaction(source.get("gtid"))
    if source.get("lsn") is not None or (source.get("sequence") or "").startswith("["):
        committed, lsn = _committed(source.get("sequence")), source.get("lsn")
        lsn = lsn if lsn is not None else committed[-1]
        if lsn is not None:
            # a transaction that began before another's commit and ended after it comes after it
            return ".".join((max(_whole(lsn), _whole(committed[0])), rank, _whole(lsn)))
    if source.get("commit_lsn") is not None or source.get("change_lsn") is not None:
        change = source.get("change_lsn")
        commit = source.get("commit_lsn") or change
        serial = _whole(source.get("event_serial_no"))
        return ".".join((_hexadecimal(commit), rank, _hexadecimal(change), serial))
    if source.get("scn") is not None or source.get("commit_scn") is not None:
        scn = source.get("scn")
        commits = (source.get("commit_scn") or scn or "").split(",")
        tail = (source.get("rs_id") or "", _whole(source.get("ssn")))
        return ".".join((max(map(_whole, commits)), rank, _whole(scn), *tail))
    time = _time(source, event_ms)
    if connector in _WITH_A_LOG:
        # Before all that has a place, as a snapshot without one is: what comes later shows by its clock.
        return ".".join((_whole(None), time, rank, OPEN))
    if source.get("ord") is None:
        return ".".join((time, rank, OPEN))
    return ".".join((time, rank, _whole(source.get("ord"))))


def _time(source: Source, event_ms: str | None) -> str:
    """When an event happened, in nanoseconds; when it was made, if the source does not say."""
    times = (source.get("ts_ns"), 1), (source.get("ts_us"), 1_000), (source.get("ts_ms"), 1_000_000)
    for time, factor in (*times, (event_ms, 1_000_000)):
        if time is not None and time.isdecimal() and len(time) <= _DIGITS and int(time):
            return _whole(str(int(time) * factor))
    return _whole(None)


def _transaction(gtid: str | None) -> str:
    """What `uuid:23` of MySQL, `uuid:tag:23` or `0-1-23` of MariaDB says; nothing where it says neither."""
    who, _, number = (gtid or "").rpartition(":")
    if not who:  # a domain counts on, whichever server writes
        who, _, number = (gtid or "").partition("-")[0], "", (gtid or "").rpartition("-")[2]
    if not who or not number.isdecimal():
        return ""
    return f"{TRANSACTION}{who}{TRANSACTION}{_whole(number)}"


def snapshot(source: Source, op: str) -> bool:
    """Whether an event was read by a snapshot (an incremental one as well)."""
    return op == "r" or (source.get("snapshot") or "false") != "false"


def changed_at(source: Source, event_ms: str | None) -> str | None:
    """When the source was changed, in UTC; when the event was made, if the source does not say."""
    for milliseconds in (source.get("ts_ms"), event_ms):
        if milliseconds and milliseconds != "0":
            try:
                second, fraction = divmod(int(milliseconds), 1000)
                return f"{_second(second)}.{fraction:03}Z"
            except (ValueError, OverflowError):
                continue
    return None


@lru_cache(maxsize=4096)
def _second(second: int) -> str:
    return moment(second * 1_000_000).isoformat()


@lru_cache(maxsize=64)
def untold(placeholder: str = UNTOLD) -> frozenset[str]:
    """What a connector writes for a value that an update left alone, by the type of its column.

    Nested ones are without blanks. That is the placeholder, or its bytes (base64, hexadecimal), an array of
    the one or the other, of numbers or of a UUID made of it, or a map.
    """
    raw = placeholder.encode()
    texts = [placeholder, b64encode(raw).decode(), urlsafe_b64encode(raw).decode(), raw.hex()]
    name = str(UUID(bytes=md5(raw, usedforsecurity=False).digest(), version=3))
    values = [*([text] for text in texts), list(raw), [name], {placeholder: placeholder}]
    return frozenset([*texts, *("".join(json.dumps(v, ensure_ascii=False).split()) for v in values)])


_BLANKS = r"\s"


def _as_untold(column: pl.Series, placeholder: str) -> pl.Series:
    """A column in which all that stands for a value that was not told is `UNTOLD`."""
    known = list(untold(placeholder))
    found = column.is_in(known) | (
        column.str.contains(r"^\s*[\[{]") & column.str.replace_all(_BLANKS, "").is_in(known)
    )
    return column.set(found, UNTOLD) if found.any() else column


def _with_untold(fields: Mapping[str, str | None], placeholder: str) -> dict[str, str | None]:
    """The same for the fields of one record that have no column."""
    values = _as_untold(pl.Series(list(fields.values()), dtype=pl.String), placeholder)
    return dict(zip(fields, values, strict=True))


def keyed(value: bytes, key: bytes | None) -> bytes:
    """The event of a delete that tells no row with the message's key in its place; any other as it is."""
    if key is None or b'"d"' not in value:
        return value
    try:
        event, told = json.loads(value), json.loads(key)
        inner = event["payload"] if "payload" in event and "op" not in event else event
        told = told.get("payload", told)
        if inner["op"] != "d" or inner.get("before") is not None or not isinstance(told, dict):
            return value
        if inner["source"].get("connector") == "mongodb":
            # The key tells an id as JSON, the document is JSON in a text.
            told = json.dumps({"_id": json.loads(told["id"])})
        inner["before"] = told
        return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return value


def _of_document(fields: Mapping[str, str | None]) -> dict[str, str | None]:
    """The fields of a MongoDB document as plain text; `_id` is `id`, as the message's key calls it."""
    named = {"id" if name == "_id" and "id" not in fields else name: v for name, v in fields.items()}
    return {name: _of_bson(value) for name, value in named.items()}


def _of_bson(text: str | None) -> str | None:
    """A scalar of MongoDB's extended JSON as plain text; anything else as it is."""
    if text is None or not text.startswith("{"):
        return text
    try:
        ((kind, value),) = json.loads(text).items()
        if kind == "$date":
            value = value["$numberLong"] if isinstance(value, dict) else value
            return value if not str(value).lstrip("-").isdecimal() else _instant(1000)(str(value)) + "Z"
        return str(value) if kind in _BSON and isinstance(value, str | int) else text
    except (ValueError, AttributeError, KeyError, TypeError, OverflowError, RecursionError):
        return text


_BSON = ("$oid", "$numberLong", "$numberInt", "$numberDouble", "$numberDecimal", "$uuid")


def _whole(number: str | None) -> str:
    """A whole number as text that sorts; anything else as it is."""
    return (number or "").rjust(20, "0")


def _hexadecimal(lsn: str | None) -> str:
    return ":".join(part.lower().rjust(10, "0") for part in (lsn or "::").split(":"))


def _committed(sequence: str | None) -> tuple[str | None, str | None]:
    """The last commit before an event and its own position, of Postgres' `sequence`."""
    if sequence is not None and len(parts := sequence.split('"')) == 5 and parts[2] == ",":
        return parts[1], parts[3]
    try:
        commit, own = json.loads(sequence or "")
    except (ValueError, TypeError, RecursionError):
        return None, None
    return (None if commit is None else str(commit)), (None if own is None else str(own))


def _days(text: str) -> str:
    return (date(1970, 1, 1) + timedelta(days=int(text))).isoformat()


def _instant(per_second: int) -> Convert:
    digits = "milliseconds" if per_second == 1000 else "microseconds"

    def convert(text: str) -> str:
        return moment(int(text) * 1_000_000 // per_second).isoformat(timespec=digits)

    return convert


def _clock(per_second: int) -> Convert:
    digits = "milliseconds" if per_second == 1000 else "microseconds"

    def convert(text: str) -> str:
        at = moment(int(text) * 1_000_000 // per_second)
        if at.date() != date(1970, 1, 1):
            raise ValueError(text)
        return at.time().isoformat(timespec=digits)

    return convert


def _decimal(scale: int) -> Convert:
    if scale not in _SCALES:
        raise ValueError(scale)

    def convert(text: str) -> str:
        return decimal(b64decode(text, validate=True), scale)

    return convert


def _scaled(text: str) -> str:
    value = json.loads(text)
    return _decimal(int(value["scale"]))(value["value"])


def conversion(field: Mapping[str, Any]) -> Convert | None:
    """How the values of a field of a schema become plain text; None where they are."""
    name = field.get("name")
    if name == "org.apache.kafka.connect.data.Decimal":
        try:
            return _decimal(int((field.get("parameters") or {}).get("scale", 0)))
        except (TypeError, ValueError, AttributeError):
            return None
    return _CONVERSIONS.get(name) if isinstance(name, str) else None


_CONVERSIONS: dict[str, Convert] = {
    "io.debezium.time.Date": _days,
    "io.debezium.time.Timestamp": _instant(1000),
    "io.debezium.time.MicroTimestamp": _instant(1_000_000),
    "io.debezium.time.NanoTimestamp": _instant(1_000_000_000),
    "io.debezium.time.Time": _clock(1000),
    "io.debezium.time.MicroTime": _clock(1_000_000),
    "io.debezium.time.NanoTime": _clock(1_000_000_000),
    "org.apache.kafka.connect.data.Date": _days,
    "org.apache.kafka.connect.data.Timestamp": _instant(1000),
    "org.apache.kafka.connect.data.Time": _clock(1000),
    "io.debezium.data.VariableScaleDecimal": _scaled,
}


def conversions(schema: str) -> dict[str, Convert]:
    """How the columns of a captured table become plain text, by the schema of its events."""
    try:
        made: dict[str, Convert] = {}
        for part in json.loads(schema)["fields"]:
            if part.get("field") in ("after", "before"):
                for field in part["fields"]:
                    if convert := conversion(field):
                        made[str(field["field"])] = convert
        return made
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


class DebeziumParser:
    """Finds and takes apart the change events of one file."""

    def __init__(self, declared: Collection[str] = (), placeholder: str = UNTOLD) -> None:
        self.declared = frozenset(declared)
        self.placeholder = placeholder
        self.shapes = Shapes(scan)
        self.schemas: dict[str, dict[str, Convert]] = {}
        self.prefixes: dict[bytes, str] = {}

    def begin(self, block: Block, final: bool) -> int | None:
        """Nothing stands before the first record."""
        return 0

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
        columns = {name: _as_untold(column, self.placeholder) for name, column in parsed.columns.items()}
        further = {row: _with_untold(fields, self.placeholder) for row, fields in parsed.further.items()}
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
                fields = _of_document(fields)
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
        names = [name for name in _PLACES if name in children[("source",)]]
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
        for i, conversions in enumerate(self.conversions):
            rows = np.flatnonzero(self.converted == i)
            for name, convert in conversions.items():
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
