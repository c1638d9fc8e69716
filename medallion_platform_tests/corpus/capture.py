"""Keeps what the platform knows of failures that tests make, with their true class.

A test that injects one fault of one class is marked `@pytest.mark.failure("disk")`: the class is that of the
fault, not what anybody concluded. `failure(of="kind")` takes it from the test's parameter of that name, and
`failure("disk", work="backup")` says at what work it was met, where the table does not.
With `MEDALLION_TEST_CORPUS=FILE` and `-n 0` each failure that such a test meets becomes a line of the file,
unless a line of the same test, class and work says the same:

    {"evidence": {...}, "kind": "disk", "test": "faults/test_log.py::...", "captured": "<commit>"}

Met is what is raised to the test (`pytest.raises`), what intake, refresh and publish report to their
observer, what a table's failure is made of, what is told to the ledger without a run, and how runs of Dagster
end.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from _pytest.raises import RaisesExc
from dagster import DagsterEventType, DagsterInstance, EventLogEntry
from dagster._core.events import JobFailureData

from medallion_platform.errors import ErrorChain, Kind, chain_of
from medallion_platform.healing.evidence import Evidence, Work
from medallion_platform.lakehouse.incidents import Row
from medallion_platform.orchestration.failures import TableFailure, failures_of
from medallion_platform.orchestration.memory_reports import ENDED_BY
from medallion_platform.pipeline import incident_reports
from medallion_platform.pipeline.observer import EventReporter
from medallion_platform_tests.command import REPOSITORY
from medallion_platform_tests.corpus.line import Line, distinct, read

FILE = "MEDALLION_TEST_CORPUS"
"""The variable that names the file; without it nothing of this is loaded."""
PLACE = Path(os.environ[FILE]).absolute() if os.environ.get(FILE) else None
"""Tests go to other folders."""
MARK = "failure"
_WORK_OF_LAYER: dict[str, Work] = {
    "bronze": "intake",
    "silver": "refresh",
    "gold": "refresh",
    "serving": "publish",
}

met: list[Evidence] = []
"""What the marked test that runs now has met."""


def meet(evidence: Evidence) -> None:
    """Keep what a test made that the platform learns without an error, as the exit code of a process."""
    met.append(evidence)


def meet_error(error: BaseException, table: str = "", work: Work = "run") -> None:
    """Keep an error that was met at work on a table."""
    chain = chain_of(error)
    table = table or chain.table
    work = _WORK_OF_LAYER.get(table.partition(".")[0], work)
    met.append(Evidence(f"test/{len(met)}", datetime.now(UTC), work, table, chain=chain))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Watch a marked test, and write down what it met."""
    mark = item.get_closest_marker(MARK)
    if mark is None:
        return (yield)
    kind = _kind(item, mark)
    met.clear()
    with _watching(mark.kwargs.get("work", "run")):
        result = yield
    if PLACE:
        _add(PLACE, [Line(evidence, kind, _name(item), _commit()) for evidence in met])
    return result


def _kind(item: pytest.Item, mark: pytest.Mark) -> Kind:
    """The class that a mark names."""
    if "of" not in mark.kwargs:
        return Kind(*mark.args)
    assert isinstance(item, pytest.Function)
    return Kind(item.callspec.params[mark.kwargs["of"]])


@contextmanager
def _watching(work: Work) -> Iterator[None]:
    """Keep what is met while the `with` block runs."""
    raised, reported, made = RaisesExc.__exit__, EventReporter.failed, TableFailure.of.__func__  # type: ignore[attr-defined]
    conflicted, handled = EventReporter.conflicted, DagsterInstance.handle_new_event
    told = incident_reports.report_of

    def exit(context: Any, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if error is not None and not isinstance(error, pytest.fail.Exception | pytest.skip.Exception):
            meet_error(error, work=work)
        return raised(context, kind, error, trace)

    def failed(reporter: EventReporter, error: Exception) -> None:
        meet_error(error, reporter.table, work)
        reported(reporter, error)

    def conflict(reporter: EventReporter, error: Any) -> None:
        meet_error(error, reporter.table, work)
        conflicted(reporter, error)

    def of(cls: type[TableFailure], table: str, error: Exception) -> TableFailure:
        meet_error(error, table, work)
        return made(cls, table, error)

    def report_of(evidence: Evidence, by: str) -> Row:
        met.append(replace(evidence, occurrence=f"test/{len(met)}"))
        return told(evidence, by)

    def handle(on: DagsterInstance, event: EventLogEntry, **named: Any) -> None:
        handled(on, event, **named)
        _meet_end(on, event)

    with (
        patch.object(RaisesExc, "__exit__", exit),
        patch.object(EventReporter, "failed", failed),
        patch.object(EventReporter, "conflicted", conflict),
        patch.object(TableFailure, "of", classmethod(of)),
        patch.object(incident_reports, "report_of", report_of),
        patch.object(DagsterInstance, "handle_new_event", handle),
    ):
        yield


def _meet_end(on: DagsterInstance, entry: EventLogEntry) -> None:
    """Keep how a run of Dagster ended, if it failed."""
    event = entry.dagster_event
    if event is None or event.event_type is not DagsterEventType.RUN_FAILURE:
        return
    run, data = on.get_run_by_id(entry.run_id), event.event_specific_data
    data = data if isinstance(data, JobFailureData) else JobFailureData(None)
    step = data.first_step_failure_event
    chains = [f.chain for f in failures_of(step.step_failure_data).values()] if step else []
    meet(
        Evidence(
            f"run/{entry.run_id}",
            datetime.now(UTC),
            "run",
            run_id=entry.run_id,
            chain=chains[0] if chains else ErrorChain(),
            ended_by=run.tags.get(ENDED_BY, "") if run else "",
            run_failure=data.failure_reason.value if data.failure_reason else "",
        )
    )


def _add(place: Path, lines: list[Line]) -> None:
    """Add those that say something new of their test."""
    known = {_same(line) for line in read(place)}
    with place.open("a") as file:
        for line in lines:
            if _same(line) not in known:
                known.add(_same(line))
                file.write(f"{line.to_json()}\n")


def _same(line: Line) -> tuple[str, Kind, str]:
    return distinct(line), line.kind, line.test.partition("[")[0]


def _name(item: pytest.Item) -> str:
    return item.nodeid.removeprefix(f"{Path(__file__).parent.parent.name}/")


@cache
def _commit() -> str:
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
