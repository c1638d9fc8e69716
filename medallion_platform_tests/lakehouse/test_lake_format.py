"""The format of a lake: said in one place, reached once by who comes first, refused where it is newer."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake
from typer.testing import CliRunner

from medallion_platform import storage
from medallion_platform.cli import app
from medallion_platform.cli.exits import NOT_READY, Stop
from medallion_platform.lakehouse import dead_letters, log_archive
from medallion_platform.lakehouse.commit_record import FORMAT, CommitRecord
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.lake_format import (
    NewerLake,
    migrate_lake,
    open_lake,
    open_to_look,
    read_format,
    write_format,
)

SILVER = "silver.hired_employees"
OF_1 = Path(__file__).parents[1] / "upgrade" / "lake-of-format-1.tar.xz"
DRIVER = """
import os, signal, sys
from medallion_platform import storage
from medallion_platform.lakehouse.lake_format import open_lake
left = int(sys.argv[2])
def counted(name):
    whole = getattr(type(storage.store(sys.argv[1])), name)
    def step(self, *args, **options):
        global left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return whole(self, *args, **options)
    return step
class Counted(type(storage.store(sys.argv[1]))):
    put, delete, get = counted("put"), counted("delete"), counted("get")
plain = storage.store
storage.store = lambda root: Counted(root, mkdir=True)
import medallion_platform.lakehouse.log_archive as archive
archive.store = storage.store
open_lake(sys.argv[1])
"""
"""Opens a lake; killed before the n-th time that it reads, writes or deletes a file itself."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Two tables of a lake of format 1: one with an archived log, and dead letters of another."""
    with tarfile.open(OF_1) as packed:
        wanted = ("lake/bronze/jobs/", f"lake/dead_letters/{SILVER}/")
        members = [m for m in packed if f"{m.name}/".startswith(wanted)]
        packed.extractall(tmp_path, filter="data", members=members)
    return tmp_path / "lake"


def test_a_new_lake_says_the_format_of_this_version(tmp_path: Path) -> None:
    root = str(tmp_path / "lake")
    assert read_format(root) == 0
    open_lake(root)
    assert read_format(root) == FORMAT


@pytest.mark.parametrize("beside", ["bronze/x", "files/y", "dead_letters/silver.z"])
def test_a_lake_with_any_table_and_no_mark_is_of_the_first_format(tmp_path: Path, beside: str) -> None:
    (tmp_path / beside / "_delta_log").mkdir(parents=True)
    (tmp_path / beside / "_delta_log" / "0.json").write_text("{}")
    assert read_format(str(tmp_path)) == 1


@pytest.mark.failure("permanent")
def test_a_newer_lake_is_refused_in_one_sentence_and_nothing_is_written(old: Path) -> None:
    write_format(str(old), FORMAT + 1)
    before = {p: p.stat().st_mtime_ns for p in old.rglob("*")}
    with pytest.raises(NewerLake) as refused:
        open_lake(old)
    said = str(refused.value)
    assert f"format {FORMAT + 1}" in said
    assert f"up to {FORMAT}" in said
    assert "install the version that wrote it" in said
    assert "\n" not in said
    assert {p: p.stat().st_mtime_ns for p in old.rglob("*")} == before


LOOKS = (
    ["status"],
    ["plan"],
    ["history", "bronze.jobs"],
    ["show", "bronze.jobs"],
    ["logs", "some-run"],
    ["dead-letters", "list"],
    ["dead-letters", "show", SILVER],
)


