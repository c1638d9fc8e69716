"""The jars that Spark needs beside its own, fetched once and known by their digest.

They are fetched with the Ivy that PySpark brings, so that no build tool is needed, and without
their dependencies: everything else is in PySpark. Where the lake lies on S3, these are some more,
and one that is compiled here, with the Janino that PySpark brings. `python -m medallion_platform.jars`
does just that for this installation and prints their paths.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from medallion_platform.storage import in_bucket

_CENTRAL = """<ivysettings>
  <settings defaultResolver="central"/>
  <resolvers><ibiblio name="central" m2compatible="true" usepoms="false"/></resolvers>
</ivysettings>
"""
_TIMEOUT = 600


class JarsUnavailable(RuntimeError):
    """The jars are not in the cache and cannot be fetched; the text says why and what to do."""


class DigestMismatch(JarsUnavailable):
    """A jar was fetched, and is not the one that was pinned."""


class JavaMissing(JarsUnavailable):
    """No `java` to fetch them with, nor to run Spark with."""


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
    def ivy(self) -> str:
        """What Ivy is asked for."""
        classifier = f' m:classifier="{self.classifier}"' if self.classifier else ""
        return (
            f'<dependency org="{self.organisation}" name="{self.artifact}" rev="{self.revision}" '
            f'transitive="false"><artifact name="{self.artifact}" type="{self.extension}"{classifier}/>'
            "</dependency>"
        )


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

_LOG_STORE = Path(__file__).parent / "lakehouse" / "ConditionalPutLogStore.java"


@cache
def jars_of(lake: Path | str, *, topics: bool = False) -> list[Path]:
    """Paths of the jars that Spark needs for tables in `lake`, the log store among them on S3.

    They are checked once in a process: a worker asks for its session at every refresh. topics: whether
    it reads any.
    """
    further = KAFKA if topics else ()
    if not in_bucket(lake):
        return jars((*DELTA, *further))
    found = jars((*DELTA, *S3, *further))
    return [*found, log_store(found)]


def log_store(libraries: Sequence[Path]) -> Path:
    """The jar of `ConditionalPutLogStore`, compiled against `libraries` where it is not there yet."""
    source = _LOG_STORE.read_bytes()
    made_of = hashlib.sha256(source + "".join(library.name for library in libraries).encode())
    jar = libraries[0].with_name(f"{_LOG_STORE.stem}-{made_of.hexdigest()[:16]}.jar")
    if not jar.exists():
        with tempfile.TemporaryDirectory(prefix=".compile-", dir=jar.parent) as work:
            _compile(Path(work), libraries)
            packed = shutil.make_archive(f"{work}/packed", "zip", work, "medallion")
            Path(packed).replace(jar)
    return jar


def _compile(into: Path, libraries: Sequence[Path]) -> None:
    known = [_of_pyspark("hadoop-client-api"), _of_pyspark("slf4j-api"), *libraries]
    command = [
        *(_java(), "-XX:TieredStopAtLevel=1"),
        *("-cp", f"{_of_pyspark('janino')}:{_of_pyspark('commons-compiler')}"),
        "org.codehaus.commons.compiler.samples.CompilerDemo",
        *("-d", str(into), "-classpath", ":".join(map(str, known)), str(_LOG_STORE)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)  # noqa: S603
    if done.returncode != 0:
        raise JarsUnavailable(f"{_LOG_STORE.name} does not compile: {done.stderr.strip()[:500]}")


def jars(
    wanted: Sequence[Jar] = DELTA, cache: Path | None = None, ivy_settings: Path | None = None
) -> list[Path]:
    """Paths of the jars in the cache; what is missing or damaged there is fetched first.

    Several processes may call this at once: each fetches into a folder of its own, and a jar
    appears under its name only whole and verified.
    """
    if cache is None:
        from medallion_platform.settings import Settings

        settings = Settings()
        cache, ivy_settings = settings.cache, ivy_settings or settings.ivy_settings
    folder = cache / "jars"
    missing = [jar for jar in wanted if _digest(folder / jar.file_name) != jar.sha256]
    if missing:
        try:
            _fetch(missing, folder, ivy_settings)
        except OSError as error:
            raise JarsUnavailable(
                f"the jars cannot be kept in {folder}: {error.strerror or error}; free some "
                "space or name another folder with MEDALLION_CACHE"
            ) from error
    return [folder / jar.file_name for jar in wanted]


def _fetch(missing: Sequence[Jar], folder: Path, ivy_settings: Path | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder, ignore_cleanup_errors=True) as own:
        work = Path(own)
        said = _retrieve(missing, work, ivy_settings)
        for jar in missing:
            found = work / jar.file_name
            digest = _digest(found)
            if digest is None:
                raise JarsUnavailable(
                    f"{jar.file_name} could not be fetched ({_reason(said)}): connect to a Maven "
                    "repository once, or name your mirror's ivysettings.xml with "
                    "MEDALLION_IVY_SETTINGS; later starts work offline"
                )
            if digest != jar.sha256:
                raise DigestMismatch(
                    f"{jar.file_name} was fetched with sha256 {digest}, pinned is {jar.sha256}: "
                    "the repository serves another file"
                )
            found.replace(folder / jar.file_name)


def _retrieve(missing: Sequence[Jar], work: Path, ivy_settings: Path | None) -> str:
    """Let Ivy put the jars into `work`; returns what it said."""
    wanted = "".join(jar.ivy for jar in missing)
    (work / "ivy.xml").write_text(
        '<ivy-module version="2.0" xmlns:m="http://ant.apache.org/ivy/extra">'
        '<info organisation="medallion" module="jars"/>'
        f"<dependencies>{wanted}</dependencies></ivy-module>"
    )
    if ivy_settings is None:
        ivy_settings = work / "ivysettings.xml"
        ivy_settings.write_text(_CENTRAL)
    elif not ivy_settings.is_file():
        raise JarsUnavailable(f"MEDALLION_IVY_SETTINGS names {ivy_settings}, which is no file")
    command = [
        *(_java(), "-XX:TieredStopAtLevel=1", *_proxies()),
        *("-cp", str(_of_pyspark("ivy")), "org.apache.ivy.Main", "-cache", str(work / "ivy")),
        *("-settings", str(ivy_settings), "-ivy", str(work / "ivy.xml")),
        *("-retrieve", f"{work}/[artifact]-[revision](-[classifier]).[ext]"),
    ]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_TIMEOUT} s"
    return done.stdout + done.stderr


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if not found:
        raise JavaMissing(
            f"JAVA_HOME is {home}, and there is no bin/java in it"
            if home
            else "no java on the PATH: install Java 17 or newer"
        )
    return found


def _proxies() -> list[str]:
    """The environment's proxies, which a JVM does not look at by itself."""
    said: list[str] = []
    for scheme in ("http", "https"):
        proxy = urlsplit(getproxies().get(scheme, ""))
        if proxy.hostname:
            said += [f"-D{scheme}.proxyHost={proxy.hostname}"]
            said += [f"-D{scheme}.proxyPort={proxy.port or 80}"]
    if said and (direct := getproxies().get("no")):
        hosts = [f"*{h}" if h.startswith(".") else h for h in direct.replace(",", " ").split()]
        said.append(f"-Dhttp.nonProxyHosts={'|'.join(hosts)}")
    return said


