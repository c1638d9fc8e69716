"""Row expectations in SQL: what they mean, in both engines, and what is refused."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts import polars_engine
from medallion_platform.contracts.contract import Column, ColumnType, Sql
from medallion_platform.contracts.sql import SqlError, columns_in_sql, parse_sql

from .engines import assert_agree, contract_of, expectation, quick
from .rows import VALUES, column

TYPES = {
    "i": ColumnType("integer"),
    "j": ColumnType("integer"),
    "l": ColumnType("long"),
    "m": ColumnType("long"),
    "f": ColumnType("float"),
    "d": ColumnType("double"),
    "e": ColumnType("double"),
    "c": ColumnType("decimal", 12, 2),
    "s": ColumnType("string"),
    "u": ColumnType("string"),
    "b": ColumnType("boolean"),
    "p": ColumnType("date"),
    "q": ColumnType("date"),
    "t": ColumnType("timestamp"),
    "v": ColumnType("timestamp"),
}
COLUMNS = tuple(Column(name, type_, nullable=True) for name, type_ in TYPES.items())
NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)
ROW: dict[str, Any] = {
    "i": 3, "j": -2, "l": 2**62, "m": 5, "f": 0.5, "d": 2.0, "e": float("nan"), "c": Decimal("10.50"),
    "s": "abc", "u": None, "b": True, "p": date(2024, 2, 29), "q": date(2024, 3, 1), "t": NOON,
    "v": datetime(2024, 2, 29, 12, 30, tzinfo=UTC),
}  # fmt: skip
MEANS: list[tuple[str, bool | None]] = [
    ("i > j", True),
    ("i = 3 and j = 3", False),
    ("i = 3 OR j = 3", True),
    ("not i = 3", False),
    ("i = 1 or i = 2 and j = -2", False),
    ("(i = 3 or i = 2) and j = -2", True),
    ("u = 'x'", None),
    ("u = 'x' or b", True),
    ("u = 'x' and i = 4", False),
    ("u is null and s is not null", True),
    ("i between 1 and 3", True),
    ("i not between 1 and 3", False),
    ("i in (1, 2, 3)", True),
    ("s not in ('a', 'b')", True),
    ("s like 'a%'", True),
    ("s like '_b_'", True),
    ("s like 'b'", False),
    ("s not like '%d%'", True),
    ("s rlike '^[a-c]+$'", True),
    ("length(s) = 3", True),
    ("coalesce(u, s) = 'abc'", True),
    ("abs(j) = 2", True),
    ("-i = -3", True),
    ("i - -j = 1", True),
    ("i + j * 2 = -1", True),
    ("(i + j) * 2 = 2", True),
    ("i / 2 = 1.5", True),
    ("i / (j + 2) > 0", None),
    ("l + l > l", True),
    ("l * l > l", True),
    ("l = 4611686018427387904", True),
    ("l > 99999999999999999999999", False),
    ("i < 3.5", True),
    ("i = 3.0", True),
    ("f = 0.5", True),
    ("d = 2", True),
    ("d = 2e0", True),
    ("e > d", False),
    ("not e < d", False),
    ("e = e", True),
    ("c = 10.5", True),
    ("c > i", True),
    ("c + c = 21", True),
    ("c - 0.001 < 10.5", True),
    ("b = true", True),
    ("b", True),
    ("not b", False),
    ("p < q", True),
    ("q - p = 1", True),
    ("p = date '2024-02-29'", True),
    ("date(t) = p", True),
    ("t < timestamp '2024-02-29 12:00:00.5'", True),
    ("t = timestamp '2024-02-29T14:00:00+02:00'", True),
    ("v - t = interval 30 minutes", True),
    ("v - t <= interval '1' hour", True),
    ("t + interval 1 day > v", True),
    ("t - interval 2 weeks < v", True),
    ("v between t and t + interval 30 minutes", True),
    ('"i" = `i`', True),
    ("s = 'it''s'", False),
]


def frame_of(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            name: pl.Series([r[name] for r in rows], dtype=polars_engine.polars_type(t))
            for name, t in TYPES.items()
        }
    )


@pytest.mark.parametrize(("text", "value"), MEANS, ids=[text for text, _ in MEANS])
def test_what_it_means(text: str, value: bool | None) -> None:
    found = frame_of(ROW).select(polars_engine._sql_expression(parse_sql(text, COLUMNS))).item()
    assert found is value


def test_both_engines_mean_it(spark: SparkSession) -> None:
    rules = [expectation(text, columns_in_sql(text, by_name()), Sql(text)) for text, _ in MEANS]
    found = assert_agree(contract_of(TYPES, *rules), frame_of(ROW), spark)
    assert {name for name, n in found.counts.items() if n} == {t for t, value in MEANS if value is False}


def test_spark_reads_the_same_text_the_same_way(spark: SparkSession) -> None:
    """Spark's own parser is the oracle, where its types allow the text."""
    others = ("i / (j + 2)", '"i"')  # division by zero raises in ANSI mode; double quotes are text in Spark
    texts = [(text, value) for text, value in MEANS if not any(other in text for other in others)]
    df = spark.createDataFrame(frame_of(ROW).to_arrow())
    told = df.select(*(F.expr(_for_spark(text)).alias(str(i)) for i, (text, _) in enumerate(texts))).first()
    assert told is not None
    assert {t: told[i] for i, (t, _) in enumerate(texts)} == dict(texts)


