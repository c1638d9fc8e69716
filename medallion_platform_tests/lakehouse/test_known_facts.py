"""Facts kept from one command to the next: nothing is read twice, nothing outdated is believed."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medallion_platform.lakehouse import delta_log, known_facts, log_archive, table_state
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.delta_log import PartitionChanges
from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.lakehouse.test_table_state import (
    DONE,
    TABLE,
    afresh,
    answers,
    append,
    read,
)

__all__ = ["read"]

TICK_SECONDS = 0.02
"""Stands for the coarsest clock of a file system here: it is coarser than this one's."""
NAMES = [f"gold.t{n}" for n in range(5)]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_log, "_CLOCK_NS", int(TICK_SECONDS * 1e9))


def a_command(file: Path, lake: Lake, tables: list[str]) -> list[tuple[object, ...]]:
    """What a command answers in a process of its own, which knows only what the file says."""
    time.sleep(1.5 * TICK_SECONDS)
    table_state._places.clear()
    with known_facts.use_known_facts(file):
        return [answers(lake.snapshot(), table) for table in tables]


def test_the_next_command_opens_only_the_logs_that_changed(tmp_path: Path, read: Counter[str]) -> None:
    lake, file = Lake(tmp_path / "lake"), tmp_path / "known.json"
    for table in NAMES:
        append(lake, ["a", "b"], table)
    first = a_command(file, lake, NAMES)
    read.clear()
    assert a_command(file, lake, NAMES) == first
    assert not read
    append(lake, ["c"], NAMES[2])
    read.clear()
    second = a_command(file, lake, NAMES)
    assert read["open"] == 1
    assert second == [afresh(lake, table) for table in NAMES] != first
    read.clear()
    a_command(file, lake, NAMES[:1])
    a_command(file, lake, NAMES)
    assert not read, "a command about one table forgets no other"


def test_a_new_question_is_answered_from_the_known_version(tmp_path: Path, read: Counter[str]) -> None:
    lake, file = Lake(tmp_path / "lake"), tmp_path / "known.json"
    append(lake, ["a", "b"])
    a_command(file, lake, [TABLE])
    for opened in (1, 0):
        read.clear()
        table_state._places.clear()
        with known_facts.use_known_facts(file):
            assert lake.snapshot().positions(TABLE)("another log") is None
        assert read["open"] == opened


def test_a_log_that_just_changed_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another change could get the same time."""
    monkeypatch.undo()
    assert delta_log._CLOCK_NS > 2e9, "FAT has a tick of two seconds"
    lake = Lake(tmp_path / "lake")
    append(lake, ["a"])
    path = lake.path(TABLE)
    assert delta_log.fingerprint(path) is None
    for file in Path(path, "_delta_log").iterdir():
        os.utime(file, (0, 0))  # the ctime cannot be set
    assert delta_log.fingerprint(path) is None
    later = time.time_ns() + 2 * delta_log._CLOCK_NS
    monkeypatch.setattr(delta_log.time, "time_ns", lambda: later)
    assert delta_log.fingerprint(path) is not None
    monkeypatch.setattr(delta_log.time, "time_ns", lambda: 0)
    assert delta_log.fingerprint(path) is None, "a clock that was set back"


def test_a_commit_right_after_a_log_was_read_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, file = Lake(tmp_path / "lake"), tmp_path / "known.json"
    append(lake, ["a"])
    open_table = Lake.open

    def opened(lake: Lake, table: str, version: int | None = None) -> object:
        found = open_table(lake, table, version)
        monkeypatch.undo()
        monkeypatch.setattr(delta_log, "_CLOCK_NS", int(TICK_SECONDS * 1e9))
        append(lake, ["b"])
        time.sleep(1.5 * TICK_SECONDS)
        return found

    monkeypatch.setattr(Lake, "open", opened)
    a_command(file, lake, [TABLE])
    assert a_command(file, lake, [TABLE]) == [afresh(lake)]
    assert lake.rows(TABLE) == 2


def log_files(lake: Lake) -> list[Path]:
    return sorted(Path(lake.path(TABLE), "_delta_log").glob("*.json"))


def rewritten(lake: Lake, of: Callable[[list[Path]], Path]) -> None:
    """A commit becomes another one of the same length, in the same inode, with the same time of change."""
    if files := log_files(lake):
        file = of(files)
        was, text = file.stat(), file.read_bytes()
        with file.open("r+b") as opened:
            opened.write(text.replace(b"run-", b"nur-"))
        os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))


def copied(lake: Lake) -> None:
    """The folder is another one with the same content and times, as from a backup."""
    path = Path(lake.path(TABLE))
    if path.exists():
        shutil.copytree(path, path.with_name("copy"))
        shutil.rmtree(path)
        path.with_name("copy").rename(path)


def newest_gone(lake: Lake) -> None:
    """The newest commit is lost; not one with a checkpoint, after which no library writes to the table."""
    if (files := log_files(lake)) and not list(files[-1].parent.glob(f"{files[-1].stem}.checkpoint*")):
        files[-1].unlink()


def exchanged(lake: Lake) -> None:
    """The folders of two tables take each other's place."""
    append(lake, ["x"] * (1 + lake.rows("silver.other")), "silver.other")
    here, there = Path(lake.path(TABLE)), Path(lake.path("silver.other"))
    if here.exists():
        here.rename(here.with_name("aside"))
    there.rename(here)
    if here.with_name("aside").exists():
        here.with_name("aside").rename(there)


