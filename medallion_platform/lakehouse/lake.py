"""The lake: where its tables are, and what can be read of them without their rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from medallion_platform import storage
from medallion_platform.errors import Kind, MedallionError, classify
from medallion_platform.lakehouse import delta_log, log_archive, paths, table_state
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, WRITER, CommitRecord
from medallion_platform.lakehouse.delta_log import FileEntry, LogEntry

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

    from medallion_platform.lakehouse.table_state import TableState

T = TypeVar("T")

RETENTION = {
    # How long checkpoints name what was deleted. `maintenance.vacuum` knows it from the commits, for longer.
    "delta.deletedFileRetentionDuration": "interval 1 day",
    "delta.logRetentionDuration": f"interval {log_archive.LOG_RETENTION.days} days",
}
# The change feed is for readers outside of the platform, which reads the log itself.
PROPERTIES = {"delta.enableChangeDataFeed": "true", **RETENTION}


class DamagedLog(MedallionError):
    """A table cannot be opened, because its log is damaged; the text says what to do."""

    kind = Kind.CORRUPT

    def __init__(self, table: str, path: str, error: Exception | str, remedy: str = "") -> None:
        reason = str(error).partition("\n")[0]  # delta-rs adds a trace of its own code
        super().__init__(
            f"{table}: its log {path}/_delta_log cannot be read ({reason}). Nothing was written",
            table=table,
            remedy=remedy
            or "if the newest *.checkpoint.parquet there is damaged or missing and every commit since "
            "version 0 (or since the checkpoint before) is there, delete it and _last_checkpoint, and run "
            "again",
        )
        self.path, self.reason = f"{path}/_delta_log", reason


@dataclass(frozen=True)
class Size:
    """Rows and bytes of data files, from the statistics in Delta logs."""

    rows: int = 0
    bytes: int = 0

    def __add__(self, other: Size) -> Size:
        """The sum of both."""
        return Size(self.rows + other.rows, self.bytes + other.bytes)


@dataclass(frozen=True)
class Lake:
    """All tables below one root, a folder or `s3://bucket/prefix`: `<root>/<layer>/<name>`.

    Every method returns the current state. Of a Delta log that this process has read before, only the new
    part is read.
    """

    root: Path | str

    def path(self, table: str) -> str:
        """The path of a table, e.g. of `silver.events` or `dead_letters.silver.events`."""
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
            return _table_type()(path, version=version, storage_options=storage.delta_storage_options(path))
        except DeltaError as error:
            if version is not None and log_archive.put_back_commits(path, version):
                return self.open(table, version)
            if isinstance(error, TableNotFoundError):
                return None
            if version is not None or (storage.in_bucket(path) and not classify(error).of_content):
                raise
            raise DamagedLog(table, path, error) from error

    def snapshot(self) -> LakeSnapshot:
        """The lake as it is now, for consistent answers to many questions."""
        return LakeSnapshot(self.root)

    def table_state(self, table: str) -> TableState | None:
        """The current state of a table, None if it does not exist yet. Not for commits.

        Raises:
            DamagedLog: its log cannot be read.
        """
        return table_state.at(self.path(table), partial(self.open, table))

    def state(self, table: str) -> Hashable:
        """A value that changes whenever the table does, None if it does not exist yet."""
        found = self.table_state(table)
        return found and found.state

    def version(self, table: str) -> int:
        """The newest version, -1 where the table does not exist yet."""
        found = self.table_state(table)
        return -1 if found is None else found.version

    def positions(self, table: str) -> Callable[[str], int | None]:
        """The positions of a table: the next offset by log name, None for a log that it has not read."""
        found = self.table_state(table)

        def position(log: str) -> int | None:
            return found and found.fact(("position", log), lambda opened: opened.transaction_version(log))

        return position

    def sequence(self, table: str) -> int:
        """The newest `CommitRecord.sequence` in a table, -1 where there is none."""
        newest = self.positions(table)(WRITER)
        return -1 if newest is None else newest

    def version_at(self, table: str, at: datetime) -> int:
        """The version that was the newest at an instant, -1 where there was none yet."""
        return next((i["version"] for i in self._infos(table) if _instant(i) <= at), -1)

    def exists(self, table: str) -> bool:
        """Whether the table has been created."""
        return self.table_state(table) is not None

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
        try:
            DeltaTable.create(
                path,
                schema=Schema.from_arrow(schema),
                mode="ignore",
                partition_by=list(partition_by),
                configuration=dict(properties),
                name=table,
                storage_options=storage.delta_storage_options(path),
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except CommitFailedError:
            if (made := self.open(table)) is None:
                raise
            return made
        made = self.open(table)
        assert made is not None
        return made

    def last_record(self, table: str, verbs: tuple[str, ...] = ()) -> CommitRecord | None:
        """The newest commit record (of one of `verbs`), None if the log has none.

        Newer commits of other software are skipped.
        """
        found = self.table_state(table)
        if found is None or self.sequence(table) < 0:
            return None

        def newer(until: int, before: CommitRecord | None) -> CommitRecord | None:
            return next(_own(_infos(found, until), verbs), before)

        with suppress(delta_log.LogGone):
            return found.folded(("last record", verbs), newer)
        return None

    def records(
        self, table: str, limit: int | None = None, since: int = -1
    ) -> list[tuple[int, CommitRecord]]:
        """(version, record) of every commit still in the log after a version, newest first.

        limit: of how many commits at the most.
        """
        return list(self.each_record(table, limit, since))

    def each_record(
        self, table: str, limit: int | None = None, since: int = -1, until: int | None = None
    ) -> Iterator[tuple[int, CommitRecord]]:
        """The same as an iterator, up to version `until`: reads no more of the log than is consumed."""
        return ((version, record) for version, _, record in self.each_commit(table, limit, since, until))

    def each_commit(
        self, table: str, limit: int | None = None, since: int = -1, until: int | None = None
    ) -> Iterator[tuple[int, datetime, CommitRecord]]:
        """The same, with the time of each commit."""
        for info in islice(self._infos(table, since, until), limit):
            # Upkeep carries the last record on; it counts once.
            if "maintenance" not in info and (record := CommitRecord.from_json(info.get("userMetadata"))):
                yield info["version"], _instant(info), record

    def committed_at(self, table: str) -> dict[int, datetime]:
        """When each version still in the log was committed."""
        return {i["version"]: _instant(i) for i in self._infos(table)}

    def last_commit(self, table: str) -> datetime | None:
        """When the newest version was committed, None if the table or that commit does not exist."""
        found = self.table_state(table)
        if found is None:
            return None
        with suppress(delta_log.LogGone):
            return _instant(next(_infos(found, found.version - 1)))
        return None

    def folded(self, table: str, head: int, name: Hashable, go_on: Callable[[int, Any], T]) -> T:
        """The result of folding a table's commits up to `head` (see `TableState.folded`)."""
        found = self.table_state(table)
        return found.folded(name, go_on) if found and found.version == head else go_on(-1, None)

    def fact_about(self, tables: Sequence[str], name: Hashable, find: Callable[[], T]) -> T:
        """The result of `find`, which depends only on `name` and these tables.

        A former command's result is used if there is one and nothing of the tables changed.
        """
        first, *others = [self.table_state(table) for table in tables]
        return first.fact_with(others, name, find) if first else find()

    def _infos(self, table: str, after: int = -1, until: int | None = None) -> Iterator[LogEntry]:
        """What each commit still in the log says of itself, newest first."""
        newest = self.version(table) if until is None else until
        with suppress(delta_log.LogGone):
            yield from delta_log.infos(self.path(table), newest, after)

    def partitions(self, table: str, column: str) -> set[str]:
        """The values of a partition column that hold rows now."""
        found = self.table_state(table)
        if found is None:
            return set()
        return set(found.fact(("partitions", column), partial(_partitions, column=column)))

    def rows(self, table: str) -> int:
        """How many rows the table holds, from the log's statistics."""
        found = self.table_state(table)
        return found.fact("rows", lambda opened: int(opened.count())) if found else 0

    def sizes(self, table: str, column: str | None = None) -> dict[str, Size]:
        """The size of each value of a partition column; of all rows where the table has no such column."""
        found = self.table_state(table)
        sizes = found.fact(("sizes", column), partial(_sizes, column=column)) if found else {}
        return {partition: Size(*size) for partition, size in sizes.items()}

    def sizes_added(self, table: str, since: int, column: str | None = None) -> dict[str, Size]:
        """The size of what was added after a version by each value of a partition column, without upkeep.

        Raises:
            LogGone: the log no longer tells.
        """
        found = self.table_state(table)
        if found is None:
            return {}

        def go_on(until: int, before: dict[str, list[int]] | None) -> dict[str, list[int]]:
            added = {partition: Size(*size) for partition, size in (before or {}).items()}
            for file in delta_log.files_added(found.path, max(since, until), found.version):
                partition = (file.get("partitionValues") or {}).get(column) or UNPARTITIONED
                rows = json.loads(file.get("stats") or "{}").get("numRecords", 0)
                added[partition] = added.get(partition, Size()) + Size(rows, file["size"])
            return {partition: [size.rows, size.bytes] for partition, size in added.items()}

        sizes = found.folded(("sizes added", since, column), go_on)
        return {partition: Size(*size) for partition, size in sizes.items()}

    def tables(self) -> list[str]:
        """Every table that exists, e.g. `bronze.events`."""
        below = storage.store(str(self.root))
        folders = (
            folder
            for layer in ("bronze", "silver", "gold")
            for folder in sorted(below.list_with_delimiter(layer)["common_prefixes"])
        )
        return [name for folder in folders if self.exists(name := folder.replace("/", ".", 1))]


