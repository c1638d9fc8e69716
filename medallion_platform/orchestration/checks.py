"""Dagster's asset checks of a table; their results come from `queries.findings`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import dagster as dg

from medallion_platform.contracts.contract import Contract, IsType, Severity
from medallion_platform.contracts.expectations_in_words import expectation_sentence
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration.names import INCIDENTS, asset_key
from medallion_platform.pipeline.table import Table
from medallion_platform.queries import findings
from medallion_platform.queries.drift import Drift

CONSERVED = "rows_are_conserved"
CONTRACT = "contract_holds"
CURRENT = "made_by_current_code"
INPUTS = "inputs_have_landed"
PUBLISHED = "newest_version_is_online"
DRIFT = "rows_as_usual"
SURGE = "dead_letters_as_usual"
REFRESHED = "refresh_succeeds"
PERSONAL = "personal_data_is_declared"


def check_specs(
    asset: dg.AssetKey, contract: Contract, *, blocking: bool, drifts: bool
) -> list[dg.AssetCheckSpec]:
    """The checks that are derived from the counts of each write."""
    specs = [
        dg.AssetCheckSpec(
            CONSERVED,
            asset=asset,
            blocking=blocking,
            description="Of the last write that did something, rows read equal rows written, dead-lettered, "
            "duplicate and superseded.",
        ),
        dg.AssetCheckSpec(
            CONTRACT,
            asset=asset,
            description=f"Of the last write that did something, no more than {contract.tolerated_share:.0%} "
            "of the rows were rejected, or warned about by one expectation.\n\n"
            + _contract_in_words(contract),
        ),
        dg.AssetCheckSpec(
            SURGE,
            asset=asset,
            description=f"Rejected rows are no more than {findings.SURGE_SHARE:.0%} of a write, or than "
            f"{findings.SURGE_TIMES} times their usual share.",
        ),
    ]
    if drifts:
        specs.append(
            dg.AssetCheckSpec(
                DRIFT,
                asset=asset,
                description="Rows per partition lie within two standard deviations of the "
                "trailing thirty partitions.",
            )
        )
    return specs


def _contract_in_words(contract: Contract) -> str:
    """The contract in words, one expectation per line; the types are shown with the columns."""
    expectations = [e for e in contract.expectations if not isinstance(e.test, IsType)]
    return "\n".join(f"- `{expectation_sentence(e)}` ({e.severity.value})" for e in expectations)


def current_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check that fails when a table's code or contract changed."""
    return dg.AssetCheckSpec(
        CURRENT,
        asset=asset,
        description="Every partition was made by the current transform and contract.",
    )


def refreshed_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check that fails when a refresh failed, and says what happens next."""
    return dg.AssetCheckSpec(
        REFRESHED, asset=asset, description="The last attempt to refresh this did not fail."
    )


def refreshed_result(table: str, **described: str) -> dg.AssetCheckResult:
    """A table was brought up to date; described: the incident that ended so."""
    return dg.AssetCheckResult(
        asset_key=asset_key(table), check_name=REFRESHED, passed=True, metadata=_with_ledger(described)
    )


def not_refreshed_result(table: str, why: str, next_step: str = "", **described: str) -> dg.AssetCheckResult:
    """A table could not be brought up to date; next_step: what happens now, and what to do."""
    return dg.AssetCheckResult(
        asset_key=asset_key(table),
        check_name=REFRESHED,
        passed=False,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            "why": why,
            "what_next": next_step or "A moment later this says when it is tried again.",
            **_with_ledger(described),
        },
    )


def _with_ledger(described: Mapping[str, str]) -> dict[str, Any]:
    """What is said of an incident, with a link to all of them."""
    return {**described, "all_incidents": dg.MetadataValue.asset(INCIDENTS)} if described else {}


def personal_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check that fails when values look personal in a column that is not declared so."""
    return dg.AssetCheckSpec(
        PERSONAL,
        asset=asset,
        description=f"In the newest {findings.WRITES} writes, no value looks like an e-mail address or a "
        "phone number in a column that the contract does not declare as personal data.",
    )


def published_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check that fails if a consumer has an older version than the newest one."""
    return dg.AssetCheckSpec(
        PUBLISHED, asset=asset, description="The online store has the newest version of the gold table."
    )


def published_result(asset: dg.AssetKey, version: int, newest: int) -> dg.AssetCheckResult:
    """Whether the published version is the newest one."""
    return dg.AssetCheckResult(
        check_name=PUBLISHED,
        asset_key=asset,
        passed=version == newest,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"published_version": version, "newest_version": newest},
    )


def inputs_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check that fails if a table waits for another input that has no rows yet."""
    return dg.AssetCheckSpec(
        INPUTS,
        asset=asset,
        description="All inputs of this table exist, or none does.",
    )


def inputs_result(table: str, waits_for: Sequence[str]) -> dg.AssetCheckResult:
    """Whether a table waits for inputs without rows, and for which ones."""
    metadata = {
        "waits_for": ", ".join(waits_for),
        "what_to_do": "Once they land, the tables are made automatically.",
    }
    return dg.AssetCheckResult(
        check_name=INPUTS,
        asset_key=asset_key(table),
        passed=not waits_for,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=metadata if waits_for else {},
    )


