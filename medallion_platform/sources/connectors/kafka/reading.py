"""Topics read in bounded runs, from the table's positions to the ends of the partitions when the run began.

Positions are in the table alone: such a run does not join a consumer group.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from medallion_platform.sources.arrivals import Batch, PositionOf, UnreadableRange
from medallion_platform.sources.connectors.kafka import offsets
from medallion_platform.sources.connectors.kafka.client import (
    CHUNK,
    PATIENCE,
    KafkaClient,
    PartitionRead,
    uncollected,
)
from medallion_platform.sources.connectors.kafka.messages import by_place, frame_of
from medallion_platform.sources.connectors.kafka.offsets import (
    PartitionCursor,
    TopicPartitionRange,
    identity,
    is_unsure,
    unsure,
)
from medallion_platform.sources.connectors.kafka.source import KafkaSource

if TYPE_CHECKING:
    from confluent_kafka import Message


@dataclass(frozen=True)
class Topics:
    """The partitions of a source as they were at one look; no more is read than they held then."""

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
        """The messages from the positions on up to where the partitions ended when looked at."""
        gathered = MessageBuffer(self.source)
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
            yield gathered.batch()

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
            for place, said in by_place(messages):
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

    def _expired(self, client: KafkaClient, reading: PartitionCursor, gathered: MessageBuffer) -> None:
        """Go on behind what a broker deleted while it was read."""
        low = min(client.watermarks(*reading.place)[0], reading.partition.end)
        if low > reading.next:
            gathered.unread.append(offsets.gap(replace(reading.partition, low=low), reading))
            reading.next = low
            gathered.positions[reading.log] = reading.reached
        client.unassign(reading)
        client.assign_also(reading)

    def beginnings(self, position: PositionOf) -> Topics:
        """The same partitions without what is still to be read: what is lost before it, and identities."""
        here = [replace(r.partition, end=r.next) for r, _ in self.begin(position)]
        return replace(self, partitions=here, before=self.before or position)

    def begin(self, position: PositionOf) -> Iterator[tuple[PartitionCursor, UnreadableRange | None]]:
        """Where the reading of each partition begins, and what is lost before it."""
        return offsets.begin(self.source.name, self.partitions, position, self.before)


class MessageBuffer:
    """Messages, gaps and positions since the last batch."""

    def __init__(self, source: KafkaSource) -> None:
        self.source = source
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self.messages: list[tuple[PartitionCursor, int, Sequence[Message]]] = []
        self.unread: list[UnreadableRange] = []
        self.positions: dict[str, int] = {}
        self.rows = self.size = 0

    def begin(self, reading: PartitionCursor, gap: UnreadableRange | None, position: PositionOf) -> None:
        """Where a partition begins, as far as the table does not say so."""
        if gap:
            self.unread.append(gap)
        if reading.reached != position(reading.log):
            self.positions[reading.log] = reading.reached
        identified = identity(self.source.name, reading.partition)
        if identified and position(identified) is None:
            self.positions[identified] = 0
            if is_unsure(reading.log, position):
                self.positions[unsure(reading.log)] = 1

    def add(self, reading: PartitionCursor, heard: PartitionRead) -> bool:
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
        with uncollected():
            frame = frame_of(self.source, self.messages) if self.messages else pl.DataFrame()
            made = Batch(frame, self.unread, self.positions)
            self.clear()
        return made


def topics_of(source: KafkaSource, before: PositionOf | None = None) -> Topics:
    """The partitions of a source and the offsets that they hold now.

    before: the positions, as they were read before this.

    Raises:
        Unavailable: no broker answers, or a topic is not there.
    """
    client = KafkaClient(source)
    try:
        return Topics(source, client.partitions(), before=before)
    finally:
        client.consumer.close()
