"""What the stages of one refresh share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.observer import EventReporter
from medallion_platform.pipeline.refresh.plan import RefreshPlan, Upstreams
from medallion_platform.pipeline.run import Run

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from medallion_platform.pipeline.table import Table

_LOG = logging.getLogger("medallion_platform.pipeline.refresh")

VERBS = ("refresh", "restore")
"""Commits that tell what a table was made from."""


@dataclass(frozen=True)
class RefreshContext:
    """One table, and what is known about its refresh so far; a stage that adds to it returns a new one.

    spark: returns the session; not called if the Delta logs suffice. partition_columns: the partition column
    of every upstream table (None: it has no partition). last: the record of the newest refresh. upstreams: at
    first, only the versions to refresh from. sequence: the writer's number of the next commit. stale: lookups
    that are behind their own upstream. recovering: the newest dead letters are from a refresh that died
    before it committed its rows. lost_letters: paths of files of dead letters that cannot be read.
    """

    table: Table
    lake: Lake
    spark: Callable[[], SparkSession]
    partition_columns: Mapping[str, str | None]
    last: CommitRecord | None
    upstreams: Upstreams
    run: Run = field(default_factory=Run.now)
    sequence: int = 0
    plan: RefreshPlan = field(default_factory=lambda: RefreshPlan({}))
    stale: tuple[str, ...] = ()
    recovering: bool = False
    lost_letters: frozenset[str] = frozenset()
    started: float = field(default_factory=time.monotonic)

    @property
    def main_table(self) -> str:
        """The upstream table whose rows become this table's rows."""
        return self.table.main_upstream.table

    @property
    def main_column(self) -> str | None:
        """The partition column of the main upstream table."""
        return self.partition_columns[self.main_table]

    @property
    def wanted(self) -> list[str]:
        """The partitions that the plan names, without the one for rows that belong to no partition."""
        return sorted((self.plan.append | self.plan.replace) - {UNPARTITIONED})

    @property
    def seconds(self) -> float:
        """Seconds since the refresh began."""
        return round(time.monotonic() - self.started, 3)

    @property
    def tell(self) -> EventReporter:
        """Reports the events of this refresh."""
        return EventReporter(self.run, self.table.name, _LOG)

    def base(self, upstream: str) -> int:
        """The version of an upstream table that the last refresh used; -1 if there is none."""
        return self.last.position.get(upstream, {}).get(UNPARTITIONED, -1) if self.last else -1
