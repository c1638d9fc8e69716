"""A long log is archived, and nobody notices but by the time that it takes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest
from deltalake.exceptions import DeltaError

from medallion_platform.lakehouse import log_archive, maintenance, polars_writer
from medallion_platform.lakehouse.commit import commit_files, next_sequence
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.delta_log import LogGone, commits, texts, touched
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.log_archive import DamagedBundle
from medallion_platform.lakehouse.spark_tables import appended, read
from medallion_platform.pipeline.intake.stream import COMPACT_EVERY, BackgroundMaintenance
from medallion_platform.storage import run_in_parallel

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TABLE = "bronze.t"
BUNDLE = KEPT = 100
COMMITS = 2 * BUNDLE + KEPT + 65
LATER = datetime.now(UTC) + timedelta(hours=2)
OLD = (7, 99, 100, 123, 199, 203)
"""Versions to go back to: before the first checkpoint, on the edges, between two checkpoints."""


@pytest.fixture(autouse=True)
def small_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_archive, "BUNDLE", BUNDLE)
    monkeypatch.setattr(log_archive, "KEPT", KEPT)


def archive(path: str, now: datetime = LATER) -> int:
    return log_archive.archive_log(path, now)


def record(n: int) -> CommitRecord:
    return CommitRecord(
        "intake", f"run-{n // 10}", LATER.isoformat(), Counts(1, 1), sequence=n, partitions={"a": 1}
    )


def stream_into(lake: Lake) -> None:
    """Make a table with a long log: rows in every 5th commit, merged in every 50th."""
    columns = pl.DataFrame(schema={"unit": pl.String, "n": pl.Int64})
    table = lake.ensure(TABLE, columns.to_arrow().schema, ["unit"])
    for n in range(1, COMMITS):
        if n % 50 == 0:
            maintenance.optimize(lake, TABLE)
            table.update_incremental()
        if n % 5 == 0:
            rows = pl.DataFrame({"unit": ["ab"[n % 10 // 5]], "n": [n]})
            polars_writer.append_rows(table, rows, record(n), {"log": n})
        else:
            commit_files(table, record(n), positions={"log": n})


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a lake with one such table."""
    root = tmp_path_factory.mktemp("streamed")
    stream_into(Lake(root))
    return root


@pytest.fixture
def lake(streamed: Path, tmp_path: Path) -> Lake:
    """A copy of it, which may be changed."""
    shutil.copytree(streamed, tmp_path / "lake")
    return Lake(tmp_path / "lake")


def content(lake: Lake, version: int | None = None) -> list[int]:
    table = lake.open(TABLE, version)
    assert table is not None
    return sorted(pl.scan_delta(table).collect()["n"])


def log_of(lake: Lake) -> list[str]:
    return sorted(f.name for f in (Path(lake.path(TABLE)) / "_delta_log").iterdir())


def commits_in(lake: Lake) -> list[str]:
    return [name for name in log_of(lake) if name.endswith(".json") and name[0].isdigit()]


@pytest.fixture(scope="module")
def known(streamed: Path) -> Iterator[dict[str, object]]:
    """What a log of full length says."""
    yield told(Lake(streamed))


def told(lake: Lake) -> dict[str, object]:
    path, newest = lake.path(TABLE), lake.version(TABLE)
    return {
        "rows": content(lake),
        "records": lake.records(TABLE),
        "times": lake.committed_at(TABLE),
        "last": lake.last_record(TABLE),
        "changes": list(commits(path, 0, newest, "unit")),
        "touched": touched(commits(path, 48, 160, "unit"), 48, {}).all,
        "texts": dict(texts(path, range(newest + 1))),
    }


def test_a_log_that_was_rolled_up_says_the_same(lake: Lake, known: dict[str, object]) -> None:
    assert archive(lake.path(TABLE)) == 2 * BUNDLE
    assert len(commits_in(lake)) < KEPT + 100
    begins = [
        name[:20] for name in log_of(lake) if "checkpoint.parquet" in name and name < f"{2 * BUNDLE:020}"
    ]
    assert [int(version) for version in begins] == [99, 199]
    assert told(lake) == known
    assert archive(lake.path(TABLE)) == 0


