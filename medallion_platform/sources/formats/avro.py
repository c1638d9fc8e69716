"""Messages in Avro, as the JSON text that is then parsed as JSON is.

A message is a zero byte, the id of its schema in four bytes (big-endian), and the record in Avro's
binary encoding:
https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/#wire-format Each is
read by the schema that it was written with, for which a registry is asked once.

A decimal is text with all its digits, bytes are base64, dates and times are ISO 8601 (`timestamp-*` in
UTC, `local-timestamp-*` without an offset), and a union is the value that it holds. A date or a time of
day that ISO 8601 cannot say stays the number that it is.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from io import BytesIO
from math import isfinite
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from uuid import UUID

import polars as pl

from medallion_platform.contracts.codes import Code
from medallion_platform.extras import need
from medallion_platform.sources.errors import Unavailable
from medallion_platform.sources.formats.format import Format
from medallion_platform.sources.formats.jsonlines import JsonLinesParser
from medallion_platform.sources.formats.records import CODE, texts_at
from medallion_platform.sources.formats.slices import patched
from medallion_platform.sources.formats.text import parsed

if TYPE_CHECKING:
    from medallion_platform.sources.http import HttpClient, Token

PATIENCE = 15.0
"""Seconds within which a registry that does not answer is asked again."""

_FRAME = 5
"""Bytes before the record: the zero and the id."""
_NOT_THERE = (40401, 40402, 40403)
"""A registry's error codes for a subject, a version or a schema that it does not have."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)

Read = Callable[[bytes], bytes]
"""Gives the JSON text of a message, or raises `DecodeError`."""


class DecodeError(Exception):
    """A message cannot be read; the text says why."""


@dataclass(frozen=True)
class Avro(Format, kind="avro"):
    """Messages in Avro with schemas from a registry; a record becomes the same as in JSON.

    Example:
        >>> from medallion_platform import Avro, EnvironmentUser
        >>> Avro("https://registry.example", credentials=EnvironmentUser("REGISTRY_USER")).of_messages
        True
    """

    registry: str
    """The URL of the registry, to which `/schemas/ids/1` is added for the first schema."""
    credentials: Token | None = None
    """The login for the registry: `EnvironmentUser`, `EnvironmentToken` or `ClientCredentials`."""

    of_messages = True

    def __post_init__(self) -> None:
        from medallion_platform.sources.http import refuse_unsafe, shown

        need("kafka", "the format avro")
        url = urlsplit(self.registry)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"Avro registry {shown(self.registry)!r} is not an http or https URL")
        if shown(self.registry) != self.registry:
            raise ValueError(
                f"Avro registry {shown(self.registry)!r}: user, password and query are not part of its URL; "
                "name their variable of the environment, as credentials=EnvironmentUser(...)"
            )
        if self.credentials:
            refuse_unsafe(self.registry)
        object.__setattr__(self, "registry", self.registry.rstrip("/"))

    def parse(
        self, records: Sequence[bytes], columns: Sequence[str] | None = None, declared: Collection[str] = ()
    ) -> pl.DataFrame:
        """Records by their JSON text; one that does not decode is kept as its bytes."""
        made, undecoded = texts(records, self)
        frame = parsed(made, JsonLinesParser(declared))
        rows = list(undecoded)
        return frame.with_columns(
            patched(frame["_payload"], rows, [None] * len(rows)),
            patched(frame["_payload_bytes"], rows, [records[row] for row in rows]),
            patched(frame["_malformed"], rows, [f"not valid Avro: {why}" for why in undecoded.values()]),
            *(
                [texts_at(dict.fromkeys(rows, Code.UNDECODED.value), len(records)).alias(CODE)]
                if rows
                else ()
            ),
        )

    def parse_again(
        self, payloads: pl.Series, columns: Sequence[str] | None = None, declared: Collection[str] = ()
    ) -> pl.DataFrame:
        """Stored text is JSON; stored bytes are a message."""
        if payloads.dtype == pl.Binary:
            return super().parse_again(payloads, columns, declared)
        return parsed(payloads.cast(pl.Binary).fill_null(b"").to_list(), JsonLinesParser(declared))


def texts(records: Sequence[bytes], format: Avro) -> tuple[list[bytes], dict[int, str]]:
    """The JSON text of each message, empty where there is none; and by their place why there is none.

    Raises:
        Unavailable: the registry gives no schema now.
    """
    readers: dict[bytes, Read] = {}
    made: list[bytes] = []
    undecodable: dict[int, str] = {}
    for place, record in enumerate(records):
        frame = record[:_FRAME]
        if frame not in readers:
            readers[frame] = _reader(frame, format)
        try:
            made.append(readers[frame](record))
        except DecodeError as error:
            made.append(b"")
            undecodable[place] = str(error)
    return made, undecodable


