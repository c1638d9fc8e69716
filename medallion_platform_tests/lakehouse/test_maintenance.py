"""Clustering changes files and no row; deleting spares whatever a reader within the retention needs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from medallion_platform.lakehouse import dead_letters, delta_log, file_registry, maintenance, polars_writer
from medallion_platform.lakehouse.commit import (
    CommitConflict,
    commit_files,
    move_staged_files,
    writer_sequence,
)
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.delta_log import commits, touched
from medallion_platform.lakehouse.guard import Guard, NotAllowed
from medallion_platform.lakehouse.lake import Lake, files_of

TABLE = "silver.t"
DAYS = timedelta(days=30)
SCHEMA = {
    "k": pl.String,
    "n": pl.Int64,
    "amount": pl.Decimal(18, 2),
    "at": pl.Datetime("us", "UTC"),
    "tags": pl.List(pl.String),
    "unit": pl.String,
}


def record(sequence: int, **more: Any) -> CommitRecord:
    more.setdefault("position", {"bronze.x": {UNPARTITIONED: sequence}})
    return CommitRecord("refresh", f"run {sequence}", "2026-11-21", Counts(1, 1), sequence=sequence, **more)


def rows(numbers: list[int], partition: str | None = "a") -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "k": f"k{n}" if n % 7 else None,
                "n": n,
                "amount": Decimal(n) / 4,
                "at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=n),
                "tags": [str(n), "x"],
                "unit": partition,
            }
            for n in numbers
        ],
        schema=SCHEMA,
    )


def table_of(root: Path, parts: list[pl.DataFrame], name: str = TABLE) -> Lake:
    lake = Lake(root)
    lake.ensure(name, pl.DataFrame(schema=SCHEMA).to_arrow().schema, ["unit"])
    for n, part in enumerate(parts):
        target = lake.open(name)
        assert target is not None
        polars_writer.append_rows(target, part, record(n + 1), {})
    return lake


def content(lake: Lake, table: str = TABLE, version: int | None = None) -> pl.DataFrame:
    found = lake.open(table, version)
    assert found is not None
    frame = pl.scan_delta(found).collect()
    return frame.sort(pl.struct(c for c, t in frame.schema.items() if t != pl.List(pl.String)))


def age(folder: str | Path, days: float = 60) -> None:
    """Make every file and folder below look as old as that."""
    stamp = time.time() - days * 86_400
    for path in [Path(folder), *Path(folder).rglob("*")]:
        os.utime(path, (stamp, stamp))


UNITS = ["a", "a b", "p%q", "é/ü", "x=1", None]


@given(
    parts=st.lists(st.tuples(st.lists(st.integers(-99, 99), min_size=1), st.sampled_from(UNITS)), max_size=6),
    cluster_by=st.sampled_from([(), ("k",), ("n", "k"), ("at", "amount", "k")]),
)
@settings(max_examples=10, deadline=None)
def test_optimize_changes_no_row_and_a_second_run_does_nothing(
    tmp_path_factory: pytest.TempPathFactory, parts: Any, cluster_by: tuple[str, ...]
) -> None:
    lake = table_of(tmp_path_factory.mktemp("lake"), [rows(n, u) for n, u in parts])
    before, base = content(lake), lake.version(TABLE)
    done = maintenance.optimize(lake, TABLE, cluster_by)
    assert_frame_equal(content(lake), before)
    assert done.files_before == len(parts)
    assert done.files_after == len({u for _, u in parts})
    assert lake.rows(TABLE) == before.height
    if parts:
        assert lake.last_record(TABLE, ("refresh",)) == record(len(parts))
    assert writer_sequence(lake.open(TABLE)) == (len(parts) or -1)
    changed = touched(commits(lake.path(TABLE), base, lake.version(TABLE), "unit"), base, {})
    assert changed.all == set()
    again = maintenance.optimize(lake, TABLE, cluster_by)
    assert again.rewritten == 0
    assert again.version == done.version


def test_the_record_stays_on_top_however_often_a_table_is_optimized(tmp_path: Path) -> None:
    lake = table_of(tmp_path, [rows([1]), rows([2])])
    for n in range(4):
        assert maintenance.optimize(lake, TABLE, ("n",) if n % 2 else ("k",), target_bytes=1).rewritten
        newest = next(delta_log.infos(lake.path(TABLE), lake.version(TABLE)))
        assert CommitRecord.from_json(newest["userMetadata"]) == record(2)


def test_a_column_that_came_later_is_null_in_older_rows(tmp_path: Path) -> None:
    lake = table_of(tmp_path, [rows([1, 2])])
    target = lake.open(TABLE)
    assert target is not None
    polars_writer.append_rows(target, rows([3]).with_columns(extra=pl.lit(7)), record(2), {})
    before = content(lake)
    assert maintenance.optimize(lake, TABLE, ("k",)).files_after == 1
    assert_frame_equal(content(lake), before)
    assert before["extra"].to_list().count(None) == 2


def file(name: str, size: int) -> dict[str, Any]:
    return {"path": f"unit=a/{name}", "size_bytes": size}


def test_what_is_merged_is_not_merged_again_where_there_is_no_order_to_gain() -> None:
    mark = maintenance._cluster_prefix(())
    old, new = [file(f"{mark}{n}", 100) for n in range(2)], [file("new", 40), file("newer", 60)]
    assert maintenance.files_to_rewrite([*old, *new], mark, 100) == new


def test_what_is_clustered_is_left_alone_until_enough_is_new(tmp_path: Path) -> None:
    mark = maintenance._cluster_prefix(("k",))
    old = [file(f"{mark}{n}", 100) for n in range(8)]
    little, much = [file("new", 10), file("newer", 5)], [file("new", 150), file("newer", 60)]

    def chosen(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return maintenance.files_to_rewrite(files, mark, 100)

    assert chosen(old) == []
    assert chosen([*old, little[0]]) == []
    assert chosen([*old, *little]) == little
    assert chosen([*old, *much]) == [*old, *much]
    assert chosen([file("one tiny", 3)]) == []
    assert chosen([file("one big", 50)]) != []
    other = [file(f"{maintenance._cluster_prefix(('n',))}{n}", 100) for n in range(8)]
    assert chosen(other) == other


def test_big_partitions_are_rewritten_in_batches_and_split_into_files(tmp_path: Path) -> None:
    lake = table_of(tmp_path, [rows(list(range(n * 500, n * 500 + 500))) for n in range(6)])
    before, size = content(lake), lake_bytes(lake) // 6
    done = maintenance.optimize(lake, TABLE, ("n",), target_bytes=2 * size, batch_bytes=4 * size)
    assert done.rewritten == 6
    assert 2 <= done.files_after <= 4
    assert_frame_equal(content(lake), before)


def lake_bytes(lake: Lake) -> int:
    opened = lake.open(TABLE)
    assert opened is not None
    return sum(f["size_bytes"] for f in files_of(opened))


@pytest.mark.parametrize("writer_first", [False, True])
@pytest.mark.parametrize("verb", ["append", "replace", "replace one", "commit", "remove"])
def test_a_writer_that_started_before_and_the_optimizer_do_not_undo_each_other(
    tmp_path: Path, verb: str, writer_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """delta-rs's own OPTIMIZE lets an overwrite double the rows here."""
    lake = table_of(tmp_path, [rows([1]), rows([2])])
    mine, theirs = lake.open(TABLE), lake.open(TABLE)
    assert mine is not None
    assert theirs is not None
    writes: dict[str, Callable[[], object]] = {
        "append": lambda: polars_writer.append_rows(mine, rows([3]), record(3), {}),
        "replace": lambda: polars_writer.replace_rows(mine, rows([3]), record(3), None),
        "replace one": lambda: polars_writer.replace_rows(mine, rows([3]), record(3), "unit = 'a'"),
        "commit": lambda: commit_files(mine, record(3)),
        "remove": lambda: commit_files(mine, record(3), remove=files_of(mine)),
    }
    monkeypatch.setattr(maintenance, "_open_supported", lambda *_: theirs)

    def optimize() -> object:
        return maintenance.optimize(lake, TABLE, ("k",))

    first, second = (writes[verb], optimize) if writer_first else (optimize, writes[verb])
    first()
    expected = content(lake)
    only_added = writer_first and verb in ("append", "commit")
    with nullcontext() if only_added else pytest.raises(CommitConflict):
        second()
    assert_frame_equal(content(lake), expected)
    monkeypatch.undo()
    optimize()
    assert_frame_equal(content(lake), expected)


