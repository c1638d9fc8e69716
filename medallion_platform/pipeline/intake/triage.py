"""Separates records into rows of the bronze table and dead letters that say what is wrong.

Pure: data frames in, data frames out. Both engines use it, polars in its process and Spark on its executors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from medallion_platform.contracts import personal_data_shapes
from medallion_platform.contracts import polars_engine as contracts
from medallion_platform.contracts.codes import Code
from medallion_platform.contracts.contract import Compare, Contract, Expectation, Severity
from medallion_platform.contracts.violation_fields import BROKEN, broken
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit_record import UNPARTITIONED
from medallion_platform.lakehouse.counts import sum_counts
from medallion_platform.pipeline.intake.undeclared import FURTHER, fit_types, undeclared_columns
from medallion_platform.sources.arrivals import UnreadableRange
from medallion_platform.sources.formats.records import CODE, DETAIL, OURS, field_of_column
from medallion_platform.sources.source import Source

if TYPE_CHECKING:
    import pyarrow as pa
    from polars._typing import PolarsDataType

    from medallion_platform.pipeline.run import Run

CLOCKS_DIFFER = timedelta(hours=1)
"""How far in the future a row may lie before it is taken for wrong."""

PROVENANCE: dict[str, PolarsDataType] = {
    "_payload": pl.String,
    "_source": pl.String,
    "_file": pl.String,
    "_row": pl.Int64,
    "_offset": pl.Int64,
    "_ingested_at": pl.Datetime("us", "UTC"),
}
"""Where a bronze row came from: its exact text, log, file, record number, offset, and when.

Of a source that gives a record again, the record number is a fingerprint of the record."""

PLACE = ("_source", "_offset", "_row")
LETTER_PLACE = ("source", "offset", "row")
"""What a record is known by, in a frame and as a dead letter; row 0 is a whole piece."""


def triage(
    source: Source,
    run: Run,
    frame: pl.DataFrame,
    unread: Sequence[UnreadableRange],
    held: pl.DataFrame,
    known: Mapping[str, pl.DataType],
) -> TriageResult:
    """Separate records (from a `Format`, with their place) into bronze rows and dead letters.

    held: the places (`LETTER_PLACE`) that are dead letters already. known: the columns of the table.
    """
    if held.height and frame.height:
        frame = frame.join(held, left_on=PLACE, right_on=LETTER_PLACE, how="anti", maintain_order="left")
    validated = validate(source, frame, run.at)
    bad = build_dead_letters(source, run, validated.bad, unread)
    if held.height:
        bad = bad.join(held, on=LETTER_PLACE, how="anti", maintain_order="left")
    return replace(validated, good=finish_bronze_rows(source, run, validated.good, known), bad=bad)


def _looks_personal(contract: Contract, rows: pl.DataFrame) -> dict[str, int]:
    declared = contract.by_name
    text = (s for s in rows if s.dtype == pl.String and (s.name in declared or not s.name.startswith("_")))
    return sum_counts({s.name: personal_data_shapes.count(s)} for s in text if s.name not in contract.pii)


def bronze_schema(source: Source) -> pa.Schema:
    """Columns of a source's bronze table: the contract's, change columns, provenance."""
    return pl.DataFrame(schema=_bronze_columns(source)).to_arrow().schema


def _bronze_columns(source: Source) -> dict[str, PolarsDataType]:
    columns: dict[str, PolarsDataType] = {**contracts.polars_schema(source.contract), **source.format.facts}
    if source.partition:
        columns[source.partition] = pl.Date
    return columns | PROVENANCE | dict(source.provenance())


def identity_columns(source: Source) -> tuple[str, ...]:
    """The columns that identify a record: the contract's key, or else the text of the record."""
    return source.contract.key or (("_payload",) if source.drop_repeated_text else ())


