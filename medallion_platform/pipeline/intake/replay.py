"""Validates stored records again under the current contract: dead letters (replay), bronze rows (reparse).

Both write two commits and identify a record by its place, so that a crash between the two is repaired by
running again: a record is never in the table twice and never missing from both.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
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
from medallion_platform.pipeline.intake.batch_commit import intake_record
from medallion_platform.pipeline.intake.duplicates import find_duplicates
from medallion_platform.pipeline.intake.undeclared import count_further, notes_on_further
from medallion_platform.sources.connectors.files import sequence_and_row
from medallion_platform.sources.source import Source

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from medallion_platform.pipeline.run import Run

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplayResult:
    """What happened to dead letters: back in the table, a duplicate of a row there, or still rejected."""

    counts: Counts
    version: int

    @property
    def still_dead(self) -> int:
        """Letters that also violate the current contract."""
        return self.counts.dead_lettered


def replay(
    source: Source,
    lake: Lake,
    run: Run,
    offsets: Collection[int] | None = None,
    partitions: Iterable[str] | None = None,
    poison: bool = True,
) -> ReplayResult:
    """Move dead letters of a source (all, or those at `offsets`) that are valid now into its table.

    partitions: only letters whose rows belong to these partitions. poison: also those that ended whatever
    read them, which they may do again.

    Raises:
        CommitConflict: another run wrote to the table or its dead letters first; run it again.
    """
    table = lake.open(source.table)
    if table is None:
        return ReplayResult(Counts(), -1)
    letters = lake.open(dead_letters.name(source.table))
    stored = dead_letters.scan(lake, source.table)
    wanted = (
        _is_of_source(source, "source") & (pl.col("row") > 0) & pl.col("payload").is_not_null() & _at(offsets)
    )
    if not poison:
        wanted &= pl.col("code").ne_missing(Code.POISON)
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
            pl.when(pl.col("code").is_in([Code.UNDECODED, Code.POISON]))
            .then(pl.coalesce(pl.col("detail").str.json_path_match("$.encoding"), pl.lit("")))
            .alias("_encoding"),
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
    there = _rows_in_table(table, source, good.select(_triage.PLACE))
    good = good.join(there, on=_triage.PLACE, how="anti", maintain_order="left")
    twice = find_duplicates(good, source.contract, table, _triage.identity_columns(source))
    rows = _triage.finish_bronze_rows(source, run, good.filter(~twice), pl.scan_delta(table).collect_schema())
    counts = Counts(
        chosen.height - others, rows.height + there.height, validated.bad.height, int(twice.sum()), 0
    )
    record = _replay_record("replay", run, counts, source, rows, validated, next_sequence(table, letters))
    version = table.version()
    if not rows.is_empty():
        version = polars_writer.append_rows(table, rows, record, {}, run.guard)
    if healed.height:
        remaining = stored.join(
            healed.lazy(),
            left_on=_triage.LETTER_PLACE,
            right_on=_triage.PLACE,
            how="anti",
            maintain_order="left",
        ).collect()
        polars_writer.replace_rows(letters, remaining, replace(record, partitions={}), None, run.guard)
    _say(source, version, record)
    return ReplayResult(counts, version)


def unknown_offsets(source: Source, lake: Lake, offsets: Collection[int]) -> list[int]:
    """Those of `offsets` that no dead letter of the source has, in order."""
    found = dead_letters.scan(lake, source.table).filter(_is_of_source(source, "source") & _at(offsets))
    return sorted(set(offsets) - set(found.select("offset").collect()["offset"]))


def letters_without_record(source: Source, lake: Lake, offsets: Collection[int] | None = None) -> list[str]:
    """The dead letters (all, or those at `offsets`) that stand for whole files or ranges, in words: there is
    no record to validate again.
    """
    mine = _is_of_source(source, "source") & ((pl.col("row") == 0) | pl.col("payload").is_null())
    letters = dead_letters.scan(lake, source.table).filter(mine & _at(offsets))
    found = letters.select("file", "source", "violations").collect()
    return [f"{file or log}: {'; '.join(violations or ())}" for file, log, violations in found.iter_rows()]


def parse_table_again(
    source: Source, lake: Lake, run: Run, partitions: set[str] | None = None
) -> tuple[int, CommitRecord | None]:
    """Parse the stored payloads of a bronze table (of `partitions`, or all) again and validate the records.

    Rows that violate the current contract become dead letters; then dead letters that keep it come back, but
    for those that ended what read them. Only
    partitions in which a row changes are rewritten. Rows without stored text (Parquet) stay unchanged.
    Returns the table's version, and the commit record, None if no row changed.
    """
    table = lake.open(source.table)
    if table is None:
        return -1, None
    letters = lake.open(dead_letters.name(source.table))
    mine = _is_of_source(source, "_source")
    if partitions is not None and source.partition:
        mine &= _in_partitions(source, partitions)
    stored = polars_writer.scan_rows(table).filter(mine).collect()
    if stored.is_empty() or stored["_payload"].null_count():
        return replay(source, lake, run, partitions=partitions, poison=False).version, None
    frame = _parse_again(
        source,
        lake,
        stored.select(
            pl.col("_payload").alias("payload"),
            pl.lit(None, pl.String).alias("_encoding"),
            *("_source", "_file", "_row", "_offset", *source.provenance()),
        ),
    )
    validated = _triage.validate(source, frame, run.at)
    undeclared = {c: kind for c, kind in stored.schema.items() if c not in source.contract.column_names}
    good = _triage.finish_bronze_rows(source, run, validated.good, undeclared)
    touched = _partitions_that_change(source, stored, good)
    record = None
    if touched is None or touched:
        within = pl.lit(True) if touched is None else _in_partitions(source, touched)
        before, now = stored.filter(within), good.filter(within)
        counts = Counts(before.height, now.height, before.height - now.height)
        record = _replay_record("reparse", run, counts, source, now, validated, next_sequence(table, letters))
        held = dead_letters.scan(lake, source.table).select(_triage.LETTER_PLACE).collect()
        bad = _triage.build_dead_letters(source, run, validated.bad, [])
        bad = bad.join(held, on=_triage.LETTER_PLACE, how="anti", maintain_order="left")
        if not bad.is_empty():
            dead_letters.append(lake, source.table, bad, replace(record, partitions={}), guard=run.guard)
        # Another type of a column is one for the whole table; else these partitions alone are replaced.
        others = polars_writer.scan_rows(table).filter(within & ~(mine & within)).collect()
        rows = pl.concat([others, now], how="diagonal_relaxed") if others.height else now
        polars_writer.replace_rows(
            table,
            rows,
            record,
            None if touched is None else _partition_predicate(source, touched),
            run.guard,
        )
        _say(source, table.version(), record)
    replay(source, lake, run, partitions=partitions, poison=False)
    return lake.version(source.table), record


def _say(source: Source, version: int, record: CommitRecord) -> None:
    fields = {"table": source.table, "source": source.name, "run_id": record.run_id, "version": version}
    _LOG.info("%s: %s", source.table, record.verb, extra={**fields, **record.counts.as_dict()})


def _replay_record(
    verb: str,
    run: Run,
    counts: Counts,
    source: Source,
    rows: pl.DataFrame,
    validated: _triage.TriageResult,
    sequence: int,
) -> CommitRecord:
    """The commit record for records that were validated again; `rows` of them are written."""
    further = count_further(rows)
    return intake_record(
        verb,
        run,
        counts,
        {},
        sequence,
        partitions=_triage.count_by_partition(source, rows),
        violations=validated.violations,
        warnings=validated.warnings,
        looks_personal=validated.looks_personal,
        notes=notes_on_further(further),
        further=further,
    )


def _partitions_that_change(source: Source, stored: pl.DataFrame, good: pl.DataFrame) -> set[str] | None:
    """The partitions with a removed, added or changed row; None if the type of a column changes."""
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
    return set(_triage.count_by_partition(source, differs)) if source.partition else None


def _in_partitions(source: Source, partitions: Iterable[str]) -> pl.Expr:
    """Whether a row of the table belongs to one of the partitions."""
    return pl.col(str(source.partition)).cast(pl.String).fill_null(UNPARTITIONED).is_in(sorted(partitions))


def _partition_predicate(source: Source, partitions: Iterable[str]) -> str:
    """The same as an SQL predicate for whole partitions."""
    days = [f"'{partition}'" for partition in sorted(set(partitions) - {UNPARTITIONED})]
    found = [f"{source.partition} IN ({', '.join(days)})"] if days else []
    return " OR ".join(
        [*found, *([f"{source.partition} IS NULL"] if UNPARTITIONED in set(partitions) else [])]
    )


def _parse_again(source: Source, lake: Lake, stored: pl.DataFrame) -> pl.DataFrame:
    """Stored payloads, parsed like new records, with their provenance columns.

    A payload is text, except for records that were not decoded: theirs are the bytes of the file. Their
    `_encoding` is that of the file's byte order mark, or "" for the declared one.
    """
    form = source.format.stored
    declared = source.contract.column_names
    headers: dict[tuple[str, ...] | None, int] = {None: 0}
    of_file = {
        r["sequence"]: headers.setdefault(tuple(r["header"]) if r["header"] else None, len(headers))
        for r in file_registry.read_registry(lake, source.name).iter_rows(named=True)
    }
    numbers = [of_file.get(sequence_and_row(o)[0], 0) if form.needs_header else 0 for o in stored["_offset"]]
    named = stored.with_columns(pl.Series("_header", numbers, dtype=pl.Int64))
    known = list(headers)
    provenance = [c for c in stored.columns if c not in ("payload", "_encoding")]
    frames = []
    for (header, encoding), part in named.group_by("_header", "_encoding", maintain_order=True):
        columns = known[int(str(header))]
        payloads = part["payload"].cast(pl.String if encoding is None else pl.Binary)
        told = replace(form, encoding=encoding) if encoding else form
        parsed = told.parse_again(payloads, columns, declared)
        frames.append(parsed.drop("_row").with_columns(part.select(provenance)))
    return pl.concat(frames, how="diagonal_relaxed").sort("_offset")


def _is_of_source(source: Source, column: str) -> pl.Expr:
    """Whether a column has the name of the source or of one of its logs."""
    return (pl.col(column) == source.name) | pl.col(column).str.starts_with(f"{source.name}/")


def _at(offsets: Collection[int] | None) -> pl.Expr:
    """Whether a dead letter is at one of these offsets; every one is where none are named."""
    return pl.lit(True) if offsets is None else pl.col("offset").is_in(list(offsets))


def _rows_in_table(table: DeltaTable, source: Source, places: pl.DataFrame) -> pl.DataFrame:
    """Those of `places` that the table already holds."""
    if places.is_empty():
        return places
    offsets = {"_offset": (places["_offset"].min(), places["_offset"].max())}
    found = polars_writer.read_key_columns(table, places.columns, offsets)
    return found.join(places, on=places.columns, how="semi")