def test_dead_letters_and_ledgers_are_maintained_and_still_written(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    empty = dead_letters.columns()
    for n in range(4):
        one = pl.DataFrame([{**dict.fromkeys(empty), "source": "s", "offset": n, "payload": b"\xff"}], empty)
        dead_letters.append(lake, TABLE, one, record(n + 1), {"s": n})
        entry = dict.fromkeys(file_registry.registry_columns()) | {"sequence": n, "path": f"f{n}"}
        file_registry.register_file_versions(lake, "s", [entry])
    for table in (dead_letters.name(TABLE), file_registry.registry_table("s")):
        done = maintenance.maintain_table(lake, table, now=datetime.now(UTC) + timedelta(days=40))
        assert (done.optimized.files_before, done.optimized.files_after) == (4, 1)
        assert done.vacuumed.removed == 4
    file_registry.register_file_versions(
        lake, "s", [dict.fromkeys(file_registry.registry_columns()) | {"sequence": 4, "path": "f4"}]
    )
    assert file_registry.read_registry(lake, "s")["path"].to_list() == [f"f{n}" for n in range(5)]
    dead_letters.append(lake, TABLE, dead_letters.read(lake, TABLE)[:1], record(5), {"s": 5})
    assert dead_letters.read(lake, TABLE).height == 5
    letters = lake.open(dead_letters.name(TABLE))
    assert letters is not None
    assert letters.transaction_version("s") == 5


@pytest.mark.failure("permanent", work="maintenance")
def test_a_table_whose_files_cannot_be_taken_at_face_value_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = table_of(tmp_path, [rows([1]), rows([2])])
    monkeypatch.setattr(maintenance, "_UNREADABLE", {"someFeature"})
    opened = lake.open(TABLE)

    class Foreign:
        def __getattr__(self, name: str) -> Any:
            return getattr(opened, name)

        def protocol(self) -> Any:
            return type("P", (), {"reader_features": ["someFeature"]})

    monkeypatch.setattr(maintenance, "_open_supported", lambda *_: Foreign())
    with pytest.raises(maintenance.UnsupportedTable, match="someFeature"):
        maintenance.optimize(lake, TABLE)


@given(st.lists(st.tuples(*[st.one_of(st.none(), st.integers(0, 50))] * 2), max_size=30))
@settings(max_examples=20, deadline=None)
def test_the_curve_is_a_permutation_and_one_column_is_sorted(values: list[Any]) -> None:
    frame = pl.DataFrame(values, schema={"a": pl.Int64, "b": pl.Int64}, orient="row").with_row_index("i")
    for columns in ([], ["a"], ["a", "b"], ["b", "a"]):
        along = maintenance.sort_along_curve(frame, columns)
        assert_frame_equal(along.sort("i"), frame)
    assert maintenance.sort_along_curve(frame, ["b"])["b"].equals(frame["b"].sort())


def test_along_the_curve_a_filter_on_any_column_skips_most_files() -> None:
    import random

    seeded = random.Random(1)
    few, many = ([seeded.randrange(n) / n for _ in range(6400)] for n in (200, 10**6))
    frame = pl.DataFrame({"a": few, "b": many})

    def hit(ordered: pl.DataFrame, column: str) -> int:
        files = [ordered.slice(n * 100, 100)[column] for n in range(64)]
        return sum(float(f.min()) <= 0.5 <= float(f.max()) for f in files)  # type: ignore[arg-type]

    along = maintenance.sort_along_curve(frame, ["a", "b"])
    assert max(hit(along, "a"), hit(along, "b")) <= 16
    assert min(hit(frame, "a"), hit(frame, "b")) == 64


def test_vacuum_spares_the_young_and_removes_what_dead_runs_left(tmp_path: Path) -> None:
    lake = table_of(tmp_path, [rows([1]), rows([2])])
    root = Path(lake.path(TABLE))
    for run, old in (("dead", True), ("running", False), ("mixed", False)):
        for name in ("_dead=false/unit=a/p.parquet", "_dead=true/unit=a/.p.parquet.crc", "_SUCCESS"):
            file = root / "staged" / run / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"x" * 10)
        if old:
            age(root / "staged" / run)
    stray = root / "unit=a" / "part-moved-but-never-committed.parquet"
    stray.write_bytes(b"x" * 10)
    os.utime(root / "staged/mixed/_SUCCESS", (1, 1))
    done = maintenance.vacuum(lake, TABLE, DAYS)
    assert (done.removed, done.removed_bytes, done.kept) == (4, 40, 6)
    assert not (root / "staged/dead").exists()
    assert (root / "staged/running/_dead=false/unit=a/p.parquet").exists()
    age(root)
    done = maintenance.vacuum(lake, TABLE, DAYS)
    assert done.removed == 6
    assert not stray.exists()
    assert content(lake)["n"].to_list() == [1, 2]


