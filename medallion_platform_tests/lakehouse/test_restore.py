"""What is restored from a backup is what was backed up, by content and counts."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from medallion_platform.lakehouse import backup_tables, log_archive, maintenance
from medallion_platform.lakehouse.backup import back_up
from medallion_platform.lakehouse.backup_place import Backup, BackupPlace, DamagedBackup, NoBackup
from medallion_platform.lakehouse.damaged_files import DamagedFile, verify_table
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.lakehouse.lake_format import HalfRestored, NewerLake, open_lake, read_format
from medallion_platform.lakehouse.restore import CannotRestore, choose_backup, restore_lake
from medallion_platform.lakehouse.restore_table import restore_table
from medallion_platform_tests.lakehouse.small_lake import ALL, NOW, SIX_HOURS, SmallLake

Content = dict[str, list[tuple[object, ...]]]


@pytest.fixture
def empty(tmp_path: Path) -> str:
    return str(tmp_path / "empty")


def restored(place: BackupPlace, root: str, at: datetime | None = None) -> Backup:
    name, backup = choose_backup(place, at)
    restore_lake(place, name, backup, root)
    return backup


def content(root: str, backup: Backup) -> Content:
    """The content of every table; asserts that versions and counts are the backup's."""
    lake = Lake(root)
    for name, table in backup.tables.items():
        assert (lake.version(name), lake.rows(name)) == (table.version, table.rows)
    made = object.__new__(SmallLake)
    made.lake = lake
    return made.content()


def records(lake: Lake) -> dict[str, Any]:
    """Positions, counts and history."""
    told = {name: lake.records(name) for name in ALL}
    positions = {name: (lake.positions(name)("orders"), lake.sequence(name)) for name in ALL}
    return {"records": told, "positions": positions}


def table_back(small: SmallLake, place: BackupPlace, table: str, at: datetime | None = None) -> list[Any]:
    return restore_table(place, table, small.lake, "restorer", NOW + 9 * SIX_HOURS, at)


def test_a_lake_at_three_times(small: SmallLake, place: BackupPlace, tmp_path: Path) -> None:
    then: list[tuple[Content, dict[str, Any]]] = []
    for n in range(3):
        small.round()
        if n == 1:
            maintenance.optimize(small.lake, "bronze.orders")
        back_up(small.lake, place, NOW + n * SIX_HOURS)
        then.append((small.content(), records(small.lake)))
    small.round()
    for n, (rows, told) in enumerate(then):
        root = str(tmp_path / f"then {n}")
        late = NOW + n * SIX_HOURS + timedelta(hours=1)
        assert content(root, restored(place, root, late)) == rows
        assert records(Lake(root)) == told
        assert read_format(root) == 2
        assert Path(root, "quarantine/orders/d41d/ä b.csv").read_bytes() == b"unreadable"
    goes_on = SmallLake(str(tmp_path / "then 2"))
    goes_on.round()
    assert goes_on.content() == small.content()
    made = back_up(goes_on.lake, place, NOW + 9 * SIX_HOURS).backup
    again = str(tmp_path / "again")
    assert content(again, restored(place, again)) == small.content()
    assert made.copied_files == 9, "only what is new, though it is another lake"


def test_a_long_log_with_archived_commits_and_a_checkpoint(
    tmp_path: Path, place: BackupPlace, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_archive, "BUNDLE", 10)
    monkeypatch.setattr(log_archive, "KEPT", 10)
    small = SmallLake(str(tmp_path / "lake"))
    for n in range(120):
        small.take_in()
        if n == 20:
            back_up(small.lake, place, NOW)
    small.refresh("silver.orders", "bronze.orders")
    small.refresh("gold.days", "silver.orders")
    later = datetime.now(NOW.tzinfo) + timedelta(hours=2)
    assert log_archive.archive_log(small.lake.path("bronze.orders"), later)
    backup = back_up(small.lake, place, NOW + SIX_HOURS).backup
    assert [(p.first, p.last) for p in backup.tables["bronze.orders"].log] == [(0, 21), (22, 120)]
    assert content(empty, restored(place, empty)) == small.content()
    assert records(Lake(empty)) == records(small.lake)
    log = Path(Lake(empty).path("bronze.orders"), "_delta_log")
    assert (log / "_last_checkpoint").exists()
    assert not (log / f"{5:020d}.json").exists()
    opened = Lake(empty).open("bronze.orders", 120)
    assert opened is not None


