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
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

from medallion_platform.contracts.codes import Damage
from medallion_platform.errors import Kind
from medallion_platform.sources.errors import LostFile, StillGrowing, Unavailable
from medallion_platform.storage import (
    client_reason,
    file_exists,
    in_bucket,
    keys_below,
    run_in_parallel,
    store,
    text_digest,
)

if TYPE_CHECKING:
    from obstore import ObjectMeta

FULL_LISTING_SECONDS = 900.0
"""How long a process goes by what it listed, and asks a bucket only for names behind the last one."""
_KEEP_BYTES = 2**30
_HADOOP_FOLDER = "_$folder$"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What stands in a list for a character that XML cannot hold."""

_DELETED = "the object was deleted before it could be read"
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
    """A file in a landing zone at one point in time. `path` is relative to the zone, with `/`.

    etag: the object store's id of the content (its times are only exact to a second).
    """

    path: str
    size: int
    modified_at: datetime
    etag: str | None = None


@dataclass(frozen=True)
class Listing:
    """The content of a landing zone: files by path, and what is skipped, with the reason by path.

    A file that cannot be taken in never blocks the others.
    """

    files: list[FileInfo]
    skipped: dict[str, str]


class Zone(Protocol):
    """A place where files land: a folder or a bucket."""

    @property
    def files_appear_complete(self) -> bool:
        """Whether a file appears only when it is complete, so that no settling time is needed."""
        ...

    def scan(self, folders: Collection[str]) -> Listing:
        """Every file below any of `folders` (`""`: everywhere), by path.

        A missing landing zone is empty.
        """
        ...

    def seen(self, path: str) -> FileInfo:
        """The current state of a file. Raises LostFile."""
        ...

    def file(self, seen: FileInfo) -> AbstractContextManager[Path]:
        """A local file with its content. Raises LostFile, or StillGrowing if the content changed."""
        ...


@cache
def zone_at(root: str) -> Zone:
    """The landing zone at a root; the same object in the whole process."""
    return BucketLandingZone(root) if in_bucket(root) else FolderLandingZone(root)


@dataclass(frozen=True)
class FolderLandingZone:
    """A landing zone on this machine."""

    root: str
    files_appear_complete = False

    def scan(self, folders: Collection[str]) -> Listing:
        """Every file, also in folders and by links to files of the zone.

        Skipped: links that lead out of the zone, to a folder or nowhere; pipes, sockets and devices; what the
        platform's user may not list or read.
        """
        found = dict(entry for folder in folders for entry in self._scan_folder(folder))
        files = [seen for _, seen in sorted(found.items()) if isinstance(seen, FileInfo)]
        return Listing(files, {path: why for path, why in sorted(found.items()) if isinstance(why, str)})

    def _scan_folder(self, folder: str) -> Iterator[tuple[str, FileInfo | str]]:
        """Each path with its file, or with the reason why it is skipped."""
        if linked := self._link_in_path(folder):
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
                elif (found := self._entry_info(path, entry)) is not None:
                    yield path, found

    def _link_in_path(self, folder: str) -> tuple[str, str] | None:
        """The first part of a folder's path that is a link, with the reason why the folder is skipped."""
        above = [str(f) for f in PurePosixPath(folder).parents][-2::-1]
        for path in (*above, folder) if folder else ():
            place = Path(self.root, path)
            if place.is_symlink():
                out = not self._is_inside(str(place))
                return path, "a link that leads out of the landing zone" if out else "a link to a folder"
        return None

    def _entry_info(self, path: str, entry: os.DirEntry[str]) -> FileInfo | str | None:
        try:
            facts = entry.stat()
        except OSError:
            return "a link that leads nowhere" if entry.is_symlink() else None  # gone since it was listed
        if entry.is_symlink() and not self._is_inside(entry.path):
            return "a link that leads out of the landing zone"
        if not stat.S_ISREG(facts.st_mode):
            return _KINDS.get(stat.S_IFMT(facts.st_mode), "no file")
        if not os.access(entry.path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            return "the file may not be read (Permission denied)"
        return FileInfo(path, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC))

    def _is_inside(self, path: str) -> bool:
        """Whether a path, with all links resolved, is inside the landing zone."""
        return Path(path).resolve().is_relative_to(Path(self.root).resolve())

    def seen(self, path: str) -> FileInfo:
        """A file's size and the time of its last change."""
        with self._open_safely(path) as file:
            facts = os.fstat(file)
        return FileInfo(path, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC))

    @contextmanager
    def file(self, seen: FileInfo) -> Generator[Path]:
        """A path to the opened file, even if another file takes its place meanwhile.

        A copy, if the system cannot reopen an open file by a path.
        """
        with self._open_safely(seen.path) as file:
            if _can_reopen():
                yield _path_of_open_file(file)
                return
            with TemporaryDirectory(prefix="medallion-landing-") as folder:
                copy = Path(folder) / "file"
                with os.fdopen(os.dup(file), "rb") as opened, copy.open("wb") as to:
                    shutil.copyfileobj(opened, to)
                yield copy

    @contextmanager
    def _open_safely(self, path: str) -> Generator[int]:
        """Open a file so that nobody can replace it between the check and the opening.

        Links are resolved first. The resolved path is then opened folder by folder from the landing zone on,
        without following links.

        Raises:
            LostFile: it is gone, cannot be read, is no file, or is outside the landing zone.
        """
        root = Path(self.root).resolve()
        place = (root / path).resolve()
        if not place.is_relative_to(root):
            raise LostFile(path, "a link that leads out of the landing zone is in its place", why=Damage.LINK)
        *folders, name = place.relative_to(root).parts or ("",)
        with ExitStack() as stack:
            try:
                at = _open_below(stack, str(root), os.O_DIRECTORY, None)
                for folder in folders:
                    at = _open_below(stack, folder, os.O_DIRECTORY | os.O_NOFOLLOW, at)
                file = _open_below(stack, name, os.O_NOFOLLOW | os.O_NONBLOCK, at)
            except FileNotFoundError:
                raise LostFile(
                    path, "the file was removed before it could be read", why=Damage.REMOVED
                ) from None
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    reason = "a link was put in its place while it was opened"
                    raise LostFile(path, reason, why=Damage.LINK) from None
                raise LostFile.refused(path, error) from error
            if not stat.S_ISREG(os.fstat(file).st_mode):
                kind = _KINDS.get(stat.S_IFMT(os.fstat(file).st_mode), "no file")
                raise LostFile(path, kind, why=Damage.NO_FILE)
            yield file


