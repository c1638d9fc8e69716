"""The sample: the same bytes always, whole files only, and as dirty as it says."""

from __future__ import annotations

import gzip
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medallion_sample.sample import Sample, write_sample


@pytest.fixture(scope="module")
def landing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sample]:
    folder = tmp_path_factory.mktemp("sample") / "landing"
    return folder, write_sample(folder)


def contents(folder: Path) -> dict[str, tuple[bytes, float]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_it_is_the_same_bytes_again_and_quick(landing: tuple[Path, Sample], tmp_path: Path) -> None:
    folder, first = landing
    began = time.process_time()
    second = write_sample(tmp_path)
    assert time.process_time() - began < 5
    assert second == first
    assert contents(tmp_path) == contents(folder)
    assert len(contents(folder)) == first.files


def test_after_a_kill_the_next_call_finishes(landing: tuple[Path, Sample], tmp_path: Path) -> None:
    folder, _ = landing
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    names = list(before)
    (tmp_path / names[3]).unlink()
    (tmp_path / names[5]).write_bytes(b"half of i")
    torn = (tmp_path / names[7]).with_name(f".{Path(names[7]).name}.part")
    torn.write_bytes(b"unfinished")
    (tmp_path / names[7]).unlink()
    inode = (tmp_path / names[9]).stat().st_ino
    write_sample(tmp_path)
    assert contents(tmp_path) == before == contents(folder)
    assert (tmp_path / names[9]).stat().st_ino == inode, "a whole file was written again"


def test_every_file_but_one_is_claimed_and_one_is_torn(landing: tuple[Path, Sample]) -> None:
    from medallion_sample.catalog import catalog_of

    folder, _ = landing
    unclaimed: list[str] = []
    torn: list[str] = []
    for name, (content, _) in contents(folder).items():
        owners = [s.name for s in catalog_of({}).file_sources if s.claims_path(name)]
        assert len(owners) <= 1
        if not owners:
            unclaimed.append(name)
        if name.endswith(".gz"):
            try:
                gzip.decompress(content)
            except EOFError:
                torn.append(name)
    assert unclaimed == ["clickstream/old-export/readme.txt"]
    assert torn == ["clickstream/events/2026-01-08/part-0009.jsonl.gz"]


def test_intake_finds_the_dirt_that_was_planted(landing: tuple[Path, Sample]) -> None:
    """Read and validated as intake does it, without a lake: nothing more is wrong, and nothing less."""
    import polars as pl

    from medallion_platform.contracts import polars_engine
    from medallion_platform.sources.errors import UnreadableFile
    from medallion_sample.clickstream.sources import EVENTS

    folder, sample = landing
    planted = sample.planted["clickstream/events"]
    frames: list[pl.DataFrame] = []
    unreadable = 0
    for path in sorted((folder / "clickstream" / "events").rglob("*.jsonl*")):
        try:
            chunks = list(EVENTS.format.read(path))
        except UnreadableFile:
            unreadable += 1
            continue
        frames += [chunk.drop("_row", strict=False) for chunk in chunks]
    assert unreadable == planted["torn file"] == 1
    records = pl.concat(frames, how="diagonal_relaxed")
    assert records.height == planted["records"] > 40_000
    broken = records.filter(pl.col("_malformed").is_not_null())
    assert broken.height == planted["malformed"]
    validated = polars_engine.validate(EVENTS.contract, records.filter(pl.col("_malformed").is_null()))
    found = Counter({name: n for name, n in validated.violations.items() if n})
    assert found == {
        "event_id: not null": planted["missing event_id"],
        "event_timestamp: is a timestamp": planted["bad timestamp"],
        "event_timestamp: not null": planted["missing timestamp"],
        "amount: is a decimal(12,2)": planted["amount not a number"],
    }
    assert sum(validated.warnings.values()) == planted["bad email"]
    good = validated.good
    repeated = good.height - good["event_id"].n_unique()
    assert repeated == planted["duplicate in file"] + planted["duplicate in a later file"]
    assert "device" in good.columns
    by_day: dict[Any, int] = dict(good.group_by(pl.col("event_timestamp").dt.date()).len().iter_rows())
    assert len(by_day) == 7


def test_ragged_and_unreadable_hr_rows_are_as_planted(landing: tuple[Path, Sample]) -> None:
    import polars as pl

    from medallion_platform.contracts import polars_engine
    from medallion_sample.hr.sources import HIRED_EMPLOYEES

    folder, sample = landing
    planted = sample.planted["hr/hired_employees"]
    frames = [
        chunk
        for path in sorted((folder / "hr" / "hired_employees").iterdir())
        for chunk in HIRED_EMPLOYEES.format.read(path)
    ]
    records = pl.concat(frames, how="diagonal_relaxed")
    assert records.height == planted["records"]
    assert records["_malformed"].is_not_null().sum() == planted["ragged"]
    validated = polars_engine.validate(
        HIRED_EMPLOYEES.contract, records.filter(pl.col("_malformed").is_null())
    )
    assert {name: n for name, n in validated.violations.items() if n} == {
        "id: is a long": planted["id not a number"],
        "hired_at: is a timestamp": planted["hired_at not a timestamp"],
    }
    assert validated.good["name"].str.contains("García, Jr.", literal=True).any()


def test_change_streams_are_out_of_order_with_tombstones(landing: tuple[Path, Sample]) -> None:

    from medallion_sample.clickstream.sources import USERS

    folder, sample = landing
    planted = sample.planted["clickstream/users"]
    events: list[dict[str, Any]] = []
    for path in sorted((folder / "clickstream" / "users").iterdir()):
        for chunk in USERS.format.read(path):
            events += chunk.to_dicts()
    assert len(events) == planted["records"]
    assert all(e["_malformed"] is None for e in events)
    ops = Counter(e["_op"] for e in events)
    assert ops["tombstone"] == planted["tombstone"]
    positions = [e["_sequence"] for e in events if e["_op"] != "tombstone"]
    assert positions != sorted(positions)
    # Deletes and their duplicates.
    assert len({(e["_sequence"], e["user_id"]) for e in events if e["_op"] == "d"}) == planted["delete"]
