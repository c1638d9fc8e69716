"""Dagster's own storage in a backup, and out of it: runs, events, the state of schedules and sensors.

SQLite is copied by its own backup, a database that has not changed not at all. Postgres is read in one
transaction, table by table: `pg_dump` refuses a server that is newer than itself. Logs that programs printed
(`storage/` in Dagster's home) and settings are not part of it.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import dagster as dg
import sqlalchemy as sql
from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.schema import RunStorageSqlMetadata
from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.lakehouse.backup_place import BackupPlace, KeptFile
from medallion_platform.orchestration.retention import sql_storages
from medallion_platform.storage import file_mark

if TYPE_CHECKING:
    import polars as pl

DAGSTER = "dagster"
"""What these files are in a backup."""
_FOLDERS = ("history", "schedules")
"""Of SQLite's databases, below Dagster's home."""
_MIGRATION = "alembic_version"
_TABLES = frozenset(
    name
    for metadata in (RunStorageSqlMetadata, SqlEventLogStorageMetadata, ScheduleStorageSqlMetadata)
    for name in metadata.tables
)
_ROWS = 50_000
"""Rows of a file, in memory at once."""


class StorageNotRestored(MedallionError):
    """Dagster's storage cannot be restored; nothing was changed; the text says why."""

    kind = Kind.PERMANENT


def save_storage(on: dg.DagsterInstance, place: BackupPlace, last: Sequence[KeptFile]) -> list[KeptFile]:
    """Store what an instance knows; last: what the backup before has of it."""
    if (home := _sqlite_home(on)) is None:
        return [place.keep(DAGSTER, name, rows) for name, rows in _dump(on)]
    held = {(file.name, file.mark): file for file in last}
    found: list[KeptFile] = []
    for path in _databases(home):
        name, mark = str(path.relative_to(home)), _mark(path)
        found.append(held.get((name, mark)) or place.keep(DAGSTER, name, _copy(path), mark))
    return found


def refuse_storage(on: dg.DagsterInstance, files: Sequence[KeptFile]) -> None:
    """Refuse an instance into which these files cannot be restored.

    Raises:
        StorageNotRestored: it has runs, or another kind of database.
    """
    if on.get_runs_count():
        raise StorageNotRestored(
            "Dagster's storage is not empty: it has runs. Nothing was restored",
            remedy="name another home by --home, empty its database, or restore single tables by `--table`",
        )
    in_files = any(file.name.endswith(".db") for file in files)
    if files and in_files != (_sqlite_home(on) is not None):
        one, other = ("SQLite", "Postgres") if in_files else ("Postgres", "SQLite")
        raise StorageNotRestored(
            f"the backup has Dagster's storage of {one}, and dagster.yaml in {on.root_directory} names "
            f"{other}. Nothing was restored",
            remedy=f"let dagster.yaml name {one}",
        )


def restore_storage(on: dg.DagsterInstance, place: BackupPlace, files: Sequence[KeptFile]) -> None:
    """Bring back what an instance knew, into one that knows nothing.

    Raises:
        StorageNotRestored: another version of Dagster made the backup.
        DamagedBackup: a file of the backup is missing or damaged.
    """
    if (home := _sqlite_home(on)) is None:
        _load(on, place, files)
        return
    for file in files:
        _bring_back(zlib.decompress(place.content(file)), home / file.name)


# --- SQLite -----------------------------------------------------------------------------------------


def _sqlite_home(on: dg.DagsterInstance) -> Path | None:
    """The folder of an instance with SQLite, None for another database."""
    _, event_log = sql_storages(on)
    return Path(on.root_directory) if isinstance(event_log, SqliteEventLogStorage) else None


def _databases(home: Path) -> list[Path]:
    return sorted(path for folder in _FOLDERS for path in (home / folder).rglob("*.db"))


def _mark(path: Path) -> str:
    """What tells a database from itself before a change, which may be in its log only."""
    log = path.with_name(f"{path.name}-wal")
    return " ".join(file_mark(file.stat()) for file in (path, log) if file.exists())


def _copy(path: Path) -> bytes:
    """A database as it is now, whoever writes to it, packed."""
    with TemporaryDirectory(prefix="medallion-backup-") as folder:
        copied = Path(folder, path.name)
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copied)) as target:
            source.backup(target)
        return zlib.compress(copied.read_bytes())


