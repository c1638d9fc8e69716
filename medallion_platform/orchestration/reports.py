"""A commit's record in Dagster's words: metadata and check results. Nothing is counted twice."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    DEFAULT_DATA_VERSION,
    NULL_EVENT_POINTER,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

from medallion_platform.contracts.contract import (
    Compare,
    Contract,
    Expectation,
    IsType,
    Length,
    Matches,
    NotNull,
    OneOf,
    Severity,
    Unique,
)
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import Counts, summed
from medallion_platform.lakehouse.lake import Lake, files_of
from medallion_platform.orchestration.names import key_of
from medallion_platform.pipeline.refresh.changes import of_other_code
from medallion_platform.pipeline.refresh.lineage import Lineage
from medallion_platform.pipeline.refresh.plan import code_version
from medallion_platform.pipeline.status.drift import drift
from medallion_platform.pipeline.status.preview import preview

if TYPE_CHECKING:
    import polars as pl

    from medallion_platform.pipeline.intake.polars_engine import IntakeResult
    from medallion_platform.pipeline.publish import PublishResult
    from medallion_platform.pipeline.refresh.commit import RefreshResult
    from medallion_platform.pipeline.table import Table
    from medallion_platform.serving.features import Features
    from medallion_platform.sources.source import Source

CONSERVED = "rows_are_conserved"
CONTRACT = "contract_holds"
CURRENT = "made_by_current_code"
INPUTS = "inputs_have_landed"
PUBLISHED = "newest_version_is_online"
DRIFT = "rows_as_usual"
SURGE = "dead_letters_as_usual"
REFRESHED = "refresh_succeeds"
PERSONAL = "personal_data_is_declared"
_NOTHING = "nothing to do"
PREVIEW = 5
"""Rows that a materialization shows."""

_WRITES = 31
"""A table's newest write and the thirty before it."""
_HELD_SHARE = 0.05
"""The share of bad rows from which on a contract is said not to hold."""
_SURGE_ROWS = 10
_SURGE_SHARE = 0.05
_SURGE_TIMES = 3