def _reader(frame: bytes, format: Avro) -> Read:
    """What reads the messages that begin so; a schema that is not there is asked for only once a batch."""
    try:
        # An id is no negative int, which a registry may answer as if it were no registry.
        if len(frame) < _FRAME or frame[0] or frame[1] > 127:
            raise DecodeError("it does not begin with a zero byte and the id of a schema")
        return _schema(format, int.from_bytes(frame[1:], "big")).text
    except DecodeError as error:
        why = str(error)

    def refuse(record: bytes) -> bytes:
        raise DecodeError(why)

    return refuse


@dataclass(frozen=True)
class _Schema:
    """A schema, and what reads records by it."""

    number: int
    parsed: Any
    read: Callable[..., Any]

    def text(self, message: bytes) -> bytes:
        """The JSON text of a message."""
        body = BytesIO(message)
        body.seek(_FRAME)
        try:
            value = self.read(body, self.parsed, None)
        except EOFError:
            raise DecodeError(f"it ends within its record of schema {self.number}") from None
        except Exception as error:
            # Bytes that are none of a record's may raise anything.
            raise DecodeError(f"it is no record of schema {self.number} ({type(error).__name__})") from None
        if left := len(message) - body.tell():
            raise DecodeError(f"{left} bytes are left over behind its record of schema {self.number}")
        if not isinstance(value, dict):
            raise DecodeError(f"schema {self.number} is not of records")
        return _json(value)


def _json(value: Any) -> bytes:
    try:
        return _encode(value).encode()
    except ValueError:
        return _encode(_finite(value)).encode()
    except RecursionError:
        raise DecodeError("its record is nested too deeply") from None


def _base64(value: Any) -> str:
    return b64encode(value).decode()


_encode = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"), default=_base64
).encode


def _finite(value: Any) -> Any:
    """A value whose NaN and infinities, which JSON does not have, are text."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return json.dumps(value) if isinstance(value, float) and not isfinite(value) else value


# schemas -------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _schema(format: Avro, number: int) -> _Schema:
    """A schema of the registry: what an id stands for never changes."""
    from fastavro import _read_py, schemaless_reader
    from fastavro.schema import SchemaParseException, UnknownType

    from medallion_platform.sources.http import HttpClient, RequestError

    try:
        with HttpClient(format.registry, format.credentials, PATIENCE) as http:
            registry = _Registry(http, format.registry)
            told = registry.get("schemas", "ids", str(number))
            if (kind := told.get("schemaType") or "AVRO") != "AVRO":
                raise DecodeError(f"schema {number} is {kind}")
            names = _Names()
            registry.add_referred(told, names)
        parsed = names.parse(told["schema"])
    except RequestError as error:
        raise Unavailable(
            f"schema {number} of its messages cannot be read: {error}", kind=error.kind
        ) from None
    except (SchemaParseException, UnknownType, LookupError, TypeError, ValueError, RecursionError) as error:
        raise DecodeError(f"schema {number} is not an Avro schema ({type(error).__name__})") from None
    # The compiled reader recurses until the process dies.
    return _Schema(number, parsed, _read_py.schemaless_reader if _recurs(parsed, ()) else schemaless_reader)


@dataclass
class _Names:
    """The named types of schemas that belong together: as they were written, and as they are read here.

    What fastavro makes of logical types stands in one table for the whole process, and its own entries round
    a decimal to its precision and fail beyond the calendar. So the schemas read here spell theirs otherwise,
    and whoever else reads Avro in this process finds all as fastavro has it.
    """

    written: dict[str, Any] = field(default_factory=dict)
    read: dict[str, Any] = field(default_factory=dict)

    def parse(self, text: str) -> Any:
        """A schema as it is read here; what is no schema as it was written is refused."""
        from fastavro import parse_schema
        from fastavro.read import LOGICAL_READERS

        for kind, told in _LOGICAL.items():
            base, _, name = kind.partition("-")
            LOGICAL_READERS.setdefault(f"{base}-{_OURS}{name}", told)
        schema = json.loads(text)
        parse_schema(schema, self.written)
        return parse_schema(_respelled(schema), self.read)


_OURS = "medallion-"


def _respelled(schema: Any) -> Any:
    """A schema whose logical types are read as they are told here."""
    if isinstance(schema, list):
        return [_respelled(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {k: _respelled(v) if k in ("type", "items", "values") else v for k, v in schema.items()}
    if isinstance(made.get("fields"), list):
        made["fields"] = [_respelled(part) for part in made["fields"]]
    if isinstance(made.get("logicalType"), str):
        made["logicalType"] = _OURS + made["logicalType"]
    return made


@dataclass(frozen=True)
class _Registry:
    """What a schema registry tells.

    https://docs.confluent.io/platform/current/schema-registry/develop/api.html
    """

    http: HttpClient
    url: str

    def get(self, *path: str) -> Mapping[str, Any]:
        """A schema: `schema` (JSON text), `schemaType` unless it is Avro, `references`.

        Raises:
            DecodeError: there is none.
            RequestError: the registry does not say.
        """
        from medallion_platform.sources.http import NotFound, RequestError

        url = "/".join((self.url, *(quote(part, safe="") for part in path)))
        try:
            body = self.http.get(url).body
        except NotFound as error:
            # Anything else that answers 404 is a wrong address, or a registry that is being replaced.
            if _object(error.told).get("error_code") not in _NOT_THERE:
                raise
            raise DecodeError(f"the registry has no {'/'.join(path)}") from None
        told = _object(body)
        if "schema" not in told:
            raise RequestError(f"{url} does not return a schema")
        return told

    def add_referred(self, schema: Mapping[str, Any], names: _Names) -> None:
        """Add the types that a schema takes from others to `names`."""
        for reference in schema.get("references") or ():
            if reference["name"] not in names.read:
                other = self.get("subjects", reference["subject"], "versions", str(reference["version"]))
                self.add_referred(other, names)
                names.parse(other["schema"])


def _object(text: bytes) -> Mapping[str, Any]:
    """The JSON object that a text is; empty if it is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _recurs(schema: Any, within: tuple[str, ...]) -> bool:
    """Whether a parsed schema has a type that holds itself."""
    if isinstance(schema, str):
        return schema in within
    if isinstance(schema, list):
        return any(_recurs(part, within) for part in schema)
    if schema["type"] in ("record", "error"):
        return any(_recurs(field["type"], (*within, schema["name"])) for field in schema["fields"])
    parts = (schema.get(part) for part in ("type", "items", "values"))
    return any(_recurs(part, within) for part in parts if part is not None)


