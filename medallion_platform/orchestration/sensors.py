"""What is noticed by itself: files that landed, dead letters that surge, code that changed."""

import hashlib
import json
from datetime import UTC, datetime

import dagster as dg

from medallion_platform.orchestration import reports
from medallion_platform.orchestration.arrivals import waiting
from medallion_platform.orchestration.lakehouse import Lakehouse
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.plan import code_version

_TRY_AGAIN_SECONDS = 600


def landing_sensor(catalog: Catalog, job: dg.JobDefinition) -> dg.SensorDefinition:
    """Run the intake when a complete file waits, or one that an intake before did not finish."""

    @dg.sensor(
        name="files_landed",
        job=job,
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Looks for complete, unknown files and new messages, and starts their intake.",
    )
    def sensor(context: dg.SensorEvaluationContext, lakehouse: Lakehouse) -> dg.SensorResult:
        now = datetime.now(UTC)
        pieces = waiting(catalog, lakehouse, now)
        if not pieces:
            return dg.SensorResult(skip_reason=dg.SkipReason("nothing new has arrived"))
        # A tick that repeats starts nothing twice, and what failed is tried again after a while.
        files = hashlib.sha256("\n".join(pieces).encode()).hexdigest()[:16]
        attempt = int(now.timestamp() // _TRY_AGAIN_SECONDS)
        return dg.SensorResult(
            [dg.RunRequest(run_key=f"{files}-{attempt}", tags={"files": str(len(pieces))})]
        )

    return sensor


def surge_sensor(catalog: Catalog) -> dg.SensorDefinition:
    """Fail a table's check `dead_letters_as_usual` when its last write rejected unusually many rows."""

    @dg.sensor(
        name="dead_letters_surge",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Compares the share of rejected rows of each table's newest write with those before.",
    )
    def sensor(context: dg.SensorEvaluationContext, lakehouse: Lakehouse) -> dg.SensorResult:
        seen: dict[str, int] = json.loads(context.cursor or "{}")
        events = []
        for name in catalog.names:
            version = lakehouse.lake.version(name)
            if version < 0 or seen.get(name) == version:
                continue
            seen[name] = version
            events.append(reports.evaluation(reports.surge(lakehouse.lake, name)))
        return dg.SensorResult(asset_events=events, cursor=json.dumps(seen))

    return sensor


def code_sensor(catalog: Catalog) -> dg.SensorDefinition:
    """Fail a table's check `made_by_current_code` when its transform or contract is another one now."""

    @dg.sensor(
        name="code_changed",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells which partitions a former transform or contract made, once the code changed.",
    )
    def sensor(context: dg.SensorEvaluationContext, lakehouse: Lakehouse) -> dg.SensorResult:
        seen: dict[str, int] = json.loads(context.cursor or "{}")
        codes = {t.name: code_version(t) for t in catalog.tables if lakehouse.lake.exists(t.name)}
        changed = [t for t in catalog.tables if t.name in codes and codes[t.name] != seen.get(t.name)]
        lake, columns = lakehouse.lake, catalog.unit_columns
        events = [reports.evaluation(reports.current(lake, t, columns)) for t in changed]
        return dg.SensorResult(asset_events=events, cursor=json.dumps(codes))

    return sensor
