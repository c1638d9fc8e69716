"""Publish: pass a gold version to a consumer that keeps its own copy, and remember which version it has.

A consumer (a feature store, a warehouse, a cache) stores which version of the table it has, and only once it
has all of it. A publish that dies is run again: it finds the old version and passes the same changes once
more, which a consumer has to tolerate.

Of two publishes to the same place, a fence in the lake lets the later one continue; nobody waits for a dead
one.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Protocol

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.lakehouse.commit import CommitConflict, files_that_may_hold
from medallion_platform.lakehouse.commit_record import UNPARTITIONED
from medallion_platform.lakehouse.counts import counted
from medallion_platform.lakehouse.delta_log import LogGone, commits, touched
from medallion_platform.lakehouse.fence import ClaimLost, Fence, claim_place
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.polars_writer import scan_rows

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable

    from medallion_platform.pipeline.run import Run


_LOG = logging.getLogger(__name__)
_ATTEMPTS = 6
_STEP_BACK = 1.0
"""Seconds at the most before the second attempt; twice as many before each further one."""


class NothingToPublish(MedallionError):
    """The table of a consumer does not exist yet."""

    kind = Kind.PERMANENT


@dataclass(frozen=True)
class Edition:
    """One version of one table. A table recomputed under an old name has another id."""

    table_id: str
    version: int


@dataclass(frozen=True)
class Delivery:
    """The rows for a consumer, from the partitions that changed since the edition that it has.

    partitions: None for all rows; empty if only files changed and no rows. A partition that is listed here
    without rows is empty now. reason: for people.
    """

    edition: Edition
    partitions: frozenset[str] | None
    reason: str
    source: DeltaTable
    run: Run
    fence: Fence
    partition_column: str | None = None

    def rows(self, columns: Iterable[str]) -> pl.DataFrame:
        """The rows of the edition, whatever is committed in the meantime.

        Raises:
            DamagedFile: a file with these rows is missing, or its end is damaged.
        """
        import polars as pl

        if self.partitions is None:
            scan = scan_rows(self.source)
        else:
            assert self.partition_column is not None
            files = files_that_may_hold(self.source, self.partition_column, self.partitions)
            scan = scan_rows(self.source, files)
            partition = pl.col(self.partition_column)
            if scan.collect_schema()[self.partition_column] == pl.Date:
                scan = scan.filter(partition.is_in([date.fromisoformat(u) for u in self.partitions]))
            else:
                scan = scan.filter(partition.cast(pl.String).is_in(list(self.partitions)))
        return scan.select(*columns).collect()


class Consumer(Protocol):
    """A consumer of a gold table. `partition_column`: the table's partition column, None if it has none."""

    @property
    def name(self) -> str:
        """Its name for people."""
        ...

    @property
    def table(self) -> str:
        """The table that it consumes."""
        ...

    @property
    def partition_column(self) -> str | None:
        """The column whose values are published one by one."""
        ...

    @property
    def place(self) -> str:
        """The place of its copy, as a path of names: only one publish at a time writes there."""
        ...

    def prepare(self) -> None:
        """Create the place for the copy, if it does not exist yet."""
        ...

    def holds(self) -> Edition | None:
        """The edition that it has, None if it has none or lost it."""
        ...

    def take(self, delivery: Delivery) -> int:
        """Store the rows, then the edition; returns the number of rows written.

        It must have the same result if it is repeated after a crash at any point, and must never replace a
        newer value by an older one. Each write is done within `delivery.fence.writing()`.
        """
        ...

    def forget(self) -> None:
        """Delete everything, the edition first: the next delivery has all rows."""
        ...


@dataclass(frozen=True)
class PublishResult:
    """What a publish did. edition: the consumer's edition now. written: rows that it wrote."""

    consumer: str
    table: str
    edition: Edition
    reason: str
    partitions: frozenset[str] | None = frozenset()
    written: int = 0


def publish(consumer: Consumer, lake: Lake, run: Run, *, anew: bool = False) -> PublishResult:
    """Bring a consumer to the table's newest version; does nothing if it has this version already.

    anew: delete the consumer's copy first, including values of rows that are no longer in the table.

    Raises:
        NothingToPublish: the table does not exist.
        CommitConflict: another publish to the same place has started; run it again.
        NotAllowed: the run's guard refuses; nothing was published.
    """
    for attempt in range(_ATTEMPTS):
        run.guard.check()  # a run that was ended takes the place from nobody
        try:
            done = _publish_changes(consumer, lake, claim_place(lake, consumer.place), run, anew=anew)
        except ClaimLost as error:  # let the other one come to its end
            _say(consumer, run, "another publish began", attempt=attempt + 2, kind=error.kind.value)
            time.sleep(random.uniform(0, _STEP_BACK * 2**attempt))  # noqa: S311 no secret
        else:
            _say(
                consumer,
                run,
                "published",
                version=done.edition.version,
                reason=done.reason,
                partitions=None if done.partitions is None else len(done.partitions),
                written=done.written,
            )
            return done
    raise CommitConflict(f"{consumer.name}: other publishes begin every time", table=consumer.table)


def _say(consumer: Consumer, run: Run, what: str, **fields: object) -> None:
    told = {"consumer": consumer.name, "table": consumer.table, "run_id": run.run_id, **fields}
    _LOG.info("%s: %s", consumer.name, what, extra=told)


def _publish_changes(consumer: Consumer, lake: Lake, fence: Fence, run: Run, *, anew: bool) -> PublishResult:
    source = lake.open(consumer.table)
    if source is None:
        raise NothingToPublish(
            f"{consumer.name} takes {consumer.table}, which does not exist yet",
            table=consumer.table,
            remedy="refresh it first",
        )
    with fence.writing():
        consumer.prepare()
        if anew:
            consumer.forget()
    held = consumer.holds()
    edition = Edition(str(source.metadata().id), source.version())
    if held == edition:
        return PublishResult(consumer.name, consumer.table, edition, "up to date")
    partitions, reason = _changed_partitions(lake, consumer, held, edition)
    delivery = Delivery(edition, partitions, reason, source, run, fence, consumer.partition_column)
    written = consumer.take(delivery)
    return PublishResult(consumer.name, consumer.table, edition, reason, partitions, written)


def _changed_partitions(
    lake: Lake, consumer: Consumer, held: Edition | None, now: Edition
) -> tuple[frozenset[str] | None, str]:
    """The partitions that changed between two editions (None: all), and the reason."""
    if held is None:
        return None, "everything: it holds nothing yet"
    if held.table_id != now.table_id or held.version > now.version:
        return None, "everything: the table was recomputed"
    try:
        delta_commits = list(
            commits(lake.path(consumer.table), held.version, now.version, consumer.partition_column)
        )
    except LogGone:
        return None, "everything: the log no longer reaches back"
    partitions = touched(delta_commits, held.version, {}).all
    if UNPARTITIONED in partitions:
        return None, "everything: rows without a partition changed"
    if not partitions:
        return frozenset(), "no row changed"
    return frozenset(partitions), f"{counted(len(partitions), 'partitions')} changed"
