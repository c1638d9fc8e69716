"""Topics of Kafka: the declaration of a source, and reading it in bounded runs.

Each partition of a topic is a log of its own. A record's offset is Kafka's; where a topic was made
anew under its name, offsets go on `EPOCH` further up, so that a position never goes back and no two
records share a place. What a position stands for is in the table: the next offset of each partition,
and the identity of each topic that was ever read.

No consumer group takes part: partitions are assigned, the table alone says what was taken.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from medallion_platform.sources import files
from medallion_platform.sources.arrivals import Batch, Position, Unavailable, Unread
from medallion_platform.sources.source import Debezium, JsonLines, Source

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message

EPOCH = 2**48
"""How many offsets a topic has before those of the next one under its name begin."""

TIMEOUT = 15.0
"""Seconds that a broker has for an answer."""

MESSAGE: dict[str, Any] = {
    "_key": pl.Binary,
    "_headers": pl.List(pl.Struct({"key": pl.String, "value": pl.Binary})),
    "_timestamp": pl.Datetime("us", "UTC"),
}
"""What Kafka says of a message beside its value, in the bronze tables of its sources."""

_TOMBSTONE = "no value: a tombstone"
_CHUNK = 10_000
_PATIENCE = 0.1
"""Seconds that fewer messages than a chunk may take."""
_PASSING = {
    *("_TRANSPORT", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_WAIT_COORD"),
    *("NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE", "UNKNOWN_TOPIC_OR_PART"),
}
_OURS: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
}


@dataclass(frozen=True)
class KafkaSource(Source):
    """Messages of some topics that become one bronze table.

    A message is a record, also one with line ends in it. A tombstone (a message without a value) is a
    dead letter of a JSON source and a change event without an image of a Debezium source. `settings`
    go to the client as they are (`security.protocol`, `sasl.password`); they are shown nowhere.
    """

    brokers: str = field(kw_only=True)
    topics: tuple[str, ...] = field(default=(), kw_only=True)
    pattern: str = field(default="", kw_only=True)
    """A regular expression for whole names of topics, in the place of `topics`."""
    settings: Mapping[str, str | int | float | bool] = field(
        default_factory=dict, kw_only=True, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "topics", tuple(self.topics))
        if bool(self.topics) == bool(self.pattern):
            raise ValueError(f"source {self.name!r} names either topics or a pattern of them")
        if not isinstance(self.format, JsonLines | Debezium):
            raise ValueError(f"source {self.name!r}: messages are JSON, not {self.format!r}")
        re.compile(self.pattern)
        if refused := sorted(_OURS.keys() & self.settings.keys()):
            raise ValueError(f"source {self.name!r}: {', '.join(refused)} cannot be set")

    @property
    def where(self) -> str:
        """The topics that it reads."""
        return "topics " + ", ".join(f"`{t}`" for t in self.topics or (self.pattern,))

    def provenance(self) -> Mapping[str, Any]:
        """Key, headers and time of the message."""
        return MESSAGE


@dataclass(frozen=True)
class Partition:
    """A partition of a topic as it was seen: the offsets that it holds, `end` not included."""

    topic: str
    number: int
    topic_id: str
    low: int
    end: int

    @property
    def name(self) -> str:
        """Its topic and number."""
        return f"{self.topic}/{self.number}"


@dataclass
class _Reading:
    """How far a partition is read."""

    partition: Partition
    epoch: int
    next: int

    @property
    def reached(self) -> int:
        """The position that this is."""
        return self.epoch * EPOCH + self.next


@dataclass(frozen=True)
class Topics:
    """The partitions of a source as they were at one look; no more is read than they held then."""

    source: KafkaSource
    partitions: Sequence[Partition]
    notes: Sequence[str] = ()
    pieces: str = "partitions"

    def waiting(self, position: Position) -> list[str]:
        """The partitions that hold more than was taken in, or whose position is not set yet."""
        found: list[str] = []
        for partition in self._known(position):
            begin, gap = self._begin(partition, position)
            if gap or begin.next < partition.end or begin.reached != position(self._log(partition)):
                found.append(f"{self._log(partition)} {partition.topic_id} {partition.end}")
        return found

    def batches(self, position: Position, rows: int, size: int) -> Iterator[Batch]:
        """The messages from the positions on up to where the partitions ended when looked at."""
        gathered = _Gathered(self.source)
        open_: dict[tuple[str, int], _Reading] = {}
        for partition in self._known(position):
            reading, gap = self._begin(partition, position)
            if gap:
                gathered.unread.append(gap)
            if reading.reached != position(self._log(partition)):
                gathered.positions[self._log(partition)] = reading.reached
            identity = self._identity(partition)
            if identity and position(identity) is None:
                gathered.positions[identity] = 0
            if reading.next < partition.end:
                open_[partition.topic, partition.number] = reading
        if open_:
            consumer, said = _consumer(self.source)
            try:
                yield from self._read(consumer, said, open_, gathered, rows, size)
            finally:
                consumer.close()
        if gathered.positions:
            yield gathered.batch()

    def _read(
        self,
        consumer: Consumer,
        said: list[str],
        open_: dict[tuple[str, int], _Reading],
        gathered: _Gathered,
        rows: int,
        size: int,
    ) -> Iterator[Batch]:
        from confluent_kafka import KafkaError, TopicPartition

        consumer.assign([TopicPartition(*place, reading.next) for place, reading in open_.items()])
        heard = time.monotonic()
        while open_:
            messages = consumer.consume(min(_CHUNK, max(rows - gathered.rows, 1)), _PATIENCE)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() > heard + TIMEOUT:
                raise _unavailable(self.source, said)
            for message in messages:
                place = (str(message.topic()), int(message.partition() or 0))
                reading, error = open_.get(place), message.error()
                if error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET and reading:
                    self._expired(consumer, reading, gathered)
                elif error is not None and error.code() != KafkaError._PARTITION_EOF:
                    if _passes(error):
                        said.append(error.str())
                        continue
                    raise _unavailable(self.source, [error.str()])
                if reading is None:
                    continue
                offset, end = int(message.offset() or 0), reading.partition.end
                if error is None and offset < end:
                    gathered.add(message, reading, self._log(reading.partition))
                    reading.next = offset + 1
                elif error is None or error.code() == KafkaError._PARTITION_EOF:
                    # What lies between was no record: transaction markers, what compaction left out.
                    reading.next = max(reading.next, min(offset, end))
                    del open_[place]
                gathered.positions[self._log(reading.partition)] = reading.reached
                if place in open_ and reading.next >= end:
                    del open_[place]
                if place not in open_:
                    consumer.incremental_unassign([TopicPartition(*place)])
                if gathered.rows >= rows or gathered.size >= size:
                    yield gathered.batch()

    def _expired(self, consumer: Consumer, reading: _Reading, gathered: _Gathered) -> None:
        """Go on behind what a broker deleted while it was read."""
        from confluent_kafka import TopicPartition

        place = TopicPartition(reading.partition.topic, reading.partition.number)
        low, _ = _watermarks(self.source, consumer, place)
        low = min(low, reading.partition.end)
        if low > reading.next:
            gathered.unread.append(self._gap(replace(reading.partition, low=low), reading))
            reading.next = low
        place.offset = reading.next
        consumer.incremental_unassign([place])
        consumer.incremental_assign([place])

    def _known(self, position: Position) -> Iterator[Partition]:
        """The partitions, and those that a topic had before it was made anew with fewer."""
        yield from self.partitions
        for topic in dict.fromkeys(p.topic for p in self.partitions):
            there = [p for p in self.partitions if p.topic == topic]
            gone = Partition(topic, len(there), there[0].topic_id, 0, 0)
            while position(self._log(gone)) is not None:
                yield gone
                gone = replace(gone, number=gone.number + 1)

    def _begin(self, partition: Partition, position: Position) -> tuple[_Reading, Unread | None]:
        """Where reading begins, and what is lost before it."""
        reached = position(self._log(partition))
        identity = self._identity(partition)
        known = identity is not None and position(identity) is not None
        if reached is None:
            # A partition that a topic got later begins at its first message; else history that is
            # gone before the source was ever read is no loss.
            begin = _Reading(partition, 0, 0 if known else partition.low)
        else:
            begin = _Reading(partition, *divmod(reached, EPOCH))
            lost = f"topic: lost from offset {begin.next} on: "
            if identity is not None and not known:
                why = f"the topic was deleted and made anew (as {partition.topic_id})"
            else:
                why = f"the partition ends at {partition.end}, before the position"
            if partition.low:
                why += f", and 0 to {partition.low - 1} of it are gone"
            if (identity is not None and not known) or (identity is None and begin.next > partition.end):
                anew = _Reading(partition, begin.epoch + 1, partition.low)
                return anew, self._unread(partition, reached, lost + why)
            if begin.next > partition.end:
                # The topic is the same, its end was lost: what it still holds was taken in before.
                anew = _Reading(partition, begin.epoch + 1, partition.end)
                return anew, self._unread(partition, reached, lost + why)
        if partition.low > begin.next:
            gap = self._gap(partition, begin)
            begin.next = partition.low
            return begin, gap
        return begin, None

    def _gap(self, partition: Partition, reading: _Reading) -> Unread:
        first, last = reading.next, partition.low - 1
        why = f"topic: lost offsets {first} to {last}: deleted before they were read"
        return self._unread(partition, reading.epoch * EPOCH + last, why)

    def _unread(self, partition: Partition, offset: int, reason: str) -> Unread:
        note = f"{partition.name}: {reason.removeprefix('topic: ')}"
        return Unread(self._log(partition), offset, partition.name, reason, note)

    def _log(self, partition: Partition) -> str:
        return f"{self.source.name}/{partition.name}"

    def _identity(self, partition: Partition) -> str | None:
        """Under which name it is told that a topic was read; None where the broker has no such."""
        return f"{self.source.name}/{partition.topic}@{partition.topic_id}" if partition.topic_id else None


class _Gathered:
    """Messages, gaps and positions since the last batch."""

    def __init__(self, source: KafkaSource) -> None:
        self.source = source
        self.frames: list[pl.DataFrame] = []
        self._clear()

    def _clear(self) -> None:
        self.messages: list[tuple[Message, str, int]] = []
        self.unread: list[Unread] = []
        self.positions: dict[str, int] = {}
        self.rows = self.size = 0

    def add(self, message: Message, reading: _Reading, log: str) -> None:
        """One message more."""
        self.messages.append((message, log, reading.epoch))
        self.rows += 1
        self.size += len(message) + len(message.key() or b"")

    def batch(self) -> Batch:
        """What was gathered; the next batch starts empty."""
        frame = _frame(self.source, self.messages) if self.messages else pl.DataFrame()
        made = Batch(frame, self.unread, self.positions)
        self._clear()
        return made


def look(source: KafkaSource) -> Topics:
    """The partitions of a source and the offsets that they hold now.

    Raises:
        Unavailable: no broker answers, or a topic is not there.
    """
    from confluent_kafka import KafkaException, TopicPartition

    consumer, said = _consumer(source)
    try:
        try:
            known = consumer.list_topics(timeout=TIMEOUT).topics
        except KafkaException as error:
            raise _unavailable(source, [*said, _text(error)]) from None
        names = source.topics or [t for t in sorted(known) if re.fullmatch(source.pattern, t)]
        if absent := [t for t in names if t not in known]:
            raise Unavailable(f"source {source.name}: there is no topic {', '.join(absent)}")
        ids = _topic_ids(source, names)
        found: list[Partition] = []
        for topic in names:
            for number in sorted(known[topic].partitions):
                low, end = _watermarks(source, consumer, TopicPartition(topic, number))
                found.append(Partition(topic, number, ids.get(topic, ""), low, end))
    finally:
        consumer.close()
    return Topics(source, found)


def _consumer(source: KafkaSource) -> tuple[Consumer, list[str]]:
    """A consumer, and a list of what it says of errors that may pass."""
    from confluent_kafka import Consumer, KafkaException

    said: list[str] = []

    def note(error: KafkaError) -> None:
        said.append(error.str())

    settings: dict[str, Any] = {
        "group.id": f"medallion.{source.name}",
        "log_level": 0,
        **source.settings,
        **_OURS,
        "bootstrap.servers": source.brokers,
        "error_cb": note,
    }
    try:
        return Consumer(settings), said
    except KafkaException as error:
        raise Unavailable(f"source {source.name}: {_text(error)}") from None


def _topic_ids(source: KafkaSource, names: Sequence[str]) -> dict[str, str]:
    """The identity of each topic, by which one that was made anew is another; none of old brokers."""
    from confluent_kafka import KafkaException, TopicCollection
    from confluent_kafka.admin import AdminClient

    if not names:
        return {}
    settings: dict[str, Any] = {"log_level": 0, **source.settings, "bootstrap.servers": source.brokers}
    admin = AdminClient(settings)  # what is asked ends with it
    described = admin.describe_topics(TopicCollection(list(names)), request_timeout=TIMEOUT)
    found: dict[str, str] = {}
    for name, future in described.items():
        try:
            told = future.result().topic_id
        except KafkaException as error:
            raise _unavailable(source, [_text(error)]) from None
        if told.get_most_significant_bits() or told.get_least_significant_bits():
            found[name] = str(told)
    return found


def _watermarks(source: KafkaSource, consumer: Consumer, place: Any) -> tuple[int, int]:
    """The first offset of a partition, and the one behind its last committed message."""
    from confluent_kafka import KafkaException

    until = time.monotonic() + TIMEOUT
    while True:
        try:
            found: Any = consumer.get_watermark_offsets(place, timeout=TIMEOUT, cached=False)
        except KafkaException as error:
            # A leader that is just being elected, for one.
            if _passes(error.args[0]) and time.monotonic() < until:
                time.sleep(_PATIENCE)
                continue
            raise _unavailable(source, [_text(error)]) from None
        if found is None:
            raise _unavailable(source, [f"no offsets of {place.topic}/{place.partition}"])
        return found


def _passes(error: KafkaError) -> bool:
    """Whether a client gets over an error by itself."""
    return error.retriable() or error.name() in _PASSING


def _unavailable(source: KafkaSource, said: Sequence[str]) -> Unavailable:
    why = f" ({said[-1]})" if said else ""
    return Unavailable(
        f"source {source.name}: {source.brokers} gives no answer within {TIMEOUT:.0f} s{why}; what was taken "
        "in is safe, the next intake goes on from there"
    )


def _text(error: BaseException) -> str:
    told: Any = error.args[0] if error.args else error
    return told.str() if hasattr(told, "str") else str(told)


def _frame(source: KafkaSource, messages: Sequence[tuple[Message, str, int]]) -> pl.DataFrame:
    """Messages as records with their provenance."""
    values = [m.value() for m, _, _ in messages]
    tombstones = pl.Series([v is None for v in values])
    if isinstance(source.format, Debezium):
        values = [b"null" if v is None else v for v in values]
    frame = files.reparse(pl.Series(values, dtype=pl.Binary), source.format).drop("_row")
    if tombstones.any() and not isinstance(source.format, Debezium):
        frame = frame.with_columns(
            pl.when(tombstones).then(None).otherwise(pl.col("_payload")).alias("_payload"),
            pl.when(tombstones).then(pl.lit(_TOMBSTONE)).otherwise(pl.col("_malformed")).alias("_malformed"),
        )
    taken = set(frame.columns) | MESSAGE.keys()
    for name in MESSAGE.keys() & set(frame.columns):  # a field, not what Kafka says
        other = name + "_"
        while other in taken:
            other += "_"
        frame = frame.rename({name: other})
    offsets = [int(m.offset() or 0) for m, _, _ in messages]
    told = {
        "_source": pl.Series([log for _, log, _ in messages], dtype=pl.String),
        "_file": pl.Series([f"{m.topic()}/{m.partition()}" for m, _, _ in messages], dtype=pl.String),
        "_row": pl.Series([o + 1 for o in offsets], dtype=pl.Int64),
        "_offset": pl.Series(
            [epoch * EPOCH + o for o, (_, _, epoch) in zip(offsets, messages, strict=True)], dtype=pl.Int64
        ),
        "_key": pl.Series([m.key() for m, _, _ in messages], dtype=pl.Binary),
        "_headers": _headers([m.headers() or () for m, _, _ in messages]),
        "_timestamp": pl.Series(
            [t * 1000 if kind else None for m, _, _ in messages for kind, t in (m.timestamp(),)],
            dtype=pl.Int64,
        ).cast(MESSAGE["_timestamp"]),
    }
    return frame.with_columns(pl.Series(name, column) for name, column in told.items())


def _headers(given: Sequence[Any]) -> pl.Series:
    """The headers of messages, a list for each; by way of Arrow, a value at a time is slow."""
    import pyarrow as pa

    flat = [header for headers in given for header in headers]
    pairs = pa.StructArray.from_arrays(
        [
            pa.array([key for key, _ in flat], pa.large_string()),
            pa.array([value for _, value in flat], pa.large_binary()),
        ],
        ["key", "value"],
    )
    ends = np.cumsum([0, *(len(headers) for headers in given)], dtype=np.int64)
    lists: Any = pl.from_arrow(pa.LargeListArray.from_arrays(pa.array(ends), pairs))
    return lists.cast(MESSAGE["_headers"])
