"""When a table was last made before it failed, from what, and what has come into its inputs since."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from itertools import islice
from statistics import median_low

from medallion_platform.healing.report import InputChange, LastWrite
from medallion_platform.lakehouse import delta_log
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.lake import Lake, Size
from medallion_platform.pipeline.refresh.context import VERBS
from medallion_platform.pipeline.refresh.plan import CODE

_USUAL = 10
"""Writes that tell how many rows one reads."""


def last_write(
    lake: Lake, table: str, before: datetime, until: datetime
) -> tuple[LastWrite | None, tuple[InputChange, ...]]:
    """The last write of a table at an instant, and what came into its inputs from then until another.

    None of a table that was not made yet, or whose log no longer tells. Of a source's table no inputs are
    told: they are no tables.

    Raises:
        DamagedLog: the log of the table or of an input cannot be read.
    """
    writes = list(islice(_writes(lake, table, before), _USUAL))
    if not writes:
        return None, ()
    version, at, record = writes[0]
    read = [r.counts.read for _, _, r in writes if r.counts.read]
    found = LastWrite(
        version, at, record.run_id, record.code, record.counts.read, median_low(read) if read else None
    )
    changed = () if record.verb == "intake" else tuple(_input_changes(lake, record.position, until))
    return found, changed


def _writes(lake: Lake, table: str, before: datetime) -> Iterator[tuple[int, datetime, CommitRecord]]:
    """The writes of a table up to an instant, the newest first."""
    verbs = ("intake",) if table.startswith("bronze.") else VERBS
    for version, at, record in lake.each_commit(table):
        if at <= before and record.verb in verbs:
            yield version, at, record


def _input_changes(
    lake: Lake, position: Mapping[str, Mapping[str, int]], until: datetime
) -> Iterator[InputChange]:
    for name, versions in position.items():
        if name == CODE or not versions:
            continue
        before, now = min(versions.values()), lake.version_at(name, until)
        if now > before:
            added = _added(lake, name, before, now)
            yield InputChange(name, before, now, added and added.rows, added and added.bytes)


def _added(lake: Lake, table: str, since: int, until: int) -> Size | None:
    """The size of what was added between two versions, None where the log no longer tells."""
    with suppress(delta_log.LogGone):
        files = delta_log.files_added(lake.path(table), since, until)
        sizes = (Size(json.loads(f.get("stats") or "{}").get("numRecords", 0), f["size"]) for f in files)
        return sum(sizes, Size())
    return None
