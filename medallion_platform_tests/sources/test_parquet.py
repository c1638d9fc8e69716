"""Parquet files whose values no type of ours holds, and files that are larger than they look."""

from __future__ import annotations

import json
import struct
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform import pieces
from medallion_platform.contracts import casts, polars_engine
from medallion_platform.contracts.contract import ColumnType
from medallion_platform.sources.formats import parquet, typed

EPOCH = datetime(1970, 1, 1)
TIMESTAMP, DATE = ColumnType("timestamp"), ColumnType("date")


def written(folder: Path, columns: dict[str, pa.Array], **options: Any) -> Path:
    path = folder / "file.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return path


def read(path: Path) -> pl.DataFrame:
    return pl.concat([frame for _, frame in parquet.read(path, 1)])


@pytest.mark.parametrize("year", [1, 1582, 1677, 2026, 2263, 9999])
def test_timestamps_of_the_old_kind_keep_their_date(tmp_path: Path, year: int) -> None:
    """INT96, as Impala, Hive and older Sparks write."""
    at = datetime(year, 12, 31, 23, 59, 59)
    column = pa.array([at, None], pa.timestamp("us"))
    rows = read(written(tmp_path, {"at": column}, use_deprecated_int96_timestamps=True))
    assert polars_engine.convert(rows["at"], TIMESTAMP).to_list() == [at.replace(tzinfo=UTC), None]


@given(
    st.sampled_from(["s", "ms", "us"]),
    st.lists(st.integers(-(2**62), 2**62) | st.integers(-(10**14), 10**14), min_size=1, max_size=5),
    st.sampled_from([None, "UTC", "+02:00"]),
)
def test_an_instant_is_itself_or_no_value_and_never_another(
    tmp_path_factory: pytest.TempPathFactory, partition: str, counts: list[int], zone: str | None
) -> None:
    if partition == "s":  # Parquet has no seconds: written as milliseconds
        counts = [count // 1000 for count in counts]
    path = written(tmp_path_factory.mktemp("p"), {"at": pa.array(counts, pa.timestamp(partition, zone))})
    rows = read(path)
    got = polars_engine.convert(rows["at"], TIMESTAMP).to_list()
    parts = {"s": 1, "ms": 10**3, "us": 10**6}[partition]
    for count, value in zip(counts, got, strict=True):
        try:
            meant = EPOCH + timedelta(microseconds=count * 10**6 // parts)
        except OverflowError:
            meant = None
        assert value == (meant and meant.replace(tzinfo=UTC))
    assert parquet.text(rows["at"]).null_count() == 0
    kept = [json.loads(payload)["at"] for payload in parquet.payloads(rows)]
    lost = [text for text, value in zip(kept, got, strict=True) if value is None]
    assert all("since 1970-01-01" in text for text in lost), "a dead letter says what stood there"


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5))
def test_a_day_is_itself_or_no_value(tmp_path_factory: pytest.TempPathFactory, days: list[int]) -> None:
    rows = read(written(tmp_path_factory.mktemp("p"), {"day": pa.array(days, pa.int32()).cast(pa.date32())}))
    for count, value in zip(days, polars_engine.convert(rows["day"], DATE), strict=True):
        try:
            meant = date(1970, 1, 1) + timedelta(days=count)
        except OverflowError:
            meant = None
        assert value == meant
    assert len(parquet.payloads(rows)) == len(days)


def test_a_decimal_too_wide_for_every_type_is_text(tmp_path: Path) -> None:
    wide = [Decimal("12345678901234567890123456789012345678901234567890.25"), Decimal("1.50")]
    rows = read(written(tmp_path, {"d": pa.array(wide, pa.decimal256(60, 2))}))
    assert rows["d"].to_list() == [str(d) for d in wide]
    assert polars_engine.convert(rows["d"], ColumnType("decimal", 12, 2)).to_list() == [None, Decimal("1.50")]


def test_a_large_unsigned_number_is_no_negative_one(tmp_path: Path) -> None:
    rows = read(written(tmp_path, {"n": pa.array([2**64 - 1, 7], pa.uint64())}))
    assert polars_engine.convert(rows["n"], ColumnType("long")).to_list() == [None, 7]
    assert parquet.text(rows["n"]).to_list() == [str(2**64 - 1), "7"]


def test_days_and_spans_inside_of_lists_are_told_however_far(tmp_path: Path) -> None:
    far = pa.array([[2**62], [0]], pa.list_(pa.timestamp("us")))
    spans = pa.array([2**62, 1], pa.duration("us"))
    rows = read(written(tmp_path, {"at": far, "took": spans}))
    assert [set(json.loads(p)) for p in parquet.payloads(rows)] == [{"at", "took"}] * 2


