"""Reports what happens to tables as it happens: to the log, and to the observer of a `Run`.

An observer never affects a write: if it fails, the failure is logged and the work continues.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from medallion_platform.errors import classify
from medallion_platform.lakehouse.commit import CommitConflict

if TYPE_CHECKING:
    from medallion_platform.lakehouse.commit_record import CommitRecord
    from medallion_platform.lakehouse.counts import Counts
    from medallion_platform.pipeline.run import Run

_LOG = logging.getLogger(__name__)


class Observer(Protocol):
    """Is called for the events of a refresh or an intake, in the working thread, in this order.

    For one batch or refresh: `planned`, `staged`, `committed`, and `working` at any time. A write that does
    not succeed ends with one `conflicted` (another writer was first) or `failed`; after `conflicted`,
    `retried` follows if it is tried again. `retried` is also called if a part of a table cannot be made
    alone, so that all of it is made.
    If there is nothing to do, nothing is called.
    """

    def planned(self, table: str, reason: str) -> None:
        """There is work, and why."""
        ...

    def working(self, table: str) -> None:
        """A part of the work is done, such as a file: it is slow at the worst, and not stuck."""
        ...

    def staged(self, table: str, counts: Counts) -> None:
        """Files are written that are not visible yet, and every row is accounted for."""
        ...

    def committed(self, table: str, version: int, record: CommitRecord) -> None:
        """The files are visible as this version."""
        ...

    def conflicted(self, table: str, error: CommitConflict) -> None:
        """Another writer committed first; nothing of this write is visible."""
        ...

    def retried(self, table: str, attempt: int, error: Exception) -> None:
        """It is tried again, for the `attempt`-th time (2 is the first retry), because of this error."""
        ...

    def failed(self, table: str, error: Exception) -> None:
        """It ended without a commit."""
        ...


class NullObserver(Observer):
    """An observer that does nothing."""


@dataclass(frozen=True)
class EventReporter:
    """Reports the events of one table to the log and to the run's observer.

    Logged are names, counts and versions, never an error's text, which could contain values of rows.
    """

    run: Run
    table: str
    logger: logging.Logger

    def planned(self, reason: str) -> None:
        """There is work, and why."""
        self._log_event("planned", reason=reason)
        self._call_observer(lambda o: o.planned(self.table, reason))

    def working(self) -> None:
        """A part is done; too often for the log."""
        self._call_observer(lambda o: o.working(self.table))

    def staged(self, counts: Counts) -> None:
        """Files are ready to be committed."""
        self._log_event("staged", **counts.as_dict())
        self._call_observer(lambda o: o.staged(self.table, counts))

    def committed(self, version: int, record: CommitRecord) -> None:
        """They are visible."""
        seconds = record.seconds
        self._log_event(
            "committed", version=version, verb=record.verb, seconds=seconds, **record.counts.as_dict()
        )
        self._call_observer(lambda o: o.committed(self.table, version, record))

    def conflicted(self, error: CommitConflict) -> None:
        """Another writer was first."""
        self._log_event("conflicted", **_error_fields(error))
        self._call_observer(lambda o: o.conflicted(self.table, error))

    def retried(self, attempt: int, error: Exception) -> None:
        """It is tried again."""
        self._log_event("retried", attempt=attempt, **_error_fields(error))
        self._call_observer(lambda o: o.retried(self.table, attempt, error))

    def failed(self, error: Exception) -> None:
        """It ended without a commit."""
        self._log_event("failed", **_error_fields(error))
        self._call_observer(lambda o: o.failed(self.table, error))

    @contextmanager
    def ended(self) -> Generator[None]:
        """Report the error if the work in the `with` block fails."""
        try:
            yield
        except CommitConflict as error:
            self.conflicted(error)
            raise
        except Exception as error:
            self.failed(error)
            raise

    def _log_event(self, what: str, **fields: object) -> None:
        extra = {"table": self.table, "run_id": self.run.run_id, **fields}
        self.logger.info("%s: %s", self.table, what, extra=extra)

    def _call_observer(self, tell: Callable[[Observer], None]) -> None:
        try:
            tell(self.run.observer)
        except Exception as error:
            observer = type(self.run.observer).__qualname__
            _LOG.warning(
                "%s: the observer %s failed (%s); the work goes on",
                self.table,
                observer,
                type(error).__name__,
                extra={
                    "table": self.table,
                    "run_id": self.run.run_id,
                    "observer": observer,
                    **_error_fields(error),
                },
            )


def _error_fields(error: Exception) -> dict[str, str]:
    return {"error": type(error).__name__, "kind": classify(error).kind.value}
