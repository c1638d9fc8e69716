"""An ahead-of-time cache: what Java loaded, linked and profiled during a recorded refresh, for later starts.

Java 25 and newer write such a file and start from it ("Ahead-of-Time Cache" in its manual). It belongs to one
Java and one list of jars. A file that is missing, damaged or of other jars is not used, and nothing
ever waits for one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sys
import tempfile
import time
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.spark.java import Java

_LOG = logging.getLogger(__name__)
_SINCE = 25
_NAME = re.compile(r"(?P<key>started-(?P<environment>\w+)-\w+)-(?P<sum>\w{8})\.aot")
_KEEP = 6
"""How many environments of a machine keep theirs, of some 200 MB each: those that used it last."""
_AGAIN_AFTER = 24 * 3600.0
_CHUNK = 1 << 22
# What the first compiler alone compiled while it was recorded is left to it for good, unless Java forgets
# that: the second one would never come to the code that a long run needs most.
_BOTH_COMPILERS = ("-XX:+UnlockDiagnosticVMOptions", "-XX:-AOTReplayTraining")


@dataclass(frozen=True)
class AotCache:
    """The cache for one Java and one class path, in a folder."""

    folder: Path
    java: Java
    class_path: Sequence[Path]
    """The jars, in order. A start may name further ones behind them."""

    @cached_property
    def key(self) -> str:
        """A text that identifies the Java, its jars and the Python environment that the cache is made for."""
        jars = [(str(jar), jar.stat().st_size, int(jar.stat().st_mtime)) for jar in self.class_path]
        made_of = sha256(repr((str(self.java.home), self.java.build, jars)).encode())
        return f"{_environment_key()}-{made_of.hexdigest()[:16]}"

    def options(self, *, quick: bool = True) -> list[str]:
        """The options with which Java starts from the cache; none if there is no valid cache.

        quick: with the first compiler alone, as it was recorded.
        """
        found = self.found()
        if not found:
            return []
        # Where it cannot use the file after all, it starts without, and has nothing to say to a person.
        return [f"-XX:AOTCache={found}", "-Xlog:disable", *(() if quick else _BOTH_COMPILERS)]

    def found(self) -> Path | None:
        """The file, if it exists and is undamaged."""
        for file in sorted(self.folder.glob(f"started-{self.key}-*.aot")):
            name = _NAME.fullmatch(file.name)
            try:
                if name and _checksum(file) == name["sum"]:
                    with suppress(OSError):  # an image may be read-only
                        os.utime(file)  # used: others are older
                    return file
                file.unlink()
            except OSError as error:
                _LOG.info("%s is not used: %s", file, error)
        return None

    def is_wanted(self) -> bool:
        """Whether it should be recorded: Java supports it, there is none, and nobody tried today."""
        if self.java.version < _SINCE or self.found():
            return False
        try:
            return time.time() - self._attempt_mark.stat().st_mtime > _AGAIN_AFTER
        except FileNotFoundError:
            return os.access(_existing_parent(self.folder), os.W_OK)

    @contextmanager
    def recorded(self) -> Generator[list[str]]:
        """Options for a JVM that records the cache; it must end normally inside the `with` block.

        Raises:
            AlreadyRecording: another process is recording.
            OSError: the cache cannot be stored in the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._attempt_mark.open("w") as tried:
            try:
                fcntl.flock(tried, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRecording(f"another process records into {self.folder}") from None
            os.utime(self._attempt_mark)
            with tempfile.TemporaryDirectory(prefix=".recording-", dir=self.folder) as work:
                new = Path(work) / "new.aot"
                yield [f"-XX:AOTCacheOutput={new}", "-Xlog:disable"]
                if new.exists():
                    size = new.stat().st_size
                    new.replace(self.folder / f"started-{self.key}-{_checksum(new)}.aot")
                    _LOG.info("the start of Spark was recorded", extra={"bytes": size})
        self._remove_old_caches()

    @property
    def _attempt_mark(self) -> Path:
        return self.folder / f"started-{self.key}.tried"

    def _remove_old_caches(self) -> None:
        """Keep one file for this environment, and the files of the other environments used most recently."""
        files = [(f, name) for f in self.folder.glob("started-*.aot") if (name := _NAME.fullmatch(f.name))]
        newest = sorted(files, key=lambda file: file[0].stat().st_mtime, reverse=True)
        remaining: set[str] = set()
        for file, name in newest:
            if name["environment"] in remaining or len(remaining) >= _KEEP:
                file.unlink(missing_ok=True)
                (self.folder / f"{name['key']}.tried").unlink(missing_ok=True)
            remaining.add(name["environment"])


class AlreadyRecording(MedallionError):
    """Another process is recording the same cache."""

    kind = Kind.CONFLICT


def _environment_key() -> str:
    """A short text for this Python environment, so that an upgrade in it replaces its old cache."""
    return sha256(sys.prefix.encode()).hexdigest()[:8]


def _checksum(file: Path) -> str:
    """A checksum of the whole file; Java itself checks only its header."""
    total = 0
    with file.open("rb") as read:
        while chunk := read.read(_CHUNK):
            total = zlib.crc32(chunk, total)
    return f"{total:08x}"


def _existing_parent(folder: Path) -> Path:
    return folder if folder.exists() else _existing_parent(folder.parent)