@pytest.mark.parametrize("zone", ["Z", "CEST", "Mars/Phobos"])
def test_a_zone_that_nobody_knows_is_as_good_as_another(tmp_path: Path, zone: str) -> None:
    """Parquet holds the instant; a zone is how it is shown."""
    at = datetime(2026, 7, 1, 10, tzinfo=UTC)
    kind = pa.timestamp("us", zone)
    there = {"at": pa.array([at, None], kind), "many": pa.array([[at], None], pa.list_(kind))}
    nested = pa.array([{"at": at}, None], pa.struct([("at", kind)]))
    rows = read(written(tmp_path, {**there, "in": nested}))
    assert polars_engine.convert(rows["at"], TIMESTAMP).to_list() == [at, None]
    assert rows["many"].to_list() == [[at], None]
    assert rows["in"].struct.field("at").to_list() == [at, None]


@pytest.mark.parametrize("day", [1, 2**27, 2**31, 2**32 - 1])
@pytest.mark.parametrize("first_row", [1, 3])
def test_an_instant_of_days_is_itself_or_no_value_however_far(
    tmp_path: Path, day: int, first_row: int
) -> None:
    """INT96 counts days in 32 bits: five million years, where microseconds reach 292,000."""
    hour = timedelta(hours=10)
    ats = [datetime(2026, 7, n, tzinfo=UTC) + hour for n in range(1, 6)]
    path = written(
        tmp_path, {"at": ats}, use_deprecated_int96_timestamps=True, use_dictionary=False, compression="none"
    )
    here, far = (struct.pack("<qI", 36_000 * 10**9, d) for d in (2_461_225, day))
    assert path.read_bytes().count(here) == 1
    path.write_bytes(path.read_bytes().replace(here, far))
    rows = pl.concat([frame for _, frame in parquet.read(path, first_row)])
    assert (
        polars_engine.convert(rows["at"], TIMESTAMP).to_list() == [*ats[:2], None, *ats[3:]][first_row - 1 :]
    )
    told = json.loads(parquet.payloads(rows)[3 - first_row])["at"]
    second = (day - 2_440_588) * 86_400 + 36_000
    assert told in (f"{second} s since 1970-01-01", f"{second * 10**6} us since 1970-01-01")


def test_a_zone_is_an_instant(tmp_path: Path) -> None:
    at = datetime(2026, 7, 1, 10, tzinfo=UTC)
    counts = [int(at.timestamp()) * 10**6, casts.FIRST_INSTANT]
    column = pa.array(counts, pa.timestamp("us", "Europe/Vienna"))
    rows = read(written(tmp_path, {"at": column}))
    assert polars_engine.convert(rows["at"], TIMESTAMP)[0] == at


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_a_file_that_repeats_a_large_value_is_read_in_pieces(tmp_path: Path, kind: pa.DataType) -> None:
    """The file holds the value once: 20 kB of file, 200 MB of text."""
    count, value = 10_000, "x" * 20_000
    column = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), [value]).cast(kind)
    path = written(tmp_path, {"v": column, "n": pa.array(range(count))})
    assert path.stat().st_size < 1_000_000
    seen = 0
    for row, frame in parquet.read(path, 1):
        assert row == seen + 1
        assert frame.estimated_size() <= pieces.BYTES * 1.1
        assert frame["n"].to_list() == list(range(seen, seen + frame.height))
        seen += frame.height
    assert seen == count


def nested(text: pa.Array) -> dict[str, pa.Array]:
    """The text of each row within values of every nested type."""
    places = pa.array(range(len(text) + 1), pa.int32())
    struct = pa.StructArray.from_arrays([text, text.cast(pa.binary())], ["a", "b.c"])
    return {
        "list": pa.ListArray.from_arrays(places, text),
        "large": pa.LargeListArray.from_arrays(places.cast(pa.int64()), text),
        "fixed": pa.FixedSizeListArray.from_arrays(text, 1),
        "map": pa.MapArray.from_arrays(places, text.fill_null(""), text),
        "deep": pa.ListArray.from_arrays(places, struct),
        "view": text.cast(pa.string_view()),
    }


