"""Intake of topics with Spark Structured Streaming: the steps of `intake`, most of the work on executors.

Executors read messages, triage them and write staged files. The driver drops duplicates, then commits as the
polars engine does: first dead letters, then rows with the new positions.

Every query begins at the table's positions. Spark requires a checkpoint, but it is never used: it is a
temporary folder of the driver, and may be lost, damaged or old.
"""

from __future__ import annotations

import json
import logging
import pickle
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, TypeGuard

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from medallion_platform.errors import Kind, MedallionError, classify, links
from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.commit import (
    CommitConflict,
    StagedFile,
    commit_files,
    move_staged_files,
    next_sequence,
)
from medallion_platform.lakehouse.counts import Counts, sum_counts
from medallion_platform.lakehouse.damaged_files import report_damage
from medallion_platform.lakehouse.evolution import evolve_schema
from medallion_platform.lakehouse.guard import UNGUARDED, Guard
from medallion_platform.lakehouse.key_index import Keys
from medallion_platform.lakehouse.polars_writer import add_columns, read_key_columns, stage_partition_file
from medallion_platform.pipeline.intake import polars_engine as polars_intake
from medallion_platform.pipeline.intake.batch_commit import (
    ATTEMPTS,
    IntakeFailed,
    PendingIntake,
    commit_batch,
    intake_record,
    letters_are_ahead,
    refuse_failures,
)
from medallion_platform.pipeline.intake.bronze import recover_positions, refuse_other_types
from medallion_platform.pipeline.intake.column_names import folded
from medallion_platform.pipeline.intake.duplicates import find_duplicates
from medallion_platform.pipeline.intake.poison import Notes, noted
from medallion_platform.pipeline.intake.result import IntakeResult
from medallion_platform.pipeline.intake.stream import PAUSE, BackgroundMaintenance, report_deaths, why_to_wait
from medallion_platform.pipeline.intake.triage import LETTER_PLACE, bronze_schema, identity_columns
from medallion_platform.pipeline.intake.triage_on_executors import IntakeTask, Piece, triage_messages
from medallion_platform.pipeline.intake.undeclared import MOST, known_undeclared_columns, notes_on_further
from medallion_platform.pipeline.observer import EventReporter
from medallion_platform.pipeline.run import Run
from medallion_platform.sources.connectors.kafka import KafkaSource
from medallion_platform.sources.connectors.kafka.bounded_run import Topics, look_at_topics
from medallion_platform.sources.connectors.kafka.client import KafkaClient
from medallion_platform.sources.connectors.kafka.on_spark import (
    NotForSpark,
    partition_provenance,
    spark_reader_options,
)
from medallion_platform.sources.connectors.kafka.settings import hide_setting_values
from medallion_platform.sources.errors import OwnershipLost, Unavailable
from medallion_platform.spark.progress import tasks_done
from medallion_platform.storage import store

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyspark.errors import PySparkException
    from pyspark.sql import DataFrame, SparkSession

    from medallion_platform.lakehouse.commit_record import CommitRecord
    from medallion_platform.lakehouse.lake import Lake
    from medallion_platform.pipeline.intake.stream import WorkerObserver
    from medallion_platform.sources.arrivals import Arrivals
    from medallion_platform.sources.source import Source

_LOG = logging.getLogger(__name__)

BATCH_ROWS = 1_000_000
"""Messages of a batch: the driver holds their keys, the executors no more than a piece each."""

Behind = Callable[[], Mapping[str, int]]
"""Asks how many offsets of each log are still to be read."""

_LOOK_EVERY = 0.2
_TRIGGER = "200 milliseconds"
_LOST = "KAFKA_DATA_LOSS"
"""Spark's condition for offsets that are gone ("Error Conditions"); a subclass follows after a dot."""
_WORKER_DIED = "Python worker exited unexpectedly"
"""What Spark says (BasePythonRunner) of a process of Python that ended, and no code."""
_NOBODY = {"bootstrap.servers": "-"}


def intake(arrivals: Arrivals, lake: Lake, spark: SparkSession, run: Run) -> IntakeResult:
    """Take in what has arrived in topics.

    Raises:
        DamagedFile: a data file that is searched for duplicates is missing or damaged.
        CommitConflict: other writers committed first every time; run it again.
        IntakeFailed: an expectation of severity `fail` was violated, or the source has no topics.
        Unavailable: no broker responds, or Spark could not continue reading.
    """
    with (tell := EventReporter(run, arrivals.source.table, _LOG)).ended():
        if not isinstance(arrivals, Topics):
            raise _refuse_without_topics(arrivals.source)
        with noted(lake, arrivals.source.table) as notes:
            return _take_in_topics(arrivals, lake, spark, run, tell, notes)


