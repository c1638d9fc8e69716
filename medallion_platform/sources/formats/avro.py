"""Messages in Avro, converted to JSON text, which is then parsed like any JSON.

A message is a zero byte, the id of its schema in four bytes (big-endian), and the record in Avro's binary
encoding:
https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/#wire-format
Each message is read with the schema that it was written with, which is requested from a registry once.

A decimal is text with all its digits, bytes are base64, dates and times are ISO 8601 (`timestamp-*` in UTC,
`local-timestamp-*` without an offset), and a union is its value. A date or a time of day that ISO 8601 cannot
express stays a number.
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
from medallion_platform.errors import DeclarationError
from medallion_platform.extras import require_extra
from medallion_platform.sources.errors import Unavailable
from medallion_platform.sources.formats.format import Format
from medallion_platform.sources.formats.jsonlines import JsonLinesParser
from medallion_platform.sources.formats.records import CODE, sparse_text_column
from medallion_platform.sources.formats.slices import replace_values
from medallion_platform.sources.formats.text import parsed

if TYPE_CHECKING:
    from fastavro.types import NamedSchemas, Schema

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
    """Messages in Avro with schemas from a registry; records become the same as from JSON.

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
        from medallion_platform.sources.http import public_url, refuse_unencrypted

        require_extra("kafka", "the format avro")
        url = urlsplit(self.registry)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise DeclarationError(f"Avro registry {public_url(self.registry)!r} is not an http or https URL")
        if public_url(self.registry) != self.registry:
            raise DeclarationError(
                f"Avro registry {public_url(self.registry)!r}: user, password and query are not part of its "
                "URL; name their variable of the environment, as credentials=EnvironmentUser(...)"
            )
        if self.credentials:
            refuse_unencrypted(self.registry)
        object.__setattr__(self, "registry", self.registry.rstrip("/"))

    def parse(
        self, records: Sequence[bytes], columns: Sequence[str] | None = None, declared: Collection[str] = ()
    ) -> pl.DataFrame:
        """Records from their JSON text; a message that cannot be decoded keeps its bytes."""
        decoded, undecoded = decode_messages(records, self)
        frame = parsed(decoded, JsonLinesParser(declared))
        rows = list(undecoded)
        return frame.with_columns(
            replace_values(frame["_payload"], rows, [None] * len(rows)),
            replace_values(frame["_payload_bytes"], rows, [records[row] for row in rows]),
            replace_values(
                frame["_malformed"], rows, [f"not valid Avro: {why}" for why in undecoded.values()]
            ),
            *(
                [sparse_text_column(dict.fromkeys(rows, Code.UNDECODED.value), len(records)).alias(CODE)]
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


def decode_messages(records: Sequence[bytes], format: Avro) -> tuple[list[bytes], dict[int, str]]:
    """The JSON text of each message (empty if it cannot be decoded), and the reasons by index.

    Raises:
        Unavailable: the registry does not return a schema now.
    """
    readers: dict[bytes, Read] = {}
    decoded: list[bytes] = []
    undecodable: dict[int, str] = {}
    for place, record in enumerate(records):
        frame = record[:_FRAME]
        if frame not in readers:
            readers[frame] = _message_reader(frame, format)
        try:
            decoded.append(readers[frame](record))
        except DecodeError as error:
            decoded.append(b"")
            undecodable[place] = str(error)
    return decoded, undecodable


def _message_reader(frame: bytes, format: Avro) -> Read:
    """A reader for messages with this header; a missing schema is requested only once in a batch."""
    try:
        # An id is no negative int, which a registry may answer as if it were no registry.
        if len(frame) < _FRAME or frame[0] or frame[1] > 127:
            raise DecodeError("it does not begin with a zero byte and the id of a schema")
        return _load_schema(format, int.from_bytes(frame[1:], "big")).text
    except DecodeError as error:
        why = str(error)

    def refuse(record: bytes) -> bytes:
        raise DecodeError(why)

    return refuse


@dataclass(frozen=True)
class _Schema:
    """A schema, and its reader of records."""

    number: int
    parsed: Schema
    read: Callable[..., object]

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
        return _encode_json(value)


def _encode_json(value: object) -> bytes:
    try:
        return _encode(value).encode()
    except ValueError:
        return _encode(_replace_non_finite(value)).encode()
    except RecursionError:
        raise DecodeError("its record is nested too deeply") from None


def _bytes_as_json(value: bytes) -> str:
    return b64encode(value).decode()


_encode = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"), default=_bytes_as_json
).encode


def _replace_non_finite(value: object) -> object:
    """A value with text instead of NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace_non_finite(item) for item in value]
    return json.dumps(value) if isinstance(value, float) and not isfinite(value) else value


# schemas -------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _load_schema(format: Avro, number: int) -> _Schema:
    """A schema from the registry; the schema of an id never changes."""
    from fastavro import _read_py, schemaless_reader
    from fastavro.schema import SchemaParseException, UnknownType

    from medallion_platform.sources.http import HttpClient, RequestError

    try:
        with HttpClient(format.registry, format.credentials, PATIENCE) as http:
            registry = _Registry(http, format.registry)
            answer = registry.get("schemas", "ids", str(number))
            if (kind := answer.get("schemaType") or "AVRO") != "AVRO":
                raise DecodeError(f"schema {number} is {kind}")
            names = _Names()
            registry.add_referred(answer, names)
        parsed = names.parse(answer["schema"])
    except RequestError as error:
        raise Unavailable(
            f"schema {number} of its messages cannot be read: {error}", kind=error.kind
        ) from None
    except (SchemaParseException, UnknownType, LookupError, TypeError, ValueError, RecursionError) as error:
        raise DecodeError(f"schema {number} is not an Avro schema ({type(error).__name__})") from None
    # The compiled reader recurses until the process dies.
    return _Schema(
        number, parsed, _read_py.schemaless_reader if _is_recursive(parsed, ()) else schemaless_reader
    )


@dataclass
class _Names:
    """The named types of related schemas: as they were written, and as they are read here.

    fastavro has one table of logical types for the whole process, and its own entries round decimals to their
    precision and fail for dates outside the calendar. Therefore the schemas read here use other names for
    logical types, and other users of fastavro in this process are not affected.
    """

    written: NamedSchemas = field(default_factory=dict)
    read: NamedSchemas = field(default_factory=dict)

    def parse(self, text: str) -> Schema:
        """A schema in the form that is read here; an invalid schema is refused."""
        from fastavro import parse_schema
        from fastavro.read import LOGICAL_READERS

        for kind, logical in _LOGICAL.items():
            base, _, name = kind.partition("-")
            LOGICAL_READERS.setdefault(f"{base}-{_OURS}{name}", logical)
        schema = json.loads(text)
        parse_schema(schema, self.written)
        return parse_schema(_rename_logical_types(schema), self.read)


_OURS = "medallion-"


def _rename_logical_types(schema: Schema) -> Schema:
    """A schema with renamed logical types, so that they are read by the functions of this module."""
    if isinstance(schema, list):
        return [_rename_logical_types(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    spelled = {
        k: _rename_logical_types(v) if k in ("type", "items", "values") else v for k, v in schema.items()
    }
    if isinstance(spelled.get("fields"), list):
        spelled["fields"] = [_rename_logical_types(part) for part in spelled["fields"]]
    if isinstance(logical := spelled.get("logicalType"), str):
        spelled["logicalType"] = _OURS + logical
    return spelled


@dataclass(frozen=True)
class _Registry:
    """A client of a schema registry.

    https://docs.confluent.io/platform/current/schema-registry/develop/api.html
    """

    http: HttpClient
    url: str

    def get(self, *path: str) -> Mapping[str, Any]:
        """A schema: `schema` (JSON text), `schemaType` unless it is Avro, `references`.

        Raises:
            DecodeError: there is no such schema.
            RequestError: the registry does not answer.
        """
        from medallion_platform.sources.http import NotFound, RequestError

        url = "/".join((self.url, *(quote(part, safe="") for part in path)))
        try:
            body = self.http.get(url).body
        except NotFound as error:
            # Anything else that answers 404 is a wrong address, or a registry that is being replaced.
            if _json_object(error.told).get("error_code") not in _NOT_THERE:
                raise
            raise DecodeError(f"the registry has no {'/'.join(path)}") from None
        answer = _json_object(body)
        if "schema" not in answer:
            raise RequestError(f"{url} does not return a schema")
        return answer

    def add_referred(self, schema: Mapping[str, Any], names: _Names) -> None:
        """Add the types that a schema uses from other schemas to `names`."""
        for reference in schema.get("references") or ():
            if reference["name"] not in names.read:
                other = self.get("subjects", reference["subject"], "versions", str(reference["version"]))
                self.add_referred(other, names)
                names.parse(other["schema"])


def _json_object(text: bytes) -> Mapping[str, Any]:
    """The text as a JSON object; empty if it is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_recursive(schema: Schema, within: tuple[str, ...]) -> bool:
    """Whether a parsed schema has a type that contains itself."""
    if isinstance(schema, str):
        return schema in within
    if isinstance(schema, list):
        return any(_is_recursive(part, within) for part in schema)
    if schema["type"] in ("record", "error"):
        return any(_is_recursive(field["type"], (*within, schema["name"])) for field in schema["fields"])
    parts = (schema.get(part) for part in ("type", "items", "values"))
    return any(_is_recursive(part, within) for part in parts if part is not None)


# logical types: https://avro.apache.org/docs/1.12.0/specification/#logical-types -------------------

LogicalReader = Callable[..., object]
"""Reads a value of a logical type: as text, or unchanged if it cannot be text."""


def time_after_epoch(microseconds: int) -> datetime:
    """The time, without a zone, that is so many microseconds after the beginning of 1970."""
    return _EPOCH + timedelta(microseconds=microseconds)


def decimal_digits(unscaled: bytes, scale: int) -> str:
    """The digits of a decimal; unscaled: two's complement, big-endian."""
    value = int.from_bytes(unscaled, "big", signed=True)
    return format(Decimal((int(value < 0), tuple(map(int, str(abs(value)))), -scale)), "f")


def _read_decimal(value: bytes, schema: Mapping[str, Any], *_: object) -> str:
    return decimal_digits(value, schema.get("scale", 0))


def _read_date(days: int, *_: object) -> str | int:
    try:
        return (date(1970, 1, 1) + timedelta(days=days)).isoformat()
    except OverflowError:
        return days


def _timestamp_reader(per_second: int, offset: str) -> LogicalReader:
    def read(value: int, *_: object) -> str | int:
        microseconds, nanoseconds = divmod(value * 1_000_000_000 // per_second, 1000)
        try:
            at = time_after_epoch(microseconds)
        except OverflowError:
            return value
        if nanoseconds:
            return f"{at.isoformat(timespec='microseconds')}{nanoseconds:03}{offset}"
        return at.isoformat() + offset

    return read


def _time_of_day_reader(per_second: int) -> LogicalReader:
    def read(value: int, *_: object) -> str | int:
        if not 0 <= value < 86_400 * per_second:
            return value
        return time_after_epoch(value * 1_000_000 // per_second).time().isoformat()

    return read


def _unchanged(value: str, *_: object) -> str:
    return value


def _read_uuid(value: bytes, *_: object) -> str:
    return str(UUID(bytes=value))


_LOGICAL: dict[str, LogicalReader] = {
    "bytes-decimal": _read_decimal,
    "fixed-decimal": _read_decimal,
    "string-uuid": _unchanged,
    "fixed-uuid": _read_uuid,
    "int-date": _read_date,
    "int-time-millis": _time_of_day_reader(1_000),
    "long-time-micros": _time_of_day_reader(1_000_000),
    "long-timestamp-millis": _timestamp_reader(1_000, "+00:00"),
    "long-timestamp-micros": _timestamp_reader(1_000_000, "+00:00"),
    "long-timestamp-nanos": _timestamp_reader(1_000_000_000, "+00:00"),
    "long-local-timestamp-millis": _timestamp_reader(1_000, ""),
    "long-local-timestamp-micros": _timestamp_reader(1_000_000, ""),
    "long-local-timestamp-nanos": _timestamp_reader(1_000_000_000, ""),
}
