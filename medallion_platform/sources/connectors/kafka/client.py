"""The Kafka client: requests to brokers, reading of partitions, and its errors."""

from __future__ import annotations

import gc
import logging
import re
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from medallion_platform.errors import Kind, kind_of_code
from medallion_platform.sources.connectors.kafka.offsets import PartitionCursor, TopicPartitionRange
from medallion_platform.sources.connectors.kafka.settings import OURS, client_settings, hide_setting_values
from medallion_platform.sources.errors import Unavailable

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message
    from confluent_kafka.admin import AdminClient

    from medallion_platform.sources.connectors.kafka.settings import ClientSetting
    from medallion_platform.sources.connectors.kafka.source import KafkaSource

_LOG = logging.getLogger(__name__)

TIMEOUT = 15.0
"""Seconds that a broker has for an answer."""
CHUNK = 10_000
"""How many messages are asked for at once."""
PATIENCE = 0.1
"""Seconds that fewer messages than a chunk may take."""
_NO_GROUP = {"GROUP_ID_NOT_FOUND", "GROUP_AUTHORIZATION_FAILED", "_UNSUPPORTED_FEATURE"}


class Complaint(NamedTuple):
    """An error that the client reported."""

    text: str
    kind: Kind


@dataclass(frozen=True)
class PartitionRead:
    """Messages of one partition, and the events that the client reported with them."""

    messages: Sequence[Message]
    end: int | None
    """The end of the partition, where that was reached."""
    expired: bool


class KafkaClient:
    """A Kafka consumer for a source, which remembers the errors that the client reported."""

    def __init__(self, source: KafkaSource, further: Mapping[str, ClientSetting] | None = None) -> None:
        from confluent_kafka import Consumer, KafkaException

        self.source = source
        self.said: list[Complaint] = []
        settings: dict[str, Any] = {
            **client_settings(source),
            "group.id": f"medallion.{source.name}",
            **(further or {}),
            **OURS,
            "error_cb": _remember_complaints(source, self.said),
        }
        try:
            self.consumer: Consumer = Consumer(settings)
        except KafkaException as error:
            refused = _settings_refused(source, error)
        else:
            return
        raise refused  # out here: what quotes the setting is no context of it

    def close(self) -> None:
        """Disconnect from the brokers."""
        self.consumer.close()

    @cached_property
    def admin(self) -> AdminClient:
        """The client for questions about topics; it must live until they are answered."""
        return _admin_client(self.source, [])

    def partitions(self) -> list[TopicPartitionRange]:
        """All partitions of the source as they are now."""
        from confluent_kafka import KafkaException

        source = self.source
        try:
            known = self.consumer.list_topics(timeout=TIMEOUT).topics
        except KafkaException as error:
            self.consumer.poll(0)  # only now it says why
            raise _unavailable(source, [_complaint_of_exception(error), *self.said]) from None
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
        """The id of each topic, which changes if it is recreated; old brokers have none."""
        from confluent_kafka import KafkaException, TopicCollection

        names = list(names)
        if not names:
            return {}
        described = self.admin.describe_topics(TopicCollection(names), request_timeout=TIMEOUT)
        found: dict[str, str] = {}
        for name, future in described.items():
            try:
                topic_id = future.result().topic_id
            except KafkaException as error:
                raise _unavailable(self.source, [_complaint_of_exception(error)]) from None
            if topic_id.get_most_significant_bits() or topic_id.get_least_significant_bits():
                found[name] = str(topic_id)
        return found

    def recreated_topics(self, partitions: Iterable[TopicPartitionRange]) -> list[str]:
        """The topics of these partitions that were recreated under the same name."""
        seen = {p.topic: p.topic_id for p in partitions}
        now = self.topic_ids(seen)
        return sorted(topic for topic, identity in seen.items() if now.get(topic, "") != identity)

    def refuse_recreated_topics(self, partitions: Iterable[TopicPartitionRange]) -> None:
        """Stop if a topic was recreated while it was read: its messages could be from either topic."""
        if others := self.recreated_topics(partitions):
            raise Unavailable(
                f"source {self.source.name}: {', '.join(others)} was deleted and recreated while it was "
                "read; the next intake begins with the new one",
                kind=Kind.CONFLICT,
            )

    def watermarks(self, topic: str, number: int, *, cached: bool = False) -> tuple[int, int]:
        """The first offset of a partition, and the offset after its last committed message."""
        from confluent_kafka import KafkaException, TopicPartition

        place = TopicPartition(topic, number)
        until = time.monotonic() + TIMEOUT
        while True:
            try:
                found: Any = self.consumer.get_watermark_offsets(place, timeout=TIMEOUT, cached=cached)
            except KafkaException as error:
                # A leader that is just being elected, for one.
                if _kind_of(error.args[0]).transient and time.monotonic() < until:
                    time.sleep(PATIENCE)
                    continue
                raise _unavailable(self.source, [_complaint_of_exception(error)]) from None
            if found is None:
                raise _unavailable(self.source, [Complaint(f"no offsets of {topic}/{number}", Kind.NETWORK)])
            return found

    def assign(self, readings: Iterable[PartitionCursor]) -> None:
        """Read only these partitions, each from its cursor."""
        from confluent_kafka import TopicPartition

        self.consumer.assign([TopicPartition(*r.place, r.next) for r in readings])

    def assign_also(self, reading: PartitionCursor) -> None:
        """Also read this partition."""
        from confluent_kafka import TopicPartition

        self.consumer.incremental_assign([TopicPartition(*reading.place, reading.next)])

    def unassign(self, reading: PartitionCursor) -> None:
        """Stop reading a partition."""
        from confluent_kafka import TopicPartition

        self.consumer.incremental_unassign([TopicPartition(*reading.place)])

    def consume(self, most: int, within: float) -> list[Message]:
        """The messages that arrive within some seconds."""
        with without_garbage_collection():
            return self.consumer.consume(most, within)

    def split_errors(self, heard: Sequence[Message]) -> PartitionRead:
        """Separate the messages of one partition from the errors that the client reports among them.

        Raises:
            Unavailable: it cannot be read.
        """
        from confluent_kafka import KafkaError, Message

        errors = [(m, error) for m, error in zip(heard, map(Message.error, heard), strict=True) if error]
        messages = [m for m in heard if m.error() is None] if errors else heard
        end, expired = None, False
        for event, error in errors:
            if error.code() == KafkaError._PARTITION_EOF:
                end = int(event.offset() or 0)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                expired = True
            elif _kind_of(error).transient:
                self.said[:] = [_complaint(error)]
            else:
                raise Unavailable(
                    f"source {self.source.name}: {self.source.brokers} refuses: "
                    f"{hide_setting_values(self.source, error.str())}; what was taken in is safe, the next "
                    "intake goes on from there",
                    kind=_complaint(error).kind,
                )
        return PartitionRead(messages, end, expired)

    def is_silent_since(self, heard: float) -> bool:
        """Whether the time for an answer has passed; heard: time of the last answer (monotonic seconds)."""
        return time.monotonic() > heard + TIMEOUT

    def check_brokers(self) -> None:
        """After an error of the client, check whether the brokers still answer.

        Raises:
            Unavailable: they do not.
        """
        if self.said:
            self.partitions()
            self.said.clear()

    def unavailable(self) -> Unavailable:
        """The error that no broker answers, with the last reason that the client reported."""
        return _unavailable(self.source, self.said)


