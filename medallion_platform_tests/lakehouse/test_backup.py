"""Backups of a real lake in folders: incremental, verified, and never half there."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from medallion_platform.lakehouse import backup, backup_place, incidents, maintenance
from medallion_platform.lakehouse.backup import BackedUp, BadPlace, back_up
from medallion_platform.lakehouse.backup_place import FILES, BackupPlace, DamagedBackup, NewerBackup
from medallion_platform.lakehouse.lake import files_of
from medallion_platform.lakehouse.log_archive import unpack_commits
from medallion_platform.storage import copy_file, store
from medallion_platform_tests.lakehouse.small_lake import ALL, NOW, SIX_HOURS, SmallLake


def backed_up(small: SmallLake, place: BackupPlace, after: timedelta = timedelta()) -> BackedUp:
    return back_up(small.lake, place, NOW + after)


def stored(place: BackupPlace) -> dict[str, bytes]:
    root = Path(place.root)
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def test_a_backup_holds_every_table_with_its_log(small: SmallLake, place: BackupPlace) -> None:
    done = backed_up(small, place)
    made = place.read(place.names()[0])
    assert (done.damaged, made) == ({}, done.backup)
    assert set(made.tables) == set(ALL)
    there = stored(place)
    assert set(made.needed_files()) | {done.name.key} == set(there)
    for name, table in made.tables.items():
        opened = small.lake.open(name)
        assert opened is not None
        assert (table.version, table.rows) == (opened.version(), opened.count())
        for file in files_of(opened):
            key = f"{FILES}/{table.folder}/{file['path']}"
            assert there[key] == Path(small.lake.path(name), file["path"]).read_bytes()
        commits = {v: t for part in table.log for v, t in unpack_commits(place.content(part.file)).items()}
        log = Path(small.lake.path(name), "_delta_log")
        assert commits == {v: (log / f"{v:020d}.json").read_bytes() for v in range(table.version + 1)}
    assert [f.path for f in made.quarantine] == ["quarantine/orders/d41d/ä b.csv"]


def test_the_next_one_copies_only_what_is_new(small: SmallLake, place: BackupPlace) -> None:
    first = backed_up(small, place).backup
    before = stored(place)
    assert backed_up(small, place, SIX_HOURS).backup.copied_files == 0
    assert set(stored(place)) - set(before) == {place.names()[0].key}
    small.take_in()
    second = backed_up(small, place, 2 * SIX_HOURS).backup
    assert second.copied_files == 3  # rows, a dead letter, a registered file
    assert second.copied_bytes == second.bytes - first.bytes
    after = stored(place)
    assert all(after[key] == content for key, content in before.items()), "nothing is written twice"
    new_parts = [p for t in ("bronze.orders", "silver.orders") for p in second.tables[t].log[-1:]]
    bronze = second.tables["bronze.orders"]
    assert [(p.first, p.last) for p in new_parts] == [(bronze.version, bronze.version), (0, 3)]


def test_what_the_place_has_lost_is_stored_again(small: SmallLake, place: BackupPlace) -> None:
    made = backed_up(small, place).backup
    table = made.tables["bronze.orders"]
    whole = stored(place)
    one, two = (Path(place.root, table.key(file)) for file in table.files[:2])
    one.unlink()
    two.write_bytes(two.read_bytes()[:-1])
    Path(place.root, table.log[0].file.key).unlink()
    again = backed_up(small, place, SIX_HOURS).backup
    assert again.copied_files == 2
    assert whole.items() <= stored(place).items()


def test_a_log_that_was_restored_is_not_taken_for_the_one_before(
    small: SmallLake, place: BackupPlace
) -> None:
    root = Path(str(small.lake.root))
    shutil.copytree(root, root.with_name("then"))
    small.take_in()
    backed_up(small, place)
    shutil.rmtree(root)
    shutil.copytree(root.with_name("then"), root)
    again = SmallLake(str(root))
    again.take_in()
    table = backed_up(again, place, SIX_HOURS).backup.tables["bronze.orders"]
    commits = {v: t for part in table.log for v, t in unpack_commits(place.content(part.file)).items()}
    log = Path(again.lake.path("bronze.orders"), "_delta_log")
    assert commits == {v: (log / f"{v:020d}.json").read_bytes() for v in range(table.version + 1)}


def test_a_damaged_file_is_named_and_not_taken_for_good(small: SmallLake, place: BackupPlace) -> None:
    backed_up(small, place)
    small.take_in()
    table = small.lake.open("bronze.orders")
    assert table is not None
    held = {f.path for f in place.read(place.names()[0]).tables["bronze.orders"].files}
    files = [f["path"] for f in files_of(table)]
    (new,) = set(files) - held
    old = min(held)
    for path in (new, old):
        file = Path(small.lake.path("bronze.orders"), path)
        content = bytearray(file.read_bytes())
        content[-20] ^= 1
        file.write_bytes(content)
    done = backed_up(small, place, 30 * SIX_HOURS)
    assert set(done.damaged) == {"bronze.orders"}
    damaged = done.damaged["bronze.orders"]
    assert "has a good copy; `medallion restore --table bronze.orders`" in damaged[old]
    assert "no backup has a good copy; `medallion restore --table bronze.orders --at" in damaged[new]
    assert done.backup.missing == {"bronze.orders": {new: damaged[new]}}
    assert {f.path for f in place.read(place.names()[0]).tables["bronze.orders"].files} == {*files} - {new}
    assert not [key for key in stored(place) if new in key]
    assert len(place.names()) == 2, "the one that is too old stays, as long as something is damaged"


def test_a_truncated_or_missing_file_and_a_damaged_log_are_named(
    small: SmallLake, place: BackupPlace
) -> None:
    one, *_ = [f["path"] for f in files_of(small.lake.open("silver.orders"))]  # type: ignore[arg-type]
    Path(small.lake.path("silver.orders"), one).unlink()
    registry = small.lake.open("files.orders")
    assert registry is not None
    two = files_of(registry)[0]["path"]
    file = Path(small.lake.path("files.orders"), two)
    file.write_bytes(file.read_bytes()[:-1])
    log = Path(small.lake.path("gold.days"), "_delta_log")
    (log / f"{1:020d}.json").write_text("{")
    done = backed_up(small, place)
    assert {t: set(files) for t, files in done.backup.missing.items()} == {
        "silver.orders": {one},
        "files.orders": {two},
        "gold.days": {"_delta_log"},
    }
    assert "`rebuild: true`" in done.damaged["silver.orders"][one]
    assert "it is gone" in done.damaged["silver.orders"][one]
    assert "cannot be read" in done.damaged["gold.days"]["_delta_log"]
    assert set(done.backup.tables) == {*ALL} - {"gold.days"}


def test_what_is_too_old_is_deleted_with_what_nothing_needs(
    small: SmallLake, place: BackupPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medallion_platform.lakehouse.backup_place._YOUNG", timedelta(days=-3000))
    small_files: set[str] = set()
    for day in range(12):
        small.round()
        maintenance.optimize(small.lake, "bronze.orders")
        done = backed_up(small, place, timedelta(days=day))
        small_files |= {f.path for f in done.backup.tables["bronze.orders"].files}
    days = [(name.at - NOW).days for name in place.names()]
    assert days == [11, 10, 9, 8, 7, 6, 5, 4]
    needed = {key for name in place.names() for key in place.read(name).needed_files()}
    assert needed == {key for key in stored(place) if key.startswith(FILES)}


def test_what_may_be_of_a_backup_that_is_being_made_stays(small: SmallLake, place: BackupPlace) -> None:
    backed_up(small, place, timedelta(days=-9))
    stray = Path(place.root, FILES, "bronze.orders", "other", "part-0.parquet")
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"being copied")
    back_up(small.lake, place, datetime.now(NOW.tzinfo))
    assert len(place.names()) == 1
    assert stray.exists()


class Killed(BaseException):
    """In the place of a SIGKILL; faults/test_backup.py sends real ones."""


@pytest.mark.parametrize("first", [True, False])
def test_a_backup_that_is_killed_anywhere_leaves_the_last_one_good(
    small: SmallLake, place: BackupPlace, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    last = None if first else backed_up(small, place).backup
    small.round()
    put = backup_place.BackupPlace.keep, backup_place.BackupPlace.write, backup.copy_file
    for n in range(1, 100):
        calls = itertools.count(1)

        def dying(step: Any, calls: Iterator[int] = calls, n: int = n) -> Any:
            def called(*arguments: Any, **named: Any) -> Any:
                if next(calls) >= n:
                    raise Killed
                return step(*arguments, **named)

            return called

        monkeypatch.setattr(backup_place.BackupPlace, "keep", dying(put[0]))
        monkeypatch.setattr(backup_place.BackupPlace, "write", dying(put[1]))
        monkeypatch.setattr(backup, "copy_file", dying(put[2]))
        try:
            done = backed_up(small, place, SIX_HOURS)
        except Killed:
            assert place.newest() == last
            assert last is None or set(last.needed_files()) <= set(stored(place))
        else:
            assert n > 5
            assert set(done.backup.needed_files()) <= set(stored(place))
            return
    raise AssertionError("it never came to its end")


def test_a_backup_beside_writers_is_of_one_cut(small: SmallLake, place: BackupPlace) -> None:
    ended = Event()

    def write() -> None:
        while not ended.is_set():
            small.round()

    writer = Thread(target=write)
    writer.start()
    try:
        for n in range(6):
            made = backed_up(small, place, n * SIX_HOURS).backup
            versions = {name: table.version for name, table in made.tables.items()}
            held = small.content(versions)
            for name, upstream in (("gold.days", "silver.orders"), ("silver.orders", "bronze.orders")):
                assert {*held[name]} <= {*held[upstream]}
            numbers = range(1, 1 + len(held["files.orders"]))
            assert len(held["bronze.orders"]) == 2 * len(held["dead_letters.bronze.orders"])
            assert len(numbers) * 2 >= len(held["bronze.orders"])
            assert {name: len(rows) for name, rows in held.items()} == {
                n: t.rows for n, t in made.tables.items()
            }
    finally:
        ended.set()
        writer.join()


def test_a_damaged_or_newer_backup_is_refused(small: SmallLake, place: BackupPlace) -> None:
    name = backed_up(small, place).name
    path = Path(place.root, name.key)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"rows": 6', b'"rows": 7'))
    with pytest.raises(DamagedBackup, match=r"another digest.*medallion backup --list"):
        place.read(name)
    assert place.newest() is None
    assert backed_up(small, place, SIX_HOURS).backup.copied_files == 0, "what it left is used"
    path.write_bytes(whole)
    newer = place.read(name)
    changed = place.write(type(newer)(**{**vars(newer), "format": 2}))
    with pytest.raises(NewerBackup, match="install the version"):
        place.read(changed)


@pytest.mark.failure("permanent", work="backup")
def test_a_place_within_the_lake_is_refused(small: SmallLake) -> None:
    root = Path(str(small.lake.root))
    for inside in (root, root / "backup", root.parent):
        with pytest.raises(BadPlace, match="another folder or bucket"):
            back_up(small.lake, BackupPlace(str(inside)), NOW)


@pytest.mark.parametrize("size", [0, 99, 20_000_000])
def test_files_of_any_size_are_copied(tmp_path: Path, size: int) -> None:
    source, target, content = str(tmp_path / "a"), str(tmp_path / "b"), b"x" * size
    store(source).put("r=G%3A W/ü", content)
    copy_file(source, "r=G%3A W/ü", target, "files/r=G%3A W/ü")
    assert store(target).get("files/r=G%3A W/ü").bytes().to_bytes() == content


COPY = """
import sys
from medallion_platform.storage import copy_file
copy_file(sys.argv[1], "a", sys.argv[1], "b")
sys.exit("asyncio" in sys.modules)
"""


def test_a_copy_leaves_no_thread_that_could_abort_a_process_at_its_end(tmp_path: Path) -> None:
    """Answers of the asynchronous client did, in one of ten processes that ended right afterwards."""
    (tmp_path / "a").write_bytes(b"x" * 20_000_000)
    assert subprocess.run([sys.executable, "-c", COPY, str(tmp_path)], check=False).returncode == 0


def test_what_was_decided_about_failures_is_no_part_of_it(small: SmallLake, place: BackupPlace) -> None:
    incidents.report(small.lake, [incidents.Row("evidence", NOW, "worker", "bronze.orders")])
    assert small.lake.exists(incidents.INCIDENTS)
    backed_up(small, place)
    assert set(place.read(place.names()[0]).tables) == set(ALL)
    assert not [key for key in stored(place) if "incidents" in key]
