"""Publish: pass a gold version to a consumer that keeps its own copy, and remember which version it has.

A consumer (a feature store, a warehouse, a cache) stores which version of the table it has, and only once it
has all of it. A publish that dies is run again: it finds the old version and passes the same changes once
more, which a consumer has to tolerate.

Of two publishes to the same place, a fence in the lake lets the later one continue; nobody waits for a dead
one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Protocol

from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.commit_record import UNPARTITIONED
from medallion_platform.lakehouse.delta_log import LogGone, commits, touched
from medallion_platform.lakehouse.fence import ClaimLost, Fence, claim
from medallion_platform.lakehouse.lake import Lake

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable

    from medallion_platform.pipeline.run import Run


_ATTEMPTS = 6
_STEP_BACK = 1.0
"""Seconds at the most before the second attempt; twice as many before each further one."""


class NothingToPublish(Exception):
    """The table that a consumer takes does not exist yet."""


@dataclass(frozen=True)
class Edition:
    """One version of one table. A table recomputed under an old name has another id."""

    table_id: str
    version: int


@dataclass(frozen=True)
class Delivery:
    """What a consumer is handed: the rows of the partitions that changed since the edition it holds.

    partitions: None for all rows; empty where only files changed, no row. A partition that is named here and
    has no rows is empty now. reason: for people.
    """

    edition: Edition
    partitions: frozenset[str] | None
    reason: str
    source: DeltaTable
    run: Run
    fence: Fence
    partition_column: str | None = None

    def rows(self, columns: Iterable[str]) -> pl.DataFrame:
        """The rows handed over, as of the edition whatever is committed meanwhile."""
        import polars as pl

        scan = pl.scan_delta(self.source)
        if self.partitions is not None:
            assert self.partition_column is not None
            partition = pl.col(self.partition_column)
            if scan.collect_schema()[self.partition_column] == pl.Date:
                scan = scan.filter(partition.is_in([date.fromisoformat(u) for u in self.partitions]))
            else:
                scan = scan.filter(partition.cast(pl.String).is_in(list(self.partitions)))
        return scan.select(*columns).collect()


class Consumer(Protocol):
    """Who takes a gold table. `partition_column`: the table's partition, None where it has none."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def table(self) -> str:
        """The table that it takes."""
        ...

    @property
    def partition_column(self) -> str | None:
        """The column whose values are handed over one by one."""
        ...

    @property
    def place(self) -> str:
        """Where it keeps its copy, as a path of names: one publish at a time writes there."""
        ...

    def prepare(self) -> None:
        """Make room for the copy where there is none yet."""
        ...

    def holds(self) -> Edition | None:
        """The edition that it holds, None where it holds none or has lost it."""
        ...

    def take(self, delivery: Delivery) -> int:
        """Take the rows over, then remember the edition; gives how many rows it wrote.

        Must come to the same result when it is done again after dying anywhere, and must never put
        an older value in the place of a newer one. Each write is done while `delivery.fence.writing()`.
        """
        ...

    def forget(self) -> None:
        """Drop everything, the edition first: the next delivery has all rows."""
        ...


@dataclass(frozen=True)
class PublishResult:
    """What a publish did. edition: what the consumer holds now. written: rows it wrote."""

    consumer: str
    table: str
    edition: Edition
    reason: str
    partitions: frozenset[str] | None = frozenset()
    written: int = 0


def publish(consumer: Consumer, lake: Lake, run: Run, *, anew: bool = False) -> PublishResult:
    """Bring a consumer up to the table's newest version; does nothing where it is there already.

    anew: it forgets what it holds first, also values of rows that are in the table no more.

    Raises:
        NothingToPublish: the table does not exist.
        CommitConflict: another publish to the same place has begun; run it again.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return _publish(consumer, lake, claim(lake, consumer.place), run, anew=anew)
        except ClaimLost:  # let the other one come to its end
            time.sleep(random.uniform(0, _STEP_BACK * 2**attempt))  # noqa: S311 no secret
    raise CommitConflict(f"{consumer.name}: other publishes begin every time; run it again")


def _publish(consumer: Consumer, lake: Lake, fence: Fence, run: Run, *, anew: bool) -> PublishResult:
    source = lake.open(consumer.table)
    if source is None:
        raise NothingToPublish(
            f"{consumer.name} takes {consumer.table}, which does not exist yet: refresh it first"
        )
    with fence.writing():
        consumer.prepare()
        if anew:
            consumer.forget()
    held = consumer.holds()
    edition = Edition(str(source.metadata().id), source.version())
    if held == edition:
        return PublishResult(consumer.name, consumer.table, edition, "up to date")
    partitions, reason = _changed(lake, consumer, held, edition)
    delivery = Delivery(edition, partitions, reason, source, run, fence, consumer.partition_column)
    written = consumer.take(delivery)
    return PublishResult(consumer.name, consumer.table, edition, reason, partitions, written)


def _changed(
    lake: Lake, consumer: Consumer, held: Edition | None, now: Edition
) -> tuple[frozenset[str] | None, str]:
    """The partitions that changed between two editions, None for all; and why."""
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
    return frozenset(partitions), f"{len(partitions)} partitions changed"
