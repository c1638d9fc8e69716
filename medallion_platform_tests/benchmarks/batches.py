"""The same batch of messages taken into tables of more and more commits and partitions.

A table's history is made by intakes of one message each. A worker knows the keys of the files that it saw
before; a run has to read those that lie within the watermark of its batch.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import polars as pl

from medallion_platform.lakehouse import maintenance
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.intake.polars_engine import OpenTables, intake
from medallion_platform.pipeline.intake.stream import COMPACT_EVERY
from medallion_platform.pipeline.run import Run
from medallion_platform.sources.arrivals import Batch, PositionOf
from medallion_platform.sources.connectors.kafka import KafkaSource
from medallion_platform_tests.benchmarks.topics import _source, event

ROWS = 1_000
_LOG, _NOW = "events/events/0", datetime(2026, 1, 5, tzinfo=UTC)


@dataclass
class _Came:
    """Messages that came at these times, as a source gives them."""

    source: KafkaSource
    times: Sequence[datetime]
    notes: Sequence[str] = ()
    pieces: str = "partitions"

    def waiting(self, position: PositionOf) -> list[str]:
        return [_LOG]

    def batches(self, position: PositionOf, rows: int, size: int) -> Iterator[Batch]:
        begin, chance = position(_LOG) or 0, random.Random(len(self.times))
        offsets = pl.Series(range(begin, begin + len(self.times)), dtype=pl.Int64)
        messages = [event(n, at, chance) for n, at in zip(offsets, self.times, strict=True)]
        told = {
            "_source": pl.lit(_LOG),
            "_file": pl.lit("events/0"),
            "_row": offsets + 1,
            "_offset": offsets,
            "_key": pl.lit(None, pl.Binary),
            "_headers": pl.lit([], pl.List(pl.Struct({"key": pl.String, "value": pl.Binary}))),
            "_timestamp": pl.lit(None, pl.Datetime("us", "UTC")),
        }
        frame = self.source.format.parse(messages).drop("_row").with_columns(**told)
        yield Batch(frame, [], {_LOG: begin + len(self.times)})


def growth(rounds: int, most: int = 1000) -> list[dict[str, str]]:
    """Milliseconds of one batch, medians: by a worker, and by a run that begins with it.

    One table of many commits has its files merged now and then, as a worker does beside its intake.
    """
    few = most // 100
    sizes = ((few, 1, False), (most, 1, True), (most, 1, False), (few, most, False))
    return [_costs(rounds, commits, days, merged) for commits, days, merged in sizes]


def _costs(rounds: int, commits: int, days: int, merged: bool) -> dict[str, str]:
    source = _source("events", "nowhere:9092")
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(Path(folder))
        worker = OpenTables(lake)

        def take(times: Sequence[datetime], kept: OpenTables) -> float:
            came, began = _Came(source, times), time.perf_counter()
            taken = intake(came, lake, Run("bench", _NOW), open_tables=kept)
            assert taken.counts.written == len(times), taken
            return (time.perf_counter() - began) * 1000

        take([_NOW - timedelta(days=n) for n in range(days)], worker)
        for n in range(commits - 1):
            take([_NOW - timedelta(minutes=n % 600)], worker)
            if merged and n % COMPACT_EVERY == 0:
                maintenance.optimize(lake, source.table)
        table = lake.open(source.table)
        assert table
        counted = {"commits": commits, "partitions": days, "files": len(table.file_uris())}
        batch = [_NOW + timedelta(milliseconds=n) for n in range(ROWS)]
        warm = [take(batch, worker) for _ in range(rounds + 1)][1:]
        cold = [take(batch, OpenTables(lake)) for _ in range(rounds)]
    return {name: f"{n:,}" for name, n in counted.items()} | {
        f"{ROWS:,} messages by a worker": f"{median(warm):.0f} ms",
        "by a run": f"{median(cold):.0f} ms",
    }
