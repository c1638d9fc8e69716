"""What a container may use, by the files of both versions of control groups; the highest of many looks."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from medallion_platform.container import cores, memory_kills, memory_limit, memory_used, watch_peak

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


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        ({"memory.events": "low 0\nhigh 4\nmax 9\noom 3\noom_kill 2\n"}, 2),
        ({"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"}, 2),
        ({"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n"}, 0),
        ({}, 0),
    ],
)
def test_what_the_system_killed_is_counted(tmp_path: Path, files: dict[str, str], kills: int) -> None:
    assert memory_kills(group_of(tmp_path, files)) == kills


@pytest.mark.parametrize("spelt", ["second version", "first version"])
@pytest.mark.parametrize(("quota", "expected"), [(200_000, 2), (150_000, 2), (50_000, 1), (1_600_000, 8)])
def test_cores_are_those_of_the_limit_and_no_more_than_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelt: str, quota: int, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    first = {"cpu/cpu.cfs_quota_us": f"{quota}\n", "cpu/cpu.cfs_period_us": "100000\n"}
    files = first if spelt == "first version" else {"cpu.max": f"{quota} 100000\n"}
    assert cores(group_of(tmp_path, files)) == expected


@pytest.mark.parametrize(
    "files",
    [{"cpu.max": "max 100000\n"}, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, {}],
)
def test_without_a_limit_all_cores_that_the_process_may_use_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert cores(group_of(tmp_path, files)) == 2


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