def _of_pyspark(name: str) -> Path:
    # Found without importing it: pyspark costs a second that this module has no use for.
    spec = find_spec("pyspark")
    places = spec.submodule_search_locations if spec else None
    for place in places or ():
        for found in sorted(Path(place).glob(f"jars/{name}-*.jar")):
            return found
    raise JarsUnavailable("PySpark is installed without its jars: install it again")


def _reason(said: str) -> str:
    """The one line of Ivy's many that tells why."""
    lines = [line.strip() for line in said.splitlines()]
    for mark in ("UnknownHost", "Connection refused", "timed out", "No space left", "no answer"):
        for line in lines:
            if mark in line:
                return line[:200]
    for mark in ("not found", "SERVER ERROR", "ERROR", "Exception"):
        for line in lines:
            if mark in line:
                return line[:200]
    return "Ivy gave no reason"


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def main() -> None:
    """Fetch what is missing and print the paths."""
    from medallion_platform.settings import Settings, WrongSetting

    try:
        settings = Settings()
        by_spark = bool(settings.kafka) and settings.kafka_engine == "spark"
        print(*jars_of(settings.lake, topics=by_spark), sep="\n")
    except WrongSetting as error:
        print(*(f"medallion: {line}" for line in str(error).splitlines()), sep="\n", file=sys.stderr)
        sys.exit(2)
    except JarsUnavailable as error:
        sys.exit(f"medallion: {error}")


if __name__ == "__main__":
    main()
