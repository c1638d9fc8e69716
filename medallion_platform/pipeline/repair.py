"""Make what is damaged of a table whole: a data file from the backup, else from what its table is made from;
a Delta log as `lakehouse/repair_log.py` says.

Putting a file back is no commit; making it again is one refresh of the partitions whose rows it held. Either
can be killed at any point and done again. What has neither is left to a person: no row is given up to go on.

Each is verified, and taken back if it made things worse.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from medallion_platform.errors import classify
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.damaged_files import DamagedFile, damage_within, names_in
from medallion_platform.lakehouse.lake import DamagedLog, files_of, partition_of, path_of
from medallion_platform.lakehouse.repair_log import repair_log
from medallion_platform.lakehouse.restore_table import has_good_copy, put_file_back
from medallion_platform.pipeline.out_of_date import input_state, out_of_date_table
from medallion_platform.pipeline.refresh import refresh
from medallion_platform.pipeline.refresh.context import VERBS
from medallion_platform.pipeline.refresh.plan import rebuilt_partitions
from medallion_platform.pipeline.rollback import take_back
from medallion_platform.storage import store

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyspark.sql import SparkSession

    from medallion_platform.lakehouse.backup_place import BackupPlace
    from medallion_platform.lakehouse.commit_record import CommitRecord
    from medallion_platform.lakehouse.delta_log import FileEntry
    from medallion_platform.lakehouse.lake import Lake
    from medallion_platform.pipeline.catalog import Catalog
    from medallion_platform.pipeline.refresh.commit import RefreshResult
    from medallion_platform.pipeline.run import Run
    from medallion_platform.pipeline.table import Table

T = TypeVar("T")


@dataclass(frozen=True)
class Repaired:
    """What was done about a damaged file or Delta log of a table.

    what: in words. files, bytes: that were put back or written. partitions: that were made again, none of a
    table without partitions. made: the refresh that made them, if one did. undone: it made things worse, and
    was taken back.
    """

    table: str
    file: str
    what: str
    files: int = 0
    bytes: int = 0
    partitions: tuple[str, ...] = ()
    made: RefreshResult | None = None
    undone: bool = False


Damage = DamagedFile | DamagedLog
"""Of a table: one of its data files, or its Delta log."""


def table_of(damage: Damage) -> str:
    """The table whose writers write what is damaged: that of dead letters is the one they belong to."""
    return damage.table.removeprefix(f"{dead_letters.LAYER}.")


def repair_what_is_met(work: Callable[[], T], repair: Callable[[Damage], object]) -> T:
    """The result of `work`, which is done again after each damaged file or log that it met was repaired.

    So is a repair that meets another one. Each is repaired once.

    Raises:
        DamagedFile, DamagedLog: one could not be repaired, or is damaged again.
    """
    return _attempt(work, repair, set())


def _attempt(work: Callable[[], T], repair: Callable[[Damage], object], met: set[str]) -> T:
    while True:
        try:
            return work()
        except (DamagedFile, DamagedLog) as damage:
            if damage.path in met:
                raise
            met.add(damage.path)
            _attempt(partial(repair, damage), repair, met)


def repair(
    damage: Damage,
    catalog: Catalog,
    lake: Lake,
    spark: Callable[[], SparkSession],
    run: Run,
    place: BackupPlace | None = None,
    kept: Collection[str] = (),
) -> Repaired:
    """Make a damaged file or log whole, or a table without its file; what is whole by now stays.

    To be called by the only writer of `table_of(damage)`. place: of backups, if any are made. kept: tables
    that a person took out of automation: they are not made again.

    Raises:
        DamagedFile, DamagedLog: neither is possible, and the text says what a person does; or an input is
            damaged, too.
        CommitConflict: another run committed to the table first.
        NotAllowed: the run's guard refuses.
    """
    if isinstance(damage, DamagedLog):
        what = repair_log(lake, damage.table, place, run.guard) or f"the Delta log of {damage.table} is whole"
        return Repaired(damage.table, "_delta_log", what)
    opened = lake.open(damage.table)
    if opened is None:
        raise damage
    file = _file_of(damage, opened)
    if file is None:
        return Repaired(damage.table, damage.file, f"{damage.table} no longer has {damage.file}")
    if not _is_damaged(opened, file):
        return Repaired(damage.table, damage.file, f"{damage.file} of {damage.table} is whole")
    table = catalog.by_name.get(table_of(damage))
    if place and _has_copy(place, damage, opened, file, else_made=table is not None):
        run.guard.check()
        return _put_back(damage, opened, file, place)
    if table is None:
        raise _left_to_a_person(damage, place)
    _refuse_to_make(damage, table, lake, kept)
    before = _Before.of(table, catalog, lake)
    made = _make_again(damage, table, catalog, lake, spark, run, file)
    done = _made_again(damage, table, lake, opened, made)
    if why := _worse(before, table, lake, made):
        note = f"took back a repair: {why}"
        take_back(lake, table.name, before.version, before.record, run, note, missing_files=True)
        return _undone(done, why)
    return done


@dataclass(frozen=True)
class _Before:
    """A table before it is made again. state: of its inputs, "" if it is not up to date with them."""

    version: int
    record: CommitRecord | None
    files: frozenset[str]
    rows: int
    state: str

    @staticmethod
    def of(table: Table, catalog: Catalog, lake: Lake) -> _Before:
        opened = lake.open(table.name)
        assert opened is not None
        late = out_of_date_table(table, catalog, lake)
        return _Before(
            opened.version(),
            lake.last_record(table.name),
            frozenset(file["path"] for file in files_of(opened)),
            lake.rows(table.name),
            "" if late else input_state(table, lake),
        )


def _worse(before: _Before, table: Table, lake: Lake, made: RefreshResult) -> str:
    """Why a table is not what it was before its file was damaged, "" if it is as far as can be seen.

    The rows are counted where they have to be as many: it was up to date, and no input has changed since.
    """
    if made.record and made.record.counts.missing:
        return f"{made.record.counts.missing} of {made.record.counts.read} rows that were read are nowhere"
    opened = lake.open(table.name)
    assert opened is not None
    new = (file for file in files_of(opened) if file["path"] not in before.files)
    if broken := next((file["path"] for file in new if _is_damaged(opened, file)), ""):
        return f"its new file {broken} is damaged"
    rows = lake.rows(table.name)
    if rows != before.rows and before.state == input_state(table, lake):
        return f"it has {rows} rows, and had {before.rows} of the same inputs"
    return ""


def _undone(done: Repaired, why: str) -> Repaired:
    return replace(done, what=f"{done.what}; this was taken back, since {why}", made=None, undone=True)


def _put_back(damage: DamagedFile, opened: DeltaTable, file: FileEntry, place: BackupPlace) -> Repaired:
    """Put the copy of a file in its place, unless it is not what the table had there."""
    root, path = path_of(opened), file["path"]
    before = _content(root, path)
    put_file_back(place, damage.table, opened, file)
    what = f"{damage.file} of {damage.table} was put back from the backup"
    done = Repaired(damage.table, damage.file, what, files=1, bytes=file["size_bytes"])
    if why := damage_within(root, path, file, names_in(opened)):
        if before is None:
            store(root).delete(path)
        else:
            store(root).put(path, before)
        return _undone(done, why)
    return done


def _content(root: str, path: str) -> bytes | None:
    """What is there of a damaged file: a person may still have use for it. None where nothing can be read."""
    from obstore.exceptions import BaseError

    try:
        return store(root).get(path).bytes().to_bytes()
    except (OSError, BaseError):
        return None


def _file_of(damage: DamagedFile, opened: DeltaTable) -> FileEntry | None:
    """The damaged file as the table's version has it; by its path, since partitions can share a name."""
    root = path_of(opened)
    return next((file for file in files_of(opened) if f"{root}/{file['path']}" == damage.path), None)


