"""The memory of a container, by the files of both versions of control groups; the highest of many looks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from medallion_platform.observability.container_memory import memory_limit, memory_used, watch_peak

ONE = {
    "memory/memory.limit_in_bytes": "1073741824\n",
    "memory/memory.usage_in_bytes": "700\n",
    "memory/memory.stat": "cache 500\ninactive_file 7\ntotal_inactive_file 200\n",
}
TWO = {"memory.max": "1073741824\n", "memory.current": "700\n", "memory.stat": "anon 5\ninactive_file 200\n"}


def group_of(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("files", [ONE, TWO], ids=["first version", "second version"])
def test_a_limit_and_what_is_used_without_the_cache_that_can_be_taken(
    tmp_path: Path, files: dict[str, str]
) -> None:
    group = group_of(tmp_path, files)
    assert memory_limit(group) == 1 << 30
    assert memory_used(group) == 500


@pytest.mark.parametrize(
    "files", [{"memory.max": "max\n"}, {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, {}]
)
def test_where_nobody_set_one_there_is_no_limit(tmp_path: Path, files: dict[str, str]) -> None:
    assert memory_limit(group_of(tmp_path, files)) is None
    assert memory_used(tmp_path) == 0


def test_the_peak_is_the_highest_of_many_looks() -> None:
    seen = iter([3, 7, 5])
    with watch_peak(lambda: next(seen), every=0.001) as peak:
        while seen.__length_hint__():
            time.sleep(0.001)
    assert peak() == 7, "looks that fail, as those after the last one here, change nothing"


def test_however_short_the_work_there_are_two_looks() -> None:
    seen: list[int] = []

    def look() -> int:
        seen.append(1)
        return len(seen)

    with watch_peak(look, every=3600) as peak:
        pass
    assert peak() == 2
