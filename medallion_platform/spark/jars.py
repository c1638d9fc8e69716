"""The jars that Spark needs in addition to its own, downloaded once and verified by their digests.

They are downloaded from a Maven repository without their dependencies: PySpark has everything else. A lake in
S3 needs a few more, and one that is compiled here by the Janino compiler in PySpark.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from medallion_platform.certificates import tls_context
from medallion_platform.errors import Kind, MedallionError, classify

if TYPE_CHECKING:
    import httpx

_LOG = logging.getLogger(__name__)
_TIMEOUT = 600
_SILENT = 60.0
_TRIES = 3


class JarsUnavailable(MedallionError):
    """Jars are missing and cannot be fetched; the text says why and what to do."""

    kind = Kind.NETWORK


class DigestMismatch(JarsUnavailable):
    """A fetched jar has another digest than the pinned one."""

    kind = Kind.CORRUPT


@dataclass(frozen=True)
class Jar:
    """One file of a Maven repository."""

    organisation: str
    artifact: str
    revision: str
    sha256: str
    classifier: str = ""
    extension: str = "jar"

    @property
    def file_name(self) -> str:
        """Its name in the cache."""
        classifier = f"-{self.classifier}" if self.classifier else ""
        return f"{self.artifact}-{self.revision}{classifier}.{self.extension}"

    @property
    def path(self) -> str:
        """Its path in any Maven repository."""
        return f"{self.organisation.replace('.', '/')}/{self.artifact}/{self.revision}/{self.file_name}"


DELTA = (
    Jar(
        "io.delta",
        "delta-spark_4.2_2.13",
        "4.4.0",
        "27d4fd8b1f879535c573ed1c718177d6a27f24d3e626ba02e216369725721ead",
    ),
    Jar(
        "io.delta",
        "delta-storage",
        "4.4.0",
        "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc",
    ),
)

KAFKA = (
    Jar(
        "org.apache.spark",
        "spark-sql-kafka-0-10_2.13",
        "4.2.0",
        "64539c45e5d39f7ddb747312c239f38f5208d08c1a0ddf7d70beb2fbd9373705",
    ),
    # Only delegation tokens use it; there is none of Spark's own version.
    Jar(
        "org.apache.spark",
        "spark-token-provider-kafka-0-10_2.13",
        "4.0.0",
        "f2be3b76f9e6cbe63379d4e4e0dc14f59dbf056ae2ad16ff15ac108004c86767",
    ),
    Jar(
        "org.apache.kafka",
        "kafka-clients",
        "3.9.2",
        "014b4ef36884478a932641818b080c36a8f8e2e92dc771e800c9d2694f4f83d8",
    ),
    Jar(
        "org.apache.commons",
        "commons-pool2",
        "2.13.1",
        "f77a5060d6936a9144023584232f9de3f2248f1abfe156e9d31795f18770674f",
    ),
)
"""What Spark needs to read topics."""

S3 = tuple(Jar(*line.split()) for line in Path(__file__).with_name("s3_jars.txt").read_text().splitlines())
"""S3A and the modules of the AWS SDK that it uses: 13 MB, where the SDK's bundle has 686."""

_LOG_STORE = Path(__file__).with_name("ConditionalPutLogStore.java")


def compile_log_store(libraries: Sequence[Path], java: str) -> Path:
    """The jar of `ConditionalPutLogStore`, compiled against `libraries` if it does not exist yet.

    java: the program to compile with.

    Raises:
        JarsUnavailable: it does not compile.
    """
    source = _LOG_STORE.read_bytes()
    made_of = hashlib.sha256(source + "".join(library.name for library in libraries).encode())
    jar = libraries[0].with_name(f"{_LOG_STORE.stem}-{made_of.hexdigest()[:16]}.jar")
    if not jar.exists():
        with tempfile.TemporaryDirectory(prefix=".compile-", dir=jar.parent) as work:
            _compile(Path(work), libraries, java)
            packed = shutil.make_archive(f"{work}/packed", "zip", work, "medallion")
            Path(packed).replace(jar)
    return jar


