"""The second half of every write: staged Parquet files become rows of a table, all at once.

An engine has written files below `<table>/staged-<id>/`; nobody sees them yet. They move to their
partition's folder, still unseen, and `commit_files` adds them to the Delta log together with the files
they replace, the writer's record and a transaction identifier. A crash before it leaves orphans for
VACUUM; after it the work is done. Two writers that started from the same version conflict on the
identifier, and the second one fails.
"""

from __future__ import annotations

import json
import logging
import math
import time
import uuid
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from medallion_platform.errors import Kind, MedallionError, classify
from medallion_platform.lakehouse import file_ends, paths
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, WRITER, CommitRecord
from medallion_platform.lakehouse.counts import Counts, counted
from medallion_platform.lakehouse.delta_log import FileEntry
from medallion_platform.lakehouse.guard import UNGUARDED, Guard
from medallion_platform.lakehouse.lake import files_of, follow, partition_of, path_of
from medallion_platform.storage import run_in_parallel, store

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import CommitProperties, DeltaTable
    from deltalake.exceptions import CommitFailedError
    from deltalake.transaction import AddAction, RemoveAction
    from obstore import ObjectMeta

_LOG = logging.getLogger(__name__)
T = TypeVar("T")

_ATTEMPT = "attempt"
"""The entry of a commit's information that tells it from every other try to make one."""
_STATISTICS_COLUMNS = 32
_RECENT = 10
_APPENDS = 100
"""How often an append is tried at the next version: more writers than these begin at no moment."""


class CommitConflict(MedallionError):
    """Another writer committed to the table first; nothing of this write is visible."""

    kind = Kind.CONFLICT
    remedy = "run it again"


@dataclass(frozen=True)
class StagedFile:
    """One Parquet file that waits for its commit."""

    path: str
    size: int
    modified_ms: int
    partition: dict[str, str | None]
    rows: int
    statistics: str


def writer_sequence(table: DeltaTable | None, writer: str = WRITER) -> int:
    """The newest `CommitRecord.sequence` in a table, -1 if there is none.

    writer: the transaction identifier of those of whom only one may write at a time.
    """
    found = table.transaction_version(writer) if table is not None else None
    return -1 if found is None else found


def next_sequence(*tables: DeltaTable | None) -> int:
    """The `CommitRecord.sequence` of the next write to tables that are written together."""
    return max(0, *map(writer_sequence, tables)) + 1


@contextmanager
def writer_transaction(
    table: DeltaTable,
    sequence: int,
    record: CommitRecord | None = None,
    positions: Mapping[str, int] | None = None,
    guard: Guard = UNGUARDED,
    writer: str = WRITER,
) -> Generator[CommitProperties]:
    """The properties of a writer's commit, for the one commit in the `with` block; it updates `table`.

    table: opened before the work began, so that a second writer is detected. positions: further
    transaction identifiers (an intake's source and next offset). guard: is asked last; its token goes into
    the commit. writer: the transaction identifier of those of whom only one may write at a time.

    Raises:
        CommitConflict: another writer committed first, or one with a higher token has written.
        NotAllowed: the guard refuses.
    """
    from deltalake import CommitProperties, Transaction
    from deltalake.exceptions import CommitFailedError

    name = table.metadata().name
    if writer_sequence(table, writer) >= sequence:
        raise CommitConflict(f"{name}: another writer committed first")
    transactions = {writer: sequence, **(positions or {}), **ask_guard(table, guard)}
    attempt = uuid.uuid4().hex
    try:
        yield CommitProperties(
            custom_metadata={_ATTEMPT: attempt} | ({"userMetadata": record.to_json()} if record else {}),
            app_transactions=[Transaction(a, v) for a, v in transactions.items()],
        )
    except CommitFailedError as error:
        if _was_committed(table, attempt):
            _say_committed(table, sequence, record)
            return
        if not is_conflict(error):
            raise
        raise CommitConflict(
            f"{name}: another writer committed first ({error}); nothing of this write is visible"
        ) from error
    follow(table)
    _say_committed(table, sequence, record)


def ask_guard(table: DeltaTable, guard: Guard) -> Mapping[str, int]:
    """The token for a commit to a table that is opened.

    Raises:
        CommitConflict: a higher one has been written.
        NotAllowed: the guard refuses.
    """
    token = guard.check()
    if any((table.transaction_version(leader) or 0) > number for leader, number in token.items()):
        name = table.metadata().name
        raise CommitConflict(f"{name}: a newer leader has written; nothing of this write is visible")
    return token