def _refuse_without_topics(source: Source) -> IntakeFailed:
    return IntakeFailed(
        f"source {source.name}: the Spark engine reads Kafka topics only. Nothing was taken in",
        kind=Kind.PERMANENT,
        table=source.table,
        remedy='declare the source without engine="spark"',
    )


def _take_in_topics(
    topics: Topics, lake: Lake, spark: SparkSession, run: Run, tell: EventReporter, notes: Notes
) -> IntakeResult:
    started, source = time.monotonic(), topics.source
    taken = IntakeResult(source.name, source.table, notes=list(topics.notes))
    keys = Keys()
    for attempt in range(ATTEMPTS):
        taken.pieces = max(taken.pieces, len(topics.waiting(lake.positions(source.table))))
        if not taken.pieces:
            break
        try:
            taken.add(_commit_beginnings(topics, lake, run).record)
            taken.add(polars_intake.intake(topics, lake, run, report_end=False, suspects=notes).record)
            batches = _Batches(source, lake, lambda: run, lambda one, _: taken.add(one.record), keys, topics)
            if any(r.next < r.partition.end for r in batches.readings.values()):
                batches.read(spark, {"availableNow": True}, Event())
            break
        except (OwnershipLost, CommitConflict) as error:
            topics = look_at_topics(source, lake.positions(source.table))
            if attempt + 1 == ATTEMPTS:
                raise CommitConflict(f"{source.table}: others wrote to it at the same time") from error
            if isinstance(error, CommitConflict):
                tell.conflicted(error)
            tell.retried(attempt + 2, error)
    taken.version = lake.version(source.table)
    taken.seconds = round(time.monotonic() - started, 3)
    return taken


def stream(
    source: Source,
    lake: Lake,
    spark: SparkSession,
    run: Callable[[], Run],
    stop: Event,
    watch: WorkerObserver,
) -> None:
    """Take in messages until `stop` is set; the current batch is finished first.

    Raises:
        DamagedFile: a data file that is searched for duplicates is missing or damaged.
        IntakeFailed: an expectation of severity `fail` was violated, the contract does not fit the table,
            or the source has no topics; nothing of the batch was taken in.
    """
    if not isinstance(source, KafkaSource):
        raise _refuse_without_topics(source)
    keys = Keys()

    def tell(taken: IntakeResult, behind: Behind) -> None:
        watch.taken(taken, behind())
        upkeep.committed()

    with BackgroundMaintenance(lake, source.table) as upkeep, noted(lake, source.table) as notes:
        report_deaths(source, lake)
        while not stop.is_set():
            moments = EventReporter(run(), source.table, _LOG)
            try:
                topics = look_at_topics(source, lake.positions(source.table))
                begun = _commit_beginnings(topics, lake, run())
                suspects = polars_intake.intake(topics, lake, run(), report_end=False, suspects=notes)
                for taken in (begun, suspects):
                    if taken.counts.read:
                        watch.taken(taken, {})
                batches = _Batches(source, lake, run, tell, keys, topics)
                batches.read(spark, {"processingTime": _TRIGGER}, stop, watch)
            except (OwnershipLost, CommitConflict) as error:
                if isinstance(error, CommitConflict):
                    moments.conflicted(error)
                watch.working()
            except Exception as error:
                watch.failed(error, {})
                why = why_to_wait(error)
                if classify(error).kind is Kind.POISON:  # of the second one halves are taken, not by Spark
                    notes.keep()
                    why = str(error)
                if not why:
                    moments.failed(error)
                    raise
                watch.waits(why)
                stop.wait(PAUSE)
        notes.withdraw()


def _commit_beginnings(topics: Topics, lake: Lake, run: Run) -> IntakeResult:
    """Commit the start of each partition and the range lost before it, unless the table has them already."""
    if table := lake.open(topics.source.table):
        recover_positions(topics.source, table, lake, run)
    beginnings = topics.beginnings(lake.positions(topics.source.table))
    return polars_intake.intake(beginnings, lake, run, report_end=False)


