"""Rejected rows, stored complete: one Delta table `dead_letters/<table>` per table.

A dead letter has its origin (`source`, `offset`, `file`, `row`), what it violates (`violations` for people,
`code`, `detail` and `broken` for programs), and the `partition` (or key) of the table that it was meant for.
`payload` has the original bytes; for silver and gold, the masked row as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from medallion_platform.contracts.codes import Code
from medallion_platform.lakehouse import old_letters, polars_writer
from medallion_platform.lakehouse.commit import CommitConflict, StagedFile, commit_files, writer_sequence
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.damaged_files import verify_file_ends
from medallion_platform.lakehouse.delta_log import FileEntry
from medallion_platform.lakehouse.guard import UNGUARDED, Guard
from medallion_platform.lakehouse.lake import RETENTION, Lake, files_of, path_of
from medallion_platform.storage import delta_storage_options

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable
    from polars._typing import PolarsDataType

LAYER = "dead_letters"
FILE_BYTES = 64 * 1024 * 1024
"""Dead letters of a file, in memory at once."""


def name(table: str) -> str:
    """The dead-letter table of a table: `silver.events` -> `dead_letters.silver.events`."""
    return f"{LAYER}.{table}"


def columns() -> dict[str, PolarsDataType]:
    """Columns of every dead-letter table.

    `code` is a `Code`, `detail` a JSON object or null, `broken` (see `contracts.violation_fields`) an entry
    for each of the expectations in `violations`, in their order: empty where the code is not `violates`, null
    in letters that are older.
    """
    import polars as pl

    from medallion_platform.contracts import violation_fields

    return {
        "source": pl.String,
        "offset": pl.Int64,
        "file": pl.String,
        "row": pl.Int64,
        "payload": pl.Binary,
        "violations": pl.List(pl.String),
        "code": pl.String,
        "detail": pl.String,
        "broken": violation_fields.polars_type(),
        "partition": pl.String,
        "at": pl.Datetime("us", "UTC"),
        "run_id": pl.String,
    }


def read(lake: Lake, table: str) -> pl.DataFrame:
    """All dead letters of a table, with their `columns` (empty where there are none)."""
    return scan(lake, table).collect()


def scan(lake: Lake, table: str) -> pl.LazyFrame:
    """The same for who asks for some columns or rows only: the others are not read."""
    import polars as pl

    found = lake.open(name(table))
    if found is None:
        return pl.LazyFrame(schema=columns())
    return _with_columns(polars_writer.scan_rows(found))


def newest(lake: Lake, table: str, limit: int) -> pl.DataFrame:
    """The newest dead letters of a table, newest first, `limit` at the most, with their `columns`.

    Files are read from the newest on, by their statistics, until no other one can hold a newer letter.
    """
    import polars as pl

    found = lake.open(name(table))
    kept = pl.DataFrame(schema=columns())
    if found is None:
        return kept
    for file in sorted(files_of(found), key=lambda file: (_newest_in(file), file["path"]), reverse=True):
        if kept.height >= limit and _newest_in(file) < kept.item(-1, "at"):
            break
        letters = _with_columns(_scan_file(found, file))
        newer = letters.sort("at", descending=True, nulls_last=True).head(limit).collect()
        by = ("at", "source", "offset", "row")
        kept = pl.concat([kept, newer]).sort(by, descending=[True, False, False, False], nulls_last=True)
        kept = kept.head(limit)
    return kept


def _newest_in(file: FileEntry) -> datetime:
    """No letter of a file is newer than this; the log tells milliseconds, of older files nothing."""
    at = file.get("max.at")
    if not isinstance(at, datetime):
        return datetime.max.replace(tzinfo=UTC)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)) + timedelta(milliseconds=1)


def batches(lake: Lake, table: str) -> Iterator[pl.DataFrame]:
    """All dead letters of a table, some at a time; those columns that their files have."""
    found = lake.open(name(table))
    if found is not None:
        for file in files_of(found):
            yield from _batches(found, file)


def details(lake: Lake, table: str, source: str, code: Code) -> list[tuple[int, dict[str, Any]]]:
    """The (offset, detail) of each dead letter of a source that stands for a whole piece, by its code."""
    import polars as pl

    def found(letters: DeltaTable) -> list[tuple[int, dict[str, Any]]]:
        mine = (pl.col("source") == source) & (pl.col("row") == 0) & (pl.col("code") == code)
        scan = polars_writer.scan_rows(letters, files_of(letters, {"row": (0, 0)}))
        rows = _with_columns(scan).filter(mine).select("offset", "detail").collect()
        return [(offset, json.loads(detail or "{}")) for offset, detail in rows.iter_rows()]

    table_state = lake.table_state(name(table))
    return table_state.fact(("details", source, code), found) if table_state else []


def _with_columns(letters: pl.LazyFrame) -> pl.LazyFrame:
    """The letters with their `columns`, also where they are older than some of these."""
    import polars as pl

    have = letters.collect_schema().names()
    found = letters.with_columns(old_letters.partition_of_old_letters(have))
    missing = [pl.lit(None, kind).alias(c) for c, kind in columns().items() if c not in {*have, "partition"}]
    told = found.with_columns(missing).select(pl.col(c).cast(kind) for c, kind in columns().items())
    return old_letters.add_codes(told)


def _batches(letters: DeltaTable, file: FileEntry) -> Iterator[pl.DataFrame]:
    """The letters of a file, some at a time; those columns that it has."""
    verify_file_ends(letters, [file])
    for rows in polars_writer.read_file_batches(path_of(letters), file["path"]):
        yield rows.with_columns(old_letters.partition_of_old_letters(rows.columns)).drop("unit", strict=False)


def _scan_file(letters: DeltaTable, file: FileEntry) -> pl.LazyFrame:
    """The letters of a file; those columns that it has."""
    import polars as pl

    verify_file_ends(letters, [file])
    root = path_of(letters)
    return pl.scan_parquet(f"{root}/{file['path']}", glob=False, storage_options=delta_storage_options(root))


def count(lake: Lake, table: str) -> int:
    """How many dead letters a table has now."""
    return lake.rows(name(table))


def append(
    lake: Lake,
    table: str,
    rows: pl.DataFrame,
    record: CommitRecord,
    positions: Mapping[str, int] | None = None,
    letters: DeltaTable | None = None,
    guard: Guard = UNGUARDED,
) -> None:
    """Add dead letters in one commit, fenced like every writer.

    letters: the table as it was when what is there already was left out of `rows`. guard: is asked before the
    commit.

    Raises:
        CommitConflict: another writer committed meanwhile, be it since these were looked at.
        NotAllowed: the guard refuses.
    """
    polars_writer.append_rows(letters or _ensure(lake, table), fit(rows), record, positions or {}, guard)


def bring_up(letters: DeltaTable) -> None:
    """Give an older table the columns that it lacks, for who commits files of letters by itself.

    Raises:
        CommitConflict: another writer committed meanwhile.
    """
    import polars as pl

    polars_writer.add_columns(letters, pl.DataFrame(schema=columns()).to_arrow().schema)


def create(lake: Lake, table: str) -> DeltaTable:
    """The table of dead letters, for who looked and found none.

    Raises:
        CommitConflict: another writer has added some meanwhile.
    """
    made = _ensure(lake, table)
    if writer_sequence(made) >= 0:
        raise CommitConflict(f"{name(table)}: another writer committed first")
    return made


def stage(lake: Lake, table: str, rows: pl.DataFrame) -> StagedFile:
    """Write dead letters (one at least) as a file, which nobody sees before `replace` commits it."""
    root = path_of(_ensure(lake, table))
    ((path, _, part),) = polars_writer.split_by_partition(fit(rows), ())
    return polars_writer.write_partition_file(root, path, part)


def replace(
    lake: Lake,
    table: str,
    partitions: Collection[str] | None,
    files: Sequence[StagedFile],
    record: CommitRecord,
    guard: Guard = UNGUARDED,
    lost: Collection[str] = (),
) -> None:
    """Put staged dead letters in the place of all those of `partitions` (None: of the whole table).

    Files that hold others too are written anew without them, some rows at a time. Does nothing where
    there neither are nor were any. guard: is asked before the commit. lost: paths of files that cannot be
    read, and hold letters of these partitions only.

    Raises:
        CommitConflict: another writer committed meanwhile.
        NotAllowed: the guard refuses.
    """
    import polars as pl

    if not files and not lake.exists(name(table)):
        return
    letters = _ensure(lake, table)
    there = files_of(letters)
    kept: list[StagedFile] = []
    if partitions is not None:
        named = pl.Series(sorted(partitions), dtype=pl.String).implode()
        gone = pl.col("partition").is_in(named).fill_null(value=False)
        there = [f for f in there if f["path"] in lost or (partitions and _holds(letters, f, gone))]
        for file in (f for f in there if f["path"] not in lost):
            others = (rows.filter(~gone) for rows in _batches(letters, file))
            kept += [stage(lake, table, rows) for rows in gathered(others)]
    if there or files:
        bring_up(letters)
        commit_files(letters, record, add=[*kept, *files], remove=there, guard=guard)


def _holds(letters: DeltaTable, file: FileEntry, wanted: pl.Expr) -> bool:
    """Whether a file has any of the partitions that are looked for, of which only that column is read."""
    rows = _scan_file(letters, file)
    partitions = rows.select(old_letters.partition_of_old_letters(rows.collect_schema().names()))
    return bool(partitions.select(wanted.any()).collect().item())


def gathered(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Neighbours together, as many as a file is to hold; none is empty."""
    import polars as pl

    held: list[pl.DataFrame] = []
    size = 0
    for frame in frames:
        if frame.height:
            held.append(frame)
            size += frame.estimated_size()
        if size >= FILE_BYTES:
            yield pl.concat(held, how="diagonal_relaxed")
            held, size = [], 0
    if held:
        yield pl.concat(held, how="diagonal_relaxed")


def _ensure(lake: Lake, table: str) -> DeltaTable:
    import polars as pl

    schema = pl.DataFrame(schema=columns()).to_arrow().schema
    return lake.ensure(name(table), schema, properties=RETENTION)


def fit(rows: pl.DataFrame) -> pl.DataFrame:
    """Dead letters with their columns, in order; null where they are older than a column.

    Of which nothing else is said, they break the contract.
    """
    import polars as pl

    told = pl.concat([pl.DataFrame(schema=columns()), rows], how="diagonal_relaxed")
    told = told.with_columns(pl.col("code").fill_null(pl.lit(Code.VIOLATES)))
    return told.select(list(columns())).cast(columns())  # type: ignore[arg-type]
