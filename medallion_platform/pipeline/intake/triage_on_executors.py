"""The executors' part of an intake on Spark: triage messages, and write staged files.

Executors import only this; nothing here reads a table or commits.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from medallion_platform.errors import MedallionError
from medallion_platform.lakehouse import dead_letters, polars_writer
from medallion_platform.lakehouse.commit_record import UNPARTITIONED
from medallion_platform.pipeline.intake.triage import (
    LETTER_PLACE,
    PLACE,
    count_by_partition,
    identity_columns,
    triage,
)
from medallion_platform.pipeline.intake.undeclared import count_further
from medallion_platform.sources.connectors.kafka import KafkaSource
from medallion_platform.sources.connectors.kafka.on_spark import records_from_spark

if TYPE_CHECKING:
    from medallion_platform.pipeline.run import Run

PIECE_ROWS, PIECE_BYTES = 100_000, 64 * 1024 * 1024
"""Messages that one executor's task holds at a time."""


@dataclass(frozen=True)
class IntakeTask:
    """The task of an executor: the source, the run, the known state of the table, the folders to write to."""

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
    """What an executor wrote for some messages.

    rows, bad: staged files. identities: one row for each record, None if records have no identity.
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
    """Write messages (as `records_from_spark` expects them) to staged files; returns pickled `Piece`s.

    An error of the platform is the last item: raised through the JVM, only its text would be left.
    """
    try:
        for messages in _gather_messages(batches):
            frame = records_from_spark(work.source, messages, work.places)
            if not frame.is_empty():
                yield _pickled_row(_stage_piece(work, frame))
    except MedallionError as error:
        yield _pickled_row(error)
        deque(batches, 0)  # the JVM waits until they are taken


def _pickled_row(told: Piece | MedallionError) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"told": pa.array([pickle.dumps(told)], pa.binary())})


def _gather_messages(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Join consecutive batches, up to the size that one executor processes at a time."""
    gathered: list[pa.RecordBatch] = []
    for batch in batches:
        gathered.append(batch)
        if sum(b.num_rows for b in gathered) >= PIECE_ROWS or sum(b.nbytes for b in gathered) >= PIECE_BYTES:
            yield pa.Table.from_batches(gathered)
            gathered = []
    if gathered:
        yield pa.Table.from_batches(gathered)


def _stage_piece(work: IntakeTask, frame: pl.DataFrame) -> Piece:
    source = work.source
    held = frame.join(work.held, left_on=PLACE, right_on=LETTER_PLACE, how="semi").height
    triaged = triage(source, work.run, frame, [], work.held, work.known)
    identity = identity_columns(source)
    rows: list[str] = []
    bad: list[str] = []
    identities: list[pl.DataFrame] = []
    for path, values, part in polars_writer.split_by_partition(triaged.good, work.partition_by, work.folder):
        polars_writer.stage_partition_file(work.table, path, part, values)
        rows.append(path)
        identities.append(_identity_rows(source, part, path))
    for path, _, part in polars_writer.split_by_partition(dead_letters.fit(triaged.bad), (), work.folder):
        polars_writer.stage_partition_file(work.letters, path, part)
        bad.append(path)
    return Piece(
        frame.height,
        held,
        rows,
        bad,
        count_by_partition(source, triaged.good),
        triaged.violations,
        triaged.warnings,
        triaged.failures,
        triaged.looks_personal,
        count_further(triaged.good),
        triaged.good.to_arrow().schema,
        pl.concat(identities) if identity and identities else None,
    )


def _identity_rows(source: KafkaSource, rows: pl.DataFrame, path: str) -> pl.DataFrame:
    """For each row of a file: its identity columns, offset, partition, file, and place in the file."""
    time = [source.contract.event_time] if source.contract.watermark else []
    partition = (
        pl.col(source.partition).cast(pl.String).fill_null(UNPARTITIONED)
        if source.partition
        else pl.lit(UNPARTITIONED)
    )
    return rows.select(
        *dict.fromkeys([*identity_columns(source), *filter(None, time)]),
        pl.col("_offset"),
        partition.alias("_partition"),
        pl.lit(path).alias("_path"),
        pl.int_range(pl.len(), dtype=pl.UInt32).alias("_place"),
    )