def test_old_versions_can_still_be_read_and_restored(lake: Lake, streamed: Path) -> None:
    expected = {version: content(Lake(streamed), version) for version in OLD}
    archive(lake.path(TABLE))
    kept = commits_in(lake)
    assert {version: content(lake, version) for version in OLD} == expected
    archive(lake.path(TABLE))
    assert commits_in(lake) == kept  # what was put back for the readers is gone again
    table = lake.open(TABLE)
    assert table is not None
    polars_writer.restore_version(table, 123, record(next_sequence(table)))
    assert content(lake) == expected[123]


def test_spark_reads_what_was_rolled_up(lake: Lake, streamed: Path, spark: SparkSession) -> None:
    archive(lake.path(TABLE))
    newest = lake.version(TABLE)
    for version in (newest, 123):
        rows = read(spark, lake, TABLE, version).collect()
        assert sorted(r.n for r in rows) == content(Lake(streamed), version)
    rows = appended(spark, lake, TABLE, 30, newest).collect()
    assert sorted(r.n for r in rows) == [n for n in content(lake) if n > 30]
    assert spark.read.format("delta").load(lake.path(TABLE)).count() == len(content(lake))


def test_writers_and_readers_go_on_beside_it(lake: Lake, known: dict[str, object]) -> None:
    """Two roll the log up at the same time, one reads all of it, one commits."""
    table = lake.open(TABLE)
    assert table is not None
    path, newest = lake.path(TABLE), table.version()

    def write() -> None:
        for n in range(COMMITS, COMMITS + 40):
            commit_files(table, record(n), positions={"log": n})

    with ThreadPoolExecutor(4) as pool:
        writing = pool.submit(write)
        rolling = [pool.submit(archive, path) for _ in range(2)]
        for _ in range(3):
            assert dict(texts(path, range(newest + 1))) == known["texts"]
        writing.result()
        for rolled in rolling:
            rolled.result()
    archive(path)
    assert lake.version(TABLE) == newest + 40
    assert dict(texts(path, range(newest + 1))) == known["texts"]


@pytest.mark.parametrize("deleted", [0, 1, 40, 99])
def test_one_that_died_in_the_middle_is_followed_by_the_next(
    lake: Lake, known: dict[str, object], deleted: int
) -> None:
    """The bundle is there, and of its commits some are deleted."""
    folder = Path(lake.path(TABLE)) / "_delta_log"
    first = commits_in(lake)[:BUNDLE]
    log_archive._store_bundle(lake.path(TABLE), 0, {int(name[:20]): f"_delta_log/{name}" for name in first})  # pyright: ignore[reportPrivateUsage]
    for name in first[::-1][:deleted]:
        (folder / name).unlink()
    assert told(lake) == known
    archive(lake.path(TABLE))
    assert len(commits_in(lake)) < KEPT + 100
    assert told(lake) == known


def test_a_worker_rolls_up_what_its_commits_leave(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_archive, "_OTHERS", timedelta(0))
    with BackgroundMaintenance(lake, TABLE) as upkeep:
        for _ in range(COMPACT_EVERY):
            upkeep.committed()
    assert len(commits_in(lake)) < KEPT + 100


def test_what_is_young_stays(lake: Lake) -> None:
    before = log_of(lake)
    assert archive(lake.path(TABLE), datetime.now(UTC)) == 0
    assert log_of(lake) == before


def test_without_a_checkpoint_nothing_is_taken_out(lake: Lake) -> None:
    folder = Path(lake.path(TABLE)) / "_delta_log"
    for file in [*folder.glob("*.checkpoint.parquet"), folder / "_last_checkpoint"]:
        file.unlink()
    assert archive(lake.path(TABLE)) == 0
    assert len(commits_in(lake)) == lake.version(TABLE) + 1


def test_nothing_is_taken_out_for_a_checkpoint_that_lacks_parts(lake: Lake, known: dict[str, object]) -> None:
    folder = Path(lake.path(TABLE)) / "_delta_log"
    first, *others = sorted(folder.glob("*.checkpoint.parquet"))
    shutil.copy(first, folder / f"{199:020}.checkpoint.{1:010}.{2:010}.parquet")
    for file in [*others, folder / "_last_checkpoint"]:
        file.unlink()
    archive(lake.path(TABLE))
    assert told(lake) == known


