"""Kafka topics. Each partition of a topic is a log."""

from medallion_platform.sources.connectors.kafka.source import KafkaSource

__all__ = ["KafkaSource"]
