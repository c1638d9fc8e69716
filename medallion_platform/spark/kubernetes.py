"""Spark with executors in pods of a Kubernetes cluster; the pod of this process is their driver."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from medallion_platform.spark.driver import (
    LOGGING,
    LONG_METHODS,
    Driver,
    JavaObject,
    SparkDidNotStart,
    end_spark,
    last_output,
)

DRIVER_PORT = 7078
"""Where executors register and ask for tasks."""
BLOCK_PORT = 7079
"""Where driver and executors exchange blocks of data, each under its own address."""
SECRET, KEY, CERTIFICATE = "secret", "tls.key", "tls.crt"
"""The files by which driver and executors trust each other, in one folder that each of their pods mounts."""

_FEWEST = 2
_MIB = 1 << 20
JAVA_SHARE = 0.8
"""Of an executor's memory; the rest is for what Java has beside its heap, and for Python."""
_GRACE = "60s"
"""For an executor of a node that is drained, to hand over what it holds."""
_LOOK = 0.1
"""Seconds between two looks for the first executor."""

Pod = Mapping[str, Any]
"""A pod as the API server describes it (Pod of core/v1)."""


@dataclass(frozen=True)
class DriverPod:
    """The pod of this process. Executors belong to it, in its namespace, and are deleted with it."""

    name: str
    namespace: str
    address: str
    """Its IP, at which executors reach it."""
    image: str
    """Executors run it too: both need the same Java, Python and jars."""
    api: str
    """The URL of the API server, `https://10.96.0.1:443`."""


@dataclass(frozen=True)
class Executors:
    """What a run may have."""

    most: int
    """So many are asked for at once; idle ones are given back, except for the last two."""
    cores: int
    """Of each one."""
    memory: int
    """Bytes of each pod, Java and all else."""
    template: Path
    """The pod that they are made from, a file."""


@dataclass(frozen=True)
class KubernetesSpark:
    """Spark in pods."""

    driver: Driver
    pod: DriverPod
    executors: Executors
    secrets: Path
    """The folder of `SECRET`, `KEY` and `CERTIFICATE`."""
    patience: float = 300
    """Seconds in which an executor has to come."""

    def session(self, *, quick: bool = True) -> SparkSession:
        """The one Spark session of this process, with at least one executor; the others come while it works.

        Raises:
            SparkDidNotStart: the JVM ended before it was ready, or no executor came; the text says why.
        """
        settings = executor_settings(self.pod, self.executors, self.secrets)
        session = self.driver.start(settings, self.executors.most * self.executors.cores, quick)
        python: JavaObject = session.sparkContext
        context = python._jsc.sc()
        until = time.monotonic() + self.patience
        while not context.getExecutorIds().nonEmpty():
            if time.monotonic() > until:
                why = self._why_no_executor(session, context.applicationId())
                end_spark()  # nobody else deletes the pods that still wait
                raise SparkDidNotStart(f"no executor came within {self.patience:.0f} seconds: {why}")
            time.sleep(_LOOK)
        return session

    def _why_no_executor(self, session: SparkSession, application: str) -> str:
        try:
            pods = self._pods(session, application)
        except Py4JJavaError:  # of the client; Spark itself had the same answer for minutes
            return f"the API server ({self.pod.api}) does not answer, or gives this pod no right to list pods"
        return why_no_executor(pods, last_output())

    def _pods(self, session: SparkSession, application: str) -> list[Pod]:
        """The executors' pods, asked for as Spark does it, by the same client."""
        jvm: JavaObject = session._jvm
        clients = jvm.io.fabric8.kubernetes.client
        config = clients.ConfigBuilder().withMasterUrl(self.pod.api).build()
        client = clients.KubernetesClientBuilder().withConfig(config).build()
        try:
            mine = client.pods().inNamespace(self.pod.namespace).withLabel("spark-app-selector", application)
            return json.loads(clients.utils.Serialization.asJson(mine.list()))["items"]
        finally:
            client.close()


def executor_settings(pod: DriverPod, executors: Executors, secrets: Path) -> dict[str, str]:
    """Spark's settings for executors in pods. No secret is among them, only paths of files ("Running Spark on
    Kubernetes" and "Security" of its manual).
    """
    heap = int(executors.memory * JAVA_SHARE) // _MIB
    return {
        "spark.master": f"k8s://{pod.api}",
        "spark.driver.host": pod.address,
        "spark.driver.bindAddress": pod.address,
        # Fixed, because NetworkPolicies name them.
        "spark.driver.port": str(DRIVER_PORT),
        "spark.driver.blockManager.port": str(BLOCK_PORT),
        "spark.blockManager.port": str(BLOCK_PORT),
        "spark.kubernetes.namespace": pod.namespace,
        "spark.kubernetes.driver.pod.name": pod.name,
        "spark.kubernetes.container.image": pod.image,
        "spark.kubernetes.executor.podTemplateFile": str(executors.template),
        # Else it would keep Spark's configuration in a ConfigMap that executors do not need.
        "spark.kubernetes.executor.disableConfigMap": "true",
        "spark.executor.cores": str(executors.cores),
        "spark.kubernetes.executor.limit.cores": str(executors.cores),
        "spark.executor.memory": f"{heap}m",
        "spark.executor.memoryOverhead": f"{executors.memory // _MIB - heap}m",
        "spark.executor.extraJavaOptions": f"{LONG_METHODS} {LOGGING}",
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.minExecutors": str(min(_FEWEST, executors.most)),
        "spark.dynamicAllocation.initialExecutors": str(executors.most),
        "spark.dynamicAllocation.maxExecutors": str(executors.most),
        # The first executor begins; Spark would wait for most of them, or for half a minute.
        "spark.scheduler.minRegisteredResourcesRatio": "0",
        # An hour's losses of a long run on spot nodes are no failure.
        "spark.executor.maxNumFailures": str(max(3, 2 * executors.most)),
        "spark.executor.failuresValidityInterval": "1h",
        # Who has to go hands over its blocks first.
        "spark.decommission.enabled": "true",
        "spark.storage.decommission.enabled": "true",
        "spark.kubernetes.decommission.script": "/usr/local/bin/decommission",
        # What the template says of it would be overwritten with Spark's 30 seconds.
        "spark.kubernetes.executor.terminationGracePeriodSeconds": _GRACE,
        **_trust(secrets),
    }


def _trust(secrets: Path) -> dict[str, str]:
    """TLS with a key of PEM files, which need no password, and a secret that both sides read from a file.

    A password, or a secret that Spark makes itself, would stand in the environment of each executor, readable
    for whoever may list pods.
    """
    return {
        "spark.authenticate": "true",
        "spark.authenticate.secret.file": str(secrets / SECRET),
        "spark.ssl.rpc.enabled": "true",
        "spark.ssl.rpc.openSslEnabled": "true",
        "spark.ssl.rpc.privateKey": str(secrets / KEY),
        # The certificate is also the only one that is trusted.
        "spark.ssl.rpc.certChain": str(secrets / CERTIFICATE),
    }


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
    refused: list[str] = re.findall(r" Message: (.*?)(?:\. Received status:|$)", output, re.MULTILINE)
    return f"the cluster refuses their pods: {refused[-1]}" if refused else "the cluster made no pod for them"


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
