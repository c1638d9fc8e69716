"""The second half of every write: staged Parquet files become rows of a table, all at once.

An engine has written files below `<table>/staged-<id>/`; nobody sees them yet. They move to their
partition's folder, still unseen, and `commit` adds them to the Delta log together with the files
they replace, the writer's record and a transaction identifier. A crash before it leaves orphans for
VACUUM; after it the work is done. Two writers that started from the same version conflict on the
identifier, and the second one fails.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from medallion_platform.errors import Kind, MedallionError, classify
from medallion_platform.lakehouse import paths
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, WRITER, CommitRecord
from medallion_platform.lakehouse.delta_log import FileEntry
from medallion_platform.lakehouse.lake import files_of, follow, partition_of
from medallion_platform.storage import at_once, store

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import CommitProperties, DeltaTable
    from deltalake.exceptions import CommitFailedError
    from deltalake.transaction import AddAction, RemoveAction
    from obstore import ObjectMeta

    from medallion_platform.storage import Store

_ATTEMPT = "attempt"
"""The entry of a commit's information that tells it from every other try to make one."""
_STATISTICS_COLUMNS = 32
_RECENT = 10


class CommitConflict(MedallionError):
    """Another writer committed to the table first; nothing of this write is visible."""

    kind = Kind.CONFLICT


@dataclass(frozen=True)
class StagedFile:
    """One Parquet file that waits for its commit."""

    path: str
    size: int
    modified_ms: int
    partition: dict[str, str | None]
    rows: int
    statistics: str


def sequence_of(table: DeltaTable | None) -> int:
    """The newest `CommitRecord.sequence` in a table, -1 where there is none."""
    found = table.transaction_version(WRITER) if table is not None else None
    return -1 if found is None else found


def next_sequence(*tables: DeltaTable | None) -> int:
    """The `CommitRecord.sequence` of a write to tables that go together, the newest in each taken into
    account.
    """
    return max(0, *map(sequence_of, tables)) + 1


@contextmanager
def writer_transaction(
    table: DeltaTable,
    sequence: int,
    record: CommitRecord | None = None,
    positions: Mapping[str, int] | None = None,
) -> Generator[CommitProperties]:
    """What a writer's commit carries, for the one commit in the `with`; `table` stands at it afterwards.

    table: opened before the work began, so that a second writer is noticed. positions: further
    transaction identifiers (an intake's source and next offset).

    Raises:
        CommitConflict: another writer came first.
    """
    from deltalake import CommitProperties, Transaction
    from deltalake.exceptions import CommitFailedError

    name = table.metadata().name
    if sequence_of(table) >= sequence:
        raise CommitConflict(f"{name}: another writer committed first; run it again")
    transactions = {WRITER: sequence, **(positions or {})}
    attempt = uuid.uuid4().hex
    try:
        yield CommitProperties(
            custom_metadata={_ATTEMPT: attempt} | ({"userMetadata": record.to_json()} if record else {}),
            app_transactions=[Transaction(a, v) for a, v in transactions.items()],
        )
    except CommitFailedError as error:
        if _is_there(table, attempt):
            return
        if not is_conflict(error):
            raise
        raise CommitConflict(
            f"{name}: another writer committed first ({error}); nothing of this write is visible, "
            "run it again"
        ) from error
    follow(table)


def is_conflict(error: CommitFailedError) -> bool:
    """Whether another writer came first; else the commit could not be made (a full disk, no answer)."""
    return classify(error).kind is Kind.CONFLICT


def _is_there(table: DeltaTable, attempt: str) -> bool:
    """Whether a commit that failed was made after all: its request was repeated, because the answer was
    lost on the way, and met its own commit. `table` stands at it then.
    """
    table.update_incremental()
    return attempt in [info.get(_ATTEMPT) for info in table.history(_RECENT)]


def staged_files(table_path: str, folder: str, partition_by: Sequence[str]) -> list[StagedFile]:
    """Move the Parquet files of a staged folder to where the table keeps its files.

    Row counts and statistics come from the files' footers, partition values from their folders
    (`event_date=2026-01-05`). Until the commit no reader knows of them.
    """
    below = store(table_path)

    def moved(file: ObjectMeta) -> StagedFile | None:
        footer = _footer(below, file)
        if footer.num_rows == 0:
            return None
        target = file["path"].removeprefix(f"{folder}/")
        values = paths.values(target)
        below.rename(file["path"], target)
        return StagedFile(
            target,
            file["size"],
            int(file["last_modified"].timestamp() * 1000),
            {c: values[c] for c in partition_by},
            footer.num_rows,
            _told(footer),
        )

    files = sorted(below.list(folder).collect(), key=lambda f: f["path"])
    found = at_once(moved, [f for f in files if f["path"].endswith(".parquet")])
    return [file for file in found if file]


