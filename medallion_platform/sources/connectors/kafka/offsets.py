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
class PartitionCursor:
    """How far a partition is read; `next` is Kafka's own offset."""

    partition: TopicPartitionRange
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


def begin(
    source: str,
    partitions: Sequence[TopicPartitionRange],
    position: PositionOf,
    before: PositionOf | None = None,
) -> Iterator[tuple[PartitionCursor, UnreadableRange | None]]:
    """Where the reading of each partition begins, and what is lost before it.

    source: its name. before: the positions as they were before the partitions were looked at: only what was
    beyond an end already then is lost.

    Raises:
        OwnershipLost: others took in more of a partition after it was looked at.
    """
    for partition in _known(source, partitions, position):
        yield _begin(source, partition, position, before)


def _known(
    source: str, partitions: Sequence[TopicPartitionRange], position: PositionOf
) -> Iterator[TopicPartitionRange]:
    """The partitions, and those that a topic had before it was recreated with fewer."""
    yield from partitions
    for topic in dict.fromkeys(p.topic for p in partitions):
        there = [p for p in partitions if p.topic == topic]
        gone = TopicPartitionRange(topic, len(there), there[0].topic_id, 0, 0)
        while position(log_of(source, gone)) is not None:
            yield gone
            gone = replace(gone, number=gone.number + 1)


def _begin(
    source: str, partition: TopicPartitionRange, position: PositionOf, before: PositionOf | None
) -> tuple[PartitionCursor, UnreadableRange | None]:
    log = log_of(source, partition)
    reached, identified = position(log), identity(source, partition)
    known = identified is not None and (position(identified) is not None or is_unsure(log, position))
    if reached is None:
        # A partition that a topic got later begins at its first message; else history that is
        # gone before the source was ever read is no loss.
        begin = PartitionCursor(partition, log, 0, 0 if known else partition.low)
    else:
        begin = PartitionCursor(partition, log, *divmod(reached, EPOCH))
        _refuse_later(source, begin, before)
        recreated = identified is not None and not known
        if recreated or begin.next > partition.end:
            return _anew(begin, reached, recreated=recreated, identified=identified is not None)
    if partition.low > begin.next:
        lost = gap(partition, begin)
        begin.next = partition.low
        return begin, lost
    return begin, None


def _anew(
    begin: PartitionCursor, reached: int, *, recreated: bool, identified: bool
) -> tuple[PartitionCursor, UnreadableRange]:
    """The beginning of the next epoch of a partition, and what is lost of this one."""
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
    return PartitionCursor(partition, begin.log, begin.epoch + 1, first), _unread(
        partition, begin.log, reached, why, gone
    )


def _refuse_later(source: str, begin: PartitionCursor, before: PositionOf | None) -> None:
    """Stop where others took in what came after the look: that an end lies before it is no loss."""
    seen = begin.epoch * EPOCH + begin.partition.end
    if before is not None and begin.reached > seen >= (before(begin.log) or 0):
        raise OwnershipLost(f"source {source}: another intake took in more of {begin.partition.name}")


def gap(partition: TopicPartitionRange, reading: PartitionCursor) -> UnreadableRange:
    """What was deleted between where a partition is read and where it begins now."""
    first, last = reading.next, partition.low - 1
    why = f"lost offsets {first} to {last}: deleted before they were read"
    gone = {"first": first, "last": last}
    return _unread(partition, reading.log, reading.epoch * EPOCH + last, why, gone)


def log_of(source: str, partition: TopicPartitionRange) -> str:
    """Under which name a partition's position is told."""
    return f"{source}/{partition.name}"


def _unread(
    partition: TopicPartitionRange, log: str, offset: int, why: str, gone: Mapping[str, int | None]
) -> UnreadableRange:
    return UnreadableRange(
        log, offset, partition.name, Code.GAP, f"topic: {why}", f"{partition.name}: {why}", gone
    )


def identity(source: str, partition: TopicPartitionRange) -> str | None:
    """Under which name it is told that a topic was read; None where the broker has no such."""
    return f"{source}/{partition.topic}@{partition.topic_id}" if partition.topic_id else None


def unsure(log: str) -> str:
    """Under which name it is told that a topic was read, but not which of that name: 0 while that is so."""
    return f"{log.rpartition('/')[0]}@"


def is_unsure(log: str, position: PositionOf) -> bool:
    """Whether a topic was read, but not known which of its name."""
    return position(unsure(log)) == 0