def as_arrow(lake: Lake) -> pl.DataFrame:
    """Polars itself cannot read such folders."""
    opened = lake.open(TABLE)
    assert opened is not None
    frame = pl.from_arrow(opened.to_pyarrow_table())
    assert isinstance(frame, pl.DataFrame)
    return frame.sort("unit", "n")


def test_live_files_of_staged_folders_with_underscores_are_never_removed(tmp_path: Path) -> None:
    """Tables may hold files where an engine staged them; delta's VACUUM rules skip such folders."""
    lake = table_of(tmp_path, [])
    root = Path(lake.path(TABLE))
    from deltalake.transaction import AddAction

    places = ["staged/id/_dead=false/unit=a/p.parquet", "unit=p%25q/p.parquet", "_odd/unit=a b/p.parquet"]
    adds = []
    for place, partition in zip(places, ["a", "p%q", "a b"], strict=True):
        (root / place).parent.mkdir(parents=True)
        rows([1, 2]).drop("unit").write_parquet(root / place)
        size = (root / place).stat().st_size
        adds.append(AddAction(place, size, {"unit": partition}, 0, True, '{"numRecords":2}'))
    target = lake.open(TABLE)
    assert target is not None
    target.create_write_transaction(adds, mode="append", schema=target.schema(), partition_by=["unit"])
    before = as_arrow(lake)
    age(root)
    assert maintenance.vacuum(lake, TABLE, timedelta(0)).removed == 0
    assert_frame_equal(as_arrow(lake), before)
    done = maintenance.maintain_table(lake, TABLE, ("k", "n"), now=datetime.now(UTC) + 2 * DAYS)
    assert done.optimized.rewritten == 0
    assert_frame_equal(as_arrow(lake), before)


