"""A run says in its log that it works, as long as it does: whoever hears nothing of it knows that it hangs.

A process cannot tell that it hangs: it was stopped (SIGSTOP), waits for a server that never answers, or for
itself. So a thread beside each step of the platform's tells an event every minute, but only where the run's
processes (its own, Java's, Python's workers) used the processor meanwhile. It needs no right but that of
writing the run's log, on one machine and in a pod alike. `hung_runs.py` listens.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Thread

import dagster as dg
import psutil
from dagster._core.events import EngineEventData

from medallion_platform.installation.cluster_spark import RUN_EXECUTORS
from medallion_platform.spark.started import has_stages_at_work

Context = dg.OpExecutionContext | dg.AssetExecutionContext

BEATS = ".dagster/medallion_beats"
"""The tag of a run that says in its log when it works; one without it says nothing, and is not judged."""
JAVA_IDLES, PYTHON_IDLES = 0.01, 0.001
"""Shares of a core that a process may use though nothing of the run is done: the collector and the timers of
a JVM, the look of a Dagster run whether it was cancelled."""
_TWO_TICKS = 0.02
"""Seconds of work that the clock of the kernel may count more or less than there were."""
_unasked: set[int] = set()
"""Threads of this process that work for no run."""
_LONGEST = 60.0
_PER_SILENCE = 5


@dataclass(frozen=True)
class Process:
    """A process by what no other one has. java: it is a JVM."""

    pid: int
    began: float
    java: bool = False


CpuSeconds = Mapping[Process, float]
"""The seconds of a core that each process of a run has used."""


def hung_after() -> float:
    """The seconds of silence after which a run of this installation counts as hung; 0: never.

    Raises:
        WrongSetting: a setting has a value that it cannot have.
    """
    from medallion_platform.installation.settings import Settings

    return Settings().hung_after_minutes * 60


def beat_seconds(silence: float) -> float:
    """Every how many seconds a run says that it works, if so many of silence mean that it hangs. Pure."""
    return min(silence / _PER_SILENCE, _LONGEST)


def work_between(before: CpuSeconds, now: CpuSeconds, seconds: float) -> float:
    """The seconds of a core that processes used within so many of time, beyond what each uses idle. Pure.

    A process that was not there before has done all its work since.
    """
    spent = {process: used - before.get(process, 0.0) for process, used in now.items()}
    idle = {p: max(seconds * (JAVA_IDLES if p.java else PYTHON_IDLES), _TWO_TICKS) for p in now}
    return sum(used for process, used in spent.items() if used > idle[process])


@contextmanager
def with_heartbeats(context: Context) -> Generator[None]:
    """In the `with` block, the run says in its log when it works."""
    silence = hung_after()
    if not silence:
        yield
        return
    _announce(context)
    every, ended = beat_seconds(silence), Event()
    teller = Thread(target=_tell, args=(context, every, ended), daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def leave_out_this_thread() -> None:
    """Say that this thread works for no run: what it uses of the processor is no sign that one gets on."""
    _unasked.add(threading.get_native_id())


def cpu_seconds() -> dict[Process, float]:
    """What this process, but for threads that work for no run, and those that it began have used."""
    own = psutil.Process()
    found: dict[Process, float] = {}
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.Error):
            times = process.cpu_times()
            known = Process(process.pid, process.create_time(), process.name() == "java")
            found[known] = times.user + times.system - (_used_unasked(own) if process == own else 0.0)
    return found


def _used_unasked(own: psutil.Process) -> float:
    return sum(t.user_time + t.system_time for t in own.threads() if t.id in _unasked)


def _announce(context: Context) -> None:
    """Say once by a tag of the run that it has heartbeats; who cannot say it is not judged by them."""
    try:
        run = context.instance.get_run_by_id(context.run.run_id)
        if run is not None and BEATS not in run.tags:
            context.instance.add_run_tags(run.run_id, {BEATS: "yes"})
    except Exception as error:
        context.log.warning(f"the run does not say that it has heartbeats: {error}")


def _tell(context: Context, every: float, ended: Event) -> None:
    leave_out_this_thread()
    before = cpu_seconds()
    while not ended.wait(every):
        # A JVM may just be replaced, or Dagster's storage restarted: what is not told now is told next time.
        with suppress(Exception):
            now = cpu_seconds()
            if text := _work_in_words(before, now, every):
                context.instance.report_engine_event(text, context.run, EngineEventData())
            before = now


def _work_in_words(before: CpuSeconds, now: CpuSeconds, seconds: float) -> str:
    """What a run did within so many seconds; "" if nothing."""
    if work := work_between(before, now, seconds):
        return f"It works: {work:.1f} s of a core in the last {seconds:.0f} s"
    if os.environ.get(RUN_EXECUTORS, "0") != "0" and has_stages_at_work():
        return "It works: its executors are at tasks"  # whose processes are not seen here
    return ""
