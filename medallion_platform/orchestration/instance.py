"""Dagster's instance, for which its own processes do less while nothing happens, lose no retry, and make
no more than they are allowed.

Dagster 1.13 makes an engine of SQLAlchemy for each statement, which then compiles the statement; it reads its
fifty migrations whenever an instance is opened, as a sensor does at each look; its daemon asks for a
description of all assets every minute, and every second whether they are others. With 300 tables that is
most of what an idle `medallion dev` does. `dagster.yaml` names `Instance`, so that each process that opens
the instance has it, the daemon too, which loads hardly anything else of the platform.

Dagster's daemon tries a failed run again when it reads of the failure, and never later: a run that was lost
with a node stayed failed if the code location had been on the same node and was not back yet.

These are modules that Dagster may change in any release. Where one has not what is looked for here, Dagster
is left as it is: it does more, and nothing else.

How often Dagster may try work of the platform's again is said in `retries.py`. The instance is where each run
passes that anybody asks Dagster for (a click, a sensor, a schedule, a backfill, a command, a retry): there it
gets its tags, by which both the process that reports a failure and the daemon decide. For that nothing is
replaced, only methods are overridden, and without them there is no start.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import sqlalchemy
import tenacity
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from dagster import DagsterInstance
from dagster import __version__ as dagster_version
from dagster._core.errors import DagsterCodeLocationLoadError, DagsterUserCodeUnreachableError
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.tags import MAX_RETRIES_TAG
from sqlalchemy.pool import Pool
from tenacity import retry_if_exception_type, stop_after_delay, wait_fixed

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.orchestration.retries import has_only_our_steps, retry_tags

if TYPE_CHECKING:
    from alembic.config import Config
    from dagster import DagsterRun
    from dagster._core.workspace.context import BaseWorkspaceRequestContext

DESCRIPTION_SECONDS = 240
"""How often the daemon asks for a description of all assets; of a reload it hears by itself."""
_PATIENCE_SECONDS = 240
"""For how long that may fail before the daemon ends, as Dagster has it."""
WATCH_SECONDS = 5
"""How often the daemon asks whether the definitions are others: it learns of a reload so much later."""
AWAY_SECONDS = 600
"""For how long a retry waits for its code location: a node is given up, and its pods are made elsewhere."""
_ASK_AGAIN_SECONDS = 5
_STORAGES = (
    "dagster._core.storage.event_log.sqlite.sqlite_event_log",
    "dagster._core.storage.runs.sqlite.sqlite_run_storage",
    "dagster._core.storage.schedules.sqlite.sqlite_schedule_storage",
)
_MOST_ENGINES = 64
"""The log of each run is a database of its own."""
_OVERRIDDEN = ("submit_run", "run_monitoring_max_resume_run_attempts")
"""What `Instance` overrides to own the retries."""
_heads: dict[str | None, str | tuple[str, ...] | None] = {}
"""The newest migration in each folder of migrations that this process has read."""


class OtherDagster(MedallionError):
    """This release of Dagster has not what the platform needs to own the retries of its runs."""

    kind = Kind.PERMANENT
    remedy = "install a version of Dagster that `medallion doctor` accepts"


class Instance(DagsterInstance):
    """A `DagsterInstance` with the same databases and settings, but for retries of the platform's runs.

    Raises:
        OtherDagster: Dagster lacks a method that has to be overridden.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        _require_methods()
        keep_engines()
        ask_less_often()
        wait_with_retries()
        super().__init__(*arguments, **options)

    @property
    def run_monitoring_max_resume_run_attempts(self) -> int:
        """None, whatever `dagster.yaml` says: a lost run begins again as another run, which is counted."""
        return 0

    def submit_run(self, run_id: str, workspace: BaseWorkspaceRequestContext) -> DagsterRun:
        """Queue or launch a run, with the tags by which Dagster may try it again."""
        self._limit_retries(run_id)
        return super().submit_run(run_id, workspace)

    def _limit_retries(self, run_id: str) -> None:
        """Tag a run if all its steps are the platform's; any other is left to Dagster's settings."""
        run = self.get_run_by_id(run_id)
        if run is not None and has_only_our_steps(self, run):
            asked_for = run.tags.get(MAX_RETRIES_TAG)
            self.add_run_tags(run_id, retry_tags(asked_for, self.run_retries_max_retries))

    @staticmethod
    def config_schema() -> Mapping[str, Any]:
        """The fields of `dagster.yaml` beyond Dagster's own: none."""
        return {}

    @staticmethod
    def config_defaults(base_dir: str) -> Mapping[str, Any]:
        """What `dagster.yaml` need not say."""
        return InstanceRef.config_defaults(base_dir)