class _Batches:
    """The batches of one query, from the table's positions on."""

    def __init__(
        self,
        source: KafkaSource,
        lake: Lake,
        run: Callable[[], Run],
        tell: Callable[[IntakeResult, Behind], None],
        keys: Keys,
        topics: Topics,
    ) -> None:
        self.source, self.lake, self.run, self.tell, self.keys = source, lake, run, tell, keys
        self.topics = topics
        position = lake.positions(source.table)
        there = {(p.topic, p.number) for p in topics.partitions}
        self.readings = {r.place: r for r, _ in topics.begin(position) if r.place in there}
        self._busy, self._ended = Lock(), False
        self._failed: Exception | None = None

    def read(
        self,
        spark: SparkSession,
        trigger: Mapping[str, Any],
        stop: Event,
        watch: WorkerObserver | None = None,
    ) -> None:
        """Let Spark read until the query ends, or `stop` is set between two batches.

        Raises:
            OwnershipLost: the table or the topics changed since the query started: start a new query.
        """
        try:
            given = spark_reader_options(self.source, self.readings.values(), BATCH_ROWS)
        except NotForSpark as error:
            raise IntakeFailed(
                f"source {self.source.name}: {error}. Nothing was taken in",
                kind=Kind.PERMANENT,
                table=self.source.table,
            ) from None
        with (
            closing(KafkaClient(self.source)) as self._client,
            TemporaryDirectory(prefix="medallion-checkpoint-", ignore_cleanup_errors=True) as checkpoint,
        ):
            messages = spark.readStream.format("kafka").options(**given).load()
            batches = messages.writeStream.option("checkpointLocation", f"file://{checkpoint}")
            query = (
                batches.foreachBatch(partial(self._take_batch, Path(checkpoint))).trigger(**trigger).start()
            )
            try:
                progress: object = None
                while not (self._failed or query.awaitTermination(_LOOK_EVERY)):  # type: ignore[arg-type]
                    if watch and not self._busy.locked():
                        watch.idle()
                    elif watch and progress != (progress := tasks_done(spark)):
                        watch.working()
                    if stop.is_set():
                        with self._busy:
                            self._ended = True
                        break
            except Exception as error:
                raise (self._error_in_words(error) if _is_spark_error(error) else error) from None
            finally:
                query.stop()
        if self._failed:
            raise self._failed

    def _error_in_words(self, error: PySparkException) -> Exception:
        text = str(error)
        if classify(error).kind in (Kind.RATE_LIMIT, Kind.TRANSIENT, Kind.AUTH):  # as a bucket answers
            return error
        if _WORKER_DIED in text:
            return IntakeFailed(
                f"source {self.source.name}: a process of Spark ended over what it read. Nothing of this "
                "batch was taken in",
                kind=Kind.POISON,
                table=self.source.table,
                remedy="run again: the record is found by halves, and becomes a dead letter",
            )
        if any(link.code.partition(".")[0] == _LOST for link in links(error)):
            return OwnershipLost(f"source {self.source.name}: offsets were deleted before Spark read them")
        first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
        first = hide_setting_values(self.source, first)[:300]
        return Unavailable(
            f"source {self.source.name}: Spark could not go on reading ({first}); what was taken in "
            "is safe, the next intake continues from there"
        )

    def _take_batch(self, checkpoint: Path, messages: DataFrame, batch: int) -> None:
        """Take in one batch from Spark; none after a failure."""
        with self._busy:
            if self._ended or self._failed:
                return
            table = self.source.table
            try:
                with report_damage(self.lake, (table, dead_letters.name(table))):
                    self._commit_messages(messages, _read_batch_ends(checkpoint, batch))
            except Exception as error:  # thrown through the JVM it would be another one
                self._failed = self._error_in_words(error) if _is_spark_error(error) else error

    def _commit_messages(self, messages: DataFrame, ends: Mapping[tuple[str, int], int]) -> None:
        started = time.monotonic()
        source, lake, run = self.source, self.lake, self.run()
        table = lake.open(source.table)
        if table is None or not ends:
            return  # a pattern that no topic has yet
        refuse_other_types(source, table)  # they may be others since the query began
        positions = self._positions_after(table, ends)
        if not positions:
            return
        tell = EventReporter(run, source.table, _LOG)
        tell.planned(f"messages of {source.name}")
        letters = lake.open(dead_letters.name(source.table))
        work = IntakeTask(
            replace(source, settings=_NOBODY),  # executors need no secrets: the messages come to them
            Run(run.run_id, run.at),  # nor does whoever watches
            partition_provenance(self.readings.values()),
            _letters_of_batch(letters, table, positions),
            pl.scan_delta(table).collect_schema(),
            lake.path(source.table),
            lake.path(dead_letters.name(source.table)),
            f"staged-{uuid.uuid4().hex}",
            table.metadata().partition_columns,
        )
        told = _message_columns(messages).mapInArrow(partial(triage_messages, work), "told binary").collect()
        pieces = _raise_or_pieces(pickle.loads(row.told) for row in told)  # noqa: S301 from our executors
        refuse_failures(source, sum_counts(p.failures for p in pieces))
        twice = _remove_duplicates_from_staged_files(work, table, pieces, self.keys)
        _add_columns(table, pieces, source, run.guard)
        if others := self._client.recreated_topics(self.topics.partitions):
            raise OwnershipLost(f"source {source.name}: {', '.join(others)} was recreated while it was read")
        good = _list_staged_files(
            work.table, work.folder, [f for p in pieces for f in p.rows], work.partition_by
        )
        bad = _list_staged_files(work.letters, work.folder, [f for p in pieces for f in p.bad], ())
        held = sum(p.held for p in pieces)
        further = sum(p.further for p in pieces)
        record = intake_record(
            "intake",
            run,
            Counts(
                sum(p.read for p in pieces),
                sum(f.rows for f in good),
                sum(f.rows for f in bad) + held,
                sum(twice.values()),
            ),
            positions,
            next_sequence(table, letters),
            partitions=_subtract_counts(sum_counts(p.partitions for p in pieces), twice),
            violations=sum_counts(p.violations for p in pieces),
            warnings=sum_counts(p.warnings for p in pieces),
            looks_personal=sum_counts(p.looks_personal for p in pieces),
            notes=notes_on_further(further),
            further=further,
        )

        def write_rows(record: CommitRecord) -> int:
            return commit_files(table, record, add=good, positions=positions, guard=run.guard)

        def write_letters(letters: DeltaTable, record: CommitRecord, positions: Mapping[str, int]) -> None:
            dead_letters.bring_up(letters)
            commit_files(letters, record, add=bad, positions=positions, guard=run.guard)

        pending = PendingIntake(source, lake, table, letters, positions, record, started)
        version, record = commit_batch(pending, tell, write_rows, write_letters if bad else None)
        for place, end in ends.items():
            self.readings[place].next = end
        taken = IntakeResult(source.name, source.table, pieces=len(positions), version=version)
        taken.add(record)
        taken.seconds = record.seconds
        self.tell(taken, self._offsets_behind)

    def _positions_after(self, table: DeltaTable, ends: Mapping[tuple[str, int], int]) -> dict[str, int]:
        """The positions after a batch, for the partitions with new messages.

        Raises:
            OwnershipLost: the batch does not start at the table's positions.
        """
        positions: dict[str, int] = {}
        for place, end in ends.items():
            reading = self.readings.get(place)
            if reading is None or table.transaction_version(reading.log) != reading.reached:
                raise OwnershipLost(f"{self.source.table}: {'/'.join(map(str, place))} is elsewhere by now")
            if end > reading.next:
                positions[reading.log] = replace(reading, next=end).reached
        return positions

    def _offsets_behind(self) -> dict[str, int]:
        """The number of offsets of each partition still to be read, as far as brokers answer."""
        found: dict[str, int] = {}
        for reading in self.readings.values():
            with suppress(Unavailable):
                _, end = self._client.watermarks(*reading.place)
                found[reading.log] = max(end - reading.next, 0)
        return found


