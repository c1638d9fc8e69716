"""Settings of the Kafka client: which ones the platform sets itself, and which values must never be shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medallion_platform.sources.connectors.kafka.source import KafkaSource

ClientSetting = str | int | float | bool
"""What a setting of Kafka's client may be."""

_SECRET = ("password", "secret", "token", "key", "jaas", "username")
"""What is in the name of a setting whose value is never told, however short it is."""
_TELLING = 8
"""From how many characters on the value of any other setting may be a secret in the wrong place."""
OURS: dict[str, ClientSetting] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
}
MEMBER: dict[str, ClientSetting] = {
    # A killed worker's partitions go to the others after this long.
    "session.timeout.ms": 10_000,
    "heartbeat.interval.ms": 2_000,
    # New partitions, and new topics of a pattern, are noticed after this long.
    "topic.metadata.refresh.interval.ms": 10_000,
    "partition.assignment.strategy": "range",
}


def ours(settings: Mapping[str, object]) -> list[str]:
    """Which settings of the client are not for others to set."""
    return sorted(OURS.keys() & settings.keys())


def of_client(source: KafkaSource) -> dict[str, ClientSetting]:
    """The settings that a client of this source gets."""
    # A broker that comes back is found within a second.
    return {"log_level": 0, "reconnect.backoff.max.ms": 1_000, **source.settings}


def discreet(source: KafkaSource, text: str) -> str:
    """What a client said, without the values of settings that it quotes."""
    for name, value in source.settings.items():
        said = str(value)
        if name == "bootstrap.servers" or not said:
            continue
        if len(said) >= _TELLING or any(word in name for word in _SECRET):
            text = text.replace(said, "***")
    return text
