"""The Kafka client: requests to brokers, reading of partitions, and its errors."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from medallion_platform.errors import Kind, kind_of_code
from medallion_platform.sources.connectors.kafka.offsets import PartitionCursor, TopicPartitionRange
from medallion_platform.sources.connectors.kafka.settings import OURS, discreet, of_client
from medallion_platform.sources.errors import Unavailable

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message
    from confluent_kafka.admin import AdminClient

    from medallion_platform.sources.connectors.kafka.settings import ClientSetting
    from medallion_platform.sources.connectors.kafka.source import KafkaSource

TIMEOUT = 15.0
"""Seconds that a broker has for an answer."""
CHUNK = 10_000
"""How many messages are asked for at once."""
PATIENCE = 0.1
"""Seconds that fewer messages than a chunk may take."""
_NO_GROUP = {"GROUP_ID_NOT_FOUND", "GROUP_AUTHORIZATION_FAILED", "_UNSUPPORTED_FEATURE"}


class Complaint(NamedTuple):
    """What the client said of an error."""

    text: str
    kind: Kind


@dataclass(frozen=True)
class PartitionRead:
    """Messages of one partition, and what was said of it beside them."""

    messages: Sequence[Message]
    end: int | None
    """The end of the partition, where that was reached."""
    expired: bool


class KafkaClient:
    """A consumer of a source, and what it said of errors that may pass."""

    def __init__(self, source: KafkaSource, further: Mapping[str, ClientSetting] | None = None) -> None:
        from confluent_kafka import Consumer, KafkaException

        self.source = source
        self.said: list[Complaint] = []
        settings: dict[str, Any] = {
            **of_client(source),
            "group.id": f"medallion.{source.name}",
            **(further or {}),
            **OURS,
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

    def partitions(self) -> list[TopicPartitionRange]:
        """All partitions of the source as they are now."""
        from confluent_kafka import KafkaException

        source = self.source
        try:
            known = self.consumer.list_topics(timeout=TIMEOUT).topics
        except KafkaException as error:
            self.consumer.poll(0)  # only now it says why
            raise _unavailable(source, [_thrown(error), *self.said]) from None
        names = source.topics or [t for t in sorted(known) if re.fullmatch(source.pattern, t)]
        if absent := [t for t in names if t not in known]:
            raise Unavailable(
                f"source {source.name}: there is no topic {', '.join(absent)}", kind=Kind.TRANSIENT
            )
        ids = self.topic_ids(names)
        found: list[TopicPartitionRange] = []
        for topic in names:
            for number in sorted(known[topic].partitions):
                low, end = self.watermarks(topic, number)
                found.append(TopicPartitionRange(topic, number, ids.get(topic, ""), low, end))
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
                raise _unavailable(self.source, [_thrown(error)]) from None
            if told.get_most_significant_bits() or told.get_least_significant_bits():
                found[name] = str(told)
        return found

    def others(self, partitions: Iterable[TopicPartitionRange]) -> list[str]:
        """The topics of partitions that are others by now, under the same name."""
        seen = {p.topic: p.topic_id for p in partitions}
        now = self.topic_ids(seen)
        return sorted(topic for topic, identity in seen.items() if now.get(topic, "") != identity)

    def refuse_others(self, partitions: Iterable[TopicPartitionRange]) -> None:
        """Stop where a topic was recreated while it was read: what was read may be of either."""
        if others := self.others(partitions):
            raise Unavailable(
                f"source {self.source.name}: {', '.join(others)} was deleted and recreated while it was "
                "read; the next intake begins with the new one",
                kind=Kind.CONFLICT,
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
                    time.sleep(PATIENCE)
                    continue
                raise _unavailable(self.source, [_thrown(error)]) from None
            if found is None:
                raise _unavailable(self.source, [Complaint(f"no offsets of {topic}/{number}", Kind.NETWORK)])
            return found

    def assign(self, readings: Iterable[PartitionCursor]) -> None:
        """Read these partitions and no others, each from where it is."""
        from confluent_kafka import TopicPartition

        self.consumer.assign([TopicPartition(*r.place, r.next) for r in readings])

    def assign_also(self, reading: PartitionCursor) -> None:
        """Read a further partition."""
        from confluent_kafka import TopicPartition

        self.consumer.incremental_assign([TopicPartition(*reading.place, reading.next)])

    def unassign(self, reading: PartitionCursor) -> None:
        """Read a partition no longer."""
        from confluent_kafka import TopicPartition

        self.consumer.incremental_unassign([TopicPartition(*reading.place)])

    def consume(self, most: int, within: float) -> list[Message]:
        """What comes within some seconds."""
        with uncollected():
            return self.consumer.consume(most, within)

    def sort(self, said: Sequence[Message]) -> PartitionRead:
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
                self.said[:] = [_complaint(error)]
            else:
                raise Unavailable(
                    f"source {self.source.name}: {self.source.brokers} refuses: "
                    f"{discreet(self.source, error.str())}; what was taken in is safe, the next intake goes "
                    "on from there",
                    kind=_complaint(error).kind,
                )
        return PartitionRead(messages, end, expired)

    def is_silent_since(self, heard: float) -> bool:
        """Whether a broker had its time for an answer; heard: when one came last (monotonic seconds)."""
        return time.monotonic() > heard + TIMEOUT

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


def members(source: KafkaSource, group: str) -> int:
    """How many continuous workers of a group have the source in their hands now.

    Raises:
        Unavailable: no broker answers.
    """
    from confluent_kafka import KafkaException

    said: list[Complaint] = []
    admin = _admin(source, said)  # what is asked ends with it
    try:
        (described,) = admin.describe_consumer_groups([group], request_timeout=TIMEOUT).values()
        return len(described.result().members)
    except KafkaException as error:
        if error.args[0].name() in _NO_GROUP:
            return 0
        admin.poll(0)  # only now it says why
        raise _unavailable(source, [_thrown(error), *said]) from None


def _admin(source: KafkaSource, said: list[Complaint]) -> AdminClient:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    settings: dict[str, Any] = {**of_client(source), "error_cb": _noting(said)}
    try:
        return AdminClient(settings)
    except KafkaException as error:
        refused = _refused(source, error)
    raise refused


def _refused(source: KafkaSource, error: BaseException) -> Unavailable:
    """What the client does not take of its settings; it quotes the value, which may be a password."""
    said, told = _thrown(error).text, source.settings
    named = next((name for name in told if f'"{name}"' in said), None)
    named = named or next((name for name, value in told.items() if name in said or str(value) in said), None)
    if named and "No such configuration property" in said:
        return Unavailable(
            f"source {source.name}: {named} is no setting of Kafka that the client knows", kind=Kind.PERMANENT
        )
    about = f"{named} has a value" if named else "there is one, or a combination,"
    return Unavailable(
        f"source {source.name}: of its settings of Kafka, {about} that the client refuses",
        kind=Kind.PERMANENT,
    )


def _noting(said: list[Complaint]) -> Callable[[KafkaError], None]:
    """Keeps in `said` the last error that a client complains of, rather one that says why than that."""

    def note(error: KafkaError) -> None:
        if not said or error.name() != "_ALL_BROKERS_DOWN":
            said[:] = [_complaint(error)]

    return note


@contextmanager
def uncollected() -> Generator[None]:
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


def _passes(error: KafkaError) -> bool:
    """Whether a client gets over an error by itself."""
    return error.retriable() or _kind_of(error).transient


def _unavailable(source: KafkaSource, said: Sequence[Complaint]) -> Unavailable:
    why = f" ({discreet(source, said[-1].text)})" if said else ""
    return Unavailable(
        f"source {source.name}: {source.brokers} does not respond within {TIMEOUT:.0f} s{why}; what was "
        "taken in is safe, the next intake continues from there",
        kind=said[-1].kind if said else Kind.NETWORK,
    )


def _kind_of(error: KafkaError) -> Kind:
    """What an error is; `unknown` where its name says nothing."""
    return kind_of_code(error.name(), retriable=error.retriable()) or Kind.UNKNOWN


def _complaint(error: KafkaError) -> Complaint:
    """What is said of it to people; of one that is unknown a worker waits until it is over, and says so."""
    kind = _kind_of(error)
    return Complaint(error.str(), Kind.NETWORK if kind is Kind.UNKNOWN else kind)


def _thrown(error: BaseException) -> Complaint:
    """What an exception of the client holds."""
    told: Any = error.args[0] if error.args else error
    return _complaint(told) if hasattr(told, "str") else Complaint(str(told), Kind.NETWORK)
