"""What is known of a table between looks: nothing is read twice, and whatever happened is seen."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.lakehouse import delta_log, log_archive, polars_writer, table_state
from medallion_platform.lakehouse.commit import next_sequence
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.lake import Lake

TABLE = "silver.events"
NONE_OF_OURS = 120


def append(lake: Lake, days: list[str], table: str = TABLE) -> None:
    frame = pl.DataFrame({"day": days, "n": range(len(days))})
    target = lake.ensure(table, frame.to_arrow().schema, ["day"])
    sequence = next_sequence(target)
    record = CommitRecord("refresh", f"run-{sequence}", "now", Counts(read=len(days)), sequence=sequence)
    polars_writer.append_rows(target, frame, record, {"a log": sequence * 10})


def by_others(lake: Lake, table: str = TABLE) -> None:
    """A commit of other software."""
    write_deltalake(lake.path(table), pl.DataFrame({"day": ["z"], "n": [1]}), mode="append")


def answers(lake: Lake, table: str = TABLE) -> tuple[object, ...]:
    return (
        lake.version(table),
        lake.exists(table),
        lake.rows(table),
        lake.partitions(table, "day"),
        lake.sequence(table),
        lake.positions(table)("a log"),
        lake.last_record(table),
        lake.last_record(table, ("restore",)),
        lake.last_commit(table),
    )


def afresh(lake: Lake, table: str = TABLE) -> tuple[object, ...]:
    """The same by who never looked before."""
    kept, table_state._places = table_state._places, type(table_state._places)()
    try:
        return answers(lake, table)
    finally:
        table_state._places = kept


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often a log was opened, and which commits were read, by anybody."""
    found: Counter[str] = Counter()
    text_of, open_table = delta_log.commit_text, Lake.open

    def commit_text(path: str, version: int) -> bytes | None:
        found["commit"] += 1
        return text_of(path, version)

    def opened(lake: Lake, table: str, version: int | None = None) -> object:
        found["open"] += 1
        return open_table(lake, table, version)

    monkeypatch.setattr(delta_log, "commit_text", commit_text)
    monkeypatch.setattr(Lake, "open", opened)
    yield found


def test_a_log_is_opened_once_and_nothing_new_is_nothing_read(tmp_path: Path, read: Counter[str]) -> None:
    lake = Lake(tmp_path)
    for _ in range(3):
        append(lake, ["a", "b"])
    read.clear()
    first = answers(lake.snapshot())
    # The last commit; the four before it as well, for one of a verb that there is none of.
    assert read["open"] == 1
    read.clear()
    assert answers(lake.snapshot()) == first == answers(Lake(tmp_path))
    assert not read
    append(lake, ["c"])
    read.clear()
    assert answers(lake.snapshot()) == afresh(lake) != first
    append(lake, ["d"])
    read.clear()
    answers(lake.snapshot())
    assert read["open"] == 0
    assert read["commit"] <= 2, "only the new commit is read"


def test_a_look_asks_a_table_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(tmp_path)
    append(lake, ["a"])
    answers(lake)
    asked: list[int] = []
    is_newest = delta_log.is_newest
    monkeypatch.setattr(delta_log, "is_newest", lambda *of: asked.append(1) or is_newest(*of))
    look = lake.snapshot()
    answers(look)
    answers(look)
    assert len(asked) == 1


def test_a_look_is_of_one_moment(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    append(lake, ["a"])
    look = lake.snapshot()
    assert look.version(TABLE) == 1
    append(lake, ["b", "c"])
    assert lake.rows(TABLE) == 3
    # Asked only now, when who looked after it went on.
    assert (look.version(TABLE), look.rows(TABLE), look.partitions(TABLE, "day")) == (1, 1, {"a"})
    assert look.last_record(TABLE) == CommitRecord("refresh", "run-1", "now", Counts(read=1), sequence=1)
    look.reload(TABLE)
    assert look.rows(TABLE) == 3


@pytest.mark.parametrize("commits", [1, 2, 3])
def test_a_table_that_was_made_anew_is_another(tmp_path: Path, commits: int) -> None:
    """With fewer commits than were known, as many, or more."""
    lake = Lake(tmp_path)
    for _ in range(2):
        append(lake, ["a"])
    assert lake.partitions(TABLE, "day") == {"a"}
    shutil.rmtree(lake.path(TABLE))
    assert not lake.exists(TABLE)
    for _ in range(2):
        append(lake, ["a"])
    assert lake.rows(TABLE) == 2
    shutil.rmtree(lake.path(TABLE))
    for _ in range(commits):
        append(lake, ["b"])
    assert lake.partitions(TABLE, "day") == {"b"}
    assert answers(lake) == afresh(lake)


def test_a_log_that_was_rolled_up_meanwhile_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_archive, "BUNDLE", 4)
    monkeypatch.setattr(log_archive, "KEPT", 4)
    lake = Lake(tmp_path)
    for _ in range(3):
        append(lake, ["a"])
    assert lake.rows(TABLE) == 3
    for _ in range(12):
        append(lake, ["b"])
    opened = lake.open(TABLE)
    assert opened is not None
    opened.create_checkpoint()
    for _ in range(5):
        append(lake, ["c"])
    later = log_archive.datetime.now(log_archive.UTC) + 2 * log_archive._OTHERS
    assert log_archive.archive_log(lake.path(TABLE), later)
    # The next commit after the known one is archived as well: it is not there, and yet not the newest.
    assert delta_log.is_newest(lake.path(TABLE), 3)
    assert lake.rows(TABLE) == 20
    assert answers(lake) == afresh(lake)


