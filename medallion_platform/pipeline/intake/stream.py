"""Continuous intake by one worker, batch after batch, until it is told to stop.

If a source or a bucket does not respond, the worker waits. Between two batches it keeps only the size of the
next one: a worker that is killed at any time is replaced by another one, which begins at the table's
position.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event, get_native_id
from typing import Protocol, Self

import psutil

from medallion_platform import container
from medallion_platform.errors import Kind, MedallionError, classify
from medallion_platform.healing.classify import DEATHS
from medallion_platform.lakehouse import dead_letters, maintenance
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.log_archive import archive_log
from medallion_platform.pipeline.incident_reports import deaths_of_workers, failure_of_worker, report
from medallion_platform.pipeline.intake.backpressure import LEAST_ROWS, SMOOTH, next_rows, smoothed
from medallion_platform.pipeline.intake.poison import deaths, noted
from medallion_platform.pipeline.intake.polars_engine import BATCH_BYTES, OpenTables, intake
from medallion_platform.pipeline.intake.result import IntakeResult
from medallion_platform.pipeline.run import Run
from medallion_platform.sources.arrivals import DivisibleFollower, Polled, SourceFollower
from medallion_platform.sources.errors import OwnershipLost, Unavailable
from medallion_platform.sources.source import Source
from medallion_platform.storage import client_reason

WITHIN = 0.2
"""Seconds for which messages gather into one commit."""
COMPACT_EVERY = 100
"""Commits, after which the small files that they left are merged."""
PAUSE = 1.0
"""Seconds before a source or a bucket that could not be reached is tried again."""

_LOG = logging.getLogger(__name__)
_NICE = 5
_MEMORY_SHARE = 0.85


class WorkerObserver(Protocol):
    """Is called for each event of a worker."""

    def taken(self, taken: IntakeResult, behind: Mapping[str, int]) -> None:
        """A batch was committed."""
        ...

    def working(self) -> None:
        """It goes on with a batch, or has to begin it again."""
        ...

    def idle(self) -> None:
        """No records arrived."""
        ...

    def waits(self, why: str) -> None:
        """Nothing can be taken in now, for a reason that may pass."""
        ...

    def failed(self, error: Exception, begun: Mapping[str, int | None]) -> None:
        """A batch was not taken in; then follows `waits`, or the worker ends.

        begun: the positions that it begins at, by log; none if it could not be read.
        """
        ...


def stream(
    follower: SourceFollower, lake: Lake, run: Callable[[], Run], stop: Event, watch: WorkerObserver
) -> None:
    """Take in records until `stop` is set; the current batch is finished first.

    run: returns the run for the next batch.

    Raises:
        DamagedFile: a data file that is searched for duplicates is missing or damaged.
        IntakeFailed: an expectation of severity `fail` was violated, or the contract does not fit the
            table; nothing of the batch was taken in.
    """
    pace, open_tables = _Pace(), OpenTables(lake)
    source, sure = follower.source, not isinstance(follower, DivisibleFollower)
    with BackgroundMaintenance(lake, source.table) as upkeep, noted(lake, source.table) as notes:
        report_deaths(source, lake)
        while not stop.is_set():
            began = time.monotonic()
            arrived: Polled | None = None
            try:
                if not sure and isinstance(follower, DivisibleFollower):
                    sure = True  # where it cannot look, `poll` says why
                    with suppress(Unavailable):
                        suspects = intake(follower.look(), lake, run(), suspects=notes)
                        if suspects.counts.read:
                            watch.taken(suspects, follower.behind())
                arrived = follower.poll(pace.rows, BATCH_BYTES, WITHIN)
                polled = time.monotonic()
                if arrived is None:
                    watch.idle()
                    continue
                watch.working()
                taken = intake(arrived, lake, run(), open_tables=open_tables)
            except (CommitConflict, OwnershipLost):
                follower.begin_anew()
                watch.working()
            except Exception as error:
                watch.failed(error, arrived.begun if arrived else {})
                if not (why := why_to_wait(error)):
                    raise
                follower.begin_anew()
                watch.waits(why)
                stop.wait(PAUSE)
            else:
                now = time.monotonic()
                behind = follower.behind()
                pace.learn_from_batch(taken.counts.read, sum(behind.values()), now - polled, now - began)
                watch.taken(taken, behind)
                upkeep.committed()
        notes.withdraw()


def report_deaths(source: Source, lake: Lake) -> None:
    """Tell the ledger of the workers that died where this one begins: they could not."""
    if (died := deaths(lake, source.table)) >= DEATHS:
        place, now = f"{source.table}/{lake.sequence(source.table)}", datetime.now(UTC)
        report(lake, [deaths_of_workers(source.table, place, died, now)], "stream")


def why_to_wait(error: Exception) -> str:
    """What a failed worker is waiting for, in one sentence; empty if waiting does not help."""
    failure = classify(error)
    # Credentials that expired are renewed by whoever gave them.
    if not failure.transient and failure.kind is not Kind.AUTH:
        return ""
    if isinstance(error, MedallionError):
        return str(error)
    if failure.transient or failure.kind is Kind.AUTH:
        return f"{client_reason(error)}; what was taken in is safe, it is tried again"
    return ""


def lower_priority() -> None:
    """Lower the priority of this thread and of what it starts, so that the intake goes first."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, get_native_id(), _NICE)


class BackgroundMaintenance:
    """Merges small files of a table and archives its log in the background, while a worker commits."""

    def __init__(self, lake: Lake, table: str) -> None:
        self._tables = (table, dead_letters.name(table))
        self._lake, self._commits = lake, 0
        self._pool = ThreadPoolExecutor(1, initializer=lower_priority)
        self._running: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def committed(self) -> None:
        """Count a commit; after many commits start a merge, unless one is running."""
        self._commits += 1
        if self._commits >= COMPACT_EVERY and (self._running is None or self._running.done()):
            self._running, self._commits = self._pool.submit(self._compact), 0

    def _compact(self) -> None:
        for name in self._tables:
            try:
                if self._lake.exists(name):
                    maintenance.optimize(self._lake, name)
                    archive_log(self._lake.path(name))
            except CommitConflict as error:
                _LOG.info("the small files of %s are left for later: %s", name, error, extra={"table": name})
            except Exception as error:  # it is put off
                why = why_to_wait(error) or error
                fields = {"table": name, "kind": classify(error).kind.value}
                _LOG.warning("the small files of %s are left for later: %s", name, why, extra=fields)
                found = failure_of_worker("maintenance", name, name, error, datetime.now(UTC))
                report(self._lake, [found], "stream")


@dataclass
class _Pace:
    """The speed of a worker, and the size of its next batch."""

    rows: int = LEAST_ROWS
    rate: float = 0.0
    """Rows a second while it works, smoothed."""
    busy: float = 0.0

    def learn_from_batch(self, rows: int, behind: int, worked: float, passed: float) -> None:
        """Adapt the size to one batch; worked: seconds of the intake, passed: including the wait."""
        self.rate = smoothed(self.rate, rows / max(worked, 1e-6))
        self.busy += SMOOTH * (worked / max(passed, 1e-6) - self.busy)
        lag = behind / max(self.rate, 1e-6)
        self.rows = next_rows(self.rows, lag, self.busy, pressed=memory_is_short())


def memory_is_short() -> bool:
    """Whether the container's memory (or the machine's) is nearly used up."""
    if limit := container.memory_limit():
        return container.memory_used() > _MEMORY_SHARE * limit
    memory = psutil.virtual_memory()
    return memory.available < (1 - _MEMORY_SHARE) * memory.total
