"""Backups of a lake in a bucket, to another bucket and to a folder, and back."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from medallion_platform.lakehouse.backup import back_up
from medallion_platform.lakehouse.backup_place import BackupPlace
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.lakehouse.restore import choose_backup, restore_lake
from medallion_platform.lakehouse.restore_table import restore_table
from medallion_platform.storage import store
from medallion_platform_tests.lakehouse.small_lake import ALL, NOW, SmallLake

from .server import Server

pytestmark = [pytest.mark.s3, pytest.mark.timeout(600)]


@pytest.fixture
def other(server: Server) -> str:
    """Another bucket."""
    name = f"o-{uuid.uuid4().hex[:12]}"
    (server.root / name).mkdir()
    return f"s3://{name}/back ups"


def content(root: str) -> dict[str, list[tuple[object, ...]]]:
    found = object.__new__(SmallLake)
    found.lake = Lake(root)
    return found.content()


def filled(root: str) -> SmallLake:
    small = SmallLake(root)
    for _ in range(3):
        small.round()
    return small


@pytest.mark.parametrize("ways", ["bucket to bucket to bucket", "bucket to folder to folder"])
def test_a_lake_in_a_bucket(server: Server, bucket: str, other: str, tmp_path: Path, ways: str) -> None:
    small = filled(bucket)
    in_folders = ways.endswith("folder")
    place = BackupPlace(str(tmp_path / "backups") if in_folders else other)
    first = back_up(small.lake, place, NOW)
    assert not first.damaged
    small.round()
    name, made = choose_backup(place)
    target = str(tmp_path / "restored") if in_folders else f"{other.removesuffix('/back ups')}/restored"
    restore_lake(place, name, made, target)
    versions = {table: first.backup.tables[table].version for table in ALL}
    assert content(target) == small.content(versions)
    goes_on = SmallLake(target)
    goes_on.round()
    assert goes_on.content() == small.content()


def test_a_damaged_object_is_told_and_put_back(server: Server, bucket: str, other: str) -> None:
    small, place = filled(bucket), BackupPlace(other)
    back_up(small.lake, place, NOW)
    table = small.lake.open("bronze.orders")
    assert table is not None
    path, whole = files_of(table)[0]["path"], small.content()
    objects = store(small.lake.path("bronze.orders"))
    good = objects.get(path).bytes().to_bytes()
    objects.put(path, good[:-20] + bytes([good[-20] ^ 1]) + good[-19:])
    done = back_up(small.lake, place, NOW.replace(hour=8))
    assert list(done.damaged) == ["bronze.orders"]
    assert not done.backup.missing
    (back,) = restore_table(place, "bronze.orders", small.lake, "run", NOW)
    assert back.files == 1
    assert objects.get(path).bytes().to_bytes() == good
    assert small.content() == whole
    objects.delete(path)
    (back,) = restore_table(place, "bronze.orders", small.lake, "run", NOW)
    assert (back.files, small.content()) == (1, whole)


def test_a_table_in_a_bucket_goes_back(server: Server, bucket: str, other: str) -> None:
    small, place = filled(bucket), BackupPlace(other)
    then = small.content()
    back_up(small.lake, place, NOW)
    small.round()
    restore_table(place, "bronze.orders", small.lake, "run", NOW, NOW)
    assert small.content()["bronze.orders"] == then["bronze.orders"]
    assert small.lake.positions("bronze.orders")("orders") == (3 << 32) + 3
