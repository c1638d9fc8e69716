"""A continuous worker as Dagster sees it: its intakes and refreshes appear as materializations.

The worker is not a Dagster run. What it did is reported every few seconds under its own run id, so that
`medallion history` shows it and `medallion rollback` can undo it.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import dagster as dg

from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.observability.worker import WorkerMetrics
from medallion_platform.orchestration import reports
from medallion_platform.orchestration.event_log import report_in_bulk
from medallion_platform.orchestration.lakehouse import Lakehouse
from medallion_platform.orchestration.names import key_of
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake.result import IntakeResult
from medallion_platform.pipeline.intake.stream import step_back, stream, why_to_wait
from medallion_platform.pipeline.refresh import refresh
from medallion_platform.pipeline.refresh.commit import RefreshResult
from medallion_platform.pipeline.run import Run
from medallion_platform.pipeline.table import Table
from medallion_platform.sources.source import Source

REPORT_EVERY = 10.0
"""Seconds between two reports."""

_LOOK_EVERY = 0.2
_LOG = logging.getLogger(__name__)


def follow(
    source: Source,
    catalog: Catalog,
    lakehouse: Lakehouse,
    on: dg.DagsterInstance,
    metrics: WorkerMetrics,
    *,
    refreshing: bool,
) -> None:
    """Take in a source until SIGTERM or SIGINT; then finish the batch, leave the group, report.

    refreshing: bring the silver tables behind the source up to date as well, in a warm Spark session.

    Raises:
        DamagedFile: a data file of the table is gone or damaged.
        IntakeFailed: what came cannot be taken in before somebody fixes it.
    """
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    worker = _Worker(source, metrics)
    threads = [Thread(target=_report, args=(worker, lakehouse, on, stop))]
    if refreshing:
        tables = silver_behind(catalog, source.table)
        threads.append(Thread(target=_refresh, args=(worker, tables, catalog, lakehouse, stop)))
    for thread in threads:
        thread.start()
    try:
        _take_in(source, lakehouse, worker, stop)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _take_in(source: Source, lakehouse: Lakehouse, worker: _Worker, stop: Event) -> None:
    """Take in what comes by the engine that the source names."""
    lake = lakehouse.lake
    root = str(lake.root)
    if source.taken_in_by == "spark":
        from medallion_platform.pipeline.intake import spark_engine

        with source.attend(root):
            spark = lakehouse.session(quick=False)
            spark_engine.stream(source, lake, spark, worker.run, stop, worker)
    else:
        with closing(source.follow(root, lambda: lake.positions(source.table))) as follower:
            stream(follower, lake, worker.run, stop, worker)


def silver_behind(catalog: Catalog, bronze: str) -> list[Table]:
    """The silver tables that follow from a bronze table, in order of making."""
    reached = {bronze}
    found: list[Table] = []
    for table in catalog.in_order:
        if table.layer == "silver" and reached & set(table.upstream_names):
            found.append(table)
            reached.add(table.name)
    return found


@dataclass
class _Worker:
    """What one worker did since its last report."""

    source: Source
    metrics: WorkerMetrics
    name: str = field(default_factory=lambda: f"stream-{uuid4().hex[:8]}")
    arrived: Event = field(default_factory=Event)
    _since: list[IntakeResult] = field(default_factory=list)
    _made: dict[tuple[dg.AssetKey, str | None], dict[str, Any]] = field(default_factory=dict)
    _why: str = ""

    def run(self) -> Run:
        """Who takes the next batch: what is taken within the same ten seconds is one run."""
        return Run.now(f"{self.name}-{int(time.time() // REPORT_EVERY)}")

    def taken(self, taken: IntakeResult, behind: Mapping[str, int]) -> None:
        """Remember a batch for the report."""
        counts = taken.counts.as_dict()
        del counts["read"]
        self.metrics.taken(counts, taken.seconds, behind)
        self._since.append(taken)
        self._heard("")
        self.arrived.set()

    def idle(self) -> None:
        """Nothing came."""
        self.metrics.idle()
        self._heard("")

    def waits(self, why: str) -> None:
        """Say once why nothing is taken in."""
        self.metrics.waits(why)
        self._heard(why)

    def to_report(self) -> IntakeResult | None:
        """The batches since the last report as one; None where there were none."""
        since = self._since[:]
        if not since:
            return None
        del self._since[: len(since)]  # more may have come meanwhile
        whole = IntakeResult(self.source.name, self.source.table, version=since[-1].version)
        for taken in since:
            whole.add(taken.record)
            whole.pieces = max(whole.pieces, taken.pieces)
        whole.seconds = round(sum(taken.seconds for taken in since), 3)
        return whole

    def refreshed(self, table: Table, done: RefreshResult) -> None:
        """Remember what was made for the report."""
        if done.record:
            key, partitions = key_of(table.name), done.record.partitions if table.partition else (None,)
            told = {"what_was_done": done.reason, "delta_version": done.version}
            self._made |= {(key, partition): told for partition in partitions}

    def refreshes_to_report(self) -> list[dg.AssetMaterialization]:
        """The silver partitions that were made since the last report."""
        made, self._made = self._made, {}
        return [
            dg.AssetMaterialization(key, partition=partition, metadata=told)
            for (key, partition), told in made.items()
        ]

    def _heard(self, why: str) -> None:
        if why and why != self._why:
            _LOG.warning(why)
        elif self._why and not why:
            _LOG.info("going on")
        self._why = why


def _report(worker: _Worker, lakehouse: Lakehouse, on: dg.DagsterInstance, stop: Event) -> None:
    """Tell Dagster every few seconds, and once more at the end."""
    while True:
        ended = stop.wait(REPORT_EVERY)
        events: list[dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation] = []
        try:
            if taken := worker.to_report():
                _LOG.info(reports.taken_in_words(taken, "partitions"))
                events += reports.intake_events(lakehouse.lake, worker.source, taken, "partitions")
            events += worker.refreshes_to_report()
            report_in_bulk(on, events)
        except Exception as error:  # the intake goes on without Dagster; what it did is in the commits
            _LOG.warning(
                "not everything that was done could be reported to Dagster: %s", why_to_wait(error) or error
            )
        if ended:
            return


def _refresh(
    worker: _Worker, tables: list[Table], catalog: Catalog, lakehouse: Lakehouse, stop: Event
) -> None:
    """Bring silver up to date whenever rows arrived; one refresh after the other."""
    step_back()  # the JVM, which this thread starts, as well
    worker.arrived.set()  # for what came before this worker did
    while not stop.is_set():
        if not worker.arrived.wait(_LOOK_EVERY):
            continue
        worker.arrived.clear()
        try:
            lakehouse.session(quick=False)  # it stays: both compilers pay
            for table in tables:
                run = Run(f"{worker.run().run_id}-refresh", datetime.now(UTC))
                done = refresh(
                    table, lakehouse.lake, lakehouse.session, run, partition_columns=catalog.partition_columns
                )
                worker.refreshed(table, done)
        except CommitConflict:  # another run refreshes it at this moment, maybe without the newest rows
            stop.wait(_LOOK_EVERY)
            worker.arrived.set()
        except Exception as error:  # the intake goes on; silver follows with the next batch or run
            _LOG.warning("silver is behind: %s", why_to_wait(error) or error)
            stop.wait(REPORT_EVERY)
            worker.arrived.set()
