"""The run that works on tables: its id, its clock, its observer and its guard."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.lakehouse.guard import UNGUARDED, Guard
from medallion_platform.pipeline.observer import NullObserver, Observer


class UnknownRun(MedallionError):
    """No run has this id, or several ids begin with it."""

    kind = Kind.PERMANENT


@dataclass(frozen=True)
class Run:
    """The run that works on tables, and its time: the only clock of intake and refresh.

    observer: is called for each event of the work. guard: is asked immediately before each commit whether the
    run may still write.
    """

    run_id: str
    at: datetime
    observer: Observer = field(default_factory=NullObserver, compare=False, repr=False)
    guard: Guard = field(default=UNGUARDED, compare=False, repr=False)

    @staticmethod
    def now(run_id: str = "local") -> Run:
        """A run that starts now."""
        return Run(run_id, datetime.now(UTC))
