"""Debezium change events."""

from medallion_platform.sources.jsonlines import JsonLinesParser


class DebeziumParser(JsonLinesParser):
    """Takes change events apart."""
