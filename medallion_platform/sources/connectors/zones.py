"""A landing zone, a local folder or a prefix of a bucket, through one interface."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

from medallion_platform.errors import Kind
from medallion_platform.sources.errors import LostFile, StillGrowing, Unavailable
from medallion_platform.storage import at_once, exists, in_bucket, keys_below, reason, store

if TYPE_CHECKING:
    from obstore import ObjectMeta

LIST_WHOLE_SECONDS = 900.0
"""How long a process goes by what it listed, and asks a bucket only for names behind the last one."""
_KEEP_BYTES = 2**30
_HADOOP_FOLDER = "_$folder$"
_UNTOLD = "\N{REPLACEMENT CHARACTER}"
"""What stands in a list for a character that XML cannot hold."""
_UNUSABLE = "no object of such a key can be read (a control character, an empty part, . or ..): rename it"
_OTHER_KEY = "the object has another key than can be listed (a control character, a / at its end): rename it"
_KINDS = {
    stat.S_IFDIR: "a link to a folder",
    stat.S_IFIFO: "a pipe, not a file",
    stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
}


@dataclass(frozen=True)
class FileInfo:
    """A file as it was seen in a landing zone. `path` is relative to it, with `/`.

    etag: what an object store says of the content; it tells times no closer than a second.
    """

    path: str
    size: int
    modified_at: datetime
    etag: str | None = None


@dataclass(frozen=True)
class Listing:
    """What stands in a landing zone: files by path, and what is left alone, by path with the reason.

    One thing that cannot be taken in never keeps the others from it.
    """

    files: list[FileInfo]
    left: dict[str, str]


class Zone(Protocol):
    """What is asked of the place where files land."""

    @property
    def whole_at_once(self) -> bool:
        """Whether a file is there only once it is complete, so that nobody need wait for it to settle."""
        ...

    def scan(self, folders: Collection[str]) -> Listing:
        """Every file below any of `folders` (`""`: all there are), by path.

        An absent zone is an empty one.
        """
        ...

    def seen(self, path: str) -> FileInfo:
        """A file as it is now. Raises LostFile."""
        ...

    def file(self, seen: FileInfo) -> AbstractContextManager[Path]:
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

    def scan(self, folders: Collection[str]) -> Listing:
        """Every file, also in folders. A link to a file of the zone is one.

        Left alone: links that lead out of the zone, to a folder or nowhere; what has no content of its
        own (a pipe, a socket, a device); what the platform's user may not list or read.
        """
        found = dict(entry for folder in folders for entry in self._scanned(folder))
        files = [seen for _, seen in sorted(found.items()) if isinstance(seen, FileInfo)]
        return Listing(files, {path: why for path, why in sorted(found.items()) if isinstance(why, str)})

    def _scanned(self, folder: str) -> Iterator[tuple[str, FileInfo | str]]:
        """Each path with the file that stands there, or with why it is left alone."""
        if linked := self._linked(folder):
            yield linked
            return
        waiting = [folder]  # and no recursion: a folder may be thousands of levels deep
        while waiting:
            folder = waiting.pop()
            try:
                entries = list(os.scandir(os.path.join(self.root, folder)))  # noqa: PTH118
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                yield folder or ".", f"the folder cannot be listed ({error.strerror})"
                continue
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif (found := self._entry(path, entry)) is not None:
                    yield path, found

    def _linked(self, folder: str) -> tuple[str, str] | None:
        """The first part of a folder's path that is a link, and why what lies behind it is left alone."""
        above = [str(f) for f in PurePosixPath(folder).parents][-2::-1]
        for path in (*above, folder) if folder else ():
            place = Path(self.root, path)
            if place.is_symlink():
                out = not self._holds(str(place))
                return path, "a link that leads out of the landing zone" if out else "a link to a folder"
        return None

    def _entry(self, path: str, entry: os.DirEntry[str]) -> FileInfo | str | None:
        try:
            facts = entry.stat()
        except OSError:
            return "a link that leads nowhere" if entry.is_symlink() else None  # gone since it was listed
        if entry.is_symlink() and not self._holds(entry.path):
            return "a link that leads out of the landing zone"
        if not stat.S_ISREG(facts.st_mode):
            return _KINDS.get(stat.S_IFMT(facts.st_mode), "no file")
        if not os.access(entry.path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            return "the file may not be read (Permission denied)"
        return FileInfo(path, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC))

    def _holds(self, path: str) -> bool:
        """Whether a path, all links followed, lies within the landing zone."""
        return Path(path).resolve().is_relative_to(Path(self.root).resolve())

    def seen(self, path: str) -> FileInfo:
        """A file's size and the time of its last change."""
        with self._opened(path) as file:
            facts = os.fstat(file)
        return FileInfo(path, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC))

    @contextmanager
    def file(self, seen: FileInfo) -> Generator[Path]:
        """The file that was opened, whatever is put in its place meanwhile.

        Where the system has no name for an open file under which it can be opened again, a copy of it.
        """
        with self._opened(seen.path) as file:
            if _opens_again():
                yield _name_of(file)
                return
            with TemporaryDirectory(prefix="medallion-landing-") as folder:
                copy = Path(folder) / "file"
                with os.fdopen(os.dup(file), "rb") as opened, copy.open("wb") as to:
                    shutil.copyfileobj(opened, to)
                yield copy

    @contextmanager
    def _opened(self, path: str) -> Generator[int]:
        """A file, opened by a way on which nothing can be put in its place once it is known to lie within.

        Links are followed first, by name. What they lead to is then opened from the landing zone's folder on,
        one folder after the other, without following any.

        Raises:
            LostFile: it is gone, cannot be read, is no file, or lies outside.
        """
        root = Path(self.root).resolve()
        place = (root / path).resolve()
        if not place.is_relative_to(root):
            raise LostFile(path, "a link that leads out of the landing zone is in its place")
        *folders, name = place.relative_to(root).parts or ("",)
        with ExitStack() as stack:
            try:
                at = _open(stack, str(root), os.O_DIRECTORY, None)
                for folder in folders:
                    at = _open(stack, folder, os.O_DIRECTORY | os.O_NOFOLLOW, at)
                file = _open(stack, name, os.O_NOFOLLOW | os.O_NONBLOCK, at)
            except FileNotFoundError:
                raise LostFile(path, "the file was removed before it could be read") from None
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise LostFile(path, "a link was put in its place while it was opened") from None
                raise LostFile(path, error.strerror or str(error)) from error
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise LostFile(path, _KINDS.get(stat.S_IFMT(os.fstat(file).st_mode), "no file"))
            yield file


