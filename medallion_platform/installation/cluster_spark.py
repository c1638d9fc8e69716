"""Which Spark a process uses: threads of its own, or executors in pods where it was started with some.

Whoever starts the pod of a run says so by variables: `MEDALLION_RUN_EXECUTORS`, the most that it may have
(0 or none: threads); `MEDALLION_RUN_EXECUTOR_CORES` and `MEDALLION_RUN_EXECUTOR_MEMORY` (bytes), those of
each one; `MEDALLION_RUN_IMAGE`, that of the pod itself; and what Kubernetes fills in: its `MEDALLION_RUN_POD`
(name), `MEDALLION_RUN_NAMESPACE` and `MEDALLION_RUN_ADDRESS` (IP).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medallion_platform.installation.local_spark import local_spark, record_in_background

if TYPE_CHECKING:
    from medallion_platform.spark.kubernetes import DriverPod, Executors
    from medallion_platform.spark.provider import SparkProvider

TEMPLATE = Path("/etc/medallion/executor.yaml")
"""The pod that executors are made from, where the chart mounts it."""
SECRETS = Path("/run/secrets/spark")
"""The files by which driver and executors trust each other, where the chart mounts them in both."""

RUN_EXECUTORS = "MEDALLION_RUN_EXECUTORS"
"""The variable that tells a run's pod how many executors it may have; whatever else has a run has none."""


def spark_of_process(
    lake: Path | str = "", *, topics: bool = False, memory: str = "", cores: int | None = None
) -> SparkProvider:
    """Spark for tables in `lake`, where the tasks of this process run.

    topics: whether it also reads topics. memory, cores: of this process, by default those of the settings.

    Raises:
        JarsUnavailable: a jar is not here and cannot be fetched.
        JavaMissing: the settings name a Java that Spark does not run on.
        WrongSetting: what the pod was started with, or what is mounted in it, is incomplete.
    """
    local = local_spark(lake, topics=topics, memory=memory, cores=cores)
    if (os.environ.get(RUN_EXECUTORS) or "0") == "0":
        record_in_background(local)
        return local
    from medallion_platform.spark.kubernetes import KubernetesSpark

    pod, executors = executors_asked_for(os.environ)
    _refuse_missing_files()
    return KubernetesSpark(local, pod, executors, SECRETS)


def executors_asked_for(variables: Mapping[str, str]) -> tuple[DriverPod, Executors]:
    """The pod of this process, and the executors that it was started with.

    Raises:
        WrongSetting: a variable is missing, or a number is none.
    """
    from medallion_platform.spark.kubernetes import DriverPod, Executors

    pod = DriverPod(
        name=_text(variables, "MEDALLION_RUN_POD"),
        namespace=_text(variables, "MEDALLION_RUN_NAMESPACE"),
        address=_text(variables, "MEDALLION_RUN_ADDRESS"),
        image=_text(variables, "MEDALLION_RUN_IMAGE"),
        api=_api_server(variables),
    )
    executors = Executors(
        most=_number(variables, RUN_EXECUTORS),
        cores=_number(variables, "MEDALLION_RUN_EXECUTOR_CORES"),
        memory=_number(variables, "MEDALLION_RUN_EXECUTOR_MEMORY"),
        template=TEMPLATE,
    )
    return pod, executors


def _refuse_missing_files() -> None:
    """Refuse to let executors in without the files by which they are known."""
    from medallion_platform.installation.settings import WrongSetting
    from medallion_platform.spark.kubernetes import CERTIFICATE, KEY, SECRET

    for file in (TEMPLATE, *(SECRETS / name for name in (SECRET, KEY, CERTIFICATE))):
        if not file.is_file():
            raise WrongSetting(
                f"{file} is not there, and this process was started with executors ({RUN_EXECUTORS})",
                remedy="name the Secret of secret, tls.key and tls.crt in the chart's secrets.spark",
            )


def _api_server(variables: Mapping[str, str]) -> str:
    """Its URL, from what Kubernetes tells each container."""
    host = _text(variables, "KUBERNETES_SERVICE_HOST")
    return f"https://{f'[{host}]' if ':' in host else host}:{_text(variables, 'KUBERNETES_SERVICE_PORT')}"


def _text(variables: Mapping[str, str], name: str) -> str:
    from medallion_platform.installation.settings import WrongSetting

    if found := variables.get(name):
        return found
    raise WrongSetting(f"{name} is not set, and this process was started with executors ({RUN_EXECUTORS})")


def _number(variables: Mapping[str, str], name: str) -> int:
    from medallion_platform.installation.settings import WrongSetting

    found = _text(variables, name)
    if found.isascii() and found.isdigit() and int(found) > 0:
        return int(found)
    raise WrongSetting(f"{name} has to be a whole number, 1 or more")