@pytest.mark.parametrize("commits", [1, 49, 50, NONE_OF_OURS])
def test_the_last_own_commit_is_found_below_any_number_of_others(
    tmp_path: Path, read: Counter[str], commits: int
) -> None:
    lake = Lake(tmp_path)
    append(lake, ["a"])
    append(lake, ["b"])
    for _ in range(commits):
        by_others(lake)
    found = lake.last_record(TABLE)
    assert found is not None and found.run_id == "run-2"
    read.clear()
    by_others(lake)
    assert lake.last_record(TABLE) == found
    assert read["commit"] <= 1, "what was found is remembered"


def test_a_table_without_own_commits_is_not_searched(tmp_path: Path, read: Counter[str]) -> None:
    lake = Lake(tmp_path)
    for _ in range(3):
        by_others(lake)
    assert lake.last_record(TABLE) is None
    assert not read["commit"]


def test_a_commit_that_was_cleaned_up_makes_the_last_record_unknown(tmp_path: Path) -> None:
    """A newer one of ours may have been among those that are gone."""
    lake = Lake(tmp_path)
    append(lake, ["a"])
    assert lake.last_record(TABLE) is not None
    append(lake, ["b"])
    by_others(lake)
    opened = lake.open(TABLE)
    assert opened is not None
    opened.create_checkpoint()
    for version in range(3):
        (Path(lake.path(TABLE)) / delta_log.commit_file(version)).unlink()
    assert lake.last_record(TABLE) is None
    assert answers(lake) == afresh(lake)


def test_only_so_much_is_kept_in_mind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_state, "_places", type(table_state._places)())
    monkeypatch.setattr(table_state, "_kept", 0)
    monkeypatch.setattr(table_state, "MOST_FILES", 3 * table_state._A_TABLE)
    lake = Lake(tmp_path)
    names = [f"gold.t{n}" for n in range(5)]
    for name in names:
        append(lake, ["a"], name)
    for name in names * 2:
        assert lake.rows(name) == 1
        assert len(table_state._places) <= 3
        assert table_state._kept == sum(place.weight for place in table_state._places.values())


def test_threads_that_look_while_a_table_grows_see_no_mixture(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    append(lake, ["a"])

    def looks(_: int) -> list[tuple[int, int, int]]:
        found = []
        for _ in range(30):
            look = lake.snapshot()
            found.append((look.version(TABLE), look.rows(TABLE), look.sequence(TABLE)))
        return found

    with ThreadPoolExecutor(4) as pool:
        watched = [pool.submit(looks, n) for n in range(3)]
        for _ in range(15):
            append(lake, ["a"])
        for found in watched:
            seen = found.result()
            assert all(version == rows == sequence for version, rows, sequence in seen)
            assert seen == sorted(seen)
    assert lake.rows(TABLE) == 16


DONE: dict[str, Callable[[Lake], object]] = {
    "append": lambda lake: append(lake, ["a", "b"]),
    "another day": lambda lake: append(lake, [f"d{lake.version(TABLE)}"]),
    "by others": by_others,
    "delete": lambda lake: (opened := lake.open(TABLE)) and opened.delete("day = 'a'"),
    "compact": lambda lake: (opened := lake.open(TABLE)) and opened.optimize.compact(),
    "checkpoint": lambda lake: (opened := lake.open(TABLE)) and opened.create_checkpoint(),
    "drop": lambda lake: shutil.rmtree(lake.path(TABLE), ignore_errors=True),
    "look": answers,
}


@given(st.lists(st.sampled_from(list(DONE)), max_size=12))
def test_a_look_is_the_same_as_one_that_knows_nothing(
    tmp_path_factory: pytest.TempPathFactory, done: list[str]
) -> None:
    lake = Lake(tmp_path_factory.mktemp("lake"))
    for name in done:
        DONE[name](lake)
        assert answers(lake.snapshot()) == afresh(lake)
