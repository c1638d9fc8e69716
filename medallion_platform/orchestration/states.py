"""What changes about a table without a write: its data get older, inputs are missing, a new day begins.

Dagster's own freshness evaluation uses the last materialization, so a rebuild of last year's rows would look
fresh. It is switched off (`runs.instance`); `pipeline.freshness` sets the same badge.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import dagster as dg
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange

from medallion_platform.lakehouse.lake import DamagedLog, Lake
from medallion_platform.orchestration import checks, partitions, reports
from medallion_platform.orchestration.event_log import report_in_bulk
from medallion_platform.orchestration.lakehouse import Lakehouse
from medallion_platform.orchestration.names import key_of, serving_of
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.features import Features
from medallion_platform.pipeline.freshness import Freshness, freshness
from medallion_platform.pipeline.out_of_date import out_of_date_tables, waiting

_COMPLETE = "medallion/complete_tables"
"""The state of each table in which Dagster knew all of it."""
_FORMER_NAMES = "medallion/complete_partitions"
"""The same where tables were assets of other names (`silver/events`)."""
_MADE = "made"
"""The state of a table without partitions that Dagster was told of."""
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
    waits, told = waiting(catalog, lake), checks.last_results(on, catalog.by_name, checks.INPUTS)
    for name in catalog.by_name:
        now_told, before = checks.evaluation(checks.inputs(name, waits.get(name, ()))), told.get(name)
        if before is None:
            # Of a table that nobody made yet there is nothing to say but what it waits for.
            changed = not now_told.passed or fresh[key_of(name)] is not FreshnessState.UNKNOWN
        else:
            changed = (now_told.passed, _waits_for(now_told)) != (before.passed, _waits_for(before))
        if changed:
            on.report_runless_asset_event(now_told)


def tell_tables(catalog: Catalog, lake: Lake, on: dg.DagsterInstance, now: datetime) -> None:
    """Tell Dagster of tables and partitions that are as they should be and that it takes for missing.

    A day without rows is done: a new one after midnight, or one of which a run was killed before it told.
    What is out of date or waits, or is made from what does, stays missing. In which state nothing was missing
    of a table any more is kept beside Dagster's own cursors; in that state it is not looked at again.
    """
    marks: dict[str, str] = {}
    for name in catalog.names:
        definition = partitions.of_table(catalog, name)
        if lake.version(name) < 0:
            continue
        if definition is not None:
            marks[name] = f"{lake.state(name)} {partitions.current(definition, now)}"
        elif lake.rows(name):
            marks[name] = _MADE
    complete = _complete(catalog, on)
    if marks == complete:
        return
    late = out_of_date_tables(catalog, lake)
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


def _complete(catalog: Catalog, on: dg.DagsterInstance) -> dict[str, str]:
    """The states in which nothing was missing, as they were kept.

    Once, what was told under former names is taken back, since nothing would be told of these assets again:
    all of it stands in the tables' commits too, and how they are now is told under the new names.
    """
    cursors = on.daemon_cursor_storage
    kept = cursors.get_cursor_values({_COMPLETE, _FORMER_NAMES})
    if kept.get(_FORMER_NAMES):
        former = [dg.AssetKey(name.split(".")) for name in catalog.names]
        on.wipe_assets([key for key in former if on.has_asset_key(key)])
        cursors.set_cursor_values({_FORMER_NAMES: ""})
    return json.loads(kept.get(_COMPLETE) or "{}")


def _tell_untold(
    catalog: Catalog, lake: Lake, on: dg.DagsterInstance, now: datetime, name: str, *, again: bool
) -> set[str]:
    """Tell of what Dagster misses of a table; gives its name where that was anything.

    again: tell of the current partition in any case, since a new one upstream belongs to it: a day to its
    week.
    """
    definition = partitions.of_table(catalog, name)
    untold = partitions.untold(on, name, definition, now)
    if again and definition and (current := partitions.current(definition, now)):
        untold.add(current)
    if not untold and (definition or on.get_latest_materialization_event(key_of(name))):
        return set()
    table, version = catalog.by_name.get(name), lake.version(name)
    contract, source = catalog.contract_of(name), catalog.source_of.get(name)
    told = reports.metadata(lake, contract, name, version, None, "it is as it should be", source)
    tags = reports.versions(table, version, reports.provenance(on, table)) if table else None
    if definition:
        of = reports.of_partitions(lake, name, str(catalog.partition_columns[name]), version)
        report_in_bulk(on, of.events(name, told, untold, tags))
    else:
        report_in_bulk(on, [dg.AssetMaterialization(key_of(name), metadata=told, tags=tags)])
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
        now, on, lake = datetime.now(UTC), context.instance, lakehouse.lake.snapshot()
        tell_states(catalog, served, lake, on, now)
        tell_tables(catalog, lake, on, now)
        return dg.SensorResult(skip_reason=dg.SkipReason("it starts no run"))

    return sensor


def _shown(catalog: Catalog, lake: Lake, name: str, now: datetime) -> FreshnessState:
    try:
        return _SHOWN[freshness(catalog, lake, name, now)[0]]
    except DamagedLog:
        return FreshnessState.UNKNOWN


def _waits_for(told: dg.AssetCheckEvaluation) -> str:
    found = told.metadata.get("waits_for")
    return str(found.value) if found else ""