@dataclass(frozen=True)
class LakeSnapshot(Lake):
    """A lake at one point in time: the state of each table is read once, when it is first used.

    For reading and deciding, not for writing: later commits are not visible.
    """

    _seen: dict[str, TableState | None] = field(default_factory=dict, compare=False, repr=False)

    def table_state(self, table: str) -> TableState | None:
        """The state of the table in this snapshot."""
        if table not in self._seen:
            self._seen[table] = super().table_state(table)
        return self._seen[table]

    def reload(self, table: str) -> None:
        """Read the state of a table again when it is next used."""
        self._seen.pop(table, None)


def _own(infos: Iterable[LogEntry], verbs: tuple[str, ...]) -> Iterator[CommitRecord]:
    """The accounts (of `verbs`, where some are named) among what commits say of themselves."""
    for info in infos:
        record = CommitRecord.from_json(info.get("userMetadata"))
        if record and (not verbs or record.verb in verbs):
            yield record


def _infos(table: TableState, after: int) -> Iterator[LogEntry]:
    """What each commit of a table says of itself after a version, newest first."""
    if table.version > after:
        yield table.fact("info", lambda _: next(delta_log.infos(table.path, table.version)))
        yield from delta_log.infos(table.path, table.version - 1, after)


def _instant(info: LogEntry) -> datetime:
    return datetime.fromtimestamp(info["timestamp"] / 1000, UTC)


