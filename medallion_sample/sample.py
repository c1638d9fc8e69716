"""A landing zone of realistically dirty sample files, the same bytes from every call.

Writing is atomic file by file: what is there under its final name is whole, and a call after a
kill finishes what the first one began. No engine is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from medallion_sample.clickstream import sample as clickstream
from medallion_sample.hr import sample as hr
from medallion_sample.sample_file import SampleFile


@dataclass(frozen=True)
class Sample:
    """What was written. `planted` counts the dirt: source, then kind of dirt, then records."""

    files: int
    bytes: int
    first_at: datetime
    last_at: datetime
    planted: Mapping[str, Mapping[str, int]]


def write_sample(landing: Path, seed: int = 2026) -> Sample:
    """Write the sample of all domains into the landing zone `landing`, which may not exist yet."""
    planted: dict[str, dict[str, int]] = {}
    files = 0
    size = 0
    times: list[datetime] = []
    for file in sample_files(planted, seed):
        _write(landing, file)
        files += 1
        size += len(file.content)
        times.append(file.modified_at)
    return Sample(files, size, min(times), max(times), planted)


def sample_files(planted: dict[str, dict[str, int]], seed: int = 2026) -> Iterator[SampleFile]:
    """The files of all domains, in order of arrival within each; counts the dirt in `planted`."""
    yield from _in_order(clickstream.files(planted, seed))
    yield from _in_order(hr.files(planted, seed))


def _in_order(files: Iterable[SampleFile]) -> list[SampleFile]:
    return sorted(files, key=lambda file: (file.modified_at, file.path))


def _write(landing: Path, file: SampleFile) -> None:
    target = landing / file.path
    if not (target.is_file() and target.read_bytes() == file.content):
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.part")
        unfinished.write_bytes(file.content)
        _set_time(unfinished, file.modified_at)
        unfinished.replace(target)
    elif target.stat().st_mtime != file.modified_at.timestamp():
        _set_time(target, file.modified_at)


def _set_time(path: Path, at: datetime) -> None:
    """Files arrive in the order of their times, which intake keeps."""
    os.utime(path, (at.timestamp(), at.timestamp()))