@given(
    steps=st.lists(
        st.sampled_from(["append", "replace", "one", "stage", "optimize", "recluster", "checkpoint"]),
        min_size=1,
        max_size=7,
    ),
    at=st.integers(0, 6),
)
@settings(max_examples=12, deadline=None)
def test_every_version_within_the_retention_reads_as_before(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], at: int
) -> None:
    lake = table_of(tmp_path_factory.mktemp("lake"), [])
    seen: list[tuple[datetime, int, pl.DataFrame]] = []
    for n, step in enumerate(steps):
        target = lake.open(TABLE)
        assert target is not None
        following = replace(record(n + 1), sequence=max(writer_sequence(target), 0) + 1)
        if step == "append":
            polars_writer.append_rows(target, rows([n, n + 50], "a" if n % 2 else "b"), following, {})
        elif step == "replace":
            polars_writer.replace_rows(target, rows([n, n + 9]), following, None)
        elif step == "one":
            polars_writer.replace_rows(target, rows([n], "b"), following, "unit = 'b'")
        elif step == "stage":
            folder = Path(lake.path(TABLE)) / "staged" / str(n) / "unit=a"
            folder.mkdir(parents=True)
            rows([n]).drop("unit").write_parquet(folder / f"{n}.parquet")
            staged = move_staged_files(lake.path(TABLE), f"staged/{n}", ["unit"])
            commit_files(target, following, add=staged, remove=files_of(target))
        elif step == "checkpoint":
            target.create_checkpoint()
        else:
            maintenance.optimize(lake, TABLE, ("k",) if step == "optimize" else ("n", "k"), target_bytes=1)
        seen.append((datetime.now(UTC), lake.version(TABLE), content(lake)))
        time.sleep(0.004)
    cutoff = seen[min(at, len(seen) - 1)][0] + timedelta(milliseconds=2)
    maintenance.vacuum(lake, TABLE, DAYS, now=cutoff + DAYS)
    current = max(t for t, _, _ in seen if t <= cutoff)
    for moment, version, expected in seen:
        if moment >= current:
            assert_frame_equal(content(lake, version=version), expected)
    last = maintenance.vacuum(lake, TABLE, DAYS, now=datetime.now(UTC) + 2 * DAYS)
    assert last.kept == 0
    assert_frame_equal(content(lake), seen[-1][2])


