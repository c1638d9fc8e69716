"""The supervisor with an API server of a few lines: what it deletes, scales, and says where it may not."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Timer
from typing import Any

import httpx
import pytest

from medallion_platform.cli.exits import USAGE, Stop
from medallion_platform.cli.servers import _bounds
from medallion_platform.kubernetes import supervisor
from medallion_platform.kubernetes.api import ClusterError, ClusterLease, delete
from medallion_platform.kubernetes.lease import Lease, LeaseChanged
from medallion_platform.kubernetes.scaling import MORE_AFTER, Bounds, Lag, Pressure
from medallion_platform.kubernetes.supervisor import (
    remove_leftovers,
    scale_workers,
    sum_lag,
    supervise,
    worker_client,
)
from medallion_platform.observability.launch import Launch
from medallion_platform.observability.server import serve_metrics
from medallion_platform.observability.supervision import HUNG, SupervisorMetrics
from medallion_platform.observability.worker import WorkerMetrics
from medallion_platform_tests.command import MEDALLION
from medallion_platform_tests.in_kubernetes.server import Objects, api_server
from medallion_platform_tests.waiting import until

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
START_TIMEOUT = timedelta(seconds=300)
LABEL = {"app.kubernetes.io/component": "run_worker"}


def at(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def objects() -> Iterator[Objects]:
    with api_server() as found:
        yield found


def executor(objects: Objects, name: str, driver: str) -> None:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": driver, "uid": driver}
    metadata = {"labels": {"spark-role": "executor"}, "ownerReferences": [owner]}
    objects.put("pods", name, metadata=metadata, status={"phase": "Running"})


def test_what_dead_runs_left_is_deleted(objects: Objects) -> None:
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": at(30)}}
    status = {"name": "dagster", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
    objects.put(
        "pods",
        "run-dead",
        metadata={"labels": {"job-name": "job-dead"}},
        status={"phase": "Failed", "containerStatuses": [{**status, "state": ended}]},
    )
    objects.put("pods", "run-lives", status={"phase": "Running"})
    executor(objects, "dead-exec-1", "run-dead")
    executor(objects, "lives-exec-1", "run-lives")
    executor(objects, "gone-exec-1", "run-gone")
    pending = {"waiting": {"reason": "ImagePullBackOff"}}
    objects.put(
        "pods",
        "run-pending",
        metadata={"labels": {"job-name": "job-pending"}},
        status={"phase": "Pending", "containerStatuses": [{**status, "state": pending}]},
    )
    for job, age in (("job-pending", 400), ("job-dead", 400), ("job-young", 10), ("job-no-pod", 400)):
        objects.put("jobs", job, metadata={"labels": LABEL, "creationTimestamp": at(age)}, status={})
    objects.put("jobs", "somebody's", metadata={"creationTimestamp": at(4000)}, status={})
    before, metrics = set(objects.found), SupervisorMetrics()
    remove_leftovers(objects.cluster, START_TIMEOUT, NOW, metrics)
    gone = {"pods/dead-exec-1", "pods/gone-exec-1", "jobs/job-pending", "jobs/job-no-pod"}
    assert before - set(objects.found) == gone
    deleted = [of(metrics, "medallion_leftovers_deleted_total", kind=kind) for kind in ("pod", "job")]
    assert deleted == [2, 2]
    remove_leftovers(objects.cluster, START_TIMEOUT, NOW, metrics)


def test_another_object_of_the_same_name_is_not_deleted(objects: Objects) -> None:
    objects.put("pods", "p", metadata={"uid": "the later one"})
    delete(objects.cluster, "pod", "p", "the one that was seen")
    assert "pods/p" in objects.found
    delete(objects.cluster, "pod", "never was", "x")


def of(metrics: SupervisorMetrics, name: str, **labels: str) -> float | None:
    """What Prometheus would read."""
    return metrics.registry.get_sample_value(name, labels)


def test_launches_and_backups_are_told_once_by_what_pods_say_of_them(objects: Objects) -> None:
    metrics = SupervisorMetrics()

    def say(pod: str, **notes: str) -> None:
        annotations = {f"medallion/{name}": text for name, text in notes.items()}
        objects.put("pods", pod, metadata={"annotations": annotations}, status={"phase": "Running"})

    def counted() -> tuple[float | None, float | None]:
        remove_leftovers(objects.cluster, START_TIMEOUT, NOW, metrics)
        launches = of(metrics, "medallion_launch_seconds_count", phase="session", mode="threads")
        return launches, of(metrics, "medallion_backup_timestamp_seconds")

    launch = Launch("threads", {"session": 4.0}).to_json()
    say("before", launch=launch)
    # Of those that are there at its start another supervisor has told; nothing is known of a backup.
    assert counted() == (None, None)
    say("one", launch=launch)
    say("of another version", launch="{}", backup="soon")
    say("silent")
    assert counted() == counted() == (1, None)
    say("two", launch=launch, backup="2026-11-30T06:00:00+00:00")
    say("three", backup="2026-11-30T00:00:00+00:00")
    newest = datetime(2026, 11, 30, 6, tzinfo=UTC).timestamp()
    assert counted() == (2, newest)
    for pod in ("two", "three"):  # Kubernetes deletes them some day
        del objects.found[f"pods/{pod}"]
    assert counted() == (2, newest)


def test_a_supervisor_that_does_not_look_any_more_is_not_alive() -> None:
    now = 0.0
    metrics = SupervisorMetrics(lambda: now)
    now = HUNG - 1
    assert metrics.alive and not metrics.not_ready
    now = HUNG
    assert not metrics.alive and "has not looked" in metrics.not_ready
    metrics.turned()
    assert metrics.alive


def worker(objects: Objects, name: str, address: str) -> None:
    objects.put(
        "pods", name, metadata={"labels": {"of": "stream"}}, status={"phase": "Running", "podIP": address}
    )


def test_workers_are_scaled_by_what_they_say(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, told, asking = WorkerMetrics("s"), SupervisorMetrics(), worker_client()
    server = serve_metrics(metrics, "127.0.0.1", 0)
    monkeypatch.setattr(supervisor, "METRICS_PORT", server.server_port)
    try:
        objects.put(
            "deployments",
            "stream/scale",
            spec={"replicas": 1},
            status={"replicas": 1, "selector": "of=stream"},
        )
        worker(objects, "stream-1", "127.0.0.1")

        def look(pressure: Pressure, now: float) -> tuple[int, Pressure]:
            then = scale_workers(objects.cluster, asking, "stream", Bounds(1, 5), pressure, now, told)
            return objects.found["deployments/stream/scale"]["spec"]["replicas"], then

        metrics.taken({"written": 100}, 1.0, {f"t/{n}": 50_000 for n in range(5)})
        replicas, pressure = look(Pressure(), 0)
        assert replicas == 1
        stream = {"deployment": "stream"}
        assert of(told, "medallion_stream_workers_behind_records", **stream) == 250_000
        assert (of(told, "medallion_stream_workers_lag_seconds", **stream) or 0) > 0
        replicas, pressure = look(pressure, MORE_AFTER)
        assert replicas == of(told, "medallion_stream_workers_wanted", **stream) == 3
        # The new ones do not answer yet: nothing goes down.
        metrics.idle()
        worker(objects, "stream-2", "127.0.0.2")
        for n in range(100):
            replicas, pressure = look(pressure, 100 + 10.0 * n)
        assert (replicas, pressure) == (3, Pressure())
    finally:
        server.shutdown()
        server.server_close()
    # What nobody tells is not told on.
    look(pressure, 2000)
    asking.close()
    assert of(told, "medallion_stream_workers_behind_records", **stream) is None


def test_the_lag_is_that_of_the_slowest_and_of_all_partitions() -> None:
    def told(seconds: float, **behind: int) -> str:
        lines = [f'medallion_stream_behind_records{{source="s",log="{k}"}} {v}' for k, v in behind.items()]
        return "\n".join([f'medallion_stream_lag_seconds{{source="s"}} {seconds}', *lines, ""])

    one, other = told(7, a=10, b=20), told(400, b=25, c=30)
    assert sum_lag(2, [one, other]) == Lag(400, 65, 3, complete=True)
    assert sum_lag(2, [one, None]) == Lag(7, 30, 2, complete=False)
    assert sum_lag(1, [None]) is sum_lag(0, []) is None


def test_what_is_refused_is_said_once_and_tried_again(
    objects: Objects, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "EVERY", 0.05)
    objects.refused.add("GET")
    stop = Event()
    Timer(0.4, stop.set).start()
    with caplog.at_level(logging.WARNING, supervisor.__name__):
        supervise(objects.cluster, {"stream": Bounds(1, 2)}, START_TIMEOUT, SupervisorMetrics(), stop)
    assert [record.getMessage() for record in caplog.records] == [
        f"the API server of Kubernetes (namespace here, to {what}) answered 403 Forbidden; "
        "give the pod's service account this right; the chart's Roles have it"
        for what in ("list pods", "get the scale of deployment stream")
    ]


def test_a_lease_over_http(objects: Objects) -> None:
    one, other = (Lease(ClusterLease(objects.cluster, "l"), name) for name in ("one", "other"))
    one.turn()
    old = ClusterLease(objects.cluster, "l").read()
    assert (old.holder, old.transitions, old.duration) == ("one", 1, 10)
    other.turn()
    one.turn()
    assert (one.term(), other.term()) == (1, None)
    with pytest.raises(LeaseChanged):
        ClusterLease(objects.cluster, "l").write(old)
    spec: dict[str, Any] = objects.found["leases/l"]["spec"]
    assert spec["renewTime"].endswith("Z")
    assert len(spec["renewTime"]) == len("2026-11-30T12:00:00.000000Z")
    objects.refused.add("GET")
    with pytest.raises(ClusterError, match=r"to get the lease l\) answered 403"):
        one.turn()


CYCLES = """
import sys, weakref
from types import SimpleNamespace
from medallion_platform.cli import main
from medallion_platform.kubernetes import api, supervisor

