"""Spark on this machine as this installation's settings say: Java, jars, memory, and what is kept for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medallion_platform import java, storage
from medallion_platform.jars import DELTA, JarsUnavailable, jars_of

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
    except OSError as error:
        raise JarsUnavailable(
            f"this machine's certificates cannot be kept for Java in {cache}: {error.strerror or error}; "
            "free some space or name another folder with MEDALLION_CACHE"
        ) from error
    if found is None:
        return ()
    return (f"-Djavax.net.ssl.trustStore={found}", "-Djavax.net.ssl.trustStoreType=PKCS12")