def unlimited_retries(on: DagsterInstance) -> str:
    """What to tell where the platform does not limit the retries of an instance, else ""."""
    if isinstance(on, Instance):
        return ""
    return (
        f"dagster.yaml in {on.root_directory} does not name {Instance.__module__}.{Instance.__name__} as "
        "instance_class: Dagster's own retries of runs are not limited by the platform"
    )


def _require_methods() -> None:
    """Refuse a Dagster in which an override would have no effect."""
    if missing := [name for name in _OVERRIDDEN if not hasattr(DagsterInstance, name)]:
        text = f"Dagster {dagster_version} has no DagsterInstance.{missing[0]}"
        raise OtherDagster(f"{text}, by which the platform limits how often its runs are tried again")


def keep_engines() -> None:
    """Let Dagster make one engine for each SQLite database, and read its migrations once in a process.

    A connection is opened for each statement as before: nothing is open while a process forks, or while a
    database is deleted.
    """
    for name in _STORAGES:
        _replace(name, create_engine=_engine, check_alembic_revision=_revisions)


def ask_less_often() -> None:
    """Let the daemon, if this is its process, ask the code server less often."""
    controller = "dagster._daemon.controller"
    if controller in sys.modules:
        _replace(controller, RELOAD_WORKSPACE_INTERVAL=DESCRIPTION_SECONDS)
        _replace(controller, DEFAULT_WORKSPACE_FRESHNESS_TOLERANCE=DESCRIPTION_SECONDS + _PATIENCE_SECONDS)
        _replace("dagster._grpc.server_watcher", WATCH_INTERVAL=WATCH_SECONDS)


def wait_with_retries() -> None:
    """Let the daemon, if this is its process, try a run again as soon as its code location is there."""
    module = sys.modules.get("dagster._daemon.auto_run_reexecution.auto_run_reexecution")
    retry = getattr(module, "retry_run", None)
    if module and retry and not hasattr(retry, "retry"):  # what tenacity has wrapped has it
        away = retry_if_exception_type((DagsterCodeLocationLoadError, DagsterUserCodeUnreachableError))
        once_there = tenacity.retry(
            retry=away, wait=wait_fixed(_ASK_AGAIN_SECONDS), stop=stop_after_delay(AWAY_SECONDS), reraise=True
        )
        _replace(module.__name__, retry_run=once_there(retry))


def _replace(module: str, **values: object) -> None:
    """Set names of a module that it has; another release of Dagster may have neither."""
    try:
        found = import_module(module)
    except ImportError:
        return
    for name, value in values.items():
        if hasattr(found, name):
            setattr(found, name, value)


def _engine(url: str, **options: Any) -> sqlalchemy.Engine:
    """The engine that Dagster asks for."""
    if not options.keys() <= {"poolclass", "connect_args"}:
        return sqlalchemy.create_engine(url, **options)
    return _kept_engine(url, options.get("poolclass"), tuple(options.get("connect_args", {}).items()))


@lru_cache(maxsize=_MOST_ENGINES)
def _kept_engine(
    url: str, pool: type[Pool] | None, arguments: tuple[tuple[str, float], ...]
) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(url, poolclass=pool, connect_args=dict(arguments))


def _revisions(config: Config, connection: sqlalchemy.Connection) -> tuple[Any, Any]:
    """The migration that a database stands at, and the newest one."""
    folder = config.get_main_option("script_location")
    if folder not in _heads:
        _heads[folder] = ScriptDirectory.from_config(config).as_revision_number("head")
    return MigrationContext.configure(connection).get_current_revision(), _heads[folder]
