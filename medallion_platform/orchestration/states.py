"""What changes about a table without a write: its data get older, inputs are missing, a new day begins.

How old data are is decided by `pipeline.freshness`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import dagster as dg
from dagster._core.definitions.freshness import FreshnessState

from medallion_platform.lakehouse.lake import DamagedLog, Lake
from medallion_platform.orchestration import checks, partitions, reports
from medallion_platform.orchestration.event_log import report_in_bulk
from medallion_platform.orchestration.freshness_badges import report_freshness
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.names import asset_key, serving_name
from medallion_platform.orchestration.ops import report_ops
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.features import Features
from medallion_platform.pipeline.freshness import Freshness, Known, freshness
from medallion_platform.pipeline.out_of_date import out_of_date_tables, tables_waiting_for_inputs

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
    """The asset of each published table: asset key -> table."""
    return {asset_key(serving_name(view.view)): view.table for view in features}


def report_states(
    catalog: Catalog, served: Mapping[dg.AssetKey, str], lake: Lake, on: dg.DagsterInstance, now: datetime
) -> None:
    """Report to Dagster whether each table is fresh and whether it waits for an input, if that changed.

    served: the assets of published tables.
    """
    ages: Known = {}
    fresh = {asset_key(name): _shown_freshness(catalog, lake, name, now, ages) for name in catalog.names}
    # Online features are as old as the table that they copy.
    fresh |= {key: fresh[asset_key(table)] for key, table in served.items()}
    report_freshness(on, fresh, now)
    waits, told = (
        tables_waiting_for_inputs(catalog, lake),
        checks.last_check_results(on, catalog.by_name, checks.INPUTS),
    )
    for name in catalog.by_name:
        now_told, before = (
            checks.check_evaluation(checks.inputs_result(name, waits.get(name, ()))),
            told.get(name),
        )
        if before is None:
            # Of a table that nobody made yet there is nothing to say but what it waits for.
            changed = not now_told.passed or fresh[asset_key(name)] is not FreshnessState.UNKNOWN
        else:
            changed = (now_told.passed, _waits_in_check(now_told)) != (before.passed, _waits_in_check(before))
        if changed:
            on.report_runless_asset_event(now_told)


def report_tables(catalog: Catalog, lake: Lake, on: dg.DagsterInstance, now: datetime) -> None:
    """Report to Dagster the tables and partitions that are up to date and that it shows as missing.

    A day without rows is complete: a new day after midnight, or one whose run was killed before it reported.
    Tables that are out of date or waiting, and those made from them, stay missing. The state in which nothing
    of a table was missing is stored with Dagster's cursors; in that state the table is not checked again.
    """
    marks: dict[str, str] = {}
    for name in catalog.names:
        definition = partitions.table_partitions(catalog, name)
        if lake.version(name) < 0:
            continue
        if definition is not None:
            marks[name] = f"{lake.state(name)} {partitions.current_partition(definition, now)}"
        elif lake.rows(name):
            marks[name] = _MADE
    complete = _complete_states(catalog, on)
    if marks == complete:
        return
    late = out_of_date_tables(catalog, lake)
    unsettled: set[str] = set()
    reported: set[str] = set()
    for name in catalog.names:
        upstream = set(catalog.by_name[name].upstream_names) if name in catalog.by_name else set[str]()
        if name in late or unsettled & upstream or any(lake.version(u) < 0 for u in upstream):
            unsettled.add(name)
        elif name in marks and marks[name] != complete.get(name):
            reported |= _report_missing_partitions(
                catalog, lake, on, now, name, again=bool(reported & upstream)
            )
    settled = {name: mark for name, mark in marks.items() if name not in unsettled}
    on.daemon_cursor_storage.set_cursor_values({_COMPLETE: json.dumps(settled, sort_keys=True)})


def _complete_states(catalog: Catalog, on: dg.DagsterInstance) -> dict[str, str]:
    """The stored states in which nothing was missing.

    Once, the events of assets with former names are deleted, because nothing would update them: all of it is
    also in the tables' commits, and the current state is reported under the new names.
    """
    cursors = on.daemon_cursor_storage
    values = cursors.get_cursor_values({_COMPLETE, _FORMER_NAMES})
    if values.get(_FORMER_NAMES):
        former = [dg.AssetKey(name.split(".")) for name in catalog.names]
        on.wipe_assets([key for key in former if on.has_asset_key(key)])
        cursors.set_cursor_values({_FORMER_NAMES: ""})
    return json.loads(values.get(_COMPLETE) or "{}")


def _report_missing_partitions(
    catalog: Catalog, lake: Lake, on: dg.DagsterInstance, now: datetime, name: str, *, again: bool
) -> set[str]:
    """Report what Dagster shows as missing of a table; returns its name if there was anything.

    again: report the current partition in any case, because it contains a new upstream partition: a week a
    day.
    """
    definition = partitions.table_partitions(catalog, name)
    untold = partitions.unreported_partitions(on, name, definition, now)
    if again and definition and (current := partitions.current_partition(definition, now)):
        untold.add(current)
    if not untold and (definition or on.get_latest_materialization_event(asset_key(name))):
        return set()
    table, version = catalog.by_name.get(name), lake.version(name)
    contract, source = catalog.contract_of(name), catalog.source_of.get(name)
    metadata = reports.table_metadata(lake, contract, name, version, None, "it is as it should be", source)
    tags = reports.data_version_tags(table, version, reports.provenance(on, table)) if table else None
    if definition:
        of = reports.partition_report(lake, name, str(catalog.partition_columns[name]), version)
        report_in_bulk(on, of.events(name, metadata, untold, tags))
    else:
        report_in_bulk(on, [dg.AssetMaterialization(asset_key(name), metadata=metadata, tags=tags)])
    return {name}


def state_sensor(catalog: Catalog, served: Mapping[dg.AssetKey, str]) -> dg.SensorDefinition:
    """Report each table's freshness, inputs and partitions, and the group `ops`, every minute."""

    @dg.sensor(
        name="data_grew_old",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells how old the data of each table are, which tables wait for an input, and which "
        "days are done since they have no rows; and how the platform is doing, in the group `ops`.",
    )
    def sensor(context: dg.SensorEvaluationContext, lakehouse: Lakehouse) -> dg.SensorResult:
        now, on, lake = datetime.now(UTC), context.instance, lakehouse.lake.snapshot()
        report_states(catalog, served, lake, on, now)
        report_tables(catalog, lake, on, now)
        report_ops(lake, on, now)
        return dg.SensorResult(skip_reason=dg.SkipReason("it starts no run"))

    return sensor


def _shown_freshness(catalog: Catalog, lake: Lake, name: str, now: datetime, ages: Known) -> FreshnessState:
    try:
        return _SHOWN[freshness(catalog, lake, name, now, ages)[0]]
    except DamagedLog:
        return FreshnessState.UNKNOWN


def _waits_in_check(evaluation: dg.AssetCheckEvaluation) -> str:
    found = evaluation.metadata.get("waits_for")
    return str(found.value) if found else ""
