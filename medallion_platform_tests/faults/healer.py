"""A process that takes one turn as the daemon does, and kills itself at a named step.

A turn: runs whose process is gone are closed, those that were handed out and not begun are executed, a look
of the real sensor, what it asks for is handed out, what it remembers is kept, and its runs are executed.
"""

from __future__ import annotations

import multiprocessing
import sys
from datetime import datetime
from multiprocessing.process import BaseProcess
from os import getpid
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run_iterator
from dagster._core.storage.tags import RUN_KEY_TAG

from medallion_platform.installation.settings import Settings
from medallion_platform.lakehouse import incidents, repair_log
from medallion_platform.orchestration import healing, runs, sensors
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.lakehouse_resource import lakehouse_of
from medallion_platform.orchestration.pools import PID_TAG, close_dead_runs
from medallion_platform.pipeline import repair
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake import polars_engine
from medallion_platform_tests.faults import victim
from medallion_platform_tests.pipeline.toy import CSV

CATALOG = Catalog((CSV,), ())
BEGUN = "begun"
"""A file with a line for each run that was begun."""


def settings_of(home: Path) -> Settings:
    """An installation with backups."""
    return Settings(home=home, settle_seconds=0, backup=home / "backups")


def turn(home: Path, at: datetime, aim: victim.Aim | None) -> BaseProcess:
    """A process that takes a turn at a time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_turn, args=(home, at, aim))
    process.start()
    return process


def _turn(home: Path, at: datetime, aim: victim.Aim | None) -> None:
    if aim:
        victim.load(STEPS, aim)
    sensors.datetime = Mock(now=lambda _: at)  # type: ignore[attr-defined]
    place = lakehouse_of(settings_of(home), CATALOG)
    defs = build_defs(CATALOG, place)
    kept = home / "cursor"
    with runs.open_instance(home / "dagster") as on:
        close_dead_runs(on)  # as the daemon's monitor does
        _execute_all(on, defs, home)
        cursor = kept.read_text() if kept.exists() else None
        context = dg.build_sensor_context(on, cursor=cursor, resources={"lakehouse": place})
        seen: Any = defs.get_repository_def().get_sensor_def("catch_up_sensor")(context)
        if isinstance(seen, dg.SkipReason):
            return
        for request in seen.run_requests or ():
            hand_out(on, defs, request)
        keep(kept, seen.cursor)
        _execute_all(on, defs, home)


def hand_out(on: dg.DagsterInstance, defs: dg.Definitions, request: Any) -> None:
    """Make a run, unless there is one of that key, as the daemon does."""
    if on.get_runs_count(dg.RunsFilter(tags={RUN_KEY_TAG: request.run_key})):
        return
    job = defs.resolve_job_def(request.job_name)
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    tags = {**job.run_tags, **request.tags, RUN_KEY_TAG: request.run_key}
    on.create_run_for_job(job, run_config={**quiet, **request.run_config}, tags=tags)


def keep(kept: Path, cursor: str) -> None:
    """Remember what the look remembers."""
    new = kept.with_suffix(".new")
    new.write_text(cursor)
    new.replace(kept)


def execute(on: dg.DagsterInstance, defs: dg.Definitions, run: dg.DagsterRun, home: Path) -> None:
    """Execute a run in this process."""
    with (home / BEGUN).open("a") as begun:
        begun.write(f"{run.job_name} {run.run_id}\n")
    on.add_run_tags(run.run_id, {PID_TAG: str(getpid())})
    for _ in execute_run_iterator(InMemoryJob(defs.resolve_job_def(run.job_name)), run, on):
        pass


def _execute_all(on: dg.DagsterInstance, defs: dg.Definitions, home: Path) -> None:
    for run in on.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.NOT_STARTED]), ascending=True):
        execute(on, defs, run, home)


STEPS: dict[str, tuple[Any, str]] = {
    "failed runs are read": (healing, "failed_runs"),
    "the ledger is read": (incidents, "read"),
    "a decision is written": (incidents, "decide"),
    "failed runs are tagged": (healing, "_tag_runs"),
    "a run is handed out": (sys.modules[__name__], "hand_out"),
    "what the look remembers is kept": (sys.modules[__name__], "keep"),
    "a run is executed": (sys.modules[__name__], "execute"),
    "a log is repaired": (repair_log, "_put"),
    "a copy is looked for": (repair, "has_good_copy"),
    "a copy is put back": (repair, "put_file_back"),
    "what was repaired is told": (incidents, "report"),
    "rows and positions": (polars_engine.polars_writer, "append_rows"),
}
"""The effects of a turn, in their order."""
