"""pandera is the oracle: the compiled verdict is pandera's own, row by row where it names rows.

Where pandera's backends differ from each other, or from what the check says, the decision stands in
a test here, together with what each backend does: if pandera changes, the test says so.
"""

from __future__ import annotations

import math
from typing import Any, cast

import pandera.errors
import pandera.polars as pp
import polars as pl
import pyspark.sql.types as T
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from medallion_platform.contracts import polars_engine
from medallion_platform.contracts import spark_engine as in_spark
from medallion_platform.contracts.contract import Expectation
from medallion_platform.contracts.model import ContractModel
from medallion_platform.contracts.polars_engine import polars_type

from .engines import quick
from .rows import VALUES, checks, column, model

KINDS = sorted(VALUES)


def pandera_rows(
    made: type[ContractModel], frame: pl.DataFrame, **options: Any
) -> dict[tuple[str | None, str], set[int]]:
    """For each column and check the rows that pandera.polars finds at fault."""
    declared = made.to_schema().columns
    unique = {c for e in made.contract.expectations if e.name.endswith(": unique") for c in e.columns}
    schema = pp.DataFrameSchema(
        {
            c.name: pp.Column(
                polars_type(c.type),
                list(declared[c.name].checks),
                nullable=c.nullable,
                unique=c.name in unique,
            )
            for c in made.contract.columns
        },
        unique=made.to_schema().unique,
    )
    found: dict[tuple[str | None, str], set[int]] = {}
    try:
        schema.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        for case in errors.failure_cases.iter_rows(named=True):
            assert case["check"] != "column_in_dataframe"
            name = str(case["check"]).split("(")[0]
            found.setdefault((case["column"], name), set()).add(case["index"])
    return found


def our_rows(made: type[ContractModel], frame: pl.DataFrame) -> dict[tuple[str | None, str], set[int]]:
    """For each column and check the rows that we find at fault."""
    verdicts = polars_engine.violation_flags(made.contract, frame)
    found: dict[tuple[str | None, str], set[int]] = {}
    for e in made.contract.expectations:
        rows = set(verdicts[e.name].arg_true().to_list())
        if not rows:
            continue
        name = _check(e)
        name = {"not null": "not_nullable", "unique": "field_uniqueness"}.get(name, name)
        if e.former_name.startswith("unique("):
            found[None, "multiple_fields_uniqueness"] = rows
        else:
            found[e.columns[0], name] = rows
    return found


def _check(expectation: Expectation) -> str:
    """What pandera calls it."""
    return (expectation.former_name or expectation.name).split(": ", 1)[-1].split("(")[0]


ABOVE = {"gt": "greater_than", "ge": "greater_than_or_equal_to"}
"""What a NaN passes in pandera, and here not: see `test_nan_passes_no_bound`."""


def nan_rows(check: dict[str, Any], values: pl.Series) -> tuple[str, set[int]]:
    """The check as it is named, and the rows that it rejects here and not in pandera."""
    (option,) = check
    floating = values.dtype.is_float() and option in ABOVE
    return ABOVE.get(option, option), set(values.is_nan().arg_true()) if floating else set()


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_check_finds_the_rows_that_pandera_finds(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS), label="type")
    check = data.draw(checks(kind), label="check")
    nullable = data.draw(st.booleans() if kind not in ("float", "double") else st.just(True))
    values = data.draw(st.lists(st.none() | VALUES[kind], max_size=25), label="values")
    try:
        made = model({"x": (kind, {"nullable": nullable, **check})})
    except Exception as error:
        assert "isin" in str(error), error  # the only one that can contradict itself: isin of nothing
        return
    frame = pl.DataFrame({"x": column(values, kind)})
    expected = pandera_rows(made, frame)
    name, rows = nan_rows(check, frame["x"])
    if rows:
        expected["x", name] = expected.get(("x", name), set()) | rows
    assert our_rows(made, frame) == expected


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_uniqueness_finds_the_rows_that_pandera_finds(data: st.DataObject) -> None:
    kinds = data.draw(st.tuples(*[st.sampled_from(KINDS)] * 2))
    rows = data.draw(st.lists(st.tuples(*(st.none() | VALUES[k] for k in kinds)), max_size=25))
    a, b = ([row[i] for row in rows] for i in range(2))
    frame = pl.DataFrame({"a": column(a, kinds[0]), "b": column(b, kinds[1])})
    made = model(
        {"a": (kinds[0], {"nullable": True, "unique": True}), "b": (kinds[1], {"nullable": True})},
        unique=["a", "b"],
    )
    assert our_rows(made, frame) == pandera_rows(made, frame)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_unique_values_eq_has_the_verdict_that_pandera_has(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["string", "integer", "date", "double", "decimal"]))
    pool = data.draw(st.lists(VALUES[kind].filter(lambda v: v == v), min_size=1, max_size=3))
    values = data.draw(st.lists(st.none() | st.sampled_from(pool), max_size=6))
    made = model({"x": (kind, {"nullable": True, "unique_values_eq": pool})})
    frame = pl.DataFrame({"x": column(values, kind)})
    validated = polars_engine.validate(made.contract, frame)
    assert bool(sum(validated.failures.values())) == bool(pandera_rows(made, frame))


