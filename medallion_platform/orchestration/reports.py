"""Tables and their commits as Dagster metadata and events. Nothing is counted twice."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
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

from medallion_platform.contracts.contract import Contract, IsType, NotNull
from medallion_platform.contracts.words import in_words
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration.checks import check_results, current_result, evaluation, personal_result
from medallion_platform.orchestration.names import key_of
from medallion_platform.pipeline.refresh.lineage import Lineage
from medallion_platform.pipeline.refresh.plan import code_version
from medallion_platform.queries.findings import repeated_files, rows_by_partition
from medallion_platform.queries.preview import preview

if TYPE_CHECKING:
    import polars as pl

    from medallion_platform.pipeline.features import Features
    from medallion_platform.pipeline.intake.result import IntakeResult
    from medallion_platform.pipeline.publish import PublishResult
    from medallion_platform.pipeline.refresh.commit import RefreshResult
    from medallion_platform.pipeline.table import Table
    from medallion_platform.sources.source import Source

_NOTHING = "nothing to do"
PREVIEW = 5
"""Rows that a materialization shows."""


def feature_columns(view: Features) -> dg.TableSchema:
    """Keys and features of a view."""
    return dg.TableSchema(
        [
            dg.TableColumn(c.name, str(c.type), description=c.description or None)
            for c in (*view.keys, *view.columns)
        ]
    )


def metadata(
    lake: Lake,
    contract: Contract,
    table: str,
    version: int,
    record: CommitRecord | None,
    reason: str,
    source: Source | None = None,
) -> dict[str, Any]:
    """What an asset's materialization says of itself: the table as it is now, and what this run did to it.

    source: of a bronze table. `run_...` is of the run as a whole; a run that did nothing has none.
    """
    found: dict[str, Any] = {
        "dagster/row_count": lake.rows(table),
        "dagster/uri": lake.path(table),
        "delta_version": version,
        "what_was_done": reason if record else f"{_NOTHING}: {reason}",
        "dead_letters_now": dead_letters.count(lake, table),
        "preview": dg.MetadataValue.md(as_markdown(preview(lake, contract, table, PREVIEW))),
    }
    if source:
        found["repeated_files_now"] = repeated_files(lake, source)
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
class PartitionReport:
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
) -> PartitionReport:
    """What is told of a table's partitions after a run, or of how they stand without one."""
    return PartitionReport(
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
    told = metadata(lake, source.contract, source.table, taken.version, taken.record, reason, source)
    told[pieces] = taken.pieces
    if not taken.counts.written:
        yield dg.AssetObservation(key_of(source.table), metadata=told)
        yield from map(evaluation, check_results(lake, source.table, source.contract))
        return
    if source.partition:
        of = of_partitions(lake, source.table, source.partition, taken.version, reason, taken.record)
        yield from of.events(source.table, told, untold)
    else:
        yield dg.AssetMaterialization(key_of(source.table), metadata=told)
    # Of this run and after what they validate: the UI shows older results as "not evaluated".
    yield from map(evaluation, check_results(lake, source.table, source.contract))
    yield evaluation(personal_result(lake, source.table, source.contract))


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
    results = check_results(lake, table.name, table.contract, partition_columns[table.name])
    yield from map(evaluation, [*results, current_result(lake, table, partition_columns)])


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
                    in_words(e)
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
