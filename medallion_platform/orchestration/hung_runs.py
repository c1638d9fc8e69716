"""Runs that hang: nothing is heard of them any more, so they are ended, and failed by the class `hung`.

A run that works says so in its log (`heartbeats.py`). Silence is what counts, and only as long as somebody
listened: a laptop that slept, or a daemon that was away, has heard nothing of anybody.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, sleep

import dagster as dg
import psutil
from dagster._core.launcher import DefaultRunLauncher

from medallion_platform.kubernetes.pod_end import PodEnd
from medallion_platform.orchestration.failures import CLASS, class_of_end
from medallion_platform.orchestration.heartbeats import BEATS, beat_seconds, hung_after
from medallion_platform.orchestration.memory_reports import ENDED_BY
from medallion_platform.orchestration.pools import process_of, runs_waiting_for_pools
from medallion_platform.orchestration.progress import report_progress
from medallion_platform.orchestration.retries import has_only_our_steps

_GRACE = 3.0
"""Seconds for processes to end by themselves once they are asked to."""
_LOOK_EVERY = 0.05


@dataclass(frozen=True)
class Silence:
    """How long nothing new was heard of a run.

    heard: the number of its newest event. looked: when somebody looked last, on a clock of his own. lasted:
    the seconds since the first look that found this event.
    """

    heard: int
    looked: float
    lasted: float = 0.0


Silences = MutableMapping[str, Silence]
"""By the id of a run, what whoever looks again and again has heard of it."""


def listen(before: Silence | None, heard: int, now: float, longest: float) -> Silence:
    """The silence of a run after another look. Pure.

    longest: the seconds that count between two looks, at the most: in longer ones the listener was away, and
    perhaps the run with it.
    """
    if before is None or before.heard != heard:
        return Silence(heard, now)
    return Silence(heard, now, before.lasted + min(max(now - before.looked, 0.0), longest))


def hung_run(on: dg.DagsterInstance, run: dg.DagsterRun, silences: Silences, now: float) -> PodEnd | None:
    """What ends a run that hangs; None if it works, waits for a pool, or does not always say when it works.

    silences: is brought up to date by this look. now: of a clock that never goes back, in seconds.

    Raises:
        WrongSetting: a setting has a value that it cannot have.
    """
    after = hung_after()
    if not after or BEATS not in run.tags:
        return None
    newest = on.event_log_storage.get_records_for_run(run.run_id, limit=1, ascending=False).records
    heard = newest[0].storage_id if newest else 0
    silence = listen(silences.get(run.run_id), heard, now, beat_seconds(after))
    if silence.lasted > after / 2 and run.run_id in runs_waiting_for_pools(on):
        silence = Silence(heard, now)  # and once its turn comes, it has all the time that others have
    silences[run.run_id] = silence
    if silence.lasted < after or not has_only_our_steps(on, run):
        return None
    return PodEnd("hung", f"it did nothing for {_in_words(silence.lasted)}, and was ended")


def end_hung_runs(on: dg.DagsterInstance, silences: Silences) -> list[str]:
    """End runs of this machine that hang, with the processes that they began; gives their ids.

    If runs are on other machines, their launcher is responsible and nothing is done here.

    silences: what the last look gave, for the next one.

    Raises:
        WrongSetting: a setting has a value that it cannot have.
    """
    if not isinstance(on.run_launcher, DefaultRunLauncher):
        return []
    ended: list[str] = []
    records = on.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags={BEATS: "yes"}))
    for over in silences.keys() - {record.dagster_run.run_id for record in records}:
        del silences[over]
    for record in records:
        run = record.dagster_run
        end = hung_run(on, run, silences, monotonic())
        process = process_of(on, record) if end else None
        if end and process and process.pid not in _own_processes():
            on.add_run_tags(run.run_id, {ENDED_BY: end.by, CLASS: class_of_end(run.run_id, end.by).value})
            # First this: from now on it commits nothing, whatever wakes up of it.
            text = f"The run hung: {end.text} (process {process.pid}); nothing was lost."
            on.report_run_failed(run, text)
            end_processes(process)
            ended.append(run.run_id)
            report_progress(run.job_name.strip("_").lower(), f"run {run.run_id[:8]} hung: ended")
    return ended


def end_processes(first: psutil.Process) -> None:
    """End a process and all that it began: asked to, then killed, since one that is stopped hears nothing.

    Not its process group: that of a run which the code server began is the one of Dagster.
    """
    doomed = list(_tree(first))
    for process in doomed:
        with suppress(psutil.Error):
            process.terminate()
    for process in _left_after(_GRACE, doomed):
        with suppress(psutil.Error):
            process.kill()  # refused by psutil if its number is another's by now
    _left_after(_GRACE, doomed)


def _left_after(seconds: float, processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that work even after so many seconds; returns as soon as none does.

    Their exit codes are left to who began them, which may be this process.
    """
    until = monotonic() + seconds
    while (left := [process for process in processes if _is_there(process)]) and monotonic() < until:
        sleep(_LOOK_EVERY)
    return left


def _is_there(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _tree(first: psutil.Process) -> Iterator[psutil.Process]:
    with suppress(psutil.Error):
        yield from first.children(recursive=True)
    yield first


def _own_processes() -> set[int]:
    """This process, and those that it is part of: a run of theirs is looked after by somebody else."""
    own = psutil.Process()
    return {os.getpid(), *(parent.pid for parent in own.parents())}


def _in_words(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
