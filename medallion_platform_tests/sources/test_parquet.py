"""Parquet files whose values no type of ours holds, and files that are larger than they look."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
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

from medallion_platform.contracts import casts, polars_engine
from medallion_platform.contracts.contract import ColumnType
from medallion_platform.sources.formats import parquet, typed
from medallion_platform.sources.formats.records import CODE, OURS, field_of_column
from medallion_platform.storage import pieces
from medallion_platform_tests.command import REPOSITORY

EPOCH = datetime(1970, 1, 1)
TIMESTAMP, DATE = ColumnType("timestamp"), ColumnType("date")


def written(folder: Path, columns: dict[str, pa.Array], **options: Any) -> Path:
    path = folder / "file.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return path


def pieces_of(path: Path, first_row: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """The fields of each frame, with the number of its first row."""
    for frame in parquet.Parquet().read(path, first_row):
        fields = {field_of_column(c.name): c for c in frame if c.name not in OURS}
        yield frame["_row"][0], pl.DataFrame(fields)


def read(path: Path) -> pl.DataFrame:
    return pl.concat([frame for _, frame in pieces_of(path, 1)])


@pytest.mark.parametrize("year", [1, 1582, 1677, 2026, 2263, 9999])
def test_timestamps_of_the_old_kind_keep_their_date(tmp_path: Path, year: int) -> None:
    """INT96, as Impala, Hive and older Sparks write."""
    at = datetime(year, 12, 31, 23, 59, 59)
    column = pa.array([at, None], pa.timestamp("us"))
    rows = read(written(tmp_path, {"at": column}, use_deprecated_int96_timestamps=True))
    assert polars_engine.cast_column(rows["at"], TIMESTAMP).to_list() == [at.replace(tzinfo=UTC), None]


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
    got = polars_engine.cast_column(rows["at"], TIMESTAMP).to_list()
    parts = {"s": 1, "ms": 10**3, "us": 10**6}[partition]
    for count, value in zip(counts, got, strict=True):
        try:
            meant = EPOCH + timedelta(microseconds=count * 10**6 // parts)
        except OverflowError:
            meant = None
        assert value == (meant and meant.replace(tzinfo=UTC))
    assert parquet.values_as_text(rows["at"]).null_count() == 0
    kept = [json.loads(payload)["at"] for payload in parquet.rows_as_json(rows)]
    lost = [text for text, value in zip(kept, got, strict=True) if value is None]
    assert all("since 1970-01-01" in text for text in lost), "a dead letter says what stood there"


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5))
def test_a_day_is_itself_or_no_value(tmp_path_factory: pytest.TempPathFactory, days: list[int]) -> None:
    rows = read(written(tmp_path_factory.mktemp("p"), {"day": pa.array(days, pa.int32()).cast(pa.date32())}))
    for count, value in zip(days, polars_engine.cast_column(rows["day"], DATE), strict=True):
        try:
            meant = date(1970, 1, 1) + timedelta(days=count)
        except OverflowError:
            meant = None
        assert value == meant
    assert len(parquet.rows_as_json(rows)) == len(days)


def test_a_decimal_too_wide_for_every_type_is_text(tmp_path: Path) -> None:
    wide = [Decimal("12345678901234567890123456789012345678901234567890.25"), Decimal("1.50")]
    rows = read(written(tmp_path, {"d": pa.array(wide, pa.decimal256(60, 2))}))
    assert rows["d"].to_list() == [str(d) for d in wide]
    assert polars_engine.cast_column(rows["d"], ColumnType("decimal", 12, 2)).to_list() == [
        None,
        Decimal("1.50"),
    ]


def test_a_large_unsigned_number_is_no_negative_one(tmp_path: Path) -> None:
    rows = read(written(tmp_path, {"n": pa.array([2**64 - 1, 7], pa.uint64())}))
    assert polars_engine.cast_column(rows["n"], ColumnType("long")).to_list() == [None, 7]
    assert parquet.values_as_text(rows["n"]).to_list() == [str(2**64 - 1), "7"]


def test_days_and_spans_inside_of_lists_are_told_however_far(tmp_path: Path) -> None:
    far = pa.array([[2**62], [0]], pa.list_(pa.timestamp("us")))
    spans = pa.array([2**62, 1], pa.duration("us"))
    rows = read(written(tmp_path, {"at": far, "took": spans}))
    assert [set(json.loads(p)) for p in parquet.rows_as_json(rows)] == [{"at", "took"}] * 2


@pytest.mark.parametrize("zone", ["Z", "CEST", "Mars/Phobos"])
def test_a_zone_that_nobody_knows_is_as_good_as_another(tmp_path: Path, zone: str) -> None:
    """Parquet holds the instant; a zone is how it is shown."""
    at = datetime(2026, 7, 1, 10, tzinfo=UTC)
    kind = pa.timestamp("us", zone)
    there = {"at": pa.array([at, None], kind), "many": pa.array([[at], None], pa.list_(kind))}
    nested = pa.array([{"at": at}, None], pa.struct([("at", kind)]))
    rows = read(written(tmp_path, {**there, "in": nested}))
    assert polars_engine.cast_column(rows["at"], TIMESTAMP).to_list() == [at, None]
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
    rows = pl.concat([frame for _, frame in pieces_of(path, first_row)])
    assert (
        polars_engine.cast_column(rows["at"], TIMESTAMP).to_list()
        == [*ats[:2], None, *ats[3:]][first_row - 1 :]
    )
    told = json.loads(parquet.rows_as_json(rows)[3 - first_row])["at"]
    second = (day - 2_440_588) * 86_400 + 36_000
    assert told in (f"{second} s since 1970-01-01", f"{second * 10**6} us since 1970-01-01")


INSTANT = pa.timestamp("us")


def instants_within(ats: pa.Array) -> dict[str, pa.Array]:
    """The instants at every kind of place; there are as many rows as instants."""
    count = len(ats)
    ends, numbers = pa.array(range(count + 1), pa.int32()), pa.array(range(count))
    two = pa.array([0] + [min(n, count) for n in range(2, count + 2)], pa.int32())
    struct = pa.StructArray.from_arrays(
        [ats, numbers], ["at", "n"], mask=pa.array([n == 1 for n in range(count)])
    )
    return {
        "plain": ats,
        "list": pa.ListArray.from_arrays(two, ats, mask=pa.array([n == 2 for n in range(count)])),
        "large": pa.LargeListArray.from_arrays(ends.cast(pa.int64()), ats),
        "fixed": pa.FixedSizeListArray.from_arrays(ats, 1),
        "struct": struct,
        "map": pa.MapArray.from_arrays(ends, numbers, ats),
        "keys": pa.MapArray.from_arrays(ends, ats.fill_null(datetime(2026, 1, 1)), numbers),
        "deep": pa.ListArray.from_arrays(ends, struct),
        "bytes": pa.array([b"%012d" % n for n in range(count)], pa.binary(12)),
    }


@given(
    st.lists(st.none() | st.datetimes(), min_size=3, max_size=9),
    st.booleans(),
    st.sampled_from(["1.0", "2.0"]),
    st.integers(1, 4),
)
def test_an_instant_of_the_old_kind_is_the_same_wherever_it_stands(
    tmp_path_factory: pytest.TempPathFactory,
    ats: list[datetime | None],
    dictionary: bool,
    pages: str,
    first_row: int,
) -> None:
    """As one that Parquet counts in 64 bits, also where rows and groups are cut."""
    folder, columns = tmp_path_factory.mktemp("p"), instants_within(pa.array(ats, INSTANT))
    how: dict[str, Any] = {"use_dictionary": dictionary, "data_page_version": pages, "row_group_size": 5}

    def rows(old: bool) -> pl.DataFrame:
        path = written(folder, columns, use_deprecated_int96_timestamps=old, **how)
        frames = [frame for _, frame in pieces_of(path, first_row)]
        return pl.concat(frames) if frames else pl.DataFrame()

    old, new = rows(True), rows(False)
    assert old.schema == new.schema
    assert old.equals(new, null_equal=True)


FAR_DAYS = [
    (0, 0, "-210866803200000000 us since 1970-01-01"),
    (0, 1_500, "-210866803199999999 us since 1970-01-01"),
    (2_440_588, -1, "1969-12-31 23:59:59.999999"),
    (2_440_588, 86_400 * 10**9 + 1_000, "1970-01-02 00:00:00.000001"),
    (5_373_484, 86_399_999_999_999, "9999-12-31 23:59:59.999999"),
    (2**27, 2_500_000_000, "11385544896002.500000 s since 1970-01-01"),
    (2**32 - 1, 0, "370874307484800 s since 1970-01-01"),
    (2**32 - 1, 2**63 - 1, "370883530856836.854775 s since 1970-01-01"),
]


@pytest.mark.parametrize(("day", "nanoseconds", "told"), FAR_DAYS)
def test_an_instant_of_days_within_a_value_is_told_as_it_is(
    tmp_path: Path, day: int, nanoseconds: int, told: str
) -> None:
    """Day 0 was taken for 1970, and what has no place in 64 bits for another year."""
    here, there = datetime(2026, 7, 1, 10), datetime(2026, 7, 2, 11, 0, 0, 250_000)
    ats = pa.array([here, there, None, there], INSTANT)
    columns = instants_within(ats)
    path = written(
        tmp_path, columns, use_deprecated_int96_timestamps=True, use_dictionary=False, compression="none"
    )
    stored, far = struct.pack("<qI", 36_000 * 10**9, 2_461_223), struct.pack("<qI", nanoseconds, day)
    assert path.read_bytes().count(stored) == 8
    path.write_bytes(path.read_bytes().replace(stored, far))
    rows = read(path)
    near = "2026-07-02 11:00:00.250"
    texts = {name: typed.values_as_text(rows[name]).to_list() for name in rows.columns}
    nested = {
        name: [text and json.loads(text) for text in texts[name]]
        for name in ("list", "large", "fixed", "struct", "deep", "map")
    }
    assert nested["list"][0] == [told, near]
    assert nested["large"] == nested["fixed"] == [[told], [near], [None], [near]]
    assert nested["struct"] == [{"at": told, "n": 0}, None, {"at": None, "n": 2}, {"at": near, "n": 3}]
    assert nested["deep"] == [[value] for value in nested["struct"]]
    assert nested["map"] == [{"0": told}, {"1": near}, {"2": None}, {"3": near}]
    assert rows["bytes"].to_list() == columns["bytes"].to_pylist()
    at = polars_engine.cast_column(rows["plain"], TIMESTAMP).to_list()
    held = datetime.fromisoformat(f"{told}+00:00") if told[0] in "19" and "since" not in told else None
    assert at == [held, there.replace(tzinfo=UTC), None, there.replace(tzinfo=UTC)]
    assert rows["plain"].null_count() == 1, "what has no value is a violation and not null"


def test_a_zone_is_an_instant(tmp_path: Path) -> None:
    at = datetime(2026, 7, 1, 10, tzinfo=UTC)
    counts = [int(at.timestamp()) * 10**6, casts.FIRST_INSTANT]
    column = pa.array(counts, pa.timestamp("us", "Europe/Vienna"))
    rows = read(written(tmp_path, {"at": column}))
    assert polars_engine.cast_column(rows["at"], TIMESTAMP)[0] == at


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_a_file_that_repeats_a_large_value_is_read_in_pieces(tmp_path: Path, kind: pa.DataType) -> None:
    """The file holds the value once: 20 kB of file, 200 MB of text."""
    count, value = 10_000, "x" * 20_000
    column = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), [value]).cast(kind)
    path = written(tmp_path, {"v": column, "n": pa.array(range(count))})
    assert path.stat().st_size < 1_000_000
    seen = 0
    for row, frame in pieces_of(path, 1):
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
    for _, frame in pieces_of(path, 1):
        assert frame.estimated_size() <= pieces.BYTES * 1.1
        assert frame.height < 300
        assert frame["v"].to_arrow().to_pylist() == column.slice(len(seen), frame.height).to_pylist()
        seen += frame["n"].to_list()
    assert seen == list(range(count))


POOLS: list[pa.MemoryPool] = []
"""They outlive what they gave."""


def most_of_arrow(path: Path, column: pa.Array) -> int:
    """Bytes that Arrow takes at most while a file of one column is read in small pieces."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    seen = 0
    try:
        for row, frame in pieces_of(path, 1):
            assert row == seen + 1
            assert frame.estimated_size() <= pieces.BYTES * 1.1
            assert frame["v"].to_list() == pl.Series(column.slice(seen, frame.height)).to_list()
            seen += frame.height
    finally:
        pa.set_memory_pool(before)
    assert seen == len(column)
    return pool.max_memory()


