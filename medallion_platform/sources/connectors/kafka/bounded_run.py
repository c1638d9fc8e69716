"""Topics read in bounded runs, from the table's positions to the ends of the partitions when the run began.

Positions are in the table alone: such a run does not join a consumer group.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from medallion_platform.sources.arrivals import Batch, PositionOf, Range, UnreadableRange
from medallion_platform.sources.connectors.kafka import offsets
from medallion_platform.sources.connectors.kafka.client import (
    CHUNK,
    PATIENCE,
    KafkaClient,
    PartitionRead,
    without_garbage_collection,
)
from medallion_platform.sources.connectors.kafka.messages import (
    Parse,
    group_by_partition,
    messages_frame,
    unparsed_messages,
)
from medallion_platform.sources.connectors.kafka.offsets import (
    EPOCH,
    PartitionCursor,
    TopicPartitionRange,
    is_unidentified,
    topic_identity,
    unidentified_log,
)
from medallion_platform.sources.connectors.kafka.source import KafkaSource

if TYPE_CHECKING:
    from confluent_kafka import Message


@dataclass(frozen=True)
class Topics:
    """The partitions of a source at one point in time; only what they held then is read."""

    source: KafkaSource
    partitions: Sequence[TopicPartitionRange]
    notes: Sequence[str] = ()
    before: PositionOf | None = None
    """The positions before the look: only what was beyond an end already then is lost."""
    pieces: str = "partitions"

    def waiting(self, position: PositionOf) -> list[str]:
        """The partitions that hold more than was taken in, or whose position is not set yet."""
        return [
            f"{begin.log} {begin.partition.topic_id} {begin.partition.end}"
            for begin, gap in self.begin(position)
            if gap or begin.next < begin.partition.end or begin.reached != position(begin.log)
        ]

    def batches(self, position: PositionOf, rows: int, size: int) -> Iterator[Batch]:
        """The messages from the positions up to the ends that the partitions had when listed."""
        return self._batches(position, rows, size, MessageBuffer(self.source))

    def _batches(
        self, position: PositionOf, rows: int, size: int, gathered: MessageBuffer
    ) -> Iterator[Batch]:
        open_: dict[tuple[str, int], PartitionCursor] = {}
        for reading, gap in self.begin(position):
            gathered.begin(reading, gap, position)
            if reading.next < reading.partition.end:
                open_[reading.place] = reading
        if open_:
            client = KafkaClient(self.source)
            try:
                yield from self._read(client, open_, gathered, rows, size)
            finally:
                client.consumer.close()
        if gathered.positions:
            yield gathered.take_batch()

    def _read(
        self,
        client: KafkaClient,
        open_: dict[tuple[str, int], PartitionCursor],
        gathered: MessageBuffer,
        rows: int,
        size: int,
    ) -> Iterator[Batch]:
        client.assign(open_.values())
        heard = time.monotonic()
        while open_:
            messages = client.consume(min(CHUNK, max(rows - gathered.rows, 1)), PATIENCE)
            if messages:
                heard = time.monotonic()
            elif client.is_silent_since(heard):
                raise client.unavailable()
            for place, said in group_by_partition(messages):
                reading = open_.get(place)
                if reading is None:
                    continue
                heard_of = client.split_errors(said)
                ended = gathered.add(reading, heard_of)
                if heard_of.expired:
                    self._expired(client, reading, gathered)
                    ended = ended or reading.next >= reading.partition.end
                if ended:
                    del open_[place]
                    client.unassign(reading)
            if gathered.rows >= rows or gathered.size >= size:
                client.refuse_recreated_topics(self.partitions)
                yield gathered.take_batch()
        client.refuse_recreated_topics(self.partitions)

    def begins(self, position: PositionOf) -> Mapping[str, int]:
        """The partitions that hold more than was taken in."""
        return {r.log: position(r.log) or 0 for r, _ in self.begin(position) if r.next < r.partition.end}

    def ahead(self, position: PositionOf, rows: int) -> Sequence[Range]:
        """The next offsets of each partition."""
        return [
            Range(r.log, r.reached, replace(r, next=min(r.partition.end, r.next + rows)).reached)
            for r, _ in self.begin(position)
            if r.next < r.partition.end
        ]

    def within(self, ranges: Sequence[Range], position: PositionOf, rows: int, size: int) -> Iterator[Batch]:
        """The messages at these offsets."""
        return self._part(ranges, position)._batches(position, rows, size, MessageBuffer(self.source))

    def unparsed(self, fatal: Range, position: PositionOf) -> Iterator[Batch]:
        """The message as a dead letter."""
        gathered = MessageBuffer(self.source, unparsed_messages)
        return self._part([fatal], position)._batches(position, 1, 1, gathered)

    def _part(self, ranges: Sequence[Range], position: PositionOf) -> Topics:
        """The same partitions, of which none holds anything behind these ranges."""
        ends = {of.log: of.end for of in ranges}
        partitions = [
            replace(r.partition, end=min(r.partition.end, max(ends.get(r.log, 0) - r.epoch * EPOCH, r.next)))
            for r, _ in self.begin(position)
        ]
        return replace(self, partitions=partitions, before=self.before or position)

    def _expired(self, client: KafkaClient, reading: PartitionCursor, gathered: MessageBuffer) -> None:
        """Continue after the messages that a broker deleted during reading."""
        low = min(client.watermarks(*reading.place)[0], reading.partition.end)
        if low > reading.next:
            gathered.unread.append(offsets.deleted_range(replace(reading.partition, low=low), reading))
            reading.next = low
            gathered.positions[reading.log] = reading.reached
        client.unassign(reading)
        client.assign_also(reading)

    def beginnings(self, position: PositionOf) -> Topics:
        """The same partitions without messages: only lost ranges and topic ids are recorded."""
        here = [replace(r.partition, end=r.next) for r, _ in self.begin(position)]
        return replace(self, partitions=here, before=self.before or position)

    def begin(self, position: PositionOf) -> Iterator[tuple[PartitionCursor, UnreadableRange | None]]:
        """Where to start reading each partition, and the range that is lost before it."""
        return offsets.begin(self.source.name, self.partitions, position, self.before)


class MessageBuffer:
    """Messages, gaps and positions since the last batch."""

    def __init__(self, source: KafkaSource, parse: Parse | None = None) -> None:
        """parse: as of `messages_frame`."""
        self.source, self.parse = source, parse
        self.clear()

    def clear(self) -> None:
        """Drop everything."""
        self.messages: list[tuple[PartitionCursor, int, Sequence[Message]]] = []
        self.unread: list[UnreadableRange] = []
        self.positions: dict[str, int] = {}
        self.rows = self.size = 0

    def begin(self, reading: PartitionCursor, gap: UnreadableRange | None, position: PositionOf) -> None:
        """Record where a partition starts, unless the table has this position already."""
        if gap:
            self.unread.append(gap)
        if reading.reached != position(reading.log):
            self.positions[reading.log] = reading.reached
        identified = topic_identity(self.source.name, reading.partition)
        if identified and position(identified) is None:
            self.positions[identified] = 0
            if is_unidentified(reading.log, position):
                self.positions[unidentified_log(reading.log)] = 1

    def add(self, reading: PartitionCursor, heard: PartitionRead) -> bool:
        """Add messages of a partition up to its end; returns whether the end is reached."""
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

    def take_batch(self) -> Batch:
        """The gathered messages as a batch; the next batch starts empty."""
        with without_garbage_collection():
            found = self.messages
            frame = messages_frame(self.source, found, self.parse) if found else pl.DataFrame()
            result = Batch(frame, self.unread, self.positions)
            self.clear()
        return result


def look_at_topics(source: KafkaSource, before: PositionOf | None = None) -> Topics:
    """The partitions of a source and the offsets that they hold now.

    before: the positions, read before this call.

    Raises:
        Unavailable: no broker answers, or a topic does not exist.
    """
    client = KafkaClient(source)
    try:
        return Topics(source, client.partitions(), before=before)
    finally:
        client.consumer.close()
