"""Spark on this machine as this installation's settings say: Java, jars, memory, and what is kept for it."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from medallion_platform import java, storage
from medallion_platform.jars import DELTA, jars_of

if TYPE_CHECKING:
    from medallion_platform.lakehouse.provider import LocalSpark


def local_spark(
    lake: Path | str = "", *, topics: bool = False, memory: str = "", cores: int | None = None
) -> LocalSpark:
    """Spark for tables in `lake`. topics: whether it reads any. memory, cores: else as the settings say.

    Raises:
        JarsUnavailable: a jar is not here and cannot be fetched.
        JavaMissing: the settings name a Java that Spark does not run on.
    """
    from medallion_platform.lakehouse.provider import LocalSpark
    from medallion_platform.settings import Settings

    settings = Settings()
    found = jars_of(lake, topics=topics)
    runtime = java.java(settings.java_home)
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


def _trust(cache: Path) -> tuple[str, ...]:
    """What makes Java trust whom this machine trusts."""
    try:
        found = java.truststore(cache / "java")
    except OSError:  # as in a read-only image whose certificates were changed since
        found = java.truststore(_of_this_process())
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