@dataclass(frozen=True)
class TriageResult:
    """The good and the bad rows, and the number of violations of each expectation."""

    good: pl.DataFrame
    bad: pl.DataFrame
    violations: dict[str, int]
    warnings: dict[str, int]
    failures: dict[str, int]
    looks_personal: dict[str, int] = field(default_factory=dict)
    """Values of good rows, by column, that look personal where the contract does not say so."""


def validate(source: Source, frame: pl.DataFrame, at: datetime) -> TriageResult:
    """Split records into good rows, and bad rows with the names of their violations.

    In addition to the contract, a row must belong to a partition that exists at the time `at`.
    """
    if frame.is_empty() and not frame.columns:
        empty = pl.DataFrame(schema=_bronze_columns(source))
        return TriageResult(empty, pl.DataFrame(), {}, {}, {})
    malformed = frame.filter(pl.col("_malformed").is_not_null()).with_columns(
        pl.concat_list(pl.lit("record: parses")).alias(contracts.VIOLATIONS)
        if frame.height
        else pl.lit(None).alias(contracts.VIOLATIONS)
    )
    parsed = frame.filter(pl.col("_malformed").is_null()).drop("_malformed")
    verdicts = [
        _reject_out_of_time(source, part, _validate_with_broken(contract, part), at)
        for part, contract in source.format.expected(parsed, source.contract)
    ]
    violations = sum_counts(v.violations for v in verdicts)
    if malformed.height:
        violations["record: parses"] = malformed.height
    bad = pl.concat([malformed, *(v.bad for v in verdicts)], how="diagonal_relaxed")
    good = pl.concat([v.good for v in verdicts], how="diagonal_relaxed").sort("_offset", maintain_order=True)
    warnings, failures = (sum_counts(getattr(v, kind) for v in verdicts) for kind in ("warnings", "failures"))
    return TriageResult(good, bad, violations, warnings, failures, _looks_personal(source.contract, good))


def _validate_with_broken(contract: Contract, frame: pl.DataFrame) -> contracts.ValidationResult:
    """The engine's result, with a column of fields about the violations of each bad row."""
    validated = contracts.validate(contract, frame)
    return replace(validated, bad=_with_broken(contract, contract.expectations, validated.bad))


def _with_broken(contract: Contract, expectations: Sequence[Expectation], bad: pl.DataFrame) -> pl.DataFrame:
    told = broken(contract, expectations, bad, bad.get_column(contracts.VIOLATIONS))
    return bad.with_columns(told.alias(BROKEN))


def _reject_out_of_time(
    source: Source, came: pl.DataFrame, validated: contracts.ValidationResult, at: datetime
) -> contracts.ValidationResult:
    """Reject rows before the source's first day, and rows from the future (1 hour: clocks differ)."""
    if source.partition is None:
        return validated
    name = str(source.contract.event_time)
    time = pl.col(name)
    first, last = datetime.combine(source.first_day, datetime.min.time(), UTC), at + CLOCKS_DIFFER
    bounds = {
        _time_bound(name, f"not before {source.first_day}", Compare("ge", first)): time < first,
        _time_bound(name, "not in the future", Compare("le", last)): time > last,
    }
    for bound, outside in bounds.items():
        places = validated.good.filter(outside).select(PLACE)
        if places.is_empty():
            continue
        rejected = came.join(places, on=PLACE, how="semi", maintain_order="left")
        rejected = rejected.with_columns(pl.concat_list(pl.lit(bound.name)).alias(contracts.VIOLATIONS))
        rejected = _with_broken(source.contract, [bound], rejected)
        validated = replace(
            validated,
            good=validated.good.filter(outside.not_().fill_null(value=True)),
            bad=pl.concat([validated.bad, rejected], how="diagonal_relaxed"),
            violations={**validated.violations, bound.name: places.height},
        )
    return validated


def _time_bound(column: str, label: str, test: Compare) -> Expectation:
    return Expectation(f"{column}: {label}", (column,), Severity.REJECT, test)


