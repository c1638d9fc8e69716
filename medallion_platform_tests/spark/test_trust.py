"""Whom a driver lets in: Spark's own RPC between two JVMs, with the settings of a driver and of executors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyspark
import pytest
from py4j import java_gateway, protocol
from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway
from py4j.protocol import Py4JJavaError

from medallion_platform.spark.driver import _OPENED
from medallion_platform.spark.java import find_java
from medallion_platform.spark.kubernetes import executor_settings
from medallion_platform_tests.command import REPOSITORY
from medallion_platform_tests.spark.secrets import made_by_the_chart, make_secrets
from medallion_platform_tests.spark.test_kubernetes import EXECUTORS, POD

OPTIONS = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dlog4j2.level=off", *_OPENED]
"""Among the last ones is that names in certificates are not compared; executors are given it by Spark."""
LET_IN = "let in"
PROGRAM = (REPOSITORY / "image" / "executor").read_text()
MASTER = re.findall(r"-Dspark\.master=(\S+)", PROGRAM)[0]
"""Spark takes a secret from a file only where the master is Kubernetes, and tells executors no master."""


@pytest.fixture(autouse=True)
def plain_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors as py4j makes them: once this process has a session, pyspark asks the session's JVM about each
    one, also of another JVM.
    """
    monkeypatch.setattr(java_gateway, "get_return_value", protocol.get_return_value)


@contextmanager
def jvm() -> Iterator[Any]:
    """A JVM with Spark's classes, in which nothing runs yet."""
    jars = sorted(Path(pyspark.__file__).parent.glob("jars/*.jar"))
    port = launch_gateway(
        jarpath=str(next(jar for jar in jars if jar.name.startswith("py4j"))),
        classpath=os.pathsep.join(map(str, jars)),
        javaopts=OPTIONS,
        java_path=find_java().program,
        die_on_exit=True,
    )
    gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port))
    try:
        yield gateway.jvm
    finally:
        gateway.shutdown()


def start_rpc(java: Any, settings: Mapping[str, str], *, client: bool) -> Any:
    """Spark's RPC as `SparkEnv` (a driver) and `KubernetesExecutorBackend` start it (RpcEnv.create)."""
    spark = java.org.apache.spark
    conf = spark.SparkConf(False)
    for name, value in settings.items():
        conf.set(name, value)
    declared = getattr(getattr(spark.internal.config, "package$"), "MODULE$")
    file = declared.AUTH_SECRET_FILE()
    manager = spark.SecurityManager(conf, java.scala.Option.empty(), file)
    return spark.rpc.RpcEnv.create("rpc", "127.0.0.1", "127.0.0.1", 0, conf, manager, 1, client)


def knock(java: Any, port: int, settings: Mapping[str, str]) -> str:
    """What becomes of a client: `LET_IN`, or the error."""
    rpc = start_rpc(java, settings, client=True)
    try:
        rpc.setupEndpointRefByURI(f"spark://endpoint-verifier@127.0.0.1:{port}")
    except Py4JJavaError as error:
        return str(error.java_exception)
    finally:
        rpc.shutdown()
    return LET_IN


@pytest.mark.parametrize("of_the_chart", [False, True])
def test_a_driver_lets_in_who_has_its_certificate_and_its_secret(tmp_path: Path, of_the_chart: bool) -> None:
    folder = tmp_path / "known"
    known = made_by_the_chart(folder) if of_the_chart else make_secrets(folder, "known to both")
    wrong = make_secrets(tmp_path / "wrong", "not known to both")
    for file in ("tls.key", "tls.crt"):
        (wrong / file).write_bytes((known / file).read_bytes())
    other = make_secrets(tmp_path / "other", "known to both")

    def executor(folder: Path, **changed: str) -> dict[str, str]:
        """What Spark hands to an executor (SparkConf.isExecutorStartupConf), and `image/executor` adds."""
        asked = executor_settings(POD, EXECUTORS, folder)
        handed = {n: v for n, v in asked.items() if n.startswith(("spark.auth", "spark.ssl"))}
        more = {name.replace("_", "."): value for name, value in changed.items()}
        return {**handed, "spark.master": MASTER, "spark.rpc.askTimeout": "20s", **more}

    with jvm() as driver, jvm() as outside:
        started = executor_settings(replace(POD, address="127.0.0.1"), EXECUTORS, known)
        port = start_rpc(driver, started, client=False).address().port()
        assert knock(outside, port, executor(known)) == LET_IN
        refused = {
            "wrong secret": executor(wrong),
            "other certificate": executor(other),
            "plain": executor(known, spark_ssl_rpc_enabled="false"),
            "no secret": executor(known, spark_authenticate="false"),
            "neither": executor(known, spark_ssl_rpc_enabled="false", spark_authenticate="false"),
        }
        said = {case: knock(outside, port, settings) for case, settings in refused.items()}
        assert LET_IN not in said.values(), said
        # Nothing that was refused keeps others out.
        assert knock(outside, port, executor(known)) == LET_IN