def _say_committed(table: DeltaTable, sequence: int, record: CommitRecord | None) -> None:
    """Log a commit, of dead letters and registries too; what it is part of is logged by whoever does that."""
    if not _LOG.isEnabledFor(logging.DEBUG):
        return
    name, version = table.metadata().name, table.version()
    told = {"verb": record.verb, "run_id": record.run_id, **record.counts.as_dict()} if record else {}
    fields = {"table": name, "version": version, "sequence": sequence, **told}
    _LOG.debug("%s: version %s", name, version, extra=fields)


def is_conflict(error: CommitFailedError) -> bool:
    """Whether another writer committed first; else the commit failed (a full disk, no response)."""
    return classify(error).kind is Kind.CONFLICT


def _was_committed(table: DeltaTable, attempt: str) -> bool:
    """Whether a failed commit was made after all: the response was lost, and the repeated request found its
    own commit. If so, `table` is updated to it.
    """
    table.update_incremental()
    return attempt in [info.get(_ATTEMPT) for info in table.history(_RECENT)]


def move_staged_files(
    table_path: str, folder: str, partition_by: Sequence[str], only: Collection[str] | None = None
) -> list[StagedFile]:
    """Move the Parquet files of a staged folder to the table's folder, under names that tell their ends.

    Row counts and statistics come from the files' footers, partition values from their folders
    (`event_date=2026-01-05`). They are invisible to readers until the commit. only: their paths as staged,
    None for all.
    """
    below = store(table_path)

    def moved(file: ObjectMeta) -> StagedFile | None:
        last = file_ends.last_bytes(table_path, file["path"], file["size"])
        footer, end = file_ends.read_end(last, file["size"])
        if footer.num_rows == 0:
            return None
        target = file_ends.path_with_end(file["path"].removeprefix(f"{folder}/"), end)
        values = paths.partition_values_in_path(target)
        below.rename(file["path"], target)
        return StagedFile(
            target,
            file["size"],
            int(file["last_modified"].timestamp() * 1000),
            {c: values[c] for c in partition_by},
            footer.num_rows,
            _statistics_json(footer),
        )

    files = sorted(below.list(folder).collect(), key=lambda f: f["path"])
    chosen = [f for f in files if f["path"].endswith(".parquet") and (only is None or f["path"] in only)]
    return [file for file in run_in_parallel(moved, chosen) if file]


def write_parquet_file(
    root: str, path: str, rows: pa.Table, partition: Mapping[str, str | None] | None = None, **options: Any
) -> StagedFile:
    """Write one Parquet file to be committed, under a name that tells its end.

    path: its name without that. options: of `pyarrow.parquet.write_table`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    written = _parquet(rows, options)
    footer = pq.read_metadata(pa.BufferReader(written))
    named = file_ends.path_with_end(path, written[file_ends.end_of_pages(footer) :])
    store(root).put(named, written)
    now = int(time.time() * 1000)
    statistics = _statistics_json(footer)
    return StagedFile(named, len(written), now, dict(partition or {}), footer.num_rows, statistics)


def stage_parquet_file(root: str, path: str, rows: pa.Table, **options: Any) -> None:
    """Write one Parquet file below a staged folder, from which `move_staged_files` moves it."""
    store(root).put(path, _parquet(rows, options))


def _parquet(rows: pa.Table, options: Mapping[str, Any]) -> bytes:
    """The rows as a Parquet file, with a checksum of each page."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, write_page_checksum=True, **options)
    return sink.getvalue().to_pybytes()


def append_rows(table: DeltaTable, rows: pa.Table, properties: CommitProperties | None = None) -> None:
    """Append rows in one commit, without looking at what is there.

    properties: of `writer_transaction`; without them it conflicts with nobody, however many append at the
    same moment.
    """
    from deltalake import CommitProperties

    file = write_parquet_file(path_of(table), f"{uuid.uuid4().hex}.parquet", rows)
    table.create_write_transaction(
        add_actions([file]),
        mode="append",
        schema=table.schema(),
        partition_by=[],
        commit_properties=properties or CommitProperties(max_commit_retries=_APPENDS),
    )