def test_a_damaged_checkpoint_is_done_without(tmp_path: Path, place: BackupPlace, empty: str) -> None:
    small = SmallLake(str(tmp_path / "lake"))
    for _ in range(101):
        small.take_in()
    small.round()
    checkpoint = back_up(small.lake, place, NOW).backup.tables["bronze.orders"].checkpoint
    assert checkpoint
    Path(place.root, checkpoint.key).write_bytes(b"PAR1")
    assert content(empty, restored(place, empty)) == small.content()


@pytest.mark.failure("permanent")
def test_a_lake_is_restored_into_an_empty_place_only(
    small: SmallLake, place: BackupPlace, empty: str
) -> None:
    back_up(small.lake, place, NOW)
    with pytest.raises(CannotRestore, match=r"not empty.*Nothing was restored.*--table"):
        restored(place, str(small.lake.root))
    open_lake(empty)  # of somebody who began there, and did nothing yet
    assert content(empty, restored(place, empty)) == small.content()
    with pytest.raises(CannotRestore, match="not empty"):
        restored(place, empty)


def test_what_is_not_there_is_told(small: SmallLake, place: BackupPlace, empty: str) -> None:
    with pytest.raises(NoBackup, match="there is no backup at"):
        choose_backup(place)
    back_up(small.lake, place, NOW)
    with pytest.raises(NoBackup, match=r"oldest one is of 2026-11-30 02:00:00Z.*--at 2026-11-30T02:00:00"):
        choose_backup(place, NOW - SIX_HOURS)
    with pytest.raises(CannotRestore, match="has no such table"):
        table_back(small, place, "bronze.other", NOW)


class Killed(BaseException):
    """In the place of a SIGKILL."""