def _open_below(stack: ExitStack, name: str, flags: int, folder: int | None) -> int:
    opened = os.open(name, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=folder)
    stack.callback(os.close, opened)
    return opened


def _path_of_open_file(file: int) -> Path:
    return Path(f"/dev/fd/{file}")


@cache
def _can_reopen() -> bool:
    """Whether the path of an open file opens it again from the start: on Linux, but not on a Mac."""
    with NamedTemporaryFile(prefix="medallion-") as file:
        file.write(b"12")
        file.flush()
        try:
            with _path_of_open_file(file.fileno()).open("rb") as again:
                return again.read() == b"12"
        except OSError:
            return False


@dataclass
class BucketLandingZone:
    """A landing zone in a bucket. Files are downloaded before they are read, and cached up to a size.

    A process that scans repeatedly lists all names every `full_listing_seconds`, and in between only the
    names after the last one of each folder: earlier names, and new content under an old name, are found by
    the next full listing.
    """

    root: str
    full_listing_seconds: float = FULL_LISTING_SECONDS
    files_appear_complete = True
    _listed: dict[str, _FolderListing] = field(default_factory=dict)
    _downloads: TemporaryDirectory[str] = field(
        default_factory=lambda: TemporaryDirectory(prefix="medallion-landing-")
    )

    def scan(self, folders: Collection[str]) -> Listing:
        """Every object, without the empty ones that consoles and Hadoop create for folders.

        Skipped: objects whose key this client cannot request.
        """
        with _refuse_unavailable(self.root):
            found = [self._update_folder_listing(folder) for folder in folders]
        files = {path: seen for listed in found for path, seen in listed.files.items()}
        skipped = {path: why for listed in found for path, why in listed.skipped.items()}
        return Listing([files[path] for path in sorted(files)], dict(sorted(skipped.items())))

    def _update_folder_listing(self, folder: str) -> _FolderListing:
        """List what is new in a folder, or all of it when that is due; returns all that is known of it."""
        known = self._listed.get(folder)
        if known is None or time.monotonic() - known.at > self.full_listing_seconds:
            known = _FolderListing(time.monotonic(), {}, {})
        new_objects, skipped = self._list_objects(folder, max(known.files, default=None))
        above = _folders_of(o["path"] for o in new_objects)
        for o in new_objects:
            size, path = o["size"], o["path"]
            if not size and path.endswith(_HADOOP_FOLDER):
                skipped[path] = None
            elif (not size or path in above or _REPLACEMENT in path) and not file_exists(self.root, path):
                skipped[path] = _OTHER_KEY if size else None
        files = {o["path"]: _file_info(o) for o in new_objects if o["path"] not in skipped}
        reasons = {path: why for path, why in skipped.items() if why is not None}
        self._listed[folder] = _FolderListing(known.at, known.files | files, known.skipped | reasons)
        return self._listed[folder]

    def _list_objects(self, folder: str, after: str | None) -> tuple[list[ObjectMeta], dict[str, str | None]]:
        """The objects of a folder whose keys sort after one; and by key, why others are skipped."""
        from obstore.exceptions import InvalidPathError

        try:
            return list(store(self.root).list(folder or None, offset=after).collect()), {}
        except InvalidPathError:  # one such key, and nothing of the list is told
            keys = [key for key in self._all_keys(folder) if after is None or key > after]
        found = dict(zip(keys, run_in_parallel(self._object_info, keys), strict=True))
        skipped: dict[str, str | None] = {key: told for key, told in found.items() if isinstance(told, str)}
        return [told for told in found.values() if told and not isinstance(told, str)], skipped

    def _all_keys(self, folder: str) -> list[str]:
        try:
            return keys_below(self.root, folder)
        except OSError as error:
            raise _unavailable(self.root, error) from error

    def _object_info(self, key: str) -> ObjectMeta | str | None:
        """The metadata of an object, the reason why it cannot be requested, or None if it is gone."""
        try:
            return store(self.root).head(key)
        except ValueError:
            return _UNUSABLE
        except FileNotFoundError:
            return _OTHER_KEY if _REPLACEMENT in key else None

    def seen(self, path: str) -> FileInfo:
        """An object's size, time and ETag."""
        with _refuse_unavailable(self.root):
            try:
                return _file_info(store(self.root).head(path))
            except FileNotFoundError:
                raise LostFile(path, _DELETED, why=Damage.REMOVED) from None

    @contextmanager
    def file(self, seen: FileInfo) -> Generator[Path]:
        """The object, downloaded."""
        local = Path(self._downloads.name) / text_digest(seen.path, seen.etag or "")
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
        with _refuse_unavailable(self.root), part.open("wb") as file:
            try:
                for piece in store(self.root).get(seen.path, options={"if_match": seen.etag}):
                    file.write(piece)
            except PreconditionError:
                raise StillGrowing(seen.path) from None
            except FileNotFoundError:
                raise LostFile(seen.path, _DELETED, why=Damage.REMOVED) from None
        part.replace(local)


@dataclass(frozen=True)
class _FolderListing:
    """The listing of a folder in a bucket; complete at the time `at` (monotonic seconds)."""

    at: float
    files: dict[str, FileInfo]
    skipped: dict[str, str]


def _folders_of(paths: Iterable[str]) -> set[str]:
    """The folders of these files, and their parent folders."""
    below = {path.rpartition("/")[0] for path in paths}
    return below | {str(above) for folder in below for above in PurePosixPath(folder).parents}


def _file_info(found: ObjectMeta) -> FileInfo:
    return FileInfo(found["path"], found["size"], found["last_modified"], found["e_tag"])


@contextmanager
def _refuse_unavailable(root: str) -> Generator[None]:
    """Raise Unavailable if the bucket does not answer in the `with` block; none of its files is lost."""
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        raise _unavailable(root, error) from error


def _unavailable(root: str, error: Exception) -> Unavailable:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    return Unavailable(
        f"the landing zone {root} cannot be reached: {client_reason(error)}. Nothing was taken in",
        kind=Kind.AUTH if refused else Kind.NETWORK,
        remedy="run it again",
    )
