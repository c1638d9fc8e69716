"""Messages as records with their provenance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from medallion_platform.sources.connectors.kafka.offsets import EPOCH, PartitionCursor
from medallion_platform.sources.errors import Unavailable
from medallion_platform.sources.formats.records import unparsed_records

if TYPE_CHECKING:
    from confluent_kafka import Message
    from polars._typing import PolarsDataType

    from medallion_platform.sources.connectors.kafka.source import KafkaSource

MESSAGE: dict[str, PolarsDataType] = {
    "_key": pl.Binary,
    "_headers": pl.List(pl.Struct({"key": pl.String, "value": pl.Binary})),
    "_timestamp": pl.Datetime("us", "UTC"),
}
"""What Kafka says of a message beside its value, in the bronze tables of its sources."""

Parse = Callable[["KafkaSource", Sequence[bytes | None], Mapping[str, pl.Series]], pl.DataFrame]
"""Makes records of the values of messages and their provenance columns."""

LAST_TIMESTAMP = 253_402_300_800_000
"""Milliseconds until the year 10000, where a message's time is no time any more."""

_TOMBSTONE = "no value: a tombstone"
_NOT_UTF8 = "(the name of a header is not UTF-8)"


def group_by_partition(messages: Sequence[Message]) -> Iterator[tuple[tuple[str, int], Sequence[Message]]]:
    """Consecutive messages of the same partition as groups, each with its topic and partition.

    Only methods of the client are mapped: a Python function for each message would double the cost.
    """
    from confluent_kafka import Message

    begin = 0
    places = zip(map(Message.topic, messages), map(Message.partition, messages), strict=True)
    for place, same in groupby(places):
        end = begin + len(list(same))
        yield place, messages[begin:end]  # type: ignore[misc]
        begin = end


def messages_frame(
    source: KafkaSource,
    runs: Sequence[tuple[PartitionCursor, int, Sequence[Message]]],
    parse: Parse | None = None,
) -> pl.DataFrame:
    """Messages as records with their provenance; runs: consecutive messages of one partition and epoch.

    parse: makes records of the values; by default they are parsed.
    """
    from confluent_kafka import Message

    messages = [m for _, _, run in runs for m in run]
    lengths = [len(run) for _, _, run in runs]
    offsets = np.fromiter(map(Message.offset, messages), np.int64, len(messages))
    epochs = np.repeat([epoch * EPOCH for _, epoch, _ in runs], lengths)
    extra = {
        "_source": _repeat_names([reading.log for reading, _, _ in runs], lengths),
        "_file": _repeat_names([reading.partition.name for reading, _, _ in runs], lengths),
        "_row": pl.Series(offsets + 1),
        "_offset": pl.Series(offsets + epochs),
        "_key": pl.Series(list(map(Message.key, messages)), dtype=pl.Binary),
        "_headers": headers_column(_headers_of_messages(messages)),
        "_timestamp": _timestamp_column(messages),
    }
    return (parse or parse_messages)(source, list(map(Message.value, messages)), extra)


def unparsed_messages(
    source: KafkaSource, values: Sequence[bytes | None], provenance: Mapping[str, pl.Series]
) -> pl.DataFrame:
    """Messages that ended whatever parsed them, as records with their provenance columns."""
    values = source.format.of_keyed(values, provenance["_key"])
    frame = unparsed_records([v or b"" for v in values]).drop("_row")
    return frame.with_columns(pl.Series(name, column) for name, column in provenance.items())


def parse_messages(
    source: KafkaSource, values: Sequence[bytes | None], provenance: Mapping[str, pl.Series]
) -> pl.DataFrame:
    """The values of messages as records, with their provenance columns."""
    values = source.format.of_keyed(values, provenance["_key"])
    tombstones = pl.Series([v is None for v in values])
    try:
        records = [b"" if v is None else v for v in values]
        frame = source.format.parse(records, declared=source.contract.column_names).drop("_row")
    except Unavailable as error:
        raise Unavailable(
            f"source {source.name}: {error}; what was taken in is safe, the next intake continues from there",
            kind=error.kind,
        ) from None
    if tombstones.any():
        frame = frame.with_columns(
            *(pl.when(~tombstones).then(pl.col(c)).alias(c) for c in ("_payload", "_payload_bytes")),
            pl.when(tombstones).then(pl.lit(_TOMBSTONE)).otherwise(pl.col("_malformed")).alias("_malformed"),
        )
    return frame.with_columns(pl.Series(name, column) for name, column in provenance.items())


def _repeat_names(names: Sequence[str], lengths: Sequence[int]) -> pl.Series:
    return pl.Series(names, dtype=pl.String).gather(np.repeat(np.arange(len(names)), lengths))


def _headers_of_messages(messages: Sequence[Message]) -> Sequence[Any]:
    """The headers of each message; none for a message with a header name that is not UTF-8."""
    from confluent_kafka import Message

    def of_one(message: Message) -> Any:
        try:
            return message.headers()
        except (SystemError, UnicodeDecodeError):
            return [(_NOT_UTF8, None)]

    try:
        return list(map(Message.headers, messages))
    except (SystemError, UnicodeDecodeError):
        return list(map(of_one, messages))


def _timestamp_column(messages: Sequence[Message]) -> pl.Series:
    """When the messages were created or appended, by the topic's settings; null for old clients and for
    timestamps outside the range of milliseconds."""
    from confluent_kafka import Message

    kinds, times_told = zip(*map(Message.timestamp, messages), strict=True)
    milliseconds = np.fromiter(times_told, np.int64, len(messages))
    known = np.fromiter(kinds, np.bool_, len(messages))
    known &= (milliseconds >= 0) & (milliseconds < LAST_TIMESTAMP)
    times = pl.Series(np.where(known, milliseconds, 0) * 1000)
    return times.set(pl.Series(~known), None).cast(MESSAGE["_timestamp"])


def headers_column(given: Sequence[Any]) -> pl.Series:
    """The headers of messages (a list or None for each) as a column; built by Arrow, which is faster."""
    if not any(given):
        return pl.Series([[]], dtype=MESSAGE["_headers"]).new_from_index(0, len(given))
    import pyarrow as pa

    flat = [header for headers in given for header in headers or ()]
    pairs = pa.StructArray.from_arrays(
        [
            pa.array([key for key, _ in flat], pa.large_string()),
            pa.array([value for _, value in flat], pa.large_binary()),
        ],
        ["key", "value"],
    )
    ends = np.cumsum([0, *(len(headers or ()) for headers in given)], dtype=np.int64)
    lists: Any = pl.from_arrow(pa.LargeListArray.from_arrays(pa.array(ends), pairs))
    return lists.cast(MESSAGE["_headers"])