def check_results(
    lake: Lake, table: str, contract: Contract, partition_column: str | None = None
) -> list[dg.AssetCheckResult]:
    """The results of `check_specs`, from the state of the table alone."""
    writes = findings.writes(lake, table)
    counts = findings.last_write_counts(writes)
    results = [
        dg.AssetCheckResult(
            check_name=CONSERVED,
            asset_key=asset_key(table),
            passed=counts.missing == 0,
            metadata={**counts.as_dict(), "missing": counts.missing},
        ),
        contract_result(table, findings.contract_health(lake, table, contract, writes)),
        surge_result(table, findings.rejection_surge(writes)),
    ]
    if partition_column:
        results.append(
            drift_result(table, findings.drifted_partitions(lake, table, partition_column, writes))
        )
    return results


def contract_result(table: str, health: findings.ContractHealth) -> dg.AssetCheckResult:
    """Whether bad rows are as few as the contract tolerates; the numbers in any case."""
    broken = {
        f"last write, {severity.value}: {name}": n
        for severity, found in ((Severity.REJECT, health.rejected), (Severity.WARN, health.warned))
        for name, n in found.items()
    }
    return dg.AssetCheckResult(
        check_name=CONTRACT,
        asset_key=asset_key(table),
        passed=health.holds,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "share_of_the_last_write": round(health.worst_share, 6),
            "tolerated_share": health.tolerated_share,
            "rows_of_the_last_write": health.read,
            **broken,
            "dead_letters_now": health.dead_letters,
            "rows_now": health.rows,
            "look": _where_to_look(table),
        },
    )


def surge_result(table: str, found: findings.Surge) -> dg.AssetCheckResult:
    """Whether the last write rejected unusually many rows, and which expectations they violated."""
    return dg.AssetCheckResult(
        asset_key=asset_key(table),
        check_name=SURGE,
        passed=not found.surges,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "dead_lettered": found.rejected,
            "share": found.share,
            "usual_share": found.usual_share,
            "violations": dg.MetadataValue.json(dict(found.violations)),
            "look": _where_to_look(table),
        },
    )


def drift_result(table: str, unusual: Mapping[str, Drift]) -> dg.AssetCheckResult:
    """Which partitions of the last write have unusually many or few rows."""
    return dg.AssetCheckResult(
        check_name=DRIFT,
        asset_key=asset_key(table),
        passed=not unusual,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            partition: f"{found.value:.0f} rows, usually {found.usual:.0f} "
            f"({found.deviations:.1f} standard deviations)"
            for partition, found in unusual.items()
        },
    )


def current_result(
    lake: Lake, table: Table, partition_columns: Mapping[str, str | None]
) -> dg.AssetCheckResult:
    """Whether any partition was made by a former transform or contract, and what to do then."""
    stale = findings.former_code(lake, table, partition_columns)
    metadata: dict[str, Any] = {"partitions_of_former_code": len(stale)}
    if stale:
        metadata["what_to_do"] = (
            f"Materialize {_partitions_in_words(table, stale)}: one backfill; intake may run meanwhile."
        )
    return dg.AssetCheckResult(
        check_name=CURRENT,
        asset_key=asset_key(table.name),
        passed=not stale,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=metadata,
    )


def personal_result(lake: Lake, table: str, contract: Contract) -> dg.AssetCheckResult:
    """The columns that seem to have undeclared personal data, with the number of values and what to do."""
    found = findings.looks_personal(contract, findings.writes(lake, table))
    metadata: dict[str, Any] = dict(found)
    if found:
        metadata["what_to_do"] = (
            'They flow on as they came. Declare the column as personal, pii="email", or let the tables '
            "behind it leave it out."
        )
    return dg.AssetCheckResult(
        asset_key=asset_key(table),
        check_name=PERSONAL,
        passed=not found,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=metadata,
    )


def _where_to_look(table: str) -> str:
    return f"medallion dead-letters show {table}"


def _partitions_in_words(table: Table, partitions: Sequence[str]) -> str:
    if table.partition is None:
        return "the table"
    return (
        f"partitions {partitions[0]} to {partitions[-1]}"
        if len(partitions) > 1
        else f"partition {partitions[0]}"
    )


def check_evaluation(result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """A result as an event of its own, for writes that were not made by a Dagster asset."""
    assert result.asset_key and result.check_name
    return dg.AssetCheckEvaluation(
        result.asset_key, result.check_name, result.passed, result.metadata, severity=result.severity
    )


def last_check_results(
    on: dg.DagsterInstance, tables: Collection[str], check: str
) -> dict[str, dg.AssetCheckEvaluation]:
    """The last result of a check by table, in one query for all tables."""
    names = {dg.AssetCheckKey(asset_key(table), check): table for table in tables}
    return {names[key]: result for key, result in last_evaluations(on, names).items()}


def last_evaluations(
    on: dg.DagsterInstance, keys: Collection[dg.AssetCheckKey]
) -> dict[dg.AssetCheckKey, dg.AssetCheckEvaluation]:
    """The last results of checks, in one query."""
    records = on.event_log_storage.get_latest_asset_check_execution_by_key(list(keys))
    events = {key: record.event and record.event.dagster_event for key, record in records.items()}
    return {key: event.asset_check_evaluation_data for key, event in events.items() if event}