def _has_copy(
    place: BackupPlace, damage: DamagedFile, opened: DeltaTable, file: FileEntry, *, else_made: bool
) -> bool:
    """Whether a backup has a whole copy; a place that cannot be reached has none if there is another way."""
    try:
        return has_good_copy(place, damage.table, opened, file)
    except Exception as error:
        if not (else_made and classify(error).transient):
            raise
        return False


def _left_to_a_person(damage: DamagedFile, place: BackupPlace | None) -> DamagedFile:
    where = f"no backup at {place.root} has a good copy of it" if place else "no backups are made"
    return DamagedFile(
        damage.table,
        damage.path,
        f"{damage.why}, and {where}",
        "put a copy of your own in its place and run again (where MEDALLION_BACKUP names a place for "
        "backups, such a file is put back by itself)",
    )


def _refuse_to_make(damage: DamagedFile, table: Table, lake: Lake, kept: Collection[str]) -> None:
    """Refuse what would be more than a repair: rows that a person took back would come again."""
    last = lake.last_record(table.name, VERBS)
    if last and last.taken_back:
        why = "was rolled back, so it is not made again"
    elif table.name in kept:
        why = (
            f"is paused (`medallion incidents resume {table.name}` goes on with it), so it is not made again"
        )
    else:
        return
    raise DamagedFile(damage.table, damage.path, f"{damage.why}, and {table.name} {why}")