def _partitions(table: DeltaTable, column: str) -> frozenset[str]:
    return frozenset(str(p.get(column) or UNPARTITIONED) for p in table.partitions())


def _sizes(table: DeltaTable, column: str | None) -> dict[str, list[int]]:
    """Rows and bytes by partition, as lists: JSON has no others (`known_facts`)."""
    import polars as pl

    files = pl.DataFrame(table.get_add_actions(flatten=True))
    named = f"partition.{column}"
    partition = pl.col(named).cast(pl.String) if named in files.columns else pl.lit(None, pl.String)
    found = files.group_by(partition.fill_null(UNPARTITIONED).alias("partition")).agg(
        pl.col("num_records").sum(), pl.col("size_bytes").sum()
    )
    return {partition: [rows, size] for partition, rows, size in found.iter_rows()}


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
    """Whether the commit that an opened table stands at is in its log still: not gone, and not archived."""
    return storage.file_exists(path_of(table), log_archive.commit_file(table.version()))


def follow(table: DeltaTable) -> None:
    """Bring an opened table to its newest version; lists its log only where there is one."""
    if not delta_log.is_newest(path_of(table), table.version()):
        table.update_incremental()


def files_of(table: DeltaTable, within: Mapping[str, tuple[object, object]] | None = None) -> list[FileEntry]:
    """Each data file of the table's version: path below the table, size_bytes, num_records, partition.*

    within: by column, the bounds (both included) of the values that are wanted; files whose statistics
    exclude them are left out.
    """
    import polars as pl

    actions = pl.DataFrame(table.get_add_actions(flatten=True))
    for column, (low, high) in (within or {}).items():
        if {f"min.{column}", f"max.{column}"} <= set(actions.columns):
            outside = (pl.col(f"max.{column}") < pl.lit(low)) | (pl.col(f"min.{column}") > pl.lit(high))
            actions = actions.filter(~outside.fill_null(False))
    return [{**a, "path": paths.path_below_table(a["path"])} for a in actions.to_dicts()]


def partition_of(file: FileEntry, columns: Iterable[str]) -> dict[str, str | None]:
    """The partition values of a line of `files_of`, as the log has them."""
    return {c: paths.partition_value_text(file.get(f"partition.{c}")) for c in columns}