# pandera.pyspark says only whether a check holds; it costs a job for each, so frames are few and wide.


@quick(2)
@given(st.data())
def test_pandera_in_spark_finds_the_same_checks_at_fault(spark: SparkSession, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 4))
    fields: dict[str, tuple[str, dict[str, Any]]] = {}
    columns: dict[str, pl.Series] = {}
    expected: set[tuple[str, str]] = set()
    for i in range(10):
        kind = data.draw(st.sampled_from(KINDS))
        check = data.draw(checks(kind).filter(_means_the_same_in_java))
        fields[f"c{i}"] = (kind, {"nullable": data.draw(st.booleans()), **check})
        values = data.draw(st.lists(st.none() | VALUES[kind], min_size=size, max_size=size))
        columns[f"c{i}"] = column(values, kind)
        name, rows = nan_rows(check, columns[f"c{i}"])
        expected |= {(f"c{i}", name)} if rows else set()
    made = model(fields)
    df = spark.createDataFrame(pl.DataFrame(columns).to_arrow())
    assert ours_in_spark(made, df) == pandera_in_spark(made, df) | expected


def pandera_in_spark(made: type[ContractModel], df: Any) -> set[tuple[str, str]]:
    errors = cast(Any, made).validate(df).pandera.errors
    return {
        (case["column"], str(case["check"]).split("(")[0])
        for group in errors.values()
        for cases in group.values()
        for case in cases
    }


def ours_in_spark(made: type[ContractModel], df: Any) -> set[tuple[str, str]]:
    validated = in_spark.validate(made.contract, df)
    counts = (
        validated.df.agg(*(c.alias(name) for name, c in validated.counters.items())).collect()[0].asDict()
    )
    return {
        (e.columns[0], _check(e).replace("not null", "not_nullable"))
        for e in made.contract.expectations
        if counts[e.name]
    }


def _means_the_same_in_java(check: dict[str, Any]) -> bool:
    """Patterns that Java reads as we do (see below), and dates that PySpark can hand to Java.

    A constant before the year 1000 ends in an IllegalArgumentException inside pandera.pyspark, and one of the
    days that the Gregorian calendar left out in October 1582 becomes another day there.
    """
    pattern = str(check.get("str_matches", check.get("str_contains", "")))
    constants = str(list(check.values()))
    days = ("(1,", "(1582, 10,")
    early = any(f"datetime.date{time}{day}" in constants for time in ("", "time") for day in days)
    return not early and not any(sign in pattern for sign in ("$", ".", "(?i)", "[^"))


# decisions -----------------------------------------------------------------------------------


def rejected(made: type[ContractModel], values: list[Any], kind: str) -> list[Any]:
    verdicts = polars_engine.violation_flags(made.contract, pl.DataFrame({"x": column(values, kind)}))
    at_fault = verdicts.select(pl.any_horizontal(pl.all())).to_series().to_list()
    return [value for value, wrong in zip(values, at_fault, strict=True) if wrong]


def test_nan_is_a_value() -> None:
    """pandera.polars counts NaN as null, pandera.pyspark does not. We do not: it came as a value."""
    made = model({"x": ("double", {})})
    assert rejected(made, [math.nan, None], "double") == [None]
    frame = pl.DataFrame({"x": [math.nan]})
    assert pandera_rows(made, frame) == {("x", "not_nullable"): {0}}


