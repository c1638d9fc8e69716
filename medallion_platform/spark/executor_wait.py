"""How long Spark waits for executors, and what is told when they do not come.

Spark itself waits for ever where pods find no node, and asks again each second where the API server refuses
to make them.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any, TypeVar

from medallion_platform.errors import Kind, MedallionError

T = TypeVar("T")

Pod = Mapping[str, Any]
"""A pod as the API server describes it (Pod of core/v1)."""

PATIENCE = 300.0
"""Seconds in which an executor has to come: other runs end meanwhile, or the cluster gets another node."""
LOOK = 0.1
"""Seconds between two looks for the first executor."""
_LOOK_AT_WORK = 1.0
"""Those between two looks while Spark works: each asks the JVM."""
_TELL = 30.0
"""Those between two messages about the wait."""
_LOG = logging.getLogger(__name__)


class NoExecutors(MedallionError):
    """A run waited in vain for executors; the text says why none came, in the words of the cluster.

    It does not go on without them: it got them because its tables are too large for its own pod.
    """

    kind = Kind.RESOURCE
    remedy = (
        "make room for them (quota, nodes), or let runs ask for less (MEDALLION_MOST_EXECUTORS, "
        "MEDALLION_MOST_MEMORY), and run it again"
    )


@dataclass
class Wait:
    """A wait for executors, which is told now and then, and ends after `patience` seconds."""

    patience: float
    began: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    def over(self, why: Callable[[], str]) -> str:
        """What to tell at the end of the wait, "" before. why: says why no executor came."""
        now = time.monotonic()
        if now - self.began > self.patience:
            return f"no executor came within {self.patience:.0f} seconds: {why()}"
        if now - self.told > _TELL:
            self.told = now
            _LOG.warning("no executor since %.0f seconds: %s", now - self.began, why())
        return ""


def wait_for_executor(context: Any, patience: float) -> None:
    """Wait for the first executor of a `SparkContext` of the JVM.

    Raises:
        NoExecutors: none came within `patience` seconds.
    """
    wait = Wait(patience)
    while not has_executor(context):
        if told := wait.over(lambda: _why_none(context)):
            raise _no_executors(context, told)
        time.sleep(LOOK)


def with_executors(work: Callable[[], T], patience: float = PATIENCE) -> T:
    """The result of `work`. A session that it uses is ended where its jobs wait for executors in vain.

    Raises:
        NoExecutors: all of them were lost, and none came within `patience` seconds.
    """
    lost, done = list[NoExecutors](), Event()
    watch = Thread(target=_watch, args=(patience, lost, done), daemon=True)
    watch.start()
    try:
        return work()
    except Exception as error:
        if lost:
            raise lost[0] from error
        raise
    finally:
        done.set()
        watch.join()


def has_executor(context: Any) -> bool:
    """Whether a `SparkContext` of the JVM has an executor."""
    return bool(context.getExecutorIds().nonEmpty())


def _watch(patience: float, lost: list[NoExecutors], done: Event) -> None:
    """Until `done`: end the session whose jobs wait for executors, and put the reason into `lost` before."""
    wait: Wait | None = None
    while not done.wait(_LOOK_AT_WORK):
        python = _context_of_process()
        if python is None or not _waits(python):
            wait = None
            continue
        wait = wait or Wait(patience)
        context = python._jsc.sc()
        if told := wait.over(lambda of=context: _why_none(of)):
            lost.append(_no_executors(context, told))
            python.stop()
            return


def _context_of_process() -> Any:
    """The SparkContext of this process, None without one."""
    if "pyspark" not in sys.modules:  # who has no JVM does not load it to ask
        return None
    from pyspark import SparkContext

    return SparkContext._active_spark_context


def _waits(context: Any) -> bool:
    """Whether jobs are at work without any executor; not in a JVM that is just being ended."""
    from py4j.protocol import Py4JError

    try:
        jobs = len(context.statusTracker().getActiveJobsIds())
        return bool(jobs) and not has_executor(context._jsc.sc())
    except (AttributeError, OSError, Py4JError):
        return False


def _no_executors(context: Any, told: str) -> NoExecutors:
    settings = context.conf()
    run = settings.get("spark.kubernetes.driver.pod.name")
    namespace = settings.get("spark.kubernetes.namespace")
    return NoExecutors(f"{run} in {namespace}: {told}. The pods it had asked for are withdrawn")


def _why_none(context: Any) -> str:
    from py4j.protocol import Py4JJavaError

    from medallion_platform.spark.driver import last_output

    try:
        pods = _pods(context)
    except Py4JJavaError:  # of the client; Spark itself had the same answer for minutes
        api = context.conf().get("spark.master").removeprefix("k8s://")
        return f"the API server ({api}) does not answer, or gives this pod no right to list pods"
    return why_no_executor(pods, last_output())


def _pods(context: Any) -> list[Pod]:
    """The executors' pods, asked for as Spark does it, by the same client."""
    from pyspark import SparkContext

    jvm: Any = SparkContext._jvm
    settings, clients = context.conf(), jvm.io.fabric8.kubernetes.client
    api = settings.get("spark.master").removeprefix("k8s://")
    client = (
        clients.KubernetesClientBuilder()
        .withConfig(clients.ConfigBuilder().withMasterUrl(api).build())
        .build()
    )
    try:
        pods = client.pods().inNamespace(settings.get("spark.kubernetes.namespace"))
        mine = pods.withLabel("spark-app-selector", context.applicationId())
        return json.loads(clients.utils.Serialization.asJson(mine.list())).get("items", [])
    finally:
        client.close()


def why_no_executor(pods: Sequence[Pod], output: str) -> str:
    """Why no executor came, in the words of the cluster.

    pods: those that exist. output: what Spark printed; it says why the API server refused to make a pod.
    """
    for pod in pods:
        if why := _what_keeps_it(pod):
            return f"{pod['metadata']['name']} {why}"
    if pods:
        begins = pods[0]["status"].get("phase") == "Pending"
        state = "is still being started" if begins else "runs, but does not reach its driver"
        return f"{pods[0]['metadata']['name']} {state}"
    refused: list[str] = re.findall(r"\bMessage: (.*?)(?:\. Received status:|$)", output, re.MULTILINE)
    return f"the cluster refuses their pods: {refused[-1]}" if refused else "the cluster has no pod of theirs"


def _what_keeps_it(pod: Pod) -> str:
    """What keeps a pod from running, "" if nothing is known to."""
    status: Pod = pod["status"]
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"has no node: {condition.get('message') or condition.get('reason')}"
    for container in status.get("containerStatuses", ()):
        state: Pod = container.get("state", {})
        if message := state.get("waiting", {}).get("message"):
            return f"waits: {message}"
        if ended := state.get("terminated"):
            return f"ended with exit code {ended['exitCode']}"
    return ""
