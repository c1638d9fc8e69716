"""Which tables a run wrote, as one of its tags: Dagster's list of runs shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable

import dagster as dg

TAG = "medallion/tables"
_NAMED = 5
"""Tables that the tag names; of others it tells how many."""
_PARTS = re.compile(r"^(.*?)(?: and ([0-9]{1,6}) more)?\Z", re.DOTALL)
"""Of the tag: the tables that it names, and how many others."""


def report_written_tables(on: dg.DagsterInstance, run_id: str, tables: Iterable[str]) -> None:
    """Add tables to those that a run is known to have worked on."""
    run = on.get_run_by_id(run_id)
    if run is not None and (named := with_tables(run.tags.get(TAG, ""), tables)):
        on.add_run_tags(run_id, {TAG: named})


def with_tables(before: str, tables: Iterable[str]) -> str:
    """The tag with further tables: `silver.events, gold.days and 3 more`."""
    listed, more = _PARTS.findall(before)[0]
    names = list(dict.fromkeys([*filter(None, listed.split(", ")), *tables]))
    left = len(names) - _NAMED + int(more or 0)
    told = ", ".join(names[:_NAMED])
    return f"{told} and {left} more" if left > 0 else told
