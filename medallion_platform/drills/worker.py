"""A process that executes the runs of drills, one after the other, as a daemon's run processes do.

It is told of each by a line of JSON on its standard input, and answers with one. It can be killed at any
time.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medallion_platform.drills.faults import Fault, armed

if TYPE_CHECKING:
    import dagster as dg

    from medallion_platform.drills.place import Place


_LOOK_EVERY = 1.0
"""Seconds between two of what is done while a run goes on."""


@dataclass(frozen=True)
class Answer:
    """What became of a run. ended: the process was there to tell. strikes: how often its fault came."""

    ended: bool
    strikes: int = 0


@dataclass
class Worker:
    """The process; begun when it is needed, and anew after it was killed. log: what it says goes there."""

    log: Path
    _process: subprocess.Popen[str] | None = field(default=None)

    @property
    def pid(self) -> int:
        """Of the process that executes the next run."""
        return self._started().pid

    def run(self, run_id: str, place: Place, fault: Fault | None, meanwhile: Callable[[], object]) -> Answer:
        """Execute a run to its end, or to that of the process. meanwhile: is done each second until then."""
        process = self._started()
        assert process.stdin
        assert process.stdout
        asked = {"run_id": run_id, "place": place.as_dict(), "fault": fault and fault.as_dict()}
        told = ""
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            while not select.select([process.stdout], [], [], _LOOK_EVERY)[0]:
                meanwhile()
            told = process.stdout.readline()
        if told:
            return Answer(ended=True, strikes=json.loads(told)["strikes"])
        process.wait()
        self._process = None
        return Answer(ended=False, strikes=1)

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-m", __name__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
        return self._process


def main() -> None:
    """Execute what is asked for until there is no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        print(json.dumps({"strikes": _execute(asked)}), file=answers, flush=True)


def _execute(asked: Mapping[str, Any]) -> int:
    """Execute a run; gives how often its fault came."""
    from dagster._core.definitions.job_base import InMemoryJob
    from dagster._core.execution.api import execute_run_iterator

    from medallion_platform.drills.place import Place

    place = Place.of(asked["place"])
    os.environ.update(place.environment)
    on = _instance(place.home)
    run = on.get_run_by_id(asked["run_id"])
    assert run is not None
    job = _definitions(place).resolve_job_def(run.job_name)
    fault = Fault(**asked["fault"]) if asked["fault"] else None
    with armed(fault, place.lakehouse.lake) as strikes:
        for _ in execute_run_iterator(InMemoryJob(job), run, on):
            pass
    return strikes.count


@cache
def _definitions(place: Place) -> dg.Definitions:
    return place.definitions


@cache
def _instance(home: Path) -> dg.DagsterInstance:
    import dagster as dg

    folder = str(home / "dagster")
    os.environ["DAGSTER_HOME"] = folder
    return dg.DagsterInstance.from_config(folder)


if __name__ == "__main__":
    main()
