"""Spark on this machine with the settings of this installation: Java, jars, memory, caches.

`python -m medallion_platform.runtime` downloads missing jars, and prints the paths of all jars.
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

from medallion_platform import storage, trust
from medallion_platform.errors import MedallionError
from medallion_platform.spark.jars import DELTA, KAFKA, S3, Jar, jars, log_store
from medallion_platform.spark.java import java

if TYPE_CHECKING:
    from medallion_platform.spark.provider import LocalSpark


def local_spark(
    lake: Path | str = "", *, topics: bool = False, memory: str = "", cores: int | None = None
) -> LocalSpark:
    """Spark for tables in `lake`. topics: whether it reads any. memory, cores: else as the settings say.

    Raises:
        JarsUnavailable: a jar is not here and cannot be fetched.
        JavaMissing: the settings name a Java that Spark does not run on.
    """
    from medallion_platform.settings import Settings
    from medallion_platform.spark.provider import LocalSpark

    settings = Settings()
    found = jars_of(lake, topics=topics)
    runtime = java(settings.java_home)
    return LocalSpark(
        jars=found[: len(DELTA)],
        further_jars=found[len(DELTA) :],
        settings=storage.spark_settings(lake),
        java=runtime,
        memory=memory or settings.spark_memory,
        cores=cores or settings.spark_cores,
        options=_trust(settings.cache) if runtime.ours else (),
        kept=settings.cache / "java",
    )


@cache
def jars_of(lake: Path | str, *, topics: bool = False) -> list[Path]:
    """Paths of the jars that Spark needs for tables in `lake`, Delta's first, the log store last on S3.

    They are checked once in a process: a worker asks for its session at every refresh. topics: whether
    it reads any.

    Raises:
        JarsUnavailable: a jar is not here and cannot be fetched.
    """
    further = KAFKA if topics else ()
    if not storage.in_bucket(lake):
        return jars_here((*DELTA, *further))
    from medallion_platform.settings import Settings

    found = jars_here((*DELTA, *S3, *further))
    return [*found, log_store(found, java(Settings().java_home).program)]


def jars_here(wanted: Sequence[Jar]) -> list[Path]:
    """Paths of jars in this installation's cache, fetched as its settings say where they are missing.

    Raises:
        JarsUnavailable: one of them cannot be fetched or kept.
    """
    from medallion_platform.settings import Settings

    settings = Settings()
    return jars(wanted, settings.cache, settings.maven.get_secret_value())


def _trust(cache: Path) -> tuple[str, ...]:
    """What makes Java trust whom this machine trusts."""
    try:
        found = trust.truststore(cache / "java")
    except OSError:  # as in a read-only image whose certificates were changed since
        found = trust.truststore(_of_this_process())
    if found is None:
        return ()
    return (f"-Djavax.net.ssl.trustStore={found}", "-Djavax.net.ssl.trustStoreType=PKCS12")


@cache
def _of_this_process() -> Path:
    """A folder that nobody else writes to."""
    folder = tempfile.mkdtemp(prefix="medallion-java-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def record_in_background(spark: LocalSpark) -> None:
    """Have a process of its own make what later starts are quicker by, where that is not there yet."""
    code = spark.aot_cache
    if code and code.is_wanted():
        quiet = subprocess.DEVNULL
        command = [sys.executable, "-m", "medallion_platform.recording"]
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
    from medallion_platform.settings import Settings, WrongSetting

    try:
        settings = Settings()
        by_spark = bool(settings.kafka) and settings.kafka_engine == "spark"
        java(settings.java_home)
        print(*jars_of(settings.lake, topics=by_spark), sep="\n")
    except WrongSetting as error:
        print(*(f"medallion: {line}" for line in str(error).splitlines()), sep="\n", file=sys.stderr)
        sys.exit(2)
    except MedallionError as error:
        sys.exit(f"medallion: {error}")


if __name__ == "__main__":
    main()
