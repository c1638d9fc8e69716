"""The log of a Dagster run, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from medallion_platform.orchestration.runs import run_error_in_words
from medallion_platform.pipeline.run import UnknownRun

if TYPE_CHECKING:
    from dagster import EventLogEntry

_Kind = dg.DagsterEventType
_REPORTED = {
    _Kind.RUN_ENQUEUED,
    _Kind.RUN_START,
    _Kind.RUN_SUCCESS,
    _Kind.RUN_FAILURE,
    _Kind.RUN_CANCELED,
    _Kind.STEP_START,
    _Kind.STEP_SUCCESS,
    _Kind.STEP_FAILURE,
    _Kind.STEP_SKIPPED,
}
"""Events that say what became of a table or a step; the others are Dagster's own book-keeping."""


@dataclass(frozen=True)
class Line:
    """One event of a run; `step` is empty if it is about the whole run."""

    at: datetime
    step: str
    message: str


def run_log(on: dg.DagsterInstance, run_id: str) -> list[Line]:
    """The lines of a run, given by its id or the beginning of it, oldest first.

    Raises:
        UnknownRun: no run matches, or more than one.
    """
    ids = [run_id] if on.has_run(run_id) else [r for r in on.get_run_ids() if r.startswith(run_id)]
    if len(ids) != 1:
        found = f"{len(ids)} runs begin with" if ids else "there is no run"
        raise UnknownRun(f"{found} {run_id}", remedy="`medallion history TABLE` and the UI list the runs")
    return [
        Line(datetime.fromtimestamp(entry.timestamp, UTC), entry.step_key or "", message)
        for entry in on.all_logs(ids[0])
        for message in _event_texts(entry)
    ]


def _event_texts(entry: EventLogEntry) -> Iterator[str]:
    event = entry.dagster_event
    if event is None:
        yield entry.user_message
    elif event.is_step_failure:
        yield run_error_in_words(event.step_failure_data.error)
    elif event.event_type in _REPORTED:
        yield event.message or event.event_type.value
