"""Where to begin reading each partition of a topic, and which records are lost. Pure.

A record's offset is Kafka's; if a topic was recreated under its name, offsets continue `EPOCH` higher, so
that a position never goes back and no two records have the same offset. The table stores the next offset of
each partition, and the identity of each topic that was ever read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from medallion_platform.contracts.codes import Code
from medallion_platform.sources.arrivals import PositionOf, UnreadableRange
from medallion_platform.sources.errors import OwnershipLost

EPOCH = 2**48
"""How many offsets a topic has before those of the next one under its name begin."""


@dataclass(frozen=True)
class TopicPartitionRange:
    """A partition of a topic at one point in time: the offsets that it holds, without `end`."""

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
class PartitionCursor:
    """How far a partition has been read; `next` is Kafka's own offset."""

    partition: TopicPartitionRange
    log: str
    epoch: int
    next: int

    @property
    def place(self) -> tuple[str, int]:
        """The topic and the number of the partition."""
        return self.partition.topic, self.partition.number

    @property
    def reached(self) -> int:
        """The position of the table after what was read."""
        return self.epoch * EPOCH + self.next


def begin(
    source: str,
    partitions: Sequence[TopicPartitionRange],
    position: PositionOf,
    before: PositionOf | None = None,
) -> Iterator[tuple[PartitionCursor, UnreadableRange | None]]:
    """Where to start reading each partition, and the range that is lost before it.

    source: its name. before: the positions from before the partitions were listed; a position beyond a
    partition's end is a loss only if it was beyond it already then.

    Raises:
        OwnershipLost: another worker took in more of a partition after it was listed.
    """
    for partition in _known_partitions(source, partitions, position):
        yield _begin_partition(source, partition, position, before)


def _known_partitions(
    source: str, partitions: Sequence[TopicPartitionRange], position: PositionOf
) -> Iterator[TopicPartitionRange]:
    """The partitions, and those that a topic had before it was recreated with fewer partitions."""
    yield from partitions
    for topic in dict.fromkeys(p.topic for p in partitions):
        there = [p for p in partitions if p.topic == topic]
        gone = TopicPartitionRange(topic, len(there), there[0].topic_id, 0, 0)
        while position(partition_log(source, gone)) is not None:
            yield gone
            gone = replace(gone, number=gone.number + 1)


def _begin_partition(
    source: str, partition: TopicPartitionRange, position: PositionOf, before: PositionOf | None
) -> tuple[PartitionCursor, UnreadableRange | None]:
    log = partition_log(source, partition)
    reached, identified = position(log), topic_identity(source, partition)
    known = identified is not None and (position(identified) is not None or is_unidentified(log, position))
    if reached is None:
        # A partition that a topic got later begins at its first message; else history that is
        # gone before the source was ever read is no loss.
        begin = PartitionCursor(partition, log, 0, 0 if known else partition.low)
    else:
        begin = PartitionCursor(partition, log, *divmod(reached, EPOCH))
        _refuse_later(source, begin, before)
        recreated = identified is not None and not known
        if recreated or begin.next > partition.end:
            return _begin_epoch(begin, reached, recreated=recreated, identified=identified is not None)
    if partition.low > begin.next:
        lost = deleted_range(partition, begin)
        begin.next = partition.low
        return begin, lost
    return begin, None


def _begin_epoch(
    begin: PartitionCursor, reached: int, *, recreated: bool, identified: bool
) -> tuple[PartitionCursor, UnreadableRange]:
    """The start of the next epoch of a partition, and the range that is lost of this one."""
    partition = begin.partition
    if recreated:
        why = f"the topic was deleted and recreated (as {partition.topic_id})"
    else:
        why = f"the partition ends at {partition.end}, before the position"
    if partition.low:
        why += f", and 0 to {partition.low - 1} of it are gone"
    # If the topic is the same, its end was lost: what it still holds was taken in before.
    first = partition.end if identified and not recreated else partition.low
    why = f"lost from offset {begin.next} on: {why}"
    gone = {"first": begin.next, "last": None}
    return PartitionCursor(partition, begin.log, begin.epoch + 1, first), _unread_range(
        partition, begin.log, reached, why, gone
    )


def _refuse_later(source: str, begin: PartitionCursor, before: PositionOf | None) -> None:
    """Stop if another worker took in later messages: then an end before the position is no loss."""
    seen = begin.epoch * EPOCH + begin.partition.end
    if before is not None and begin.reached > seen >= (before(begin.log) or 0):
        raise OwnershipLost(f"source {source}: another intake took in more of {begin.partition.name}")


def deleted_range(partition: TopicPartitionRange, reading: PartitionCursor) -> UnreadableRange:
    """The range that was deleted between a cursor and the partition's first offset now."""
    first, last = reading.next, partition.low - 1
    why = f"lost offsets {first} to {last}: deleted before they were read"
    gone = {"first": first, "last": last}
    return _unread_range(partition, reading.log, reading.epoch * EPOCH + last, why, gone)


def partition_log(source: str, partition: TopicPartitionRange) -> str:
    """The log name of a partition, under which its position is stored."""
    return f"{source}/{partition.name}"


def _unread_range(
    partition: TopicPartitionRange, log: str, offset: int, why: str, gone: Mapping[str, int | None]
) -> UnreadableRange:
    return UnreadableRange(
        log, offset, partition.name, Code.GAP, f"topic: {why}", f"{partition.name}: {why}", gone
    )


def topic_identity(source: str, partition: TopicPartitionRange) -> str | None:
    """The log name that records which topic (by its id) was read; None if the broker has no topic ids."""
    return f"{source}/{partition.topic}@{partition.topic_id}" if partition.topic_id else None


def unidentified_log(log: str) -> str:
    """The log name that records that a topic without a known id was read: position 0 until it is known."""
    return f"{log.rpartition('/')[0]}@"


def is_unidentified(log: str, position: PositionOf) -> bool:
    """Whether a topic was read without knowing its id."""
    return position(unidentified_log(log)) == 0
