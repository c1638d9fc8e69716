"""Generated values of every type, biased to the ends, and declarations of every check over them."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pyspark.sql.types as T
from hypothesis import strategies as st
from pandera.api.dataframe import model_components

from medallion_platform.contracts.model import ContractModel
from medallion_platform.contracts.polars_engine import polars_type

ANNOTATIONS: dict[str, Any] = {
    "string": T.StringType,
    "integer": T.IntegerType,
    "long": T.LongType,
    "float": T.FloatType,
    "double": T.DoubleType,
    "boolean": T.BooleanType,
    "date": T.DateType,
    "timestamp": T.TimestampType,
    "decimal": T.DecimalType,
}
ORDERED = ("integer", "long", "float", "double", "date", "timestamp", "decimal")
PATTERNS = (
    "a", "^a", "a$", "^a*$", "[a-c]+", r"^\d+$", r"\w", r"^\S*$", ".", "^.$", r"^(?:ab|b)c?", "(a|b)+$",
    r"[^a]", "é", r"\.", "^$", "a{2,3}", "x*?", r"^[\w.-]+@[\w-]+\.[a-z]{2,}$", r"[\]\-^&~|]",
)  # fmt: skip
LETTERS = st.one_of(
    st.sampled_from(list("aabbcABC019._-@ \n\r\t\x00]^&~|\\")),
    st.sampled_from(list("éß\u017fK\u0663\uff15 \u0085\u2028\u0130\u0301😀𐐷")),
    st.characters(exclude_categories=["Cs"]),
)
TEXTS = st.text(LETTERS, max_size=6) | st.sampled_from(["a@b.co", "ab\n", "a", "aa", "abc"])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": TEXTS,
    "integer": st.integers(-3, 3) | st.sampled_from([-(2**31), 2**31 - 1]),
    "long": st.integers(-3, 3) | st.sampled_from([-(2**63), 2**63 - 1, 2**53, 2**53 + 1]),
    "float": st.sampled_from([0.0, -0.0, 1.0, -1.5, 0.1, math.nan, math.inf, -math.inf, 2.0**100])
    | st.floats(width=32),
    "double": st.sampled_from([0.0, -0.0, 1.0, -1.5, 0.1, math.nan, math.inf, -math.inf, 5e-324])
    | st.floats(),
    "boolean": st.booleans(),
    "date": st.sampled_from([date(1, 1, 1), date(1582, 10, 10), date(1970, 1, 1), date(9999, 12, 31)])
    | st.dates(date(2024, 2, 27), date(2024, 3, 2)),
    "timestamp": st.sampled_from(
        [
            datetime(1, 1, 1, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        ]
    )
    | st.datetimes(datetime(2024, 2, 29), datetime(2024, 2, 29, 0, 0, 9), timezones=st.just(UTC)),
    "decimal": st.sampled_from([Decimal("9999999999.99"), Decimal("-9999999999.99"), Decimal("0.10")])
    | st.decimals(-3, 3, places=2),
}


def column(values: list[Any], kind: str) -> pl.Series:
    from medallion_platform.contracts.contract import ColumnType

    type_ = ColumnType("decimal", 12, 2) if kind == "decimal" else ColumnType(kind)  # type: ignore[arg-type]
    return pl.Series(values, dtype=polars_type(type_))


def _constant(kind: str) -> st.SearchStrategy[Any]:
    values = VALUES[kind]
    if kind in ("float", "double"):
        values = values.filter(lambda v: not math.isnan(v))
    if kind == "float":
        values = values.filter(lambda v: v != 0.1)  # see test_pandera: constants of 32 bits
    return values


def checks(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """A check that pandera has for this type, as an option of its Field."""
    one = _constant(kind)
    several = st.lists(one, min_size=1, max_size=12)
    options = [st.fixed_dictionaries({name: one}) for name in ("eq", "ne")]
    if kind != "boolean":
        options += [st.fixed_dictionaries({name: several}) for name in ("isin", "notin")]
    if kind in ORDERED:
        options += [st.fixed_dictionaries({name: one}) for name in ("gt", "ge", "lt", "le")]
        options.append(
            st.tuples(one, one, st.booleans(), st.booleans())
            .map(lambda r: (min(r[:2]), max(r[:2]), *r[2:]))
            .filter(lambda r: r[0] < r[1] or (r[2] and r[3]))
            .map(lambda r: {"in_range": r})
        )
    if kind == "string":
        length = st.integers(0, 5)
        options += [
            st.sampled_from(PATTERNS).filter(_parses).map(lambda p: {"str_contains": p}),
            st.sampled_from(PATTERNS).filter(_parses).map(lambda p: {"str_matches": p}),
            TEXTS.filter(bool).map(lambda text: {"str_startswith": text[:2]}),
            TEXTS.filter(bool).map(lambda text: {"str_endswith": text[-2:]}),
            length.map(lambda n: {"str_length": n}),
            st.tuples(length, length).map(lambda r: {"str_length": (min(r), max(r))}),
            length.map(lambda n: {"str_length": {"min_value": n}}),
        ]
    return st.one_of(options)


def _parses(pattern: str) -> bool:
    from medallion_platform.contracts.patterns import portable_pattern

    try:
        portable_pattern(pattern, at_start=True)
    except ValueError:
        return False
    return True


def model(fields: dict[str, tuple[str, dict[str, Any]]], **config: Any) -> type[ContractModel]:
    """A model as a class statement would make it; every field is (type, options of pandera's Field)."""
    field: Any = model_components.Field
    names: dict[str, Any] = {"__annotations__": {}, "__module__": __name__}
    for name, (kind, options) in fields.items():
        if kind == "decimal":
            options = {"dtype_kwargs": {"precision": 12, "scale": 2}} | options
        names["__annotations__"][name] = ANNOTATIONS[kind]
        names[name] = field(**options)
    names["Config"] = type("Config", (), config)
    return type("Made", (ContractModel,), names)