def _make_again(
    damage: DamagedFile,
    table: Table,
    catalog: Catalog,
    lake: Lake,
    spark: Callable[[], SparkSession],
    run: Run,
    file: FileEntry,
) -> RefreshResult:
    """Refresh the partitions whose rows or dead letters a file holds; all of a table without partitions."""
    lost: set[str] = set()
    if damage.table == table.name:
        column = table.partition.column if table.partition else None
        partition = partition_of(file, [column])[column] if column else None
        partitions = None if partition is None else {partition}
    else:
        damaged = _damaged_letters(damage, lake)
        lost = {f["path"] for f in damaged}
        partitions = _partitions_of_letters(table, catalog, lake, damaged)
    return refresh(
        table,
        lake,
        spark,
        run,
        partitions=partitions,
        rebuild=True,
        lost_letters=lost,
        partition_columns=catalog.partition_columns,
    )


def _damaged_letters(damage: DamagedFile, lake: Lake) -> list[FileEntry]:
    """All damaged files of a table of dead letters: who replaces some letters reads every other file."""
    opened = lake.open(damage.table)
    assert opened is not None
    return [file for file in files_of(opened) if _is_damaged(opened, file)]


def _partitions_of_letters(
    table: Table, catalog: Catalog, lake: Lake, files: list[FileEntry]
) -> set[str] | None:
    """The partitions whose dead letters these files may hold, by their statistics; None for any."""
    if table.partition is None:
        return None
    upstream = {
        u.table: lake.partitions(u.table, column)
        for u in table.upstreams.values()
        if (column := catalog.partition_columns[u.table])
    }
    known = rebuilt_partitions(table, upstream) | lake.partitions(table.name, table.partition.column)
    found: set[str] = set()
    for file in files:
        low, high = file.get("min.partition"), file.get("max.partition")
        if low is None or high is None or file.get("null_count.partition") != 0:
            return None
        found |= {partition for partition in known if low <= partition <= high}
    return found or None


def _made_again(
    damage: DamagedFile, table: Table, lake: Lake, before: DeltaTable, made: RefreshResult
) -> Repaired:
    """What a refresh did instead of a damaged file. before: the table of the file, before it."""
    there, after = {file["path"] for file in files_of(before)}, lake.open(damage.table)
    new = [file for file in files_of(after) if file["path"] not in there] if after else []
    partitions = tuple(sorted(made.record.partitions)) if made.record else ()
    of = f"{', '.join(partitions)} of {table.name}" if partitions else table.name
    return Repaired(
        damage.table,
        damage.file,
        f"{of} was made again from {', '.join(table.upstream_names)}, as {damage.file} was damaged",
        len(new),
        sum(file["size_bytes"] for file in new),
        partitions,
        made,
    )


def _is_damaged(opened: DeltaTable, file: FileEntry) -> bool:
    return bool(damage_within(path_of(opened), file["path"], file, names_in(opened)))
