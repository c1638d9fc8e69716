"""Refresh: bring one table up to date with its inputs. The only implementation.

A Dagster run, a backfill, a rebuild and the command line all call `refresh`; each of its stages is a module
here. Nothing is visible before the last stage, and everything before it can be repeated.

| stage | module | |
|---|---|---|
| plan | `changes`, `plan` | read from the Delta logs what changed; decide what to do (pure) |
| inputs | `inputs` | read only what the plan names |
| transform | `transform` | the table's own function |
| validate | `validate`, `personal` | protect personal data, check rows against the contract |
| stage | `stage` | compute, and write files that are not visible yet |
| reconcile | `reconcile` | no row, key or source row is lost or doubled, or nothing is committed |
| commit | `commit` | dead letters, then rows with counts and position in one commit |
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from medallion_platform.errors import Kind, classify
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.damaged_files import DamagedFile, report_damage
from medallion_platform.lakehouse.delta_log import FilesGone
from medallion_platform.pipeline.refresh import lookups
from medallion_platform.pipeline.refresh.changes import planned
from medallion_platform.pipeline.refresh.commit import (
    PendingRefresh,
    RefreshResult,
    commit_nothing_to_do,
    commit_refresh,
)
from medallion_platform.pipeline.refresh.context import VERBS, RefreshContext
from medallion_platform.pipeline.refresh.errors import NeedsRebuild, explain_failures
from medallion_platform.pipeline.refresh.plan import Upstreams

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from medallion_platform.lakehouse.lake import Lake
    from medallion_platform.pipeline.run import Run
    from medallion_platform.pipeline.table import Table


def refresh(
    table: Table,
    lake: Lake,
    spark: Callable[[], SparkSession],
    run: Run,
    *,
    partitions: Iterable[str] | None = None,
    rebuild: bool = False,
    as_of: datetime | None = None,
    lost_letters: Collection[str] = (),
    partition_columns: Mapping[str, str | None],
) -> RefreshResult:
    """Bring `partitions` (None: all that is out of date) of the table up to date.

    spark: returns the session; not called if there is nothing to do. partition_columns: the partition column
    of every upstream table (None: it has no partition). rebuild: also partitions that are up to date. as_of:
    use the upstream tables as of this time; the next refresh without it uses the newest versions again.
    lost_letters: paths of files of dead letters that cannot be read; they hold letters of these partitions
    only, which are rejected anew.

    Raises:
        MissingUpstream: an upstream table does not exist.
        RefreshFailed: the transform failed or a `fail` expectation was violated.
        DamagedFile: a data file of an input is missing or damaged.
        CommitConflict: another run committed to the table first; nothing was written.
        NotAllowed: the run's guard refuses; no row was written.
    """
    context = _begin_refresh(table, lake, spark, run, partition_columns, as_of)
    context = replace(context, lost_letters=frozenset(lost_letters))
    with context.tell.ended():
        context = planned(context, None if partitions is None else set(partitions), rebuild=rebuild)
        if context.plan.nothing:
            return commit_nothing_to_do(context)
        context.tell.planned(context.plan.reason)
        with explain_failures(context):
            context, pending = _make_or_rebuild(context)
        context.tell.staged(pending.counts)
        return commit_refresh(context, pending)


def _begin_refresh(
    table: Table,
    lake: Lake,
    spark: Callable[[], SparkSession],
    run: Run,
    partition_columns: Mapping[str, str | None],
    as_of: datetime | None,
) -> RefreshContext:
    """The state of the table, and the versions of the inputs to refresh it from."""
    # Taken before the work begins: who commits in between makes this refresh too late.
    sequence = max(0, lake.sequence(table.name), lake.sequence(dead_letters.name(table.name))) + 1
    last = lake.last_record(table.name, VERBS)
    heads = {u: lake.version(u) if as_of is None else lake.version_at(u, as_of) for u in table.upstream_names}
    return RefreshContext(table, lake, spark, partition_columns, last, Upstreams(heads), run, sequence)


def _make_or_rebuild(context: RefreshContext) -> tuple[RefreshContext, PendingRefresh]:
    """Compute what the plan names, or the whole table if a part cannot be computed alone."""
    context = replace(context, stale=lookups.stale_lookups(context.table, context.lake))
    try:
        return context, _make_rows(context)
    except (NeedsRebuild, FilesGone) as error:
        reason: Exception = error
    except Exception as error:
        # A file that no table has any more is only read for what it was before: all rows tell without it.
        if context.plan.whole or isinstance(error, DamagedFile) or classify(error).kind is not Kind.CORRUPT:
            raise
        reason = error
    context.tell.retried(2, reason)
    context = planned(context, rebuild=True)
    return context, _make_rows(context)


def _make_rows(context: RefreshContext) -> PendingRefresh:
    """The stages that need Spark, which is only imported if there are rows to compute.

    Raises:
        DamagedFile: a data file of the table or of an input is missing or damaged.
    """
    from medallion_platform.pipeline.refresh import inputs, reconcile, stage, transform, validate

    with report_damage(context.lake, (*context.table.upstream_names, context.table.name)):
        read = inputs.read_inputs(context)
        made = transform.run_transform(context, read)
        validated = validate.validate_rows(context, made.rows, whole=read.whole)
        accounts = reconcile.Accounts(context, read, made)
        staged = stage.stage_rows(context, validated, accounts.inspection)
        others = stage.keep_other_keys(context, read.keys) if read.keys is not None else stage.OtherKeys()
        return accounts.balanced(validated, staged, others)
