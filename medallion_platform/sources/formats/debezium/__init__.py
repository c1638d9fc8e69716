"""Debezium change events as JSON lines, with or without the schema around them.

A record says what happened (`_op`: the letter that Debezium writes, or `tombstone`), its place in the order
of the source (`_sequence`, see `source_position`), when it happened (`_changed_at`), whether a snapshot read
it (`_snapshot`), and has the fields of the row after the change (before it, if the row was deleted; see
`values`).
"""

from medallion_platform.sources.formats.debezium.events import Debezium

__all__ = ["Debezium"]
