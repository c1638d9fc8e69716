"""Dagster knows after a restore what it knew when it was backed up, in SQLite and in Postgres."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from medallion_platform.lakehouse.backup_place import BackupPlace
from medallion_platform.orchestration import runs
from medallion_platform.orchestration.dagster_storage import (
    StorageNotRestored,
    refuse_storage,
    restore_storage,
    save_storage,
)
from medallion_platform_tests.debezium.stack import Postgres, running_postgres
from medallion_platform_tests.orchestration.test_retention import run, state


@pytest.fixture
def place(tmp_path: Path) -> BackupPlace:
    return BackupPlace(str(tmp_path / "place"))


def known(on: dg.DagsterInstance) -> dict[str, Any]:
    """What pages and sensors go by, and every run with its log."""
    logs = {
        found.run_id: [entry.user_message for entry in on.all_logs(found.run_id)] for found in on.get_runs()
    }
    return {"state": state(on), "logs": logs, "info": on.run_storage.get_run_storage_id()}


@pytest.mark.failure("permanent")
def test_sqlite(tmp_path: Path, place: BackupPlace) -> None:
    with runs.open_instance(tmp_path / "dagster") as on:
        run(on, "2026-01-01")
        first = save_storage(on, place, save_storage(on, place, []))  # reading once tidies up a database
        run(on, "2026-01-02")
        told, files = known(on), save_storage(on, place, first)
        unchanged = {file.name for file in first} & {file.name for file in files if file in first}
        assert len(unchanged) == 2, "the log of a run that ended, and the schedules"
        run(on, "2026-01-03")
        with pytest.raises(StorageNotRestored, match=r"it has runs.*--home"):
            refuse_storage(on, files)
    with runs.open_instance(tmp_path / "other") as on:
        refuse_storage(on, files)
        restore_storage(on, place, files)
    with runs.open_instance(tmp_path / "other") as on:
        assert known(on) == told
        run(on, "2026-01-04")
        assert on.get_runs_count() == 3


def test_sqlite_while_somebody_writes(tmp_path: Path, place: BackupPlace) -> None:
    with runs.open_instance(tmp_path / "dagster") as on:
        run(on, "2026-01-01")
        told = known(on)
        with sqlite3.connect(tmp_path / "dagster/history/runs.db") as writer:
            writer.execute("begin immediate")
            writer.execute("delete from runs")
            files = save_storage(on, place, [])
            writer.rollback()
    with runs.open_instance(tmp_path / "other") as on:
        restore_storage(on, place, files)
        assert known(on) == told


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    yield from running_postgres()


def instance(server: Postgres, name: str, folder: Path) -> Any:
    server.sql("postgres", f"create database {name}")
    url = f"postgresql://postgres@127.0.0.1:{server.port}/{name}"
    folder.mkdir()
    return dg.instance_for_test({"storage": {"postgres": {"postgres_url": url}}}, temp_dir=str(folder))


@pytest.mark.postgres
def test_postgres(server: Postgres, tmp_path: Path, place: BackupPlace) -> None:
    with instance(server, "before", tmp_path / "before") as on:
        run(on, "2026-01-01")
        run(on, "2026-01-02")
        told, files = known(on), save_storage(on, place, [])
        with pytest.raises(StorageNotRestored, match="it has runs"):
            refuse_storage(on, files)
    with instance(server, "after", tmp_path / "after") as on:
        refuse_storage(on, files)
        restore_storage(on, place, files)
        assert known(on) == told
        run(on, "2026-01-03")
        assert on.get_runs_count() == 3
        assert len(on.all_logs(on.get_runs(limit=1)[0].run_id)) > 5
    with instance(server, "newer", tmp_path / "newer") as on:
        server.sql("newer", "update alembic_version set version_num = 'f00'")
        with pytest.raises(StorageNotRestored, match=r"migration .*makes f00"):
            restore_storage(on, place, files)
    wrong = pytest.raises(StorageNotRestored, match=r"storage of Postgres.*names SQLite")
    with runs.open_instance(tmp_path / "sqlite") as on, wrong:
        refuse_storage(on, files)