# logical types: https://avro.apache.org/docs/1.12.0/specification/#logical-types -------------------

Told = Callable[..., Any]
"""Gives text for a value of a schema."""


def moment(microseconds: int) -> datetime:
    """The time without an offset that is so long after the beginning of 1970."""
    return _EPOCH + timedelta(microseconds=microseconds)


def decimal(unscaled: bytes, scale: int) -> str:
    """The digits of a decimal; unscaled: two's complement, big-endian."""
    value = int.from_bytes(unscaled, "big", signed=True)
    return format(Decimal((int(value < 0), tuple(map(int, str(abs(value)))), -scale)), "f")


def _decimal(value: bytes, schema: Mapping[str, Any], *_: Any) -> str:
    return decimal(value, schema.get("scale", 0))


def _date(days: int, *_: Any) -> str | int:
    try:
        return (date(1970, 1, 1) + timedelta(days=days)).isoformat()
    except OverflowError:
        return days


def _timestamp(per_second: int, offset: str) -> Told:
    def told(value: int, *_: Any) -> str | int:
        microseconds, nanoseconds = divmod(value * 1_000_000_000 // per_second, 1000)
        try:
            at = moment(microseconds)
        except OverflowError:
            return value
        if nanoseconds:
            return f"{at.isoformat(timespec='microseconds')}{nanoseconds:03}{offset}"
        return at.isoformat() + offset

    return told


def _clock(per_second: int) -> Told:
    def told(value: int, *_: Any) -> str | int:
        if not 0 <= value < 86_400 * per_second:
            return value
        return moment(value * 1_000_000 // per_second).time().isoformat()

    return told


def _as_it_is(value: str, *_: Any) -> str:
    return value


def _uuid(value: bytes, *_: Any) -> str:
    return str(UUID(bytes=value))


_LOGICAL: dict[str, Told] = {
    "bytes-decimal": _decimal,
    "fixed-decimal": _decimal,
    "string-uuid": _as_it_is,
    "fixed-uuid": _uuid,
    "int-date": _date,
    "int-time-millis": _clock(1_000),
    "long-time-micros": _clock(1_000_000),
    "long-timestamp-millis": _timestamp(1_000, "+00:00"),
    "long-timestamp-micros": _timestamp(1_000_000, "+00:00"),
    "long-timestamp-nanos": _timestamp(1_000_000_000, "+00:00"),
    "long-local-timestamp-millis": _timestamp(1_000, ""),
    "long-local-timestamp-micros": _timestamp(1_000_000, ""),
    "long-local-timestamp-nanos": _timestamp(1_000_000_000, ""),
}