def _open(stack: ExitStack, name: str, flags: int, folder: int | None) -> int:
    opened = os.open(name, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=folder)
    stack.callback(os.close, opened)
    return opened


def _name_of(file: int) -> Path:
    return Path(f"/dev/fd/{file}")


@cache
def _opens_again() -> bool:
    """Whether the name of an open file opens it anew, from its beginning: on Linux; on a Mac it shares."""
    with NamedTemporaryFile(prefix="medallion-") as file:
        file.write(b"12")
        file.flush()
        try:
            with _name_of(file.fileno()).open("rb") as again:
                return again.read() == b"12"
        except OSError:
            return False


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
    _listed: dict[str, _FolderListing] = field(default_factory=dict)
    _downloads: TemporaryDirectory[str] = field(
        default_factory=lambda: TemporaryDirectory(prefix="medallion-landing-")
    )

    def scan(self, folders: Collection[str]) -> Listing:
        """Every object; the empty ones that consoles and Hadoop make for a folder are none.

        Left alone: objects whose key this client cannot ask for.
        """
        with _available(self.root):
            found = [self._list(folder) for folder in folders]
        files = {path: seen for listed in found for path, seen in listed.files.items()}
        left = {path: why for listed in found for path, why in listed.left.items()}
        return Listing([files[path] for path in sorted(files)], dict(sorted(left.items())))

    def _list(self, folder: str) -> _FolderListing:
        known = self._listed.get(folder)
        if known is None or time.monotonic() - known.at > self.list_whole_seconds:
            known = _FolderListing(time.monotonic(), {}, {})
        came, left = self._objects(folder, max(known.files, default=None))
        above = _folders(o["path"] for o in came)
        for o in came:
            size, path = o["size"], o["path"]
            if not size and path.endswith(_HADOOP_FOLDER):
                left[path] = None
            elif (not size or path in above or _UNTOLD in path) and not exists(self.root, path):
                left[path] = _OTHER_KEY if size else None
        files = {o["path"]: _seen(o) for o in came if o["path"] not in left}
        told = {path: why for path, why in left.items() if why is not None}
        self._listed[folder] = _FolderListing(known.at, known.files | files, known.left | told)
        return self._listed[folder]

    def _objects(self, folder: str, after: str | None) -> tuple[list[ObjectMeta], dict[str, str | None]]:
        """The objects of a folder whose keys sort behind one, and why others are left, by key."""
        from obstore.exceptions import InvalidPathError

        try:
            return list(store(self.root).list(folder or None, offset=after).collect()), {}
        except InvalidPathError:  # one such key, and nothing of the list is told
            keys = [key for key in self._keys(folder) if after is None or key > after]
        found = dict(zip(keys, at_once(self._head, keys), strict=True))
        left: dict[str, str | None] = {key: told for key, told in found.items() if isinstance(told, str)}
        return [told for told in found.values() if told and not isinstance(told, str)], left

    def _keys(self, folder: str) -> list[str]:
        try:
            return keys_below(self.root, folder)
        except OSError as error:
            raise _unavailable(self.root, error) from error

    def _head(self, key: str) -> ObjectMeta | str | None:
        """What an object is, why it cannot be asked for, or None where it is gone."""
        try:
            return store(self.root).head(key)
        except ValueError:
            return _UNUSABLE
        except FileNotFoundError:
            return _OTHER_KEY if _UNTOLD in key else None

    def seen(self, path: str) -> FileInfo:
        """An object's size, time and ETag."""
        with _available(self.root):
            try:
                return _seen(store(self.root).head(path))
            except FileNotFoundError:
                raise LostFile(path, "the object was deleted before it could be read") from None

    @contextmanager
    def file(self, seen: FileInfo) -> Generator[Path]:
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

    def _download(self, seen: FileInfo, local: Path) -> None:
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


@dataclass(frozen=True)
class _FolderListing:
    """What was listed of a folder of a bucket, whole at the time `at` (monotonic seconds)."""

    at: float
    files: dict[str, FileInfo]
    left: dict[str, str]


def _folders(paths: Iterable[str]) -> set[str]:
    """The folders in which files lie, and those above these."""
    below = {path.rpartition("/")[0] for path in paths}
    return below | {str(above) for folder in below for above in PurePosixPath(folder).parents}


def _seen(found: ObjectMeta) -> FileInfo:
    return FileInfo(found["path"], found["size"], found["last_modified"], found["e_tag"])


@contextmanager
def _available(root: str) -> Generator[None]:
    """A bucket that does not answer is unavailable as a whole, and no file of it is lost."""
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        raise _unavailable(root, error) from error


def _unavailable(root: str, error: Exception) -> Unavailable:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    return Unavailable(
        f"the landing zone {root} cannot be reached: {reason(error)}. Nothing was taken in; run it again",
        kind=Kind.AUTH if refused else Kind.NETWORK,
    )
