"""One regular expression, one meaning: Python (ASCII), Rust and Java find the same texts."""

from __future__ import annotations

import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts.patterns import portable_pattern

from .engines import ROW, numbered, quick, to_polars
from .rows import TEXTS

atoms = st.sampled_from(
    [*"abK0_.-&~|", ".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", "[a-c]", "[^a]", "[^\\W_]",
    r"[\w.-]", "[a&&b]", "[[]", r"[\]^]", "é", "😀", r"\.", r"\-", "[é-ü]", r"\n", r"\x41", "(?:a|bc)",
    "(a)", "(?i:aB)"]
).map(lambda atom: re.escape(atom) if atom in list(".-&~|") and len(atom) == 1 else atom)  # fmt: skip
times = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,2}", "*?", "{0,}"])
words = st.lists(st.builds("{}{}".format, atoms, times), min_size=1, max_size=4).map("".join)
expressions = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "^", "(?i)", "(?s)^", r"\A"]),
    st.one_of(words, st.builds("(?:{}|{})".format, words, words)),
    st.sampled_from(["", "$", r"\Z"]),
)


def allowed(expression: str) -> bool:
    try:
        portable_pattern(expression)
    except ValueError as error:
        assert "beyond ASCII" in str(error)
        return False
    return True


def in_python(expression: str, texts: list[str]) -> list[bool]:
    """What we mean: Python's reading with ASCII classes, and `$` as the very end."""
    strict = expression.removesuffix("$") + r"\Z" if expression.endswith("$") else expression
    compiled = re.compile(strict, re.ASCII)
    return [bool(compiled.search(text)) for text in texts]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@settings(max_examples=400, deadline=None)
@given(expressions.filter(allowed), st.lists(TEXTS, min_size=1, max_size=20))
def test_rust_finds_what_is_meant(expression: str, texts: list[str]) -> None:
    found = pl.Series(texts).str.contains(portable_pattern(expression)).to_list()
    assert found == in_python(expression, texts)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@quick(3)
@given(
    st.lists(expressions.filter(allowed), min_size=30, max_size=30, unique=True), st.lists(TEXTS, min_size=80)
)
def test_java_finds_what_is_meant(spark: SparkSession, found: list[str], texts: list[str]) -> None:
    df = spark.createDataFrame(numbered(pl.DataFrame({"x": texts})).to_arrow())
    told = df.select(ROW, *(F.col("x").rlike(portable_pattern(e)).alias(str(i)) for i, e in enumerate(found)))
    frame = to_polars(told).sort(ROW)
    for i, expression in enumerate(found):
        assert frame[str(i)].to_list() == in_python(expression, texts), expression


@pytest.mark.parametrize(
    ("expression", "common"),
    [
        (r"^\d+$", r"\A[0-9]+\z"),
        (r"^(\d\d)+$", r"\A(?:(?:[0-9][0-9]))+\z"),
        (r"[\w-]", r"[\-0-9A-Z_a-z]"),
        ("(?i)k", "[Kk]"),
        (".", r"[^\n]"),
        ("(?s).", r"[\x{0}-\x{10FFFF}]"),
        (r"\D", r"[\x{0}-\/\:-\x{10FFFF}]"),
        ("a|b", "[a-b]"),
        ("[^a-c]", "[^a-c]"),
        ("😀", r"\x{1F600}"),
    ],
)
def test_the_common_language(expression: str, common: str) -> None:
    assert portable_pattern(expression) == common


@pytest.mark.parametrize(
    "expression", ["ab", "^a$|^b$", "^(?:a|bc)"]
)  # fmt: skip
def test_held_to_the_start(expression: str) -> None:
    found = portable_pattern(expression, at_start=True)
    for text in ("a", "ab", "b", "xb", "bc", "xab"):
        told = pl.Series([text]).str.contains(found).item()
        assert told == bool(re.match(expression, text)), text
