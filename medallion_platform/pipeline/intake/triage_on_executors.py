"""The executors' part of an intake on Spark: triage messages, and write staged files.

Executors import only this; nothing here reads a table or commits.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from medallion_platform.lakehouse import dead_letters, polars_writer
from medallion_platform.lakehouse.commit_record import UNPARTITIONED
from medallion_platform.pipeline.intake.triage import LETTER_PLACE, PLACE, identity_of, partitions_of, triage
from medallion_platform.pipeline.intake.undeclared import count_further
from medallion_platform.sources.connectors.kafka import KafkaSource
from medallion_platform.sources.connectors.kafka.on_spark import records

if TYPE_CHECKING:
    from medallion_platform.pipeline.run import Run

PIECE_ROWS, PIECE_BYTES = 100_000, 64 * 1024 * 1024
"""Messages that one executor's task holds at a time."""


@dataclass(frozen=True)
class IntakeTask:
    """What an executor is told: the source, who runs, what is known of the table, where files go."""

    source: KafkaSource
    run: Run
    places: pl.DataFrame
    held: pl.DataFrame
    known: Mapping[str, pl.DataType]
    table: str
    letters: str
    folder: str
    partition_by: Sequence[str]


@dataclass(frozen=True)
class Piece:
    """What an executor made of some messages.

    rows, bad: staged files. identities: a line for each row, None where nothing makes two rows the same.
    """

    read: int
    held: int
    rows: Sequence[str]
    bad: Sequence[str]
    partitions: Mapping[str, int]
    violations: Mapping[str, int]
    warnings: Mapping[str, int]
    failures: Mapping[str, int]
    looks_personal: Mapping[str, int]
    further: int
    schema: pa.Schema
    identities: pl.DataFrame | None


def triage_messages(work: IntakeTask, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Messages (as `records` wants them) to staged files: a line for each piece, a pickled `Piece`."""
    for messages in _pieces(batches):
        frame = records(work.source, messages, work.places)
        if not frame.is_empty():
            told = pickle.dumps(_piece(work, frame))
            yield pa.RecordBatch.from_pydict({"told": pa.array([told], pa.binary())})


def _pieces(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Neighbours together, as many as one executor holds at a time."""
    gathered: list[pa.RecordBatch] = []
    for batch in batches:
        gathered.append(batch)
        if sum(b.num_rows for b in gathered) >= PIECE_ROWS or sum(b.nbytes for b in gathered) >= PIECE_BYTES:
            yield pa.Table.from_batches(gathered)
            gathered = []
    if gathered:
        yield pa.Table.from_batches(gathered)


def _piece(work: IntakeTask, frame: pl.DataFrame) -> Piece:
    source = work.source
    held = frame.join(work.held, left_on=PLACE, right_on=LETTER_PLACE, how="semi").height
    triaged = triage(source, work.run, frame, [], work.held, work.known)
    identity = identity_of(source)
    rows: list[str] = []
    bad: list[str] = []
    identities: list[pl.DataFrame] = []
    for path, values, part in polars_writer.parts(triaged.good, work.partition_by, work.folder):
        polars_writer.write(work.table, path, part, values)
        rows.append(path)
        identities.append(_identities(source, part, path))
    for path, _, part in polars_writer.parts(dead_letters.fit(triaged.bad), (), work.folder):
        polars_writer.write(work.letters, path, part)
        bad.append(path)
    return Piece(
        frame.height,
        held,
        rows,
        bad,
        partitions_of(source, triaged.good),
        triaged.violations,
        triaged.warnings,
        triaged.failures,
        triaged.looks_personal,
        count_further(triaged.good),
        triaged.good.to_arrow().schema,
        pl.concat(identities) if identity and identities else None,
    )


def _identities(source: KafkaSource, rows: pl.DataFrame, path: str) -> pl.DataFrame:
    """Of each row of a file: what makes it the same as another, its offset, partition, file and place
    there.
    """
    time = [source.contract.event_time] if source.contract.watermark else []
    partition = (
        pl.col(source.partition).cast(pl.String).fill_null(UNPARTITIONED)
        if source.partition
        else pl.lit(UNPARTITIONED)
    )
    return rows.select(
        *dict.fromkeys([*identity_of(source), *filter(None, time)]),
        pl.col("_offset"),
        partition.alias("_unit"),
        pl.lit(path).alias("_path"),
        pl.int_range(pl.len(), dtype=pl.UInt32).alias("_place"),
    )