def test_nan_passes_no_bound(spark: SparkSession) -> None:
    """Polars and Spark sort NaN last, so in pandera it is above every bound; here it passes none."""
    for option, name in ABOVE.items():
        made = model({"x": ("double", {"nullable": True, option: 0.0})})
        frame = pl.DataFrame({"x": [math.nan, 1.0, None]})
        assert our_rows(made, frame) == {("x", name): {0}}
        assert pandera_rows(made, frame) == {}
        df = spark.createDataFrame(frame.to_arrow())
        assert (ours_in_spark(made, df), pandera_in_spark(made, df)) == ({("x", name)}, set())


def test_the_end_of_a_text_is_its_very_end(spark: SparkSession) -> None:
    """`$` in pandera.pyspark also stands before a trailing newline; here, as in polars, it does not."""
    made = model({"x": ("string", {"str_matches": "^a$"})})
    assert rejected(made, ["a", "a\n"], "string") == ["a\n"]
    df = spark.createDataFrame([("a\n",)], "x string")
    assert pandera_in_spark(made, df) == set()
    assert ours_in_spark(made, df) == {("x", "str_matches")}


def test_a_digit_is_one_of_ten(spark: SparkSession) -> None:
    r"""`\d`, `\w`, `\s` and `(?i)` are Unicode in pandera.polars and ASCII in pandera.pyspark; here ASCII."""
    made = model({"x": ("string", {"str_matches": r"^\d$"})})
    assert rejected(made, ["7", "٣"], "string") == ["٣"]
    assert pandera_rows(made, pl.DataFrame({"x": ["٣"]})) == {}
    df = spark.createDataFrame([("٣",)], "x string")
    assert pandera_in_spark(made, df) == ours_in_spark(made, df) == {("x", "str_matches")}


def test_nulls_are_not_among_the_unique_values(spark: SparkSession) -> None:
    """unique_values_eq counts a null in pandera.pyspark, and not in pandera.polars; here not."""
    made = model({"x": ("string", {"nullable": True, "unique_values_eq": ["a"]})})
    frame = pl.DataFrame({"x": ["a", None]})
    assert our_rows(made, frame) == pandera_rows(made, frame) == {}
    df = spark.createDataFrame(frame.to_arrow())
    assert pandera_in_spark(made, df) == {("x", "unique_values_eq")}
    assert ours_in_spark(made, df) == set()


def test_a_constant_has_the_type_of_its_column(spark: SparkSession) -> None:
    """0.1 against 32 bits: pandera.polars rounds the constant as we do, pandera.pyspark widens the value."""
    made = model({"x": ("float", {"eq": 0.1})})
    frame = pl.DataFrame({"x": pl.Series([0.1], dtype=pl.Float32)})
    assert our_rows(made, frame) == pandera_rows(made, frame) == {}
    df = spark.createDataFrame(frame.to_arrow())
    assert pandera_in_spark(made, df) == {("x", "equal_to")}
    assert ours_in_spark(made, df) == set()


def test_str_matches_holds_every_alternative_to_the_start() -> None:
    """pandera writes "^" before the pattern, so of `a|b` only the first is held to the start: refused."""
    with pytest.raises(Exception, match=r"write \^\(\?:a\|b\)"):
        model({"x": ("string", {"str_matches": "a|b"})})
    schema = pp.DataFrameSchema({"x": pp.Column(pl.String, pp.Check.str_matches("a|b"))})
    schema.validate(pl.DataFrame({"x": ["cb"]}))  # does not start with a match, and passes
    made = model({"x": ("string", {"str_matches": "^(?:a|b)"})})
    assert rejected(made, ["cb", "b"], "string") == ["cb"]


def test_the_types_of_pandera() -> None:
    """`int` and `float` have 32 bits in pandera.pyspark: said here, for it surprises."""
    made = type("Made", (ContractModel,), {"__annotations__": {"a": int, "b": float, "c": T.LongType}})
    assert [c.type.kind for c in made.contract.columns] == ["integer", "float", "long"]
