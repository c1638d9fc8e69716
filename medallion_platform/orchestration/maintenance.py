"""Maintenance as a Dagster job, once a day: cluster small files, delete what nobody can ask for."""

import dagster as dg

from medallion_platform.lakehouse import maintenance
from medallion_platform.lakehouse.commit import Fenced
from medallion_platform.orchestration.lakehouse import Lakehouse
from medallion_platform.pipeline.catalog import Catalog


def maintenance_job(catalog: Catalog) -> dg.JobDefinition:
    """Optimize and vacuum every table, its dead letters and ledgers; a busy table is left for tomorrow."""
    cluster_by = {name: table.cluster_by for name, table in catalog.by_name.items()}

    @dg.op(description="Optimize and vacuum every table of the lake.")
    def maintain_tables(context: dg.OpExecutionContext, lakehouse: Lakehouse) -> None:
        lake = lakehouse.lake
        figures: dict[str, dict[str, float]] = {}
        for name in maintenance.tables(lake):
            try:
                done = maintenance.maintain(lake, name, cluster_by.get(name, ()))
            except (Fenced, maintenance.NotOurs) as error:
                context.log.warning(f"{name} is left for the next maintenance: {error}")
                continue
            figures[name] = {
                "files before": done.optimized.files_before,
                "files after": done.optimized.files_after,
                "bytes after": done.optimized.bytes_after,
                "files deleted": done.vacuumed.removed,
                "bytes deleted": done.vacuumed.removed_bytes,
                "seconds": done.seconds,
            }
        context.add_output_metadata({"tables": dg.MetadataValue.json(figures)})

    @dg.graph(name="maintenance", description="Cluster small files and delete dead ones, in every table.")
    def graph() -> None:
        maintain_tables()

    return graph.to_job(executor_def=dg.in_process_executor)


def maintenance_schedule(job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Every night at three."""
    return dg.ScheduleDefinition(
        job=job, cron_schedule="0 3 * * *", default_status=dg.DefaultScheduleStatus.RUNNING
    )