LATE = [None] * 1_000 + [0] * 4_000 + [1] * 1_000


@pytest.mark.parametrize("kind", ["list", "map", "deep", "view"])
@pytest.mark.parametrize("places", [[0, None] * 3_000, LATE], ids=["early", "late"])
def test_a_large_value_is_read_in_pieces_wherever_it_is_first_seen(
    tmp_path: Path, kind: str, places: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a look at the first rows of a group tells, and where they have no text at all."""
    monkeypatch.setattr(pieces, "BYTES", 2**20)
    values = ["x" * 5_000, "short"] if places != LATE else ["short", "x" * 15_000]
    text = pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), values)
    column = nested(text.cast(pa.string()))[kind]
    path = written(tmp_path, {"v": column})
    assert most_of_arrow(path, column) < 6 * pieces.BYTES < column.nbytes


def test_texts_that_lean_on_the_one_before_are_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they have in common is stored once."""
    monkeypatch.setattr(pieces, "BYTES", 2**20)
    column = pa.array([f"{'x' * 2_000}{n}" for n in range(10_000)])
    path = written(tmp_path, {"v": column}, use_dictionary=False, column_encoding={"v": "DELTA_BYTE_ARRAY"})
    assert path.stat().st_size < 100_000
    assert most_of_arrow(path, column) < 8 * pieces.BYTES < column.nbytes


@pytest.mark.parametrize("kind", ["list", "large", "fixed", "map", "deep"])
@pytest.mark.parametrize("unlike", [1, 5_000])
def test_ordinary_nested_texts_are_read_at_once(tmp_path: Path, kind: str, unlike: int) -> None:
    """Whether they repeat or not: many small pieces cost several times as much."""
    column = nested(pa.array([f"some text {n % unlike}" for n in range(20_000)]))[kind]
    frames = [frame for _, frame in pieces_of(written(tmp_path, {"v": column}), 1)]
    assert len(frames) == 1
    assert frames[0]["v"].to_arrow().to_pylist() == column.to_pylist()


def test_rows_of_many_numbers_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most rows have none."""
    monkeypatch.setattr(pieces, "BYTES", 2**20)
    ends = [0] * 5_000 + [n * 10_000 for n in range(1, 101)]
    column = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array([7] * 1_000_000))
    heights = [(f.height, f.estimated_size()) for _, f in pieces_of(written(tmp_path, {"v": column}), 1)]
    assert max(size for _, size in heights) <= pieces.BYTES * 1.1
    assert sum(height for height, _ in heights) == len(column)


@pytest.mark.parametrize("nest", [False, True])
def test_texts_that_are_json_are_texts(tmp_path: Path, nest: bool) -> None:
    """Of a type of their own, as DuckDB writes them; such a file could not be taken in."""
    column = pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(['{"a":1}', None]))
    if nest:
        column = pa.ListArray.from_arrays(pa.array([0, 1, 2]), column)
    rows = read(written(tmp_path, {"v": column}))
    told = [json.dumps(['{"a":1}'], separators=(",", ":")), "[null]"] if nest else ['{"a":1}', None]
    assert typed.values_as_text(rows["v"]).to_list() == told
    assert all(json.loads(payload) for payload in typed.rows_as_json(rows))


def test_equal_numbers_are_read_in_pieces(tmp_path: Path) -> None:
    """They take next to nothing in the file, and eight bytes each in memory."""
    columns = {f"c{i}": pa.array([1.5] * 50_000) for i in range(400)}
    sizes = [f.estimated_size() for _, f in pieces_of(written(tmp_path, columns), 1)]
    assert max(sizes) <= pieces.BYTES * 1.1
    assert sum(sizes) >= 400 * 50_000 * 8


def test_a_file_of_zeros_is_read_in_pieces(tmp_path: Path) -> None:
    """Compressed a thousandfold: what counts is the size without compression."""
    column = pa.array([f"{i:06}" + "0" * 30_000 for i in range(8_000)])
    path = written(tmp_path, {"v": column}, compression="zstd", use_dictionary=False)
    sizes = [frame.estimated_size() for _, frame in pieces_of(path, 1)]
    assert max(sizes) <= pieces.BYTES * 1.1
    assert sum(frame.height for _, frame in pieces_of(path, 1)) == 8_000


def test_reading_goes_on_in_the_middle_of_a_piece(tmp_path: Path) -> None:
    path = written(tmp_path, {"n": pa.array(range(1, 2_001))}, row_group_size=300)
    rows = [(row, n) for row, frame in pieces_of(path, 777) for row, n in enumerate(frame["n"], row)]
    assert rows == [(n, n) for n in range(777, 2_001)]


def test_what_a_row_is_does_not_hang_on_its_neighbours(tmp_path: Path) -> None:
    days = pa.array([2**31 - 1, 0], pa.int32()).cast(pa.date32())
    moments = pa.array([2**60, 86_400_000], pa.timestamp("ms"))
    rows = read(written(tmp_path, {"day": days, "at": moments}))
    midnight = datetime(1970, 1, 1, tzinfo=UTC)
    assert polars_engine.cast_column(rows["day"], TIMESTAMP).to_list() == [None, midnight]
    assert polars_engine.cast_column(rows["at"], DATE).to_list() == [None, date(1970, 1, 2)]


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
    assert typed.values_as_text(rows["x"]).to_list() == told
    assert all(json.loads(payload) for payload in typed.rows_as_json(rows.select("id", "x")))


COUNTS = pa.map_(pa.string(), pa.int64())


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (
            pa.array([[("k", 1), ("k", 2)], [("a", 1), ("b", 1)], None, []], COUNTS),
            ['[{"key":"k","value":1},{"key":"k","value":2}]', '{"a":1,"b":1}', None, "{}"],
        ),
        (
            pa.array([[(7, b"a"), (7, b"b"), (8, None)], [(7, b"c")]], pa.map_(pa.int32(), pa.binary())),
            [
                '[{"key": "7", "value": "YQ=="}, {"key": "7", "value": "Yg=="}, {"key": "8", "value": null}]',
                '{"7": "Yw=="}',
            ],
        ),
        (
            pa.array([[("a", [("x", 1)])], [("a", [("x", 1), ("x", 1)])]], pa.map_(pa.string(), COUNTS)),
            [
                '{"a":{"x":1}}',
                '[{"key":"a","value":[{"key":"x","value":1},{"key":"x","value":1}]}]',
            ],
        ),
        (
            pa.array(
                [{"m": [[("x", 1), ("x", 2)]]}, None, {"m": None}], pa.struct([("m", pa.list_(COUNTS))])
            ),
            ['{"m":[[{"key":"x","value":1},{"key":"x","value":2}]]}', None, '{"m":null}'],
        ),
    ],
)
@pytest.mark.parametrize("first_row", [1, 2])
def test_a_map_that_repeats_a_key_keeps_all_of_its_values(
    tmp_path: Path, column: pa.Array, told: list[str | None], first_row: int
) -> None:
    """The last one stayed, in dead letters and beside bytes. What stands in other rows is told as ever."""
    path = written(tmp_path, {"m": column, "n": pa.array(range(len(column)))})
    ((_, rows),) = pieces_of(path, first_row)
    assert typed.values_as_text(rows["m"]).to_list() == told[first_row - 1 :]
    payloads = parquet.Parquet().payloads(pl.concat(parquet.Parquet().read(path, first_row)))
    again = parquet.Parquet().stored.parse_again(payloads)
    kept = [text and json.loads(text) for text in again["m"]]
    assert kept == [text and json.loads(text) for text in told[first_row - 1 :]]


MAPS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1)), max_size=4)


@given(st.lists(st.none() | st.lists(st.none() | MAPS, max_size=3), min_size=1, max_size=6), st.data())
def test_the_rows_with_a_repeated_key_are_found(rows: list[list[Any] | None], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(rows) - 1))
    column = pa.array([{"v": row} for row in rows], pa.struct([("v", pa.list_(COUNTS))]))
    repeats = [any(len(dict(m or ())) < len(m or ()) for m in row or ()) for row in rows]
    assert (parquet._count_repeated_keys(column.slice(first)) > 0).tolist() == repeats[first:]


BYTES_AND_TIME = pa.struct([("b", pa.binary()), ("t", pa.timestamp("us"))])
FAR_MAP = pa.map_(pa.string(), pa.timestamp("us"))


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (
            pa.array([{"b": b"a", "t": 2**62}, {"b": None, "t": 0}], BYTES_AND_TIME),
            [{"b": "YQ==", "t": f"{2**62} us since 1970-01-01"}, {"b": None, "t": "1970-01-01 00:00:00"}],
        ),
        (
            pa.array([[("k", -(2**62))], [("k", 1_250_000)]], FAR_MAP),
            [{"k": f"{-(2**62)} us since 1970-01-01"}, {"k": "1970-01-01 00:00:01.250"}],
        ),
        (
            pa.array([[2**62, 86_400_000], None], pa.list_(pa.timestamp("ms"))),
            [[f"{2**62} ms since 1970-01-01", "1970-01-02 00:00:00"], None],
        ),
        (
            pa.array([[(2**60, 1)], [(0, 2)]], pa.map_(pa.timestamp("us", "UTC"), pa.int8())),
            [{f"{2**60} us since 1970-01-01": 1}, {"1970-01-01T00:00:00+00:00": 2}],
        ),
        (pa.array([[("k", b"\xff")], None], pa.map_(pa.string(), pa.binary())), [{"k": "/w=="}, None]),
    ],
)
def test_an_instant_within_a_value_is_told_however_far(
    tmp_path: Path, column: pa.Array, told: list[Any]
) -> None:
    """Some kept their file out, some stopped their source when a dead letter was to tell them."""
    rows = read(written(tmp_path, {"v": column}))
    assert [text and json.loads(text) for text in typed.values_as_text(rows["v"])] == told
    kept = [json.loads(payload)["v"] for payload in typed.rows_as_json(rows)]
    assert [json.loads(v) if isinstance(v, str) else v for v in kept] == told


@pytest.mark.parametrize("kind", ["plain", "list", "large", "fixed", "map", "deep"])
def test_a_text_that_is_none_is_the_fault_of_its_row(tmp_path: Path, kind: str) -> None:
    """Who writes a file does not check it; one such value ended the process with a panic."""
    raw = pa.array([b"a", b"b\xffc", None, "d\u00e9".encode()])
    text = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    column = text if kind == "plain" else nested(text)[kind]
    path = written(tmp_path, {"v": column, "n": pa.array(range(4))})
    (frame,) = parquet.Parquet().read(path)
    assert frame["_malformed"].to_list() == [None, "not valid utf-8", None, None]
    assert frame[CODE].to_list() == [None, "undecoded", None, None]
    whole = pa.concat_arrays([column.slice(0, 1), column.slice(2)])
    good = frame.filter(pl.col("_malformed").is_null())
    assert good["v"].to_arrow().to_pylist() == whole.to_pylist()
    assert good["n"].to_list() == [0, 2, 3]
    payloads = [json.loads(payload) for payload in parquet.Parquet().payloads(frame)]
    assert [payload["n"] for payload in payloads] == [0, 1, 2, 3]
    assert "b\udcffc" in str(payloads[1]["v"]).replace("\\udcff", "\udcff")
    again = parquet.Parquet().stored.parse_again(parquet.Parquet().payloads(frame))
    assert again["_malformed"].is_not_null().to_list() == [False, True, False, False]


def test_what_stands_beside_a_text_that_is_none_is_kept(tmp_path: Path) -> None:
    """A replay took such a row in with other values: all within its nesting had become base64."""
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xffz"]).buffers())
    beside = {
        "name": pa.array(["Bob"]),
        "raw": pa.array([b"\x00\xff"]),
        "at": pa.array([86_400_250], pa.timestamp("ms")),
        "day": pa.array([1], pa.int32()).cast(pa.date32()),
        "noon": pa.array([43_200_500], pa.int32()).view(pa.time32("ms")),
        "n": pa.array([float("inf")]),
        "price": pa.array([Decimal("1.50")]),
    }
    value = pa.StructArray.from_arrays([text, *beside.values()], ["note", *beside])
    (frame,) = parquet.Parquet().read(written(tmp_path, {"v": value, "n": pa.array([1])}))
    payloads = parquet.Parquet().payloads(frame)
    payload = json.loads(payloads[0])
    assert payload["n"] == 1
    assert json.loads(payload["v"]) == {
        "note": "\udcffz",
        "name": "Bob",
        "raw": "AP8=",
        "at": "1970-01-02 00:00:00.250",
        "day": "1970-01-02",
        "noon": "12:00:00.500",
        "n": "inf",
        "price": "1.50",
    }
    assert parquet.Parquet().stored.parse_again(payloads)["_malformed"].is_not_null().all()


@pytest.mark.parametrize("keys", [pa.array([7, 7, 8]), pa.array([True, False, True]), pa.array(list("aab"))])
def test_a_text_that_is_none_in_a_map_that_repeats_a_key_is_kept(tmp_path: Path, keys: pa.Array) -> None:
    """A replay took such a row in with base64 in the place of all of its texts."""
    text = pa.Array.from_buffers(pa.string(), 3, pa.array([b"\xffz", b"Bob", b""]).buffers())
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), text)
    column = pa.MapArray.from_arrays(pa.array([0, 3], pa.int32()), keys, lists)
    payloads = parquet.Parquet().payloads(*parquet.Parquet().read(written(tmp_path, {"v": column})))
    pairs = json.loads(json.loads(payloads[0])["v"])
    assert [pair["value"] for pair in pairs] == [["\udcffz"], ["Bob"], [""]]
    assert [pair["key"] for pair in pairs] == keys.to_pylist()
    assert parquet.Parquet().stored.parse_again(payloads)["_malformed"].is_not_null().all()


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (pa.array([86_400_250], pa.timestamp("ms")), "1970-01-02T00:00:00.250000"),
        (pa.array([0], pa.timestamp("us", "Asia/Tokyo")), "1970-01-01T09:00:00+09:00"),
        (pa.array([1_000], pa.timestamp("ns")), "1970-01-01T00:00:00.000001"),
        (pa.array([59], pa.int32()).cast(pa.date32()), "1970-03-01"),
        (pa.array([Decimal("-0.070")]), "-0.070"),
        (pa.array(["x" * 20], pa.string_view()), "x" * 20),
    ],
)
def test_a_text_that_is_none_leaves_the_file_readable(tmp_path: Path, column: pa.Array, told: str) -> None:
    """Beside an instant, a day, a decimal or a view one such text kept its whole file out."""
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xffz"]).buffers())
    path = written(tmp_path, {"note": text, "v": column}, use_dictionary=False)
    (frame,) = parquet.Parquet().read(path)
    (payload,) = parquet.Parquet().payloads(frame)
    assert json.loads(payload) == {"note": "\udcffz", "v": told}


def test_a_file_of_texts_that_are_none_is_looked_at_by_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Latin-1 export: each row is bad, and each was looked for in a list of all."""
    looks, is_valid = [0], parquet._is_valid

    def counted(column: pa.Array) -> bool:
        looks[0] += len(column)
        return is_valid(column)

    monkeypatch.setattr(parquet, "_is_valid", counted)
    rows = 4_096
    text = pa.Array.from_buffers(pa.string(), rows, pa.array([b"\xe9"] * rows).buffers())
    (frame,) = parquet.Parquet().read(written(tmp_path, {"v": text}))
    assert frame["_malformed"].is_not_null().all()
    assert looks[0] <= rows * 15


@pytest.mark.parametrize("nest", [False, True])
def test_a_number_that_its_type_does_not_hold_is_told_as_it_is(tmp_path: Path, nest: bool) -> None:
    """24:00:00, which Postgres allows, came as null, and 12345 of three digits as 12300."""
    hours = pa.array([1_000_000, 86_400_000_000, None, -1], pa.int64()).view(pa.time64("us"))
    wide = pa.array([1, 12_345, None, 999], pa.decimal128(9, 0)).buffers()
    columns = {"t": hours, "d": pa.Array.from_buffers(pa.decimal128(3, 0), 4, wide)}
    if nest:
        columns = {k: pa.StructArray.from_arrays([v], ["v"]) for k, v in columns.items()}
    rows = read(written(tmp_path, columns))
    told = {
        "t": ["00:00:01", "86400000000 us since midnight", None, "-1 us since midnight"],
        "d": ["1", "12345", None, "999"],
    }
    texts = {name: typed.values_as_text(rows[name]).to_list() for name in told}
    if nest:
        texts = {name: [json.loads(text)["v"] for text in found] for name, found in texts.items()}
    assert texts == told


def test_instants_of_the_old_kind_stand_beside_a_type_of_somebodys_own(tmp_path: Path) -> None:
    """The file ended its intake with an error of the inside."""
    inner = pa.StructArray.from_arrays([pa.array([1]), pa.array(["x"])], ["a", "b"])
    own = pa.ExtensionArray.from_storage(pa.opaque(inner.type, "point", "somebody"), inner)
    at = datetime(2026, 7, 1, 10)
    columns = {"own": own, "at": pa.array([at], INSTANT), "last": pa.array([[at]], pa.list_(INSTANT))}
    rows = read(written(tmp_path, columns, use_deprecated_int96_timestamps=True))
    assert rows["at"].to_list() == [at] and rows["last"].to_list() == [[at]]
    assert typed.values_as_text(rows["own"]).to_list() == ['{"a":1,"b":"x"}']


def test_instants_of_the_old_kind_may_say_their_length(tmp_path: Path) -> None:
    path = written(tmp_path, {"at": [datetime(2026, 7, 1, 10)]}, use_deprecated_int96_timestamps=True)
    data = path.read_bytes()
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    kind = bytes([0x15, 2 * 3])  # `type`: INT96, and then `repetition_type`, two fields on
    assert footer.count(kind + b"\x25") == 1
    said = footer.replace(kind + b"\x25", kind + bytes([0x15, 2 * 12, 0x15]))
    path.write_bytes(data[: -8 - len(footer)] + said + len(said).to_bytes(4, "little") + b"PAR1")
    assert read(path)["at"].to_list() == [datetime(2026, 7, 1, 10)]


def test_a_time_keeps_the_parts_of_its_second(tmp_path: Path) -> None:
    """Undeclared, 12:00:00.5 came as 12:00:00."""
    times = [43_200_500_000_000, 5, None]
    rows = read(written(tmp_path, {"v": pa.array(times, pa.time64("ns"))}))
    told = ["12:00:00.500", "00:00:00.000000005", None]
    assert typed.values_as_text(rows["v"]).to_list() == told
    assert [json.loads(payload)["v"] for payload in typed.rows_as_json(rows)] == told


def test_a_type_of_somebodys_own_is_what_it_is_stored_as(tmp_path: Path) -> None:
    tensors = pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2))
    columns = {
        "flag": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None], pa.int8())),
        "tensor": pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.int32(), [2]), tensors),
    }
    rows = read(written(tmp_path, columns))
    assert typed.values_as_text(rows["flag"]).to_list() == ["1", None]
    assert typed.values_as_text(rows["tensor"]).to_list() == ["[1,2]", "[3,4]"]


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
    texts = {name: typed.values_as_text(rows[name]).to_list() for name in columns}
    assert [{name: json.loads(texts[name][i]) for name in columns} for i in range(2)] == want
    assert [
        json.loads(p, parse_constant=str.upper) for p in typed.rows_as_json(rows.select(*columns))
    ] == want


WITHOUT_THREADS = """
import os, resource, sys
from medallion_platform.errors import classify
from medallion_platform.sources.formats import parquet

file = open(sys.argv[1], "rb")  # root is not limited, and nobody else may read what is root's
if os.getuid() == 0:
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
try:
    list(parquet.Parquet().read(f"/dev/fd/{file.fileno()}", 1))
except Exception as error:
    print(type(error).__name__, classify(error).kind)
"""


def test_a_machine_without_room_is_no_damage_of_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, {"a": pa.array([1, 2]), "b": pa.array(["x", "y"])})
    command = [sys.executable, "-c", WITHOUT_THREADS, str(path)]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert told.stdout.split() == ["MedallionError", "resource"], told
