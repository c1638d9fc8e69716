"""Several writers of one table in a bucket: no commit is lost, none is there twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from medallion_platform.lakehouse.lake import Lake

from .server import Server, losing_first_answers, proxy

pytestmark = [pytest.mark.s3, pytest.mark.timeout(600)]
WRITER = Path(__file__).with_name("writer.py")
_LONG = 240


TABLE = "bronze.raced"


def lake_in(bucket: str) -> Lake:
    """A lake with an empty table, so that no writer need create it."""
    lake = Lake(bucket)
    lake.ensure(TABLE, pl.DataFrame(schema={"writer": pl.String, "n": pl.Int64}).to_arrow().schema)
    return lake


def written(lake: Lake) -> list[tuple[str, int]]:
    found = lake.open(TABLE)
    assert found is not None
    return sorted(pl.scan_delta(found).collect().rows())


def race(lake: Lake, writers: Sequence[tuple[str, str, int]], environment: dict[str, str]) -> None:
    """Let (engine, name, commits) write at the same time, each in a process of its own."""
    running = [
        subprocess.Popen(
            [sys.executable, str(WRITER), engine, lake.path(TABLE), name, str(count)],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for engine, name, count in writers
    ]
    try:
        for process in running:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in running:
            assert process.communicate(timeout=_LONG)[0] == "done\n"
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_two_spark_drivers_and_delta_rs_lose_no_commit(server: Server, bucket: str) -> None:
    lake = lake_in(bucket)
    race(lake, [("spark", "a", 12), ("spark", "b", 12), ("delta-rs", "c", 30)], {})
    expected = [(name, n) for name, count in (("a", 12), ("b", 12), ("c", 30)) for n in range(count)]
    assert written(lake) == expected
    assert lake.version(TABLE) == 12 + 12 + 30


def test_a_driver_whose_answer_was_lost_knows_its_own_commit(server: Server, bucket: str) -> None:
    lake = lake_in(bucket)
    lost: list[str] = []
    with proxy(server, losing_first_answers(lost)) as through:
        race(lake, [("spark", "a", 3)], through.environment)
    assert len(lost) == 3, "no answer was lost, so nothing was tested"
    assert written(lake) == [("a", 0), ("a", 1), ("a", 2)]
    assert lake.version(TABLE) == 3
