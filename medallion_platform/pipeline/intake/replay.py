"""Validates stored records again under the current contract: dead letters (replay), bronze rows (reparse).

Both write two commits and identify a record by its place, so that a crash between the two is repaired by
running again: a record is never in the table twice and never missing from both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from medallion_platform.contracts.codes import Code
from medallion_platform.lakehouse import dead_letters, file_registry, polars_writer
from medallion_platform.lakehouse.commit import next_sequence
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.intake import triage as _triage
from medallion_platform.pipeline.intake.commit import record_of
from medallion_platform.pipeline.intake.duplicates import duplicates
from medallion_platform.pipeline.intake.undeclared import count_further, notes
from medallion_platform.sources.connectors.files import place_of
from medallion_platform.sources.source import Source

if TYPE_CHECKING:
    from medallion_platform.pipeline.run import Run


@dataclass(frozen=True)
class ReplayResult:
    """What became of dead letters: back in the table, the same as a row there, or still bad."""

    counts: Counts
    version: int

    @property
    def still_dead(self) -> int:
        """Letters that break today's contract as well."""
        return self.counts.dead_lettered


def replay(
    source: Source,
    lake: Lake,
    run: Run,
    offsets: Iterable[int] | None = None,
    partitions: Iterable[str] | None = None,
) -> ReplayResult:
    """Take dead letters of a source (all, or those at `offsets`) that pass now back into its table.

    partitions: only those whose rows belong to these partitions.

    Raises:
        CommitConflict: another run wrote to the table or its dead letters meanwhile; run it again.
    """
    table = lake.open(source.table)
    if table is None:
        return ReplayResult(Counts(), -1)
    letters = lake.open(dead_letters.name(source.table))
    stored = dead_letters.scan(lake, source.table)
    wanted = _of(source, "source") & (pl.col("row") > 0) & pl.col("payload").is_not_null()
    if offsets is not None:
        wanted &= pl.col("offset").is_in(list(offsets))
    chosen = stored.filter(wanted).collect().unique(_triage.LETTER_PLACE, keep="first", maintain_order=True)
    # Letters ahead of the table belong to an intake that has not committed its rows yet.
    reached = {log: table.transaction_version(log) or 0 for log in chosen["source"].unique()}
    taken = pl.col("source").replace_strict(reached, return_dtype=pl.Int64)
    chosen = chosen.filter(pl.col("offset") < taken) if reached else chosen
    if chosen.is_empty() or letters is None:
        return ReplayResult(Counts(), table.version())
    frame = _parse_again(
        source,
        lake,
        chosen.select(
            pl.col("payload"),
            (pl.col("code") == Code.UNDECODED).alias("_raw"),
            *(pl.col(c).alias(f"_{c}") for c in ("source", "file", "row", "offset")),
        ),
    )
    validated = _triage.validate(source, frame, run.at)
    good = validated.good
    if partitions is not None and source.partition:
        derived = source.partition not in good.columns  # it is, until a row is finished
        day = pl.col(str(source.contract.event_time)).dt.date() if derived else pl.col(source.partition)
        good = good.filter(day.cast(pl.String).is_in(list(partitions)))
    others = validated.good.height - good.height
    healed = good.select(_triage.PLACE)
    there = _held(table, source, good.select(_triage.PLACE))
    good = good.join(there, on=_triage.PLACE, how="anti", maintain_order="left")
    twice = duplicates(good, source.contract, table, _triage.identity_of(source))
    rows = _triage.finish(source, run, good.filter(~twice), pl.scan_delta(table).collect_schema())
    counts = Counts(
        chosen.height - others, rows.height + there.height, validated.bad.height, int(twice.sum()), 0
    )
    record = _record("replay", run, counts, source, rows, validated, next_sequence(table, letters))
    version = table.version()
    if not rows.is_empty():
        version = polars_writer.append(table, rows, record, {})
    if healed.height:
        kept = stored.join(
            healed.lazy(),
            left_on=_triage.LETTER_PLACE,
            right_on=_triage.PLACE,
            how="anti",
            maintain_order="left",
        ).collect()
        polars_writer.replace(letters, kept, replace(record, partitions={}), None)
    return ReplayResult(counts, version)


def without_record(source: Source, lake: Lake) -> list[str]:
    """The dead letters that stand for whole files or ranges, in words: there is no record to validate
    again.
    """
    mine = _of(source, "source") & ((pl.col("row") == 0) | pl.col("payload").is_null())
    letters = dead_letters.scan(lake, source.table).filter(mine)
    found = letters.select("file", "source", "violations").collect()
    return [f"{file or log}: {'; '.join(violations or ())}" for file, log, violations in found.iter_rows()]