def test_a_restore_that_is_killed_anywhere_continues(
    small: SmallLake, place: BackupPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(small.lake, place, NOW)
    small.round()
    back_up(small.lake, place, NOW + SIX_HOURS)
    root, whole = str(tmp_path / "killed"), small.content()
    copy, put = backup_tables.copy_file, backup_tables.run_in_parallel
    kills = 0
    for n in itertools.count(1):
        calls = itertools.count(1)

        def dying(step: Callable[..., Any], calls: Iterator[int] = calls, n: int = n) -> Callable[..., Any]:
            def called(*arguments: Any) -> Any:
                if next(calls) >= n:
                    raise Killed
                return step(*arguments)

            return called

        monkeypatch.setattr(backup_tables, "copy_file", dying(copy))
        monkeypatch.setattr(backup_tables, "run_in_parallel", dying(put))
        try:
            restored(place, root)
        except Killed:
            kills += 1
            with pytest.raises(HalfRestored, match="run the same `medallion restore` again"):
                read_format(root)
            with pytest.raises(CannotRestore, match=r"another backup.*is being restored"):
                restored(place, root, NOW)
        else:
            break
    assert kills > 5
    monkeypatch.undo()
    assert content(root, place.read(place.names()[0])) == whole


def test_a_damaged_file_is_put_back_and_nothing_else_changes(small: SmallLake, place: BackupPlace) -> None:
    back_up(small.lake, place, NOW)
    small.round()
    whole, versions = small.content(), {name: small.lake.version(name) for name in ALL}
    back_up(small.lake, place, NOW + SIX_HOURS)
    opened = small.lake.open("bronze.orders")
    assert opened is not None
    one, two, *_ = sorted(f["path"] for f in files_of(opened))
    damage(Path(small.lake.path("bronze.orders"), one))
    Path(small.lake.path("bronze.orders"), two).unlink()
    (done,) = table_back(small, place, "bronze.orders")
    assert (done.how, done.files) == ("damaged files were put back", 2)
    (done,) = table_back(small, place, "bronze.orders")
    assert (done.how, done.files) == ("nothing is damaged", 0)
    assert small.content() == whole
    assert {name: small.lake.version(name) for name in ALL} == versions


def damage(file: Path, at: int = -20) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def in_a_page(file: Path) -> int:
    """Where a file has the end of its first column's last page: the header of a page has no checksum."""
    column = pq.ParquetFile(file).metadata.row_group(0).column(0)
    return (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 2


def test_a_file_that_is_damaged_within_is_put_back(small: SmallLake, place: BackupPlace) -> None:
    """Its size and its end are right."""
    back_up(small.lake, place, NOW)
    whole = small.content()
    opened = small.lake.open("bronze.orders")
    assert opened is not None
    one, *_ = sorted(f["path"] for f in files_of(opened))
    file = Path(small.lake.path("bronze.orders"), one)
    place_in_it = in_a_page(file)
    damage(file, place_in_it)
    with pytest.raises(DamagedFile):
        verify_table(small.lake, "bronze.orders")
    (done,) = table_back(small, place, "bronze.orders")
    assert (done.how, done.files) == ("damaged files were put back", 1)
    assert small.content() == whole
    # A copy that is damaged in the same way is none to put back.
    (copy,) = Path(place.root).rglob(file.name)
    for each in (file, copy):
        damage(each, place_in_it)
    with pytest.raises(CannotRestore, match=f"no backup at .* has a good copy of {one}"):
        table_back(small, place, "bronze.orders")


def test_what_no_backup_has_is_not_put_back(small: SmallLake, place: BackupPlace) -> None:
    held = back_up(small.lake, place, NOW).backup
    small.take_in()
    opened = small.lake.open("bronze.orders")
    assert opened is not None
    (new,) = {f["path"] for f in files_of(opened)} - {f.path for f in held.tables["bronze.orders"].files}
    damage(Path(small.lake.path("bronze.orders"), new))
    with pytest.raises(CannotRestore, match=f"no backup at .* has a good copy of {new}.*by `--at`"):
        table_back(small, place, "bronze.orders")


def test_a_table_goes_back_with_its_dead_letters_and_reads_again(
    small: SmallLake, place: BackupPlace
) -> None:
    then = small.content()
    back_up(small.lake, place, NOW)
    small.round()
    small.round()
    maintenance.optimize(small.lake, "bronze.orders")
    before = small.lake.version("bronze.orders")
    done = table_back(small, place, "bronze.orders", NOW + SIX_HOURS)
    assert [r.table for r in done] == ["bronze.orders", "dead_letters.bronze.orders"]
    now = small.content()
    for name in ("bronze.orders", "dead_letters.bronze.orders"):
        assert now[name] == then[name]
        assert small.lake.positions(name)("orders") == (3 << 32) + 3
    assert now["files.orders"] != then["files.orders"], "what arrived is known still"
    assert small.lake.version("bronze.orders") == before + 1
    assert small.lake.sequence("bronze.orders") == small.lake.sequence("dead_letters.bronze.orders")
    record = small.lake.last_record("bronze.orders")
    assert record is not None
    assert (record.verb, record.run_id) == ("restore", "restorer")
    assert record.notes == ["from the backup of 2026-11-30 02:00:00Z"]
    (again, _) = table_back(small, place, "bronze.orders", NOW)
    assert again.rows == len(then["bronze.orders"])


def test_a_refreshed_table_goes_back_to_its_position(small: SmallLake, place: BackupPlace) -> None:
    then, record = small.content(), small.lake.last_record("silver.orders")
    back_up(small.lake, place, NOW)
    small.round()
    (done,) = table_back(small, place, "silver.orders", NOW)
    assert small.content()["silver.orders"] == then["silver.orders"]
    told = small.lake.last_record("silver.orders")
    assert record is not None and told is not None
    assert (told.position, told.code) == (record.position, record.code)
    assert (told.counts.read, told.verb) == (0, "restore")
    assert done.version == small.lake.version("silver.orders")


def test_a_lost_table_comes_back_and_what_was_made_from_it_is_made_anew(
    small: SmallLake, place: BackupPlace
) -> None:
    then = small.content()
    back_up(small.lake, place, NOW)
    small.round()
    shutil.rmtree(small.lake.path("bronze.orders"))
    done = table_back(small, place, "bronze.orders")
    assert [r.how for r in done] == ["restored", "as of version 3"]
    now = small.content()
    for name in ("bronze.orders", "dead_letters.bronze.orders"):
        assert now[name] == then[name]
        assert small.lake.positions(name)("orders") == (3 << 32) + 3
    assert small.lake.sequence("bronze.orders") == small.lake.sequence("dead_letters.bronze.orders")
    silver, gold = small.lake.last_record("silver.orders"), small.lake.last_record("gold.days")
    assert silver is not None and gold is not None
    assert silver.position["bronze.orders"] == {"*": -1}
    assert silver.notes == ["bronze.orders was restored"]
    assert gold.verb == "refresh"


def test_a_table_whose_last_commit_is_damaged_has_to_be_moved_away(
    small: SmallLake, place: BackupPlace
) -> None:
    then = small.content()
    back_up(small.lake, place, NOW)
    folder = Path(small.lake.path("gold.days"))
    (folder / "_delta_log" / f"{small.lake.version('gold.days'):020d}.json").write_text("{")
    with pytest.raises(CannotRestore, match=f"log cannot be read.*move {folder} out of the lake"):
        table_back(small, place, "gold.days")
    shutil.move(folder, folder.parent.parent.parent / "moved")
    table_back(small, place, "gold.days")
    assert small.content() == then


def test_a_commit_that_is_lost_in_the_midst_of_a_log_is_put_back(
    small: SmallLake, place: BackupPlace
) -> None:
    then = small.content()
    back_up(small.lake, place, NOW)
    Path(small.lake.path("gold.days"), "_delta_log", f"{1:020d}.json").unlink()
    (done,) = table_back(small, place, "gold.days")
    assert done.how == "its Delta log was repaired"
    assert small.content() == then


def test_another_table_under_the_name_is_not_overwritten(small: SmallLake, place: BackupPlace) -> None:
    back_up(small.lake, place, NOW)
    shutil.rmtree(small.lake.path("gold.days"))
    small.refresh("gold.days", "silver.orders")
    with pytest.raises(CannotRestore, match=r"not the one in the backup.*move .* out of the lake"):
        table_back(small, place, "gold.days", NOW)


def test_what_goes_with_others_is_not_restored_alone(small: SmallLake, place: BackupPlace) -> None:
    back_up(small.lake, place, NOW)
    with pytest.raises(CannotRestore, match=r"goes with its table.*take bronze.orders back"):
        table_back(small, place, "dead_letters.bronze.orders", NOW)
    with pytest.raises(CannotRestore, match="only grows"):
        table_back(small, place, "files.orders", NOW)
    whole = small.content()
    shutil.rmtree(small.lake.path("files.orders"))
    table_back(small, place, "files.orders")
    assert small.content() == whole
    small.round()
    shutil.rmtree(small.lake.path("files.orders"))
    with pytest.raises(CannotRestore, match="read it up to file 4, and the backup has 3 files"):
        table_back(small, place, "files.orders")
    assert not small.lake.exists("files.orders")


@pytest.mark.failure("corrupt", work="backup")
def test_a_damaged_backup_restores_nothing_of_a_table(
    small: SmallLake, place: BackupPlace, empty: str
) -> None:
    backup = back_up(small.lake, place, NOW).backup
    table = backup.tables["bronze.orders"]
    file = Path(place.root, table.key(table.files[0]))
    whole = file.read_bytes()
    damage(file)
    with pytest.raises(DamagedBackup, match=r"bronze\.orders: in the backup, its file .* is damaged"):
        restored(place, empty)
    assert not Lake(empty).exists("bronze.orders")
    file.write_bytes(whole)
    assert content(empty, restored(place, empty)) == small.content()
    part = Path(place.root, table.log[0].file.key)
    part.write_bytes(part.read_bytes()[:-9])
    other = str(Path(empty).with_name("other"))
    with pytest.raises(DamagedBackup, match="another digest"):
        restored(place, other)


def test_a_backup_that_lacks_something_says_which_one_does_not(
    small: SmallLake, place: BackupPlace, empty: str
) -> None:
    whole = small.content()
    back_up(small.lake, place, NOW)
    small.round()
    opened = small.lake.open("bronze.orders")
    assert opened is not None
    held = {f.path for f in place.read(place.names()[0]).tables["bronze.orders"].files}
    (new,) = {f["path"] for f in files_of(opened)} - held
    damage(Path(small.lake.path("bronze.orders"), new))
    back_up(small.lake, place, NOW + SIX_HOURS)
    with pytest.raises(CannotRestore, match=r"lacks 1 file of bronze\.orders.*--at 2026-11-30T02:00:00`"):
        restored(place, empty)
    with pytest.raises(CannotRestore, match="lacks 1 file"):
        table_back(small, place, "bronze.orders", NOW + SIX_HOURS)
    backup = restored(place, empty, NOW)
    assert content(empty, backup) == whole


@pytest.mark.failure("permanent")
def test_a_backup_of_a_newer_lake_is_refused(small: SmallLake, place: BackupPlace, empty: str) -> None:
    backup = back_up(small.lake, place, NOW).backup
    place.write(Backup(**{**vars(backup), "at": NOW + SIX_HOURS, "lake_format": 3}))
    with pytest.raises(NewerLake, match="has format 3"):
        restored(place, empty)
    assert json.dumps(sorted(Path(empty).rglob("*")), default=str) == "[]"
