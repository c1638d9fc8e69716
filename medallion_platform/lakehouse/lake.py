"""Where every table of an installation lies, and the few things one asks of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from medallion_platform import storage
from medallion_platform.lakehouse import log, paths, rolled_log
from medallion_platform.lakehouse.record import WHOLE, Record

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

RETENTION = {
    # How long checkpoints name what was deleted. `maintenance.vacuum` knows it from the commits, for longer.
    "delta.deletedFileRetentionDuration": "interval 1 day",
    "delta.logRetentionDuration": f"interval {rolled_log.LOG_RETENTION.days} days",
}
# The change feed is for readers outside of the platform, which reads the log itself.
PROPERTIES = {"delta.enableChangeDataFeed": "true", **RETENTION}
_RECORDS_BACK = 50


class DamagedLog(RuntimeError):
    """A table cannot be opened, because its log is damaged; the text says what to do."""

    def __init__(self, table: str, path: str, error: Exception) -> None:
        super().__init__(
            f"{table}: its log {path}/_delta_log cannot be read ({error}). Nothing was written. If the "
            "newest *.checkpoint.parquet there is damaged or missing and every commit since version 0 (or "
            "since the checkpoint before) is there, delete it and _last_checkpoint, and run again"
        )


@dataclass(frozen=True)
class Lake:
    """All tables below one root, a folder or `s3://bucket/prefix`: `<root>/<layer>/<name>`."""

    root: Path | str

    def path(self, table: str) -> str:
        """Where `silver.events` lies, or `dead_letters.silver.events`."""
        layer, _, name = table.partition(".")
        return f"{self.root}/{layer}/{name}"

    def open(self, table: str, version: int | None = None) -> DeltaTable | None:
        """The table at a version (the newest by default), or None where it does not exist yet.

        Raises:
            DamagedLog: its log cannot be read.
        """
        from deltalake.exceptions import DeltaError, TableNotFoundError

        path = self.path(table)
        try:
            return _table_type()(path, version=version, storage_options=storage.options(path))
        except DeltaError as error:
            if version is not None and rolled_log.put_back(path, version):
                return self.open(table, version)
            if isinstance(error, TableNotFoundError):
                return None
            if version is not None or storage.of_request(error):
                raise
            raise DamagedLog(table, path, error) from error

    def version(self, table: str) -> int:
        """The newest version, -1 where the table does not exist yet."""
        found = self.open(table)
        return -1 if found is None else found.version()

    def positions(self, table: str) -> Callable[[str], int | None]:
        """How far a table is now: the next offset of a log by its name, None where it took nothing of it."""
        found = self.open(table)
        return found.transaction_version if found is not None else lambda _: None

    def version_at(self, table: str, at: datetime) -> int:
        """The version that was the newest at an instant, -1 where there was none yet."""
        return max((v for v, then in self.committed_at(table).items() if then <= at), default=-1)

    def exists(self, table: str) -> bool:
        """Whether the table has been created."""
        return self.open(table) is not None

    def ensure(
        self,
        table: str,
        schema: pa.Schema,
        partition_by: Iterable[str] = (),
        properties: Mapping[str, str] = PROPERTIES,
    ) -> DeltaTable:
        """The table, created empty where it is missing."""
        from deltalake import CommitProperties, DeltaTable, Schema
        from deltalake.exceptions import CommitFailedError

        found = self.open(table)
        if found is not None:
            return found
        path = self.path(table)
        # Somebody else may make it at the same moment: then it is there, and not made twice.
        with suppress(CommitFailedError):
            DeltaTable.create(
                path,
                schema=Schema.from_arrow(schema),
                mode="ignore",
                partition_by=list(partition_by),
                configuration=dict(properties),
                name=table,
                storage_options=storage.options(path),
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        made = self.open(table)
        assert made is not None
        return made

    def last_record(self, table: str, verbs: tuple[str, ...] = ()) -> Record | None:
        """The newest commit's own account (of one of `verbs`), None where the log has none left."""
        for info in islice(self._infos(table), _RECORDS_BACK):
            record = Record.from_json(info.get("userMetadata"))
            if record and (not verbs or record.verb in verbs):
                return record
        return None

    def records(self, table: str, limit: int | None = None) -> list[tuple[int, Record]]:
        """(version, record) of every commit still in the log, newest first."""
        pairs = [
            (i["version"], Record.from_json(i.get("userMetadata")))
            for i in islice(self._infos(table), limit)
            if "maintenance" not in i  # upkeep carries the last record on; it counts once
        ]
        return [(version, record) for version, record in pairs if record]

    def committed_at(self, table: str) -> dict[int, datetime]:
        """When each version still in the log was committed."""
        infos = self._infos(table)
        return {i["version"]: datetime.fromtimestamp(i["timestamp"] / 1000, UTC) for i in infos}

    def _infos(self, table: str) -> Iterator[dict[str, Any]]:
        """What each commit still in the log says of itself, newest first."""
        return log.infos(self.path(table), self.version(table))

    def units(self, table: str, column: str) -> set[str]:
        """The values of a partition column that hold rows now."""
        found = self.open(table)
        if found is None:
            return set()
        return {str(p.get(column) or WHOLE) for p in found.partitions()}

    def rows(self, table: str) -> int:
        """How many rows the table holds, from the log's statistics."""
        found = self.open(table)
        return int(found.count()) if found else 0

    def tables(self) -> list[str]:
        """Every table that exists, e.g. `bronze.events`."""
        below = storage.store(str(self.root))
        folders = (
            folder
            for layer in ("bronze", "silver", "gold")
            for folder in sorted(below.list_with_delimiter(layer)["common_prefixes"])
        )
        return [name for folder in folders if self.exists(name := folder.replace("/", ".", 1))]


@cache
def _table_type() -> type[DeltaTable]:
    """delta-rs's table, but for the paths of its files below a folder with blanks or umlauts.

    delta-rs gives these as they stand in a URI, and Polars opens them as paths.
    """
    from deltalake import DeltaTable

    class Table(DeltaTable):
        def file_uris(self, *args: Any, **options: Any) -> list[str]:
            root = self.table_uri.removeprefix("file://")
            return [unquote(root) + uri.removeprefix(root) for uri in super().file_uris(*args, **options)]

    return Table


def path_of(table: DeltaTable) -> str:
    """Where an opened table lies."""
    return unquote(table.table_uri.removeprefix("file://")).rstrip("/")


def is_in_log(table: DeltaTable) -> bool:
    """Whether the commit that an opened table stands at is in its log still: not gone, and not rolled up."""
    return storage.exists(path_of(table), rolled_log.commit_file(table.version()))


def follow(table: DeltaTable) -> None:
    """Bring an opened table to its newest version; lists its log only where there is one."""
    if not log.is_newest(path_of(table), table.version()):
        table.update_incremental()


def files_of(table: DeltaTable) -> list[dict[str, Any]]:
    """Each data file of the table's version: path below the table, size_bytes, num_records, partition.*"""
    import polars as pl

    actions = pl.DataFrame(table.get_add_actions(flatten=True))
    return [{**a, "path": paths.below_table(a["path"])} for a in actions.to_dicts()]


def partition_of(file: Mapping[str, Any], columns: Iterable[str]) -> dict[str, str | None]:
    """The partition values of a line of `files_of`, as the log has them."""
    return {c: paths.text(file.get(f"partition.{c}")) for c in columns}
