"""Launches Dagster runs in this process: intake of new data, then refresh of everything downstream.

`medallion demo` and `medallion run` use this; the daemon launches the same jobs and assets itself.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Collection, Generator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.execution.api import execute_run_iterator
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from medallion_platform.installation.project import current_project
from medallion_platform.lakehouse.lake import DamagedLog, Lake
from medallion_platform.orchestration import states
from medallion_platform.orchestration.assets import intake_op_name
from medallion_platform.orchestration.catch_up import (
    published_features,
    start_spark_early,
    unpublished_edition,
)
from medallion_platform.orchestration.failures import TableFailure, failures_of
from medallion_platform.orchestration.healing import record_failures
from medallion_platform.orchestration.heartbeats import leave_out_this_thread
from medallion_platform.orchestration.hung_runs import Silences, end_hung_runs
from medallion_platform.orchestration.intakes import waiting_arrivals
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.names import (
    BRING_UP,
    CATCH_UP,
    INTAKE,
    asset_key,
    serving_name,
    table_of,
)
from medallion_platform.orchestration.pools import (
    PID_TAG,
    PoolHolder,
    close_dead_runs,
    own_runs,
    runs_holding_pools,
)
from medallion_platform.orchestration.progress import report_progress
from medallion_platform.orchestration.retries import NEVER_AGAIN
from medallion_platform.orchestration.wanted import wanted_now
from medallion_platform.pipeline import out_of_date
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.rollback import RollbackResult, rollback
from medallion_platform.pipeline.run import Run
from medallion_platform.storage import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagster_shared.error import SerializableErrorInfo

LAUNCHED_TAG = "medallion/launched_by"
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Events go to the instance, where the UI shows them, and not to the terminal as well."""

_LOOK_EVERY = 0.5
"""Seconds between two looks at what a run waits for."""

_LONGEST_ENDING = 1.0

_SETTINGS = """\
# Dagster's processes do less while nothing happens.
instance_class:
  module: medallion_platform.orchestration.instance
  class: Instance
# Freshness is the age of the data, which a sensor of the platform tells; Dagster's goes by the last run.
freshness:
  enabled: false
telemetry:
  enabled: false
nux:
  enabled: false
python_logs:
  python_log_level: INFO
concurrency:
  pools:
    default_limit: 1
    granularity: op
run_queue:
  dequeue_interval_seconds: 1
run_monitoring:
  enabled: true
  free_slots_after_run_end_seconds: 60
"""

_FORMER_SETTINGS = {_SETTINGS[_SETTINGS.index(begin) :] for begin in ("# Freshness", "telemetry:")}
"""What former versions wrote; it is replaced where nobody changed it."""

Result = TypeVar("Result")


@dataclass
class Outcome:
    """What a round of runs did: Dagster's run ids, why a table failed, which inputs one waits for.

    before: the version of each table as it began.
    """

    run_ids: list[str] = field(default_factory=list)
    failed: dict[str, TableFailure] = field(default_factory=dict)
    waiting: dict[str, list[str]] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)


@contextmanager
def open_instance(home: Path) -> Generator[dg.DagsterInstance]:
    """The Dagster instance below `home`, made on first use, with dead runs closed."""
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.exists() or settings.read_text() in _FORMER_SETTINGS:
        write_whole(settings, _SETTINGS)
    os.environ["DAGSTER_HOME"] = str(home)
    with dg.DagsterInstance.from_config(str(home)) as found:
        close_dead_runs(found)
        yield found


def write_workspace(home: Path) -> Path:
    """The file that tells Dagster what to load, below its `home`: what the project's pyproject.toml says."""
    project, found = current_project(), home / "workspace.yaml"
    target = {"module_name": project.definitions, "location_name": project.location}
    if project.root:
        target["working_directory"] = str(project.root)
    # JSON is YAML, whatever a path holds.
    write_whole(found, json.dumps({"load_from": [{"python_module": target}]}, indent=2))
    return found


def run_attended(on: dg.DagsterInstance, work: Callable[[], Result]) -> Result:
    """Do `work`, which launches runs, in a thread of its own, and look after it from this one.

    What it waits for is said once, and a run is ended that hangs holding it, or closed that died. A signal
    that this thread hears (Dagster would hold it back until its step ends) cancels the runs and is raised at
    once: nothing of them is visible before their commits, and the process is expected to end.
    """
    done: Future[Result] = Future()

    def do() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=do, daemon=True).start()
    known: set[PoolHolder] = set()
    silences: Silences = {}
    leave_out_this_thread()
    try:
        while not wait([done], _LOOK_EVERY).done:
            known = _free_and_report_pools(on, known, silences)
    except BaseException:
        # Whoever stops a command does not wait; a run that is not told of in time is closed by the next one.
        ending = Thread(target=_cancel_own_runs, args=(on,), daemon=True)
        ending.start()
        ending.join(_LONGEST_ENDING)
        raise
    return done.result()


def _cancel_own_runs(on: dg.DagsterInstance) -> None:
    for run in own_runs(on, os.getpid()):
        on.report_run_canceled(run, message="The command that ran this was stopped; nothing was lost.")
        on.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _free_and_report_pools(
    on: dg.DagsterInstance, known: set[PoolHolder], silences: Silences
) -> set[PoolHolder]:
    """Where this process's runs wait for a pool: free it of what hangs or is dead, and say once who else has
    it."""
    ours = [run.run_id for run in own_runs(on, os.getpid())]
    if not ours or not runs_holding_pools(on, ours):
        return known
    end_hung_runs(on, silences)
    close_dead_runs(on)
    found = set(runs_holding_pools(on, ours))
    for holder in found - known:
        report_progress(
            table_of(holder.pool), f"waits for run {holder.run_id[:8]}, which works on the same table"
        )
    return known | found


