"""What time and other tables do to a table without anybody writing it: its data age, its inputs are missing.

Dagster's own evaluation of freshness goes by the last materialization, so that a rebuild of last year's rows
looks fresh. It is switched off (`runs.instance`); the same badge is told by `pipeline/freshness.py` here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import dagster as dg
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange

from medallion_platform.lakehouse.lake import DamagedLog, Lake
from medallion_platform.orchestration import reports
from medallion_platform.orchestration.lakehouse import Lakehouse
from medallion_platform.orchestration.names import key_of
from medallion_platform.pipeline.behind import waiting
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.freshness import Freshness, freshness

_SHOWN = {
    Freshness.NEVER: FreshnessState.UNKNOWN,
    Freshness.FRESH: FreshnessState.PASS,
    Freshness.STALE: FreshnessState.FAIL,
}


def tell_states(
    catalog: Catalog, served: Mapping[dg.AssetKey, str], lake: Lake, on: dg.DagsterInstance, now: datetime
) -> None:
    """Tell Dagster of each table whether it is fresh, and whether it waits for an input, where that changed.

    served: what serves a table, and which.
    """
    fresh = {key_of(name): _shown(catalog, lake, name, now) for name in catalog.names}
    # Online features are as old as the table that they copy.
    fresh |= {key: fresh[key_of(table)] for key, table in served.items()}
    known = on.get_freshness_state_records(list(fresh))
    for key, state in fresh.items():
        old = known[key].freshness_state if key in known else FreshnessState.UNKNOWN
        if state != old:
            on._report_runless_asset_event(
                FreshnessStateChange(
                    key=key, previous_state=old, new_state=state, state_change_timestamp=now.timestamp()
                )
            )
    waits = waiting(catalog, lake)
    for name in catalog.by_name:
        result = reports.inputs(name, waits.get(name, ()))
        before = _last_inputs(on, name) or (True, "")  # what was never told is as it should be
        if before != (result.passed, _waits_for(result.metadata or {})):
            on.report_runless_asset_event(reports.evaluation(result))


def state_sensor(catalog: Catalog, served: Mapping[dg.AssetKey, str]) -> dg.SensorDefinition:
    """Tell what became of each table's freshness and inputs, every minute."""

    @dg.sensor(
        name="data_grew_old",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells how old the data of each table are, and which tables wait for an input.",
    )
    def sensor(context: dg.SensorEvaluationContext, lakehouse: Lakehouse) -> dg.SkipReason:
        tell_states(catalog, served, lakehouse.lake, context.instance, datetime.now(UTC))
        return dg.SkipReason("it starts no run")

    return sensor


def _shown(catalog: Catalog, lake: Lake, name: str, now: datetime) -> FreshnessState:
    try:
        return _SHOWN[freshness(catalog, lake, name, now)[0]]
    except DamagedLog:
        return FreshnessState.UNKNOWN


def _last_inputs(on: dg.DagsterInstance, table: str) -> tuple[bool, str] | None:
    """What was last told of a table's inputs."""
    key = dg.AssetCheckKey(key_of(table), reports.INPUTS)
    record = on.event_log_storage.get_latest_asset_check_execution_by_key([key]).get(key)
    told = record.event and record.event.dagster_event if record else None
    if told is None:
        return None
    evaluation = told.asset_check_evaluation_data
    return evaluation.passed, _waits_for(evaluation.metadata)


def _waits_for(metadata: Mapping[str, object]) -> str:
    told = metadata.get("waits_for", "")
    return str(getattr(told, "value", told))
