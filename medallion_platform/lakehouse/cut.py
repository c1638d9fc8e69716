"""The cut of a backup: one version of each table, such that no table is ahead of what it was made from.

Tables go on while they are read. So their heads are read downstream first: what a table was made from was
committed before its own head, and is there when its upstream is read. Where that does not suffice (tables
that look each other up), `consistent_cut` goes back to older versions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.lakehouse import delta_log
from medallion_platform.lakehouse.commit_record import WRITER, CommitRecord, Position
from medallion_platform.lakehouse.dead_letters import LAYER as LETTERS
from medallion_platform.lakehouse.delta_log import LogEntry, LogGone
from medallion_platform.lakehouse.file_registry import registry_table
from medallion_platform.lakehouse.lake import Lake

LAYERS = ("gold", "silver", "bronze", LETTERS, "files")
"""The folders of a lake's tables, downstream first. Dead letters come after their tables, since a refresh
commits them first; what a table has read of a file registry is in there before.

What lies below `_medallion` is no part of a backup. The ledger of incidents, say, holds decisions about runs
that a restored installation never had.
"""


class NoConsistentCut(MedallionError):
    """A table has no version in its log that fits those of the other tables."""

    kind = Kind.POSITION_LOST


@dataclass(frozen=True)
class TableVersion:
    """What a version of a table needs of the others.

    sequence: the newest number of a writer in it; in a file registry, of a file. versions: of each upstream
    table, the newest version that it was made from. sequences: the number that another table must have
    reached: that a bronze table has read in a file registry; for dead letters, that of their own table,
    because a replay adds rows to the table before they leave the dead letters.
    """

    version: int
    sequence: int = -1
    versions: Mapping[str, int] = field(default_factory=dict[str, int])
    sequences: Mapping[str, int] = field(default_factory=dict[str, int])


def consistent_cut(tables: Mapping[str, Iterable[TableVersion]]) -> dict[str, TableVersion]:
    """The newest version of each table with which all of them fit together.

    tables: the versions of each table from its head on, newest first; read no further than needed. What a
    version needs of a table that is not among them needs nothing.

    Raises:
        NoConsistentCut: a table has no version that fits.
    """
    older = {table: iter(versions) for table, versions in tables.items()}
    cut = {table: _next(table, versions) for table, versions in older.items()}
    waiting = set(cut)
    while waiting:
        table = waiting.pop()
        if not _fits(cut[table], cut):
            cut[table] = _next(table, older[table])
            waiting |= {table, *(other for other in cut if _needs(cut[other], table))}
    return cut


def _fits(one: TableVersion, cut: Mapping[str, TableVersion]) -> bool:
    return all(cut[t].version >= v for t, v in one.versions.items() if t in cut) and all(
        cut[t].sequence >= s for t, s in one.sequences.items() if t in cut
    )


def _needs(one: TableVersion, table: str) -> bool:
    return table in one.versions or table in one.sequences


def _next(table: str, versions: Iterator[TableVersion]) -> TableVersion:
    found = next(versions, None)
    if found is None:
        raise NoConsistentCut(
            f"{table}: no version in its Delta log fits the other tables: each was made from a newer version "
            "of them than the one that could be read",
            table=table,
            remedy="run it again",
        )
    return found


def versions_from(lake: Lake, table: str, head: int, newest: Mapping[str, int]) -> Iterator[TableVersion]:
    """The versions of a table from its head on, newest first.

    newest: the version of each table, read after all heads. What was made from a still newer one was so
    before (its upstream was made anew, say): that is the state of the lake, and no cut can mend it.
    """
    waiting: list[int] = []  # upkeep of other software, which says nothing of itself
    try:
        for version, actions in delta_log.actions(lake.path(table), range(head, -1, -1)):
            waiting.append(version)
            sequence = _sequence(actions)
            if sequence is not None:
                record = _record(actions)
                position = record.position if record else {}
                for one in waiting:
                    yield _table_version(table, one, sequence, position, newest)
                waiting = []
    except LogGone:
        for one in waiting:
            yield _table_version(table, one, lake.sequence(table), {}, newest)
    else:
        for one in waiting:
            yield TableVersion(one)


def _table_version(
    table: str, version: int, sequence: int, position: Position, newest: Mapping[str, int]
) -> TableVersion:
    layer, _, of = table.partition(".")
    if layer == LETTERS:
        return TableVersion(version, sequence, sequences={of: sequence})
    made_from = {name: max(versions.values(), default=-1) for name, versions in position.items()}
    if layer == "bronze":
        files = {registry_table(log): file_of(reached) for log, reached in made_from.items()}
        return TableVersion(version, sequence, sequences={t: s for t, s in files.items() if t in newest})
    known = {name: v for name, v in made_from.items() if v <= newest.get(name, -1)}
    return TableVersion(version, sequence, versions=known)


def file_of(position: int) -> int:
    """The sequence number of the last file of which a position is: `sequence * 2**32 + row` is the next."""
    return (position - 1) >> 32


def _sequence(actions: Iterable[LogEntry]) -> int | None:
    found = (action["txn"] for action in actions if "txn" in action)
    return next((int(txn["version"]) for txn in found if txn["appId"] == WRITER), None)


def _record(actions: Iterable[LogEntry]) -> CommitRecord | None:
    infos = (action["commitInfo"] for action in actions if "commitInfo" in action)
    return next((CommitRecord.from_json(info.get("userMetadata")) for info in infos), None)


def files_to_copy(cut: Mapping[str, Set[str]], held: Mapping[str, Set[str]]) -> dict[str, set[str]]:
    """The data files that the last backup lacks, by table.

    Data files never change, and a name is given once. cut, held: the files of the cut, and those of the last
    backup, by the id of their table.
    """
    lacking = {table: set(files) - held.get(table, set()) for table, files in cut.items()}
    return {table: files for table, files in lacking.items() if files}
