"""A run that was ended meanwhile writes nothing, though its process may not know yet that it was.

Dagster ends a run whose worker it no longer hears of, and another one does its work. The worker may only have
been paused, or be cut off together with its node, and may come back at any time later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from medallion_platform.lakehouse.guard import Guard, NotAllowed


@dataclass(frozen=True)
class RunGuard(Guard):
    """Asks Dagster's storage before each commit whether its run is still going on: one indexed query.

    Who cannot reach that storage does not know it, so it does not write either.
    """

    on: dg.DagsterInstance
    run_id: str

    def check(self) -> Mapping[str, int]:
        """No token.

        Raises:
            NotAllowed: the run was ended or deleted, or nobody can say whether it was.
        """
        try:
            going_on = self.on.get_run_ids(
                dg.RunsFilter(run_ids=[self.run_id], statuses=NOT_FINISHED_STATUSES), limit=1
            )
            how = "" if going_on else self._how_it_ended()
        except Exception as error:
            raise NotAllowed(
                f"run {self.run_id[:8]} cannot ask Dagster's storage whether it still may write "
                f"({type(error).__name__}); nothing was written",
                remedy="once the storage answers, run it again",
            ) from error
        if how:
            raise NotAllowed(f"run {self.run_id[:8]} was ended meanwhile ({how}); nothing was written")
        return {}

    def _how_it_ended(self) -> str:
        run = self.on.get_run_by_id(self.run_id)
        return run.status.value if run else "deleted"
