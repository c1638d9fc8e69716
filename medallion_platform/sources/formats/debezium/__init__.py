"""Debezium change events as JSON lines, with or without the schema around them.

A record gives what happened (`_op`: the letter Debezium writes, or `tombstone`), where in the source's order
(`_sequence`, see `places`), when (`_changed_at`), whether it was read by a snapshot (`_snapshot`), and the
fields of the row as it is then (of a deleted row: as it was; see `values`).
"""

from medallion_platform.sources.formats.debezium.events import Debezium

__all__ = ["Debezium"]
