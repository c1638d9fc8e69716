"""What a commit says about itself: who made it, from which positions, and what happened to the rows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from medallion_platform.lakehouse.counts import Counts

WRITER = "writer"
"""The transaction identifier of everybody who writes rows to a table: one at a time."""

UNPARTITIONED = "*"
"""The partition of a table that has none, and the default entry of a position."""

FORMAT = 2
"""Of a lake as this version writes it (see `lake_format`); each commit says that of its time, older ones are
read too.
"""
_SINCE_2 = {"units": "partitions", "stale_units": "stale_partitions", "stands_for": "source_row_count"}

Position = dict[str, dict[str, int]]
"""Upstream table -> partition -> version the partition was made from; `*` for all partitions not named."""


@dataclass(frozen=True)
class CommitRecord:
    """What a commit says about itself, stored as JSON in its `userMetadata`.

    verb: intake, refresh, replay, reparse, restore, rollback, recover. partitions: written rows per partition
    of this commit.
    source_row_count: for an aggregate, the number of source rows in its rows.
    masked: by column, the number of values that were masked, hashed or tokenized. looks_personal: by column,
    the number of values in an intake that look like undeclared e-mail addresses or phone numbers.
    notes: notes for people about files or batches (a new version of a known file).
    taken_back: for a restore, the state of the inputs of the undone refresh; the table is not refreshed from
    this state again unless somebody asks for it.
    repeated_files: files of an intake whose content was taken in before.
    further: rows with undeclared fields that have no column of their own.
    """

    verb: str
    run_id: str
    at: str
    counts: Counts = field(default_factory=Counts)
    position: Position = field(default_factory=dict)
    code: str = ""
    sequence: int = 0
    partitions: dict[str, int] = field(default_factory=dict)
    violations: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    stale_partitions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    source_row_count: int | None = None
    further: int = 0
    seconds: float = 0.0
    taken_back: str = ""
    masked: dict[str, int] = field(default_factory=dict)
    looks_personal: dict[str, int] = field(default_factory=dict)
    repeated_files: int = 0

    def to_json(self) -> str:
        """The text that goes into the commit."""
        return json.dumps({"medallion": FORMAT, **asdict(self)}, sort_keys=True)

    @staticmethod
    def from_json(text: str | None) -> CommitRecord | None:
        """The record in a commit's metadata, or None if other software made the commit."""
        if not text:
            return None
        try:
            found: Any = json.loads(text)
        except ValueError:
            return None
        if not isinstance(found, dict) or (written := found.pop("medallion", None)) not in (1, FORMAT):
            return None
        if written == 1:
            found = {_SINCE_2.get(k, k): v for k, v in found.items()}
        known = {f.name for f in fields(CommitRecord)}
        found = {k: v for k, v in found.items() if k in known}
        found["counts"] = Counts(**found["counts"])
        return CommitRecord(**found)
