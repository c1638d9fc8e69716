"""Runs that failed, as evidence: for each table at which one failed, by what it said or by what ended it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import dagster as dg
from dagster._core.storage.tags import RUN_FAILURE_REASON_TAG, RUN_KEY_TAG, WILL_RETRY_TAG

from medallion_platform.errors import ErrorChain
from medallion_platform.healing.evidence import Evidence, Work
from medallion_platform.orchestration.failures import TableFailure, failures_of
from medallion_platform.orchestration.memory_reports import ENDED_BY, WORKING_ON
from medallion_platform.orchestration.names import BACK_UP, BACKUP, MAINTENANCE

_WORK_OF_JOBS: Mapping[str, Work] = {MAINTENANCE: "maintenance", BACK_UP: "backup"}
_WELL = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED)
_MOST = 1000
"""Failed runs that are read at one look; the others are read at the next one."""
_AT_FIRST = 100
"""Those of the newest failed runs that are read where nobody knows what was read before."""
_ENDED = re.compile(r"was terminated by signal (\d+)|unexpectedly exited with code (\d+)")
"""How Dagster's code server says in an event, and nowhere else, that the process of a run ended."""


@dataclass(frozen=True)
class FailedRun:
    """A run that failed, and will not be begun again by Dagster.

    key: by which it was asked for, "" where nobody did. failures: by table, as its failing steps name them;
    none if it was ended before it could say why. working_on: the table that it worked on last, "" if it had
    begun none. ended_by: what ended its pod or process, a word of `kubernetes/pod_end.py`. reason: Dagster's
    `RunFailureReason`. exit_code: of its process, as `Evidence` has it; None where nobody saw it end.
    job: its name. seconds: that it took, None if it never began.
    """

    run_id: str
    key: str
    at: datetime
    failures: Mapping[str, TableFailure] = field(default_factory=dict[str, TableFailure])
    working_on: str = ""
    ended_by: str = ""
    reason: str = ""
    exit_code: int | None = None
    job: str = ""
    seconds: float | None = None


def failed_runs(on: dg.DagsterInstance, position: int | None) -> tuple[list[FailedRun], int]:
    """The runs that failed since a position of the event log, the earliest first, and the next position.

    position: None where it is not known.
    """
    asked = dg.RunStatusChangeRecordsFilter(dg.DagsterEventType.RUN_FAILURE, after_storage_id=position)
    first = position is None
    records = on.fetch_run_status_changes(asked, _AT_FIRST if first else _MOST, ascending=not first).records
    entries = {r.storage_id: r.event_log_entry for r in sorted(records, key=lambda r: r.storage_id)}
    runs = [_failed_run(on, entry.run_id, entry.timestamp) for entry in entries.values()]
    return [run for run in runs if run], max(entries, default=position or 0)


def evidence_of(failed: FailedRun, asked_for: Collection[str]) -> list[Evidence]:
    """What a failed run is evidence of, by table. Pure.

    asked_for: the tables that it was asked for, each of which failed where the run names none.
    """
    chains = {name: failure.chain for name, failure in failed.failures.items() if "." in name}
    if not failed.failures and failed.working_on:
        tables: Iterable[str] = [failed.working_on]
    else:
        tables = chains or asked_for
    work = _WORK_OF_JOBS.get(failed.job)
    if work is None and BACKUP in failed.failures:
        work = "backup"
    if work:
        # It is done anew at its next time. What is of no table has the name of its step, or of the work.
        chains = {name: failure.chain for name, failure in failed.failures.items()}
        tables = chains or [work]
    whole = next((f.chain for f in failed.failures.values()), ErrorChain())
    return [
        Evidence(
            f"run/{failed.run_id}/{table}",
            failed.at,
            work or work_at(table),
            table,
            failed.run_id,
            chains.get(table, whole),
            failed.ended_by,
            failed.reason,
            failed.exit_code,
            failed.seconds,
        )
        for table in tables
    ]


def unharmed(on: dg.DagsterInstance, asked_for: Mapping[str, str]) -> set[str]:
    """The tables at which the run has not failed that was asked for them, and that has ended.

    asked_for: by table, the key of the run. A run that was cancelled has failed at nothing; one that fails at
    tables says at which ones, and has gone through all others.
    """
    found: set[str] = set()
    for key in set(asked_for.values()) - {""}:
        tables = {table for table, of in asked_for.items() if of == key}
        for run in on.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: key}), limit=1):
            named = _failures_in(on, run.run_id) if run.is_finished and not run.is_success else {}
            if run.status in _WELL or any("." in name for name in named):
                found |= tables - named.keys()
    return found


def work_at(table: str) -> Work:
    """What is done to bring up a table."""
    match table.partition(".")[0]:
        case "bronze":
            return "intake"
        case "serving":
            return "publish"
        case _:
            return "refresh"


def _failed_run(on: dg.DagsterInstance, run_id: str, at: float) -> FailedRun | None:
    record = on.get_run_record_by_id(run_id)
    if record is None or (run := record.dagster_run).tags.get(WILL_RETRY_TAG) == "true":
        return None
    failures = _failures_in(on, run_id)
    return FailedRun(
        run_id,
        run.tags.get(RUN_KEY_TAG, ""),
        datetime.fromtimestamp(at, UTC),
        failures,
        run.tags.get(WORKING_ON, ""),
        run.tags.get(ENDED_BY, ""),
        run.tags.get(RUN_FAILURE_REASON_TAG, ""),
        None if failures else _exit_code(on, run_id),
        run.job_name,
        None if record.start_time is None else round(max(at - record.start_time, 0), 1),
    )


def _failures_in(on: dg.DagsterInstance, run_id: str) -> dict[str, TableFailure]:
    """The tables at which a run says that it failed."""
    found: dict[str, TableFailure] = {}
    for entry in on.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        if entry.dagster_event:
            found |= failures_of(entry.dagster_event.step_failure_data)
    return found


def _exit_code(on: dg.DagsterInstance, run_id: str) -> int | None:
    """How the process of a run ended, if a code server saw it: minus the number of a signal, or its code."""
    for entry in reversed(on.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)):
        if entry.dagster_event and (found := _ENDED.search(entry.dagster_event.message or "")):
            signal, code = found.groups()
            return int(code) if signal is None else -int(signal)
    return None