@pytest.mark.parametrize("kind", ["list", "large", "fixed", "map", "deep", "view"])
def test_a_large_value_that_nested_texts_share_is_read_in_pieces(tmp_path: Path, kind: str) -> None:
    """A few kB of file, 150 MB of text and more."""
    count, value = 600, "x" * 500_000
    text = pa.DictionaryArray.from_arrays(pa.array([0, None] * (count // 2), pa.int32()), [value])
    column = nested(text.cast(pa.string()))[kind]
    path = written(tmp_path, {"v": column, "n": pa.array(range(count))})
    assert path.stat().st_size < 1_000_000
    seen: list[int] = []
    for _, frame in parquet.read(path, 1):
        assert frame.estimated_size() <= pieces.BYTES * 1.1
        assert frame.height < 300
        assert frame["v"].to_arrow().to_pylist() == column.slice(len(seen), frame.height).to_pylist()
        seen += frame["n"].to_list()
    assert seen == list(range(count))


def test_equal_numbers_are_read_in_pieces(tmp_path: Path) -> None:
    """They take next to nothing in the file, and eight bytes each in memory."""
    columns = {f"c{i}": pa.array([1.5] * 50_000) for i in range(400)}
    sizes = [f.estimated_size() for _, f in parquet.read(written(tmp_path, columns), 1)]
    assert max(sizes) <= pieces.BYTES * 1.1
    assert sum(sizes) >= 400 * 50_000 * 8


def test_a_file_of_zeros_is_read_in_pieces(tmp_path: Path) -> None:
    """Compressed a thousandfold: what counts is the size without compression."""
    column = pa.array([f"{i:06}" + "0" * 30_000 for i in range(8_000)])
    path = written(tmp_path, {"v": column}, compression="zstd", use_dictionary=False)
    sizes = [frame.estimated_size() for _, frame in parquet.read(path, 1)]
    assert max(sizes) <= pieces.BYTES * 1.1
    assert sum(frame.height for _, frame in parquet.read(path, 1)) == 8_000


def test_reading_goes_on_in_the_middle_of_a_piece(tmp_path: Path) -> None:
    path = written(tmp_path, {"n": pa.array(range(1, 2_001))}, row_group_size=300)
    rows = [(row, n) for row, frame in parquet.read(path, 777) for row, n in enumerate(frame["n"], row)]
    assert rows == [(n, n) for n in range(777, 2_001)]


def test_what_a_row_is_does_not_hang_on_its_neighbours(tmp_path: Path) -> None:
    days = pa.array([2**31 - 1, 0], pa.int32()).cast(pa.date32())
    moments = pa.array([2**60, 86_400_000], pa.timestamp("ms"))
    rows = read(written(tmp_path, {"day": days, "at": moments}))
    midnight = datetime(1970, 1, 1, tzinfo=UTC)
    assert polars_engine.convert(rows["day"], TIMESTAMP).to_list() == [None, midnight]
    assert polars_engine.convert(rows["at"], DATE).to_list() == [None, date(1970, 1, 2)]


BYTES = """[{"key": "/w==", "value": 1}]"""
WIDE_LIST = pa.struct([("a", pa.list_(pa.decimal256(60, 3)))])
MARS = pa.timestamp("us", "Mars/Olympus_Mons")
WIDE = pa.decimal256(60, 3)
FAR = pa.array([[[3_000_000]], [[2**31 - 1, 1]]], pa.list_(pa.list_(pa.int32())))


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (pa.array([[(7, 1.5)], []], pa.map_(pa.int64(), pa.float64())), ['{"7":1.5}', "{}"]),
        (pa.array([[(True, "x")], None], pa.map_(pa.bool_(), pa.string())), ['{"true":"x"}', None]),
        (pa.array([[(b"\xff", 1)], None], pa.map_(pa.binary(), pa.int8())), [BYTES, None]),
        (pa.array([[(b"\xff", 1)], None], pa.map_(pa.binary(1), pa.int8())), [BYTES, None]),
        (pa.array([{"a": [Decimal("9.125")]}, None], WIDE_LIST), ['{"a":["9.125"]}', None]),
        (pa.array([[("k", Decimal(7))], None], pa.map_(pa.string(), WIDE)), ['{"k":"7.000"}', None]),
        (
            FAR.cast(pa.list_(pa.list_(pa.date32()))),
            ['[["10183-09-21"]]', '[["<value out of range: 2147483647>","1970-01-02"]]'],
        ),
        (
            pa.array([[1], None], pa.list_(MARS, 1)),
            ['["1970-01-01T00:00:00.000001+00:00"]', None],
        ),
        (
            pa.array([[(1, None)], None], pa.map_(MARS, pa.int8())),
            ['[{"key":"1970-01-01T00:00:00.000001+00:00","value":null}]', None],
        ),
    ],
)  # fmt: skip
def test_a_nested_value_of_any_type_is_told_as_text(
    tmp_path: Path, column: pa.Array, told: list[str | None]
) -> None:
    """One such column kept every row of its file out."""
    rows = read(written(tmp_path, {"id": pa.array(["a", "b"]), "x": column}))
    assert rows["id"].to_list() == ["a", "b"]
    assert typed.text(rows["x"]).to_list() == told
    assert all(json.loads(payload) for payload in typed.payloads(rows.select("id", "x")))


def test_numbers_that_json_does_not_have_are_words_and_not_null(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    columns = {
        "l": pa.array([[nan, 1e20, None], [2.5]]),
        "s": pa.array([{"a": [{"b": -inf}], "t": "null"}, {"a": None, "t": "NaN"}]),
        "m": pa.array([[("k", inf)], [("k", 0.5)]], pa.map_(pa.string(), pa.float64())),
    }
    rows = read(written(tmp_path, columns))
    want = [
        {"l": ["NaN", 1e20, None], "s": {"a": [{"b": "-inf"}], "t": "null"}, "m": {"k": "inf"}},
        {"l": [2.5], "s": {"a": None, "t": "NaN"}, "m": {"k": 0.5}},
    ]
    texts = {name: typed.text(rows[name]).to_list() for name in columns}
    assert [{name: json.loads(texts[name][i]) for name in columns} for i in range(2)] == want
    assert [json.loads(p, parse_constant=str.upper) for p in typed.payloads(rows.select(*columns))] == want