def run_everything(
    defs: Callable[[], dg.Definitions],
    catalog: Catalog,
    lakehouse: Lakehouse,
    on: dg.DagsterInstance,
    tables: Collection[str] = (),
) -> Outcome:
    """Take in what waits, then refresh every table that is out of date, in order.

    tables: only these and what they are made from. A table whose upstream failed is still refreshed from the
    upstream's last good version. Where there is nothing to do no run is made, and `defs` is not asked for.
    """
    defs, lake = cache(defs), lakehouse.lake.snapshot()
    features = published_features(catalog, lakehouse)
    outcome, served = Outcome(before=_table_versions(catalog, lake)), states.served(features)
    if tables:
        wanted = catalog.with_upstream(tables)
        ops = [intake_op_name(s) for s in catalog.sources if s.table in wanted]
        _execute_job(defs().resolve_job_def(INTAKE).get_subset(op_selection=ops), on, outcome, {})
        if wanted & catalog.by_name.keys():
            others = {*catalog.by_name, *(serving_name(view.view) for view in features)} - wanted
            _run_catch_up(defs(), on, outcome, leave=others)
    else:
        if waiting_arrivals(catalog, lakehouse, datetime.now(UTC), lake):
            start_spark_early(lakehouse)
            _execute_job(defs().resolve_job_def(INTAKE), on, outcome, {})
            lake = lakehouse.lake.snapshot()
        behind = any(unpublished_edition(f, lakehouse, lake) for f in features)
        if behind or out_of_date.out_of_date_tables(catalog, lake):
            _run_catch_up(defs(), on, outcome)
    lake = lakehouse.lake.snapshot()
    outcome.waiting = out_of_date.tables_waiting_for_inputs(catalog, lake)
    now = datetime.now(UTC)
    if outcome.run_ids:
        late = out_of_date.out_of_date_tables(catalog, lake)
        waiting = waiting_arrivals(catalog, lakehouse, now, lake)
        wanted = wanted_now(catalog, features, lakehouse, lake, late, waiting)
        record_failures(on, lakehouse.lake, wanted, now)
    states.report_states(catalog, served, lake, on, now)
    states.report_tables(catalog, lake, on, now)
    return outcome


def _table_versions(catalog: Catalog, lake: Lake) -> dict[str, int]:
    """The version of each table; none of one whose log is damaged, which whoever works on it says."""
    found: dict[str, int] = {}
    for name in catalog.names:
        with suppress(DamagedLog):
            found[name] = lake.version(name)
    return found


def roll_back(
    defs: dg.Definitions, catalog: Catalog, lakehouse: Lakehouse, on: dg.DagsterInstance, run_id: str
) -> tuple[list[RollbackResult], Outcome]:
    """Take back what a run did, then refresh what follows from the tables that it wrote.

    The tables themselves are left as they were before it: made again by the same code they would be
    the same again. Each is told to Dagster as an observation.
    """
    taken_back = rollback(catalog, lakehouse.lake, run_id, Run.now(f"rollback-{uuid4().hex[:8]}"))
    for table in (t for t in taken_back if t.version is not None):
        on.report_runless_asset_event(
            dg.AssetObservation(
                asset_key(table.table),
                description=f"Run {run_id} was taken back: {table.how}.",
                metadata={"rows_before": table.rows_before, "rows": table.rows, "taken_back_run": run_id},
            )
        )
    outcome = Outcome()
    _run_catch_up(defs, on, outcome, leave=[t.table for t in taken_back])
    return taken_back, outcome


def _run_catch_up(
    defs: dg.Definitions, on: dg.DagsterInstance, outcome: Outcome, leave: Collection[str] = ()
) -> None:
    """Refresh and publish whatever is out of date; what failed before is tried again."""
    config = {BRING_UP: {"config": {"leave": sorted(leave)}}}
    _execute_job(defs.resolve_job_def(CATCH_UP), on, outcome, config)


def _execute_job(
    job: dg.JobDefinition, on: dg.DagsterInstance, outcome: Outcome, ops: Mapping[str, object]
) -> None:
    """Run a job in this process, known to the UI as one of the code location that it shows."""
    run = on.create_run_for_job(
        job,
        run_config={**_QUIET, "ops": ops},
        tags={**job.run_tags, **NEVER_AGAIN, PID_TAG: str(os.getpid()), LAUNCHED_TAG: "command line"},
        asset_selection=job.asset_selection,
        remote_job_origin=_repository_origin().get_job_origin(job.name),
    )
    outcome.run_ids.append(run.run_id)
    for event in execute_run_iterator(InMemoryJob(job), run, on):
        if event.is_step_failure:
            step = event.step_failure_data
            unnamed = {str(event.step_key): TableFailure(run_error_in_words(step.error))}
            outcome.failed |= failures_of(step) or unnamed


def _repository_origin() -> RemoteRepositoryOrigin:
    """What `medallion dev` and workspace.yaml load, as the UI names it."""
    project = current_project()
    target = LoadableTargetOrigin(executable_path=sys.executable, module_name=project.definitions)
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, project.location)
    return RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME)


def run_error_in_words(error: SerializableErrorInfo | None) -> str:
    """What our own code said, without Dagster's wrapper and without what caused it further down."""
    if error and error.cause and (error.cls_name or "").startswith("Dagster"):
        error = error.cause
    if not error:
        return "failed"
    return re.sub(rf"^[\w.]*\b{error.cls_name}: ", "", error.message.strip())
