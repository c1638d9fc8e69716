"""Checks of a pod's place in a Kubernetes cluster: rights, connections, quotas, versions, Dagster's settings.

A component's name (`web`, `daemon`, `code`, ...) stands in the variable that `ROLE` names; the chart sets it.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from medallion_platform import storage
from medallion_platform.doctor.configuration import postgres_url, read_yaml, redis_nodes
from medallion_platform.doctor.finding import Checks, Finding
from medallion_platform.doctor.servers import clock_finding, sources_of_topics
from medallion_platform.errors import Kind
from medallion_platform.installation.settings import bytes_of_memory
from medallion_platform.kubernetes import api
from medallion_platform.kubernetes.api import ClusterError
from medallion_platform.kubernetes.flows import FLOWS
from medallion_platform.kubernetes.rights import RIGHTS
from medallion_platform.kubernetes.shape import Shape, largest_shape

if TYPE_CHECKING:
    from medallion_platform.installation.settings import Settings

ROLE = "MEDALLION_ROLE"
OLDEST = (1, 30)
"""The oldest Kubernetes that the chart works on: its pods pause before they end (`preStop: sleep`)."""
WORKSPACE = Path("/etc/medallion/workspace.yaml")
"""Where the chart mounts what tells Dagster which server has the code location."""
_SECONDS = 5.0
"""For a connection."""
_SERVICE = "kubernetes.default.svc"
"""A name that every cluster has."""
_NOBODY = {"run", "executor", "stream"}
"""Components that listen only while they work, so that nothing can be said of their ports."""


def rights(_: Settings) -> Iterator[Finding]:
    """The service account may do what the platform does with it."""
    role = os.environ[ROLE]
    wanted = RIGHTS.get(role, ())
    if not wanted:
        yield Finding(True, f"{role} needs none")
        return
    cluster = api.connect()
    for right in wanted:
        if refused := [verb for verb in right.verbs if not api.may(cluster, right, verb)]:
            verbs = " and ".join(refused)
            found = f"{role} may not {verbs} {right.resource} in namespace {cluster.namespace}"
            yield Finding(False, found, f"give its Role the right to {verbs}; the chart's Role has it")
        else:
            yield Finding(True, f"{role} may {' and '.join(right.verbs)} {right.resource}")


def api_server(_: Settings) -> Iterator[Finding]:
    """The API server has a version that the chart works on, and this machine's time."""
    cluster = api.connect()
    sent = time.time()
    version, date = api.version_and_date(cluster)
    yield version_finding(version)
    yield clock_finding("the API server", date, (sent + time.time()) / 2)


def version_finding(version: str) -> Finding:
    """Whether a version of Kubernetes (`v1.33.13`, `v1.29.2-gke.100`) is new enough. Pure."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) >= OLDEST:
        return Finding(True, f"Kubernetes {version}")
    oldest = ".".join(map(str, OLDEST))
    return Finding(
        False, f"Kubernetes {version}, needed: {oldest} or newer", f"upgrade the cluster to {oldest}"
    )


def quotas(settings: Settings) -> Iterator[Finding]:
    """The namespace's quotas leave room for one more run, for the largest pod, and allow the largest run."""
    cluster = api.connect()
    try:
        listed = api.list_quotas(cluster)
    except ClusterError as error:
        if error.kind is not Kind.AUTH:
            raise
        yield Finding(None, f"{os.environ[ROLE]} may not list resource quotas")
        return
    usual = resources_of_a_run(read_yaml(settings.dagster_home / "dagster.yaml"))
    largest = largest_shape(bytes_of_memory(settings.most_memory), settings.most_executors)
    for quota in listed:
        hard, used = quota.status.hard or {}, quota.status.used or {}
        yield from quota_findings(quota.metadata.name, hard, used, usual, largest)
    if not listed:
        yield Finding(True, f"namespace {cluster.namespace} has none")