def _raise_or_pieces(told: Iterable[Piece | MedallionError]) -> list[Piece]:
    """The pieces that the executors wrote.

    Raises:
        MedallionError: an executor was stopped by it, such as by a schema registry that does not respond.
    """
    pieces: list[Piece] = []
    for piece in told:
        if isinstance(piece, MedallionError):
            raise piece
        pieces.append(piece)
    return pieces


def _is_spark_error(error: Exception) -> TypeGuard[PySparkException]:
    from pyspark.errors import PySparkException

    return isinstance(error, PySparkException)


def _message_columns(messages: DataFrame) -> DataFrame:
    """The columns of a message that executors need."""
    from pyspark.sql import functions as F

    # As text, and only where there are any: lists of structs cost four times the reading on their way.
    headers = F.when(F.size("headers") > 0, F.to_json("headers")).alias("headers")
    names = ("topic", "partition", "offset", "timestamp", "timestampType", "key", "value")
    return messages.select(*names, headers)


def _read_batch_ends(checkpoint: Path, batch: int) -> dict[tuple[str, int], int]:
    """The end of a batch by topic and partition, which Spark stores before it starts ("OffsetSeqLog").

    The messages do not show it, because transactions leave markers after the last message.

    Raises:
        OwnershipLost: it cannot be read.
    """
    try:
        written = json.loads((checkpoint / "offsets" / str(batch)).read_text().splitlines()[-1])
        return {(topic, int(n)): end for topic, ends in written.items() for n, end in ends.items()}
    except (OSError, ValueError, IndexError, AttributeError) as error:
        raise OwnershipLost(f"Spark's checkpoint {checkpoint} is damaged ({error})") from None


