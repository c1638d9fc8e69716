"""An observer of a refresh that writes to the log of its Dagster run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medallion_platform.errors import classify
from medallion_platform.pipeline.observer import Observer

if TYPE_CHECKING:
    import dagster as dg

    from medallion_platform.lakehouse.commit import CommitConflict
    from medallion_platform.lakehouse.commit_record import CommitRecord
    from medallion_platform.lakehouse.counts import Counts


class RunLogObserver(Observer):
    """Writes to the log of a Dagster run what a refresh is going to do, and what became of the rows.

    Failures are left out: the run ends with the error, which Dagster writes to the log itself.
    """

    def __init__(self, log: dg.DagsterLogManager) -> None:
        self._log = log

    def planned(self, table: str, reason: str) -> None:
        """There is work, and why."""
        self._log.info(f"{table}: planned: {reason}")

    def working(self, table: str) -> None:
        """Nothing to tell: there is more to come."""

    def staged(self, table: str, counts: Counts) -> None:
        """Nothing to tell: the commit follows."""

    def committed(self, table: str, version: int, record: CommitRecord) -> None:
        """The rows are visible."""
        counts = record.counts
        self._log.info(
            f"{table}: version {version} in {record.seconds:g} s: {counts.read:,} read, {counts.outcome}"
        )

    def conflicted(self, table: str, error: CommitConflict) -> None:
        """Nothing to tell: the run fails with it, or tries again."""

    def retried(self, table: str, attempt: int, error: Exception) -> None:
        """It is tried again; the text of an error may hold values of rows."""
        self._log.warning(f"{table}: attempt {attempt}, after a failure of the kind {classify(error).kind}")

    def failed(self, table: str, error: Exception) -> None:
        """Nothing to tell: the run fails with it."""
