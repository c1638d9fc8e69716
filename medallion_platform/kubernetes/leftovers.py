"""What dead runs leave in a cluster: executors without a driver, Jobs whose pod never started. Pure.

Kubernetes collects what an object owned once that object is deleted. The pod of a failed run stays for a day,
so that its log can be read, and its executors would stay with it. A Job waits for its pod for ever, though
Dagster has ended the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

DRIVER_GONE = timedelta(seconds=20)
"""How long executors have to end by themselves once their driver has ended."""
_AFTER_TIMEOUT = timedelta(seconds=60)
"""How much longer a Job may wait for its pod than Dagster waits for the run's start: it says why, first."""


@dataclass(frozen=True)
class PodState:
    """A pod. owner: the uid of what it belongs to, "" for nothing. job: the name of its Job, "" for none.

    waits: no container of it has ever run. ended: when its last container ended; None while one may still
    run, or where nothing of it is known. over: none will run again.
    """

    name: str
    uid: str
    owner: str = ""
    job: str = ""
    executor: bool = False
    waits: bool = False
    over: bool = False
    ended: datetime | None = None


@dataclass(frozen=True)
class JobState:
    """The Job of a run. over: it has succeeded or failed."""

    name: str
    uid: str
    created: datetime
    over: bool = False


@dataclass(frozen=True)
class Leftover:
    """What is to be deleted, and why. uid: of the very object; a later one may have its name."""

    kind: Literal["pod", "job"]
    name: str
    uid: str
    reason: str


def leftovers(
    pods: Sequence[PodState], jobs: Sequence[JobState], start_timeout: timedelta, now: datetime
) -> list[Leftover]:
    """What to delete.

    pods: all of the namespace, of one moment. jobs: those of runs. start_timeout: how long Dagster waits for
    the start of a run.
    """
    by_uid = {pod.uid: pod for pod in pods}
    started = {pod.job for pod in pods if pod.job and not pod.waits}
    executors = [
        Leftover("pod", pod.name, pod.uid, why)
        for pod in pods
        if pod.executor and pod.owner and (why := _why_without_driver(by_uid.get(pod.owner), now))
    ]
    never_begun = [
        Leftover("job", job.name, job.uid, f"its pod has not started since {job.created:%H:%M:%S}")
        for job in jobs
        if not job.over and job.name not in started and now - job.created > start_timeout + _AFTER_TIMEOUT
    ]
    return executors + never_begun


def _why_without_driver(driver: PodState | None, now: datetime) -> str:
    """Why an executor has nobody to work for; empty if it has."""
    if driver is None:
        return "its driver is gone"
    if driver.over and (driver.ended is None or now - driver.ended > DRIVER_GONE):
        return f"its driver {driver.name} has ended"
    return ""