def _letters_of_batch(
    letters: DeltaTable | None, table: DeltaTable, positions: Mapping[str, int]
) -> pl.DataFrame:
    """The places of a batch that are dead letters already, because an earlier intake died before its rows."""
    none = pl.DataFrame(schema={c: dead_letters.columns()[c] for c in LETTER_PLACE})
    if letters is None or not letters_are_ahead(letters, table, positions):
        return none
    begin = min(table.transaction_version(log) or 0 for log in positions)
    there = read_key_columns(letters, LETTER_PLACE, {"offset": (begin, max(positions.values()))})
    return there.filter(pl.col("source").is_in(list(positions))).unique()


def _remove_duplicates_from_staged_files(
    work: IntakeTask, table: DeltaTable, pieces: Sequence[Piece], keys: Keys
) -> dict[str, int]:
    """Remove rows that the table has already from the staged files; returns their number by partition."""
    identities = [p.identities for p in pieces if p.identities is not None]
    if not identities:
        return {}
    rows = pl.concat(identities).sort("_offset", maintain_order=True)
    twice = rows.filter(
        find_duplicates(rows, work.source.contract, table, identity_columns(work.source), keys)
    )
    for (path,), group in twice.group_by("_path"):
        _remove_rows(work.table, str(path), group["_place"])
    counted = twice.group_by("_partition").len()
    return dict(zip(counted["_partition"], counted["len"], strict=True))


def _remove_rows(root: str, path: str, places: pl.Series) -> None:
    """Rewrite a staged file without some of its rows."""
    files = store(root)
    rows = pl.DataFrame(pq.read_table(pa.BufferReader(files.get(path).bytes())))
    rows = rows.filter(~pl.int_range(rows.height, dtype=pl.UInt32, eager=True).is_in(places.implode()))
    if rows.is_empty():
        files.delete(path)
    else:
        stage_partition_file(root, path, rows)


def _add_columns(
    table: DeltaTable, pieces: Sequence[Piece], source: KafkaSource, guard: Guard = UNGUARDED
) -> None:
    """Add the columns that the table lacks.

    Raises:
        CommitConflict: another writer committed first.
        OwnershipLost: two executors spelled a new column differently, or together they add too many columns.
            On the next attempt both know the columns that exist.
    """
    have = pa.schema(table.schema())
    declared = bronze_schema(source).names
    new: dict[str, pa.Field[Any]] = {}
    clash = ""
    for piece in pieces:
        for name in evolve_schema(have, piece.schema).added:
            spelled = new.setdefault(folded(name), piece.schema.field(name)).name
            clash = clash or (name if spelled != name else "")
    undeclared = sorted(f.name for f in new.values() if not f.name.startswith("_") and f.name not in declared)
    surplus = undeclared[max(MOST - len(known_undeclared_columns(have.names, declared)), 0) :]
    add_columns(table, pa.schema([f for f in new.values() if f.name not in surplus]), guard)
    if clash:
        raise OwnershipLost(f"{table.metadata().name}: the new column {clash} came in two spellings")
    if surplus:
        raise OwnershipLost(f"{table.metadata().name}: {len(surplus)} new columns are too many")


def _list_staged_files(
    root: str, folder: str, written: Sequence[str], partition_by: Sequence[str]
) -> list[StagedFile]:
    """The staged files to commit, without those of task attempts that were repeated."""
    if not written:
        return []
    return move_staged_files(root, folder, partition_by, only=set(written))


def _subtract_counts(partitions: Mapping[str, int], twice: Mapping[str, int]) -> dict[str, int]:
    left = {partition: n - twice.get(partition, 0) for partition, n in sorted(partitions.items())}
    return {partition: n for partition, n in left.items() if n}
