"""An ahead-of-time cache: what Java loaded, linked and counted in a recorded refresh, for every later start.

Java 25 and newer make such a file and start from it ("Ahead-of-Time Cache" of its manual). It fits one Java
and one list of jars; what is missing, damaged or of other jars is not used, and nothing ever waits for it.
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

from medallion_platform.spark.java import Java

_LOG = logging.getLogger(__name__)
_SINCE = 25
_NAME = re.compile(r"(?P<key>started-(?P<environment>\w+)-\w+)-(?P<sum>\w{8})\.aot")
_KEEP = 6
"""How many environments of a machine keep theirs, of some 200 MB each: those that used it last."""
_AGAIN_AFTER = 24 * 3600.0
_CHUNK = 1 << 22


@dataclass(frozen=True)
class AotCache:
    """The cache for one Java and one class path, in a folder."""

    folder: Path
    java: Java
    class_path: Sequence[Path]
    """The jars, in order. A start may name further ones behind them."""

    @cached_property
    def key(self) -> str:
        """What it fits: the Java, each jar as it lies there, and the environment that they are of."""
        jars = [(str(jar), jar.stat().st_size, int(jar.stat().st_mtime)) for jar in self.class_path]
        made_of = sha256(repr((str(self.java.home), self.java.build, jars)).encode())
        return f"{_environment()}-{made_of.hexdigest()[:16]}"

    def options(self) -> list[str]:
        """What Java is told to start from the cache; nothing where there is none that is whole."""
        found = self.found()
        # Where it cannot use the file after all, it starts without, and has nothing to say to a person.
        return [f"-XX:AOTCache={found}", "-Xlog:disable"] if found else []

    def found(self) -> Path | None:
        """The file, if it is there and as it was written."""
        for file in sorted(self.folder.glob(f"started-{self.key}-*.aot")):
            name = _NAME.fullmatch(file.name)
            try:
                if name and _sum(file) == name["sum"]:
                    with suppress(OSError):  # an image may be read-only
                        os.utime(file)  # used: others are older
                    return file
                file.unlink()
            except OSError as error:
                _LOG.info("%s is not used: %s", file, error)
        return None

    def is_wanted(self) -> bool:
        """Whether somebody should record it: this Java can, there is none, and nobody tried today."""
        if self.java.version < _SINCE or self.found():
            return False
        try:
            return time.time() - self._tried.stat().st_mtime > _AGAIN_AFTER
        except FileNotFoundError:
            return os.access(_existing(self.folder), os.W_OK)

    @contextmanager
    def recorded(self) -> Generator[list[str]]:
        """Options for a JVM that ends, orderly, inside of the block; then the cache is there.

        Raises:
            AlreadyRecording: another process does it.
            OSError: it cannot be kept in the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._tried.open("w") as tried:
            try:
                fcntl.flock(tried, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRecording(f"another process records into {self.folder}") from None
            os.utime(self._tried)
            with tempfile.TemporaryDirectory(prefix=".recording-", dir=self.folder) as work:
                new = Path(work) / "new.aot"
                yield [f"-XX:AOTCacheOutput={new}", "-Xlog:disable"]
                if new.exists():
                    new.replace(self.folder / f"started-{self.key}-{_sum(new)}.aot")
        self._forget_others()

    @property
    def _tried(self) -> Path:
        return self.folder / f"started-{self.key}.tried"

    def _forget_others(self) -> None:
        """Keep one file for this environment, and those of the environments that used theirs last."""
        files = [(f, name) for f in self.folder.glob("started-*.aot") if (name := _NAME.fullmatch(f.name))]
        newest = sorted(files, key=lambda file: file[0].stat().st_mtime, reverse=True)
        kept: set[str] = set()
        for file, name in newest:
            if name["environment"] in kept or len(kept) >= _KEEP:
                file.unlink(missing_ok=True)
                (self.folder / f"{name['key']}.tried").unlink(missing_ok=True)
            kept.add(name["environment"])


class AlreadyRecording(Exception):
    """Another process records the same."""


def _environment() -> str:
    """This Python environment: an upgrade in it makes a new cache in the place of the old one."""
    return sha256(sys.prefix.encode()).hexdigest()[:8]


def _sum(file: Path) -> str:
    """Java looks at the head of the file alone."""
    total = 0
    with file.open("rb") as read:
        while chunk := read.read(_CHUNK):
            total = zlib.crc32(chunk, total)
    return f"{total:08x}"


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)