def test_vacuum_keeps_what_rolled_up_commits_replaced_as_long_as_others(lake: Lake, streamed: Path) -> None:
    archive(lake.path(TABLE))
    forget_deleted_files(lake)
    long_ago = (LATER - 2 * maintenance.RETENTION).timestamp()
    for file in Path(lake.path(TABLE)).rglob("*.parquet"):
        os.utime(file, (long_ago, long_ago))  # written long ago, and replaced just now
    assert maintenance.vacuum(lake, TABLE).removed == 0
    assert content(lake, 48) == content(Lake(streamed), 48)
    assert maintenance.vacuum(lake, TABLE, now=LATER + maintenance.RETENTION).removed > 0
    assert content(lake) == content(Lake(streamed))


def test_vacuum_goes_on_where_the_log_is_rolled_up_under_it(
    lake: Lake, streamed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_deleted_files(lake)
    long_ago = (LATER - 2 * maintenance.RETENTION).timestamp()
    for file in Path(lake.path(TABLE)).rglob("*.parquet"):
        os.utime(file, (long_ago, long_ago))

    def after_roll_up(work: Callable[[int], bytes], on: list[int]) -> list[bytes]:
        assert archive(lake.path(TABLE)) == 2 * BUNDLE
        return run_in_parallel(work, on)

    monkeypatch.setattr(maintenance, "run_in_parallel", after_roll_up)
    assert maintenance.vacuum(lake, TABLE).removed == 0
    assert content(lake, 48) == content(Lake(streamed), 48)


def forget_deleted_files(lake: Lake) -> None:
    """Let the newest checkpoint name none, as it does a day later."""
    table = lake.open(TABLE)
    assert table is not None
    table.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 0 seconds"})
    again = lake.open(TABLE)
    assert again is not None
    again.create_checkpoint()


def remake(lake: Lake) -> None:
    """Make the table anew where an old one was, of which only the rolled-up log is left."""
    shutil.rmtree(Path(lake.path(TABLE)) / "_delta_log")
    stream_into(lake)


def test_a_table_that_is_made_anew_takes_no_commit_of_the_old_one(lake: Lake, streamed: Path) -> None:
    archive(lake.path(TABLE))
    remake(lake)
    known = told(lake)
    assert known["times"] != told(Lake(streamed))["times"]
    archive(lake.path(TABLE))
    assert len(commits_in(lake)) < KEPT + 100
    assert told(lake) == known


def test_a_commit_of_somebody_who_slept_through_it_replaces_none(
    lake: Lake, known: dict[str, object]
) -> None:
    archive(lake.path(TABLE))
    stray = Path(lake.path(TABLE)) / "_delta_log" / f"{31:020}.json"
    stray.write_text('{"commitInfo":{"timestamp":1}}\n')
    archive(lake.path(TABLE))
    assert stray.exists()
    stray.unlink()
    assert told(lake) == known


def test_a_version_that_a_table_does_not_have_yet_is_not_put_back(lake: Lake) -> None:
    archive(lake.path(TABLE))
    shutil.rmtree(Path(lake.path(TABLE)) / "_delta_log")
    lake.ensure(TABLE, pl.DataFrame(schema={"unit": pl.String, "n": pl.Int64}).to_arrow().schema)
    with pytest.raises(DeltaError):
        lake.open(TABLE, 7)
    assert lake.version(TABLE) == 0


@pytest.mark.parametrize("left", [0, 100])
@pytest.mark.failure("corrupt")
def test_a_damaged_bundle_is_named(lake: Lake, left: int) -> None:
    archive(lake.path(TABLE))
    file = Path(lake.path(TABLE)) / log_archive.FOLDER / f"{0:020}.jsonl.gz"
    file.write_bytes(file.read_bytes()[:left])
    for ask in (lambda: lake.records(TABLE), lambda: maintenance.vacuum(lake, TABLE)):
        with pytest.raises(DamagedBundle, match=f"{file} is damaged"):
            ask()
    assert content(lake)


@pytest.mark.failure("position_lost")
def test_after_its_retention_a_bundle_is_forgotten(lake: Lake) -> None:
    archive(lake.path(TABLE))
    archive(lake.path(TABLE), LATER + log_archive.LOG_RETENTION)
    with pytest.raises(LogGone, match="version 5 is no longer in the log"):
        list(texts(lake.path(TABLE), [5]))
    versions = [version for version, _ in lake.records(TABLE)]
    assert versions[0] == lake.version(TABLE)
    assert versions[-1] >= 2 * BUNDLE