def _bring_back(content: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="medallion-restore-") as folder:
        copied = Path(folder, path.name)
        copied.write_bytes(content)
        with closing(sqlite3.connect(copied)) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target)


# --- Postgres ---------------------------------------------------------------------------------------


def _engines(on: dg.DagsterInstance) -> Iterator[sql.Engine]:
    """The databases of an instance, each once."""
    schedules: Any = on.schedule_storage
    seen: set[str] = set()
    schedules = getattr(getattr(schedules, "_storage", schedules), "schedule_storage", schedules)
    storages: tuple[Any, ...] = (*sql_storages(on), schedules)
    for storage in storages:
        engine: sql.Engine = storage._engine
        if (url := engine.url.render_as_string(hide_password=True)) not in seen:
            seen.add(url)
            yield engine


def _tables(connection: sql.Connection) -> list[sql.Table]:
    """Dagster's tables in a database, in an order in which rows can be added."""
    there = {*sql.inspect(connection).get_table_names()} & {*_TABLES, _MIGRATION}
    found = sql.MetaData()
    found.reflect(connection, only=sorted(there))
    return list(found.sorted_tables)


def _dump(on: dg.DagsterInstance) -> Iterator[tuple[str, bytes]]:
    """Every row of Dagster's tables as of one moment of each database: `0/runs/3`, and a Parquet file."""
    for n, engine in enumerate(_engines(on)):
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            for table in _tables(connection):
                rows = sql.select(table).order_by(*table.primary_key.columns)
                found = connection.execution_options(yield_per=_ROWS).execute(rows)
                for part, some in enumerate(found.mappings().partitions()):
                    yield f"{n}/{table.name}/{part}", _parquet(table, some)


def _parquet(table: sql.Table, rows: Sequence[sql.RowMapping]) -> bytes:
    import polars as pl

    schema = {column.name: _kind(column.type) for column in table.columns}
    sink = BytesIO()
    pl.DataFrame([dict(row) for row in rows], schema=schema).write_parquet(sink)
    return sink.getvalue()


def _kind(of: Any) -> pl.DataType:
    import polars as pl

    kinds: dict[type, pl.DataType] = {
        int: pl.Int64(),
        float: pl.Float64(),
        bool: pl.Boolean(),
        bytes: pl.Binary(),
        datetime: pl.Datetime("us", "UTC" if getattr(of, "timezone", False) else None),
    }
    return kinds.get(of.python_type, pl.String())


def _load(on: dg.DagsterInstance, place: BackupPlace, files: Sequence[KeptFile]) -> None:
    import polars as pl

    for n, engine in enumerate(_engines(on)):
        mine: dict[str, list[KeptFile]] = {}
        for file in files:
            database, table, _ = file.name.split("/")
            if database == str(n):
                mine.setdefault(table, []).append(file)
        with engine.begin() as connection:
            tables = _tables(connection)
            _refuse_other_version(connection, place, mine.get(_MIGRATION, []))
            for table in reversed(tables):
                connection.execute(table.delete())
            for table in tables:
                for file in mine.get(table.name, []):
                    rows = pl.read_parquet(BytesIO(place.content(file)))
                    connection.execute(table.insert(), rows.to_dicts())
                _go_on_counting(connection, table)


def _refuse_other_version(connection: sql.Connection, place: BackupPlace, files: Sequence[KeptFile]) -> None:
    import polars as pl

    there = {row[0] for row in connection.execute(sql.text(f"select version_num from {_MIGRATION}"))}  # noqa: S608
    held = {v for file in files for v in pl.read_parquet(BytesIO(place.content(file)))["version_num"]}
    if there != held:
        raise StorageNotRestored(
            f"the backup has Dagster's tables as of migration {', '.join(sorted(held))}, and this Dagster "
            f"makes {', '.join(sorted(there))}. Its storage was not restored",
            remedy="install the Dagster that was there when the backup was made, restore, and migrate",
        )


def _go_on_counting(connection: sql.Connection, table: sql.Table) -> None:
    """Let Postgres count on from the rows that were brought back."""
    for column in table.primary_key.columns:
        sequence = connection.scalar(sql.select(sql.func.pg_get_serial_sequence(table.name, column.name)))
        if sequence:
            newest = connection.scalar(sql.select(sql.func.max(column)))
            connection.execute(sql.select(sql.func.setval(sequence, (newest or 0) + 1, False)))
