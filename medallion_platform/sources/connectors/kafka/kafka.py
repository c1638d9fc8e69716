"""Topics of Kafka: the declaration of a source, and reading it in bounded runs.

Each partition of a topic is a log of its own. A record's offset is Kafka's; where a topic was made
anew under its name, offsets go on `EPOCH` further up, so that a position never goes back and no two
records share a place. What a position stands for is in the table: the next offset of each partition,
and the identity of each topic that was ever read.

What was taken is said by the table alone. A run (`look`) reads what is there and takes part in no
consumer group; continuous workers (`Follower`) share the partitions by one, and keep no offsets in it.
"""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from hashlib import blake2b
from itertools import groupby
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from medallion_platform.contracts.codes import Code
from medallion_platform.sources.arrivals import Batch, MovedOn, Position, Unavailable, Unread
from medallion_platform.sources.formats import debezium
from medallion_platform.sources.formats.reading import parse
from medallion_platform.sources.source import Avro, Debezium, JsonLines, Source

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
    from confluent_kafka.admin import AdminClient

Engine = Literal["polars", "spark"]
"""Who takes topics in: one small process, or Spark's executors where a few of these are not enough."""

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

LAST_TIMESTAMP = 253_402_300_800_000
"""Milliseconds until the year 10000, where a message's time is no time any more."""

_TOMBSTONE = "no value: a tombstone"
_NOT_UTF8 = "(the name of a header is not UTF-8)"
_CHUNK = 10_000
_PATIENCE = 0.1
"""Seconds that fewer messages than a chunk may take."""
_PASSING = {
    *("_TRANSPORT", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_WAIT_COORD"),
    *("NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE", "UNKNOWN_TOPIC_OR_PART"),
}
_SECRET = ("password", "secret", "token", "key", "jaas", "username")
"""What is in the name of a setting whose value is never told, however short it is."""
_TELLING = 8
"""From how many characters on the value of any other setting may be a secret in the wrong place."""
_OURS: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
}
_MEMBER: dict[str, Any] = {
    # A killed worker's partitions go to the others after this long.
    "session.timeout.ms": 10_000,
    "heartbeat.interval.ms": 2_000,
    # New partitions, and new topics of a pattern, are noticed after this long.
    "topic.metadata.refresh.interval.ms": 10_000,
    "partition.assignment.strategy": "range",
}
_NO_GROUP = {"GROUP_ID_NOT_FOUND", "GROUP_AUTHORIZATION_FAILED", "_UNSUPPORTED_FEATURE"}


def ours(settings: Mapping[str, Any]) -> list[str]:
    """Which settings of the client are not for others to set."""
    return sorted(_OURS.keys() & settings.keys())


