"""Maintenance as a Dagster job, once a day: cluster small files, delete files outside of the retention.

The same job keeps Dagster's own storage small.

Each table's pool lets one run at a time work on it, and a run that Dagster ended meanwhile changes nothing
more: the pool may be another one's by then. So it needs no lease of its own.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import dagster as dg

from medallion_platform.healing import incident
from medallion_platform.lakehouse import (
    dead_letters,
    drill_verdicts,
    file_registry,
    incidents,
    maintenance,
    memory_uses,
)
from medallion_platform.lakehouse.commit import CommitConflict
from medallion_platform.lakehouse.counts import counted
from medallion_platform.lakehouse.guard import Guard
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration.begin_run import begin_run
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.names import MAINTENANCE, asset_key, pool_name
from medallion_platform.orchestration.retries import OURS, only_attempt
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.memory import worth_keeping


def maintenance_job(catalog: Catalog) -> dg.JobDefinition:
    """Optimize and vacuum every table with its dead letters and its file registry, one step each; delete old
    runs.

    A step waits for the table's pool, so that it never blocks a refresh.
    """
    steps = [
        _maintenance_op(name, _cluster_columns(catalog, name), _tables_beside(catalog, name))
        for name in catalog.names
    ]

    @dg.graph(
        name=MAINTENANCE,
        description="Cluster small files and delete unused ones in every table; delete old runs in Dagster.",
    )
    def graph() -> None:
        forget_old_runs()
        forget_memory_uses()
        forget_incidents()
        merge_drill_verdicts()
        for step in steps:
            step()

    return graph.to_job(executor_def=dg.in_process_executor)


@dg.op(
    out=dg.Out(dg.Nothing),
    description="Delete what Dagster keeps of runs that ended long ago (MEDALLION_KEEP_RUNS_DAYS), but the "
    "newest events of tables, partitions and checks.",
    tags=OURS,
)
def forget_old_runs(context: dg.OpExecutionContext, lakehouse: Lakehouse) -> None:
    """Delete old runs, so that Dagster's storage stays bounded."""
    with only_attempt(context, "forget_old_runs"):
        from medallion_platform.orchestration.retention import forget_runs  # it loads Dagster's storages

        days = lakehouse.keep_runs_days
        forgotten = forget_runs(context.instance, datetime.now(UTC) - timedelta(days=days))
        context.log.info(f"forgot {counted(forgotten, 'runs')}: what ended more than {days:g} days ago")


@dg.op(
    out=dg.Out(dg.Nothing),
    description="Forget how much memory earlier work used where it decides nothing any more.",
    tags=OURS,
)
def forget_memory_uses(context: dg.OpExecutionContext, lakehouse: Lakehouse) -> None:
    """Keep the table of memory uses small."""
    with only_attempt(context, "forget_memory_uses"):
        lake, run = lakehouse.lake, begin_run(context)
        with _left_for_the_next(context, "memory uses"):
            memory_uses.condense(lake, worth_keeping, run.run_id, run.at, run.guard)
            _maintain_if_there(lake, memory_uses.MEMORY_USES, run.guard)


@dg.op(
    out=dg.Out(dg.Nothing),
    description="Forget incidents that ended 90 days ago, and reports that are part of others.",
    tags=OURS,
)
def forget_incidents(context: dg.OpExecutionContext, lakehouse: Lakehouse) -> None:
    """Keep the ledger of incidents small."""
    with only_attempt(context, "forget_incidents"):
        lake, run = lakehouse.lake, begin_run(context)
        kept = partial(incident.worth_keeping, now=run.at)
        with _left_for_the_next(context, "incidents"):
            incidents.condense(lake, kept, run.run_id, run.at, run.guard)
            _maintain_if_there(lake, incidents.INCIDENTS, run.guard)


@dg.op(
    out=dg.Out(dg.Nothing),
    description="Merge the small files of what drills have said.",
    tags=OURS,
)
def merge_drill_verdicts(context: dg.OpExecutionContext, lakehouse: Lakehouse) -> None:
    """Keep the files of the table of drills few."""
    with only_attempt(context, "merge_drill_verdicts"), _left_for_the_next(context, "verdicts of drills"):
        _maintain_if_there(lakehouse.lake, drill_verdicts.DRILL_VERDICTS, begin_run(context).guard)


def maintenance_schedule(job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Every night at three."""
    return dg.ScheduleDefinition(
        job=job,
        cron_schedule="0 3 * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every night at three: merges small files, deletes what nobody can ask for, forgets old "
        "runs.",
    )


def _cluster_columns(catalog: Catalog, name: str) -> tuple[str, ...]:
    table = catalog.by_name.get(name)
    return table.cluster_by if table else ()


def _tables_beside(catalog: Catalog, name: str) -> tuple[str, ...]:
    """The tables that the platform keeps beside a table."""
    source = catalog.source_of.get(name)
    return (dead_letters.name(name), *((file_registry.registry_table(source.name),) if source else ()))


def _maintenance_op(name: str, cluster_by: Sequence[str], beside: Sequence[str]) -> dg.OpDefinition:
    @dg.op(
        name="maintain_" + name.replace(".", "_"),
        out=dg.Out(dg.Nothing),
        description=f"Optimize and vacuum {name} and {', '.join(beside)}.",
        pool=pool_name(name),
        tags=OURS,
    )
    def body(context: dg.OpExecutionContext, lakehouse: Lakehouse) -> Iterator[dg.AssetObservation]:
        with only_attempt(context, name):
            lake, guard = lakehouse.lake, begin_run(context).guard
            if not lake.exists(name):
                return
            try:
                done = maintenance.maintain_table(lake, name, cluster_by, guard=guard)
                for other in beside:
                    _maintain_if_there(lake, other, guard)
            except (CommitConflict, maintenance.UnsupportedTable) as error:
                context.log.warning(f"{name} is left for the next maintenance: {error}")
                return
            yield dg.AssetObservation(asset_key(name), metadata=_storage_figures(lake, done))

    return body


@contextmanager
def _left_for_the_next(context: dg.OpExecutionContext, what: str) -> Generator[None]:
    """Leave to the next maintenance what somebody else writes at this moment."""
    try:
        yield
    except CommitConflict as error:
        context.log.warning(f"{what} are left for the next maintenance: {error}")


def _maintain_if_there(lake: Lake, table: str, guard: Guard) -> None:
    if lake.exists(table):
        maintenance.maintain_table(lake, table, guard=guard)


def _storage_figures(lake: Lake, done: maintenance.MaintenanceResult) -> dict[str, float]:
    """The numbers that the UI plots over time."""
    storage = maintenance.measure_storage(lake, done.table)
    return {
        "files_before": done.optimized.files_before,
        "files": storage.files,
        "small_files": storage.small_files,
        "live_bytes": storage.live_bytes,
        "kept_bytes": storage.kept_bytes,
        "deleted_files": done.vacuumed.removed,
        "deleted_bytes": done.vacuumed.removed_bytes,
        "maintenance_seconds": done.seconds,
    }
