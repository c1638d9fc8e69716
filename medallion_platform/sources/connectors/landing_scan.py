"""Scans a landing zone: which files are there, which source claims each, and which are complete.

`scan_landing_zone`, `all_files` and `file_digest` read the landing zone; `sort_files` and `new_file_versions`
only decide, and are pure.
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

from medallion_platform.sources.connectors.files import (
    FileSource,
    FileVersion,
    folders_of_globs,
    is_unfinished_name,
)
from medallion_platform.sources.connectors.landing_zones import FileInfo, zone_at
from medallion_platform.sources.errors import LostFile, StillGrowing

REPEATED = "repeated"
SETTLE_SECONDS = 10.0
_READ = 2**20
_NO_NAME = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's categories of what has no place in a name: controls, bytes that are not UTF-8, ends of lines."""


@dataclass(frozen=True)
class LandingScan:
    """The content of a landing zone. Everything is in exactly one of the five fields."""

    claimed: Mapping[str, tuple[FileInfo, ...]]
    """Complete files by the name of the source that claims them, oldest first."""
    unclaimed: tuple[str, ...]
    """Files that no source claims."""
    contested: Mapping[str, tuple[str, ...]]
    """Files that several sources claim, with the names of these: none of them may take it."""
    unfinished: tuple[str, ...]
    """Files that are still being written, by their name or by the time of their last change."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """What no source can take in, whoever claims it, and why: a link that leads out, a pipe, a folder that
    may not be listed, a name with a line end."""


def scan_landing_zone(
    landing: Path | str,
    sources: Collection[FileSource],
    now: datetime,
    settle_seconds: float = SETTLE_SECONDS,
    *,
    claimed_only: bool = False,
) -> LandingScan:
    """The content of the landing zone `landing` at the time `now` (with a time zone).

    claimed_only: list only the folders that the sources claim.
    """
    zone = zone_at(str(landing))
    there = zone.scan(folders_of_globs(c for s in sources for c in s.globs) if claimed_only else [""])
    found = sort_files(there.files, sources, now, 0 if zone.files_appear_complete else settle_seconds)
    return replace(
        found,
        skipped={_printable_path(path): why for path, why in there.skipped.items()} | dict(found.skipped),
    )


def all_files(landing: Path | str) -> list[FileInfo]:
    """Every file in a landing zone and its folders; a missing landing zone is empty."""
    return zone_at(str(landing)).scan([""]).files


def sort_files(
    files: Iterable[FileInfo], sources: Iterable[FileSource], now: datetime, settle_seconds: float
) -> LandingScan:
    """Which source claims each file, and which files are complete. Pure."""
    sources = tuple(sources)
    firsts = [{f.partition("/")[0] for c in s.globs for f in folders_of_globs([c])} for s in sources]

    @cache
    def near_to(first: str) -> tuple[FileSource, ...]:
        """The sources that may claim files in this top-level folder of the landing zone."""
        return tuple(s for s, own in zip(sources, firsts, strict=True) if own & {first, ""})

    claimed: dict[str, list[FileInfo]] = {source.name: [] for source in sources}
    unclaimed: list[str] = []
    contested: dict[str, tuple[str, ...]] = {}
    unfinished: list[str] = []
    skipped: dict[str, str] = {}
    for file in files:
        if is_unfinished_name(file.path):
            unfinished.append(file.path)
            continue
        near = near_to(file.path.partition("/")[0])
        owners = tuple(source.name for source in near if source.claims_path(file.path))
        if len(owners) > 1:
            contested[file.path] = owners
        elif not owners:
            unclaimed.append(_printable_path(file.path))
        elif any(unicodedata.category(c) in _NO_NAME for c in file.path):
            skipped[_printable_path(file.path)] = (
                "its name holds a control character or is not UTF-8: rename it"
            )
        elif abs(now - file.modified_at) < timedelta(seconds=settle_seconds):
            unfinished.append(file.path)
        else:
            claimed[owners[0]].append(file)
    return LandingScan(
        {n: tuple(sorted(f, key=lambda s: (s.modified_at, s.path))) for n, f in claimed.items()},
        tuple(unclaimed),
        contested,
        tuple(unfinished),
        skipped,
    )


def _printable_path(path: str) -> str:
    """A path as printable text, whatever characters it has."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in path)


def file_digest(landing: Path | str, seen: FileInfo) -> str:
    """The digest of a file's content.

    Raises StillGrowing if the file changed since it was seen, LostFile if it cannot be read.
    """
    zone = zone_at(str(landing))
    hasher = blake2b(digest_size=20)
    try:
        with zone.file(seen) as path, path.open("rb", buffering=0) as file:
            buffer = memoryview(bytearray(_READ))
            while count := file.readinto(buffer):
                hasher.update(buffer[:count])
    except OSError as error:
        raise LostFile.refused(seen.path, error) from error
    if zone.seen(seen.path) != seen:
        raise StillGrowing(seen.path)
    return hasher.hexdigest()


def wanted(
    known: Iterable[FileVersion], candidates: Iterable[FileInfo], missing: Mapping[str, int]
) -> list[FileInfo]:
    """The candidates that must be read: those that differ from the latest known version of their path. Pure.

    A candidate whose content is `missing` must be read in any case.
    """
    current = {
        v.path: file_fingerprint(v) for v in latest_versions(known).values() if v.digest not in missing
    }
    return [seen for seen in candidates if current.get(seen.path) != file_fingerprint(seen)]


def file_fingerprint(file: FileInfo | FileVersion) -> tuple[int, str | datetime]:
    """A value that changes with a file's content: its size, and its ETag or else its time. Pure."""
    return file.size, file.etag or file.modified_at


def latest_versions(versions: Iterable[FileVersion]) -> dict[str, FileVersion]:
    """The latest version of each path. Pure."""
    return {v.path: v for v in sorted(versions, key=lambda v: v.sequence)}


def missing(known: Iterable[FileVersion], lost: Mapping[int, int]) -> dict[str, int]:
    """The contents that were not taken in completely: digest -> the first missing row. Pure.

    lost: the same by sequence number of the version. A content that was registered again is not missing.
    """
    read = (v for v in known if v.state != REPEATED)
    last = {v.digest: v.sequence for v in sorted(read, key=lambda v: v.sequence)}
    return {digest: lost[sequence] for digest, sequence in last.items() if sequence in lost}


def new_file_versions(
    known: Sequence[FileVersion], found: Iterable[tuple[FileInfo, str]], missing: Mapping[str, int]
) -> list[FileVersion]:
    """The new lines of the file registry for these (file, digest) pairs. Pure.

    A content that is the latest version of any path adds nothing: under another path, or under its own path
    at another time, it is `repeated` and is not read again. Another content under a known path is a new
    version, even if the path had this content before. A `missing` content is taken in once, under any path.
    Sequence numbers continue after the highest known one.
    """
    newest = latest_versions(known)
    last = {path: version.digest for path, version in newest.items()}
    read = latest_versions(v for v in known if v.state != REPEATED)
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
        if touched and (
            seen.path not in newest or file_fingerprint(newest[seen.path]) == file_fingerprint(seen)
        ):
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
