"""The group `ops`: how the platform itself is doing, beside its tables.

The assets `backup` and `drills` are made by jobs (`backups.py`, `drills.py`). Of incidents and maintenance
there is something to be seen, and nothing runs for it: the look that tells how old tables are tells Dagster
of them, too, where what Dagster was told last is not so any more.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.definitions.metadata import RawMetadataValue
from dagster._core.scheduler.instigation import InstigatorType, SensorInstigatorData

from medallion_platform.healing.figures import figures_by_class, figures_by_day, figures_of
from medallion_platform.healing.incident import Incident, Known, known_from, state_of
from medallion_platform.lakehouse import incidents
from medallion_platform.lakehouse.incidents import DamagedLedger
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration import backups, checks, drills
from medallion_platform.orchestration.freshness_badges import report_freshness
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.names import (
    BACKUP,
    CATCH_UP_SENSOR,
    DRILLS,
    INCIDENTS,
    MAINTENANCE,
    OPS,
)
from medallion_platform.orchestration.pictures import picture_of_days
from medallion_platform.orchestration.reports import Metadata, markdown_table
from medallion_platform.orchestration.retries import OURS, only_attempt

LEFT_OUT = dg.AssetCheckKey(INCIDENTS, "no_table_is_left_out")
MAINTAINED = dg.AssetCheckKey(dg.AssetKey(MAINTENANCE), "last_maintenance_succeeded")

_LOOKED_WITHIN = timedelta(minutes=15)
_MAINTAINED_WITHIN = timedelta(hours=30)
_DAYS = 30
_MOST = 20
"""Incidents and tables that a page lists; `medallion incidents list` has all."""
_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_RUN = "run"


def ops_assets() -> list[dg.AssetSpec]:
    """The assets that nothing runs for."""
    return [
        dg.AssetSpec(
            INCIDENTS,
            group_name=OPS,
            kinds={"deltalake"},
            description="What failed, and what was done about it: the ledger `_medallion/incidents` of the "
            "lake, told here within a minute. `medallion incidents list` has all of it, and docs/healing.md "
            f"says what it means.\n\nFresh while the sensor `{CATCH_UP_SENSOR}`, which decides what is tried "
            "again, has looked in the last 15 minutes.",
            freshness_policy=dg.FreshnessPolicy.time_window(fail_window=_LOOKED_WITHIN),
        ),
        dg.AssetSpec(
            MAINTENANCE,
            group_name=OPS,
            kinds={"deltalake"},
            description="The last maintenance of all tables: the job `maintenance`, every night at three."
            "\n\nFresh while one has succeeded in the last 30 hours.",
            freshness_policy=dg.FreshnessPolicy.time_window(fail_window=_MAINTAINED_WITHIN),
        ),
    ]


def ops_checks() -> list[dg.AssetChecksDefinition]:
    """Their checks, which a person may also ask for."""

    @dg.asset_check(
        asset=LEFT_OUT.asset_key,
        name=LEFT_OUT.name,
        op_tags=OURS,
        description="Automation leaves out no table: no breaker is open, and nobody has paused one.",
    )
    def no_table_is_left_out(
        context: dg.AssetCheckExecutionContext, lakehouse: Lakehouse
    ) -> dg.AssetCheckResult:
        with only_attempt(context.op_execution_context, LEFT_OUT.name):
            return _left_out_result(_tables_left_out(lakehouse.lake))

    @dg.asset_check(
        asset=MAINTAINED.asset_key,
        name=MAINTAINED.name,
        op_tags=OURS,
        description="No step of the last maintenance failed.",
    )
    def last_maintenance_succeeded(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        with only_attempt(context.op_execution_context, MAINTAINED.name):
            return _maintained_result(context.instance, _last_run(context.instance, _ENDED))

    return [no_table_is_left_out, last_maintenance_succeeded]


def report_ops(lake: Lake, on: dg.DagsterInstance, now: datetime) -> None:
    """Report to Dagster how the platform is doing, where that has changed."""
    told = checks.last_evaluations(on, [LEFT_OUT, MAINTAINED])
    _report_incidents(lake, on, now, told.get(LEFT_OUT))
    maintained_at = _report_maintenance(on, told.get(MAINTAINED))
    backup, drilled = _last_told(on, dg.AssetKey(BACKUP)), _last_told(on, dg.AssetKey(DRILLS))
    fresh = {
        INCIDENTS: _freshness(_last_look(on), _LOOKED_WITHIN, now),
        MAINTAINED.asset_key: _freshness(maintained_at, _MAINTAINED_WITHIN, now),
        dg.AssetKey(BACKUP): _freshness(backup and backup[0], backups.FRESH_WITHIN, now),
        dg.AssetKey(DRILLS): _freshness(drilled and drilled[0], drills.FRESH_WITHIN, now),
    }
    report_freshness(on, fresh, now)


def tables_left_out(known: Known) -> dict[str, str]:
    """Why automation leaves a table out until a person says so, or for long, by table. Pure."""
    found: dict[str, str] = {}
    for table, of_table in known.open.items():
        for incident in of_table:
            state, next_try = state_of(incident, known)
            if state == "breaker open" and next_try:
                found[table] = (
                    f"breaker open: failed {incident.kind.value} since {_time(incident.began)}, incident "
                    f"{incident.id}; tried again at {_time(next_try)}, or now by `{_resume(table)}`"
                )
    for table, pause in known.paused.items():
        found[table] = f"paused by {pause.by} at {_time(pause.at)}; `{_resume(table)}` goes on with it"
    return found


def incident_figures(known: Known, now: datetime) -> Metadata:
    """Numbers that Dagster plots over time, tables and a picture. Pure."""
    all_of = list(known.incidents.values())
    total = figures_of(all_of)
    numbers = {
        "incidents": total.incidents,
        "open": total.open,
        "tables_left_out": len(tables_left_out(known)),
        "healed_share": total.healed_share,
        "seconds_to_heal": total.heal_median,
    }
    newest = sorted((i for i in all_of if not i.closed), key=lambda i: (i.detected, i.id), reverse=True)
    by_class = [{"class": kind.value, **asdict(of)} for kind, of in figures_by_class(all_of).items()]
    by_day = figures_by_day(all_of, now.date(), _DAYS)
    return {
        **{name: number for name, number in numbers.items() if number is not None},
        "open_incidents": _as_table([_described(incident, known) for incident in newest[:_MOST]]),
        "by_class": _as_table(by_class),
        "by_day": dg.MetadataValue.md(picture_of_days(by_day)),
    }


def _report_incidents(
    lake: Lake, on: dg.DagsterInstance, now: datetime, told: dg.AssetCheckEvaluation | None
) -> None:
    result = checks.check_evaluation(_left_out_result(_tables_left_out(lake)))
    if told is None or (result.passed, result.metadata) != (told.passed, told.metadata):
        on.report_runless_asset_event(result)
    try:
        figures = incident_figures(known_from(incidents.read(lake)), now)
    except DamagedLedger:  # which the check says
        return
    event = dg.AssetMaterialization(INCIDENTS, metadata=figures)
    last = _last_told(on, INCIDENTS)
    if last is None or last[1] != event.metadata:
        on.report_runless_asset_event(event)


def _report_maintenance(on: dg.DagsterInstance, told: dg.AssetCheckEvaluation | None) -> datetime | None:
    """Returns when the last good one ended."""
    last, good = _last_run(on, _ENDED), _last_run(on, (dg.DagsterRunStatus.SUCCESS,))
    if last and (told is None or told.metadata.get(_RUN) != _run_link(last)):
        on.report_runless_asset_event(checks.check_evaluation(_maintained_result(on, last)))
    if good is None or good.end_time is None:
        return None
    made = _last_told(on, MAINTAINED.asset_key)
    if made is None or made[1].get(_RUN) != _run_link(good):
        figures = {_RUN: _run_link(good), **_storage_figures(on, good.dagster_run.run_id)}
        on.report_runless_asset_event(dg.AssetMaterialization(MAINTAINED.asset_key, metadata=figures))
    return datetime.fromtimestamp(good.end_time, UTC)


def _tables_left_out(lake: Lake) -> Mapping[str, str]:
    try:
        return tables_left_out(known_from(incidents.read(lake)))
    except DamagedLedger as error:
        return {"all tables": str(error)}


def _left_out_result(tables: Mapping[str, str]) -> dg.AssetCheckResult:
    told: dict[str, RawMetadataValue] = dict(sorted(tables.items())[:_MOST])
    if len(tables) > _MOST:
        told["more"] = f"{len(tables) - _MOST} others: `medallion incidents list` has all"
    return dg.AssetCheckResult(
        asset_key=LEFT_OUT.asset_key,
        check_name=LEFT_OUT.name,
        passed=not tables,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=told,
    )


def _maintained_result(on: dg.DagsterInstance, last: dg.RunRecord | None) -> dg.AssetCheckResult:
    told: dict[str, RawMetadataValue] = {_RUN: _run_link(last)} if last else {}
    if failed := _failed_steps(on, last):
        told["failed"] = ", ".join(failed)
        told["what_next"] = "The run says why. The next one, at three, does all that is left."
    return dg.AssetCheckResult(
        asset_key=MAINTAINED.asset_key, check_name=MAINTAINED.name, passed=not failed, metadata=told
    )


def _failed_steps(on: dg.DagsterInstance, last: dg.RunRecord | None) -> list[str]:
    """The steps of a run that failed, or what became of it where it was ended; none where it was good."""
    if last is None or last.dagster_run.is_success:
        return []
    run = last.dagster_run
    events = on.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    return sorted({str(event.step_key) for event in events}) or [run.status.value.lower()]


def _storage_figures(on: dg.DagsterInstance, run_id: str) -> dict[str, float]:
    """What a maintenance told of all tables, summed up."""
    total: dict[str, float] = {"tables": 0}
    for entry in on.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_OBSERVATION):
        if observed := entry.asset_observation:
            total["tables"] += 1
            for name, of in observed.metadata.items():
                if isinstance(of.value, int | float):
                    total[name] = total.get(name, 0) + of.value
    return total


def _last_look(on: dg.DagsterInstance) -> datetime | None:
    """When the sensor that decides has looked last and did not fail; None if it never has."""
    states = on.all_instigator_state(instigator_type=InstigatorType.SENSOR) if on.schedule_storage else ()
    looks = [
        state.instigator_data.last_tick_success_timestamp or 0.0
        for state in states
        if state.name == CATCH_UP_SENSOR and isinstance(state.instigator_data, SensorInstigatorData)
    ]
    return datetime.fromtimestamp(max(looks), UTC) if any(looks) else None


def _last_run(on: dg.DagsterInstance, statuses: Collection[dg.DagsterRunStatus]) -> dg.RunRecord | None:
    asked = dg.RunsFilter(job_name=MAINTENANCE, statuses=list(statuses))
    return next(iter(on.get_run_records(asked, limit=1)), None)


def _last_told(on: dg.DagsterInstance, key: dg.AssetKey) -> tuple[datetime, Mapping[str, object]] | None:
    """When Dagster was told last of an asset, and what."""
    event = on.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        return None
    return datetime.fromtimestamp(event.timestamp, UTC), event.asset_materialization.metadata


def _freshness(at: datetime | None, within: timedelta, now: datetime) -> FreshnessState:
    if at is None:
        return FreshnessState.UNKNOWN
    return FreshnessState.PASS if now - at <= within else FreshnessState.FAIL


def _run_link(record: dg.RunRecord) -> dg.DagsterRunMetadataValue:
    return dg.MetadataValue.dagster_run(record.dagster_run.run_id)


def _described(incident: Incident, known: Known) -> dict[str, object]:
    state, next_try = state_of(incident, known)
    return {
        "table": incident.table,
        "class": incident.kind.value,
        "state": state,
        "since": _time(incident.began),
        "tries": len(incident.tries),
        "next try": _time(next_try) if next_try else "",
        "incident": incident.id,
        "run": incident.run_id,
    }


def _as_table(rows: Sequence[Mapping[str, object]]) -> RawMetadataValue:
    if not rows:
        return "none"
    return dg.MetadataValue.md(markdown_table(list(rows[0]), [list(row.values()) for row in rows]))


def _resume(table: str) -> str:
    return f"medallion incidents resume {table}"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}Z"
