"""A damaged Delta log is made whole of what is there; all else stays as it was, and so does the table."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from medallion_platform.lakehouse import log_archive
from medallion_platform.lakehouse import repair_log as module
from medallion_platform.lakehouse.backup import back_up
from medallion_platform.lakehouse.backup_place import BackupPlace
from medallion_platform.lakehouse.guard import Guard, NotAllowed
from medallion_platform.lakehouse.lake import DamagedLog
from medallion_platform.lakehouse.log_archive import archive_log, checkpoint_file, commit_file
from medallion_platform.lakehouse.repair_log import repair_log
from medallion_platform_tests.lakehouse.small_lake import NOW, SIX_HOURS, SmallLake

BRONZE, LETTERS, REGISTRY = "bronze.orders", "dead_letters.bronze.orders", "files.orders"
HINT = "_delta_log/_last_checkpoint"


@pytest.fixture
def small(tmp_path: Path) -> SmallLake:
    """Tables of 13 versions, with checkpoints of versions 4 and 8."""
    made = SmallLake(str(tmp_path / "ein lake"))
    for n in range(12):
        made.take_in()
        if n in (3, 7):
            for table in (BRONZE, LETTERS, REGISTRY):
                opened = made.lake.open(table)
                assert opened and opened.version() == n + 1
                opened.create_checkpoint()
    made.refresh("silver.orders", BRONZE)
    made.refresh("gold.days", "silver.orders")
    return made


def file_in(small: SmallLake, table: str, name: str) -> Path:
    return Path(small.lake.path(table), name)


def everything(small: SmallLake) -> dict[Path, bytes]:
    """All files of the lake."""
    root = Path(small.lake.root)
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def without(files: dict[Path, bytes], some: set[Path]) -> dict[Path, bytes]:
    return {path: content for path, content in files.items() if path not in some}


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(5_000))


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "gone": Path.unlink,
    "cut": cut,
    "garbage": garbage,
    "empty": empty,
}


def refused(small: SmallLake, table: str) -> bool:
    try:
        small.lake.open(table)
    except DamagedLog:
        return True
    return False


def opens_without(small: SmallLake, table: str, versions: range) -> None:
    """The table is the same read from its newest checkpoint alone."""
    then = small.content()
    for version in versions:
        file_in(small, table, commit_file(version)).unlink()
    assert small.content() == then


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("table", [BRONZE, LETTERS, REGISTRY])
def test_a_checkpoint_that_is_lost_is_made_anew_from_the_commits(
    small: SmallLake, table: str, damage: str
) -> None:
    then, before = small.content(), everything(small)
    checkpoint = file_in(small, table, checkpoint_file(8))
    DAMAGE[damage](checkpoint)
    assert refused(small, table)
    done = repair_log(small.lake, table)
    assert "a checkpoint of version 12 was made" in done
    assert ("damaged checkpoints 8 were deleted" in done) == (damage != "gone")
    after = everything(small)
    new = {checkpoint, file_in(small, table, HINT), file_in(small, table, checkpoint_file(12))}
    assert without(after, new) == without(before, new)
    assert small.content() == then
    assert repair_log(small.lake, table) == ""
    assert everything(small) == after
    opens_without(small, table, range(12))
    small.take_in()


def test_both_checkpoints_damaged_the_log_is_read_from_its_beginning(small: SmallLake) -> None:
    then = small.content()
    for version in (4, 8):
        cut(file_in(small, BRONZE, checkpoint_file(version)))
    assert "damaged checkpoints 4, 8 were deleted" in repair_log(small.lake, BRONZE)
    assert small.content() == then


def test_a_hint_at_a_checkpoint_that_was_never_there(small: SmallLake) -> None:
    then = small.content()
    file_in(small, BRONZE, HINT).write_text('{"version":11,"size":3}')
    assert refused(small, BRONZE)
    assert repair_log(small.lake, BRONZE).endswith(": a checkpoint of version 12 was made")
    assert small.content() == then


def test_what_spark_remembers_of_files_that_change_goes_with_them(small: SmallLake) -> None:
    names = ("_last_checkpoint", f"{8:020d}.checkpoint.parquet", f"{7:020d}.json")
    hidden = [file_in(small, BRONZE, f"_delta_log/.{name}.crc") for name in names]
    for path in hidden:
        path.write_bytes(b"crc")
    cut(file_in(small, BRONZE, checkpoint_file(8)))
    repair_log(small.lake, BRONZE)
    assert [path.exists() for path in hidden] == [False, False, True]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("table", [BRONZE, LETTERS, REGISTRY])
def test_a_commit_that_is_lost_comes_from_the_backup(
    small: SmallLake, place: BackupPlace, table: str, damage: str
) -> None:
    small.take_in()
    back_up(small.lake, place, NOW)
    small.take_in()
    then, before = small.content(), everything(small)
    lost = file_in(small, table, commit_file(11))
    DAMAGE[damage](lost)
    if damage == "empty":  # taken for a commit that did nothing, until something else is amiss
        file_in(small, table, HINT).write_text('{"version":13,"size":3}')
    assert refused(small, table)
    assert "commits 11 were put back" in repair_log(small.lake, table, place)
    assert small.content() == then
    after = everything(small)
    new = {file_in(small, table, HINT), file_in(small, table, checkpoint_file(14))}
    assert without(after, new) == without(before, new)


@pytest.mark.parametrize("backups", [False, True], ids=["no backups", "a backup that ends before it"])
@pytest.mark.parametrize("damage", ["gone", "cut", "garbage"])
def test_a_commit_that_nobody_has_is_left_to_a_person(
    small: SmallLake, place: BackupPlace, damage: str, backups: bool
) -> None:
    if backups:
        back_up(small.lake, place, NOW)
    small.take_in()
    small.take_in()
    lost = file_in(small, BRONZE, commit_file(13))
    whole = lost.read_bytes()
    DAMAGE[damage](lost)
    before = everything(small)
    with pytest.raises(DamagedLog) as told:
        repair_log(small.lake, BRONZE, place if backups else None)
    said = str(told.value)
    assert said.startswith(f"{BRONZE}: its log ")
    assert "its commits 13 are missing or damaged" in said
    assert "put copies of your own in their place" in said
    assert "\n" not in said
    assert everything(small) == before
    lost.write_bytes(whole)
    assert not refused(small, BRONZE)


def test_a_commit_of_another_history_is_never_put_back(small: SmallLake, place: BackupPlace) -> None:
    """The table was lost and brought back as of version 12; commit 13 of the backup is of what was lost."""
    folder = Path(small.lake.path(BRONZE))
    shutil.copytree(folder, folder.parent / "older")
    small.take_in()
    back_up(small.lake, place, NOW)
    shutil.rmtree(folder)
    shutil.move(folder.parent / "older", folder)
    small.take_in()
    small.take_in()
    file_in(small, BRONZE, commit_file(13)).unlink()
    before = everything(small)
    with pytest.raises(DamagedLog, match="commits 13 are missing"):
        repair_log(small.lake, BRONZE, place)
    assert everything(small) == before


def test_archived_commits_are_put_back_where_newer_checkpoints_are_damaged(
    small: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_archive, "BUNDLE", 2)
    monkeypatch.setattr(log_archive, "KEPT", 4)
    then = small.content()
    assert archive_log(small.lake.path(BRONZE), datetime.now(UTC) + timedelta(hours=2))
    assert not file_in(small, BRONZE, commit_file(6)).exists()
    cut(file_in(small, BRONZE, checkpoint_file(8)))
    assert "were put back, the damaged checkpoints 8 were deleted" in repair_log(small.lake, BRONZE)
    assert small.content() == then


def test_where_old_commits_are_gone_the_checkpoint_of_the_backup_will_do(
    small: SmallLake, place: BackupPlace
) -> None:
    small.take_in()
    back_up(small.lake, place, NOW)
    then = small.content()
    for version in range(8):
        file_in(small, BRONZE, commit_file(version)).unlink()
    for version in (4, 8):
        cut(file_in(small, BRONZE, checkpoint_file(version)))
    with pytest.raises(DamagedLog, match="its checkpoints 8 are damaged, its commits 5, 6, 7 are missing"):
        repair_log(small.lake, BRONZE)
    assert "damaged checkpoints 8 were deleted" in repair_log(small.lake, BRONZE, place)
    assert small.content() == then


def test_a_damaged_backup_is_passed_over_for_an_older_one(small: SmallLake, place: BackupPlace) -> None:
    small.take_in()
    back_up(small.lake, place, NOW)
    small.take_in()
    newest = back_up(small.lake, place, NOW + SIX_HOURS).backup.tables[BRONZE]
    then = small.content()
    Path(place.root, newest.log[-1].file.key).unlink()
    file_in(small, BRONZE, commit_file(10)).unlink()
    assert "commits 10 were put back" in repair_log(small.lake, BRONZE, place)
    assert small.content() == then


class Refusing(Guard):
    def check(self) -> Any:
        raise NotAllowed("the run was ended")


def test_a_run_that_was_ended_repairs_nothing(small: SmallLake) -> None:
    cut(file_in(small, BRONZE, checkpoint_file(8)))
    before = everything(small)
    with pytest.raises(NotAllowed):
        repair_log(small.lake, BRONZE, guard=Refusing())
    assert everything(small) == before


class Killed(BaseException):
    pass


def test_ended_before_any_change_of_the_log_the_next_try_ends_it(
    small: SmallLake, place: BackupPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.take_in()
    back_up(small.lake, place, NOW)
    then, path, store = small.content(), small.lake.path(BRONZE), module.store
    file_in(small, BRONZE, commit_file(10)).unlink()
    file_in(small, BRONZE, commit_file(11)).write_text("{")
    for version in (4, 8):
        cut(file_in(small, BRONZE, checkpoint_file(version)))
    broken, steps, done = everything(small), 0, ""

    class Files:
        """A store that ends the process before a change."""

        def __init__(self, root: str) -> None:
            self._files = store(root)
            self._ours = root == path

        def __getattr__(self, name: str) -> Any:
            if self._ours and name in ("put", "delete"):
                self._ours = False
                module_steps["left"] -= 1
                if module_steps["left"] < 0:
                    raise Killed
                self._ours = True
            return getattr(self._files, name)

    module_steps = {"left": 0}
    while not done:
        for file in Path(path, "_delta_log").iterdir():
            file.unlink()
        for file, content in broken.items():
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
        module_steps["left"] = steps
        with monkeypatch.context() as patched:
            patched.setattr(module, "store", Files)
            try:
                done = repair_log(small.lake, BRONZE, place)
            except Killed:
                steps += 1
        repair_log(small.lake, BRONZE, place)
        assert small.content() == then
    assert steps >= 4
