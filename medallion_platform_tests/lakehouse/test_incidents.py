"""The ledger: reports of many lose nothing, decisions have one order, whoever is killed in between."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import polars as pl
import pytest

from medallion_platform.lakehouse import maintenance
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.incidents import (
    INCIDENTS,
    DamagedLedger,
    Ledger,
    Row,
    condense,
    decide,
    read,
    report,
)
from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.waiting import until

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
REPORT = Row("evidence", NOON, "worker", "bronze.clicks", body='{"occurrence": "a"}')
DECISION = Row("detected", NOON, "sensor", "bronze.clicks", "0123-1", "0123", "network", "{}")


def decided(ledger: Ledger) -> list[Row]:
    return [row for row in ledger.rows if row.sequence]


def test_rows_come_back_as_they_were_reports_first(lake: Lake) -> None:
    assert (read(lake).rows, read(lake).seen) == ((), 0)
    decide(lake, [DECISION, replace(DECISION, event="tried")], 0)
    report(lake, [replace(REPORT, at=NOON + timedelta(hours=1))])
    report(lake, [REPORT])
    report(lake, [])
    decide(lake, [], 0)
    assert read(lake).rows == (
        REPORT,
        replace(REPORT, at=NOON + timedelta(hours=1)),
        replace(DECISION, sequence=1),
        replace(DECISION, event="tried", sequence=2),
    )
    assert read(lake).seen == 2
    assert lake.tables() == [], "it is no table of the project"


def test_of_two_that_decide_from_the_same_state_one_does(lake: Lake) -> None:
    decide(lake, [DECISION], 0)
    seen = read(lake).seen
    decide(lake, [replace(DECISION, by="first")] * 2, seen)
    with pytest.raises(CommitConflict):
        decide(lake, [replace(DECISION, by="second")] * 5, seen)
    assert [row.by for row in decided(read(lake))] == ["sensor", "first", "first"]


def test_of_two_at_the_same_moment_one_does(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    decide(lake, [DECISION], 0)
    real = Lake.ensure

    def and_somebody_decides(self: Lake, *args: object, **named: object) -> object:
        opened = real(self, *args, **named)  # type: ignore[arg-type]
        monkeypatch.setattr(Lake, "ensure", real)
        decide(lake, [replace(DECISION, by="first")], 1)
        return opened

    monkeypatch.setattr(Lake, "ensure", and_somebody_decides)
    with pytest.raises(CommitConflict):
        decide(lake, [replace(DECISION, by="second")], 1)
    assert [row.by for row in decided(read(lake))] == ["sensor", "first"]


def test_a_report_between_reading_and_deciding_is_no_conflict(lake: Lake) -> None:
    decide(lake, [DECISION], 0)
    seen = read(lake).seen
    report(lake, [REPORT])
    decide(lake, [DECISION], seen)
    assert [row.sequence for row in read(lake).rows] == [0, 1, 2]


def test_the_ledger_is_read_again_only_after_it_changed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    report(lake, [REPORT])
    opened: list[str] = []
    real = Lake.open

    def open_counted(self: Lake, table: str, version: int | None = None) -> object:
        opened.append(table)
        return real(self, table, version)

    monkeypatch.setattr(Lake, "open", open_counted)
    assert read(lake) is read(lake)
    assert len(opened) == 1


def test_rows_make_room_the_numbers_go_on_and_what_is_added_meanwhile_stays(lake: Lake) -> None:
    for n in range(30):
        decide(lake, [replace(DECISION, by=str(n))], n)

    def last_and_meanwhile(rows: Sequence[Row]) -> Sequence[Row]:
        report(lake, [REPORT])
        decide(lake, [replace(DECISION, by="meanwhile")], 30)
        return rows[-1:]

    condense(lake, last_and_meanwhile, "m", NOON)
    assert [(row.by, row.sequence) for row in read(lake).rows] == [
        ("worker", 0),
        ("29", 30),
        ("meanwhile", 31),
    ]
    maintenance.maintain_table(lake, INCIDENTS)
    assert read(lake).seen == 31
    condense(lake, lambda _: [], "m", NOON)
    assert (read(lake).rows, read(lake).seen) == ((), 31)
    with pytest.raises(CommitConflict):
        decide(lake, [DECISION], 0)
    decide(lake, [DECISION], 31)
    assert read(lake).rows == (replace(DECISION, sequence=32),)
    version = lake.version(INCIDENTS)
    condense(lake, lambda rows: rows, "m", NOON)
    assert lake.version(INCIDENTS) == version, "nothing to do: no commit"


def test_where_there_is_no_ledger_none_is_made(lake: Lake) -> None:
    condense(lake, lambda _: [], "m", NOON)
    assert not lake.exists(INCIDENTS)


def test_columns_of_a_newer_version_are_left_out(lake: Lake) -> None:
    report(lake, [REPORT])
    rows = pl.read_delta(lake.path(INCIDENTS)).with_columns(further=pl.lit(1))
    options = {"schema_mode": "overwrite"}
    rows.write_delta(lake.path(INCIDENTS), mode="overwrite", delta_write_options=options)
    assert read(lake).rows == (REPORT,)


def report_and_decide(root: Path, name: str) -> None:
    """Report, and decide about each report that nobody decided about, until the end; notes what was done."""
    lake = Lake(root)

    def note(what: str) -> None:
        with Path(f"{root} of {name}").open("a", encoding="utf-8") as done:
            done.write(what + "\n")

    for n in count():
        report(lake, [replace(REPORT, incident=f"{name}-{n}")])
        note(f"reported {name}-{n}")
        ledger = read(lake)
        known = {row.incident for row in decided(ledger)}
        new = [row.incident for row in ledger.rows if not row.sequence and row.incident not in known]
        try:
            decide(lake, [replace(DECISION, incident=one, by=name) for one in new], ledger.seen)
        except CommitConflict:
            continue
        for one in new:
            note(f"decided {one}")


def test_nothing_is_lost_and_nothing_decided_twice_by_processes_that_are_killed(lake: Lake) -> None:
    context, root = multiprocessing.get_context("spawn"), Path(lake.root)
    names = iter(f"p{n}" for n in count())

    def begin() -> multiprocessing.process.BaseProcess:
        process = context.Process(target=report_and_decide, args=(root, next(names)), daemon=True)
        process.start()
        return process

    def notes() -> list[str]:
        return [
            line for file in root.parent.glob(f"{root.name} of *") for line in file.read_text().split("\n")
        ]

    def kill(process: multiprocessing.process.BaseProcess) -> None:
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()

    at_work = [begin() for _ in range(3)]
    chance = random.Random(0)
    for _ in range(4):
        before = len(notes())
        until(lambda before=before: len(notes()) > before + 10, 120, pause=0.02)
        time.sleep(chance.random() / 20)  # anywhere in a commit
        kill(at_work.pop(0))
        at_work.append(begin())
    for process in at_work:
        kill(process)

    told, ledger = Counter(filter(None, notes())), read(lake)
    reported = Counter(row.incident for row in ledger.rows if not row.sequence)
    made = Counter(row.incident for row in decided(ledger))
    assert {f"reported {one}" for one in reported} >= {t for t in told if t.startswith("reported")}
    assert {f"decided {one}" for one in made} >= {t for t in told if t.startswith("decided")}
    assert set(reported.values()) == {1}
    assert set(made.values()) == {1}
    assert made.keys() <= reported.keys()
    assert [row.sequence for row in decided(ledger)] == [*range(1, ledger.seen + 1)]
    assert len({row.by for row in decided(ledger)}) > 1, "several have decided"


def truncate(folder: Path) -> None:
    next(folder.glob("*.parquet")).write_bytes(b"PAR1")


def flip(folder: Path) -> None:
    file = next(folder.glob("*.parquet"))
    content = bytearray(file.read_bytes())
    content[4:60] = bytes(b ^ 0xFF for b in content[4:60])
    file.write_bytes(content)


def lose_commit(folder: Path) -> None:
    (folder / "_delta_log" / "00000000000000000001.json").unlink()


def garble_commit(folder: Path) -> None:
    (folder / "_delta_log" / "00000000000000000001.json").write_text("garbage")


@pytest.mark.parametrize("harm", [truncate, flip, lose_commit, garble_commit])
@pytest.mark.failure("corrupt")
def test_a_damaged_ledger_says_that_it_may_be_deleted_and_what_that_costs(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    lake = Lake(tmp_path)
    decide(lake, [DECISION], 0)
    decide(lake, [replace(DECISION, event="tried")], 1)
    folder = Path(lake.path(INCIDENTS))
    harm(folder)
    for work in (read, lambda of: condense(of, list, "run", NOON)):
        with pytest.raises(DamagedLedger) as told:
            work(Lake(tmp_path))
        assert f"delete {folder}" in str(told.value)
        assert "restore" not in str(told.value), "it is in no backup"
    shutil.rmtree(folder)
    assert read(lake.snapshot()).rows == ()
    for number in range(2):
        decide(lake, [replace(DECISION, event="paused")], number)
    assert [row.event for row in read(lake.snapshot()).rows] == ["paused", "paused"], "as it is now"
