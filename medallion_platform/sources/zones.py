"""The place of a landing zone: a folder of this machine, or a prefix of a bucket, through one interface."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

from medallion_platform.sources.arrivals import Unavailable
from medallion_platform.sources.source import LostFile
from medallion_platform.storage import in_bucket, reason, store

if TYPE_CHECKING:
    from obstore import ObjectMeta

LIST_WHOLE_SECONDS = 900.0
"""How long a process goes by what it listed, and asks a bucket only for names behind the last one."""
_KEEP_BYTES = 2**30


@dataclass(frozen=True)
class Seen:
    """A file as it was seen in a landing zone. `path` is relative to it, with `/`.

    etag: what an object store says of the content; it tells times no closer than a second.
    """

    path: str
    size: int
    modified_at: datetime
    etag: str | None = None


class StillGrowing(Exception):
    """A file changed while it was read: it is not complete yet."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} changed while it was read")
        self.path = path


class Zone(Protocol):
    """What is asked of the place where files land."""

    @property
    def whole_at_once(self) -> bool:
        """Whether a file is there only once it is complete, so that nobody need wait for it to settle."""
        ...

    def scan(self, folders: Collection[str]) -> list[Seen]:
        """Every file below any of `folders` (`""`: all there are), by path.

        An absent zone is an empty one.
        """
        ...

    def seen(self, path: str) -> Seen:
        """A file as it is now. Raises LostFile."""
        ...

    def file(self, seen: Seen) -> AbstractContextManager[Path]:
        """Its content, as a file of this machine. Raises LostFile, or StillGrowing where it is another."""
        ...


@cache
def zone_at(root: str) -> Zone:
    """The landing zone at a root, one for the whole process."""
    return Bucket(root) if in_bucket(root) else Folder(root)


@dataclass(frozen=True)
class Folder:
    """A landing zone on this machine."""

    root: str
    whole_at_once = False

    def scan(self, folders: Collection[str]) -> list[Seen]:
        """Every file, also in folders.

        A link is a file, also one that leads nowhere; what has no content of its own (a pipe, a socket)
        is none.
        """
        found = {seen for folder in folders for seen in self._scanned(folder)}
        return sorted(found, key=lambda seen: seen.path)

    def _scanned(self, folder: str) -> Iterator[Seen]:
        try:
            entries = list(os.scandir(os.path.join(self.root, folder)))  # noqa: PTH118
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from self._scanned(path)
                continue
            try:
                facts = entry.stat()
            except OSError:
                if not entry.is_symlink():
                    continue  # gone since it was listed
                facts = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(facts.st_mode) or stat.S_ISLNK(facts.st_mode):
                yield Seen(path, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC))

    def seen(self, path: str) -> Seen:
        """A file's size and the time of its last change."""
        try:
            facts = (Path(self.root) / path).stat()
        except FileNotFoundError:
            raise LostFile(path, "the file was removed before it could be read") from None
        except OSError as error:
            raise LostFile(path, error.strerror or str(error)) from error
        return Seen(path, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC))

    @contextmanager
    def file(self, seen: Seen) -> Generator[Path]:
        """The file itself."""
        yield Path(self.root) / seen.path


@dataclass
class Bucket:
    """A landing zone in a bucket. What is read is downloaded, and kept until there is too much of it.

    A process that looks again and again lists all names every `list_whole_seconds` and in between only
    those behind the last one of each folder: a name that sorts before, and a new content under an old
    name, are found with the next whole list.
    """

    root: str
    list_whole_seconds: float = LIST_WHOLE_SECONDS
    whole_at_once = True
    _listed: dict[str, tuple[float, dict[str, Seen]]] = field(default_factory=dict)
    _downloads: TemporaryDirectory[str] = field(
        default_factory=lambda: TemporaryDirectory(prefix="medallion-landing-")
    )

    def scan(self, folders: Collection[str]) -> list[Seen]:
        """Every object."""
        found: dict[str, Seen] = {}
        with _available(self.root):
            for folder in folders:
                found |= self._list(folder)
        return [found[path] for path in sorted(found)]

    def _list(self, folder: str) -> dict[str, Seen]:
        at, known = self._listed.get(folder, (0.0, {}))
        last = max(known, default=None)
        if time.monotonic() - at > self.list_whole_seconds:
            at, known, last = time.monotonic(), {}, None
        came = store(self.root).list(folder or None, offset=last).collect()
        self._listed[folder] = at, known | {o["path"]: _seen(o) for o in came}
        return self._listed[folder][1]

    def seen(self, path: str) -> Seen:
        """An object's size, time and ETag."""
        with _available(self.root):
            try:
                return _seen(store(self.root).head(path))
            except FileNotFoundError:
                raise LostFile(path, "the object was deleted before it could be read") from None

    @contextmanager
    def file(self, seen: Seen) -> Generator[Path]:
        """The object, downloaded."""
        name = blake2b(f"{seen.path}\n{seen.etag}".encode(), digest_size=16).hexdigest()
        local = Path(self._downloads.name) / name
        if not local.exists():
            self._download(seen, local)
        try:
            yield local
        finally:
            if sum(kept.stat().st_size for kept in local.parent.iterdir()) > _KEEP_BYTES:
                local.unlink()

    def _download(self, seen: Seen, local: Path) -> None:
        from obstore.exceptions import PreconditionError

        part = local.with_suffix(".part")
        with _available(self.root), part.open("wb") as file:
            try:
                for piece in store(self.root).get(seen.path, options={"if_match": seen.etag}):
                    file.write(piece)
            except PreconditionError:
                raise StillGrowing(seen.path) from None
            except FileNotFoundError:
                raise LostFile(seen.path, "the object was deleted before it could be read") from None
        part.replace(local)


def _seen(found: ObjectMeta) -> Seen:
    return Seen(found["path"], found["size"], found["last_modified"], found["e_tag"])


@contextmanager
def _available(root: str) -> Generator[None]:
    """A bucket that does not answer is unavailable as a whole, and no file of it is lost."""
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        raise Unavailable(
            f"the landing zone {root} cannot be reached: {reason(error)}. Nothing was taken in; run it again"
        ) from error
