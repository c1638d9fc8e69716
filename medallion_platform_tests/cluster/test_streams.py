"""Stream workers in pods are killed, paused, moved, become more and fewer: every event is there once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from threading import Event, Thread
from typing import Any

import polars as pl
import pytest
from confluent_kafka import Producer

from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.cluster import local, sample
from medallion_platform_tests.cluster.installation import Installation, namespace
from medallion_platform_tests.cluster.kube import CommandFailed, Kube, is_ready
from medallion_platform_tests.cluster.servers import Servers
from medallion_platform_tests.cluster.test_faults import figure, seconds_since
from medallion_platform_tests.cluster.tools import kubectl
from medallion_platform_tests.kafka.broker import Broker
from medallion_platform_tests.waiting import meanwhile, until

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(1800)]

WORKERS = "medallion-stream-clickstream-events"
"""The Deployment."""
PLACE = "leader/refresh-clickstream.events"
"""What the leader's tokens are of."""
A_SECOND = 1000
"""Events, in the drill."""
CALMLY = 200
"""Events a second elsewhere: two cores, shared by all of a cluster, keep up with them whatever else runs."""
BEHIND = 2_000_000
"""Events that wait for slow workers: more than a third worker is asked for by."""
USUAL = {"requests": {"cpu": "100m", "memory": "2Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
SLOW = {"requests": {"cpu": "100m", "memory": "2Gi"}, "limits": {"cpu": "100m", "memory": "2Gi"}}


def stream(resources: dict[str, Any], *, refresh: bool = True) -> list[dict[str, Any]]:
    """The chart's value."""
    workers = {"min": 2, "max": 3}
    return [{"source": sample.EVENTS, "refresh": refresh, "workers": workers, "resources": resources}]


def event(name: str, number: int) -> bytes:
    """A good event of a user whom the sample knows."""
    now = datetime.now(UTC).isoformat()
    return json.dumps(
        {
            "event_id": name,
            "user_id": f"u{number % 500 + 1:04}",
            "event_type": "click",
            "event_timestamp": now,
            "page": "/",
            "session_id": f"s-{number // 10}",
            "region_code": "EU-W",
        }
    ).encode()


@dataclass
class Arriving:
    """Events that come at a steady rate until `stop` is set."""

    broker: Broker
    prefix: str
    a_second: int
    names: list[str] = field(default_factory=list)
    stop: Event = field(default_factory=Event)

    def send(self) -> None:
        producer = Producer({"bootstrap.servers": self.broker.address, "linger.ms": 5})
        begin = time.monotonic()
        while not self.stop.wait(0.05):
            due = int((time.monotonic() - begin) * self.a_second)
            for number in range(len(self.names), due):
                self.names.append(name := f"{self.prefix}-{number}")
                producer.produce(sample.EVENTS, event(name, number), partition=number % 4)
            producer.poll(0)
        assert producer.flush(60) == 0


@dataclass
class Workers:
    """An installation with stream workers, and what a test does to them."""

    installed: Installation
    admin: Kube

    def pods(self) -> list[dict[str, Any]]:
        """Those that are not about to go."""
        pods = self.admin.pods(medallion__stream=WORKERS)
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def ready(self) -> int:
        return sum(map(is_ready, self.pods()))

    def leader(self) -> dict[str, Any] | None:
        """The pod that holds the lease, if it works."""
        for lease in self.admin.get("leases.coordination.k8s.io"):
            holder = lease["spec"].get("holderIdentity", "").rpartition("_")[0]
            for pod in self.pods():
                if pod["metadata"]["name"] == holder and _processes(pod):
                    return pod
        return None

    def tokens(self) -> list[int]:
        """Of the leaders, in the order of their commits of silver."""
        log = self.installed.servers.s3.root / self.installed.bucket / "lake/silver/events/_delta_log"
        actions = (json.loads(line) for file in sorted(log.glob("*.json")) for line in file.open())
        return [a["txn"]["version"] for a in actions if a.get("txn", {}).get("appId") == PLACE]

    def claim(self) -> int:
        """The newest leader's."""
        claims = self.installed.servers.s3.root / self.installed.bucket / "lake/_medallion/fences" / PLACE
        return max(int(file.name) for file in claims.iterdir())

    @contextmanager
    def arriving(self, prefix: str, a_second: int = CALMLY) -> Generator[Arriving]:
        """Events arrive in the `with` block."""
        events = Arriving(self.installed.servers.broker, prefix, a_second)
        thread = Thread(target=events.send)
        thread.start()
        try:
            yield events
        finally:
            events.stop.set()
            thread.join()

    def once(self, names: Sequence[str], tables: Sequence[str], seconds: float) -> None:
        """Return when these events are in the tables; each of them is there once."""
        for table in tables:
            until(
                lambda table=table: len(self.found(table, names[0])) >= len(names),
                seconds,
                lambda table=table: f"{table}: {len(self.found(table, names[0]))}; {self.says()}",
                pause=2,
            )
            assert sorted(self.found(table, names[0])) == sorted(names), table
        tokens = self.tokens()
        assert all(one <= other for one, other in pairwise(tokens)), tokens

    def found(self, table: str, like: str) -> list[str]:
        """The names in a table of events that have the same prefix."""
        opened = Lake(self.installed.lake).open(table)
        if opened is None:
            return []
        prefix = like.rpartition("-")[0] + "-"
        rows = pl.scan_delta(opened).filter(pl.col("event_id").str.starts_with(prefix)).select("event_id")
        return rows.collect()["event_id"].to_list()

    def longest_pause(self, table: str, since: datetime) -> float:
        """Seconds between two commits."""
        at = Lake(self.installed.lake).committed_at(table).values()
        times = sorted(t for t in at if t >= since)
        return round(max((b - a).total_seconds() for a, b in pairwise([since, *times])), 1)

    def says(self) -> str:
        logs = [self.log(pod, "--tail=15") for pod in self.pods()]
        return "\n".join([self.installed.says(), *logs])

    def log(self, pod: dict[str, Any], *arguments: str) -> str:
        try:
            return self.admin.run("logs", pod["metadata"]["name"], *arguments)
        except CommandFailed as error:
            return str(error)


def container_of(pod: dict[str, Any]) -> tuple[list[str], str]:
    """How its node's containerd is asked, and the container of a pod."""
    number = pod["spec"]["nodeName"].removeprefix("node")
    (status,) = pod["status"].get("containerStatuses") or [{}]
    socket = local.RUNNING / f"containerd{number}.sock"
    ask = ["ctr", "--address", str(socket), "--namespace", "k8s.io", "task"]
    return ask, status.get("containerID", "").removeprefix("containerd://")


def _processes(pod: dict[str, Any]) -> list[int]:
    """The ids of a pod's processes on this machine; none where it does not run."""
    ask, container = container_of(pod)
    done = subprocess.run([*ask, "ps", container], capture_output=True, text=True, check=False)
    return [int(line.split()[0]) for line in done.stdout.splitlines()[1:]]


def _signal(pod: dict[str, Any], number: int) -> None:
    for process in _processes(pod):
        os.kill(process, number)


def _kill(pod: dict[str, Any], admin: Kube) -> None:
    """SIGKILL of all that runs in a pod, and no grace: another one takes its place at once."""
    ask, container = container_of(pod)
    subprocess.run([*ask, "kill", "--signal=SIGKILL", container], capture_output=True, check=True)
    admin.run("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")


@pytest.fixture(scope="module")
def streaming(
    admin: Kube, image: str, servers_of_tests: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workers]:
    """An installation whose events are taken in by stream workers, with a broker of its own."""
    folder = tmp_path_factory.mktemp("streams")
    values = {"streams": stream(USUAL), "runs": {"concurrent": 1}}
    with (
        servers_of_tests.with_own_broker(folder) as servers,
        namespace(admin, servers, folder, image, **values) as installed,
    ):
        sample.produce(servers.broker)
        installed.install()
        workers = Workers(installed, installed.admin)
        lake = Lake(installed.lake)
        until(lambda: lake.exists("silver.events") and workers.ready() == 2, 400, workers.says, pause=2)
        yield workers


def test_every_event_is_there_once_though_the_leader_is_killed_every_twenty_seconds(
    streaming: Workers,
) -> None:
    killed: list[str] = []
    before, begun = set(streaming.tokens()), datetime.now(UTC)
    with streaming.arriving("killed", A_SECOND) as events:
        begin = time.monotonic()
        for turn in range(15):
            time.sleep(max(0.0, begin + 20 * (turn + 1) - time.monotonic()))
            if leader := streaming.leader():
                killed.append(leader["metadata"]["name"])
                _kill(leader, streaming.admin)
    since = time.time()
    assert len(killed) >= 10, killed
    streaming.once(events.names, ["bronze.events", "silver.events"], 300)
    figure(f"{len(killed)} leaders killed, {len(events.names):,} events", seconds_since(since), 1)
    for table in ("bronze.events", "silver.events"):
        figure(f"longest pause of {table} meanwhile", streaming.longest_pause(table, begun), 1)
    print(f"leaders that committed: {len(set(streaming.tokens()) - before)}")


def test_a_leader_that_was_paused_writes_nothing_when_it_goes_on(streaming: Workers) -> None:
    until(lambda: streaming.ready() == 2, 200, streaming.says, pause=1)
    with streaming.arriving("paused") as events:
        until(lambda: streaming.claim() in streaming.tokens(), 300, streaming.says)
        old, own = until(streaming.leader, 60, streaming.says), streaming.claim()
        _signal(old, signal.SIGSTOP)
        since = time.time()
        try:
            until(lambda: streaming.claim() > own, 30, streaming.says)
            figure("a leader that is paused, until another one leads", seconds_since(since), 1)
            written = streaming.tokens().count(own)
        finally:
            _signal(old, signal.SIGCONT)
        until(lambda: streaming.tokens()[-1] > own, 300, streaming.says)
        figure("a leader that is paused, until another one has written", seconds_since(since), 1)
        time.sleep(15)  # the old one has ended what it was at
        assert streaming.tokens().count(own) == written
    streaming.once(events.names, ["bronze.events", "silver.events"], 400)
    print([line for line in streaming.log(old).splitlines() if "lead" in line])
    assert _restarts(streaming, old) == 0


def _restarts(workers: Workers, pod: dict[str, Any]) -> int:
    (found,) = [p for p in workers.pods() if p["metadata"]["name"] == pod["metadata"]["name"]]
    return found["status"]["containerStatuses"][0]["restartCount"]


def test_a_worker_stays_while_another_one_is_moved(streaming: Workers) -> None:
    until(lambda: streaming.ready() == 2, 200, streaming.says, pause=1)
    first, second = (pod["metadata"]["name"] for pod in streaming.pods())
    evict(streaming.admin, first)
    with pytest.raises(CommandFailed, match="disruption budget"):
        evict(streaming.admin, second)
    until(lambda: streaming.ready() == 2, 200, streaming.says, pause=1)


def evict(admin: Kube, pod: str) -> None:
    """As `kubectl drain` does it."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    path = f"/api/v1/namespaces/{admin.namespace}/pods/{pod}/eviction"
    admin.run("create", "--raw", path, "--filename=-", given=json.dumps(eviction))


def test_workers_that_are_replaced_finish_their_batch(streaming: Workers) -> None:
    fewest = [2]

    def count() -> None:
        found = streaming.admin.get("deployments", f"--field-selector=metadata.name={WORKERS}")
        fewest.append(found[0]["status"].get("readyReplicas", 0))

    with streaming.arriving("replaced") as events, _ends(streaming) as ends, meanwhile(count):
        since = time.time()
        streaming.admin.run("rollout", "restart", f"deployment/{WORKERS}")
        streaming.admin.run("rollout", "status", f"deployment/{WORKERS}", "--timeout=400s", seconds=420)
        until(lambda: len(streaming.admin.pods(medallion__stream=WORKERS)) == 2, 150, streaming.says)
        figure("all workers replaced", seconds_since(since), 1)
    assert set(ends.values()) == {0}, ends
    assert len(ends) == 2, ends
    assert min(fewest) >= 2
    streaming.once(events.names, ["bronze.events", "silver.events"], 400)


@contextmanager
def _ends(workers: Workers) -> Generator[dict[str, int]]:
    """The exit codes of workers that end meanwhile."""
    found: dict[str, int] = {}
    columns = '{.metadata.name} {.status.containerStatuses[*].state.terminated.exitCode}{"\\n"}'
    begin = [str(kubectl()), f"--kubeconfig={workers.admin.config}", f"--namespace={workers.admin.namespace}"]
    command = [*begin, "get", "pods", "--watch", f"--selector=medallion/stream={WORKERS}"]
    with subprocess.Popen(
        [*command, f"--output=jsonpath={columns}"], stdout=subprocess.PIPE, text=True
    ) as watch:
        assert watch.stdout

        def read() -> None:
            for line in watch.stdout or ():
                name, _, code = line.strip().partition(" ")
                if code:
                    found[name] = int(code)

        reader = Thread(target=read)
        reader.start()
        try:
            yield found
        finally:
            watch.terminate()
            reader.join()


def test_a_backlog_brings_a_third_worker_which_leaves_when_it_is_calm(streaming: Workers) -> None:
    streaming.installed.install(streams=stream(SLOW, refresh=False))
    until(lambda: streaming.ready() == 2, 300, streaming.says, pause=1)
    names = [f"behind-{number}" for number in range(BEHIND)]
    for partition in range(4):
        own = names[partition::4]
        streaming.installed.servers.broker.send(
            sample.EVENTS, [event(name, number) for number, name in enumerate(own)], partition
        )
    since = time.time()
    try:
        until(lambda: wanted(streaming) == 3, 240, streaming.says, pause=1)
        figure("a backlog, until a third worker is asked for", seconds_since(since), 1)
        until(lambda: streaming.ready() == 3, 300, streaming.says, pause=1)
        figure("a backlog, until the third worker is ready", seconds_since(since), 1)
        streaming.once(names, ["bronze.events"], 600)
        figure(f"{BEHIND:,} events behind", seconds_since(since), 1)
        calm = time.time()
        until(lambda: wanted(streaming) == 2, 600, streaming.says, pause=2)
        figure("calm, until the third worker is sent away", seconds_since(calm), 1)
        until(lambda: len(streaming.admin.pods(medallion__stream=WORKERS)) == 2, 150, streaming.says)
        streaming.once(names, ["bronze.events"], 60)
    finally:
        lines = streaming.admin.run("logs", "deployment/medallion-supervise").splitlines()
        print("\n".join(line for line in lines if "workers" in line))


def wanted(workers: Workers) -> int:
    found = workers.admin.get("deployments", f"--field-selector=metadata.name={WORKERS}")
    return found[0]["spec"]["replicas"]
