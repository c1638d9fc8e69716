"""Keeps tables quick to read and small on disk: clusters small files, deletes files nobody needs any more.

No JVM. `optimize` rewrites files and changes no row. Its commit says `dataChange: false`, repeats the last
commit record, so that the newest commit still has the position for a refresh, and repeats the writer's
transaction identifier, so that it conflicts with a writer that started from the same version. `vacuum`
deletes files that no version within the retention needs.

Why not the library's own commands: delta-rs 1.6 drops transaction identifiers from an OPTIMIZE, so that an
overwrite that started before one is not refused and doubles the rows; and its VACUUM makes two commits
without a commit record.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.lakehouse import log_archive, paths
from medallion_platform.lakehouse.commit import (
    WRITER,
    CommitConflict,
    StagedFile,
    ask_guard,
    is_conflict,
    move_staged_files,
    stage_parquet_file,
    writer_sequence,
)
from medallion_platform.lakehouse.counts import counted
from medallion_platform.lakehouse.damaged_files import verify_data_file
from medallion_platform.lakehouse.delta_log import FileEntry, commit_text
from medallion_platform.lakehouse.guard import UNGUARDED, Guard
from medallion_platform.lakehouse.lake import Lake, files_of, partition_of
from medallion_platform.lakehouse.polars_writer import scan_data_files
from medallion_platform.storage import delta_storage_options, remove_folder, run_in_parallel, store

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction, RemoveAction

RETENTION = timedelta(days=30)
"""A reader may stay on a version for this long after a newer one replaced it."""
TARGET_BYTES = 128 * 1024 * 1024
"""The size of a clustered file."""
BATCH_BYTES = 512 * 1024 * 1024
"""Files that are sorted together, in memory: one batch of one partition at a time."""
ROW_GROUP = 65_536
"""Rows that a reader skips or reads at once within a file."""

_LOG = logging.getLogger(__name__)
_ZSTD = 3
_SMALL = 8
"""A file under an eighth of the target is worth merging with others."""
_CURVE_BITS = 16
_ATTEMPTS = 10
_UNREADABLE = {"deletionVectors", "columnMapping"}
_CHECKPOINT = re.compile(r"_delta_log/(\d{20})\.checkpoint.*\.parquet")


class UnsupportedTable(MedallionError):
    """The table uses a Delta feature by which its files alone do not determine its rows."""

    kind = Kind.PERMANENT


@dataclass(frozen=True)
class OptimizeResult:
    """What `optimize` did: the table's live files and bytes before and after."""

    version: int
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    rewritten: int = 0


@dataclass(frozen=True)
class VacuumResult:
    """What `vacuum` deleted. kept: files that only versions within the retention still need."""

    removed: int
    removed_bytes: int
    kept: int


@dataclass(frozen=True)
class MaintenanceResult:
    """Both halves of one table's maintenance."""

    table: str
    optimized: OptimizeResult
    vacuumed: VacuumResult
    seconds: float


@dataclass(frozen=True)
class Storage:
    """The storage that a table uses. kept_bytes: replaced files that the retention still needs."""

    files: int
    small_files: int
    live_bytes: int
    kept_bytes: int


def measure_storage(lake: Lake, table: str) -> Storage:
    """Count a table's files; small: below an eighth of the target size, unless it is the only file."""
    found = lake.open(table)
    sizes = [f["size_bytes"] for f in files_of(found)] if found else []
    small = sum(1 for s in sizes if s < TARGET_BYTES / _SMALL) if len(sizes) > 1 else 0
    on_disk = sum(size for path, size, _ in _list_files(lake.path(table)) if path.endswith(".parquet"))
    return Storage(len(sizes), small, sum(sizes), max(on_disk - sum(sizes), 0))


def maintain_table(
    lake: Lake,
    table: str,
    cluster_by: Sequence[str] = (),
    *,
    retention: timedelta = RETENTION,
    now: datetime | None = None,
    guard: Guard = UNGUARDED,
) -> MaintenanceResult:
    """Optimize, then vacuum, then archive old commits.

    guard: is asked immediately before each of them changes something.

    Raises:
        CommitConflict: a writer committed first; nothing was rewritten, run it again.
        NotAllowed: the guard refuses; nothing was changed since it was last asked.
        UnsupportedTable: the table's files alone do not determine its rows.
    """
    started = time.monotonic()
    optimized = optimize(lake, table, cluster_by, guard=guard)
    vacuumed = vacuum(lake, table, retention, now=now, guard=guard)
    guard.check()
    log_archive.archive_log(lake.path(table), now)
    return MaintenanceResult(table, optimized, vacuumed, round(time.monotonic() - started, 3))


