"""A continuous worker as Dagster sees it: its intakes and refreshes appear as materializations.

The worker is not a Dagster run. What it did is reported every few seconds under its own run id, so that
`medallion history` shows it and `medallion rollback` can undo it.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import dagster as dg

from medallion_platform.errors import classify
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.guard import NotAllowed
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.observability.worker import WorkerMetrics
from medallion_platform.orchestration import reports
from medallion_platform.orchestration.event_log import report_in_bulk
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.leader_guard import Leader
from medallion_platform.orchestration.names import asset_key
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.incident_reports import failure_of_worker, report
from medallion_platform.pipeline.intake.result import IntakeResult
from medallion_platform.pipeline.intake.stream import lower_priority, stream, why_to_wait
from medallion_platform.pipeline.observer import Observer
from medallion_platform.pipeline.refresh import refresh
from medallion_platform.pipeline.refresh.commit import RefreshResult
from medallion_platform.pipeline.run import Run
from medallion_platform.pipeline.table import Table
from medallion_platform.sources.source import Source

REPORT_EVERY = 10.0
"""Seconds between two reports."""

_LOOK_EVERY = 0.2
_LOOK_FOR_OTHERS = 1.0
"""Seconds between two looks at whether other workers have taken rows in."""
_LOG = logging.getLogger(__name__)


def follow_source(
    source: Source,
    catalog: Catalog,
    lakehouse: Lakehouse,
    on: dg.DagsterInstance,
    metrics: WorkerMetrics,
    leader: Leader | None,
) -> None:
    """Take in a source until SIGTERM or SIGINT; then finish the batch, leave the group, and report.

    leader: also refresh the silver tables made from the source, in a warm Spark session, while this leads.

    Raises:
        DamagedFile: a data file of the table is missing or damaged.
        IntakeFailed: the records cannot be taken in until somebody fixes the problem.
    """
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    worker = _Worker(source, metrics, lakehouse.lake)
    threads = [Thread(target=_report_regularly, args=(worker, lakehouse, on, stop))]
    if leader:
        threads.append(Thread(target=_refresh_silver, args=(worker, catalog, lakehouse, leader, stop)))
    for thread in threads:
        thread.start()
    try:
        _take_in_continuously(source, lakehouse, worker, stop)
    finally:
        stop.set()
        worker.arrived.set()
        for thread in threads:
            thread.join()


def _take_in_continuously(source: Source, lakehouse: Lakehouse, worker: _Worker, stop: Event) -> None:
    """Take in records by the engine of the source."""
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


def silver_tables_behind(catalog: Catalog, bronze: str) -> list[Table]:
    """The silver tables made from a bronze table, upstream tables first."""
    reached = {bronze}
    found: list[Table] = []
    for table in catalog.in_order:
        if table.layer == "silver" and reached & set(table.upstream_names):
            found.append(table)
            reached.add(table.name)
    return found


class _Progress(Observer):
    """Lets the metrics know of each step of a batch: one that takes minutes is slow, and not stuck."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics

    def planned(self, table: str, reason: str) -> None:
        self._metrics.working()

    def working(self, table: str) -> None:
        self._metrics.working()

    def staged(self, table: str, counts: Counts) -> None:
        self._metrics.working()

    def committed(self, table: str, version: int, record: CommitRecord) -> None:
        self._metrics.working()

    def conflicted(self, table: str, error: CommitConflict) -> None:
        self._metrics.working()

    def retried(self, table: str, attempt: int, error: Exception) -> None:
        self._metrics.working()

    def failed(self, table: str, error: Exception) -> None:
        """The loop says what becomes of it."""