def condense_rows(
    table: DeltaTable,
    before: Sequence[T],
    kept: Callable[[Sequence[T]], Iterable[T]],
    in_arrow: Callable[[Iterable[T]], pa.Table],
    run_id: str,
    at: datetime,
    guard: Guard = UNGUARDED,
) -> None:
    """Replace all rows by those that `kept` makes of them, if these are fewer; those appended meanwhile stay.

    table: opened before its rows were read, which are `before`. in_arrow: rows as they are stored. guard: is
    asked last.

    Raises:
        CommitConflict: somebody else did the same at this moment; nothing was changed.
        NotAllowed: the guard refuses; nothing was changed.
    """
    after = list(kept(before))
    if len(after) >= len(before):
        return
    counts = Counts(len(before), len(after), superseded=len(before) - len(after))
    record = CommitRecord("condense", run_id, at.isoformat(), counts, sequence=next_sequence(table))
    file = write_parquet_file(path_of(table), f"{uuid.uuid4().hex}.parquet", in_arrow(after))
    commit_files(table, record, add=[file], remove=files_of(table), guard=guard)


def commit_files(
    table: DeltaTable,
    record: CommitRecord,
    *,
    add: Iterable[StagedFile] = (),
    remove: Iterable[FileEntry] = (),
    whole: pa.Schema | None = None,
    positions: Mapping[str, int] | None = None,
    guard: Guard = UNGUARDED,
) -> int:
    """Make staged files visible and replaced files invisible in one commit; returns its version.

    table: opened at the version that the work was based on. remove: rows of `files_of`. whole: everything is
    replaced, by files of this schema. positions: further transaction identifiers. guard: as in
    `writer_transaction`.

    Raises:
        CommitConflict: another writer committed first, or removed the same files.
        NotAllowed: the guard refuses.
    """
    from deltalake import Schema

    remove = list(remove)
    # The log accepts the removal of a file that is no longer there, and its rows would double.
    if gone := {f["path"] for f in remove} - {f["path"] for f in files_of(table)}:
        raise CommitConflict(
            f"{table.metadata().name}: another writer rewrote {counted(len(gone), 'files')} that this one "
            "replaces; nothing of this write is visible"
        )

    partition_by = table.metadata().partition_columns
    actions: list[AddAction | RemoveAction] = [*_remove_actions(remove, partition_by), *add_actions(add)]
    with writer_transaction(table, record.sequence, record, positions, guard) as properties:
        table.create_write_transaction(
            actions,
            mode="append" if whole is None else "overwrite",
            schema=table.schema() if whole is None else Schema.from_arrow(whole),
            partition_by=partition_by,
            commit_properties=properties,
        )
    return table.version()


def files_in_partitions(
    files: Iterable[FileEntry], column: str | None, partitions: set[str]
) -> list[FileEntry]:
    """The data files of these partitions (all files if the table has no partition)."""
    if column is None:
        return list(files)
    return [f for f in files if str(f.get(f"partition.{column}") or UNPARTITIONED) in partitions]


def files_that_may_hold(table: DeltaTable, column: str, partitions: Collection[str]) -> list[FileEntry]:
    """The data files with rows of these partitions; all, if the table is not partitioned by the column."""
    files = files_of(table)
    is_partitioned = column in table.metadata().partition_columns
    return files_in_partitions(files, column, set(partitions)) if is_partitioned else files


def add_actions(files: Iterable[StagedFile]) -> list[AddAction | RemoveAction]:
    """What a commit that makes staged files visible says of them."""
    from deltalake.transaction import AddAction

    return [AddAction(f.path, f.size, f.partition, f.modified_ms, True, f.statistics) for f in files]


def _remove_actions(files: Iterable[FileEntry], partition_by: list[str]) -> list[RemoveAction]:
    from deltalake.transaction import RemoveAction

    now = int(time.time() * 1000)
    return [RemoveAction(f["path"], True, now, f["size_bytes"], partition_of(f, partition_by)) for f in files]


def _statistics_json(footer: Any) -> str:
    """A file's statistics as JSON for the Delta log."""
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
            if not stats.has_min_max or not _fits_statistics(stats.min) or not _fits_statistics(stats.max):
                if stats.null_count != group.num_rows:
                    unusable.add(name)
                continue
            low[name] = min(low.get(name, stats.min), stats.min)
            high[name] = max(high.get(name, stats.max), stats.max)
    return {
        "numRecords": footer.num_rows,
        "minValues": {k: _json_value(v) for k, v in low.items() if k not in unusable},
        "maxValues": {k: _json_value(v) for k, v in high.items() if k not in unusable},
        "nullCount": nulls,
    }


def _fits_statistics(value: Any) -> bool:
    """Whether a bound can be written into the Delta log; decimals would lose digits."""
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, bool | bytes | Decimal)


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    return value