def _for_spark(text: str) -> str:
    """Where Spark lacks an automatic conversion that we have, overflows, or takes NaN for a large number."""
    return {
        "e > d": "e > d and not isnan(e)",
        "not e < d": "not e < d and not isnan(e)",
        "q - p = 1": "date_diff(q, p) = 1",
        "l + l > l": "cast(l as decimal(38)) + l > l",
        "l * l > l": "cast(l as decimal(38)) * l > l",
        "s = 'it''s'": r"s = 'it\'s'",
    }.get(text, text)


def by_name() -> dict[str, Column]:
    return {column.name: column for column in COLUMNS}


numbers = st.sampled_from(["i", "j", "l", "m", "0", "1", "3", "2147483648", "9223372036854775807"])
floats = st.sampled_from(["d", "e", "f", "0.1", "1e300", "2.5e0", "i", "l"])
decimals = st.sampled_from(["c", "0.1", "1", "i", "l", "3.14159"])
strings = st.sampled_from(["s", "u", "'a'", "''", "coalesce(u, s)", "coalesce(s, 'z')"])
instants = st.sampled_from(["t", "v", "t + interval 1 day", "v - interval 90 minutes"])
days = st.sampled_from(["p", "q", "date(t)", "date(v)", "date '2024-02-29'"])
spans = st.sampled_from(["t - v", "v - t", "interval 30 minutes", "abs(t - v)", "(t - v) + interval 1 day"])
signs = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])


def both(values: st.SearchStrategy[str], operators: list[str]) -> st.SearchStrategy[str]:
    pair = st.builds("({} {} {})".format, values, st.sampled_from(operators), values)
    return st.one_of(values, pair, pair.map("abs{}".format), pair.map("-{}".format))


sides = st.one_of(
    *(
        st.tuples(kind, signs, kind).map(" ".join)
        for kind in (
            both(numbers, ["+", "-", "*"]),
            both(floats, ["+", "-", "*", "/"]),
            both(decimals, ["+", "-"]),
            strings, instants, days, spans,
        )
    ),
    st.builds("length({}) between 1 and {}".format, strings, st.sampled_from(["2", "i"])),
    st.builds("{} in ('a', {})".format, strings, strings),
    st.builds("{} like '{}'".format, strings, st.sampled_from(["a%", "%", "_", "a_", "", "%.%"])),
    st.sampled_from(["b", "u is null", "i is not null", "q - p > 1"]),
)  # fmt: skip
conditions = st.recursive(
    sides,
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("not ({})".format, inner),
    ),
    max_leaves=4,
)


def _readable(text: str) -> bool:
    try:
        return bool(columns_in_sql(text, by_name()))
    except SqlError as error:
        allowed = ("speaks of no", "too large", "38 digits", "floating number", "exact decimal")
        assert any(reason in str(error) for reason in allowed), text
        return False


@quick(4)
@given(st.data())
def test_both_engines_mean_the_same_by_generated_expressions(
    spark: SparkSession, data: st.DataObject
) -> None:
    texts = data.draw(
        st.lists(conditions.filter(_readable), min_size=25, max_size=25, unique=True), label="sql"
    )
    rows = 30
    kinds = {"decimal": "decimal"}
    frame = pl.DataFrame(
        {
            name: column(
                data.draw(
                    st.lists(st.none() | VALUES[kinds.get(t.kind, t.kind)], min_size=rows, max_size=rows)
                ),
                t.kind,
            )
            for name, t in TYPES.items()
        }
    )
    rules = [expectation(text, columns_in_sql(text, by_name()), Sql(text)) for text in texts]
    assert_agree(contract_of(TYPES, *rules), frame, spark)


@settings(max_examples=300, deadline=None)
@given(st.text("ijs'`\"()<>=+-*/,. 0129andornotbetweenislike", max_size=25))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(SqlError):
        columns_in_sql(text, by_name())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read"),
        ("1 = 1", "speaks of no column"),
        ("i = 1 i", "cannot be read from 'i'"),
        ("i = 'a'", "comparison of a int with a string"),
        ("i and b", "'and' of a int"),
        ("b < true", "order of booleans"),
        ("x = 1", "unknown column 'x'"),
        ("upper(s) = 'A'", "unknown function 'upper'"),
        ("case when b then 1 else 2 end = 1", "'case' is not understood"),
        ("c = d", "exact decimal with a floating"),
        ("c * c = 1", "multiplication of exact decimals"),
        ("l * l * l = 1", "too large"),
        ("t = p", "comparison of a timestamp with a date"),
        ("t + 1 = t", "add of a timestamp with a int"),
        ("s like u", "against a quoted pattern"),
        ("s rlike '(?=a)'", "looks around"),
        ("p = date '2023-02-29'", "date '2023-02-29'"),
        ("t < interval 3 fortnights", "say e.g. interval 30 minutes"),
        ("i in (1", "expected '\\)'"),
        ("s = 'open", "cannot be read"),
    ],
)
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(SqlError, match=reason):
        columns_in_sql(text, by_name())
