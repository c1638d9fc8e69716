"""A table that is made again, and wrong: it is noticed, and taken back. A commit stands for the refresh."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from medallion_platform.lakehouse.commit import commit_files, next_sequence, write_parquet_file
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.damaged_files import DamagedFile, verify_table
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.pipeline import repair as repairing
from medallion_platform.pipeline.refresh.commit import RefreshResult
from medallion_platform.pipeline.repair import Repaired, repair
from medallion_platform_tests.pipeline.shop import SHOP, days
from medallion_platform_tests.pipeline.toy import NOW, RUN

TABLE = "silver.events"
FIVE = range(5)


def write(lake: Lake, rows: Sequence[int], read: int, damage: bool = False) -> RefreshResult:
    """Replace all rows, as a refresh that read so many."""
    written = pa.table({"amount": list(rows)})
    opened = lake.ensure(TABLE, written.schema, properties={})
    sequence = next_sequence(opened)
    file = write_parquet_file(lake.path(TABLE), f"{sequence}.parquet", written)
    record = CommitRecord(
        "refresh",
        RUN.run_id,
        NOW.isoformat(),
        Counts(read=read, written=len(rows)),
        {"bronze.events": {"*": 1}},
        sequence=sequence,
    )
    version = commit_files(opened, record, add=[file], remove=files_of(opened))
    if damage:
        Path(lake.path(TABLE), file.path).write_bytes(b"")
    return RefreshResult(TABLE, version, "made again", record)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A table whose only file is gone."""
    lake = Lake(tmp_path / "lake")
    write(lake, FIVE, 5)
    opened = lake.open(TABLE)
    assert opened
    (file,) = files_of(opened)
    Path(lake.path(TABLE), file["path"]).unlink()
    return lake


def mended(lake: Lake, monkeypatch: pytest.MonkeyPatch, *given: Any, **named: Any) -> Repaired:
    """What a repair does, whose refresh writes these rows."""
    with pytest.raises(DamagedFile) as met:
        verify_table(lake, TABLE)
    monkeypatch.setattr(repairing, "refresh", lambda *_, **__: write(lake, *given, **named))
    return repair(met.value, SHOP, lake, lambda: None, RUN)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("rows", "read", "damage", "why"),
    [
        (range(3), 5, False, "2 of 5 rows that were read are nowhere"),
        (range(3), 3, False, "it has 3 rows, and had 5 of the same inputs"),
        (range(9), 9, False, "it has 9 rows, and had 5 of the same inputs"),
        (FIVE, 5, True, "is damaged"),
    ],
)
def test_what_is_worse_than_before_is_taken_back(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, rows: range, read: int, damage: bool, why: str
) -> None:
    before, opened = lake.last_record(TABLE), lake.open(TABLE)
    assert before and opened
    done = mended(lake, monkeypatch, rows, read, damage=damage)
    assert (done.undone, done.made) == (True, None)
    assert "was made again from bronze.events" in done.what
    assert why in done.what.partition("this was taken back, since ")[2]
    now, last = lake.open(TABLE), lake.last_record(TABLE)
    assert now and last
    assert now.version() == opened.version() + 2
    assert files_of(now) == files_of(opened)
    assert (last.verb, last.position, last.counts) == ("restore", before.position, Counts())
    assert last.notes[0].startswith("took back a repair: ")
    assert not mended(lake, monkeypatch, FIVE, 5).undone
    verify_table(lake, TABLE)


def test_what_is_as_before_stays(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    done = mended(lake, monkeypatch, FIVE, 5)
    assert (done.undone, lake.rows(TABLE)) == (False, 5)
    assert days.name not in lake.tables()


def test_inputs_that_moved_meanwhile_may_make_more_rows(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter(["before", "after"])
    monkeypatch.setattr(repairing, "input_state", lambda *_: next(states))
    assert not mended(lake, monkeypatch, range(9), 9).undone
    assert lake.rows(TABLE) == 9


def test_a_table_that_was_out_of_date_may_have_more_rows(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repairing, "out_of_date_table", lambda *_: "out of date")
    assert not mended(lake, monkeypatch, range(9), 9).undone
