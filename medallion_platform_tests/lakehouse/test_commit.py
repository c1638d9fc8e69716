"""Staged files become rows in one commit, and only one of two writers gets in."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medallion_platform.lakehouse import dead_letters, file_registry, polars_writer
from medallion_platform.lakehouse.commit import (
    CommitConflict,
    commit_files,
    files_in_partitions,
    move_staged_files,
    writer_sequence,
)
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import Counts
from medallion_platform.lakehouse.guard import Guard, NotAllowed
from medallion_platform.lakehouse.lake import Lake, files_of

TABLE = "silver.t"
SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("n", pa.int64()),
        ("x", pa.float64()),
        ("s", pa.string()),
        ("d", pa.date32()),
        ("t", pa.timestamp("us", tz="UTC")),
    ]
)
NOW = datetime(2026, 11, 21, tzinfo=UTC)
quick = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def record(sequence: int) -> CommitRecord:
    return CommitRecord("refresh", "r", NOW.isoformat(), Counts(1, 1), sequence=sequence)


def stage(lake: Lake, rows: Iterable[dict[str, Any]], group: int = 2) -> list[Any]:
    """Files below a staged folder, as an engine leaves them, with several row groups each."""
    from urllib.parse import quote

    frame = pl.DataFrame(list(rows), schema=pl.from_arrow(SCHEMA.empty_table()).schema)  # type: ignore[union-attr]
    folder = Path(lake.path(TABLE)) / "staged" / "x"
    for (partition,), part in frame.group_by("unit"):
        name = "__HIVE_DEFAULT_PARTITION__" if partition is None else quote(str(partition), safe=" ")
        target = folder / f"unit={name}"
        target.mkdir(parents=True, exist_ok=True)
        part = part.drop("unit").to_arrow().cast(pa.schema([f for f in SCHEMA if f.name != "unit"]))
        pq.write_table(part, target / f"part-{uuid.uuid4()}.parquet", row_group_size=group)
    return move_staged_files(lake.path(TABLE), "staged/x", ["unit"])


def rows_in(lake: Lake) -> list[dict[str, Any]]:
    return sorted(pl.read_delta(lake.path(TABLE)).to_dicts(), key=repr)


def plain(row: dict[str, Any]) -> str:
    return repr([v.isoformat() if isinstance(v, datetime) else v for v in (row[n] for n in SCHEMA.names)])


rows = st.lists(
    st.fixed_dictionaries(
        {
            "unit": st.sampled_from(["a", "b c", "x=y/%", "é€", None, "2026-01-05"]),
            "n": st.none() | st.integers(-(2**62), 2**62),
            "x": st.none() | st.floats(allow_nan=True),
            "s": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
            "d": st.none() | st.dates(date(1600, 1, 1)),
            "t": st.none() | st.datetimes(datetime(1600, 1, 1), timezones=st.just(UTC)),
        }
    ),
    min_size=1,
    max_size=12,
)


@quick
@given(rows, st.integers(1, 4))
def test_staged_rows_are_the_table_s_rows(
    tmp_path_factory: Any, given_rows: list[dict[str, Any]], group: int
) -> None:
    lake = Lake(tmp_path_factory.mktemp("lake"))
    table = lake.ensure(TABLE, SCHEMA, ["unit"])
    files = stage(lake, given_rows, group)
    assert lake.rows(TABLE) == 0
    commit_files(table, record(1), add=files)
    assert sorted(map(plain, rows_in(lake))) == sorted(map(plain, given_rows))
    assert lake.rows(TABLE) == len(given_rows)
    # Statistics never hide a row: what lies in the table is found by its own value.
    scan = pl.scan_delta(lake.path(TABLE))
    row = given_rows[-1]
    for column in ("n", "s", "d", "t", "x"):
        value = row[column]
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        assert scan.filter(pl.col(column) == pl.lit(value, scan.collect_schema()[column])).collect().height
    for file in files:
        told = json.loads(file.statistics)
        assert told["numRecords"] == file.rows


@pytest.mark.parametrize(("column", "value"), [("s", "\U00020000"), ("x", math.inf), ("x", -math.inf)])
def test_statistics_that_readers_stumble_over(tmp_path: Path, column: str, value: object) -> None:
    lake = Lake(tmp_path)
    table = lake.ensure(TABLE, SCHEMA, ["unit"])
    row = dict.fromkeys(SCHEMA.names) | {"unit": "a", "s": "z", column: value}
    files = stage(lake, [row])
    json.loads(files[0].statistics, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    commit_files(table, record(1), add=files)
    assert pl.scan_delta(lake.path(TABLE)).filter(pl.col(column) == value).collect().height == 1


@pytest.mark.failure("conflict")
def test_of_two_writers_from_one_version_one_is_fenced(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    one, other = lake.ensure(TABLE, SCHEMA, ["unit"]), lake.ensure(TABLE, SCHEMA, ["unit"])
    row = {"unit": "a", "n": 1, "x": 1.0, "s": "s", "d": NOW.date(), "t": NOW}
    commit_files(one, record(1), add=stage(lake, [row]))
    with pytest.raises(CommitConflict):
        commit_files(other, record(1), add=stage(lake, [row]))
    fresh = lake.open(TABLE)
    assert fresh is not None
    with pytest.raises(CommitConflict):
        commit_files(fresh, record(1), add=stage(lake, [row]))
    assert len(rows_in(lake)) == 1
    assert writer_sequence(fresh) == 1
    assert writer_sequence(None) == -1


def test_a_partition_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    table = lake.ensure(TABLE, SCHEMA, ["unit"])

    def row(partition: str | None, n: int) -> dict[str, Any]:
        return {"unit": partition, "n": n, "x": None, "s": None, "d": None, "t": None}

    commit_files(table, record(1), add=stage(lake, [row("a b", 1), row("c%d", 2), row(None, 3)]))
    gone = files_in_partitions(files_of(table), "unit", {"a b", "c%d"})
    assert {f["partition.unit"] for f in gone} == {"a b", "c%d"}
    commit_files(table, record(2), add=stage(lake, [row("a b", 4)]), remove=gone)
    assert [(r["unit"], r["n"]) for r in rows_in(lake)] == [("a b", 4), (None, 3)]
    assert lake.partitions(TABLE, "unit") == {"a b", "*"}
    gone = files_in_partitions(files_of(table), "unit", {"*"})
    commit_files(table, record(3), remove=gone)
    assert [r["n"] for r in rows_in(lake)] == [4]
    wider = SCHEMA.append(pa.field("more", pa.string()))
    commit_files(table, record(4), add=stage(lake, [row("z", 5)]), whole=wider)
    assert [(r["n"], r["more"]) for r in rows_in(lake)] == [(5, None)]
    assert [r.sequence for _, r in lake.records(TABLE)] == [4, 3, 2, 1]
    last = lake.last_record(TABLE)
    assert last is not None
    assert last.sequence == 4


def frame(*n: int) -> pl.DataFrame:
    return pl.DataFrame({"n": list(n)}, schema={"n": pl.Int64})


@pytest.mark.failure("conflict")
def test_a_lean_writer_is_fenced_as_well(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    schema = pa.schema([("n", pa.int64())])
    one, other = lake.ensure("bronze.t", schema), lake.ensure("bronze.t", schema)
    polars_writer.append_rows(one, frame(1), record(1), {"s": 10})
    for write in (
        lambda t: polars_writer.append_rows(t, frame(2), record(1), {"s": 10}),
        lambda t: polars_writer.replace_rows(t, frame(2), record(1), None),
        lambda t: polars_writer.append_rows(t, frame(2), record(2), {"s": 9}),
    ):
        with pytest.raises(CommitConflict):
            write(lake.open("bronze.t"))
    with pytest.raises(CommitConflict):
        polars_writer.append_rows(other, frame(2), record(2), {"s": 11})
    assert pl.read_delta(lake.path("bronze.t"))["n"].to_list() == [1]
    assert one.transaction_version("s") == 10


class Leader(Guard):
    """May write, with this token."""

    def __init__(self, number: int) -> None:
        self.number = number

    def check(self) -> dict[str, int]:
        return {"leader/l": self.number}


@pytest.mark.failure("conflict")
def test_a_table_refuses_a_token_that_is_lower_than_its_own(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.ensure("bronze.t", pa.schema([("n", pa.int64())]))

    def append(sequence: int, *guard: Guard) -> None:
        table = lake.open("bronze.t")
        assert table is not None
        polars_writer.append_rows(table, frame(sequence), record(sequence), {}, *guard)

    append(1)
    for sequence, number in ((2, 5), (3, 5), (4, 7)):
        append(sequence, Leader(number))
    append(5)  # who has none is as before
    with pytest.raises(CommitConflict, match=r"bronze\.t: a newer leader"):
        append(6, Leader(6))
    append(6, Leader(7))
    assert sorted(pl.read_delta(lake.path("bronze.t"))["n"]) == [1, 2, 3, 4, 5, 6]


@pytest.mark.failure("conflict")
def test_what_a_guard_refuses_is_not_visible(tmp_path: Path) -> None:
    class Refusing(Guard):
        def check(self) -> dict[str, int]:
            raise NotAllowed("somebody else does it")

    lake = Lake(tmp_path)
    table = lake.ensure(TABLE, SCHEMA, ["unit"])
    row = {"unit": "a", "n": 1, "x": 0.5, "s": "", "d": NOW.date(), "t": NOW}
    with pytest.raises(NotAllowed):
        commit_files(table, record(1), add=stage(lake, [row]), guard=Refusing())
    assert lake.version(TABLE) == 0
    commit_files(table, record(1), add=stage(lake, [row]))
    with pytest.raises(NotAllowed):
        polars_writer.delete_rows(table, "n = 1", record(2), guard=Refusing())
    with pytest.raises(NotAllowed):
        polars_writer.restore_version(table, 0, record(2), guard=Refusing())
    assert lake.version(TABLE) == 1


def letter(partition: str | None, n: int) -> dict[str, Any]:
    return {
        "source": "s",
        "offset": n,
        "file": "f",
        "row": n,
        "payload": b"\x00\xff",
        "violations": ["v"],
        "partition": partition,
        "at": NOW,
        "run_id": "r",
    }


def letters(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=dead_letters.columns())


@pytest.mark.failure("conflict")
def test_dead_letters_are_replaced_by_partition(tmp_path: Path) -> None:
    lake = Lake(tmp_path)

    def put(partitions: Iterable[str] | None, n: int, *rows: dict[str, Any]) -> None:
        files = [dead_letters.stage(lake, TABLE, letters(*rows))] if rows else []
        dead_letters.replace(lake, TABLE, None if partitions is None else set(partitions), files, record(n))

    put(["a"], 1)
    assert not lake.exists(dead_letters.name(TABLE))
    there = letters(letter("a", 1), letter("o'b", 2), letter(None, 3), letter("*", 5))
    dead_letters.append(lake, TABLE, there, record(1))
    put(["a", "o'b"], 2, letter("a", 4))
    assert sorted(dead_letters.read(lake, TABLE)["offset"]) == [3, 4, 5]
    with pytest.raises(CommitConflict):
        dead_letters.append(lake, TABLE, letters(letter("a", 5)), record(2))
    with pytest.raises(CommitConflict):
        put(["a"], 2, letter("a", 6))
    put([], 3, letter("b", 7))
    put(["c"], 4)
    assert sorted(dead_letters.read(lake, TABLE)["offset"]) == [3, 4, 5, 7]
    put(None, 5)
    assert dead_letters.count(lake, TABLE) == 0


def registry_row(sequence: int) -> dict[str, Any]:
    return {
        "sequence": sequence,
        "path": f"f{sequence}",
        "digest": str(sequence),
        "size": 1,
        "modified_at": NOW - timedelta(days=1),
        "etag": None,
        "state": "new",
        "header": ["a", "b"],
        "unreadable": None,
        "damage": None,
        "first_row": None,
        "registered_at": NOW,
        "run_id": "r",
    }


@pytest.mark.failure("conflict")
def test_a_sequence_number_is_given_once(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert file_registry.read_registry(lake, "s").is_empty()
    file_registry.register_file_versions(lake, "s", [registry_row(1), registry_row(2)])
    with pytest.raises(CommitConflict):
        file_registry.register_file_versions(lake, "s", [registry_row(2)])
    file_registry.register_file_versions(lake, "s", [registry_row(3)])
    assert file_registry.read_registry(lake, "s").to_dicts() == [registry_row(n) for n in (1, 2, 3)]