def resources_of_a_run(dagster: Mapping[str, Any]) -> dict[str, str]:
    """What a run's pod takes of a quota, as `dagster.yaml` tells the launcher, by the quota's names. Pure."""
    launcher = (dagster.get("run_launcher") or {}).get("config") or {}
    told: Mapping[str, Mapping[str, Any]] = launcher.get("resources") or {}
    of_pods = {
        f"{kind}.{name}": str(amount)
        for kind in ("requests", "limits")
        for name, amount in (told.get(kind) or {}).items()
    }
    # Quotas name requests with and without the word.
    short = {name.removeprefix("requests."): v for name, v in of_pods.items() if name.startswith("requests.")}
    return {"pods": "1", "count/pods": "1", "count/jobs.batch": "1", **of_pods, **short}


def quota_findings(
    name: str, hard: Mapping[str, str], used: Mapping[str, str], usual: Mapping[str, str], largest: Shape
) -> Iterator[Finding]:
    """Whether a quota has room for a run. Pure.

    hard, used: of the quota, by its names. usual: what a run takes whose size nobody decided. largest: a run
    that has all that the settings allow.
    """
    from kubernetes.utils.quantity import parse_quantity

    def lacks(there: Mapping[str, Decimal], wanted: Mapping[str, str]) -> list[str]:
        return [r for r in there if r in wanted and there[r] < parse_quantity(wanted[r])]

    most = {resource: parse_quantity(amount) for resource, amount in hard.items()}
    left = {resource: most[resource] - parse_quantity(used.get(resource, "0")) for resource in hard}
    told = {resource: f"{used.get(resource, '0')} of {given} {resource}" for resource, given in hard.items()}
    pod, run = _of_quota(1, largest.cores, largest.memory), _of_run(largest)
    wrong = [
        Finding(
            False,
            f"quota {name} allows {hard[resource]} {resource}, and a run may ask for {run[resource]}",
            "raise the quota, or lower MEDALLION_MOST_EXECUTORS or MEDALLION_MOST_MEMORY",
        )
        for resource in lacks(most, run)
    ]
    for resource in lacks(left, usual):
        found = f"quota {name}: {told[resource]} used, and a run needs {usual[resource]}"
        wrong.append(Finding(False, found, f"raise the quota, or {_WAIT}"))
    if not wrong:
        for resource in lacks(left, pod):
            found = f"quota {name}: {told[resource]} used, and the largest pod of a run needs {pod[resource]}"
            wrong.append(Finding(False, found, f"raise the quota, lower MEDALLION_MOST_MEMORY, or {_WAIT}"))
    yield from wrong
    if not wrong:
        yield Finding(True, f"quota {name}: {', '.join(told.values())} used")


_WAIT = "wait for runs to end: until then new ones wait"


def _of_run(shape: Shape) -> dict[str, str]:
    """What a run takes of a quota with all its executors, by the quota's names."""
    cores = shape.cores + shape.executors * shape.executor_cores
    return _of_quota(1 + shape.executors, cores, shape.memory + shape.executors * shape.executor_memory)


def _of_quota(pods: int, cores: int, memory: int) -> dict[str, str]:
    """What pods take of a quota in all, by its names; quotas name requests with and without the word."""
    n, cpu, most = str(pods), str(cores), f"{memory >> 20}Mi"
    requests = {"cpu": cpu, "requests.cpu": cpu, "memory": most, "requests.memory": most}
    return {"pods": n, "count/pods": n, **requests, "limits.memory": most}


def dagster_settings(settings: Settings) -> Iterator[Finding]:
    """Dagster launches runs as pods, from its daemon alone, and sees when one of them dies."""
    file = settings.dagster_home / "dagster.yaml"
    wrong = list(wrong_dagster_settings(read_yaml(file)))
    for found, remedy in wrong:
        yield Finding(False, f"{file}: {found}", remedy)
    if not wrong:
        yield Finding(True, f"{file}: runs wait in a queue, become pods, and are watched")


