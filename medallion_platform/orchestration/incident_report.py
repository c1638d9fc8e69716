"""The report of an incident: its facts, from the Delta logs, the memory uses and the run that failed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import dagster as dg

from medallion_platform.contracts.personal_data_shapes import masked
from medallion_platform.errors import MedallionError
from medallion_platform.healing.incident import Incident
from medallion_platform.healing.report import Facts, InputChange, LastWrite, Report, explain_incident
from medallion_platform.installation.settings import bytes_of_memory
from medallion_platform.lakehouse import memory_uses
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration.made_with import made_with
from medallion_platform.orchestration.memory_reports import MEMORY_LIMIT
from medallion_platform.orchestration.read_run_log import Line, run_log
from medallion_platform.orchestration.stage_reports import stage_of
from medallion_platform.queries.last_write import last_write

LINES = 10
"""Lines of a log that a report shows."""
_LONGEST = 1000
"""Characters of one of them: a step that failed at many tables tells of all."""


def report_incident(lake: Lake, on: dg.DagsterInstance | None, incident: Incident) -> Report:
    """Why an incident's table failed, as far as anything tells; it is found out anew each time.

    on: None where Dagster's storage cannot be read; then its runs and their logs are missing.
    """
    last, inputs = _last_write(lake, incident)
    run, good = _run(on, incident.run_id), _run(on, last.run_id if last else "")
    log = run_log(on, run.run_id) if on and run else ()
    stage = stage_of(on, run.run_id, incident.table) if on and run else None
    of_stage = {f"stage_{name}": figure for name, figure in stage.figures.items()} if stage else {}
    facts = Facts(
        last,
        inputs,
        made_with(good),
        made_with(run),
        stage.operators if stage else (),
        {**_memory(lake, incident, run), **of_stage},
        _last_lines(log, incident.table),
    )
    return explain_incident(incident, facts)


def _run(on: dg.DagsterInstance | None, run_id: str) -> dg.DagsterRun | None:
    return on.get_run_by_id(run_id) if on and run_id else None


def _last_write(lake: Lake, incident: Incident) -> tuple[LastWrite | None, tuple[InputChange, ...]]:
    """Nothing of a table whose log is what is damaged."""
    if "." in incident.table:
        with suppress(MedallionError):
            return last_write(lake, incident.table, incident.began, incident.failed)
    return None, ()


def _last_lines(lines: Sequence[Line], table: str) -> tuple[str, ...]:
    """The last lines of the log of a run about itself or a table, without what looks like personal data."""
    about = [line for line in lines if not line.step or table in line.message][-LINES:]
    return tuple(masked(f"{line.at:%H:%M:%S}Z {line.message}")[:_LONGEST] for line in about)


def _memory(lake: Lake, incident: Incident, run: dg.DagsterRun | None) -> dict[str, int | float]:
    """The memory that the run had for the table, took of it, and could get at the most; nothing without a pod
    of its own.
    """
    found: dict[str, int | float] = {}
    if run and (limit := run.tags.get(MEMORY_LIMIT, "")).isdigit():
        found["driver_memory_limit_bytes"] = int(limit)
        if most := made_with(run).get("MEDALLION_MOST_MEMORY"):
            found["most_memory_bytes"] = bytes_of_memory(most)
    with suppress(MedallionError):
        for use in memory_uses.read(lake):
            if (use.table, use.run_id) == (incident.table, incident.run_id):
                found[f"{use.where}_memory_limit_bytes"] = use.limit
                found[f"{use.where}_memory_peak_bytes"] = use.peak
    return found
