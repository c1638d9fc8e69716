"""Stage "commit": dead letters first, then rows, counts and position in one commit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit import (
    CommitConflict,
    StagedFile,
    commit_files,
    files_in_partitions,
    writer_sequence,
)
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.damaged_files import report_damage
from medallion_platform.lakehouse.delta_log import FileEntry
from medallion_platform.lakehouse.lake import files_of
from medallion_platform.pipeline.refresh import lookups
from medallion_platform.pipeline.refresh.context import RefreshContext
from medallion_platform.pipeline.refresh.lineage import Lineage
from medallion_platform.pipeline.refresh.plan import CODE

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable


@dataclass(frozen=True)
class PendingRefresh:
    """Staged files with all rows accounted for, and the content of their commit record.

    dead: staged dead letters. merged: keys as text, if keys are merged. replaced: files of the table to
    remove. schema: of the whole table, if `whole`.
    """

    files: list[StagedFile]
    dead: list[StagedFile]
    counts: Counts
    whole: bool
    schema: pa.Schema | None
    lineage: Lineage
    merged: list[str] = field(default_factory=list)
    replaced: list[FileEntry] = field(default_factory=list)
    partitions: dict[str, int] = field(default_factory=dict)
    violations: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    masked: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    source_row_count: int | None = None


@dataclass(frozen=True)
class RefreshResult:
    """What a refresh did. `record` is the commit record; None if there was nothing to do.

    lineage: the upstream columns of each column in this refresh.
    """

    table: str
    version: int
    reason: str
    record: CommitRecord | None = None
    lineage: Lineage = field(default_factory=Lineage)


def commit_refresh(context: RefreshContext, pending: PendingRefresh) -> RefreshResult:
    """Make staged files visible.

    Raises:
        CommitConflict: another run committed to the table first; nothing was written.
        DamagedFile: a file of dead letters is missing or damaged.
        NotAllowed: the run's guard refuses.
    """
    name, lake = context.table.name, context.lake
    target = lake.open(name)
    assert target is not None
    record = _refresh_record(context, pending)
    if writer_sequence(target) >= context.sequence:
        raise CommitConflict(f"{name}: another run refreshed it meanwhile; nothing was written")
    _commit_dead_letters(context, pending, record)
    version = commit_files(
        target,
        record,
        add=pending.files,
        remove=_replaced_files(context, pending, target),
        whole=pending.schema if pending.whole else None,
        guard=context.run.guard,
    )
    context.tell.committed(version, record)
    return RefreshResult(name, version, context.plan.reason, record, pending.lineage)


def commit_nothing_to_do(context: RefreshContext) -> RefreshResult:
    """The result for a table that is up to date; commits new positions of its inputs, if there are any.

    Raises:
        CommitConflict: another run committed to the table first.
    """
    name, lake, last = context.table.name, context.lake, context.last
    if last is not None and lookups.lookups_moved(context) and (target := lake.open(name)) is not None:
        # On record, so that the next refresh does not look for affected rows again.
        looked = replace(
            last,
            verb="refresh",
            run_id=context.run.run_id,
            at=context.run.at.isoformat(),
            counts=Counts(),
            position=context.plan.position,
            sequence=context.sequence,
            partitions={},
            violations={},
            warnings={},
            masked={},
            notes=["lookups changed, no row is affected"],
            taken_back="",
            seconds=context.seconds,
        )
        version = commit_files(target, looked, guard=context.run.guard)
        return RefreshResult(name, version, context.plan.reason)
    return RefreshResult(name, lake.version(name), context.plan.reason)


def _commit_dead_letters(context: RefreshContext, pending: PendingRefresh, record: CommitRecord) -> None:
    """Commit rejected rows before the table's own commit; they replace those of the same partitions."""
    # Partitions that only grow keep the dead letters they have.
    superseded = None if pending.whole else pending.merged or context.plan.replace
    told = replace(record, partitions={})
    name, lake, run = context.table.name, context.lake, context.run
    with report_damage(lake, [dead_letters.name(name)]):
        dead_letters.replace(lake, name, superseded, pending.dead, told, run.guard, lost=context.lost_letters)


def _refresh_record(context: RefreshContext, pending: PendingRefresh) -> CommitRecord:
    position = context.plan.position
    return CommitRecord(
        verb="refresh",
        run_id=context.run.run_id,
        at=context.run.at.isoformat(),
        counts=pending.counts,
        position=position,
        code=f"{position[CODE][UNPARTITIONED]:012x}",
        sequence=context.sequence,
        partitions=pending.partitions,
        violations=pending.violations,
        warnings=pending.warnings,
        stale_partitions=_stale_partitions(context, pending),
        notes=[f"stale lookup: {name}" for name in context.stale] + pending.notes,
        source_row_count=pending.source_row_count,
        seconds=context.seconds,
        masked=pending.masked,
    )


def _stale_partitions(context: RefreshContext, pending: PendingRefresh) -> list[str]:
    """Partitions with rows that were enriched by a lookup that was behind its own upstream."""
    before = set(context.last.stale_partitions) if context.last and not pending.whole else set[str]()
    written = set(pending.partitions) if context.stale else set[str]()
    return sorted((before - context.plan.replace) | written)


def _replaced_files(context: RefreshContext, pending: PendingRefresh, target: DeltaTable) -> list[FileEntry]:
    """The table's files that this commit removes."""
    plan, partition = context.plan, context.table.partition
    if plan.replace and not pending.whole:
        return files_in_partitions(
            files_of(target), partition.column if partition else None, set(plan.replace)
        )
    return pending.replaced