def optimize(
    lake: Lake,
    table: str,
    cluster_by: Sequence[str] = (),
    *,
    target_bytes: int = TARGET_BYTES,
    batch_bytes: int = BATCH_BYTES,
    guard: Guard = UNGUARDED,
) -> OptimizeResult:
    """Merge small files of each partition, rows sorted by `cluster_by` (several: along a Z-curve).

    Clustered files are not rewritten until enough new files exist; a second run does nothing. guard: is asked
    last; its token goes into the commit.

    Raises:
        CommitConflict: a writer committed first; nothing was rewritten, run it again.
        NotAllowed: the guard refuses; nothing was rewritten.
        UnsupportedTable: the table uses deletion vectors or column mapping.
        DamagedFile: a file to rewrite is missing or damaged.
    """
    opened = _open_supported(lake, table)
    files = files_of(opened)
    partition_by = opened.metadata().partition_columns
    mark = _cluster_prefix(cluster_by)
    chosen = [
        batch
        for group in _files_by_partition(files, partition_by)
        for batch in _rewrite_batches(files_to_rewrite(group, mark, target_bytes), batch_bytes)
    ]
    before, size = len(files), sum(f["size_bytes"] for f in files)
    if not chosen:
        return OptimizeResult(opened.version(), before, before, size, size)
    unreadable = _UNREADABLE & set(opened.protocol().reader_features or ())
    if unreadable:
        raise UnsupportedTable(f"{table}: uses {', '.join(sorted(unreadable))}; it is not optimized")

    root, folder = lake.path(table), f"staged-{uuid.uuid4().hex}"
    for batch in chosen:
        for file in batch:
            verify_data_file(opened, file)  # what is damaged must not get a checksum that says it is whole
        _rewrite_files(opened, root, folder, batch, cluster_by, mark, target_bytes)
    added = move_staged_files(root, folder, partition_by)
    removed = [f for batch in chosen for f in batch]
    rows = sum(f["num_records"] for f in removed)
    if sum(f.rows for f in added) != rows:
        raise RuntimeError(f"{table}: {rows} rows were read to cluster them, but not as many written")
    remove_folder(root, folder)
    _commit_swap(lake, table, opened, added, removed, guard)
    after = files_of(opened)
    done = OptimizeResult(
        opened.version(),
        before,
        len(after),
        size,
        sum(f["size_bytes"] for f in after),
        len(removed),
    )
    _LOG.info("%s: %s files rewritten", table, len(removed), extra={"table": table, **asdict(done)})
    return done


def vacuum(
    lake: Lake,
    table: str,
    retention: timedelta = RETENTION,
    *,
    now: datetime | None = None,
    guard: Guard = UNGUARDED,
) -> VacuumResult:
    """Delete the files below the table's folder that no version within the retention needs.

    Kept are files of the newest version, files of versions that were replaced less than `retention` ago, and
    all files written less than `retention` ago, because a running refresh may still commit them. Staged files
    of a dead run are deleted when they are that old. guard: is asked last.

    Raises:
        NotAllowed: the guard refuses; nothing was deleted.
    """
    cutoff = (now or datetime.now(UTC)) - retention
    root = lake.path(table)
    listed = _list_files(root)
    # The log is read after the listing: what a writer commits in between is known.
    opened = _open_supported(lake, table)
    live = {f["path"] for f in files_of(opened)}
    needed = live | _files_replaced_since(root, cutoff)
    unneeded = [(p, s, modified) for p, s, modified in listed if p not in needed]
    dead = [
        (p, s)
        for p, s, modified in unneeded
        if modified < cutoff and not PurePosixPath(p).name.startswith("deletion_vector")
    ]
    guard.check()
    store(root).delete([path for path, _ in dead])
    kept = len({p for p, _, _ in listed} - live) - len(dead)
    done = VacuumResult(len(dead), sum(s for _, s in dead), kept)
    _LOG.info("%s: %s files deleted", table, done.removed, extra={"table": table, **asdict(done)})
    return done