def write_file(
    root: str, path: str, rows: pa.Table, partition: Mapping[str, str | None] | None = None, **options: Any
) -> StagedFile:
    """Write one Parquet file, with a checksum of each page; options: of `pyarrow.parquet.write_table`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, write_page_checksum=True, **options)
    written = sink.getvalue()
    store(root).put(path, written.to_pybytes())
    now = int(time.time() * 1000)
    footer = pq.read_metadata(pa.BufferReader(written))
    return StagedFile(path, written.size, now, dict(partition or {}), footer.num_rows, _told(footer))


def _footer(below: Store, file: ObjectMeta) -> Any:
    """A Parquet file's metadata, of which its last 8 bytes tell the length ("File Format" of Parquet)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, end = file["path"], file["size"]
    length = int.from_bytes(below.get_range(path, start=end - 8, length=4).to_bytes(), "little")
    tail = below.get_range(path, start=end - 8 - length, end=end).to_bytes()
    return pq.read_metadata(pa.BufferReader(tail))


def commit(
    table: DeltaTable,
    record: CommitRecord,
    *,
    add: Iterable[StagedFile] = (),
    remove: Iterable[FileEntry] = (),
    whole: pa.Schema | None = None,
    positions: Mapping[str, int] | None = None,
) -> int:
    """Make staged files visible and replaced ones invisible in one commit; gives its version.

    table: opened at the version that the work was based on. remove: rows of `files_of`. whole: all
    that was there is replaced, by files of this schema. positions: further transaction identifiers.

    Raises:
        CommitConflict: another writer came first, or one that took away the same files.
    """
    from deltalake import Schema

    remove = list(remove)
    # The log accepts the removal of a file that is no longer there, and its rows would double.
    if gone := {f["path"] for f in remove} - {f["path"] for f in files_of(table)}:
        raise CommitConflict(
            f"{table.metadata().name}: {len(gone)} files to replace were rewritten meanwhile; nothing "
            "of this write is visible, run it again"
        )

    partition_by = table.metadata().partition_columns
    actions: list[AddAction | RemoveAction] = [*_removals(remove, partition_by), *_additions(add)]
    with writer_transaction(table, record.sequence, record, positions) as properties:
        table.create_write_transaction(
            actions,
            mode="append" if whole is None else "overwrite",
            schema=table.schema() if whole is None else Schema.from_arrow(whole),
            partition_by=partition_by,
            commit_properties=properties,
        )
    return table.version()


def in_partitions(files: Iterable[FileEntry], column: str | None, partitions: set[str]) -> list[FileEntry]:
    """The data files that belong to any of `partitions` (all of them where the table has no partition)."""
    if column is None:
        return list(files)
    return [f for f in files if str(f.get(f"partition.{column}") or UNPARTITIONED) in partitions]


def _additions(files: Iterable[StagedFile]) -> list[AddAction]:
    from deltalake.transaction import AddAction

    return [AddAction(f.path, f.size, f.partition, f.modified_ms, True, f.statistics) for f in files]


def _removals(files: Iterable[FileEntry], partition_by: list[str]) -> list[RemoveAction]:
    from deltalake.transaction import RemoveAction

    now = int(time.time() * 1000)
    return [RemoveAction(f["path"], True, now, f["size_bytes"], partition_of(f, partition_by)) for f in files]


def _told(footer: Any) -> str:
    """A file's statistics as the log has them."""
    # Readers of the log stumble over escaped surrogate pairs and over Infinity.
    return json.dumps(_statistics(footer), ensure_ascii=False, allow_nan=False)


def _statistics(footer: Any) -> dict[str, Any]:
    """Delta's per-file statistics (PROTOCOL.md, "Per-file Statistics") from a Parquet footer."""
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    unusable: set[str] = set()
    for g in range(footer.num_row_groups):
        group = footer.row_group(g)
        for c in range(min(group.num_columns, _STATISTICS_COLUMNS)):
            chunk = group.column(c)
            name, stats = chunk.path_in_schema, chunk.statistics
            if "." in name or stats is None:
                continue
            if stats.has_null_count:
                nulls[name] = nulls.get(name, 0) + stats.null_count
            if stats.null_count == chunk.num_values and chunk.num_values == group.num_rows:
                continue
            if not stats.has_min_max or not _comparable(stats.min) or not _comparable(stats.max):
                if stats.null_count != group.num_rows:
                    unusable.add(name)
                continue
            low[name] = min(low.get(name, stats.min), stats.min)
            high[name] = max(high.get(name, stats.max), stats.max)
    return {
        "numRecords": footer.num_rows,
        "minValues": {k: _plain(v) for k, v in low.items() if k not in unusable},
        "maxValues": {k: _plain(v) for k, v in high.items() if k not in unusable},
        "nullCount": nulls,
    }


def _comparable(value: Any) -> bool:
    """Whether a bound can be written into the log; decimals cannot without losing digits."""
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, bool | bytes | Decimal)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    return value
