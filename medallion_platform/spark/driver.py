"""The JVM of this process, in which Spark's driver runs: how it is started, connected to and ended."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread
from typing import IO, Any

import pyspark
from pyspark import SparkContext
from pyspark.java_gateway import launch_gateway
from pyspark.serializers import UTF8Deserializer, read_int
from pyspark.sql import SparkSession

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.spark.aot_cache import AotCache
from medallion_platform.spark.java import Java, find_java

_LOG = logging.getLogger(__name__)
_CHATTER = (
    "Using incubator modules",
    "Using Spark's default log4j profile",
    "Setting default log level to",
    "To adjust logging level use",
)
_REPEATED = "ExecutorPodsAllocator: Failed to create executor pod"
"""Printed each second while the API server refuses pods."""
_REPEAT_AFTER = 60.0
"""Seconds after which it is passed on again."""
_starting = Lock()
_SPARK = Path(pyspark.__file__).parent
# Short runs spend half of their time compiling: the first compiler alone starts twice as fast.
# A run over many rows wants both; `medallion bench` measures with both.
# With it alone Java has room for a fifth of the compiled code, and stops to compile once that is full.
_QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:ReservedCodeCacheSize=240m")
# A contract of some thirty columns becomes a method that Java would only ever interpret for its length.
LONG_METHODS = "-XX:-DontCompileHugeMethods"
LOGGING = f"-Dlog4j2.configurationFile={Path(__file__).with_name('log4j2.properties').as_uri()}"
_PACKAGES = (
    *("java.lang", "java.lang.invoke", "java.lang.reflect", "java.io", "java.net", "java.nio", "java.util"),
    *("java.util.concurrent", "java.util.concurrent.atomic", "jdk.internal.ref", "sun.nio.ch", "sun.nio.cs"),
    "sun.util.calendar",
)
# What Spark reaches into ("JavaModuleOptions" of its launcher).
_OPENED = (
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _PACKAGES),
    "--add-opens=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    "-Dio.netty.tryReflectionSetAccessible=true",
    "-Dio.netty.allocator.type=pooled",
    "-Dio.netty.handler.ssl.defaultEndpointVerificationAlgorithm=NONE",
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
)

_SETTINGS = {
    "spark.app.name": "medallion",
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    # Every reader of the table can read microseconds; nanosecond int96 only some.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # Spark writes a checksum of each page anyway; a bit that turned over must not become a row.
    "spark.hadoop.parquet.page.verify-checksum.enabled": "true",
    # Split into table and dead letters, and into partitions, without sorting the rows first.
    "spark.sql.maxConcurrentOutputFileWriters": "100",
    "spark.databricks.delta.snapshotPartitions": "2",
    # The log names the files: looking them up is no job for executors.
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "10000",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.ansi.enabled": "true",
    # Messages on their way to Python: many small ones at once, but never many large ones.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "20000",
    "spark.sql.execution.arrow.maxBytesPerBatch": "32m",
    # Finding out which line of Python made a column doubles the time of making one.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    "spark.sql.dataFrameQueryContext.enabled": "false",
    # Plans are read for column lineage, and whole.
    "spark.sql.debug.maxToStringFields": "10000",
    # A refresh has about a hundred generated classes. Of Spark's 100 none would be left when the next
    # one asks, and all were compiled again, by Janino and by the JVM: a third of its CPU time.
    "spark.sql.codegen.cache.maxEntries": "1000",
}
"""What a session is given wherever its tasks run."""

JavaObject = Any
"""An object of the JVM: py4j gives it no type."""


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The JVM of Spark's driver: one in this process, and one session in it, Delta and UTC."""

    jars: Sequence[Path]
    """Delta's, beside those of Spark itself."""
    further_jars: Sequence[Path] = ()
    """Those of storage and topics."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of the storage that tables lie on."""
    java: Java = field(default_factory=find_java)
    memory: str = "1g"
    """The most that the JVM takes for rows, as Java writes it."""
    options: Sequence[str] = ()
    """Options of the JVM beside those that Spark needs."""
    kept: Path | None = None
    """The folder of `AotCache`; without one, each start loads all code anew."""

    def start(self, where: Mapping[str, str], cores: int, quick: bool) -> SparkSession:
        """The one Spark session of this process, started unless it is there.

        where: the settings that say where tasks run. cores: how many of them run at once. quick: optimize
        for a short run.

        Raises:
            SparkDidNotStart: the JVM ended before it was ready.
        """
        settings = {
            **where,
            **_SETTINGS,
            "spark.sql.shuffle.partitions": str(cores),
            "spark.sql.adaptive.coalescePartitions.initialPartitionNum": str(cores),
            "spark.driver.memory": self.memory,
            **self.settings,
        }
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        with _starting:
            if SparkContext._gateway is None:
                began = time.monotonic()
                jvm = _start_jvm(self._command(settings, quick))
                SparkContext._ensure_initialized(gateway=_connect_to_jvm(jvm))
                self._say_started(time.monotonic() - began, cores, quick)
            found = SparkSession.builder.config(map=dict[str, Any](settings)).getOrCreate()
        # Another thread may have started it: without this, plans are printed by Spark's own defaults.
        jvm: JavaObject = SparkContext._jvm
        sessions: JavaObject = SparkSession._get_j_spark_session_class(jvm)
        sessions.setActiveSession(found._jsparkSession)
        return found

    def _say_started(self, seconds: float, cores: int, quick: bool) -> None:
        fields = {"java": self.java.version, "memory": self.memory, "cores": cores, "quick": quick}
        _LOG.info("Java %s started", self.java.version, extra={**fields, "seconds": round(seconds, 3)})

    @property
    def aot_cache(self) -> AotCache | None:
        """The cache that makes starts faster; it fits every storage, whose jars come last."""
        class_path = [*sorted((_SPARK / "jars").glob("*.jar")), *self.jars]
        return AotCache(self.kept, self.java, class_path) if self.kept else None

    def _command(self, settings: Mapping[str, str], quick: bool) -> list[str]:
        """The command line that Spark's own launcher would make, without starting a JVM for it.

        The launcher requires a module that a small Java may lack and that Spark does not need.
        """
        # On the class path, and always in this order: the cache is bound to it.
        class_path = [*sorted((_SPARK / "jars").glob("*.jar")), *self.jars, *self.further_jars]
        started = self.aot_cache.options(quick=quick) if self.aot_cache else []
        return [
            *(self.java.program, "-cp", os.pathsep.join(map(str, class_path)), f"-Xmx{self.memory}"),
            *("-XX:+IgnoreUnrecognizedVMOptions", *_OPENED),
            *(("--add-modules=jdk.incubator.vector",) if self.java.has_vectors else ()),
            *(LONG_METHODS, *(_QUICK if quick else ()), *started, *self.options),
            *(LOGGING, "org.apache.spark.deploy.SparkSubmit"),
            *(part for name, value in settings.items() for part in ("--conf", f"{name}={value}")),
            "pyspark-shell",
        ]


