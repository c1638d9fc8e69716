"""Judge stored records again under today's contract: dead letters (replay), bronze rows (reparse).

Both write in two commits and are told apart by a record's place, so that a crash between the two
is mended by running again: a record is never in the table twice and never in neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from medallion_platform.lakehouse import dead_letters, lean, ledger
from medallion_platform.lakehouse.commit import next_sequence
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.record import WHOLE, Record
from medallion_platform.pipeline import sift as _sift
from medallion_platform.pipeline.duplicates import duplicates
from medallion_platform.sources import files
from medallion_platform.sources.source import Csv, JsonLines, Parquet, Source, place_of

if TYPE_CHECKING:
    from medallion_platform.pipeline.refresh import Run


@dataclass(frozen=True)
class Replayed:
    """What became of dead letters: back in the table, the same as a row there, or still bad."""

    counts: Counts
    version: int

    @property
    def still_dead(self) -> int:
        """Letters that break today's contract as well."""
        return self.counts.dead_lettered


def replay(source: Source, lake: Lake, run: Run, offsets: Iterable[int] | None = None) -> Replayed:
    """Take dead letters of a source (all, or those at `offsets`) that pass now back into its table.

    Raises:
        Fenced: another run wrote to the table or its dead letters meanwhile; run it again.
    """
    table = lake.open(source.table)
    if table is None:
        return Replayed(Counts(), -1)
    letters = lake.open(dead_letters.name(source.table))
    everything = dead_letters.read(lake, source.table)
    wanted = _of(source, "source") & (pl.col("row") > 0) & pl.col("payload").is_not_null()
    if offsets is not None:
        wanted &= pl.col("offset").is_in(list(offsets))
    chosen = everything.filter(wanted).unique(_sift.LETTER_PLACE, keep="first", maintain_order=True)
    # Letters ahead of the table belong to an intake that has not committed its rows yet.
    reached = {log: table.transaction_version(log) or 0 for log in chosen["source"].unique()}
    taken = pl.col("source").replace_strict(reached, return_dtype=pl.Int64)
    chosen = chosen.filter(pl.col("offset") < taken) if reached else chosen
    if chosen.is_empty() or letters is None:
        return Replayed(Counts(), table.version())
    frame = _parse_again(
        source,
        lake,
        chosen.select(
            pl.col("payload"),
            pl.col("violations").list.first().str.starts_with(f"record: {files.UNDECODED}").alias("_raw"),
            *(pl.col(c).alias(f"_{c}") for c in ("source", "file", "row", "offset")),
        ),
    )
    judged = _sift.judge(source, frame, run.at)
    good = judged.good
    there = _held(table, source, good.select(_sift.PLACE))
    good = good.join(there, on=_sift.PLACE, how="anti", maintain_order="left")
    twice = duplicates(good, source.contract, table, _sift.identity_of(source))
    rows = _sift.finish(source, run, good.filter(~twice), pl.scan_delta(table).collect_schema())
    counts = Counts(chosen.height, rows.height + there.height, judged.bad.height, int(twice.sum()), 0)
    record = Record(
        verb="replay",
        run_id=run.run_id,
        at=run.at.isoformat(),
        counts=counts,
        units=_sift.units_of(source, rows),
        sequence=next_sequence(table, letters),
        violations=judged.violations,
        warnings=judged.warnings,
    )
    version = table.version()
    if not rows.is_empty():
        version = lean.append(table, rows, record, {})
    healed = judged.good.select(_sift.PLACE)
    if healed.height:
        kept = everything.join(
            healed, left_on=_sift.LETTER_PLACE, right_on=_sift.PLACE, how="anti", maintain_order="left"
        )
        lean.replace(letters, kept, replace(record, units={}), None)
    return Replayed(counts, version)


def without_record(source: Source, lake: Lake) -> list[str]:
    """The dead letters that stand for whole files or ranges, in words: there is no record to judge again."""
    letters = dead_letters.read(lake, source.table)
    mine = _of(source, "source") & ((pl.col("row") == 0) | pl.col("payload").is_null())
    return [
        f"{file or log}: {'; '.join(violations or ())}"
        for file, log, violations in letters.filter(mine).select("file", "source", "violations").iter_rows()
    ]


def reparse(source: Source, lake: Lake, run: Run, units: set[str] | None = None) -> tuple[int, Record | None]:
    """Parse a bronze table's stored payloads (of `units`, or all) again and judge them anew.

    Rows that break today's contract become dead letters, then dead letters that keep it come back.
    Rows whose text was not kept (Parquet) stay as they are. Gives the table's version and record.
    """
    table = lake.open(source.table)
    if table is None:
        return -1, None
    letters = lake.open(dead_letters.name(source.table))
    mine = _of(source, "_source")
    if units is not None and source.unit:
        mine &= pl.col(source.unit).cast(pl.String).fill_null(WHOLE).is_in(sorted(units))
    stored = pl.scan_delta(table).filter(mine).collect()
    if stored.is_empty() or stored["_payload"].null_count():
        return replay(source, lake, run).version, None
    frame = _parse_again(
        source,
        lake,
        stored.select(
            pl.col("_payload").alias("payload"),
            pl.lit(False).alias("_raw"),
            *("_source", "_file", "_row", "_offset", *source.provenance()),
        ),
    )
    judged = _sift.judge(source, frame, run.at)
    have = pl.scan_delta(table).collect_schema()
    undeclared = {c: kind for c, kind in have.items() if c not in source.contract.column_names}
    good = _sift.finish(source, run, judged.good, undeclared)
    bad = _sift.dead_rows(source, run, judged.bad, [])
    held = dead_letters.read(lake, source.table)
    bad = bad.join(held, on=_sift.LETTER_PLACE, how="anti", maintain_order="left")
    record = Record(
        verb="reparse",
        run_id=run.run_id,
        at=run.at.isoformat(),
        counts=Counts(stored.height, good.height, judged.bad.height),
        units=_sift.units_of(source, good),
        sequence=next_sequence(table, letters),
        violations=judged.violations,
        warnings=judged.warnings,
    )
    if not bad.is_empty():
        dead_letters.append(lake, source.table, bad, replace(record, units={}))
    others = pl.scan_delta(table).filter(~mine).collect()
    everything = pl.concat([others, good], how="diagonal_relaxed") if others.height else good
    version = lean.replace(table, everything, record, None)
    replay(source, lake, run)
    return max(version, lake.version(source.table)), record


def _parse_again(source: Source, lake: Lake, stored: pl.DataFrame) -> pl.DataFrame:
    """Stored payloads as the reader would give them, with all that is told of their origin.

    A payload is text, but that of a record that did not decode (`_raw`): it is its bytes in the file.
    """
    form = JsonLines() if isinstance(source.format, Parquet) else source.format
    headers = {
        r["sequence"]: tuple(r["header"]) if r["header"] else None
        for r in ledger.read(lake, source.name).iter_rows(named=True)
    }
    named = stored.with_columns(
        pl.Series(
            "_header",
            [
                "\x1f".join(headers.get(place_of(o)[0]) or ()) if isinstance(form, Csv) else ""
                for o in stored["_offset"]
            ],
            dtype=pl.String,
        )
    )
    told = [c for c in stored.columns if c not in ("payload", "_raw")]
    frames = []
    for (header, raw), part in named.group_by("_header", "_raw", maintain_order=True):
        columns = tuple(str(header).split("\x1f")) if header else None
        parsed = files.reparse(part["payload"].cast(pl.Binary if raw else pl.String), form, columns)
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
