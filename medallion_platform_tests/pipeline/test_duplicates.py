"""Which rows are there already: compared with a replay that looks at one row after the other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medallion_platform.contracts.contract import Column, ColumnType, Contract
from medallion_platform.contracts.polars_engine import polars_schema
from medallion_platform.pipeline.intake.duplicates import find_duplicates

START = datetime(2026, 1, 5, 23, 50, tzinfo=UTC)
WATERMARK = timedelta(minutes=10)
LONG = "k" * 80


def contract(watermark: timedelta | None, key: tuple[str, ...] = ("k", "n")) -> Contract:
    return Contract(
        "C",
        (
            Column("k", ColumnType("string")),
            Column("n", ColumnType("long")),
            Column("t", ColumnType("timestamp")),
            Column("r", ColumnType("long")),
        ),
        key=key,
        event_time="t" if watermark else None,
        partitioned_by=("event_date",) if watermark else (),
        watermark=watermark,
    )


def replayed(rows: list[dict[str, Any]], contract: Contract) -> list[bool]:
    """The oracle: each row in its turn, against those accepted before."""
    accepted: list[dict[str, Any]] = []
    found = []
    for row in rows:
        twice = any(
            all(row[c] == a[c] for c in contract.key)
            and (contract.watermark is None or abs(row["t"] - a["t"]) <= contract.watermark)
            for a in accepted
        )
        found.append(twice)
        if not twice:
            accepted.append(row)
    return found


# Times close to a watermark apart, a microsecond more or less, over midnight.
times = st.builds(
    lambda steps, micros: START + steps * timedelta(minutes=5) + timedelta(microseconds=micros),
    st.integers(0, 6),
    st.sampled_from([-1, 0, 0, 1, 999, 1000]),
)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "k": st.sampled_from(["a", "b", LONG + "1", LONG + "2", "\U0010ffff", "é", ""]),
            "n": st.sampled_from([0, -1, 2**62]),
            "t": times,
        }
    ),
    max_size=14,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows, st.sampled_from([None, WATERMARK]), st.sampled_from([("k", "n"), ("k",)]), st.data())
def test_batches_find_what_a_replay_of_single_rows_finds(
    tmp_path_factory: Any,
    rows: list[dict[str, Any]],
    watermark: timedelta | None,
    key: tuple[str, ...],
    data: st.DataObject,
) -> None:
    declared = contract(watermark, key)
    path: Path = tmp_path_factory.mktemp("table")
    frame = pl.DataFrame(
        [{**r, "r": i} for i, r in enumerate(rows)], schema=polars_schema(declared)
    ).with_columns(pl.col("t").dt.date().alias("event_date"))
    write_deltalake(path, frame.clear(), partition_by=["event_date"] if watermark else None)
    found: list[bool] = []
    at = 0
    while at < frame.height:
        size = data.draw(st.integers(1, frame.height - at), label="batch")
        batch = frame.slice(at, size)
        twice = find_duplicates(batch, declared, DeltaTable(path))
        found += twice.to_list()
        accepted = batch.filter(~twice)
        if accepted.height:
            write_deltalake(path, accepted, mode="append")
        at += size
    assert found == replayed(rows, declared)


def test_a_chain_of_repeats_is_measured_from_the_accepted_row(tmp_path: Path) -> None:
    """Three rows 8 minutes apart: the second repeats the first, the third is a new event."""
    declared = contract(WATERMARK, ("k",))
    frame = pl.DataFrame(
        [{"k": "a", "n": 1, "t": START + n * timedelta(minutes=8), "r": n} for n in range(4)],
        schema=polars_schema(declared),
    ).with_columns(pl.col("t").dt.date().alias("event_date"))
    write_deltalake(tmp_path, frame.clear(), partition_by=["event_date"])
    assert find_duplicates(frame, declared, DeltaTable(tmp_path)).to_list() == [False, True, False, True]


def test_at_the_ends_of_the_calendar_repeats_are_found_too(tmp_path: Path) -> None:
    declared = contract(WATERMARK, ("k",))
    ends = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)]
    frame = pl.DataFrame(
        [{"k": "a", "n": 1, "t": t, "r": 0} for t in ends], schema=polars_schema(declared)
    ).with_columns(pl.col("t").dt.date().alias("event_date"))
    write_deltalake(tmp_path, frame.clear(), partition_by=["event_date"])
    assert find_duplicates(frame, declared, DeltaTable(tmp_path)).to_list() == [False, False]
    write_deltalake(tmp_path, frame, mode="append")
    assert find_duplicates(frame, declared, DeltaTable(tmp_path)).to_list() == [True, True]


def test_the_event_time_may_be_part_of_the_key(tmp_path: Path) -> None:
    told = contract(WATERMARK, ("k", "t"))
    rows = [
        {"k": k, "n": 1, "t": START + timedelta(minutes=m), "r": 1} for k, m in (("a", 0), ("a", 1), ("b", 0))
    ]
    there, batch = [*rows[:1]], [*rows, rows[1]]
    frames = [
        pl.DataFrame(r, polars_schema(told)).with_columns(event_date=pl.col("t").dt.date())
        for r in (there, batch)
    ]
    write_deltalake(tmp_path, frames[0], partition_by=["event_date"])
    found = find_duplicates(frames[1], told, DeltaTable(tmp_path))
    assert found.to_list() == [True, False, False, True]


def test_without_a_key_nothing_repeats(tmp_path: Path) -> None:
    declared = contract(None, ())
    frame = pl.DataFrame([{"k": "a", "n": 1, "t": START, "r": 0}] * 3, schema=polars_schema(declared))
    write_deltalake(tmp_path, frame)
    assert not find_duplicates(frame, declared, DeltaTable(tmp_path)).any()
