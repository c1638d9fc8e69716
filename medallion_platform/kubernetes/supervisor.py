"""What has to be done while daemon, runs and workers may all be dead: delete leftovers, scale workers.

Whatever it does may be done twice, so several supervisors harm nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any, Protocol

import httpx
from prometheus_client.parser import text_string_to_metric_families

from medallion_platform.errors import classify
from medallion_platform.kubernetes import api
from medallion_platform.kubernetes.api import Cluster, ClusterError
from medallion_platform.kubernetes.leftovers import JobState, PodState, leftovers
from medallion_platform.kubernetes.own_pod import BACKUP, LAUNCH
from medallion_platform.kubernetes.scaling import Bounds, Lag, Pressure, decide_workers

EVERY = 10.0
"""Seconds between two rounds."""
METRICS_PORT = 9108
RUN_JOBS = "app.kubernetes.io/component=run_worker"
"""The label that Dagster's launcher gives the Jobs of runs."""

_LOG = logging.getLogger(__name__)
_PATIENCE = 3.0
_SECONDS, _BEHIND = "medallion_stream_lag_seconds", "medallion_stream_behind_records"


class Told(Protocol):
    """Who is told what was seen and done, as to show it."""

    def pods_seen(self, launches: Mapping[str, str], backups: Iterable[str]) -> None:
        """What pods say of themselves: launches by the pods' ids, and times of backups."""
        ...

    def deleted(self, kind: str) -> None:
        """A leftover of this kind was deleted."""
        ...

    def workers(self, deployment: str, wanted: int, lag: tuple[float, int] | None) -> None:
        """How many workers were decided on, and their lag in seconds and in records."""
        ...

    def turned(self) -> None:
        """One more thing was looked at, or could not be."""
        ...


def supervise(
    cluster: Cluster, scaled: Mapping[str, Bounds], start_timeout: timedelta, told: Told, stop: Event
) -> None:
    """Look after a namespace until `stop` is set; what fails is said once, and tried again.

    scaled: the Deployments of workers whose number is decided here. start_timeout: how long Dagster waits for
    the start of a run.
    """
    pressures = dict.fromkeys(scaled, Pressure())
    said: dict[str, str] = {}
    with worker_client() as asking:

        def scale(deployment: str) -> None:
            pressures[deployment] = scale_workers(
                cluster, asking, deployment, scaled[deployment], pressures[deployment], time.monotonic(), told
            )

        while not stop.is_set():
            _try("leftovers", lambda: remove_leftovers(cluster, start_timeout, datetime.now(UTC), told), said)
            told.turned()
            for deployment in scaled:
                _try(deployment, lambda name=deployment: scale(name), said)
                told.turned()
            stop.wait(EVERY)


def remove_leftovers(cluster: Cluster, start_timeout: timedelta, now: datetime, told: Told) -> None:
    """Delete what dead runs left, and tell what the pods that are there say of themselves.

    Raises:
        ClusterError: the API server refuses, or does not answer.
    """
    there = api.list_pods(cluster)
    backups = (notes[BACKUP] for notes in map(_notes, there) if BACKUP in notes)
    told.pods_seen({p.metadata.uid: _notes(p)[LAUNCH] for p in there if LAUNCH in _notes(p)}, backups)
    pods = [pod_state(pod) for pod in there]
    jobs = [job_state(job) for job in api.list_jobs(cluster, RUN_JOBS)]
    for left in leftovers(pods, jobs, start_timeout, now):
        api.delete(cluster, left.kind, left.name, left.uid)
        told.deleted(left.kind)
        _LOG.info("deleted %s %s: %s", left.kind, left.name, left.reason, extra={"uid": left.uid})


def worker_client() -> httpx.Client:
    """What workers are asked with. One for all rounds: each loads certificates, a megabyte of them."""
    return httpx.Client(timeout=_PATIENCE, trust_env=False)


def scale_workers(
    cluster: Cluster,
    asking: httpx.Client,
    deployment: str,
    bounds: Bounds,
    pressure: Pressure,
    now: float,
    told: Told,
) -> Pressure:
    """Give a Deployment as many workers as their lag asks for; gives what to pass on the next time.

    Raises:
        ClusterError: the API server refuses, or does not answer.
    """
    workers, selector = api.read_scale(cluster, deployment)
    pods = [pod for pod in api.list_pods(cluster, selector) if not pod.metadata.deletion_timestamp]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda pod: ask_worker(asking, pod.status.pod_ip), pods))
    lag = sum_lag(workers, answers)
    decided = decide_workers(now, workers, lag, pressure, bounds)
    told.workers(deployment, decided.workers, lag and (lag.seconds, lag.messages))
    if decided.workers != workers:
        api.set_scale(cluster, deployment, decided.workers)
        _LOG.info("%s: %s -> %s workers (%s)", deployment, workers, decided.workers, decided.reason)
    return decided.pressure


def ask_worker(asking: httpx.Client, address: str | None) -> str | None:
    """The metrics of a worker as Prometheus reads them; None where it does not answer."""
    if not address:
        return None
    host = f"[{address}]" if ":" in address else address
    try:
        response = asking.get(f"http://{host}:{METRICS_PORT}/metrics")
    except httpx.HTTPError:
        return None
    return response.text if response.is_success else None


def sum_lag(workers: int, told: Iterable[str | None]) -> Lag | None:
    """The lag of all workers by their metrics; None where nobody answers."""
    heard = [text for text in told if text is not None]
    if not heard:
        return None
    seconds, behind = 0.0, dict[str, float]()
    for text in heard:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == _SECONDS:
                    seconds = max(seconds, sample.value)
                elif sample.name == _BEHIND:
                    # A partition that has just moved may be told by both.
                    log = sample.labels["log"]
                    behind[log] = max(behind.get(log, 0.0), sample.value)
    return Lag(seconds, int(sum(behind.values())), len(behind), len(heard) >= workers)


def pod_state(pod: Any) -> PodState:
    """What matters of a pod, which is an object of the client."""
    labels = pod.metadata.labels or {}
    statuses = pod.status.container_statuses or []
    ends = [s.state.terminated.finished_at for s in statuses if s.state and s.state.terminated]
    owners = [o.uid for o in pod.metadata.owner_references or [] if o.kind == "Pod"]
    return PodState(
        pod.metadata.name,
        pod.metadata.uid,
        owner=owners[0] if owners else "",
        job=labels.get("job-name", ""),
        executor=labels.get("spark-role") == "executor",
        waits=pod.status.phase == "Pending" and not any(_has_run(s) for s in statuses),
        over=pod.status.phase in ("Succeeded", "Failed"),
        ended=max((end for end in ends if end), default=None),
    )


def job_state(job: Any) -> JobState:
    """What matters of a Job, which is an object of the client."""
    over = any(c.type in ("Complete", "Failed") and c.status == "True" for c in job.status.conditions or [])
    return JobState(job.metadata.name, job.metadata.uid, job.metadata.creation_timestamp, over)


def _notes(pod: Any) -> Mapping[str, str]:
    """The annotations of a pod."""
    return pod.metadata.annotations or {}


def _has_run(status: Any) -> bool:
    """Whether a container runs or has run, of its status."""
    states = [state for state in (status.state, status.last_state) if state]
    return any(state.running or state.terminated for state in states)


def _try(what: str, work: Callable[[], object], said: dict[str, str]) -> None:
    """Do one piece of a round; say once why it cannot be done."""
    try:
        work()
        said.pop(what, None)
    except ClusterError as error:
        if said.get(what) != str(error):
            said[what] = str(error)
            _LOG.warning(str(error), extra={"kind": classify(error).kind.value})