def archived(lake: Lake) -> None:
    """Old commits go into the archive, which then loses them."""
    opened = lake.open(TABLE)
    if opened is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_archive, "BUNDLE", 2)
        patch.setattr(log_archive, "KEPT", 1)
        opened.create_checkpoint()
        log_archive.archive_log(lake.path(TABLE), datetime.now(UTC) + 2 * log_archive._OTHERS)
    for bundle in Path(lake.path(TABLE), log_archive.FOLDER).glob("*"):
        bundle.unlink()


TAMPERED: dict[str, Callable[[Lake], object]] = {
    **DONE,
    "newest in place": lambda lake: rewritten(lake, lambda files: files[-1]),
    "older in place": lambda lake: rewritten(lake, lambda files: files[len(files) // 2]),
    "copied": copied,
    "newest gone": newest_gone,
    "exchanged": exchanged,
    "archived": archived,
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(st.sampled_from(list(TAMPERED)), max_size=8))
def test_a_command_that_remembers_finds_what_one_finds_that_knows_nothing(
    tmp_path_factory: pytest.TempPathFactory, done: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("lake")
    lake, file = Lake(folder / "lake"), folder / "known.json"
    append(lake, ["a"])
    for name in done:
        TAMPERED[name](lake)
        found = a_command(file, lake, [TABLE])
        table_state._places.clear()
        assert found == [answers(lake)]


@pytest.mark.parametrize("change", sorted(TAMPERED.keys() - {"look", "exchanged"}))
def test_each_change_of_a_log_is_another_fingerprint(tmp_path: Path, change: str) -> None:
    lake = Lake(tmp_path / "lake")
    for n in range(6):
        append(lake, ["a", "b"] if n else ["a"])
    time.sleep(1.5 * TICK_SECONDS)
    before = delta_log.fingerprint(lake.path(TABLE))
    assert before is not None and before == delta_log.fingerprint(lake.path(TABLE))
    TAMPERED[change](lake)
    time.sleep(1.5 * TICK_SECONDS)
    assert delta_log.fingerprint(lake.path(TABLE)) != before


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def one_digit(file: Path) -> None:
    text = file.read_text()
    changed = text.replace('[\\"plain\\", 2]', '[\\"plain\\", 3]')
    assert changed != text
    file.write_text(changed)


def zeros(file: Path) -> None:
    """As some file systems leave a file after a power failure."""
    file.write_bytes(b"\0" * file.stat().st_size)


def no_text(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [cut, one_digit, zeros, no_text, a_folder, Path.unlink])
def test_a_damaged_file_is_not_used(
    tmp_path: Path, read: Counter[str], damage: Callable[[Path], object]
) -> None:
    lake, file = Lake(tmp_path / "lake"), tmp_path / "known.json"
    append(lake, ["a", "b"])
    first = a_command(file, lake, [TABLE])
    damage(file)
    read.clear()
    assert a_command(file, lake, [TABLE]) == first
    assert read["open"] == 1
    assert list(tmp_path.glob(".*")) == [], "no part of a file is left"


def test_two_commands_at_once_keep_only_what_is_true(tmp_path: Path) -> None:
    lake, file = Lake(tmp_path / "lake"), tmp_path / "known.json"
    for table in NAMES[:2]:
        append(lake, ["a"], table)
    time.sleep(1.5 * TICK_SECONDS)
    table_state._places.clear()
    first, second = known_facts.use_known_facts(file), known_facts.use_known_facts(file)
    with first:
        answers(lake.snapshot(), NAMES[0])
        append(lake, ["b"], NAMES[0])
        time.sleep(1.5 * TICK_SECONDS)
        table_state._places.clear()
        second.__enter__()
        answers(lake.snapshot(), NAMES[0])
        answers(lake.snapshot(), NAMES[1])
    second.__exit__(None, None, None)
    assert a_command(file, lake, NAMES[:2]) == [afresh(lake, table) for table in NAMES[:2]]


def test_other_code_finds_facts_itself(
    tmp_path: Path, read: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, file = Lake(tmp_path / "lake"), tmp_path / "known.json"
    append(lake, ["a", "b"])
    a_command(file, lake, [TABLE])
    monkeypatch.setattr(known_facts, "_code", lambda: "a newer version")
    read.clear()
    a_command(file, lake, [TABLE])
    assert read["open"] == 1


def test_a_home_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    append(lake, ["a"])
    assert a_command(tmp_path / "no folder" / "known.json", lake, [TABLE]) == [afresh(lake)]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, True),
        (0, True),
        ("a\udc80", True),
        (frozenset({"a", ""}), True),
        (("b", "a"), True),
        (datetime(2026, 2, 1, 3, 4, 5, 6, timezone(timedelta(hours=2))), True),
        (CommitRecord("refresh", "r", "now", position={"a": {"*": 3}}), True),
        (PartitionChanges({"a"}, {"b"}), True),
        ({"timestamp": 1, "operationParameters": {"a": None}}, True),
        ({1: "a number as a key"}, False),
        ((1, 2), False),
        ([("a", {})], False),
        (object(), False),
        ("x" * known_facts._LONGEST, False),
    ],
)
def test_a_fact_is_read_as_it_was_or_not_kept(value: Any, kept: bool) -> None:
    table = known_facts.KnownTable("log", 0)
    table.learn("name", value)
    assert table.recall("name") == ((value,) if kept else ())
    assert table.recall("another name") == ()


def test_a_name_that_is_another_thing_elsewhere_is_not_kept() -> None:
    table = known_facts.KnownTable("log", 0)
    table.learn(("by", object()), 1)
    assert not table.changed


def test_only_the_facts_asked_for_last_are_kept(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    append(lake, ["a"])
    time.sleep(1.5 * TICK_SECONDS)
    path = lake.path(TABLE)
    known = known_facts.KnownTables({})
    table = known.add(path, delta_log.fingerprint(path) or "", 1)
    for n in range(2 * known_facts._MOST_FACTS):
        table.learn(n, n)
    assert table.recall(0) == (0,)
    ((_, _, facts),) = known.news().values()
    assert len(facts) == known_facts._MOST_FACTS
    again = known_facts.KnownTable("log", 1, facts)
    assert again.recall(0) == (0,) and again.recall(1) == ()