def test_a_reader_pinned_to_an_old_version_keeps_working(tmp_path: Path) -> None:
    lake = table_of(tmp_path, [rows([1]), rows([2])])
    pinned = lake.open(TABLE)
    assert pinned is not None
    maintenance.optimize(lake, TABLE, ("k",))
    age(lake.path(TABLE))
    now = datetime.now(UTC)
    assert maintenance.vacuum(lake, TABLE, DAYS, now=now + timedelta(days=29)).removed == 0
    assert sorted(pl.scan_delta(pinned).collect()["n"]) == [1, 2]
    assert maintenance.vacuum(lake, TABLE, DAYS, now=now + timedelta(days=31)).removed == 2
    assert content(lake)["n"].to_list() == [1, 2]


def test_tombstones_outlive_their_commits_in_the_checkpoint(tmp_path: Path) -> None:
    lake = table_of(tmp_path, [rows([1])])
    target = lake.open(TABLE)
    assert target is not None
    polars_writer.replace_rows(target, rows([2]), record(2), None)
    opened = lake.open(TABLE)
    assert opened is not None
    opened.create_checkpoint()
    root = Path(lake.path(TABLE))
    for file in (root / "_delta_log").glob("*.json"):
        file.unlink()
    for file in root.rglob("*.parquet"):
        if "_delta_log" not in file.parts:
            os.utime(file, (1, 1))
    assert maintenance.vacuum(lake, TABLE, DAYS).removed == 0
    assert maintenance.vacuum(lake, TABLE, DAYS, now=datetime.now(UTC) + 2 * DAYS).removed == 1
    assert content(lake)["n"].to_list() == [2]


