"""What starts runs by itself: files that landed, upstream tables that changed, dead letters that surge."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from medallion_platform.lakehouse import ledger
from medallion_platform.orchestration.lakehouse import Lakehouse
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.sources import landing


def landing_sensor(catalog: Catalog, job: dg.JobDefinition) -> dg.SensorDefinition:
    """Run the intake when a complete file waits that the ledgers do not know."""

    @dg.sensor(
        name="files_landed",
        job=job,
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Looks for complete, unknown files in the landing zone and starts their intake.",
    )
    def sensor(context: dg.SensorEvaluationContext, lakehouse: Lakehouse) -> dg.SensorResult:
        waiting = waiting_files(catalog, lakehouse)
        if not waiting:
            return dg.SensorResult(skip_reason=dg.SkipReason("no new complete file has landed"))
        # One run for this very set of files: a sensor tick that repeats starts nothing twice.
        newest = max(file.modified_at for file in waiting).isoformat()
        return dg.SensorResult(
            [dg.RunRequest(run_key=f"{len(waiting)}-{newest}", tags={"files": str(len(waiting))})]
        )

    return sensor


def waiting_files(catalog: Catalog, lakehouse: Lakehouse) -> list[landing.Seen]:
    """Complete files that a source claims and that were not taken in as they are now."""
    look = landing.look(Path(lakehouse.landing), catalog.sources, datetime.now(UTC), lakehouse.settle_seconds)
    waiting = []
    for source in catalog.sources:
        files = look.claimed[source.name]
        if not files:
            continue
        rows = ledger.read(lakehouse.lake, source.name).sort("sequence")
        known = {r["path"]: (r["size"], r["modified_at"]) for r in rows.iter_rows(named=True)}
        waiting += [f for f in files if known.get(f.path) != (f.size, f.modified_at)]
    return waiting