def build_dead_letters(
    source: Source, run: Run, bad: pl.DataFrame, unread: Sequence[UnreadableRange]
) -> pl.DataFrame:
    """Dead letters for bad records (with their original bytes) and for unreadable ranges (row 0)."""
    whole = pl.DataFrame(
        [
            {
                "source": piece.log,
                "offset": piece.offset,
                "file": piece.file,
                "row": 0,
                "payload": None,
                "violations": [piece.reason],
                "code": piece.code,
                "detail": json.dumps(piece.detail) if piece.detail else None,
                "broken": [],
                "partition": None,
                "at": run.at,
                "run_id": run.run_id,
            }
            for piece in unread
        ],
        schema=dead_letters.columns(),
    )
    if bad.is_empty():
        return whole
    malformed = pl.col("_malformed").is_not_null() if "_malformed" in bad.columns else pl.lit(False)
    nothing = pl.Series([[]], dtype=dead_letters.columns()["broken"])
    rows = bad.select(
        pl.col("_source").alias("source"),
        pl.col("_offset").alias("offset"),
        pl.col("_file").alias("file"),
        pl.col("_row").alias("row"),
        source.format.payloads(bad).alias("payload"),
        pl.when(malformed)
        .then(pl.concat_list(pl.lit("record: ") + pl.col("_malformed")))
        .otherwise(pl.col(contracts.VIOLATIONS))
        .alias("violations")
        if "_malformed" in bad.columns
        else pl.col(contracts.VIOLATIONS).alias("violations"),
        pl.coalesce(
            pl.col(CODE) if CODE in bad.columns else pl.lit(None, pl.String),
            pl.when(malformed).then(pl.lit(Code.MALFORMED)).otherwise(pl.lit(Code.VIOLATES)),
        ).alias("code"),
        (pl.col(DETAIL) if DETAIL in bad.columns else pl.lit(None, pl.String)).alias("detail"),
        # What does not parse has no row, which broke nothing.
        (pl.col(BROKEN) if BROKEN in bad.columns else pl.lit(None, nothing.dtype))
        .fill_null(pl.lit(nothing))
        .alias("broken"),
        pl.lit(None, pl.String).alias("partition"),
        pl.lit(run.at, pl.Datetime("us", "UTC")).alias("at"),
        pl.lit(run.run_id).alias("run_id"),
    )
    return pl.concat([whole, rows], how="vertical_relaxed")


def finish_bronze_rows(
    source: Source, run: Run, rows: pl.DataFrame, known: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    """The bronze rows: derived partition column, provenance, legal names, columns in order.

    known: the columns of the table, which keep their types.
    """
    wanted = _bronze_columns(source)
    came = {column.name: column for column in rows}
    fields = {field_of_column(n): c for n, c in came.items() if n not in wanted and n not in OURS}
    added = {"_ingested_at": pl.lit(run.at, pl.Datetime("us", "UTC"))}
    if source.partition and source.partition not in source.contract.column_names:
        partition = pl.col(str(source.contract.event_time)).dt.date()
        added[source.partition] = partition
        # A field of that name is undeclared.
        fields |= (
            {source.partition: came[source.partition]} if source.partition in came and rows.height else {}
        )
    found = fit_types(undeclared_columns(fields, came.get(FURTHER), set(wanted), known), known)

    def column(name: str) -> pl.Expr:
        if name in added:
            return added[name].alias(name)
        return pl.col(name) if name in came else pl.lit(None, wanted[name]).alias(name)

    return rows.select(
        *(column(c).cast(known.get(c, k)) for c, k in wanted.items() if not c.startswith("_")),
        *(values.alias(name) for name, values in found.items()),
        *(column(c).cast(k) for c, k in wanted.items() if c.startswith("_")),
    )


def count_by_partition(source: Source, rows: pl.DataFrame) -> dict[str, int]:
    """The number of rows by partition; empty if the table has no partition."""
    if source.partition is None or rows.is_empty():
        return {}
    counted = rows.group_by(pl.col(source.partition).cast(pl.String)).len()
    return dict(sorted(zip(counted[source.partition].fill_null(UNPARTITIONED), counted["len"], strict=True)))
