"""Text and typed values become the column's type in the same way in both engines, or not at all."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from medallion_platform.contracts import polars_engine
from medallion_platform.contracts.contract import ColumnType, IsType, Severity

from .engines import assert_agree, contract_of, expectation, quick

TYPES = {
    "integer": ColumnType("integer"),
    "long": ColumnType("long"),
    "float": ColumnType("float"),
    "double": ColumnType("double"),
    "boolean": ColumnType("boolean"),
    "date": ColumnType("date"),
    "timestamp": ColumnType("timestamp"),
    "money": ColumnType("decimal", 12, 2),
    "share": ColumnType("decimal", 4, 4),
    "whole": ColumnType("decimal", 38, 0),
    "string": ColumnType("string"),
}
CONTRACT = contract_of(
    TYPES, *(expectation(f"{name} is read", (name,), IsType(), Severity.WARN) for name in TYPES)
)
"""Every type, with nothing but the cast; a warning keeps the row, so that the values are compared."""

A_DAY = datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC)
KNOWN: list[tuple[str, str, Any]] = [
    ("integer", "+7", 7),
    ("integer", "-0", 0),
    ("integer", "007", 7),
    ("integer", "2147483647", 2**31 - 1),
    ("integer", "2147483648", None),
    ("integer", " 7", None),
    ("integer", "7 ", None),
    ("integer", "7.0", None),
    ("integer", "\u0667", None),
    ("integer", "1_000", None),
    ("integer", "", None),
    ("long", "-9223372036854775808", -(2**63)),
    ("long", "-9223372036854775809", None),
    ("double", "1e308", 1e308),
    ("double", "1e309", None),
    ("double", "-1e-400", -0.0),
    ("double", ".5", 0.5),
    ("double", "5.", 5.0),
    ("double", "1d", None),
    ("double", "0x1p3", None),
    ("double", "nan", math.nan),
    ("double", "-NaN", math.nan),
    ("double", "+Infinity", math.inf),
    ("double", "-inf", -math.inf),
    ("double", "infinit", None),
    ("float", "3.4e39", None),
    ("float", "0.1", 0.10000000149011612),
    ("boolean", "Yes", True),
    ("boolean", "0", False),
    ("boolean", "yEs", None),
    ("boolean", " true", None),
    ("money", "1.230", Decimal("1.23")),
    ("money", "1.235", None),
    ("money", "12345678901", None),
    ("money", "0000000001234567890.5", Decimal("1234567890.50")),
    ("money", ".5", Decimal("0.50")),
    ("money", "5.", Decimal("5.00")),
    ("money", "1e2", None),
    ("share", "0.1234", Decimal("0.1234")),
    ("share", "1", None),
    ("whole", "9" * 38, Decimal("9" * 38)),
    ("whole", "9" * 39, None),
    ("date", "2024-02-29", date(2024, 2, 29)),
    ("date", "2023-02-29", None),
    ("date", "1900-02-29", None),
    ("date", "2000-02-29", date(2000, 2, 29)),
    ("date", "0001-01-01", date(1, 1, 1)),
    ("date", "0000-01-01", None),
    ("date", "9999-12-31", date(9999, 12, 31)),
    ("date", "10000-01-01", None),
    ("date", "2024-1-05", None),
    ("date", "2024- 1-05", None),
    ("date", "2024-01-05\n", None),
    ("date", "2024-01-05T00:00:00Z", None),
    ("timestamp", "2024-02-29T23:59:59.123456Z", A_DAY),
    ("timestamp", "2024-02-29 23:59:59.123456", A_DAY),
    ("timestamp", "2024-03-01T01:59:59.123456+02", A_DAY),
    ("timestamp", "2024-03-01T01:59:59.123456+0200", A_DAY),
    ("timestamp", "2024-02-29T18:29:59.123456-05:30", A_DAY),
    ("timestamp", "2024-02-29T23:59", datetime(2024, 2, 29, 23, 59, tzinfo=UTC)),
    ("timestamp", "2024-02-29T23:59-01", datetime(2024, 3, 1, 0, 59, tzinfo=UTC)),
    ("timestamp", "2024-02-29T23:59:59.1234567Z", None),
    ("timestamp", "2024-02-29T23:59:60Z", None),
    ("timestamp", "2024-02-29T24:00:00Z", None),
    ("timestamp", "2024-02-29T23:59:59z", None),
    ("timestamp", "2024-02-29T23:59:59 Z", None),
    ("timestamp", "2024-02-29T23:59:59+18:01", None),
    ("timestamp", "2024-02-29T23:59:59+1", None),
    ("timestamp", "2023-02-29T00:00:00Z", None),
    ("timestamp", "2024-02-29", None),
    ("timestamp", "0001-01-01T00:00:00+01:00", None),
    ("timestamp", "9999-12-31T23:59:59-01:00", None),
]


@pytest.mark.parametrize(("name", "text", "value"), KNOWN)
def test_a_known_text(name: str, text: str, value: Any) -> None:
    found = polars_engine.cast_column(pl.Series([text]), TYPES[name])
    assert repr(found.to_list()) == repr([value]) or found.to_list() == [value]


def test_the_engines_agree_on_the_known_texts(spark: SparkSession) -> None:
    agree_on_texts([text for _, text, _ in KNOWN], spark)


def agree_on_texts(texts: list[str | None], spark: SparkSession) -> None:
    """Each text as each type."""
    frame = pl.DataFrame({name: pl.Series(texts, dtype=pl.String) for name in TYPES})
    assert_agree(CONTRACT, frame, spark)


digits = st.text("0123456789", min_size=1, max_size=22)
signs = st.sampled_from(["", "+", "-", "--", "+-"])
numbers = st.one_of(
    st.builds("{}{}".format, signs, digits),
    st.builds(
        "{}{}.{}".format, signs, st.text("0123456789", max_size=20), st.text("0123456789", max_size=20)
    ),
    st.builds("{}{}{}{}".format, signs, digits, st.sampled_from("eE"), st.integers(-500, 500).map(str)),
    st.floats().map(repr),
    st.floats(width=32).map(repr),
    st.integers(-(2**65), 2**65).map(str),
    st.sampled_from(["nan", "inf", "infinity", "NaN", "1e", ".", "-.", "1f", "0x10", "1e99999999999"]),
    st.sampled_from([2**31, 2**63, 10**38, 10**10]).flatmap(
        lambda n: st.integers(-2, 2).map(lambda d: str(n + d))
    ),
)
moments = st.builds(
    "{}{}{}{}".format,
    st.one_of(
        st.dates().map(str),
        st.builds(
            "{:04}-{:02}-{:02}".format, st.integers(0, 10001), st.integers(0, 13), st.integers(0, 32)
        ),
        st.sampled_from(["2024-02-29", "2100-02-29", "0001-01-01", "9999-12-31", "2024-2-9"]),
    ),
    st.sampled_from(["", "T", " ", "t", "  "]),
    st.one_of(
        st.just(""),
        st.times().map(str),
        st.builds("{:02}:{:02}".format, st.integers(0, 25), st.integers(0, 61)),
        st.builds("12:34:56.{}".format, st.text("0123456789", max_size=8)),
    ),
    st.one_of(
        st.sampled_from(["", "Z", "z", " Z", "+00", "-0000", "+18:00", "+18:01", "-1", "+19:00", "UTC"]),
        st.builds("{}{:02}:{:02}".format, st.sampled_from("+-"), st.integers(0, 20), st.integers(0, 61)),
    ),
)  # fmt: skip
blanks = st.sampled_from(["", "", "", "", " ", "\n", "\t", "\u00a0", "\x00", "\x1f"])
texts = st.one_of(
    st.none(),
    st.text(max_size=12),
    st.builds("{}{}{}".format, blanks, st.one_of(numbers, moments), blanks),
    st.sampled_from(["true", "TRUE", "t", "Yes", "y", "1", "0", "n", "No", "false", "F", "tRUE", "on"]),
    numbers.map(lambda text: text.translate({ord("1"): "\u0661", ord("5"): "\uff15"})),
)


@quick(4)
@given(st.lists(texts, min_size=200, max_size=400))
def test_the_engines_agree_on_generated_texts(spark: SparkSession, found: list[str | None]) -> None:
    agree_on_texts(found, spark)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.floats(), st.floats(width=32)))
def test_a_written_double_is_read_back(value: float) -> None:
    found = polars_engine.cast_column(pl.Series([repr(value)]), ColumnType("double")).to_list()
    assert repr(found) == repr([value])


@settings(max_examples=200, deadline=None)
@given(st.datetimes(timezones=st.timezones()))
def test_a_written_timestamp_is_read_back(value: datetime) -> None:
    text = value.isoformat()
    found = polars_engine.cast_column(pl.Series([text]), ColumnType("timestamp")).to_list()
    try:
        expected = value.astimezone(UTC)
    except OverflowError:
        expected = None
    offset = value.utcoffset()
    if offset is not None and offset.seconds % 60:
        expected = None  # a zone of old, with seconds: not of the form
    assert found == [expected]


TYPED = {
    "integer": (pl.Int32, st.integers(-(2**31), 2**31 - 1)),
    "long": (pl.Int64, st.integers(-(2**63), 2**63 - 1)),
    "float": (pl.Float32, st.floats(width=32)),
    "double": (pl.Float64, st.floats() | st.integers(-100, 100).map(float)),
    "boolean": (pl.Boolean, st.booleans()),
    "date": (pl.Date, st.dates()),
    "timestamp": (
        pl.Datetime("us", "UTC"),
        st.datetimes(timezones=st.just(UTC))
        | st.dates().map(lambda d: datetime(d.year, d.month, d.day, tzinfo=UTC)),
    ),
    "naive": (pl.Datetime("us"), st.datetimes()),
    "decimal": (pl.Decimal(20, 4), st.decimals(-(10**15), 10**15, places=4)),
    "small": (pl.Decimal(5, 1), st.decimals(-999, 999, places=1)),
}  # fmt: skip


@pytest.mark.parametrize("source", TYPED)
def test_the_engines_agree_on_typed_values(spark: SparkSession, source: str) -> None:
    dtype, values = TYPED[source]

    @quick(2)
    @given(st.lists(st.none() | values, min_size=50, max_size=200))
    def agree(found: list[Any]) -> None:
        series = pl.Series(found, dtype=dtype)
        assert_agree(CONTRACT, pl.DataFrame(dict.fromkeys(TYPES, series)), spark)

    agree()


@pytest.mark.parametrize(
    ("given_", "type_", "expected"),
    [
        (pl.Series([1.5, 2.0, 3e9, math.nan]), "integer", [None, 2, None, None]),
        (pl.Series([2**40, -5]), "integer", [None, -5]),
        (pl.Series([1e300, 0.1, math.inf]), "float", [None, 0.10000000149011612, math.inf]),
        (pl.Series([datetime(2024, 1, 1), datetime(2024, 1, 1, 1)]), "date", [date(2024, 1, 1), None]),
        (pl.Series([date(2024, 1, 1)]), "timestamp", [datetime(2024, 1, 1, tzinfo=UTC)]),
        (pl.Series([7, 8]), "string", ["7", "8"]),
        (pl.Series([1.5]), "string", [None]),
        (pl.Series([0, 1]), "boolean", [None, None]),
        (pl.Series([Decimal("1.25"), Decimal("1.2500")]), "money", [Decimal("1.25"), Decimal("1.25")]),
        (pl.Series([Decimal("1.255")]), "money", [None]),
        (pl.Series([12, 10**11]), "money", [Decimal(12), None]),
    ],
)
def test_a_known_typed_value(given_: pl.Series, type_: str, expected: list[Any]) -> None:
    assert polars_engine.cast_column(given_, TYPES[type_]).to_list() == expected