class Cycle:
    def __init__(self):
        self.me = self

def rounds(*_):
    for _ in range(20_000):
        alive.add(Cycle())
    print("alive:", len(alive))

alive = weakref.WeakSet()
api.connect = lambda: SimpleNamespace(namespace="here")
supervisor.supervise = rounds
sys.argv = ["medallion", "supervise", "--port", "0"]
main()
"""


def test_the_command_keeps_no_garbage() -> None:
    done = subprocess.run([sys.executable, "-c", CYCLES], capture_output=True, text=True, check=True)
    (alive,) = re.findall(r"alive: (\d+)", done.stdout)
    assert int(alive) < 2000


def test_the_command_serves_what_it_sees(objects: Objects, tmp_path: Path) -> None:
    host = objects.cluster.client.configuration.host
    told = {
        "clusters": [{"name": "c", "cluster": {"server": host}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "here"}}],
        "current-context": "x",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(told))
    executor(objects, "gone-exec-1", "run-gone")
    process = subprocess.Popen(
        [*MEDALLION, "supervise", "--port", "0"],
        env={**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig")},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr
        said = next(line for line in process.stderr if "/metrics" in line)
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+", said)
        until(lambda: "pods/gone-exec-1" not in objects.found, 60)
        deleted = 'medallion_leftovers_deleted_total{kind="pod"} 1.0'
        until(lambda: deleted in httpx.get(f"{address}/metrics").text, 60)
        assert httpx.get(f"{address}/health").is_success
    finally:
        process.terminate()
    assert process.wait(60) == 0


@pytest.mark.parametrize("given", ["stream", "stream=1", "stream=5:1", "Stream=1:5", "s=-1:2"])
def test_wrong_bounds_are_refused(given: str) -> None:
    with pytest.raises(Stop, match="give a Deployment and two numbers, as in stream-orders=1:5") as refused:
        _bounds(given)
    assert refused.value.code == USAGE


def test_bounds_are_given_as_two_numbers() -> None:
    assert _bounds("stream-orders=1:5") == ("stream-orders", Bounds(1, 5))
