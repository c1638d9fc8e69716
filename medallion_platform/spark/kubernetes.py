"""Spark with executors in pods of a Kubernetes cluster; the pod of this process is their driver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import SparkSession

from medallion_platform.spark.driver import LOGGING, LONG_METHODS, Driver, JavaObject, end_spark
from medallion_platform.spark.executor_wait import PATIENCE, NoExecutors, wait_for_executor

DRIVER_PORT = 7078
"""Where executors register and ask for tasks."""
BLOCK_PORT = 7079
"""Where driver and executors exchange blocks of data, each under its own address."""
SECRET, KEY, CERTIFICATE = "secret", "tls.key", "tls.crt"
"""The files by which driver and executors trust each other, in one folder that each of their pods mounts."""

CONTAINER = "executor"
"""The container of the template in which Spark runs."""

_FEWEST = 2
_MIB = 1 << 20
JAVA_SHARE = 0.8
"""Of an executor's memory; the rest is for what Java has beside its heap, and for Python."""
_GRACE = "60s"
"""For an executor of a node that is drained, to hand over what it holds."""
_TRIES = 60
"""How often in a minute Spark asks for a pod that the API server refuses: once a second."""


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
    patience: float = PATIENCE
    """Seconds in which an executor has to come."""

    def start(self, *, quick: bool = True) -> SparkSession:
        """The one Spark session of this process; its executors are asked for, and may come later.

        Raises:
            SparkDidNotStart: the JVM ended before it was ready.
        """
        settings = executor_settings(self.pod, self.executors, self.secrets)
        return self.driver.start(settings, self.executors.most * self.executors.cores, quick)

    def session(self, *, quick: bool = True) -> SparkSession:
        """The one Spark session of this process, with at least one executor; the others come while it works.

        Raises:
            SparkDidNotStart: the JVM ended before it was ready.
            NoExecutors: no executor came; the text says why.
        """
        session = self.start(quick=quick)
        python: JavaObject = session.sparkContext
        try:
            wait_for_executor(python._jsc.sc(), self.patience)
        except NoExecutors:
            end_spark()  # nobody else deletes the pods that still wait
            raise
        return session


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
        # Whose exit code counts: only by it does Spark, and do we, see that an executor was out of memory.
        "spark.kubernetes.executor.podTemplateContainerName": CONTAINER,
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
        # All are asked for at once, and at the start. What the API server refuses is asked for again once a
        # second, and each refusal counts as a failure, after too many of which Spark ends: a full quota would
        # end a run that has executors. So many within a minute are more than refusals alone can be.
        "spark.kubernetes.allocation.batch.size": str(executors.most),
        "spark.kubernetes.allocation.batch.delay": "1s",
        "spark.executor.maxNumFailures": str((_TRIES + 2) * executors.most),
        "spark.executor.failuresValidityInterval": "1m",
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