def wrong_dagster_settings(dagster: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a `dagster.yaml` says that does not fit a cluster, each with what to do. Pure."""
    if (dagster.get("run_coordinator") or {}).get("class", QUEUED) != QUEUED:
        yield "runs are not queued, so the web server launches them and has no right to", f"name {QUEUED}"
    if "run_launcher" not in dagster:
        yield "no run_launcher, so runs work in the daemon's own pod", "name K8sRunLauncher or one made of it"
    if not (dagster.get("run_monitoring") or {}).get("enabled"):
        yield "no run_monitoring, so a run whose pod died counts as at work for ever", "say enabled: true"
    if "storage" not in dagster:
        yield "no storage, so each pod has runs of its own, which end with it", "name a Postgres as storage"


QUEUED = "QueuedRunCoordinator"
"""Dagster's own, where none is named."""


class Address(NamedTuple):
    """Where a component or a server listens."""

    target: str
    host: str
    port: int


def ports(settings: Settings) -> Iterator[Finding]:
    """Every component and server to which this one connects can be reached."""
    role = os.environ[ROLE]
    known = list(_addresses(settings))
    for target in sorted({flow.target for flow in FLOWS if flow.source == role}):
        of_target = [address for address in known if address.target == target]
        if target in _NOBODY:
            yield Finding(None, f"{target} listens only while it works")
        if target == "dns":
            yield _resolve(_SERVICE)
        yield from storage.run_in_parallel(_reach, of_target)


def _addresses(settings: Settings) -> Iterator[Address]:
    """Where everything that is known here listens."""
    dagster, feast = settings.dagster_home / "dagster.yaml", settings.feature_repo / "feature_store.yaml"
    for place in read_yaml(WORKSPACE).get("load_from", ()):
        if server := place.get("grpc_server"):
            yield Address("code", str(server["host"]), int(server["port"]))
    if (url := postgres_url(read_yaml(dagster))) and url.host:
        yield Address("postgres", url.host, url.port or 5432)
    if storage.in_bucket(settings.lake) or storage.in_bucket(settings.landing):
        server = urlsplit(storage.endpoint())
        yield Address("s3", server.hostname or "", server.port or (80 if server.scheme == "http" else 443))
    yield from (Address("redis", node["host"], node["port"]) for node in redis_nodes(read_yaml(feast)))
    yield from brokers(source.brokers for source in sources_of_topics())
    if host := os.environ.get("KUBERNETES_SERVICE_HOST"):
        yield Address("kubernetes", host, int(os.environ.get("KUBERNETES_SERVICE_PORT", "443")))


def brokers(told: Iterable[str]) -> Iterator[Address]:
    """The brokers in lists such as `one:9092,SSL://two:9093`, each once. Pure."""
    named = [broker.strip().rpartition("://")[2] for brokers in told for broker in brokers.split(",")]
    for broker in dict.fromkeys(named):
        host, _, port = broker.rpartition(":") if re.search(r":\d+$", broker) else (broker, "", "9092")
        yield Address("kafka", host.strip("[]"), int(port))


def _resolve(host: str) -> Finding:
    """Whether names of the cluster can be looked up."""
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        return Finding(False, f"dns does not know {host}: {error.strerror}", "let this pod ask DNS (port 53)")
    return Finding(True, f"dns knows {host}")


def _reach(address: Address) -> Finding:
    """Whether something listens at an address."""
    where = f"{address.target} at {address.host}:{address.port}"
    try:
        socket.create_connection((address.host, address.port), _SECONDS).close()
    except socket.gaierror:
        return Finding(False, f"{where}: no such host", "correct its name, or let this pod ask DNS (port 53)")
    except TimeoutError:
        return Finding(
            False,
            f"{where}: nothing within {_SECONDS:g} s",
            "let NetworkPolicies and firewalls let this pod there",
        )
    except OSError as error:
        remedy = "see that it runs and listens there, and that a NetworkPolicy lets this pod reach it"
        return Finding(False, f"{where}: {error.strerror}", remedy)
    return Finding(True, f"{where} can be reached")


CHECKS: Checks = {
    "Dagster's settings": dagster_settings,
    "ports": ports,
    "rights": rights,
    "API server": api_server,
    "quotas": quotas,
}
