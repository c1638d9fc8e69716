"""Spark on this machine with the settings of this installation: Java, jars, memory, caches.

`python -m medallion_platform.installation.local_spark` downloads missing jars, and prints the paths of all
jars.
"""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from medallion_platform import certificates, storage
from medallion_platform.errors import MedallionError
from medallion_platform.spark.jars import DELTA, KAFKA, S3, Jar, compile_log_store, fetch_jars
from medallion_platform.spark.java import find_java

if TYPE_CHECKING:
    from medallion_platform.spark.provider import LocalSpark


def local_spark(
    lake: Path | str = "", *, topics: bool = False, memory: str = "", cores: int | None = None
) -> LocalSpark:
    """Spark for tables in `lake`.

    topics: whether it also reads topics. memory, cores: by default those of the settings.

    Raises:
        JarsUnavailable: a jar is not here and cannot be fetched.
        JavaMissing: the settings name a Java that Spark does not run on.
    """
    from medallion_platform.installation.settings import Settings
    from medallion_platform.spark.provider import LocalSpark

    settings = Settings()
    found = jars_of(lake, topics=topics)
    runtime = find_java(settings.java_home)
    return LocalSpark(
        jars=found[: len(DELTA)],
        further_jars=found[len(DELTA) :],
        settings=storage.spark_settings(lake),
        java=runtime,
        memory=memory or settings.spark_memory,
        cores=cores or settings.spark_cores,
        options=_truststore_options(settings.cache) if runtime.ours else (),
        kept=settings.cache / "java",
    )


@cache
def jars_of(lake: Path | str, *, topics: bool = False) -> list[Path]:
    """Paths of the jars that Spark needs for tables in `lake`, Delta's first, the log store last on S3.

    They are checked once in a process, because a worker asks for its session at every refresh. topics:
    whether Spark also reads topics.

    Raises:
        JarsUnavailable: a jar is not here and cannot be fetched.
    """
    found = jars_here(wanted_jars(lake, topics=topics))
    if not storage.in_bucket(lake):
        return found
    from medallion_platform.installation.settings import Settings

    return [*found, compile_log_store(found, find_java(Settings().java_home).program)]


def wanted_jars(lake: Path | str, *, topics: bool = False) -> tuple[Jar, ...]:
    """The jars of a Maven repository that Spark needs for tables in `lake`, and to read topics."""
    return (*DELTA, *(S3 if storage.in_bucket(lake) else ()), *(KAFKA if topics else ()))


def jars_here(wanted: Sequence[Jar]) -> list[Path]:
    """Paths of jars in this installation's cache; missing ones are fetched from the configured repository.

    Raises:
        JarsUnavailable: one of them cannot be fetched or stored.
    """
    from medallion_platform.installation.settings import Settings

    settings = Settings()
    return fetch_jars(wanted, settings.cache, settings.maven.get_secret_value())


def _truststore_options(cache: Path) -> tuple[str, ...]:
    """The options with which Java trusts the certificates of this machine."""
    try:
        found = certificates.java_truststore(cache / "java")
    except OSError:  # as in a read-only image whose certificates were changed since
        found = certificates.java_truststore(_process_folder())
    if found is None:
        return ()
    return (f"-Djavax.net.ssl.trustStore={found}", "-Djavax.net.ssl.trustStoreType=PKCS12")


@cache
def _process_folder() -> Path:
    """A temporary folder of this process."""
    folder = tempfile.mkdtemp(prefix="medallion-java-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def record_in_background(spark: LocalSpark) -> None:
    """Record the cache for faster starts in a process of its own, if there is none yet."""
    code = spark.aot_cache
    if code and code.is_wanted():
        quiet = subprocess.DEVNULL
        command = [sys.executable, "-m", "medallion_platform.installation.recording"]
        # It outlives this process, and is nobody's child then.
        _children.append(
            subprocess.Popen(  # noqa: S603
                command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
            )
        )


_children: list[subprocess.Popen[bytes]] = []
"""Kept, so that Python has nothing to say about them."""


def main() -> None:
    """Fetch the jars that are missing and print the paths of all."""
    from medallion_platform.installation.settings import Settings, WrongSetting

    try:
        settings = Settings()
        by_spark = bool(settings.kafka) and settings.kafka_engine == "spark"
        find_java(settings.java_home)
        print(*jars_of(settings.lake, topics=by_spark), sep="\n")
    except WrongSetting as error:
        print(*(f"medallion: {line}" for line in str(error).splitlines()), sep="\n", file=sys.stderr)
        sys.exit(2)
    except MedallionError as error:
        sys.exit(f"medallion: {error}")


if __name__ == "__main__":
    main()
