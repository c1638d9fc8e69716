"""Scans a landing zone: which files are there, which source claims each, and which are complete.

`scan`, `all_files` and `digest_of` read the landing zone; `sort_out` and `register` only decide, and are
pure.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from hashlib import blake2b
from pathlib import Path

from medallion_platform.sources.connectors.files import FileSource, FileVersion, folders_of
from medallion_platform.sources.connectors.zones import FileInfo, zone_at
from medallion_platform.sources.errors import LostFile, StillGrowing

REPEATED = "repeated"
SETTLE_SECONDS = 10.0
UNFINISHED_ENDINGS = (
    ".tmp",
    ".temp",
    ".part",
    ".partial",
    ".filepart",
    ".crdownload",
    ".download",
    ".uploading",
    ".inprogress",
    ".incomplete",
    ".swp",
    "._copying_",
    "~",
)
_READ = 2**20
_NO_NAME = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's categories of what has no place in a name: controls, bytes that are not UTF-8, ends of lines."""


@dataclass(frozen=True)
class LandingScan:
    """What stands in a landing zone. Everything is in exactly one of the five."""

    claimed: Mapping[str, tuple[FileInfo, ...]]
    """Complete files by the name of the source that claims them, oldest first."""
    unclaimed: tuple[str, ...]
    """Files that no source claims."""
    contested: Mapping[str, tuple[str, ...]]
    """Files that several sources claim, with the names of these: none of them may take it."""
    unfinished: tuple[str, ...]
    """Files that are still being written, by their name or by the time of their last change."""
    left: Mapping[str, str] = field(default_factory=dict)
    """What no source can take in, whoever claims it, and why: a link that leads out, a pipe, a folder that
    may not be listed, a name with a line end."""


def scan(
    landing: Path | str,
    sources: Collection[FileSource],
    now: datetime,
    settle_seconds: float = SETTLE_SECONDS,
    *,
    claimed_only: bool = False,
) -> LandingScan:
    """What stands in the landing zone `landing` at the time `now` (with a time zone).

    claimed_only: what lies outside of the folders that the sources name need not be listed.
    """
    zone = zone_at(str(landing))
    there = zone.scan(folders_of(c for s in sources for c in s.globs) if claimed_only else [""])
    found = sort_out(there.files, sources, now, 0 if zone.whole_at_once else settle_seconds)
    return replace(found, left={_shown(path): why for path, why in there.left.items()} | dict(found.left))


def all_files(landing: Path | str) -> list[FileInfo]:
    """Every file in a landing zone, also in folders; an absent zone is an empty one."""
    return zone_at(str(landing)).scan([""]).files


def sort_out(
    files: Iterable[FileInfo], sources: Iterable[FileSource], now: datetime, settle_seconds: float
) -> LandingScan:
    """Whose each file is, and which are complete. Pure."""
    sources = tuple(sources)
    firsts = [{f.partition("/")[0] for c in s.globs for f in folders_of([c])} for s in sources]

    @cache
    def near_to(first: str) -> tuple[FileSource, ...]:
        """The sources that may claim what lies in a folder of the landing zone itself."""
        return tuple(s for s, own in zip(sources, firsts, strict=True) if own & {first, ""})

    claimed: dict[str, list[FileInfo]] = {source.name: [] for source in sources}
    unclaimed: list[str] = []
    contested: dict[str, tuple[str, ...]] = {}
    unfinished: list[str] = []
    left: dict[str, str] = {}
    for file in files:
        if unfinished_name(file.path):
            unfinished.append(file.path)
            continue
        near = near_to(file.path.partition("/")[0])
        owners = tuple(source.name for source in near if source.claims_path(file.path))
        if len(owners) > 1:
            contested[file.path] = owners
        elif not owners:
            unclaimed.append(_shown(file.path))
        elif any(unicodedata.category(c) in _NO_NAME for c in file.path):
            left[_shown(file.path)] = "its name holds a control character or is not UTF-8: rename it"
        elif abs(now - file.modified_at) < timedelta(seconds=settle_seconds):
            unfinished.append(file.path)
        else:
            claimed[owners[0]].append(file)
    return LandingScan(
        {n: tuple(sorted(f, key=lambda s: (s.modified_at, s.path))) for n, f in claimed.items()},
        tuple(unclaimed),
        contested,
        tuple(unfinished),
        left,
    )


