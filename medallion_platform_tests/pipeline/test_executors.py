"""What an executor of Spark tells the driver of messages, and of what stopped it."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.pipeline.intake.spark_engine import _raise_or_pieces
from medallion_platform.pipeline.intake.triage_on_executors import IntakeTask, triage_messages
from medallion_platform.pipeline.run import Run
from medallion_platform.sources.connectors.kafka import KafkaSource
from medallion_platform.sources.errors import Unavailable
from medallion_platform.sources.formats.avro import Avro
from medallion_platform.sources.formats.jsonlines import JsonLines
from medallion_platform_tests.pipeline.toy import EVENTS
from medallion_platform_tests.ui.server import free_port

AT = datetime(2026, 1, 5, tzinfo=UTC)


def task(root: Path, format: Avro | JsonLines) -> IntakeTask:
    source = KafkaSource(
        "a", "bronze.a", EVENTS, format, "toy", topics=("x",), settings={"bootstrap.servers": "-"}
    )
    places = pl.DataFrame(
        [("x", 0, "a/x/0", "x/0", 0, 0)],
        {
            **{"topic": pl.String, "partition": pl.Int32, "_source": pl.String, "_file": pl.String},
            **{"epoch": pl.Int64, "next": pl.Int64},
        },
        orient="row",
    )
    none = pl.DataFrame(schema={"source": pl.String, "offset": pl.Int64, "row": pl.Int64})
    return IntakeTask(source, Run("test", AT), places, none, {}, f"{root}/a", f"{root}/b", "staged", ())


def messages(*values: bytes) -> pa.RecordBatch:
    n = len(values)
    return pa.record_batch(
        {
            "topic": ["x"] * n,
            "partition": pa.array([0] * n, pa.int32()),
            "offset": pa.array(range(n), pa.int64()),
            "timestamp": pa.array([AT] * n, pa.timestamp("us", "UTC")),
            "timestampType": pa.array([0] * n, pa.int32()),
            "key": pa.array([None] * n, pa.binary()),
            "value": pa.array(values, pa.binary()),
            "headers": pa.array([None] * n, pa.string()),
        }
    )


def told(work: IntakeTask, *batches: pa.RecordBatch) -> list[MedallionError | object]:
    lines = triage_messages(work, iter(batches))
    return [pickle.loads(value) for line in lines for value in line.column("told").to_pylist()]


def test_what_stops_an_executor_reaches_the_driver_with_its_kind(tmp_path: Path) -> None:
    """As a registry that does not respond; raised through the JVM, only its text would be left."""
    batches = iter([messages(b"\0\0\0\0\1x"), messages(b"\0\0\0\0\2x")])
    work = task(tmp_path, Avro(f"http://127.0.0.1:{free_port()}"))
    (line,) = triage_messages(work, batches)
    assert next(batches, None) is None, "the JVM waits until all is taken"
    with pytest.raises(Unavailable, match="schema 1 ") as stopped:
        _raise_or_pieces(pickle.loads(value) for value in line.column("told").to_pylist())
    assert stopped.value.kind is Kind.NETWORK


def test_messages_are_told_by_pieces(tmp_path: Path) -> None:
    found = told(task(tmp_path, JsonLines()), messages(b"{}", b"["))
    (piece,) = _raise_or_pieces(found)  # type: ignore[arg-type]
    assert (piece.read, piece.rows, len(piece.bad)) == (2, [], 1)