@dataclass(frozen=True)
class KafkaSource(Source):
    """Messages of some topics that become one bronze table.

    A message is a record, also one with line ends in it. A tombstone (a message without a value) is a
    dead letter of a JSON or Avro source and a change event without an image of a Debezium source. `settings`
    go to the client as they are (`bootstrap.servers`, `sasl.password`); only the brokers are ever shown.
    """

    topics: tuple[str, ...] = field(default=(), kw_only=True)
    pattern: str = field(default="", kw_only=True)
    """A regular expression for whole names of topics, in the place of `topics`."""
    engine: Engine = field(default="polars", kw_only=True)
    settings: Mapping[str, str | int | float | bool] = field(kw_only=True, repr=False, compare=False)

    @classmethod
    def of(cls, source: Source, **where: Any) -> KafkaSource:
        """The records of a source, from topics in the place of where they came from."""
        return cls(**{f.name: getattr(source, f.name) for f in fields(Source)}, **where)

    def __post_init__(self) -> None:
        self._refuse_contradictions()
        object.__setattr__(self, "topics", tuple(self.topics))
        if bool(self.topics) == bool(self.pattern):
            raise ValueError(f"source {self.name!r} names either topics or a pattern of them")
        if not isinstance(self.format, JsonLines | Debezium | Avro):
            raise ValueError(f"source {self.name!r}: messages are JSON or Avro, not {self.format!r}")
        re.compile(self.pattern)
        if re.search(r"\\[A-Za-z]|\(\?", self.pattern):
            raise ValueError(
                f"source {self.name!r}: the pattern {self.pattern!r} has to be a POSIX expression, which a "
                "group's members share: [0-9] in the place of \\d, and no (?"
            )
        if not self.settings.get("bootstrap.servers"):
            raise ValueError(f"source {self.name!r}: its settings lack bootstrap.servers")
        if refused := ours(self.settings):
            raise ValueError(f"source {self.name!r}: {', '.join(refused)} cannot be set")

    @property
    def brokers(self) -> str:
        """Where it asks."""
        return str(self.settings["bootstrap.servers"])

    @property
    def where(self) -> str:
        """The topics that it reads."""
        return "topics " + ", ".join(f"`{t}`" for t in self.topics or (self.pattern,))

    def provenance(self) -> Mapping[str, Any]:
        """Key, headers and time of the message."""
        return MESSAGE

    def recovered(self, positions: Mapping[str, int]) -> Mapping[str, int]:
        """The positions; which topic of a name it was that was read, rows do not tell."""
        return {**positions, **{_unsure(log): 0 for log in positions}}


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
class Reading:
    """How far a partition is read; `next` is Kafka's own offset."""

    partition: Partition
    log: str
    epoch: int
    next: int

    @property
    def place(self) -> tuple[str, int]:
        """What Kafka knows the partition by."""
        return self.partition.topic, self.partition.number

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
    before: Position | None = None
    """The positions before the look: only what was beyond an end already then is lost."""
    pieces: str = "partitions"

    def waiting(self, position: Position) -> list[str]:
        """The partitions that hold more than was taken in, or whose position is not set yet."""
        return [
            f"{begin.log} {begin.partition.topic_id} {begin.partition.end}"
            for begin, gap in self.begin(position)
            if gap or begin.next < begin.partition.end or begin.reached != position(begin.log)
        ]

    def batches(self, position: Position, rows: int, size: int) -> Iterator[Batch]:
        """The messages from the positions on up to where the partitions ended when looked at."""
        gathered = _PendingBatch(self.source)
        open_: dict[tuple[str, int], Reading] = {}
        for reading, gap in self.begin(position):
            gathered.begin(reading, gap, position)
            if reading.next < reading.partition.end:
                open_[reading.place] = reading
        if open_:
            client = Client(self.source)
            try:
                yield from self._read(client, open_, gathered, rows, size)
            finally:
                client.consumer.close()
        if gathered.positions:
            yield gathered.batch()

    def _read(
        self,
        client: Client,
        open_: dict[tuple[str, int], Reading],
        gathered: _PendingBatch,
        rows: int,
        size: int,
    ) -> Iterator[Batch]:
        client.assign(open_.values())
        heard = time.monotonic()
        while open_:
            messages = client.consume(min(_CHUNK, max(rows - gathered.rows, 1)), _PATIENCE)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() > heard + TIMEOUT:
                raise client.unavailable()
            for place, said in _by_place(messages):
                reading = open_.get(place)
                if reading is None:
                    continue
                heard_of = client.sort(said)
                ended = gathered.add(reading, heard_of)
                if heard_of.expired:
                    self._expired(client, reading, gathered)
                    ended = ended or reading.next >= reading.partition.end
                if ended:
                    del open_[place]
                    client.unassign(reading)
            if gathered.rows >= rows or gathered.size >= size:
                client.refuse_others(self.partitions)
                yield gathered.batch()
        client.refuse_others(self.partitions)

    def _expired(self, client: Client, reading: Reading, gathered: _PendingBatch) -> None:
        """Go on behind what a broker deleted while it was read."""
        low = min(client.watermarks(*reading.place)[0], reading.partition.end)
        if low > reading.next:
            gathered.unread.append(self._gap(replace(reading.partition, low=low), reading))
            reading.next = low
            gathered.positions[reading.log] = reading.reached
        client.unassign(reading)
        client.assign_also(reading)

    def beginnings(self, position: Position) -> Topics:
        """The same partitions without what is still to be read: what is lost before it, and identities."""
        here = [replace(r.partition, end=r.next) for r, _ in self.begin(position)]
        return replace(self, partitions=here, before=self.before or position)

    def begin(self, position: Position) -> Iterator[tuple[Reading, Unread | None]]:
        """Where the reading of each partition begins, and what is lost before it."""
        for partition in self._known(position):
            yield self._begin(partition, position)

    def _known(self, position: Position) -> Iterator[Partition]:
        """The partitions, and those that a topic had before it was recreated with fewer."""
        yield from self.partitions
        for topic in dict.fromkeys(p.topic for p in self.partitions):
            there = [p for p in self.partitions if p.topic == topic]
            gone = Partition(topic, len(there), there[0].topic_id, 0, 0)
            while position(self._log(gone)) is not None:
                yield gone
                gone = replace(gone, number=gone.number + 1)

    def _begin(self, partition: Partition, position: Position) -> tuple[Reading, Unread | None]:
        log = self._log(partition)
        reached = position(log)
        identity = _identity(self.source, partition)
        known = identity is not None and (position(identity) is not None or _is_unsure(log, position))
        if reached is None:
            # A partition that a topic got later begins at its first message; else history that is
            # gone before the source was ever read is no loss.
            begin = Reading(partition, log, 0, 0 if known else partition.low)
        else:
            begin = Reading(partition, log, *divmod(reached, EPOCH))
            self._refuse_later(begin)
            gone = {"first": begin.next, "last": None}
            lost = f"lost from offset {begin.next} on: "
            if identity is not None and not known:
                why = f"the topic was deleted and recreated (as {partition.topic_id})"
            else:
                why = f"the partition ends at {partition.end}, before the position"
            if partition.low:
                why += f", and 0 to {partition.low - 1} of it are gone"
            if (identity is not None and not known) or (identity is None and begin.next > partition.end):
                anew = Reading(partition, log, begin.epoch + 1, partition.low)
                return anew, _unread(partition, log, reached, lost + why, gone)
            if begin.next > partition.end:
                # The topic is the same, its end was lost: what it still holds was taken in before.
                anew = Reading(partition, log, begin.epoch + 1, partition.end)
                return anew, _unread(partition, log, reached, lost + why, gone)
        if partition.low > begin.next:
            gap = self._gap(partition, begin)
            begin.next = partition.low
            return begin, gap
        return begin, None

    def _refuse_later(self, begin: Reading) -> None:
        """Stop where others took in what came after this look: that an end lies before it is no loss."""
        seen = begin.epoch * EPOCH + begin.partition.end
        if self.before is not None and begin.reached > seen >= (self.before(begin.log) or 0):
            raise MovedOn(f"source {self.source.name}: another intake took in more of {begin.partition.name}")

    def _gap(self, partition: Partition, reading: Reading) -> Unread:
        first, last = reading.next, partition.low - 1
        why = f"lost offsets {first} to {last}: deleted before they were read"
        gone = {"first": first, "last": last}
        return _unread(partition, reading.log, reading.epoch * EPOCH + last, why, gone)

    def _log(self, partition: Partition) -> str:
        return f"{self.source.name}/{partition.name}"