def reparse(
    source: Source, lake: Lake, run: Run, partitions: set[str] | None = None
) -> tuple[int, CommitRecord | None]:
    """Parse a bronze table's stored payloads (of `partitions`, or all) again and validate them anew.

    Rows that break today's contract become dead letters, then dead letters that keep it come back. Only
    partitions in which a row becomes another one are written. Rows whose text was not kept (Parquet) stay as
    they are. Gives the table's version, and the record of what was rewritten: None where every row is as it
    was.
    """
    table = lake.open(source.table)
    if table is None:
        return -1, None
    letters = lake.open(dead_letters.name(source.table))
    mine = _of(source, "_source")
    if partitions is not None and source.partition:
        mine &= _in_partitions(source, partitions)
    stored = pl.scan_delta(table).filter(mine).collect()
    if stored.is_empty() or stored["_payload"].null_count():
        return replay(source, lake, run, partitions=partitions).version, None
    frame = _parse_again(
        source,
        lake,
        stored.select(
            pl.col("_payload").alias("payload"),
            pl.lit(False).alias("_raw"),
            *("_source", "_file", "_row", "_offset", *source.provenance()),
        ),
    )
    validated = _triage.validate(source, frame, run.at)
    undeclared = {c: kind for c, kind in stored.schema.items() if c not in source.contract.column_names}
    good = _triage.finish(source, run, validated.good, undeclared)
    touched = _partitions_that_change(source, stored, good)
    record = None
    if touched is None or touched:
        within = pl.lit(True) if touched is None else _in_partitions(source, touched)
        before, now = stored.filter(within), good.filter(within)
        counts = Counts(before.height, now.height, before.height - now.height)
        record = _record("reparse", run, counts, source, now, validated, next_sequence(table, letters))
        held = dead_letters.scan(lake, source.table).select(_triage.LETTER_PLACE).collect()
        bad = _triage.dead_rows(source, run, validated.bad, [])
        bad = bad.join(held, on=_triage.LETTER_PLACE, how="anti", maintain_order="left")
        if not bad.is_empty():
            dead_letters.append(lake, source.table, bad, replace(record, partitions={}))
        # Another type of a column is one for the whole table; else these partitions alone are replaced.
        others = pl.scan_delta(table).filter(within & ~(mine & within)).collect()
        rows = pl.concat([others, now], how="diagonal_relaxed") if others.height else now
        polars_writer.replace(
            table, rows, record, None if touched is None else _partitions_in_sql(source, touched)
        )
    replay(source, lake, run, partitions=partitions)
    return lake.version(source.table), record


def _record(
    verb: str,
    run: Run,
    counts: Counts,
    source: Source,
    rows: pl.DataFrame,
    validated: _triage.TriageResult,
    sequence: int,
) -> CommitRecord:
    """The account of records that were validated again, of which `rows` are written."""
    further = count_further(rows)
    return record_of(
        verb,
        run,
        counts,
        {},
        sequence,
        partitions=_triage.partitions_of(source, rows),
        violations=validated.violations,
        warnings=validated.warnings,
        looks_personal=validated.looks_personal,
        notes=notes(further),
        further=further,
    )


def _partitions_that_change(source: Source, stored: pl.DataFrame, good: pl.DataFrame) -> set[str] | None:
    """The partitions with a row that goes, comes or has another value now; None where a column's type
    changes.
    """
    columns = [c for c in good.columns if c != "_ingested_at"]
    if any(stored.schema.get(c, good.schema[c]) != good.schema[c] for c in columns):
        return None
    aligned = stored.select(
        pl.col(c) if c in stored.columns else pl.lit(None, good.schema[c]).alias(c) for c in columns
    )
    one, other = (frame.select(columns) for frame in (aligned, good))
    differs = pl.concat(
        [
            one.join(other, on=columns, how="anti", nulls_equal=True),
            other.join(one, on=columns, how="anti", nulls_equal=True),
        ]
    )
    if differs.is_empty():
        return set()
    return set(_triage.partitions_of(source, differs)) if source.partition else None


def _in_partitions(source: Source, partitions: Iterable[str]) -> pl.Expr:
    """Whether a row of the table belongs to one of the partitions."""
    return pl.col(str(source.partition)).cast(pl.String).fill_null(UNPARTITIONED).is_in(sorted(partitions))


def _partitions_in_sql(source: Source, partitions: Iterable[str]) -> str:
    """The same as a predicate over partitions."""
    days = [f"'{partition}'" for partition in sorted(set(partitions) - {UNPARTITIONED})]
    found = [f"{source.partition} IN ({', '.join(days)})"] if days else []
    return " OR ".join(
        [*found, *([f"{source.partition} IS NULL"] if UNPARTITIONED in set(partitions) else [])]
    )


def _parse_again(source: Source, lake: Lake, stored: pl.DataFrame) -> pl.DataFrame:
    """Stored payloads as the reader would give them, with all that is told of their origin.

    A payload is text, but that of a record that did not decode (`_raw`): it is its bytes in the file.
    """
    form = source.format.stored
    declared = source.contract.column_names
    headers: dict[tuple[str, ...] | None, int] = {None: 0}
    of_file = {
        r["sequence"]: headers.setdefault(tuple(r["header"]) if r["header"] else None, len(headers))
        for r in file_registry.read(lake, source.name).iter_rows(named=True)
    }
    numbers = [of_file.get(place_of(o)[0], 0) if form.needs_header else 0 for o in stored["_offset"]]
    named = stored.with_columns(pl.Series("_header", numbers, dtype=pl.Int64))
    known = list(headers)
    told = [c for c in stored.columns if c not in ("payload", "_raw")]
    frames = []
    for (header, raw), part in named.group_by("_header", "_raw", maintain_order=True):
        columns = known[int(str(header))]
        payloads = part["payload"].cast(pl.Binary if raw else pl.String)
        parsed = form.parse_again(payloads, columns, declared)
        frames.append(parsed.drop("_row").with_columns(part.select(told)))
    return pl.concat(frames, how="diagonal_relaxed").sort("_offset")


def _of(source: Source, column: str) -> pl.Expr:
    """Whether a column names the source, or one of its logs."""
    return (pl.col(column) == source.name) | pl.col(column).str.starts_with(f"{source.name}/")


def _held(table: object, source: Source, places: pl.DataFrame) -> pl.DataFrame:
    """Those of `places` that the table already holds."""
    if places.is_empty():
        return places
    offsets = places["_offset"]
    scan = pl.scan_delta(table)  # type: ignore[arg-type]
    found = scan.filter(
        _of(source, "_source") & pl.col("_offset").is_between(pl.lit(offsets.min()), pl.lit(offsets.max()))
    )
    return found.select(places.columns).collect().join(places, on=places.columns, how="semi")