@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
def test_a_look_leaves_an_older_lake_as_it_is_and_says_what_migrates_it(
    old: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDALLION_LAKE", str(old))
    before = {p: p.stat().st_mtime_ns for p in old.rglob("*")}
    done = CliRunner().invoke(app, [*command, "--home", str(old.parent / "home")])
    assert isinstance(done.exception, Stop)
    assert done.exception.code == NOT_READY
    said = str(done.exception)
    assert "has format 1" in said and f"reads format {FORMAT}" in said
    assert "`medallion run` brings the lake up to date once" in said
    assert "\n" not in said
    assert {p: p.stat().st_mtime_ns for p in old.rglob("*")} == before


def test_a_look_reads_a_lake_of_today_and_refuses_a_newer_one(old: Path, tmp_path: Path) -> None:
    open_lake(old)
    assert open_to_look(old).rows("bronze.jobs") == Lake(old).rows("bronze.jobs") > 0
    write_format(str(old), FORMAT + 1)
    with pytest.raises(NewerLake):
        open_to_look(old)
    new = tmp_path / "new"
    new.mkdir()
    open_to_look(new)
    assert list(new.iterdir()) == []


def test_no_mark_takes_a_lake_back(tmp_path: Path) -> None:
    root = str(tmp_path)
    write_format(root, 7)
    write_format(root, 3)
    assert read_format(root) == 7


def what_it_holds(root: Path) -> dict[str, object]:
    lake = Lake(root)
    jobs = lake.path("bronze.jobs")
    return {
        "history": [(v, r.verb) for v, r in lake.records("bronze.jobs")],
        "archived": {v: len(t) for v, t in log_archive.read_bundle(jobs, 0).items()},
        "letters": dead_letters.read(lake, SILVER).sort("offset", "row", "partition").to_dicts(),
        "columns": lake.open(dead_letters.name(SILVER)).schema().to_json(),  # type: ignore[union-attr]
        "left": sorted(p.name for p in root.rglob("_rolled_log/*")),
        "format": read_format(str(root)),
    }


def test_a_lake_of_format_1_is_migrated_and_says_the_same(old: Path) -> None:
    packed = old / "bronze/jobs/_rolled_log/00000000000000000000.jsonl.gz"
    content = packed.read_bytes()
    files = sorted((old / "dead_letters").rglob("*.parquet"))
    written = pl.concat([pl.read_parquet(f) for f in files if "_delta_log" not in f.parts])
    open_lake(old)
    found = what_it_holds(old)
    assert found["format"] == FORMAT
    assert found["left"] == []
    assert len(found["history"]) == 2_061  # type: ignore[arg-type]
    assert (packed.parents[1] / "_log_archive" / packed.name).read_bytes() == content
    letters = pl.DataFrame(found["letters"])
    assert letters["partition"].sort().to_list() == written["unit"].sort().to_list()
    assert letters["partition"].null_count() == 0
    assert '"partition"' in str(found["columns"])
    # No file of letters is written anew.
    assert files == sorted((old / "dead_letters").rglob("*.parquet"))


def test_killed_before_any_step_and_run_again_it_comes_to_the_same(old: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    subprocess.run(["cp", "-r", str(old), str(whole)], check=True)
    open_lake(whole)
    wanted = what_it_holds(whole)
    killed = 0
    for steps in range(20):
        done = subprocess.run([sys.executable, "-c", DRIVER, str(old), str(steps)], check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        killed += 1
    assert killed >= 3
    assert what_it_holds(old) == wanted


def test_two_processes_migrate_the_same_lake_at_once(old: Path) -> None:
    command = [sys.executable, "-c", DRIVER, str(old), "1000"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [p.communicate(timeout=60)[1] for p in both]
    assert [p.returncode for p in both] == [0, 0], told
    found = what_it_holds(old)
    assert (found["format"], found["left"], len(found["letters"])) == (FORMAT, [], 5)  # type: ignore[arg-type]


def test_letters_of_both_names_are_replaced_by_their_partition(old: Path) -> None:
    lake = open_lake(old)
    before = dead_letters.read(lake, SILVER)
    one = before["partition"][0]
    opened = lake.open(dead_letters.name(SILVER))
    assert opened is not None
    write_deltalake(
        opened,
        dead_letters.fit(before.filter(pl.col("partition") == one)),
        mode="append",
        schema_mode="merge",
    )
    optimized = lake.open(dead_letters.name(SILVER))
    assert optimized is not None
    optimized.optimize.compact()
    assert dead_letters.read(lake, SILVER).filter(pl.col("partition") == one).height == 2
    dead_letters.replace(lake, SILVER, {one}, [], CommitRecord("refresh", "r", "", sequence=1_000))
    left = dead_letters.read(lake, SILVER)
    assert left["partition"].sort().to_list() == sorted(p for p in before["partition"] if p != one)


def test_nothing_but_the_one_door_opens_a_lake() -> None:
    root = Path(log_archive.__file__).parents[1]
    by_itself = [
        f.relative_to(root).as_posix()
        for f in root.rglob("*.py")
        if re.search(r"(?<!class )\bLake\(", f.read_text()) and f.name != "lake_format.py"
    ]
    assert by_itself == []


def test_a_mark_says_who_put_it_there(tmp_path: Path) -> None:
    migrate_lake(str(tmp_path))
    said = json.loads(storage.store(str(tmp_path)).get(f"_medallion/format/{FORMAT}.json").bytes().to_bytes())
    assert (said["format"], bool(said["platform"])) == (FORMAT, True)
