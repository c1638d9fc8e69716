"""Declarations: what is understood, and what is refused with model, field and reason."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pandera.pyspark as pa
import pyspark.sql.types as T
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.contracts.contract import (
    Compare,
    ContractError,
    InRange,
    IsType,
    Length,
    Matches,
    NotNull,
    OneOf,
    Severity,
    Sql,
    Unique,
    Values,
)
from medallion_platform.contracts.model import ContractModel, Field, expect

from .rows import ANNOTATIONS, model


class Orders(ContractModel):
    """What was ordered."""

    order_id: T.StringType = Field(str_length=(1, 64), unique=True, description="from the shop")
    placed_at: T.TimestampType = Field(ge=datetime(2020, 1, 1), severity={"ge": "warn", "type": "fail"})
    email: T.StringType = Field(nullable=True, pii="email", str_matches=r"[^@\s]+@\w+$", severity="warn")
    amount: T.DecimalType = Field(dtype_kwargs={"precision": 12, "scale": 2}, in_range=(0, 10.5))
    state: T.StringType = pa.Field(isin=["new", "paid"], metadata={"severity": {"isin": "warn"}})
    day: T.DateType
    lines: T.LongType = Field(gt=0, raise_warning=True, unique_values_eq=[1, 2])

    class Config:
        """Table options."""

        unique = ["order_id", "day"]  # noqa: RUF012
        metadata = {  # noqa: RUF012
            "key": ["order_id"],
            "event_time": "placed_at",
            "partitioned_by": ["event_date"],
            "watermark": timedelta(minutes=10),
            "row_count_column": "lines",
            "rows": {
                "paid for": "state <> 'paid' or amount > 0",
                "placed on its day": expect("date(placed_at) = day", severity="warn"),
            },
        }


def test_a_model_is_compiled() -> None:
    contract = Orders.contract
    assert (contract.name, contract.description) == ("Orders", "What was ordered.")
    assert [str(c.type) for c in contract.columns] == [
        "string", "timestamp", "string", "decimal(12,2)", "string", "date", "long",
    ]  # fmt: skip
    assert contract.column("order_id").description == "from the shop"
    assert contract.column("email").nullable
    assert contract.pii == {"email": "email"}
    assert (contract.key, contract.event_time) == (("order_id",), "placed_at")
    assert (contract.partitioned_by, contract.row_count_column) == (("event_date",), "lines")
    assert contract.watermark == timedelta(minutes=10)


def test_every_expectation_has_a_name_and_a_severity() -> None:
    told = {e.name: (e.severity.value, type(e.test)) for e in Orders.contract.expectations}
    assert told == {
        "order_id: is a string": ("reject", IsType),
        "order_id: not null": ("reject", NotNull),
        "order_id: at least 1, at most 64 characters": ("reject", Length),
        "order_id: unique": ("reject", Unique),
        "placed_at: is a timestamp": ("fail", IsType),
        "placed_at: not null": ("reject", NotNull),
        "placed_at: at least 2020-01-01T00:00:00Z": ("warn", Compare),
        "email: is a string": ("warn", IsType),
        r"email: matches [^@\s]+@\w+$": ("warn", Matches),
        "amount: is a decimal(12,2)": ("reject", IsType),
        "amount: not null": ("reject", NotNull),
        "amount: at least 0, at most 10.5": ("reject", InRange),
        "state: is a string": ("reject", IsType),
        "state: not null": ("reject", NotNull),
        "state: one of new, paid": ("warn", OneOf),
        "day: is a date": ("reject", IsType),
        "day: not null": ("reject", NotNull),
        "lines: is a long": ("reject", IsType),
        "lines: not null": ("reject", NotNull),
        "lines: above 0": ("warn", Compare),
        "lines: all of its values are 1, 2": ("warn", Values),
        "unique by order_id, day": ("reject", Unique),
        "paid for": ("reject", Sql),
        "placed on its day": ("warn", Sql),
    }


@pytest.mark.parametrize(
    ("kind", "given_", "value"),
    [
        ("integer", 5.0, 5),
        ("double", 5, 5.0),
        ("double", -0.0, 0.0),
        ("float", 0.1, 0.10000000149011612),
        ("decimal", 0.1, Decimal("0.10")),
        ("decimal", "7", Decimal("7.00")),
        ("date", "2024-02-29", date(2024, 2, 29)),
        ("timestamp", "2024-02-29T12:00:00+02:00", datetime(2024, 2, 29, 10, tzinfo=UTC)),
        ("timestamp", datetime(2024, 2, 29), datetime(2024, 2, 29, tzinfo=UTC)),
    ],
)
def test_a_constant_takes_the_type_of_its_column(kind: str, given_: Any, value: Any) -> None:
    test = model({"x": (kind, {"eq": given_})}).contract.expectations[-1].test
    assert isinstance(test, Compare)
    assert (test.value, type(test.value)) == (value, type(value))


def made(annotation: Any = T.LongType, config: dict[str, Any] | None = None, **field: Any) -> Any:
    names: dict[str, Any] = {
        "__annotations__": {"x": annotation, "t": T.StringType},
        "__module__": __name__,
        "x": Field(**field),
        "t": Field(nullable=True),
        "Config": type("Config", (), config or {}),
    }
    return type("Bad", (ContractModel,), names)


def table(**options: Any) -> dict[str, Any]:
    return {"config": {"metadata": options}}


BAD: list[tuple[str, dict[str, Any], str | None, str]] = [
    ("key of a column that is not there", table(key=["y"]), "key", "unknown column 'y'"),
    ("key that may be null", table(key=["t"]), "key", "column 't' may be null"),
    ("key twice", table(key=["x", "x"]), "key", "names a column twice"),
    ("event time unknown", table(event_time="y"), "event_time", "unknown column 'y'"),
    ("event time of text", table(event_time="t"), "event_time", "column 't' is a string"),
    ("partition unknown", table(partitioned_by=["y"]), "partitioned_by", "unknown column 'y'"),
    ("event_date of nothing", table(partitioned_by=["event_date"]), "partitioned_by", "needs an event_time"),
    ("watermark without key", table(watermark=timedelta(1)), "watermark", "needs a key and an event_time"),
    ("watermark of minutes", table(watermark=10, key=["x"]), "watermark", "10 is not a positive timedelta"),
    ("count of text", table(row_count_column="t"), "row_count_column", "column 't' is a string, not a count"),
    ("misspelt option", table(kye=["x"]), None, "unknown option 'kye'"),
    ("misspelt field option", {"metadata": {"severty": "warn"}}, "x", "unknown option 'severty'"),
    ("unknown severity", {"severity": "ignore"}, "x", "severity 'ignore'; known are reject, warn, fail"),
    ("severity of no check", {"severity": {"ge": "warn"}}, "x", "severity for 'ge', a check that"),
    ("severity unknown of a check", {"ge": 1, "severity": {"ge": "x"}}, "x", "unknown severity 'x'"),
    ("unknown pii", {"annotation": T.StringType, "pii": "iban"}, "x", "unknown pii 'iban'"),
    ("pii of a number", {"pii": "phone"}, "x", "pii is masked as text"),
    ("unsupported type", {"annotation": T.BinaryType}, "x", "is not supported; supported are StringType"),
    ("unsupported small type", {"annotation": T.ShortType}, "x", "is not supported"),
    ("empty range", {"in_range": (2, 1)}, "x", "defines an empty interval"),
    ("contradicting bounds", {"gt": 5, "lt": 3}, "x", "contradict each other"),
    ("contradicting ends", {"gt": 5, "le": 5}, "x", "contradict each other"),
    ("contradicting set", {"isin": [1, 2], "ge": 3}, "x", "no value of isin is left"),
    ("contradicting sets", {"isin": [1], "notin": [1, 2]}, "x", "no value of isin is left"),
    ("empty set", {"isin": []}, "x", "isin of nothing rejects every value"),
    ("empty length", {"annotation": T.StringType, "str_length": (3, 2)}, "x", "defines an empty interval"),
    ("negative length", {"annotation": T.StringType, "str_length": -1}, "x", "is not a length"),
    ("constant of another type", {"ge": "a"}, "x", "'a' is no long"),
    ("constant with a fraction", {"ge": 0.5}, "x", "0.5 is no long: not a whole number"),
    ("constant too large", {"annotation": T.IntegerType, "le": 2**31}, "x", "beyond 32 bits"),
    ("constant NaN", {"annotation": T.DoubleType, "le": float("nan")}, "x", "NaN compares with nothing"),
    ("text check of a number", {"str_startswith": "a"}, "x", "str_startswith checks text"),
    ("empty beginning", {"annotation": T.StringType, "str_startswith": ""}, "x", "no beginning or end of a"),
    ("empty end", {"annotation": T.StringType, "str_endswith": ""}, "x", "is no beginning or end of a text"),
    ("order of text", {"annotation": T.StringType, "ge": "a"}, "x", "is not supported"),
    ("no regular expression", {"annotation": T.StringType, "str_matches": "("}, "x", "unterminated"),
    ("look-ahead", {"annotation": T.StringType, "str_matches": "(?=a)"}, "x", "looks around"),
    ("look-behind", {"annotation": T.StringType, "str_contains": "(?<!a)b"}, "x", "looks around"),
    ("back reference", {"annotation": T.StringType, "str_contains": r"(a)\1"}, "x", "refers back"),
    ("possessive", {"annotation": T.StringType, "str_contains": "a++"}, "x", "possessive"),
    ("atomic", {"annotation": T.StringType, "str_contains": "(?>a)"}, "x", "atomic"),
    ("word boundary", {"annotation": T.StringType, "str_contains": r"\ba"}, "x", r"uses \\b"),
    ("many lines", {"annotation": T.StringType, "str_contains": "(?m)^a"}, "x", r"uses \(\?m\)"),
    ("open alternative", {"annotation": T.StringType, "str_matches": "a|bc"}, "x", r"write \^\(\?:a\|b\)"),
    ("too large", {"annotation": T.StringType, "str_matches": "(a{999}){999}"}, "x", "Rust's engine"),
    ("null checked", {"ge": 1, "ignore_na": False}, "x", "use nullable=False"),
    ("unknown check", {"is_prime": True}, "x", "custom check 'is_prime' is not available"),
    ("reject by a whole frame", {"unique_values_eq": [1], "severity": {"unique_values_eq": "reject"}}, "x",
     "cannot reject single ones"),
    ("name of the platform's", {"alias": "_row"}, "_row", "begins with _"),
    ("name with a blank", {"alias": "the x"}, "the x", "is no name of a column"),
    ("no name", {"alias": ""}, "", "is no name of a column"),
    ("name with a zero byte", {"alias": "x\0"}, "x\0", "is no name of a column"),
    ("name that is a pattern", {"alias": "^x.*$"}, "^x.*$", "stands for other columns"),
    ("name for all columns", {"alias": "*"}, "*", "stands for other columns"),
    ("two names that differ by case", {"alias": "T"}, "t", "differs from 'T' only by case"),
    ("default", {"default": 5}, "x", "default is not supported"),
    ("coerce", {"coerce": True}, "x", "coerce is not supported"),
    ("not required", {"required": False}, "x", "use nullable=True"),
    ("misspelt option of a field", {"nulable": True}, "x", "nulable"),
    ("misspelt option of Config", {"config": {"metdata": {}}}, None, r"Config.metdata is not supported"),
    ("option of Config without effect", {"config": {"coerce": True}}, None, "Config.coerce is not supported"),
    ("options as a list", {"config": {"metadata": ["x"]}}, None, "is a list, not a mapping"),
    ("severity of no uniqueness", table(unique_severity="warn"), "unique_severity", "names no"),
    ("protection of nothing", {"annotation": T.StringType, "protect": "hash"}, "x", "declare its kind"),
    ("hash of an address", {"annotation": T.StringType, "pii": "email", "protect": "hash"}, "x",
     "known are mask, tokenize"),
    ("unknown protection", {"annotation": T.StringType, "pii": "name", "protect": "x"}, "x",
     "'x' of name is not known"),
    ("strict", {"config": {"strict": True}}, None, "Config.strict is not supported"),
    ("frame check", {"config": {"is_sorted": True}}, None, "is_sorted|not supported|custom"),
    ("unique unknown", {"config": {"unique": ["y"]}}, "Config.unique", "unknown column 'y'"),
    ("sql unknown column", table(rows={"r": "y > 1"}), "r", "unknown column 'y'"),
    ("sql that is none", table(rows={"r": "x >"}), "r", "cannot be read"),
    ("sql of unlike types", table(rows={"r": "x > t"}), "r", "comparison of a int with a string"),
    ("sql that is no condition", table(rows={"r": "x + 1"}), "r", "is a int, not a condition"),
    ("sql unknown function", table(rows={"r": "now() > x"}), "r", "cannot be read"),
    ("sql severity", table(rows={"r": expect("x > 1", severity="no")}), "r", "unknown severity 'no'"),
    ("sql is a number", table(rows={"r": 5}), "r", "neither SQL nor expect"),
    ("rows is a list", table(rows=["x > 1"]), "rows", "is a mapping"),
    ("key that is a number", table(key=7), "key", "7 names no column"),
    ("rule without a name", table(rows={"": "x > 1"}), "rows", "the name of a rule: '' is empty"),
    ("rule of two lines", table(rows={"a\nb": "x > 1"}), "rows", "that cannot stand in a line"),
    ("rule with a zero byte", table(rows={"a\0b": "x > 1"}), "rows", "has a NUL"),
    ("isin of one text", {"annotation": T.StringType, "isin": "abc"}, "x", "is one text"),
    ("notin of nothing", {"notin": []}, "x", "notin of nothing rejects no value"),
    ("begins with nothing", {"annotation": T.StringType, "str_startswith": ""}, "x", "is no beginning"),
    ("nullable as a word", {"nullable": "no"}, "x", "nullable is 'no', and neither"),
    ("unique as a word", {"unique": "no"}, "x", "unique is 'no', and neither True nor False"),
    ("description of a number", {"description": 7}, "x", "description 7 is no text"),
    ("decimal of 60 digits", {"annotation": T.DecimalType, "dtype_kwargs": {"precision": 60, "scale": 2}},
     "x", "more digits than 38"),
    ("name of two lines", {"config": {"name": "a\nb"}}, None, "Config.name 'a.nb' is no name"),
    ("half a pair", {"alias": "a\ud800"}, "'a\\ud800'", "parts of it cannot be shown"),
    ("end of a line", {"alias": "a\u2028b"}, "'a\\u2028b'", "parts of it cannot be shown"),
    ("rule named like another", table(rows={"x: not null": "x > 1"}), None, "two expectations are called"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "field", "reason"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_declaration_is_refused_where_it_is_written(
    options: dict[str, Any], field: str | None, reason: str
) -> None:
    with pytest.raises(ContractError, match=reason) as error:
        made(**options)
    assert (error.value.model, error.value.field) == ("Bad", field)
    assert str(error.value).startswith(f"Bad.{field}: " if field else "Bad: ")


def test_a_check_of_ones_own_is_refused() -> None:
    with pytest.raises(ContractError, match="write it as SQL") as error:

        class Bad(ContractModel):  # pyright: ignore[reportUnusedClass]
            x: T.LongType = Field()

            @pa.check("x")
            def positive(cls, data: Any) -> bool:
                return True

    assert error.value.field == "x"


def test_a_name_that_is_taken() -> None:
    with pytest.raises(ContractError, match="this name is taken"):
        type("Bad", (ContractModel,), {"__annotations__": {"contract": T.StringType}})


def test_a_field_that_pandera_does_not_see_is_refused() -> None:
    with pytest.raises(ContractError, match=r"^Bad._id: names that begin with _ are reserved$"):
        type("Bad", (ContractModel,), {"__annotations__": {"_id": T.StringType, "x": T.StringType}})


def test_an_alias_is_the_name_of_the_column() -> None:
    class Aliased(ContractModel):
        x: T.LongType = Field(alias="the-x", ge=0)

        class Config:
            metadata = {"rows": {"r": "`the-x` < 5"}, "key": ["the-x"]}  # noqa: RUF012

    assert Aliased.contract.column_names == ("the-x",)


def test_columns_may_share_a_field() -> None:
    shared: Any = Field(ge=0)

    class Shared(ContractModel):
        net: T.DoubleType = shared
        gross: T.LongType = shared
        kind: T.StringType = Field()

    class Elsewhere(ContractModel):
        weight: T.DoubleType = shared

    class More(Shared):
        tax: T.DoubleType = Field()

    assert Shared.contract.column_names == ("net", "gross", "kind")
    compared = [e.columns for e in Shared.contract.expectations if isinstance(e.test, Compare)]
    assert compared == [("net",), ("gross",)]
    assert Elsewhere.contract.column_names == ("weight",)
    assert More.contract.column_names == ("net", "gross", "kind", "tax")


def test_a_name_with_a_nul_is_refused() -> None:
    with pytest.raises(ContractError, match="is no name of a column"):
        type("Bad", (ContractModel,), {"__annotations__": {"x": T.StringType}, "x": Field(alias="a\0b")})


def test_a_model_may_build_on_another() -> None:
    class More(Orders):
        note: T.StringType = Field(nullable=True)

        class Config:  # pyright: ignore[reportIncompatibleVariableOverride]
            metadata = {"key": ["order_id", "day"]}  # noqa: RUF012

    assert More.contract.column_names == (*Orders.contract.column_names, "note")
    assert More.contract.key == ("order_id", "day")
    assert Orders.contract.key == ("order_id",)


@given(st.sampled_from(sorted(ANNOTATIONS)), st.booleans())
def test_every_type_can_be_declared(kind: str, nullable: bool) -> None:
    contract = model({"x": (kind, {"nullable": nullable})}).contract
    assert contract.columns[0].type.kind == kind
    assert len(contract.expectations) == (1 if nullable else 2)
    assert contract.expectations[0].severity is Severity.REJECT