def test_dates_and_numbers_partition_as_well(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    frame = pl.DataFrame(
        {"day": [date(2026, 1, 1), date(2026, 1, 2)] * 2, "q": [1, 2] * 2, "n": [4, 3, 2, 1]}
    )
    target = lake.ensure(TABLE, frame.to_arrow().schema, ["day", "q"])
    for n in (1, 2):
        polars_writer.append_rows(target, frame, record(n), {})
    assert maintenance.optimize(lake, TABLE, ("n",)).files_after == 2
    opened = lake.open(TABLE)
    assert opened is not None
    assert pl.scan_delta(opened).filter(pl.col("day") == date(2026, 1, 2), pl.col("q") == 2).collect()[
        "n"
    ].to_list() == [1, 1, 3, 3]


class Ended(Guard):
    """Of a run that is ended after so many questions; what happens while it is paused after one of them."""

    def __init__(self, after: int, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.left, self.meanwhile = after, meanwhile

    def check(self) -> dict[str, int]:
        if not self.left:
            raise NotAllowed("it was ended meanwhile")
        self.left -= 1
        self.meanwhile()
        return {}


@pytest.mark.failure("conflict", work="maintenance")
def test_a_run_that_was_ended_changes_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = table_of(tmp_path, [rows([1]), rows([2])])
    archived: list[str] = []
    monkeypatch.setattr(maintenance.log_archive, "archive_log", lambda path, _: archived.append(path))

    def live() -> set[str]:
        found = lake.open(TABLE)
        assert found is not None
        return {f["path"] for f in files_of(found)}

    def maintain(guard: Guard) -> None:
        maintenance.maintain_table(lake, TABLE, guard=guard, now=datetime.now(UTC) + 2 * DAYS)

    before, replaced = lake.version(TABLE), live()
    with pytest.raises(NotAllowed):
        maintain(Ended(0))
    assert (lake.version(TABLE), live()) == (before, replaced)
    with pytest.raises(NotAllowed):
        maintain(Ended(1))
    assert lake.version(TABLE) == before + 1
    assert all((Path(lake.path(TABLE)) / path).exists() for path in replaced)
    with pytest.raises(NotAllowed):
        maintain(Ended(1))  # there is nothing to rewrite, so it is asked before it deletes and afterwards
    assert not any((Path(lake.path(TABLE)) / path).exists() for path in replaced)
    assert archived == []
    maintain(Ended(2))
    assert len(archived) == 1


@pytest.mark.failure("conflict", work="maintenance")
def test_one_that_is_paused_after_it_was_asked_is_asked_again_if_anybody_wrote(tmp_path: Path) -> None:
    lake = table_of(tmp_path, [rows([1]), rows([2])])

    def write() -> None:
        found = lake.open(TABLE)
        assert found is not None
        polars_writer.append_rows(found, rows([3]), record(3), {})

    before = lake.version(TABLE)
    with pytest.raises(NotAllowed):
        maintenance.optimize(lake, TABLE, guard=Ended(1, write))
    assert lake.version(TABLE) == before + 1
    assert lake.rows(TABLE) == 3


@pytest.mark.failure("conflict", work="maintenance")
def test_a_token_is_in_the_commit_and_a_lower_one_is_refused(tmp_path: Path) -> None:
    lake = table_of(tmp_path, [rows([1]), rows([2])])

    class Token(Guard):
        def __init__(self, number: int) -> None:
            self.number = number

        def check(self) -> dict[str, int]:
            return {"leader/x": self.number}

    assert maintenance.optimize(lake, TABLE, ("k",), guard=Token(3)).rewritten
    assert lake.positions(TABLE)("leader/x") == 3
    assert writer_sequence(lake.open(TABLE)) == 2
    found = lake.open(TABLE)
    assert found is not None
    polars_writer.append_rows(found, rows([3]), record(3), {})
    before = lake.version(TABLE)
    with pytest.raises(CommitConflict):
        maintenance.optimize(lake, TABLE, ("n",), guard=Token(2))
    assert lake.version(TABLE) == before