def check_specs(asset: dg.AssetKey, *, blocking: bool, drifts: bool) -> list[dg.AssetCheckSpec]:
    """The checks that come out of every write's own counts."""
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
            description=f"No more than {_HELD_SHARE:.0%} of the table's rows are dead letters now, and no "
            "more of the last write that did something were warned about by one expectation.",
        ),
        dg.AssetCheckSpec(
            SURGE,
            asset=asset,
            description=f"Rejected rows are no more than {_SURGE_SHARE:.0%} of a write, or than "
            f"{_SURGE_TIMES} times their usual share.",
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


def current_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check that fails when a table's code or contract changed."""
    return dg.AssetCheckSpec(
        CURRENT,
        asset=asset,
        description="The transform and the contract, as they are now, made every partition.",
    )


def refreshed_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check that fails when a refresh did, and says what happens next."""
    return dg.AssetCheckSpec(
        REFRESHED, asset=asset, description="What was last tried to bring this up to date did not fail."
    )


def refreshed(table: str) -> dg.AssetCheckResult:
    """A table was brought up to date."""
    return dg.AssetCheckResult(asset_key=key_of(table), check_name=REFRESHED, passed=True)


def not_refreshed(table: str, why: str, next_step: str = "") -> dg.AssetCheckResult:
    """A table could not be brought up to date; next_step: what happens now, and what to do."""
    return dg.AssetCheckResult(
        asset_key=key_of(table),
        check_name=REFRESHED,
        passed=False,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            "why": why,
            "what_next": next_step or "It is tried again by itself, a few times, later each time.",
        },
    )


def personal_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check that fails when values look personal in a column that is not declared so."""
    return dg.AssetCheckSpec(
        PERSONAL,
        asset=asset,
        description=f"In the newest {_WRITES} writes, no value looks like an e-mail address or a phone "
        "number in a column that the contract does not declare as personal data.",
    )


def published_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check that fails where a consumer was handed an older version than there is."""
    return dg.AssetCheckSpec(
        PUBLISHED, asset=asset, description="What is online is the newest version of the gold table."
    )


def published(asset: dg.AssetKey, version: int, newest: int) -> dg.AssetCheckResult:
    """Whether the published version is the newest one."""
    return dg.AssetCheckResult(
        check_name=PUBLISHED,
        asset_key=asset,
        passed=version == newest,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"published_version": version, "newest_version": newest},
    )


def feature_columns(view: Features) -> dg.TableSchema:
    """Keys and features of a view."""
    return dg.TableSchema(
        [
            dg.TableColumn(c.name, str(c.type), description=c.description or None)
            for c in (*view.keys, *view.columns)
        ]
    )


def inputs_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check that fails where rows wait for another input, which has none."""
    return dg.AssetCheckSpec(
        INPUTS,
        asset=asset,
        description="Every table that this one is made from has landed, or none has.",
    )


def inputs(table: str, waits_for: Sequence[str]) -> dg.AssetCheckResult:
    """Whether a table waits for inputs in which nothing has landed, and for which."""
    told = {"waits_for": ", ".join(waits_for), "what_to_do": "Land them; what waits goes on by itself."}
    return dg.AssetCheckResult(
        check_name=INPUTS,
        asset_key=key_of(table),
        passed=not waits_for,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=told if waits_for else {},
    )


def metadata(
    lake: Lake, contract: Contract, table: str, version: int, record: CommitRecord | None, reason: str
) -> dict[str, Any]:
    """What an asset's materialization says of itself: the table as it is now, and what this run did to it.

    `run_...` is of the run as a whole; a run that did nothing has none.
    """
    found: dict[str, Any] = {
        "dagster/row_count": lake.rows(table),
        "dagster/uri": lake.path(table),
        "delta_version": version,
        "what_was_done": reason if record else f"{_NOTHING}: {reason}",
        "dead_letters_now": dead_letters.count(lake, table),
        "preview": dg.MetadataValue.md(as_markdown(preview(lake, contract, table, PREVIEW))),
    }
    if record:
        found |= {f"run_rows_{name}": n for name, n in record.counts.as_dict().items()}
        found["run_seconds"] = record.seconds
        if record.repeated_files:
            found["run_files_repeated"] = record.repeated_files
        if record.further:
            found["run_rows_with_further_fields"] = record.further
        if record.source_row_count is not None:
            found["run_rows_of_the_source"] = record.source_row_count
        if record.violations:
            found["run_violations"] = dg.MetadataValue.json(record.violations)
        if record.warnings:
            found["run_warnings"] = dg.MetadataValue.json(record.warnings)
        if record.masked:
            found["run_values_masked"] = dg.MetadataValue.json(record.masked)
        if record.notes:
            found["notes"] = dg.MetadataValue.md("\n".join(f"- {n}" for n in record.notes))
    return found


@dataclass(frozen=True)
class OfPartitions:
    """What the partitions' own events say: their rows, and what the run did to them.

    rows: of every partition now. written: by the run, in the partitions that it made. reason: what the run
    did, "" where there was none.
    """

    version: int
    reason: str
    rows: Mapping[str, int]
    written: Mapping[str, int]

    def told(self, partition: str) -> dict[str, Any]:
        """The metadata of one partition's event."""
        rows = self.rows.get(partition, 0)
        concerned = partition in self.written or not self.written
        table_state = f"{_NOTHING}: {'it is up to date' if rows else 'it has no rows'}"
        return {
            "delta_version": self.version,
            "what_was_done": (self.reason if concerned else "") or table_state,
            "dagster/partition_row_count": rows,
            "partition_rows_written": self.written.get(partition, 0),
        }

    def events(
        self,
        table: str,
        told: Mapping[str, Any],
        untold: Collection[str] = (),
        tags: Mapping[str, str] | None = None,
    ) -> Iterator[dg.AssetMaterialization]:
        """An event for each partition that was made or is `untold`; the last one tells of the table, too.

        Whoever opens the table's page sees the last event's metadata.
        """
        names = [*sorted(set(untold) - self.written.keys()), *sorted(self.written)]
        for name in names:
            own = {**self.told(name), **(told if name == names[-1] else {})}
            yield dg.AssetMaterialization(key_of(table), partition=name, metadata=own, tags=tags)


def of_partitions(
    lake: Lake,
    table: str,
    partition_column: str,
    version: int,
    reason: str = "",
    record: CommitRecord | None = None,
) -> OfPartitions:
    """What is told of a table's partitions after a run, or of how they stand without one."""
    return OfPartitions(
        version, reason, rows_by_partition(lake, table, partition_column), record.partitions if record else {}
    )


def taken_in_words(taken: IntakeResult, pieces: str) -> str:
    """What an intake did; pieces: what its `pieces` are."""
    return f"{taken.counts.read} records from {taken.pieces} {pieces}"


def intake_events(
    lake: Lake, source: Source, taken: IntakeResult, pieces: str, untold: Collection[str] = ()
) -> Iterator[dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation]:
    """What an intake tells of its bronze table: each partition that got rows, then the checks.

    untold: partitions of which Dagster was never told. Where no row was written nothing is materialized:
    it is an observation, which makes nothing look newer.
    """
    reason = taken_in_words(taken, pieces)
    told = metadata(lake, source.contract, source.table, taken.version, taken.record, reason)
    told[pieces] = taken.pieces
    if not taken.counts.written:
        yield dg.AssetObservation(key_of(source.table), metadata=told)
        yield from map(evaluation, check_results(lake, source.table))
        return
    if source.partition:
        of = of_partitions(lake, source.table, source.partition, taken.version, reason, taken.record)
        yield from of.events(source.table, told, untold)
    else:
        yield dg.AssetMaterialization(key_of(source.table), metadata=told)
    # Of this run and after what they validate: the UI shows older results as "not evaluated".
    yield from map(evaluation, check_results(lake, source.table))
    yield evaluation(personal(lake, source.table, source.contract))


def refresh_events(
    lake: Lake,
    table: Table,
    done: RefreshResult,
    partition_columns: Mapping[str, str | None],
    provenance: Mapping[str, str],
    untold: Collection[str] = (),
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """What a refresh that wrote tells of its table: each partition that it made, then the checks.

    untold: partitions that are up to date as well, and of which Dagster was never told.
    """
    assert done.record is not None
    told = metadata(lake, table.contract, table.name, done.version, done.record, done.reason)
    told |= column_lineage(done.lineage)
    tags = versions(table, done.version, provenance)
    if table.partition:
        of = of_partitions(lake, table.name, table.partition.column, done.version, done.reason, done.record)
        yield from of.events(table.name, told, untold, tags)
    else:
        yield dg.AssetMaterialization(key_of(table.name), metadata=told, tags=tags)
    results = check_results(lake, table.name, partition_columns[table.name])
    yield from map(evaluation, [*results, current(lake, table, partition_columns)])


def versions(table: Table, version: int, provenance: Mapping[str, str]) -> dict[str, str]:
    """The tags by which Dagster tells what is stale."""
    return {**provenance, DATA_VERSION_TAG: str(version), CODE_VERSION_TAG: code_of(table)}


def provenance(on: dg.DagsterInstance, table: Table) -> dict[str, str]:
    """The upstream tables' newest events, in the tags by which Dagster tells what is stale."""
    found: dict[str, str] = {}
    for name in table.upstream_names:
        key = key_of(name)
        record = on.get_latest_data_version_record(key)
        version = extract_data_version_from_entry(record.event_log_entry) if record else None
        found[get_input_data_version_tag(key)] = (version or DEFAULT_DATA_VERSION).value
        found[get_input_event_pointer_tag(key)] = str(record.storage_id) if record else NULL_EVENT_POINTER
    return found


def published_metadata(done: PublishResult) -> dict[str, Any]:
    """What a publish says of itself."""
    return {
        "published_version": done.edition.version,
        "run_rows_written": done.written,
        "what_was_done": done.reason,
    }


def code_of(table: Table) -> str:
    """What made a table, as Dagster shows it."""
    return f"{code_version(table):012x}"


def as_markdown(rows: pl.DataFrame | None) -> str:
    """A few rows as a markdown table."""
    if rows is None:
        return "no rows yet"
    lines = ["| " + " | ".join(rows.columns) + " |", "|" + "---|" * rows.width]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows.iter_rows()]
    return "\n".join(lines)


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    text = text if len(text) <= 60 else text[:59] + "\N{HORIZONTAL ELLIPSIS}"
    return text.replace("|", "\\|").replace("\n", " ").replace("\r", " ")


def column_lineage(found: Lineage) -> dict[str, Any]:
    """The upstream columns of each column, in Dagster's words."""
    if not found:
        return {}
    deps = {
        column: [dg.TableColumnDep(key_of(table), name) for table, name in origins]
        for column, origins in found.items()
    }
    return {"dagster/column_lineage": dg.TableColumnLineage(deps)}


def code_reference(transform: Callable[..., object]) -> dict[str, Any]:
    """Where the transform stands, so that the UI can open it."""
    file = inspect.getsourcefile(transform)
    if file is None:
        return {}
    line = transform.__code__.co_firstlineno
    found = dg.LocalFileCodeReference(file_path=file, line_number=line, label=transform.__name__)
    return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[found])}