class SparkDidNotStart(MedallionError):
    """The JVM ended before it was ready; the text has its last line of output."""

    kind = Kind.RESOURCE


@dataclass
class _Jvm:
    """A JVM that waits for commands; it ends when its input closes, so at the latest with this process."""

    process: subprocess.Popen[bytes]
    port: int
    secret: str
    output: list[str]
    """Its last lines."""


_running: list[_Jvm] = []


def end_spark() -> None:
    """End the session and the JVM of this process, and wait until it is gone."""
    with _starting:
        if session := SparkSession.getActiveSession():
            session.stop()
        if gateway := SparkContext._gateway:
            gateway.shutdown()
        while _running:
            process = _running.pop().process
            assert process.stdin
            process.stdin.close()
            process.wait()
        SparkContext._gateway = SparkContext._jvm = None


def last_output() -> str:
    """The last lines that the JVM of this process printed."""
    return "".join(line for jvm in _running for line in jvm.output)


def _start_jvm(command: list[str]) -> _Jvm:
    """Start the JVM; only output that helps a person is passed on."""
    with tempfile.TemporaryDirectory(prefix="medallion-jvm-") as folder:
        connection_file = Path(folder) / "gateway"
        environment = {
            **os.environ,
            "SPARK_HOME": str(_SPARK),
            "SPARK_CONNECT_MODE": "0",
            "PYTHONHASHSEED": "0",  # of Python workers: all must hash alike
            "_PYSPARK_DRIVER_CONN_INFO_PATH": str(connection_file),
        }
        process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            preexec_fn=_leave_interrupts_to_us,
        )
        assert process.stderr
        last_words: list[str] = []
        reader = Thread(target=_forward_output, args=(process.stderr, last_words), daemon=True)
        reader.start()
        while not connection_file.exists():
            if process.poll() is not None:
                reader.join(5)  # what it said last tells why
                last_line = last_words[-1].strip() if last_words else f"exit code {process.returncode}"
                raise SparkDidNotStart(f"Java ended before Spark was ready: {last_line}")
            time.sleep(0.02)
        with connection_file.open("rb") as info:
            jvm = _Jvm(process, read_int(info), str(UTF8Deserializer().loads(info)), last_words)
    _running.append(jvm)
    return jvm


def _leave_interrupts_to_us() -> None:
    """Ignore Ctrl-C in the JVM (a terminal sends it to every process), because this process ends the JVM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _connect_to_jvm(jvm: _Jvm) -> JavaObject:
    """Connect to the JVM; pyspark finds a running JVM by two environment variables."""
    gateway = {"PYSPARK_GATEWAY_PORT": str(jvm.port), "PYSPARK_GATEWAY_SECRET": jvm.secret}
    os.environ.update(gateway)
    try:
        return launch_gateway()
    finally:
        for name in gateway:
            del os.environ[name]


def _forward_output(stream: IO[bytes], last_words: list[str]) -> None:
    passed_on = -_REPEAT_AFTER
    with stream:
        for line in stream:
            text = line.decode(errors="replace")
            last_words[:] = [*last_words[-20:], text]
            if _REPEATED in text:
                if time.monotonic() - passed_on < _REPEAT_AFTER:
                    continue
                passed_on = time.monotonic()
            if not any(known in text for known in _CHATTER):
                sys.stderr.write(text)
