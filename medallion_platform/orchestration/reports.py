"""Tables and their commits as Dagster metadata and events. Nothing is counted twice."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from dagster._core.definitions.metadata import RawMetadataValue

from medallion_platform.contracts.contract import Contract, IsType, NotNull
from medallion_platform.contracts.expectations_in_words import rule_in_words
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import counted
from medallion_platform.lakehouse.damaged_files import DamagedFile, report_damage
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration.checks import (
    check_evaluation,
    check_results,
    current_result,
    personal_result,
)
from medallion_platform.orchestration.names import asset_key
from medallion_platform.pipeline.refresh.lineage import Lineage
from medallion_platform.pipeline.refresh.plan import code_version
from medallion_platform.queries.findings import repeated_files, rows_by_partition
from medallion_platform.queries.preview import preview_rows

if TYPE_CHECKING:
    import polars as pl

    from medallion_platform.pipeline.features import Features
    from medallion_platform.pipeline.intake.result import IntakeResult
    from medallion_platform.pipeline.publish import PublishResult
    from medallion_platform.pipeline.refresh.commit import RefreshResult
    from medallion_platform.pipeline.table import Table
    from medallion_platform.sources.source import Source

Metadata = dict[str, RawMetadataValue]
"""The metadata of an event in Dagster, by name."""

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


def table_metadata(
    lake: Lake,
    contract: Contract,
    table: str,
    version: int,
    record: CommitRecord | None,
    reason: str,
    source: Source | None = None,
) -> Metadata:
    """The metadata of a materialization: the current table, and what this run did to it.

    source: of a bronze table. `run_...` describes the whole run; a run that did nothing has none.
    """
    found: Metadata = {
        "dagster/row_count": lake.rows(table),
        "dagster/uri": lake.path(table),
        "delta_version": version,
        "what_was_done": reason if record else f"{_NOTHING}: {reason}",
        "dead_letters_now": dead_letters.count(lake, table),
        "preview": dg.MetadataValue.md(_preview(lake, contract, table)),
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


def _preview(lake: Lake, contract: Contract, table: str) -> str:
    """Some rows as Markdown. What was written is told of, too, where a file of older rows is damaged."""
    try:
        with report_damage(lake, [table]):
            return rows_as_markdown(preview_rows(lake, contract, table, PREVIEW))
    except DamagedFile as damage:
        return f"none: the data file {damage.file} {damage.why}"


@dataclass(frozen=True)
class PartitionReport:
    """The content of the partitions' events: their rows, and what the run did to them.

    rows: current rows of every partition. written: rows written by the run in each of its partitions. reason:
    what the run did, "" without a run.
    """

    version: int
    reason: str
    rows: Mapping[str, int]
    written: Mapping[str, int]

    def metadata_of(self, partition: str) -> Metadata:
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
        metadata: Mapping[str, RawMetadataValue],
        missing: Collection[str] = (),
        tags: Mapping[str, str] | None = None,
    ) -> Iterator[dg.AssetMaterialization]:
        """An event for each written or `missing` partition; the last one also describes the table.

        The table's page shows the metadata of the last event.
        """
        names = [*sorted(set(missing) - self.written.keys()), *sorted(self.written)]
        for name in names:
            own = {**self.metadata_of(name), **(metadata if name == names[-1] else {})}
            yield dg.AssetMaterialization(asset_key(table), partition=name, metadata=own, tags=tags)


def partition_report(
    lake: Lake,
    table: str,
    partition_column: str,
    version: int,
    reason: str = "",
    record: CommitRecord | None = None,
) -> PartitionReport:
    """The report about a table's partitions after a run, or about their current state without a run."""
    return PartitionReport(
        version, reason, rows_by_partition(lake, table, partition_column), record.partitions if record else {}
    )


def intake_in_words(taken: IntakeResult, pieces: str) -> str:
    """What an intake did; pieces: what its `pieces` are."""
    return f"{counted(taken.counts.read, 'records')} from {counted(taken.pieces, pieces)}"