_COMPARED = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "eq": "is", "ne": "is not"}


def in_words(expectation: Expectation, column: str) -> str:
    """What an expectation asks of a column, short enough for a chip beside it."""
    match expectation.test:
        case Compare(op, value) if op in _COMPARED:
            return f"{_COMPARED[op]} {value}"
        case Length(least, most):
            return " and ".join(
                f"{word} {n} characters"
                for word, n in (("at least", least), ("at most", most))
                if n is not None
            )
        case Matches():
            return "has the form of its pattern"
        case OneOf(values):
            return f"one of {len(values)} values"
        case Unique():
            return "unique" if len(expectation.columns) == 1 else "unique with the rest of the key"
        case _:
            return expectation.name.removeprefix(f"{column}: ")


def definition_metadata(lake: Lake, table: str, contract: Contract) -> dict[str, Any]:
    """What is known of a table before it was ever written: columns, constraints, place."""
    columns = [
        dg.TableColumn(
            c.name,
            str(c.type),
            description=c.description or None,
            constraints=dg.TableColumnConstraints(
                nullable=c.nullable,
                # The type and null are told beside it.
                other=[
                    in_words(e, c.name)
                    for e in contract.expectations
                    if c.name in e.columns and not isinstance(e.test, IsType | NotNull)
                ],
            ),
            tags={"pii": c.pii} if c.pii else {},
        )
        for c in contract.columns
    ]
    return {
        "dagster/column_schema": dg.TableSchema(columns),
        "dagster/table_name": table,
        "dagster/uri": lake.path(table),
    }


