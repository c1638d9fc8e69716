"""Topics of Kafka. Each partition of a topic is a log of its own."""

from medallion_platform.sources.connectors.kafka.source import KafkaSource

__all__ = ["KafkaSource"]
