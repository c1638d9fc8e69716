"""What time and other tables do to a table without anybody writing it: its data age, its inputs are missing,
a new day begins.

Dagster's own evaluation of freshness goes by the last materialization, so that a rebuild of last year's rows
looks fresh. It is switched off (`runs.instance`); the same badge is told by `pipeline.status.freshness`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import dagster as dg
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange

from medallion_platform.lakehouse.lake import DamagedLog, Lake
from medallion_platform.orchestration import partitions, reports
from medallion_platform.orchestration.event_log import report_in_bulk
from medallion_platform.orchestration.lakehouse import Lakehouse
from medallion_platform.orchestration.names import key_of, serving_of
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.status.behind import behind, waiting
from medallion_platform.pipeline.status.freshness import Freshness, freshness
from medallion_platform.serving.features import Features

_COMPLETE = "medallion/complete_partitions"
"""The state of each table in which Dagster knew of all its partitions."""
_SHOWN = {
    Freshness.NEVER: FreshnessState.UNKNOWN,
    Freshness.FRESH: FreshnessState.PASS,
    Freshness.STALE: FreshnessState.FAIL,
}


def served(features: Sequence[Features]) -> dict[dg.AssetKey, str]:
    """What serves a table, and which."""
    return {key_of(serving_of(view.view)): view.table for view in features}


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
    waits, told = waiting(catalog, lake), _last_inputs(on, list(catalog.by_name))
    for name in catalog.by_name:
        result = reports.inputs(name, waits.get(name, ()))
        before = told.get(name, (True, ""))  # what was never told is as it should be
        if before != (result.passed, _waits_for(result.metadata or {})):
            on.report_runless_asset_event(reports.evaluation(result))


def tell_partitions(catalog: Catalog, lake: Lake, on: dg.DagsterInstance, now: datetime) -> None:
    """Tell Dagster of partitions that are as they should be and that it takes for missing.

    A day without rows is done: a new one after midnight, or one of which a run was killed before it told.
    What is out of date or waits, or is made from what does, stays missing. In which state nothing was missing
    of a table any more is kept beside Dagster's own cursors; in that state it is not looked at again.
    """
    marks: dict[str, str] = {}
    for name in catalog.names:
        definition = partitions.of_table(catalog, name)
        if definition is not None and lake.version(name) >= 0:
            marks[name] = f"{lake.state(name)} {partitions.current(definition, now)}"
    kept = on.daemon_cursor_storage.get_cursor_values({_COMPLETE}).get(_COMPLETE)
    complete: dict[str, str] = json.loads(kept or "{}")
    if marks == complete:
        return
    late = behind(catalog, lake)
    unsettled: set[str] = set()
    told: set[str] = set()
    for name in catalog.names:
        upstream = set(catalog.by_name[name].upstream_names) if name in catalog.by_name else set[str]()
        if name in late or unsettled & upstream or any(lake.version(u) < 0 for u in upstream):
            unsettled.add(name)
        elif name in marks and marks[name] != complete.get(name):
            told |= _tell_untold(catalog, lake, on, now, name, again=bool(told & upstream))
    settled = {name: mark for name, mark in marks.items() if name not in unsettled}
    on.daemon_cursor_storage.set_cursor_values({_COMPLETE: json.dumps(settled, sort_keys=True)})


def _tell_untold(
    catalog: Catalog, lake: Lake, on: dg.DagsterInstance, now: datetime, name: str, *, again: bool
) -> set[str]:
    """Tell of a table's missing partitions; gives its name where there were any.

    again: tell of the current one in any case, since a new partition upstream belongs to it: a day to its
    week.
    """
    definition = partitions.of_table(catalog, name)
    assert definition is not None
    untold = partitions.untold(on, name, definition, now)
    if again and (current := partitions.current(definition, now)):
        untold.add(current)
    if not untold:
        return set()
    table, version = catalog.by_name.get(name), lake.version(name)
    of = reports.of_partitions(lake, name, str(catalog.partition_columns[name]), version)
    told = reports.metadata(lake, catalog.contract_of(name), name, version, None, "it is as it should be")
    tags = reports.versions(table, version, reports.provenance(on, table)) if table else None
    report_in_bulk(on, of.events(name, told, untold, tags))
    return {name}


def state_sensor(catalog: Catalog, served: Mapping[dg.AssetKey, str]) -> dg.SensorDefinition:
    """Tell what became of each table's freshness, inputs and partitions, every minute."""

    @dg.sensor(
        name="data_grew_old",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells how old the data of each table are, which tables wait for an input, and which "
        "days are done since they have no rows.",
    )
    def sensor(context: dg.SensorEvaluationContext, lakehouse: Lakehouse) -> dg.SensorResult:
        now, on, lake = datetime.now(UTC), context.instance, lakehouse.lake.look()
        tell_states(catalog, served, lake, on, now)
        tell_partitions(catalog, lake, on, now)
        return dg.SensorResult(skip_reason=dg.SkipReason("it starts no run"))

    return sensor


def _shown(catalog: Catalog, lake: Lake, name: str, now: datetime) -> FreshnessState:
    try:
        return _SHOWN[freshness(catalog, lake, name, now)[0]]
    except DamagedLog:
        return FreshnessState.UNKNOWN


def _last_inputs(on: dg.DagsterInstance, tables: Sequence[str]) -> dict[str, tuple[bool, str]]:
    """What was last told of the inputs of each table."""
    names = {dg.AssetCheckKey(key_of(table), reports.INPUTS): table for table in tables}
    records = on.event_log_storage.get_latest_asset_check_execution_by_key(list(names))
    found: dict[str, tuple[bool, str]] = {}
    for key, record in records.items():
        if told := record.event and record.event.dagster_event:
            evaluation = told.asset_check_evaluation_data
            found[names[key]] = evaluation.passed, _waits_for(evaluation.metadata)
    return found


def _waits_for(metadata: Mapping[str, object]) -> str:
    told = metadata.get("waits_for", "")
    return str(getattr(told, "value", told))
