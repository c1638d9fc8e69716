"""Both engines validate alike: every check, over generated frames of text and of typed values."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from medallion_platform.contracts import spark_engine as in_spark
from medallion_platform.contracts.contract import Contract
from medallion_platform.contracts.model import expect

from .engines import assert_agree, by_polars, by_spark, numbered, quick, to_polars
from .rows import VALUES, checks, column, model

KINDS = sorted(VALUES)
SEVERITIES = st.sampled_from(["reject", "warn"])


def text_of(series: pl.Series) -> pl.Series:
    if series.dtype == pl.Datetime("us", "UTC"):
        return series.dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").str.zfill(27)
    if series.dtype == pl.Date:
        return series.dt.strftime("%Y-%m-%d").str.zfill(10)
    if series.dtype == pl.Boolean:
        return series.cast(pl.Int8).cast(pl.String)
    return series.cast(pl.String)


@quick(3)
@given(st.data())
def test_every_check_on_generated_frames(spark: SparkSession, data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([0, 1, 40]), label="rows")
    fields: dict[str, tuple[str, dict[str, Any]]] = {}
    columns: dict[str, pl.Series] = {}
    for i in range(16):
        kind = data.draw(st.sampled_from(KINDS))
        options: dict[str, Any] = {"nullable": data.draw(st.booleans()), "unique": i == 0}
        options["metadata"] = {"severity": data.draw(SEVERITIES)}
        fields[f"c{i}"] = (kind, options | data.draw(checks(kind)))
        values = data.draw(st.lists(st.none() | VALUES[kind], min_size=size, max_size=size))
        series = column(values, kind)
        if data.draw(st.booleans()):
            series = text_of(series)
            spoiled = data.draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))
            series = pl.Series(
                ["?" if s == 0 else v for v, s in zip(series, spoiled, strict=True)], dtype=pl.String
            )
        columns[f"c{i}"] = series
    missing = data.draw(st.sampled_from(sorted(columns)))
    del columns[missing]
    frame = pl.DataFrame(columns | {"extra": pl.Series(["x"] * size, dtype=pl.String)})
    contract = model(fields, unique=["c1", "c2"]).contract
    assert_agree(contract, frame, spark)


MODEL = model(
    {
        "id": ("string", {"str_length": {"min_value": 1}, "unique": True}),
        "amount": ("double", {"nullable": True, "ge": 0, "metadata": {"severity": {"ge": "warn"}}}),
        "kind": ("string", {"isin": ["a", "b"], "unique_values_eq": ["a", "b"]}),
        "at": ("timestamp", {}),
        "until": ("timestamp", {"nullable": True}),
    },
    metadata={
        "rows": {
            "in order": "until >= at",
            "not too much": expect("amount <= 100 or kind = 'b'", severity="fail"),
        }
    },
)
CONTRACT: Contract = MODEL.contract
ROWS = [
    {"id": "1", "amount": "1", "kind": "a", "at": "2024-01-01T00:00:00Z", "until": None},
    {"id": "2", "amount": "-1", "kind": "b", "at": "2024-01-01T00:00:00Z", "until": "2023-01-01 00:00:00"},
    {"id": "3", "amount": "x", "kind": "c", "at": "yesterday", "until": None},
    {"id": "3", "amount": None, "kind": "b", "at": None, "until": None},
    {"id": "", "amount": "NaN", "kind": "b", "at": "2024-01-01T00:00:00Z", "until": None},
]  # fmt: skip
NAMES = [
    (1, ["in order"]),
    (2, ["id: unique", "amount: is a double", "kind: one of a, b", "at: is a timestamp"]),
    (3, ["id: unique", "at: not null"]),
    (4, ["id: at least 1 character"]),
]


def test_bad_rows_come_as_they_came_with_every_violation_named(spark: SparkSession) -> None:
    frame = pl.DataFrame(ROWS)
    found = assert_agree(CONTRACT, frame, spark)
    assert list(found.bad.select("_row", "_violations").iter_rows()) == NAMES
    assert_frame_equal(found.bad.select(frame.columns), frame[1:])
    assert found.good["id"].to_list() == ["1"]
    assert found.counts["amount: at least 0"] == 2
    assert found.counts["kind: all of its values are a, b"] == 1


def test_good_and_bad_of_spark_are_those_rows(spark: SparkSession) -> None:
    frame = numbered(pl.DataFrame(ROWS))
    validated = in_spark.validate(CONTRACT, spark.createDataFrame(frame.to_arrow()))
    ours = by_polars(CONTRACT, frame)
    assert_frame_equal(to_polars(validated.good()).sort("_row"), ours.good)
    assert_frame_equal(to_polars(validated.bad()).sort("_row"), ours.bad)


@pytest.mark.failure("data")
def test_fail_raises_with_the_name_and_no_value(spark: SparkSession) -> None:
    row = dict(ROWS[0], amount="12345.5")
    frame = numbered(pl.DataFrame([row]))
    assert by_polars(CONTRACT, frame).counts["not too much"] == 1
    validated = in_spark.validate(CONTRACT, spark.createDataFrame(frame.to_arrow()))
    with pytest.raises(PySparkException) as error:
        validated.good().collect()
    assert in_spark.failed_expectation(error.value) == "not too much"
    assert "12345" not in str(error.value).split("SQLSTATE")[0]


@pytest.mark.parametrize("ansi", ["true", "false"])
@pytest.mark.parametrize("zone", ["Pacific/Apia", "America/New_York"])
def test_neither_ansi_mode_nor_time_zone_matter(spark: SparkSession, ansi: str, zone: str) -> None:
    contract = model(
        {"n": ("integer", {"nullable": True}), "at": ("timestamp", {"ge": "2024-01-01"}), "d": ("date", {})},
        metadata={"rows": {"day": "date(at) = d", "far": "n / (n - 1) < 3 or n * n * n > 8"}},
    ).contract
    frame = pl.DataFrame(
        {
            "n": ["1", "99999999999", "x", None, "2147483647"],
            "at": ["2023-12-31T23:59:59", "2024-01-01T00:00:00", "2024-01-01T12:00:00+14:00",
                   "2024-03-10 02:30:00", ""],
            "d": ["2023-12-31", "2024-01-01", "2024-01-01", "2024-03-10", "2024-02-30"],
        }
    )  # fmt: skip
    settings = {"spark.sql.ansi.enabled": ansi, "spark.sql.session.timeZone": zone}
    before = {name: spark.conf.get(name) for name in settings}
    for name, value in settings.items():
        spark.conf.set(name, value)
    try:
        frame = numbered(frame)
        ours, theirs = by_polars(contract, frame), by_spark(contract, frame, spark)
    finally:
        for name, value in before.items():
            spark.conf.set(name, str(value))
    assert_frame_equal(ours.bad, theirs.bad)
    assert ours.counts == theirs.counts
    assert ours.bad.height == 4


def test_no_columns_no_rows(spark: SparkSession) -> None:
    empty = pl.DataFrame({"other": pl.Series([], dtype=pl.String)})
    found = assert_agree(CONTRACT, empty, spark)
    assert found.good.columns == [*CONTRACT.column_names, "other", "_row"]
    assert found.counts["kind: all of its values are a, b"] == 1


def test_many_expectations_need_more_than_one_number(spark: SparkSession) -> None:
    fields = {f"c{i}": ("integer", {"ge": i, "lt": i + 50}) for i in range(24)}
    contract = model(fields).contract
    assert len(contract.expectations) == 96
    frame = pl.DataFrame({name: pl.Series([-1, 20, 60, None], dtype=pl.Int32) for name in fields})
    assert assert_agree(contract, frame, spark).bad.height == 4
    text = frame.cast(pl.String).with_columns(c7=pl.lit("x"))
    assert assert_agree(contract, text, spark).bad.height == 4


def test_a_zero_is_a_zero_and_nan_is_nan_in_a_set_of_any_size(spark: SparkSession) -> None:
    """Spark looks a value up in a hash set once there are many."""
    few, many = [0.0, 1.0], [float(n) for n in range(30)]
    contract = model(
        {
            "few": ("double", {"isin": few}),
            "many": ("double", {"isin": many}),
            "not_few": ("float", {"notin": few}),
            "not_many": ("float", {"notin": many}),
        }
    ).contract
    values = [0.0, -0.0, 1.0, float("nan"), float("inf"), 99.0]
    frame = pl.DataFrame({name: column(values, contract.column(name).type.kind) for name in contract.by_name})
    found = assert_agree(contract, frame, spark)
    assert list(found.counts.values()) == [0, 0, 3, 0, 0, 3, 0, 0, 3, 0, 0, 3]


BOUNDS = st.sampled_from(["ge", "gt", "le", "lt"])
NUMBERS = st.sampled_from([math.nan, -math.inf, -1.0, 0.0, 2.5, math.inf, None])
TERMS, LIMITS = st.sampled_from(["x", "y", "-x", "x - y"]), st.sampled_from(["0", "2.5e0", "y", "abs(x)"])
SQL_BOUNDS = st.recursive(
    st.builds("{} {} {}".format, TERMS, st.sampled_from(["<", "<=", ">", ">="]), LIMITS),
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or"]), inner)
        | st.builds("not ({})".format, inner)
    ),
    max_leaves=4,
)


@quick(4)
@given(st.data())
def test_nan_passes_no_bound_however_it_is_said(spark: SparkSession, data: st.DataObject) -> None:
    limits = {f"c{i}": {data.draw(BOUNDS): 0.0} for i in range(4)}
    limits["r"] = {"in_range": {"min_value": -1.0, "max_value": 2.5}}
    fields = {
        n: (data.draw(st.sampled_from(["double", "float"])), {"nullable": True, **o})
        for n, o in limits.items()
    }
    fields |= {n: ("double", {"nullable": True}) for n in ("x", "y")}
    rows = {f"rule {i}": data.draw(SQL_BOUNDS) for i in range(6)}
    contract = model(fields, metadata={"rows": rows}).contract
    names = list(fields)
    values = {n: data.draw(st.lists(NUMBERS, min_size=30, max_size=30)) for n in names}
    frame = pl.DataFrame({n: column(values[n], contract.column(n).type.kind) for n in names})
    found = assert_agree(contract, frame, spark)
    bounded = pl.any_horizontal(pl.col(*limits).is_nan())
    assert found.good.filter(bounded).is_empty()
    assert_agree(contract, frame.select(pl.all().cast(pl.String)), spark)


@pytest.mark.parametrize(
    "rule",
    ["x >= 0", "x < 0", "not x < 0", "not (x > 9 and x < 0)", "x not between 1 and 2", "x between 1 and 2"],
)
def test_a_rule_in_sql_is_broken_by_nan(rule: str) -> None:
    contract = model({"x": ("double", {"nullable": True})}, metadata={"rows": {"rule": rule}}).contract
    frame = numbered(pl.DataFrame({"x": [math.nan, None]}))
    assert by_polars(contract, frame).bad["_row"].to_list() == [0]
    either = model(
        {"x": ("double", {})}, metadata={"rows": {"rule": f"x is null or x = x or {rule}"}}
    ).contract
    assert by_polars(either, frame[:1]).bad.is_empty()