def count_group_members(source: KafkaSource, group: str) -> int:
    """The number of continuous workers in the consumer group of a source.

    Raises:
        Unavailable: no broker answers.
    """
    from confluent_kafka import KafkaException

    complaints: list[Complaint] = []
    admin = _admin_client(source, complaints)  # what is asked ends with it
    try:
        (described,) = admin.describe_consumer_groups([group], request_timeout=TIMEOUT).values()
        return len(described.result().members)
    except KafkaException as error:
        if error.args[0].name() in _NO_GROUP:
            return 0
        admin.poll(0)  # only now it says why
        raise _unavailable(source, [_complaint_of_exception(error), *complaints]) from None


def _admin_client(source: KafkaSource, complaints: list[Complaint]) -> AdminClient:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    settings: dict[str, Any] = {
        **client_settings(source),
        "error_cb": _remember_complaints(source, complaints),
    }
    try:
        return AdminClient(settings)
    except KafkaException as error:
        refused = _settings_refused(source, error)
    raise refused


def _settings_refused(source: KafkaSource, error: BaseException) -> Unavailable:
    """The error that the client refused a setting, without the value it quotes, which may be a password.

    Its code is always the same: only its text tells which setting is meant, and whether there is one.
    """
    said, told = _complaint_of_exception(error).text, source.settings
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


def _remember_complaints(source: KafkaSource, said: list[Complaint]) -> Callable[[KafkaError], None]:
    """Store a client's latest error in `said`, but never replace an error by "all brokers down"."""

    def note(error: KafkaError) -> None:
        fields = {"source": source.name, "code": error.name(), "kind": _kind_of(error).value}
        _LOG.debug("%s: the client says %s", source.name, error.name(), extra=fields)
        if not said or error.name() != "_ALL_BROKERS_DOWN":
            said[:] = [_complaint(error)]

    return note


@contextmanager
def without_garbage_collection() -> Generator[None]:
    """Switch off Python's cycle collector, which never finds a message.

    It would run after every few hundred messages and look at all of them each time: a third of the cost of an
    intake.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _unavailable(source: KafkaSource, said: Sequence[Complaint]) -> Unavailable:
    why = f" ({hide_setting_values(source, said[-1].text)})" if said else ""
    return Unavailable(
        f"source {source.name}: {source.brokers} does not respond within {TIMEOUT:.0f} s{why}; what was "
        "taken in is safe, the next intake continues from there",
        kind=said[-1].kind if said else Kind.NETWORK,
    )


def _kind_of(error: KafkaError) -> Kind:
    """The kind of an error: by its code, else transient if the client says so, else `unknown`."""
    return kind_of_code(error.name(), retriable=error.retriable()) or Kind.UNKNOWN


def _complaint(error: KafkaError) -> Complaint:
    """The error in words. A worker waits until an unknown error is over, and the text says so."""
    kind = _kind_of(error)
    text = error.str()
    if "certificate verify failed" in text and "could not be verified" not in text:
        # librdkafka explains it if reading found it out; if writing did, it passes on what OpenSSL says.
        text = f"broker certificate could not be verified: {text}"
    return Complaint(text, Kind.NETWORK if kind is Kind.UNKNOWN else kind)


def _complaint_of_exception(error: BaseException) -> Complaint:
    """The error inside an exception of the client."""
    thrown: Any = error.args[0] if error.args else error
    return _complaint(thrown) if hasattr(thrown, "str") else Complaint(str(thrown), Kind.NETWORK)
