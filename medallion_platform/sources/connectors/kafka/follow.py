"""Continuous workers that share the partitions of topics through a consumer group.

The group stores no offsets: positions are in the table alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Event, Thread
from typing import TYPE_CHECKING

from medallion_platform.sources.arrivals import Batch, PositionOf
from medallion_platform.sources.connectors.kafka.bounded_run import MessageBuffer, Topics, look_at_topics
from medallion_platform.sources.connectors.kafka.client import CHUNK, KafkaClient
from medallion_platform.sources.connectors.kafka.messages import group_by_partition
from medallion_platform.sources.connectors.kafka.offsets import EPOCH, PartitionCursor, begin, topic_identity
from medallion_platform.sources.connectors.kafka.settings import MEMBER
from medallion_platform.sources.connectors.kafka.source import KafkaSource
from medallion_platform.sources.errors import OwnershipLost, Unavailable

if TYPE_CHECKING:
    from confluent_kafka import Consumer, TopicPartition


class TopicFollower:
    """A member of a source's consumer group, which reads the partitions that the group assigns to it.

    `poll` raises `Unavailable` while the brokers cannot be reached: call again.
    """

    def __init__(self, source: KafkaSource, group: str, positions: Callable[[], PositionOf]) -> None:
        """positions: returns the current positions of the table."""
        self.source = source
        self._positions = positions
        self._client = KafkaClient(source, {**MEMBER, "group.id": group})
        self._gathered = MessageBuffer(source)
        self._readings: dict[tuple[str, int], PartitionCursor] = {}
        self._begun: dict[str, int | None] = {}
        self._given: set[tuple[str, int]] = set()
        self._to_begin = True
        names = list(source.topics) or [f"^({source.pattern})$"]
        self._client.consumer.subscribe(names, on_assign=self._on_given, on_revoke=self._on_taken_away)

    def poll(self, rows: int, size: int, within: float) -> PollResult | None:
        """The new messages, after `rows`, `size` bytes or `within` seconds; None if there are none."""
        if self._to_begin:
            self._begin()
        gathered = self._gathered
        while True:
            wanted = min(CHUNK, max(rows - gathered.rows, 1))
            messages = self._client.consume(wanted, within)
            if self._to_begin:
                return None  # the group was rearranged meanwhile: these may be another worker's now
            if not messages:
                self._client.check_brokers()
            for place, said in group_by_partition(messages):
                heard = self._client.split_errors(said)
                if heard.expired:
                    self.begin_anew()
                    return None
                if place in self._readings:
                    gathered.add(self._readings[place], heard)
            if len(messages) < wanted or gathered.rows >= rows or gathered.size >= size:
                break
        if not gathered.rows and not gathered.unread:
            return None
        if self._client.recreated_topics([r.partition for r in self._readings.values()]):
            self.begin_anew()
            return None
        batch = gathered.take_batch()
        begun = {log: self._begun[log] for log in batch.positions if log in self._begun}
        self._begun.update(batch.positions)
        return PollResult(self.source, batch, begun)

    def begin_anew(self) -> None:
        """Drop what was read and start again at the table's positions, because a batch was not taken in."""
        self._to_begin = True

    def look(self) -> Topics:
        """What waits in all partitions."""
        return look_at_topics(self.source, self._positions())

    def behind(self) -> dict[str, int]:
        """The number of offsets of each partition still to be read, as far as it is known."""
        found: dict[str, int] = {}
        for reading in self._readings.values():
            with suppress(Unavailable):
                _, end = self._client.watermarks(*reading.place, cached=True)
                found[reading.log] = max(end - reading.next, 0)
        return found

    def close(self) -> None:
        """Leave the group, which assigns the partitions to other members."""
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
        source = self.source
        for reading, gap in begin(source.name, self._client.partitions(), position):
            # A topic's identity speaks for all of its partitions: who writes it begins them all.
            identified = topic_identity(source.name, reading.partition)
            new = identified is not None and position(identified) is None
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
    """The messages that a follower read, as arrivals with one batch."""

    source: KafkaSource
    batch: Batch
    begun: Mapping[str, int | None]
    """The positions that it begins at."""
    notes: Sequence[str] = ()
    pieces: str = "partitions"

    def waiting(self, position: PositionOf) -> list[str]:
        """The partitions of the messages."""
        return sorted(self.begun)

    def batches(self, position: PositionOf, rows: int, size: int) -> Iterator[Batch]:
        """The batch.

        Raises:
            OwnershipLost: the table is not at the start of the batch: another worker has the partition.
        """
        if moved := [log for log, begun in self.begun.items() if position(log) != begun]:
            raise OwnershipLost(
                f"source {self.source.name}: another worker took in {', '.join(sorted(moved))}"
            )
        yield self.batch


class GroupMember:
    """A member of a source's consumer group that reads nothing, so that others see an active worker."""

    def __init__(self, source: KafkaSource, group: str) -> None:
        self._consumer = KafkaClient(source, {**MEMBER, "group.id": group}).consumer
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