def check_results(lake: Lake, table: str, partition_column: str | None = None) -> list[dg.AssetCheckResult]:
    """The results of `check_specs`, from the state of the table: who looks makes no difference."""
    record = last_write(lake, table)
    counts = record.counts if record else Counts()
    results = [
        dg.AssetCheckResult(
            check_name=CONSERVED,
            asset_key=key_of(table),
            passed=counts.missing == 0,
            metadata={**counts.as_dict(), "missing": counts.missing},
        ),
        _contract_result(lake, table, record),
        surge(lake, table),
    ]
    if partition_column:
        results.append(_drift_result(lake, table, partition_column, record))
    return results


def last_write(lake: Lake, table: str) -> CommitRecord | None:
    """The account of the newest write that did something to the table's rows."""
    return next((r for _, r in lake.records(table, _WRITES) if r.counts.read), None)


def _contract_result(lake: Lake, table: str, last: CommitRecord | None) -> dg.AssetCheckResult:
    """Whether bad rows are few: dead letters among all rows, warnings of the last write."""
    dead, rows = dead_letters.count(lake, table), lake.rows(table)
    share = dead / (dead + rows) if dead else 0.0
    violations, warnings = (last.violations, last.warnings) if last else ({}, {})
    warned = max(warnings.values(), default=0) / max(1, last.counts.read if last else 1)
    return dg.AssetCheckResult(
        check_name=CONTRACT,
        asset_key=key_of(table),
        passed=max(share, warned) <= _HELD_SHARE,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "dead_letters_now": dead,
            "share_of_all_rows": round(share, 6),
            **{f"last write, {Severity.REJECT.value}: {k}": v for k, v in violations.items()},
            **{f"last write, {Severity.WARN.value}: {k}": v for k, v in warnings.items()},
            "look": f"medallion dead-letters show {table}",
        },
    )