def intake_events(
    lake: Lake, source: Source, taken: IntakeResult, pieces: str, missing: Collection[str] = ()
) -> Iterator[dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation]:
    """The events of an intake: each partition of the bronze table with new rows, then the checks.

    missing: partitions that were never reported to Dagster. If no row was written, the event is an
    observation and not a materialization, so nothing looks newer than it is.
    """
    reason = intake_in_words(taken, pieces)
    metadata = table_metadata(
        lake, source.contract, source.table, taken.version, taken.record, reason, source
    )
    metadata[pieces] = taken.pieces
    if not taken.counts.written:
        yield dg.AssetObservation(asset_key(source.table), metadata=metadata)
        yield from map(check_evaluation, check_results(lake, source.table, source.contract))
        return
    if source.partition:
        of = partition_report(lake, source.table, source.partition, taken.version, reason, taken.record)
        yield from of.events(source.table, metadata, missing)
    else:
        yield dg.AssetMaterialization(asset_key(source.table), metadata=metadata)
    # Of this run and after what they validate: the UI shows older results as "not evaluated".
    yield from map(check_evaluation, check_results(lake, source.table, source.contract))
    yield check_evaluation(personal_result(lake, source.table, source.contract))


def refresh_events(
    lake: Lake,
    table: Table,
    done: RefreshResult,
    partition_columns: Mapping[str, str | None],
    provenance: Mapping[str, str],
    missing: Collection[str] = (),
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """The events of a refresh that wrote rows: each partition that it made, then the checks.

    missing: partitions that are up to date too, and were never reported to Dagster.
    """
    assert done.record is not None
    metadata = table_metadata(lake, table.contract, table.name, done.version, done.record, done.reason)
    metadata |= column_lineage(done.lineage)
    tags = data_version_tags(table, done.version, provenance)
    if table.partition:
        of = partition_report(
            lake, table.name, table.partition.column, done.version, done.reason, done.record
        )
        yield from of.events(table.name, metadata, missing, tags)
    else:
        yield dg.AssetMaterialization(asset_key(table.name), metadata=metadata, tags=tags)
    results = check_results(lake, table.name, table.contract, partition_columns[table.name])
    yield from map(check_evaluation, [*results, current_result(lake, table, partition_columns)])


def data_version_tags(table: Table, version: int, provenance: Mapping[str, str]) -> dict[str, str]:
    """The tags by which Dagster decides what is stale."""
    return {**provenance, DATA_VERSION_TAG: str(version), CODE_VERSION_TAG: code_version_text(table)}


def provenance(on: dg.DagsterInstance, table: Table) -> dict[str, str]:
    """The upstream tables' newest events, as the tags by which Dagster decides what is stale."""
    found: dict[str, str] = {}
    for name in table.upstream_names:
        key = asset_key(name)
        record = on.get_latest_data_version_record(key)
        version = extract_data_version_from_entry(record.event_log_entry) if record else None
        found[get_input_data_version_tag(key)] = (version or DEFAULT_DATA_VERSION).value
        found[get_input_event_pointer_tag(key)] = str(record.storage_id) if record else NULL_EVENT_POINTER
    return found


def published_metadata(done: PublishResult) -> Metadata:
    """The metadata of a publish."""
    return {
        "published_version": done.edition.version,
        "run_rows_written": done.written,
        "what_was_done": done.reason,
    }


def code_version_text(table: Table) -> str:
    """The version of the code that makes a table, as text for Dagster."""
    return f"{code_version(table):012x}"


def rows_as_markdown(rows: pl.DataFrame | None) -> str:
    """A few rows as a markdown table."""
    if rows is None:
        return "no rows yet"
    return markdown_table(rows.columns, rows.iter_rows())


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows as a markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(map(_markdown_cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def _markdown_cell(value: object) -> str:
    text = "" if value is None else str(value)
    text = text if len(text) <= 60 else text[:59] + "\N{HORIZONTAL ELLIPSIS}"
    return text.replace("|", "\\|").replace("\n", " ").replace("\r", " ")


def column_lineage(found: Lineage) -> Metadata:
    """The upstream columns of each column, in Dagster's words."""
    if not found:
        return {}
    deps = {
        column: [dg.TableColumnDep(asset_key(table), name) for table, name in origins]
        for column, origins in found.items()
    }
    return {"dagster/column_lineage": dg.TableColumnLineage(deps)}


def code_reference(transform: Callable[..., object]) -> Metadata:
    """The file and line of the transform, so that the UI can open it."""
    file = inspect.getsourcefile(transform)
    if file is None:
        return {}
    line = transform.__code__.co_firstlineno
    found = dg.LocalFileCodeReference(file_path=file, line_number=line, label=transform.__name__)
    return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[found])}


def definition_metadata(lake: Lake, table: str, contract: Contract) -> Metadata:
    """What is known about a table before its first write: columns, constraints, path."""
    columns = [
        dg.TableColumn(
            c.name,
            str(c.type),
            description=c.description or None,
            constraints=dg.TableColumnConstraints(
                nullable=c.nullable,
                # The type and nullability are shown separately.
                other=[
                    rule_in_words(e)
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