def _compile(into: Path, libraries: Sequence[Path], java: str) -> None:
    known = [_jar_of_pyspark("hadoop-client-api"), _jar_of_pyspark("slf4j-api"), *libraries]
    command = [
        *(java, "-XX:TieredStopAtLevel=1"),
        *("-cp", f"{_jar_of_pyspark('janino')}:{_jar_of_pyspark('commons-compiler')}"),
        "org.codehaus.commons.compiler.samples.CompilerDemo",
        *("-d", str(into), "-classpath", ":".join(map(str, known)), str(_LOG_STORE)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)  # noqa: S603
    if done.returncode != 0:
        raise JarsUnavailable(
            f"{_LOG_STORE.name} does not compile: {done.stderr.strip()[:500]}", kind=Kind.PERMANENT
        )


def fetch_jars(wanted: Sequence[Jar], cache: Path, repository: str) -> list[Path]:
    """Paths of the jars in the cache; missing or damaged jars are fetched first.

    Several processes may call this at once: a jar gets its name only when it is complete and verified.
    repository: the address of a Maven repository, or a folder with the same layout.

    Raises:
        JarsUnavailable: one of them cannot be fetched or stored.
    """
    folder = cache / "jars"
    if missing := missing_jars(wanted, cache):
        try:
            _fetch_missing(missing, folder, repository.rstrip("/"))
        except OSError as error:
            raise JarsUnavailable(
                f"the jars cannot be kept in {folder}: {error.strerror or error}",
                kind=classify(error).kind,
                remedy="free some space or name another folder with MEDALLION_CACHE",
            ) from error
    return [folder / jar.file_name for jar in wanted]


def missing_jars(wanted: Sequence[Jar], cache: Path) -> list[Jar]:
    """Those of these jars that are not in the cache, or damaged there."""
    return [jar for jar in wanted if _file_digest(cache / "jars" / jar.file_name) != jar.sha256]


def _fetch_missing(missing: Sequence[Jar], folder: Path, repository: str) -> None:
    import httpx

    folder.mkdir(parents=True, exist_ok=True)
    by_network = "://" in repository
    # It heeds the proxies of the environment; whom to trust is what Java is told as well.
    opened = (
        httpx.Client(verify=tls_context(), timeout=_SILENT, follow_redirects=True) if by_network else None
    )
    with (
        opened or nullcontext() as client,
        tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder, ignore_cleanup_errors=True) as own,
    ):
        for jar in missing:
            part = Path(own) / jar.file_name
            if client is None:
                _copy_jar(Path(repository) / jar.path, part)
            else:
                _download_jar(client, f"{repository}/{jar.path}", part)
            digest = _file_digest(part)
            if digest != jar.sha256:
                raise DigestMismatch(
                    f"{jar.file_name} was fetched with sha256 {digest}, pinned is {jar.sha256}: "
                    "the repository serves another file"
                )
            size = part.stat().st_size
            part.replace(folder / jar.file_name)
            _LOG.info("%s fetched", jar.file_name, extra={"jar": jar.file_name, "bytes": size})


def _copy_jar(file: Path, part: Path) -> None:
    try:
        shutil.copyfile(file, part)
    except FileNotFoundError:
        raise _unavailable(part.name, "it is not in the folder that MEDALLION_MAVEN names") from None


def _download_jar(client: httpx.Client, address: str, part: Path) -> None:
    import httpx

    why = ""
    for _ in range(_TRIES):
        try:
            with client.stream("GET", address) as answer:
                answer.raise_for_status()
                with part.open("wb") as file:
                    for piece in answer.iter_bytes():
                        file.write(piece)
            return
        except httpx.HTTPStatusError as error:  # its text has the address, which may hold a password
            why = f"the repository answers {error.response.status_code}"
            if error.response.status_code < 500:
                break
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = str(error) or type(error).__name__
    raise _unavailable(part.name, why)


def _unavailable(name: str, why: str) -> JarsUnavailable:
    return JarsUnavailable(
        f"{name} could not be fetched ({why})",
        remedy="connect to the network once, or name your mirror of Maven Central, or a folder laid out like "
        "it, with MEDALLION_MAVEN; later starts work offline",
    )


def _jar_of_pyspark(name: str) -> Path:
    # Found without importing it: pyspark costs a second that this module has no use for.
    spec = find_spec("pyspark")
    places = spec.submodule_search_locations if spec else None
    for place in places or ():
        for found in sorted(Path(place).glob(f"jars/{name}-*.jar")):
            return found
    raise JarsUnavailable(
        "PySpark is installed without its jars", kind=Kind.PERMANENT, remedy="install it again"
    )


def _file_digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