def evaluation(result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """A result as an event of its own, for what no asset of Dagster's wrote or who looks at it later."""
    assert result.asset_key and result.check_name
    return dg.AssetCheckEvaluation(
        result.asset_key, result.check_name, result.passed, result.metadata, severity=result.severity
    )


def surge(lake: Lake, table: str) -> dg.AssetCheckResult:
    """Whether the newest write that did something rejected unusually many rows, and what they broke."""
    newest_first = [r for _, r in lake.records(table, _WRITES) if r.counts.read]
    shares = [r.counts.dead_lettered / r.counts.read for r in newest_first]
    rejected = newest_first[0].counts.dead_lettered if newest_first else 0
    usual = median(shares[1:]) if len(shares) > 1 else 0.0
    share = shares[0] if shares else 0.0
    surges = rejected >= _SURGE_ROWS and share > max(_SURGE_SHARE, _SURGE_TIMES * usual)
    return dg.AssetCheckResult(
        asset_key=key_of(table),
        check_name=SURGE,
        passed=not surges,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "dead_lettered": rejected,
            "share": share,
            "usual_share": usual,
            "violations": dg.MetadataValue.json(newest_first[0].violations if newest_first else {}),
            "look": f"medallion dead-letters show {table}",
        },
    )


def current(lake: Lake, table: Table, partition_columns: Mapping[str, str | None]) -> dg.AssetCheckResult:
    """Whether any partition was made by a former transform or contract, and what to do then."""
    stale = sorted(of_other_code(table, lake, partition_columns))
    told: dict[str, Any] = {"partitions_of_former_code": len(stale)}
    if stale:
        told["what_to_do"] = f"Materialize {_said(table, stale)}: one backfill, intake may go on beside it."
    return dg.AssetCheckResult(
        check_name=CURRENT,
        asset_key=key_of(table.name),
        passed=not stale,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=told,
    )


def personal(lake: Lake, table: str, contract: Contract) -> dg.AssetCheckResult:
    """Where personal data seems to be that nobody declared, with the number of values, and what to do."""
    found = summed(record.looks_personal for _, record in lake.records(table, _WRITES))
    told: dict[str, Any] = {column: n for column, n in found.items() if column not in contract.pii}
    clear = bool(told)
    if clear:
        told["what_to_do"] = (
            'They flow on as they came. Declare the column as personal, pii="email", or let the tables '
            "behind it leave it out."
        )
    return dg.AssetCheckResult(
        asset_key=key_of(table),
        check_name=PERSONAL,
        passed=not clear,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=told,
    )


def _said(table: Table, partitions: Sequence[str]) -> str:
    if table.partition is None:
        return "the table"
    return (
        f"partitions {partitions[0]} to {partitions[-1]}"
        if len(partitions) > 1
        else f"partition {partitions[0]}"
    )


def rows_by_partition(lake: Lake, table: str, partition_column: str) -> dict[str, int]:
    """Rows of each partition now, by the log's statistics, in order of the partition."""
    found = lake.open(table)
    rows: dict[str, int] = {}
    for file in files_of(found) if found else ():
        partition = str(file.get(f"partition.{partition_column}"))
        rows[partition] = rows.get(partition, 0) + file["num_records"]
    return dict(sorted(rows.items()))


def unusual_partitions(rows: Mapping[str, int], partitions: Iterable[str]) -> dict[str, str]:
    """Of `partitions`, those whose row count drifted from the partitions before them, and how far."""
    names = list(rows)
    found = {}
    for partition in sorted(set(partitions) & set(names)):
        before = [rows[u] for u in names[: names.index(partition)]]
        result = drift(before, rows[partition])
        if result.drifted:
            found[partition] = (
                f"{rows[partition]} rows, usually {result.usual:.0f} "
                f"({result.deviations:.1f} standard deviations)"
            )
    return found


def _drift_result(
    lake: Lake, table: str, partition_column: str, record: CommitRecord | None
) -> dg.AssetCheckResult:
    unusual = unusual_partitions(
        rows_by_partition(lake, table, partition_column), record.partitions if record else ()
    )
    return dg.AssetCheckResult(
        check_name=DRIFT,
        asset_key=key_of(table),
        passed=not unusual,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=dict(unusual),
    )
