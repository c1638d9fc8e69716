"""The table of memory uses: appends of many writers at once, a read of one open, few rows in the end."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.memory_uses import MEMORY_USES, MemoryUse, append, condense, read

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
USE = MemoryUse("gold.sums", "r", NOON, "driver", 4 << 30, 3 << 30, "fitted")


def numbered(writer: int, n: int) -> MemoryUse:
    return replace(USE, run_id=f"{writer}-{n}", at=NOON + timedelta(seconds=n))


def newest(uses: Sequence[MemoryUse]) -> list[MemoryUse]:
    return [replace(uses[-1], outcome="learned")]


def write_many(root: Path, writer: int) -> None:
    for n in range(10):
        append(Lake(root), [numbered(writer, n)])


def test_rows_come_back_as_they_were_the_earliest_first(lake: Lake) -> None:
    assert read(lake) == []
    late = replace(USE, at=NOON + timedelta(hours=1), where="executor", outcome="killed")
    append(lake, [late])
    append(lake, [USE])
    append(lake, [])
    assert read(lake) == [USE, late]
    assert lake.tables() == [], "it is no table of the project"


def test_writers_of_many_processes_lose_nothing(lake: Lake) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(Path(lake.root), n)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {use.run_id for use in read(lake)} == {f"{w}-{n}" for w in range(4) for n in range(10)}
    assert len(read(lake)) == 40


def test_a_read_opens_the_table_once_and_again_only_after_a_change(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(lake, [USE])
    opened: list[str] = []
    found, real = [], Lake.open

    def open_counted(self: Lake, table: str, version: int | None = None) -> object:
        opened.append(table)
        return real(self, table, version)

    monkeypatch.setattr(Lake, "open", open_counted)
    for _ in range(3):
        found += read(lake)
    assert len(opened) == 1
    append(lake, [replace(USE, run_id="other")])
    before = len(opened)
    assert len(read(lake)) == 2
    assert len(opened) == before, "only what was added is read"
    assert found == [USE] * 3


def test_rows_that_decide_nothing_make_room_and_those_added_meanwhile_stay(lake: Lake) -> None:
    append(lake, [numbered(1, n) for n in range(50)])

    def and_somebody_appends(uses: Sequence[MemoryUse]) -> list[MemoryUse]:
        append(lake, [numbered(2, 99)])
        return newest(uses)

    condense(lake, and_somebody_appends, "m", NOON)
    assert read(lake) == [replace(numbered(1, 49), outcome="learned"), numbered(2, 99)]
    version = lake.version(MEMORY_USES)
    condense(lake, lambda uses: uses, "m", NOON)
    assert lake.version(MEMORY_USES) == version, "nothing to do: no commit"


@pytest.mark.failure("conflict")
def test_of_two_that_make_room_one_does_it(lake: Lake) -> None:
    append(lake, [numbered(1, n) for n in range(50)])

    def and_somebody_else_too(uses: Sequence[MemoryUse]) -> list[MemoryUse]:
        condense(lake, newest, "other", NOON)
        return newest(uses)

    with pytest.raises(CommitConflict):
        condense(lake, and_somebody_else_too, "m", NOON)
    assert read(lake) == [replace(numbered(1, 49), outcome="learned")]


def test_where_there_is_no_table_none_is_made(lake: Lake) -> None:
    condense(lake, newest, "m", NOON)
    assert not lake.exists(MEMORY_USES)


def test_columns_of_a_newer_version_are_left_out(lake: Lake) -> None:
    append(lake, [USE])
    rows = pl.read_delta(lake.path(MEMORY_USES)).with_columns(further=pl.lit(1))
    options = {"schema_mode": "overwrite"}
    rows.write_delta(lake.path(MEMORY_USES), mode="overwrite", delta_write_options=options)
    assert read(lake) == [USE]