@dataclass
class _Worker:
    """What a worker did since its last report."""

    source: Source
    metrics: WorkerMetrics
    lake: Lake
    name: str = field(default_factory=lambda: f"stream-{uuid4().hex[:8]}")
    arrived: Event = field(default_factory=Event)
    _since: list[IntakeResult] = field(default_factory=list)
    _made: dict[tuple[dg.AssetKey, str | None], dict[str, Any]] = field(default_factory=dict)
    _why: str = ""
    _told: dict[str, str] = field(default_factory=dict)

    def run(self) -> Run:
        """The run of the next batch; batches within the same ten seconds belong to one run."""
        run = Run.now(f"{self.name}-{int(time.time() // REPORT_EVERY)}")
        return replace(run, observer=_Progress(self.metrics))

    def taken(self, taken: IntakeResult, behind: Mapping[str, int]) -> None:
        """Remember a batch for the next report."""
        counts = taken.counts.as_dict()
        del counts["read"]
        self.metrics.taken(counts, taken.seconds, behind)
        self._since.append(taken)
        self._heard("")
        self.arrived.set()

    def working(self) -> None:
        """It goes on with a batch."""
        self.metrics.working()

    def idle(self) -> None:
        """No records arrived."""
        self.metrics.idle()
        self._heard("")

    def waits(self, why: str) -> None:
        """Log once why nothing is taken in."""
        self.metrics.waits(why)
        self._heard(why)

    def failed(self, error: Exception, begun: Mapping[str, int | None]) -> None:
        """Tell the ledger of it."""
        log = min(begun, default="")
        place = f"{log}/{begun[log]}" if log else f"{self.source.name}/{classify(error).kind}"
        self.tell_ledger(self.source.table, place, error)

    def tell_ledger(self, table: str, place: str, error: Exception) -> None:
        """Tell the ledger why a table is behind, unless this was told already."""
        found = failure_of_worker("stream", table, place, error, datetime.now(UTC))
        if self._told.get(table) != found.occurrence:
            self._told[table] = found.occurrence
            report(self.lake, [found], self.name)

    def to_report(self) -> IntakeResult | None:
        """The batches since the last report as one result; None if there were none."""
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
        """Remember a refresh for the next report."""
        if done.record:
            key, partitions = asset_key(table.name), done.record.partitions if table.partition else (None,)
            metadata = {"what_was_done": done.reason, "delta_version": done.version}
            self._made |= {(key, partition): metadata for partition in partitions}

    def refreshes_to_report(self) -> list[dg.AssetMaterialization]:
        """The silver partitions that were refreshed since the last report."""
        made, self._made = self._made, {}
        return [
            dg.AssetMaterialization(key, partition=partition, metadata=metadata)
            for (key, partition), metadata in made.items()
        ]

    def _heard(self, why: str) -> None:
        if why and why != self._why:
            _LOG.warning(why, extra={"source": self.source.name, "table": self.source.table})
        elif self._why and not why:
            _LOG.info("going on", extra={"source": self.source.name, "table": self.source.table})
        self._why = why


def _report_regularly(worker: _Worker, lakehouse: Lakehouse, on: dg.DagsterInstance, stop: Event) -> None:
    """Report to Dagster every few seconds, and once more at the end."""
    while True:
        ended = stop.wait(REPORT_EVERY)
        events: list[dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation] = []
        try:
            if taken := worker.to_report():
                _LOG.info(
                    reports.intake_in_words(taken, "partitions"),
                    extra={"source": taken.source, "table": taken.table, **taken.counts.as_dict()},
                )
                events += reports.intake_events(lakehouse.lake, worker.source, taken, "partitions")
            events += worker.refreshes_to_report()
            report_in_bulk(on, events)
        except Exception as error:  # the intake goes on without Dagster; what it did is in the commits
            _LOG.warning(
                "not everything that was done could be reported to Dagster: %s",
                why_to_wait(error) or error,
                extra={"source": worker.source.name, "kind": classify(error).kind.value},
            )
        if ended:
            return


def _refresh_silver(
    worker: _Worker, catalog: Catalog, lakehouse: Lakehouse, leader: Leader, stop: Event
) -> None:
    """Refresh silver tables whenever rows arrived, here or in another worker, one after the other."""
    lower_priority()  # the JVM, which this thread starts, as well
    tables = silver_tables_behind(catalog, worker.source.table)
    working_on = worker.source.table
    followed = None  # the version of bronze up to which silver was refreshed
    with suppress(Exception):  # whoever needs it meets the same error, and tells it
        lakehouse.session(quick=False)  # it stays: both compilers pay
    while not stop.is_set():
        try:
            version = lakehouse.lake.version(worker.source.table)
            if version == followed or not leader.leads():
                worker.arrived.wait(_LOOK_FOR_OTHERS)
                worker.arrived.clear()
                continue
            for table in tables:
                working_on = table.name
                run = replace(Run.now(f"{worker.run().run_id}-refresh"), guard=leader)
                done = refresh(
                    table, lakehouse.lake, lakehouse.session, run, partition_columns=catalog.partition_columns
                )
                worker.refreshed(table, done)
            followed = version
        except NotAllowed as error:
            _LOG.info(str(error), extra={"source": worker.source.name})
        except CommitConflict:  # another run refreshes it at this moment, maybe without the newest rows
            stop.wait(_LOOK_EVERY)
        except Exception as error:  # the intake goes on; silver follows with the next batch or run
            _LOG.warning(
                "silver is behind: %s",
                why_to_wait(error) or error,
                extra={"source": worker.source.name, "kind": classify(error).kind.value},
            )
            worker.tell_ledger(working_on, f"{working_on}/{classify(error).kind}", error)
            stop.wait(REPORT_EVERY)
