"""The one run that brings everything up to date: silver, gold and published features, in order.

It reads from the Delta logs what is out of date when it begins, whoever requested it. A table that fails
stops no other table: its downstream tables are made from its last good version.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Thread

import dagster as dg
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration import checks, partitions, reports
from medallion_platform.orchestration.begin_run import begin_run
from medallion_platform.orchestration.event_log import log_partitions_in_bulk
from medallion_platform.orchestration.failures import TableFailure, report_failure
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.names import (
    BRING_UP,
    CATCH_UP,
    INTAKE,
    asset_key,
    pool_name,
    serving_name,
)
from medallion_platform.orchestration.progress import report_progress
from medallion_platform.orchestration.repairs import repair_for
from medallion_platform.orchestration.retries import OURS, only_attempt, repeat_what_passes
from medallion_platform.orchestration.run_log_observer import RunLogObserver
from medallion_platform.orchestration.work import work_on
from medallion_platform.orchestration.written_tables_tag import report_written_tables
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.features import Features
from medallion_platform.pipeline.out_of_date import input_state, out_of_date_tables
from medallion_platform.pipeline.refresh import refresh
from medallion_platform.pipeline.refresh.commit import RefreshResult
from medallion_platform.pipeline.refresh.errors import MissingUpstream
from medallion_platform.pipeline.repair import Damage, repair_what_is_met, table_of
from medallion_platform.pipeline.table import Table
from medallion_platform.serving.feature_repository import has_online_store, published_edition

UNFINISHED = NOT_FINISHED_STATUSES
"""Statuses of a run that is not over, or has not begun."""
_INTAKE_SECONDS = 60
_LOOK_EVERY = 0.2

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation


class CatchUpConfig(dg.Config):
    """The tables that the run must not touch, or the only ones that it may."""

    held: dict[str, str] = {}  # noqa: RUF012  # pydantic copies it
    """Tables that were rolled back, by the state of what they are made from: left out in that state."""
    leave: list[str] = []  # noqa: RUF012
    """Tables that stay as they are."""
    only: list[str] = []  # noqa: RUF012
    """If any is named, all others stay as they are."""
    repair: dict[str, str] = {}  # noqa: RUF012
    """Tables for which the damaged files that they meet are repaired, with the incident."""
    paused: list[str] = []  # noqa: RUF012
    """Tables that a person took out of automation: no repair makes them again."""
    patient: bool = True
    """Wait for a table that another run works on; else it is left to who looks next."""


def catch_up_job(catalog: Catalog, features: Sequence[Features]) -> dg.JobDefinition:
    """The job that the sensor and the command line run."""

    @dg.op(
        name=BRING_UP,
        out=dg.Out(dg.Nothing),
        description="Refresh each table that is out of date, upstream tables first, then publish new data.",
        tags=OURS,
    )
    def body(context: dg.OpExecutionContext, config: CatchUpConfig, lakehouse: Lakehouse) -> Iterator[Event]:
        with only_attempt(context, BRING_UP):
            yield from _CatchUp(context, config, lakehouse, catalog, features).events()

    @dg.graph(name=CATCH_UP, description="Bring up everything that is out of date, by the tables' logs.")
    def graph() -> None:
        body()

    return graph.to_job(executor_def=dg.in_process_executor)


class _CatchUp:
    """One run of the job."""

    def __init__(
        self,
        context: dg.OpExecutionContext,
        config: CatchUpConfig,
        lakehouse: Lakehouse,
        catalog: Catalog,
        features: Sequence[Features],
    ) -> None:
        self._context, self._config, self._lakehouse = context, config, lakehouse
        self._catalog, self._features, self._lake = catalog, features, lakehouse.lake
        self._failed: dict[str, TableFailure] = {}
        self._touched: list[str] = []
        self._written: set[str] = set()
        self._repaired: list[Event] = []

    def events(self) -> Iterator[Event]:
        """Refresh and publish everything; fails at the end if a table failed."""
        if _intake_is_running(self._context.instance):
            start_spark_early(self._lakehouse)
            _wait_for_intakes(self._context.instance)
        late = out_of_date_tables(self._catalog, self._lake.snapshot())
        for table in self._catalog.in_order:
            reached = table.name in late or self._written & set(table.upstream_names)
            if reached and not self._left(table):
                events = self._attempt(table.name, partial(self._refresh, table))
                if any(isinstance(event, dg.AssetMaterialization) for event in events):
                    self._written.add(table.name)
                yield from log_partitions_in_bulk(self._context, [*self._take_repaired(), *events])
        for view in self._features:
            name = serving_name(view.view)
            if not self._excluded(name) and unpublished_edition(view, self._lakehouse):
                events = self._attempt(name, partial(self._publish, view, name))
                yield from log_partitions_in_bulk(self._context, [*self._take_repaired(), *events])
        report_written_tables(self._context.instance, self._context.run.run_id, self._touched)
        if self._failed:
            raise report_failure(self._context, self._failed)

    def _left(self, table: Table) -> bool:
        """Whether the table is skipped in this run."""
        held = self._config.held.get(table.name)
        return self._excluded(table.name) or (held is not None and held == input_state(table, self._lake))

    def _excluded(self, name: str) -> bool:
        """Whether the run is not for this table, in whatever state it is."""
        return name in self._config.leave or bool(self._config.only and name not in self._config.only)

    def _attempt(self, name: str, work: Callable[[], Iterable[Event]]) -> list[Event]:
        """The events of `work`, done while no other run works on the table; a failure is also an event."""
        do = partial(self._do, name, work)
        try:
            if incident := self._config.repair.get(name):
                return repair_what_is_met(do, partial(self._repair, name, incident))
            return do()
        except _Busy:
            self._context.log.info(f"{name}: another run works on it; it is checked again afterwards")
            return []
        except MissingUpstream as error:
            self._context.log.info(str(error))
            return []
        except Exception as error:
            failed = self._failed[name] = TableFailure.of(name, error)
            self._context.log.error(f"{name}: {failed.why}", exc_info=error)
            report_progress(name, "failed")
            self._touched.append(name)
            return [checks.check_evaluation(checks.not_refreshed_result(name, failed.why))]

    def _do(self, name: str, work: Callable[[], Iterable[Event]]) -> list[Event]:
        with _hold_pool(self._context, pool_name(name), patient=self._config.patient):
            events = work_on(self._context, self._lakehouse, name, lambda: list(work()))
            self._touched += [name] if events else []
            return [*events, checks.check_evaluation(checks.refreshed_result(name))]

    def _repair(self, name: str, incident: str, damage: Damage) -> None:
        """Repair what work on a table met, while no other run works on the table that it is of.

        What kills it is evidence of the table that was worked on: it is the one that is tried again.
        """
        with _hold_pool(self._context, pool_name(table_of(damage)), patient=True):
            kept = self._config.paused
            done = repair_for(self._context, self._lakehouse, self._catalog, name, incident, damage, kept)
            if done.made:
                table = self._catalog.by_name[table_of(damage)]
                self._written.add(table.name)
                self._touched.append(table.name)
                self._repaired += self._reported(table, done.made)

    def _take_repaired(self) -> list[Event]:
        """The events of tables that were made again for others, once."""
        events, self._repaired = self._repaired, []
        return events

    def _refresh(self, table: Table) -> Iterable[Event]:
        report_progress(table.name, "refreshing")
        columns = self._catalog.partition_columns
        run = begin_run(self._context, RunLogObserver(self._context.log))
        make = partial(refresh, table, self._lake, self._lakehouse.session, run, partition_columns=columns)
        done = repeat_what_passes(make, self._context.log.warning)
        report_progress(table.name, done.reason)
        if done.record is None:
            self._context.log.info(f"{table.name}: {done.reason}")
            return ()
        return self._reported(table, done)

    def _reported(self, table: Table, done: RefreshResult) -> Iterable[Event]:
        """What Dagster is told of a refresh that wrote."""
        assert done.record is not None
        at, columns = datetime.fromisoformat(done.record.at), self._catalog.partition_columns
        on, definition = self._context.instance, partitions.table_partitions(self._catalog, table.name)
        untold = partitions.unreported_partitions(on, table.name, definition, at)
        provenance = reports.provenance(on, table)
        return reports.refresh_events(self._lake, table, done, columns, provenance, untold)

    def _publish(self, view: Features, name: str) -> Iterable[Event]:
        from medallion_platform.pipeline.publish import publish
        from medallion_platform.serving.feature_repository import FeatureRepository, OnlineFeatures

        report_progress(name, "publishing")
        repository = FeatureRepository(Path(self._lakehouse.feature_repo), self._lake, (view,))
        run = begin_run(self._context)
        publish_view = partial(publish, OnlineFeatures(repository, view), self._lake, run)
        done = repeat_what_passes(publish_view, self._context.log.warning)
        report_progress(name, done.reason)
        self._context.log.info(f"{name}: {done.reason}")
        yield dg.AssetMaterialization(asset_key(name), metadata=reports.published_metadata(done))
        newest = self._lake.version(view.table)
        yield checks.check_evaluation(checks.published_result(asset_key(name), done.edition.version, newest))


def published_features(catalog: Catalog, lakehouse: Lakehouse) -> Sequence[Features]:
    """The features of a catalog that are published: none where their repository has no online store."""
    return catalog.features if has_online_store(Path(lakehouse.feature_repo)) else ()


def unpublished_edition(view: Features, lakehouse: Lakehouse, lake: Lake | None = None) -> str:
    """The newest edition of a gold table as text, if the online store does not have it yet, else "".

    lake: a snapshot to use; by default the current state.
    """
    home, lake = Path(lakehouse.feature_repo), lake or lakehouse.lake
    found = lake.table_state(view.table)
    if found is None:
        return ""
    held = published_edition(home, lake, view)
    newest = (found.fact("id", lambda table: str(table.metadata().id)), found.version)
    return "" if held and (held.table_id, held.version) == newest else f"{newest[0]}@{newest[1]}"


def start_spark_early(lakehouse: Lakehouse) -> None:
    """Start Spark for the following refreshes, while something runs that needs none."""

    def start() -> None:
        with suppress(Exception):  # whoever needs it meets the same error, and tells it
            lakehouse.start_spark()

    Thread(target=start, daemon=True).start()


def _intake_is_running(on: dg.DagsterInstance) -> bool:
    """Whether an intake is running or about to start."""
    return bool(on.get_run_ids(dg.RunsFilter(job_name=INTAKE, statuses=UNFINISHED), limit=1))


def _wait_for_intakes(on: dg.DagsterInstance) -> None:
    """Wait until earlier intakes are finished, so that this run also refreshes from their rows.

    The wait is limited: rows of later intakes make tables out of date, which the sensor sees next time.
    """
    until = time.monotonic() + _INTAKE_SECONDS
    while _intake_is_running(on) and time.monotonic() < until:
        time.sleep(_LOOK_EVERY)


class _Busy(Exception):
    """Another run is working on the table."""


@contextmanager
def _hold_pool(context: dg.OpExecutionContext, pool: str, *, patient: bool) -> Generator[None]:
    """Hold the pool of a table in the `with` block, like a step of its own: one writer at a time."""
    with InstanceConcurrencyContext(context.instance, context.run) as pools:
        while not pools.claim(pool, pool):
            if not patient:
                raise _Busy
            time.sleep(_LOOK_EVERY)
        try:
            yield
        finally:
            pools.free_step(pool)
