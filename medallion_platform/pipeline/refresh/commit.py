"""Stage "commit": dead letters first, then rows, counts and position in one commit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit import (
    CommitConflict,
    StagedFile,
    commit,
    in_partitions,
    sequence_of,
)
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.counts import Counts
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
    """Staged files, each row accounted for, and all that their commit is to say.

    dead: staged dead letters. merged: keys as text, where keys are merged. replaced: files of the table that
    go. schema: of the whole table, where `whole`.
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
    """What a refresh did. `record` is the commit's own account; None where nothing had to be done.

    lineage: the upstream columns of each column, as the rows of this refresh were made.
    """

    table: str
    version: int
    reason: str
    record: CommitRecord | None = None
    lineage: Lineage = field(default_factory=Lineage)


def commit_refresh(context: RefreshContext, pending: PendingRefresh) -> RefreshResult:
    """Make staged files visible.

    Raises:
        CommitConflict: another run committed to the table meanwhile; nothing was written.
    """
    name, lake = context.table.name, context.lake
    target = lake.open(name)
    assert target is not None
    record = _record(context, pending)
    if sequence_of(target) >= context.sequence:
        raise CommitConflict(f"{name}: another run refreshed it meanwhile; nothing was written, run it again")
    _commit_dead_letters(context, pending, record)
    version = commit(
        target,
        record,
        add=pending.files,
        remove=_replaced(context, pending, target),
        whole=pending.schema if pending.whole else None,
    )
    context.tell.committed(version, record)
    return RefreshResult(name, version, context.plan.reason, record, pending.lineage)


def nothing_to_do(context: RefreshContext) -> RefreshResult:
    """What is said of a table that is up to date.

    Raises:
        CommitConflict: another run committed to the table meanwhile.
    """
    target, last = context.lake.open(context.table.name), context.last
    if target is not None and last is not None and lookups.moved(context):
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
        commit(target, looked)
    version = target.version() if target else -1
    return RefreshResult(context.table.name, version, context.plan.reason)


def _commit_dead_letters(context: RefreshContext, pending: PendingRefresh, record: CommitRecord) -> None:
    """Commit the rejected rows before the table's own commit, in the place of those they supersede."""
    # Partitions that only grow keep the dead letters they have.
    superseded = None if pending.whole else pending.merged or context.plan.replace
    told = replace(record, partitions={})
    dead_letters.replace(context.lake, context.table.name, superseded, pending.dead, told)


def _record(context: RefreshContext, pending: PendingRefresh) -> CommitRecord:
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
    """Partitions that hold rows enriched from a lookup that was behind its own upstream."""
    before = set(context.last.stale_partitions) if context.last and not pending.whole else set[str]()
    written = set(pending.partitions) if context.stale else set[str]()
    return sorted((before - context.plan.replace) | written)


def _replaced(context: RefreshContext, pending: PendingRefresh, target: DeltaTable) -> list[FileEntry]:
    """The table's files that go with this commit."""
    plan, partition = context.plan, context.table.partition
    if plan.replace and not pending.whole:
        return in_partitions(files_of(target), partition.column if partition else None, set(plan.replace))
    return pending.replaced
