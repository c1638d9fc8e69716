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


def reserved_settings(settings: Mapping[str, object]) -> list[str]:
    """The given settings of the client that only the platform may set."""
    return sorted(OURS.keys() & settings.keys())


def client_settings(source: KafkaSource) -> dict[str, ClientSetting]:
    """All settings of a client of this source."""
    # A broker that comes back is found within a second.
    return {"log_level": 0, "reconnect.backoff.max.ms": 1_000, **source.settings}


def hide_setting_values(source: KafkaSource, text: str) -> str:
    """A message of the client with the values of settings replaced by `***`."""
    for name, value in source.settings.items():
        value_text = str(value)
        if name == "bootstrap.servers" or not value_text:
            continue
        if len(value_text) >= _TELLING or any(word in name for word in _SECRET):
            text = text.replace(value_text, "***")
    return text
