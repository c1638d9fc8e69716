"""What changed since a version, read from the Delta log."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.lakehouse.commit_record import UNPARTITIONED
from medallion_platform.lakehouse.delta_log import Commit, LogGone, commits, touched

UNITS = ["a", "b", "c"]
some_partitions = st.frozensets(st.sampled_from(UNITS), max_size=3)


@st.composite
def histories(draw: st.DrawFn) -> list[Commit]:
    found = []
    for version in range(1, draw(st.integers(0, 6)) + 1):
        rewritten = draw(some_partitions)
        found.append(Commit(version, draw(some_partitions) - rewritten, rewritten))
    return found


@given(histories(), st.integers(0, 6), st.dictionaries(st.sampled_from(UNITS), st.integers(0, 6)))
def test_each_partition_is_read_from_the_version_it_was_made_from(
    history: list[Commit], base: int, ahead: dict[str, int]
) -> None:
    ahead = {u: v for u, v in ahead.items() if v >= base}
    found = touched(history, base, ahead)
    for partition in UNITS:
        inputs = ahead.get(partition, base)
        later = [c for c in history if c.version > inputs]
        rewritten = any(partition in c.rewritten for c in later)
        appended = any(partition in c.appended for c in later)
        assert (partition in found.rewritten) == rewritten
        assert (partition in found.appended) == (appended and not rewritten)
        assert (partition in found.all) == (appended or rewritten)


def test_a_commit_reaches_every_partition_that_is_made_from_it() -> None:
    history = [Commit(1, frozenset("a")), Commit(2, frozenset("b"), frozenset("a"))]
    reach = {"a": "AW", "b": "BW"}
    found = touched(history, 0, {"W": 1}, lambda partition: reach[partition])
    assert (found.appended, found.rewritten) == ({"B"}, {"A", "W"})
    found = touched(history, 0, {"W": 2, "A": 2}, lambda partition: reach[partition])
    assert (found.appended, found.rewritten) == ({"B"}, set())


def write(path: Path, days: list[str], mode: str = "append", predicate: str | None = None) -> None:
    frame = pl.DataFrame({"day": days, "n": list(range(len(days)))})
    write_deltalake(path, frame, mode=mode, partition_by=["day"], predicate=predicate)  # type: ignore[call-overload]


def test_appends_rewrites_and_compaction_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, ["a", "b"])
    write(tmp_path, ["a"])
    write(tmp_path, ["b", "b"], "overwrite", "day = 'b'")
    DeltaTable(tmp_path).optimize.compact()
    DeltaTable(tmp_path).delete("day = 'a' and n = 0")
    by_day = list(commits(str(tmp_path), -1, 4, "day"))
    assert [(c.appended, c.rewritten) for c in by_day] == [
        ({"a", "b"}, set()),
        ({"a"}, set()),
        (set(), {"b"}),
        (set(), set()),
        (set(), {"a"}),
    ]
    whole = list(commits(str(tmp_path), 0, 3, None))
    assert [(c.appended, c.rewritten) for c in whole] == [
        ({UNPARTITIONED}, set()),
        (set(), {UNPARTITIONED}),
        (set(), set()),
    ]


def test_a_null_partition_is_the_whole(tmp_path: Path) -> None:
    frame = pl.DataFrame({"day": [None, "a"], "n": [1, 2]}, schema={"day": pl.String, "n": pl.Int64})
    write_deltalake(tmp_path, frame, partition_by=["day"])
    assert next(commits(str(tmp_path), -1, 0, "day")).appended == {UNPARTITIONED, "a"}


@pytest.mark.failure("position_lost")
def test_a_commit_that_was_cleaned_up_is_missed(tmp_path: Path) -> None:
    for _ in range(3):
        write(tmp_path, ["a"])
    (tmp_path / "_delta_log" / f"{1:020d}.json").unlink()
    with pytest.raises(LogGone):
        list(commits(str(tmp_path), 0, 2, "day"))
    assert next(iter(commits(str(tmp_path), 1, 2, "day"))).appended == {"a"}
