"""Failures of Delta tables: damaged logs and files, versions that are gone, several who write at once."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from obstore.store import LocalStore

from medallion_platform.lakehouse import maintenance
from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.pipeline.toy import Zone

TABLE = "bronze.events"


def commit(log: Path, version: int) -> Path:
    return log / f"{version:020}.json"


def gone(log: Path) -> None:
    commit(log, 1).unlink()


def first_gone(log: Path) -> None:
    commit(log, 0).unlink()


def emptied(log: Path) -> None:
    for file in log.glob("*.json"):
        file.write_bytes(b"")


def cut(log: Path) -> None:
    file = commit(log, 1)
    file.write_bytes(file.read_bytes()[:50])


def garbage(log: Path) -> None:
    commit(log, 1).write_bytes(os.urandom(500))


def checkpoint_garbage(log: Path) -> None:
    DeltaTable(log.parent).create_checkpoint()
    for file in log.glob("*.parquet"):
        file.write_bytes(os.urandom(5000))


def checkpoint_gone(log: Path) -> None:
    DeltaTable(log.parent).create_checkpoint()
    for file in (*log.glob("*.parquet"), *log.glob("0*.json")):
        file.unlink()


DAMAGE = (gone, first_gone, emptied, cut, garbage, checkpoint_garbage, checkpoint_gone)


def log_of(lake: Lake) -> Path:
    return Path(lake.path(TABLE), "_delta_log")


@pytest.mark.failure("corrupt")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_log_stops_an_intake(zone: Zone, damage: Callable[[Path], None]) -> None:
    damage(log_of(zone.lake))
    with pytest.raises(Exception) as caught:
        zone.take()
    assert caught.value


@pytest.mark.failure("corrupt", work="maintenance")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_log_stops_maintenance(zone: Zone, damage: Callable[[Path], None]) -> None:
    damage(log_of(zone.lake))
    with pytest.raises(Exception) as caught:
        maintenance.optimize(zone.lake, TABLE)
    assert caught.value


@pytest.mark.failure("corrupt")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_log_of_a_table_of_others(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    for n in range(3):
        write_deltalake(tmp_path, pl.DataFrame({"a": [n]}), mode="append")
    damage(tmp_path / "_delta_log")
    with pytest.raises(Exception) as caught:
        DeltaTable(tmp_path)
    assert caught.value


def first_file(folder: Path) -> Path:
    return sorted(folder.rglob("*.parquet"))[0]


SPOIL: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "emptied": lambda file: file.write_bytes(b""),
    "garbage": lambda file: file.write_bytes(os.urandom(5000)),
}
READ: dict[str, Callable[[str], object]] = {
    "polars": lambda path: pl.read_delta(path),
    "arrow": lambda path: DeltaTable(path).to_pyarrow_table(),
    "delta": lambda path: DeltaTable(path).optimize.compact(),
}


@pytest.mark.failure("corrupt")
@pytest.mark.parametrize("spoil", SPOIL)
@pytest.mark.parametrize("read", READ)
def test_a_damaged_file_of_a_table_of_others(tmp_path: Path, spoil: str, read: str) -> None:
    for n in range(3):
        write_deltalake(tmp_path, pl.DataFrame({"a": [n]}), mode="append")
    SPOIL[spoil](first_file(tmp_path))
    with pytest.raises(BaseException) as caught:
        READ[read](str(tmp_path))
    assert caught.value


@pytest.mark.failure("corrupt", work="maintenance")
@pytest.mark.parametrize("spoil", SPOIL)
def test_a_damaged_file_stops_maintenance(zone: Zone, spoil: str) -> None:
    SPOIL[spoil](first_file(Path(zone.lake.path(TABLE))))
    with pytest.raises(BaseException) as caught:
        maintenance.optimize(zone.lake, TABLE)
    assert caught.value


# versions that are gone -----------------------------------------------------------------------------


def vacuumed(path: Path) -> None:
    """A table whose version 2 has a file that is gone."""
    for n in range(3):
        write_deltalake(path, pl.DataFrame({"a": [n]}), mode="append")
    table = DeltaTable(path)
    table.delete("a = 0")
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)


def cleaned(path: Path) -> None:
    """A table whose log begins later than with version 0."""
    vacuumed(path)
    DeltaTable(path).create_checkpoint()
    for version in range(3):
        commit(path / "_delta_log", version).unlink()


VERSIONS: dict[str, Callable[[Path], object]] = {
    "read": lambda path: DeltaTable(vacuumed(path) or path, version=2).to_pyarrow_table(),
    "restore": lambda path: DeltaTable(vacuumed(path) or path).restore(2),
    "open": lambda path: DeltaTable(cleaned(path) or path, version=1),
    "changes": lambda path: pl.from_arrow(
        DeltaTable(cleaned(path) or path).load_cdf(starting_version=0).read_all()
    ),
    "later": lambda path: DeltaTable(cleaned(path) or path, version=99),
}


@pytest.mark.failure("position_lost", work="refresh")
@pytest.mark.parametrize("ask", VERSIONS)
def test_a_version_that_is_gone(tmp_path: Path, ask: str) -> None:
    with pytest.raises(Exception) as caught:
        VERSIONS[ask](tmp_path)
    assert caught.value


# several who write ----------------------------------------------------------------------------------


def append(table: DeltaTable) -> None:
    write_deltalake(table, pl.DataFrame({"a": [9]}), mode="append")


def overwrite(table: DeltaTable) -> None:
    write_deltalake(table, pl.DataFrame({"a": [9]}), mode="overwrite")


def transaction(table: DeltaTable) -> None:
    told = CommitProperties(app_transactions=[Transaction("writer", 1)], max_commit_retries=0)
    write_deltalake(table, pl.DataFrame({"a": [2]}), mode="append", commit_properties=told)


def delete(table: DeltaTable) -> None:
    table.delete("a >= 0")


def constrain(table: DeltaTable) -> None:
    table.alter.add_constraint({f"c{table.version()}": "a >= 0"})


@pytest.mark.failure("conflict")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (overwrite, overwrite),
        (delete, delete),
        (append, delete),
        (transaction, transaction),
        (constrain, constrain),
    ],
)
def test_two_who_write(
    tmp_path: Path, first: Callable[[DeltaTable], None], second: Callable[[DeltaTable], None]
) -> None:
    for n in range(3):
        write_deltalake(tmp_path, pl.DataFrame({"a": [n]}), mode="append")
    one, other = DeltaTable(tmp_path), DeltaTable(tmp_path)
    first(one)
    with pytest.raises(Exception) as caught:
        second(other)
    assert caught.value


@pytest.mark.failure("conflict")
def test_an_object_that_another_one_created(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    store.put("x", b"", mode="create")
    with pytest.raises(Exception) as caught:
        store.put("x", b"", mode="create")
    assert caught.value


@pytest.mark.failure("conflict")
def test_a_database_that_another_one_writes_to(tmp_path: Path) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "a")) as one,
        closing(sqlite3.connect(tmp_path / "a", timeout=0)) as other,
    ):
        one.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("CREATE TABLE t (a)")


# rows that do not fit -------------------------------------------------------------------------------


@pytest.mark.failure("data")
@pytest.mark.parametrize(
    "frame",
    [pl.DataFrame({"b": [1]}), pl.DataFrame({"a": ["x"]}), pl.DataFrame({"a": [-1]})],
    ids=["column", "type", "constraint"],
)
def test_rows_that_a_table_does_not_take(tmp_path: Path, frame: pl.DataFrame) -> None:
    write_deltalake(tmp_path, pl.DataFrame({"a": [1]}))
    constrain(DeltaTable(tmp_path))
    with pytest.raises(Exception) as caught:
        write_deltalake(tmp_path, frame, mode="append")
    assert caught.value


@pytest.mark.failure("permanent")
def test_a_table_of_a_version_that_nobody_reads(tmp_path: Path) -> None:
    write_deltalake(tmp_path, pl.DataFrame({"a": [1]}))
    first = commit(tmp_path / "_delta_log", 0)
    first.write_text(first.read_text().replace('"minReaderVersion":1', '"minReaderVersion":99'))
    with pytest.raises(Exception) as caught:
        DeltaTable(tmp_path).to_pyarrow_table()
    assert caught.value
