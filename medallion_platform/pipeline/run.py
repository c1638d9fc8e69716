"""Who works on tables, and what time it is for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Run:
    """Who works on tables, and what time it is for them: the only clock that intake and refresh know."""

    run_id: str
    at: datetime

    @staticmethod
    def now(run_id: str = "local") -> Run:
        """A run that starts now."""
        return Run(run_id, datetime.now(UTC))