def files_to_rewrite(files: Sequence[FileEntry], mark: str, target_bytes: int) -> list[FileEntry]:
    """The files of one partition to rewrite together.

    Files that are small or not clustered are merged with each other. When they are a quarter of the others,
    all files are rewritten, because the better order is worth the cost.
    """
    small = target_bytes // _SMALL
    pending, settled = [], []
    for f in files:
        clustered = f["path"].rpartition("/")[2].startswith(mark)
        (settled if clustered and f["size_bytes"] >= small else pending).append(f)
    waiting = sum(f["size_bytes"] for f in pending)
    ordered = mark != _cluster_prefix(())
    if ordered and settled and pending and waiting * 4 >= sum(f["size_bytes"] for f in settled):
        return list(files)
    if len(pending) == 1:
        only = pending[0]
        unsorted = not only["path"].rpartition("/")[2].startswith(mark)
        return pending if unsorted and only["size_bytes"] >= small else []
    return pending


def sort_along_curve(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """The rows in an order in which neighbours have similar values in each of `columns`.

    One column: sorted by it. Several: by their ranks with interleaved bits (Morton order), so that
    a filter on any of them skips most files.
    """
    import polars as pl

    if not columns or frame.is_empty():
        return frame
    if len(columns) == 1:
        return frame.sort(columns[0], maintain_order=True)
    bits = min(_CURVE_BITS, 63 // len(columns))
    code = pl.Series("_curve", [0], dtype=pl.UInt64).new_from_index(0, frame.height)
    for j, column in enumerate(columns):
        rank = frame[column].rank("dense").fill_null(0).cast(pl.UInt64)
        # Every column over the whole range of bits, however few values it has.
        rank = rank * (2**bits - 1) // int(str(rank.max() or 1))
        for bit in range(bits):
            code += (rank // (1 << bit)) % 2 * (1 << (bit * len(columns) + j))
    return frame.with_columns(code).sort("_curve", *columns, maintain_order=True).drop("_curve")


def _open_supported(lake: Lake, table: str) -> DeltaTable:
    found = lake.open(table)
    if found is None:
        raise FileNotFoundError(f"{table}: no such table in {lake.root}")
    return found


def _cluster_prefix(cluster_by: Sequence[str]) -> str:
    """The prefix of the names of files that are clustered by these columns."""
    return f"clustered-{hashlib.sha256(repr(tuple(cluster_by)).encode()).hexdigest()[:8]}-"


def _files_by_partition(files: Iterable[FileEntry], partition_by: Sequence[str]) -> list[list[FileEntry]]:
    groups: dict[tuple[Any, ...], list[FileEntry]] = {}
    for f in sorted(files, key=lambda f: f["path"]):
        groups.setdefault(tuple(f[f"partition.{c}"] for c in partition_by), []).append(f)
    return list(groups.values())


def _rewrite_batches(files: Sequence[FileEntry], most_bytes: int) -> Iterator[list[FileEntry]]:
    """Files of one partition in groups that fit into memory (a file is never split)."""
    batch: list[FileEntry] = []
    size = 0
    for f in files:
        if batch and size + f["size_bytes"] > most_bytes:
            yield batch
            batch, size = [], 0
        batch.append(f)
        size += f["size_bytes"]
    if batch:
        yield batch


def _rewrite_files(
    table: DeltaTable,
    root: str,
    folder: str,
    batch: Sequence[FileEntry],
    cluster_by: Sequence[str],
    mark: str,
    target_bytes: int,
) -> None:
    """Stage the rows of a batch of one partition, in order, as files of the target size."""
    import polars as pl

    partition_by = table.metadata().partition_columns
    schema = pl.scan_delta(table).collect_schema()
    inside = {c: t for c, t in schema.items() if c not in partition_by}
    # A column that the table got after the file was written is null in it. One that the table does not
    # have tells of a dead letter, and is null in all rows (see `spark_tables.stage`).
    frame = scan_data_files(root, (f["path"] for f in batch), inside).collect()
    frame = sort_along_curve(frame, [c for c in cluster_by if c in inside])
    partition = partition_of(batch[0], partition_by)
    pieces = max(1, math.ceil(sum(f["size_bytes"] for f in batch) / target_bytes))
    rows = max(1, math.ceil(frame.height / pieces))
    run = uuid.uuid4().hex
    for n, start in enumerate(range(0, frame.height, rows)):
        stage_parquet_file(
            root,
            f"{folder}/{paths.partition_file_path(partition, f'{mark}{run}-{n:04}.parquet')}",
            frame.slice(start, rows).to_arrow(),
            compression="zstd",
            compression_level=_ZSTD,
            row_group_size=ROW_GROUP,
        )


def _commit_swap(
    lake: Lake,
    table: str,
    opened: DeltaTable,
    added: Sequence[StagedFile],
    removed: Sequence[FileEntry],
    guard: Guard,
) -> None:
    """Swap the files in one commit that changes no row, with a conflict for concurrent writers.

    Files that were appended since do not matter; if a file to swap is gone, the swap is refused.
    """
    for _ in range(_ATTEMPTS):
        opened.update_incremental()
        live = {f["path"] for f in files_of(opened)}
        if any(f["path"] not in live for f in removed):
            break
        try:
            return _swap_files(lake, table, opened, added, removed, guard)
        except CommitConflict:
            continue
    raise CommitConflict(f"{table}: a writer committed meanwhile", remedy="optimize it again")


def _swap_files(
    lake: Lake,
    table: str,
    opened: DeltaTable,
    added: Sequence[StagedFile],
    removed: Sequence[FileEntry],
    guard: Guard,
) -> None:
    from deltalake import CommitProperties, Transaction
    from deltalake.exceptions import CommitFailedError
    from deltalake.transaction import AddAction, RemoveAction

    partition_by = opened.metadata().partition_columns
    swap: list[AddAction | RemoveAction] = [
        AddAction(f.path, f.size, f.partition, f.modified_ms, False, f.statistics) for f in added
    ]
    stamp = int(time.time() * 1000)
    swap += [
        RemoveAction(f["path"], False, stamp, f["size_bytes"], partition_of(f, partition_by)) for f in removed
    ]
    metadata = {"maintenance": f"{counted(len(removed), 'files')} clustered into {len(added)}"}
    last = lake.last_record(table)
    if last is not None:
        metadata["userMetadata"] = last.to_json()
    sequence = writer_sequence(opened)
    transactions = {**({WRITER: sequence} if sequence >= 0 else {}), **ask_guard(opened, guard)}
    try:
        opened.create_write_transaction(
            swap,
            mode="append",
            schema=opened.schema(),
            partition_by=partition_by,
            commit_properties=CommitProperties(
                custom_metadata=metadata,
                app_transactions=[Transaction(a, v) for a, v in transactions.items()],
                # delta-rs would try again against files that it has not seen.
                max_commit_retries=0,
            ),
        )
    except CommitFailedError as error:
        if not is_conflict(error):
            raise
        raise CommitConflict(f"{table}: a writer committed meanwhile", remedy="optimize it again") from error
    opened.update_incremental()


def _list_files(root: str) -> list[tuple[str, int, datetime]]:
    """(path, size, modified) of every file below the table's folder, without its Delta log."""
    return sorted(
        (f["path"], f["size"], f["last_modified"])
        for f in store(root).list().collect()
        if not f["path"].startswith(("_delta_log/", f"{log_archive.FOLDER}/"))
    )


def _files_replaced_since(root: str, cutoff: datetime) -> set[str]:
    """Files that were removed by a commit after `cutoff`: a version within the retention needs them."""
    found: set[str] = set()

    def note(removed: FileEntry | None) -> None:
        if removed:
            stamp = removed.get("deletionTimestamp")
            if stamp is None or stamp >= cutoff.timestamp() * 1000:
                found.add(paths.path_below_table(removed["path"]))

    log_files = sorted(f["path"] for f in store(root).list("_delta_log").collect())
    texts = run_in_parallel(partial(commit_text, root), log_archive.commits_by_version(log_files))
    # One that is gone by now was archived: into a bundle that was made since.
    for text in chain(filter(None, texts), log_archive.commits_archived_since(root, cutoff)):
        for line in text.splitlines():
            if b'"remove"' in line:
                note(json.loads(line).get("remove"))
    # Commits that were cleaned from the log live on in its checkpoints.
    for removed in _removes_in_checkpoint(root, log_files):
        note(removed)
    return found


def _removes_in_checkpoint(root: str, log_files: Sequence[str]) -> Iterator[FileEntry]:
    """The `remove` actions in the newest checkpoint of a log; it may have several parts."""
    import polars as pl

    found = [match for f in log_files if (match := _CHECKPOINT.fullmatch(f))]
    for part in (match[0] for match in found if match[1] == found[-1][1]):
        rows = pl.scan_parquet(f"{root}/{part}", storage_options=delta_storage_options(root))
        removes = rows.select(pl.col("remove").struct.field("path", "deletionTimestamp"))
        yield from removes.filter(pl.col("path").is_not_null()).collect().to_dicts()