def _shown(path: str) -> str:
    """A path in text that can be printed, whatever it holds."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in path)


def unfinished_name(path: str) -> bool:
    """Whether a path says by itself that its file is hidden or not complete. Pure."""
    return hidden(path) or path.lower().endswith(UNFINISHED_ENDINGS)


def hidden(path: str) -> bool:
    """Whether a path is a marker that other tools leave (`_SUCCESS`, `.gitkeep`), or below one. Pure."""
    return any(part.startswith((".", "_")) for part in path.split("/"))


def digest_of(landing: Path | str, seen: FileInfo) -> str:
    """The digest of a file's content.

    Raises StillGrowing where the file is no longer as it was seen, LostFile where it cannot be read.
    """
    zone = zone_at(str(landing))
    made = blake2b(digest_size=20)
    try:
        with zone.file(seen) as path, path.open("rb", buffering=0) as file:
            buffer = memoryview(bytearray(_READ))
            while count := file.readinto(buffer):
                made.update(buffer[:count])
    except OSError as error:
        raise LostFile(seen.path, error.strerror or str(error)) from error
    if zone.seen(seen.path) != seen:
        raise StillGrowing(seen.path)
    return made.hexdigest()


def wanted(
    known: Iterable[FileVersion], candidates: Iterable[FileInfo], missing: Mapping[str, int]
) -> list[FileInfo]:
    """The candidates that must be read: one that looks as its latest version did need not be. Pure.

    Unless the content of that version is `missing`.
    """
    current = {v.path: looks(v) for v in latest(known).values() if v.digest not in missing}
    return [seen for seen in candidates if current.get(seen.path) != looks(seen)]


def looks(file: FileInfo | FileVersion) -> tuple[int, str | datetime]:
    """What changes with a file's content: its size, and its ETag where there is one, else its time. Pure."""
    return file.size, file.etag or file.modified_at


def latest(versions: Iterable[FileVersion]) -> dict[str, FileVersion]:
    """The latest version of each path. Pure."""
    return {v.path: v for v in sorted(versions, key=lambda v: v.sequence)}


def missing(known: Iterable[FileVersion], lost: Mapping[int, int]) -> dict[str, int]:
    """The contents that were not taken whole, by digest: the row from which on each is wanted. Pure.

    `lost` says it of versions, by sequence. A content that was registered again since is not missing.
    """
    read = (v for v in known if v.state != REPEATED)
    last = {v.digest: v.sequence for v in sorted(read, key=lambda v: v.sequence)}
    return {digest: lost[sequence] for digest, sequence in last.items() if sequence in lost}


def register(
    known: Sequence[FileVersion], found: Iterable[tuple[FileInfo, str]], missing: Mapping[str, int]
) -> list[FileVersion]:
    """Which (file, digest) are new lines of the file registry. Pure.

    A content that stands under any name as its latest version adds nothing: under another name, or under its
    own at another time, it is `repeated`, and need not be read again. Another content under a known name is a
    new version, also one that the name had before: a file that goes back says something new. A content that
    is `missing` is wanted, once, by whatever name it comes. Sequence numbers go on from the highest that is
    known.
    """
    newest = latest(known)
    last = {path: version.digest for path, version in newest.items()}
    read = latest(v for v in known if v.state != REPEATED)
    current = {path: version.digest for path, version in read.items()}
    names = Counter(current.values())
    taken = {version.digest for version in known}
    wanted = dict(missing)
    sequence = max((version.sequence for version in known), default=0)
    versions: list[FileVersion] = []
    for seen, digest in found:
        own = current.get(seen.path)
        first_row = wanted.pop(digest, None)
        touched = first_row is None and last.get(seen.path) == digest
        if touched and (seen.path not in newest or looks(newest[seen.path]) == looks(seen)):
            continue
        sequence += 1
        copy = touched or (first_row is None and (names[digest] > 0 or (own is None and digest in taken)))
        state = REPEATED if copy else "again" if first_row else "new" if own is None else "new version"
        version = FileVersion(sequence, seen.path, digest, seen.size, seen.modified_at, state, etag=seen.etag)
        versions.append(replace(version, first_row=first_row or 1))
        last[seen.path] = digest
        if copy:
            continue
        current[seen.path] = digest
        names.update((digest,))
        if own is not None:
            names.subtract((own,))
        taken.add(digest)
    return versions