def _unread(partition: Partition, log: str, offset: int, why: str, gone: Mapping[str, int | None]) -> Unread:
    return Unread(log, offset, partition.name, Code.GAP, f"topic: {why}", f"{partition.name}: {why}", gone)


def _identity(source: KafkaSource, partition: Partition) -> str | None:
    """Under which name it is told that a topic was read; None where the broker has no such."""
    return f"{source.name}/{partition.topic}@{partition.topic_id}" if partition.topic_id else None


def _unsure(log: str) -> str:
    """Under which name it is told that a topic was read, but not which of that name: 0 while that is so."""
    return f"{log.rpartition('/')[0]}@"


def _is_unsure(log: str, position: Position) -> bool:
    return position(_unsure(log)) == 0


def group_of(source: Source, lake: str) -> str:
    """The consumer group of the workers that take a source into one lake, by the lake's root.

    Two lakes (staging and production, say) are two groups: each gets every message.
    """
    return f"medallion.{source.name}.{blake2b(lake.encode(), digest_size=4).hexdigest()}"


class Follower:
    """A member of a source's consumer group: what comes into the partitions that the group gives it.

    `poll` raises `Unavailable` while the brokers cannot be reached: call again.
    """

    def __init__(self, source: KafkaSource, group: str, positions: Callable[[], Position]) -> None:
        """positions: a fresh look at how far the table is."""
        self.source = source
        self._positions = positions
        self._client = Client(source, {**_MEMBER, "group.id": group})
        self._gathered = _PendingBatch(source)
        self._readings: dict[tuple[str, int], Reading] = {}
        self._begun: dict[str, int | None] = {}
        self._given: set[tuple[str, int]] = set()
        self._to_begin = True
        names = list(source.topics) or [f"^({source.pattern})$"]
        self._client.consumer.subscribe(names, on_assign=self._on_given, on_revoke=self._on_taken_away)

    def poll(self, rows: int, size: int, within: float) -> PollResult | None:
        """What came, once it is `rows` or `size` bytes, or `within` seconds have passed; None for nothing."""
        if self._to_begin:
            self._begin()
        gathered = self._gathered
        while True:
            wanted = min(_CHUNK, max(rows - gathered.rows, 1))
            messages = self._client.consume(wanted, within)
            if self._to_begin:
                return None  # the group was rearranged meanwhile: these may be another worker's now
            if not messages:
                self._client.ask_if_in_doubt()
            for place, said in _by_place(messages):
                heard = self._client.sort(said)
                if heard.expired:
                    self.begin_anew()
                    return None
                if place in self._readings:
                    gathered.add(self._readings[place], heard)
            if len(messages) < wanted or gathered.rows >= rows or gathered.size >= size:
                break
        if not gathered.rows and not gathered.unread:
            return None
        if self._client.others([r.partition for r in self._readings.values()]):
            self.begin_anew()
            return None
        batch = gathered.batch()
        begun = {log: self._begun[log] for log in batch.positions if log in self._begun}
        self._begun.update(batch.positions)
        return PollResult(self.source, batch, begun)

    def begin_anew(self) -> None:
        """Forget what was read and begin where the table is: a batch was not taken in."""
        self._to_begin = True

    def behind(self) -> dict[str, int]:
        """How many offsets of each partition lie between what was read and its end, where that was heard."""
        found: dict[str, int] = {}
        for reading in self._readings.values():
            with suppress(Unavailable):
                _, end = self._client.watermarks(*reading.place, cached=True)
                found[reading.log] = max(end - reading.next, 0)
        return found

    def close(self) -> None:
        """Leave the group, which gives the partitions to its other members."""
        self._client.consumer.close()

    def _on_given(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        # Where to begin is looked up outside of the callback, in which nothing may fail.
        self._given = {(p.topic, p.partition) for p in places}
        self._to_begin = True
        consumer.assign([])

    def _on_taken_away(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        self._given = set()
        self._to_begin = True
        consumer.unassign()

    def _begin(self) -> None:
        self._gathered.clear()
        self._readings.clear()
        self._begun.clear()
        position = self._positions()
        for reading, gap in Topics(self.source, self._client.partitions()).begin(position):
            # A topic's identity speaks for all of its partitions: who writes it begins them all.
            identity = _identity(self.source, reading.partition)
            new = identity is not None and position(identity) is None
            # A partition that a topic no longer has is given to nobody: to who has the first one.
            gone = reading.partition.end == 0 and (reading.place[0], 0) in self._given
            if reading.place not in self._given and not new and not (gone and gap):
                continue
            self._begun[reading.log] = position(reading.log)
            self._gathered.begin(reading, gap, position)
            if reading.place in self._given:
                reading.partition = replace(reading.partition, end=EPOCH)
                self._readings[reading.place] = reading
        self._client.assign(self._readings.values())
        self._to_begin = False


@dataclass(frozen=True)
class PollResult:
    """What a follower read, as arrivals of one batch."""

    source: KafkaSource
    batch: Batch
    begun: Mapping[str, int | None]
    """The positions that it begins at."""
    notes: Sequence[str] = ()
    pieces: str = "partitions"

    def waiting(self, position: Position) -> list[str]:
        """The partitions that it is of."""
        return sorted(self.begun)

    def batches(self, position: Position, rows: int, size: int) -> Iterator[Batch]:
        """The batch.

        Raises:
            MovedOn: the table is not where the batch begins; another worker has the partition now.
        """
        if moved := [log for log, begun in self.begun.items() if position(log) != begun]:
            raise MovedOn(f"source {self.source.name}: another worker took in {', '.join(sorted(moved))}")
        yield self.batch


@dataclass(frozen=True)
class _PartitionRead:
    """Messages of one partition, and what was said of it beside them."""

    messages: Sequence[Message]
    end: int | None
    """The end of the partition, where that was reached."""
    expired: bool


class _PendingBatch:
    """Messages, gaps and positions since the last batch."""

    def __init__(self, source: KafkaSource) -> None:
        self.source = source
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self.messages: list[tuple[Reading, int, Sequence[Message]]] = []
        self.unread: list[Unread] = []
        self.positions: dict[str, int] = {}
        self.rows = self.size = 0

    def begin(self, reading: Reading, gap: Unread | None, position: Position) -> None:
        """Where a partition begins, as far as the table does not say so."""
        if gap:
            self.unread.append(gap)
        if reading.reached != position(reading.log):
            self.positions[reading.log] = reading.reached
        identity = _identity(self.source, reading.partition)
        if identity and position(identity) is None:
            self.positions[identity] = 0
            if _is_unsure(reading.log, position):
                self.positions[_unsure(reading.log)] = 1

    def add(self, reading: Reading, heard: _PartitionRead) -> bool:
        """Messages of a partition up to its end; whether that is reached."""
        messages, end = heard.messages, reading.partition.end
        if messages and int(messages[-1].offset() or 0) >= end:
            messages = [m for m in messages if int(m.offset() or 0) < end]
            reached = end
        elif messages:
            reached = int(messages[-1].offset() or 0) + 1
        else:
            reached = reading.next
        if messages:
            self.messages.append((reading, reading.epoch, messages))
            self.rows += len(messages)
            self.size += sum(map(len, messages))
        # What lies between was no record: transaction markers, what compaction left out.
        reading.next = max(reading.next, reached, min(heard.end or 0, end))
        self.positions[reading.log] = reading.reached
        return heard.end is not None or reading.next >= end

    def batch(self) -> Batch:
        """What was gathered; the next batch starts empty."""
        with _uncollected():
            frame = _frame(self.source, self.messages) if self.messages else pl.DataFrame()
            made = Batch(frame, self.unread, self.positions)
            self.clear()
        return made


class Attendance:
    """A member of a source's consumer group that reads nothing: others see that the source is followed."""

    def __init__(self, source: KafkaSource, group: str) -> None:
        self._consumer = Client(source, {**_MEMBER, "group.id": group}).consumer
        names = list(source.topics) or [f"^({source.pattern})$"]
        self._consumer.subscribe(names, on_assign=lambda consumer, _: consumer.assign([]))
        self._left = Event()
        self._thread = Thread(target=self._attend, daemon=True)
        self._thread.start()

    def _attend(self) -> None:
        while not self._left.is_set():
            self._consumer.poll(1.0)
        self._consumer.close()

    def close(self) -> None:
        """Leave the group."""
        self._left.set()
        self._thread.join()


def look(source: KafkaSource, before: Position | None = None) -> Topics:
    """The partitions of a source and the offsets that they hold now.

    before: the positions, as they were read before this.

    Raises:
        Unavailable: no broker answers, or a topic is not there.
    """
    client = Client(source)
    try:
        return Topics(source, client.partitions(), before=before)
    finally:
        client.consumer.close()


def streamed(source: KafkaSource, group: str) -> int:
    """How many continuous workers of a group have the source in their hands now.

    Raises:
        Unavailable: no broker answers.
    """
    from confluent_kafka import KafkaException

    said: list[str] = []
    admin = _admin(source, said)  # what is asked ends with it
    try:
        (described,) = admin.describe_consumer_groups([group], request_timeout=TIMEOUT).values()
        return len(described.result().members)
    except KafkaException as error:
        if error.args[0].name() in _NO_GROUP:
            return 0
        admin.poll(0)  # only now it says why
        raise _unavailable(source, [_text(error), *said]) from None


class Client:
    """A consumer of a source, and what it said of errors that may pass."""

    def __init__(self, source: KafkaSource, further: Mapping[str, Any] | None = None) -> None:
        from confluent_kafka import Consumer, KafkaException

        self.source = source
        self.said: list[str] = []
        settings: dict[str, Any] = {
            **_settings(source),
            "group.id": f"medallion.{source.name}",
            **(further or {}),
            **_OURS,
            "error_cb": _noting(self.said),
        }
        try:
            self.consumer: Consumer = Consumer(settings)
        except KafkaException as error:
            refused = _refused(source, error)
        else:
            return
        raise refused  # out here: what quotes the setting is no context of it

    def close(self) -> None:
        """Let go of the brokers."""
        self.consumer.close()

    @cached_property
    def admin(self) -> AdminClient:
        """Who is asked about topics; kept, as what is asked ends with it."""
        return _admin(self.source, [])

    def partitions(self) -> list[Partition]:
        """All partitions of the source as they are now."""
        from confluent_kafka import KafkaException

        source = self.source
        try:
            known = self.consumer.list_topics(timeout=TIMEOUT).topics
        except KafkaException as error:
            self.consumer.poll(0)  # only now it says why
            raise _unavailable(source, [_text(error), *self.said]) from None
        names = source.topics or [t for t in sorted(known) if re.fullmatch(source.pattern, t)]
        if absent := [t for t in names if t not in known]:
            raise Unavailable(f"source {source.name}: there is no topic {', '.join(absent)}")
        ids = self.topic_ids(names)
        found: list[Partition] = []
        for topic in names:
            for number in sorted(known[topic].partitions):
                low, end = self.watermarks(topic, number)
                found.append(Partition(topic, number, ids.get(topic, ""), low, end))
        return found

    def topic_ids(self, names: Iterable[str]) -> dict[str, str]:
        """The identity of each topic, by which one that was recreated is another; none of old brokers."""
        from confluent_kafka import KafkaException, TopicCollection

        names = list(names)
        if not names:
            return {}
        described = self.admin.describe_topics(TopicCollection(names), request_timeout=TIMEOUT)
        found: dict[str, str] = {}
        for name, future in described.items():
            try:
                told = future.result().topic_id
            except KafkaException as error:
                raise _unavailable(self.source, [_text(error)]) from None
            if told.get_most_significant_bits() or told.get_least_significant_bits():
                found[name] = str(told)
        return found

    def others(self, partitions: Iterable[Partition]) -> list[str]:
        """The topics of partitions that are others by now, under the same name."""
        seen = {p.topic: p.topic_id for p in partitions}
        now = self.topic_ids(seen)
        return sorted(topic for topic, identity in seen.items() if now.get(topic, "") != identity)

    def refuse_others(self, partitions: Iterable[Partition]) -> None:
        """Stop where a topic was recreated while it was read: what was read may be of either."""
        if others := self.others(partitions):
            raise Unavailable(
                f"source {self.source.name}: {', '.join(others)} was deleted and recreated while it was "
                "read; the next intake begins with the new one"
            )

    def watermarks(self, topic: str, number: int, *, cached: bool = False) -> tuple[int, int]:
        """The first offset of a partition, and the one behind its last committed message."""
        from confluent_kafka import KafkaException, TopicPartition

        place = TopicPartition(topic, number)
        until = time.monotonic() + TIMEOUT
        while True:
            try:
                found: Any = self.consumer.get_watermark_offsets(place, timeout=TIMEOUT, cached=cached)
            except KafkaException as error:
                # A leader that is just being elected, for one.
                if _passes(error.args[0]) and time.monotonic() < until:
                    time.sleep(_PATIENCE)
                    continue
                raise _unavailable(self.source, [_text(error)]) from None
            if found is None:
                raise _unavailable(self.source, [f"no offsets of {topic}/{number}"])
            return found

    def assign(self, readings: Iterable[Reading]) -> None:
        """Read these partitions and no others, each from where it is."""
        from confluent_kafka import TopicPartition

        self.consumer.assign([TopicPartition(*r.place, r.next) for r in readings])

    def assign_also(self, reading: Reading) -> None:
        """Read a further partition."""
        from confluent_kafka import TopicPartition

        self.consumer.incremental_assign([TopicPartition(*reading.place, reading.next)])

    def unassign(self, reading: Reading) -> None:
        """Read a partition no longer."""
        from confluent_kafka import TopicPartition

        self.consumer.incremental_unassign([TopicPartition(*reading.place)])

    def consume(self, most: int, within: float) -> list[Message]:
        """What comes within some seconds."""
        with _uncollected():
            return self.consumer.consume(most, within)

    def sort(self, said: Sequence[Message]) -> _PartitionRead:
        """Part messages of one partition from what the client says of it.

        Raises:
            Unavailable: it cannot be read.
        """
        from confluent_kafka import KafkaError, Message

        errors = [(m, error) for m, error in zip(said, map(Message.error, said), strict=True) if error]
        messages = [m for m in said if m.error() is None] if errors else said
        end, expired = None, False
        for event, error in errors:
            if error.code() == KafkaError._PARTITION_EOF:
                end = int(event.offset() or 0)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                expired = True
            elif _passes(error):
                self.said[:] = [error.str()]
            else:
                raise Unavailable(
                    f"source {self.source.name}: {self.source.brokers} refuses: "
                    f"{discreet(self.source, error.str())}; what was taken in is safe, the next intake goes "
                    "on from there"
                )
        return _PartitionRead(messages, end, expired)

    def ask_if_in_doubt(self) -> None:
        """Where the client complained, see whether the brokers answer at all.

        Raises:
            Unavailable: they do not.
        """
        if self.said:
            self.partitions()
            self.said.clear()

    def unavailable(self) -> Unavailable:
        """Nobody answers, and what was said of it last."""
        return _unavailable(self.source, self.said)


def _settings(source: KafkaSource) -> dict[str, Any]:
    # A broker that comes back is found within a second.
    return {"log_level": 0, "reconnect.backoff.max.ms": 1_000, **source.settings}


def _admin(source: KafkaSource, said: list[str]) -> AdminClient:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    settings: dict[str, Any] = {**_settings(source), "error_cb": _noting(said)}
    try:
        return AdminClient(settings)
    except KafkaException as error:
        refused = _refused(source, error)
    raise refused


def _refused(source: KafkaSource, error: BaseException) -> Unavailable:
    """What the client does not take of its settings; it quotes the value, which may be a password."""
    said, told = _text(error), source.settings
    named = next((name for name in told if f'"{name}"' in said), None)
    named = named or next((name for name, value in told.items() if name in said or str(value) in said), None)
    if named and "No such configuration property" in said:
        return Unavailable(f"source {source.name}: {named} is no setting of Kafka that the client knows")
    about = f"{named} has a value" if named else "there is one, or a combination,"
    return Unavailable(f"source {source.name}: of its settings of Kafka, {about} that the client refuses")


def discreet(source: KafkaSource, text: str) -> str:
    """What a client said, without the values of settings that it quotes."""
    for name, value in source.settings.items():
        said = str(value)
        if name == "bootstrap.servers" or not said:
            continue
        if len(said) >= _TELLING or any(word in name for word in _SECRET):
            text = text.replace(said, "***")
    return text


def _noting(said: list[str]) -> Callable[[KafkaError], None]:
    """Keeps in `said` the last error that a client complains of, rather one that says why than that."""

    def note(error: KafkaError) -> None:
        if not said or error.name() != "_ALL_BROKERS_DOWN":
            said[:] = [error.str()]

    return note


@contextmanager
def _uncollected() -> Generator[None]:
    """Without Python's search for cycles, which messages never are in.

    It would begin anew every few hundred of them and look at all that are there, again and again: a third
    of all that an intake costs.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _by_place(messages: Sequence[Message]) -> Iterator[tuple[tuple[str, int], Sequence[Message]]]:
    """Neighbours of one partition together, with their topic and partition.

    The client's own methods are mapped: a function of Python's for each message costs as much again.
    """
    from confluent_kafka import Message

    begin = 0
    places = zip(map(Message.topic, messages), map(Message.partition, messages), strict=True)
    for place, same in groupby(places):
        end = begin + len(list(same))
        yield place, messages[begin:end]  # type: ignore[misc]
        begin = end


def _passes(error: KafkaError) -> bool:
    """Whether a client gets over an error by itself."""
    return error.retriable() or error.name() in _PASSING


def _unavailable(source: KafkaSource, said: Sequence[str]) -> Unavailable:
    why = f" ({discreet(source, said[-1])})" if said else ""
    return Unavailable(
        f"source {source.name}: {source.brokers} gives no answer within {TIMEOUT:.0f} s{why}; what was taken "
        "in is safe, the next intake goes on from there"
    )


def _text(error: BaseException) -> str:
    told: Any = error.args[0] if error.args else error
    return told.str() if hasattr(told, "str") else str(told)


def _frame(source: KafkaSource, runs: Sequence[tuple[Reading, int, Sequence[Message]]]) -> pl.DataFrame:
    """Messages as records with their provenance; runs: neighbours of one partition and one epoch."""
    from confluent_kafka import Message

    messages = [m for _, _, run in runs for m in run]
    lengths = [len(run) for _, _, run in runs]
    offsets = np.fromiter(map(Message.offset, messages), np.int64, len(messages))
    epochs = np.repeat([epoch * EPOCH for _, epoch, _ in runs], lengths)
    told = {
        "_source": _repeated([reading.log for reading, _, _ in runs], lengths),
        "_file": _repeated([reading.partition.name for reading, _, _ in runs], lengths),
        "_row": pl.Series(offsets + 1),
        "_offset": pl.Series(offsets + epochs),
        "_key": pl.Series(list(map(Message.key, messages)), dtype=pl.Binary),
        "_headers": headers_of(_headers(messages)),
        "_timestamp": _timestamps(messages),
    }
    return framed(source, list(map(Message.value, messages)), told)


def framed(
    source: KafkaSource, values: Sequence[bytes | None], told: Mapping[str, pl.Series]
) -> pl.DataFrame:
    """The values of messages as records, beside what else is told of them."""
    nothing = b"null" if isinstance(source.format, Debezium) else b""
    tombstones = pl.Series([v is None for v in values])
    if isinstance(source.format, Debezium):
        keys = told["_key"].to_list()
        values = [v and debezium.keyed(v, key) for v, key in zip(values, keys, strict=True)]
    try:
        records = [nothing if v is None else v for v in values]
        frame = parse(records, source.format, declared=source.contract.column_names).drop("_row")
    except Unavailable as error:
        raise Unavailable(
            f"source {source.name}: {error}; what was taken in is safe, the next intake goes on from there"
        ) from None
    if tombstones.any() and not isinstance(source.format, Debezium):
        frame = frame.with_columns(
            *(pl.when(~tombstones).then(pl.col(c)).alias(c) for c in ("_payload", "_payload_bytes")),
            pl.when(tombstones).then(pl.lit(_TOMBSTONE)).otherwise(pl.col("_malformed")).alias("_malformed"),
        )
    return frame.with_columns(pl.Series(name, column) for name, column in told.items())


def _repeated(names: Sequence[str], lengths: Sequence[int]) -> pl.Series:
    return pl.Series(names, dtype=pl.String).gather(np.repeat(np.arange(len(names)), lengths))


def _headers(messages: Sequence[Message]) -> Sequence[Any]:
    """The headers of each message; the client cannot give any where one's name is not UTF-8."""
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


def _timestamps(messages: Sequence[Message]) -> pl.Series:
    """When the messages were made or appended, by the topic's settings; null of old clients and of clocks
    that count something else than milliseconds."""
    from confluent_kafka import Message

    kinds, times_told = zip(*map(Message.timestamp, messages), strict=True)
    milliseconds = np.fromiter(times_told, np.int64, len(messages))
    known = np.fromiter(kinds, np.bool_, len(messages))
    known &= (milliseconds >= 0) & (milliseconds < LAST_TIMESTAMP)
    times = pl.Series(np.where(known, milliseconds, 0) * 1000)
    return times.set(pl.Series(~known), None).cast(MESSAGE["_timestamp"])


def headers_of(given: Sequence[Any]) -> pl.Series:
    """The headers of messages, a list or None for each; by way of Arrow, a value at a time is slow."""
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
