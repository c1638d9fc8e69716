"""What an expectation asks, as a person reads it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl
import pyspark.sql.types as T
import pytest
from pandera.api.checks import Check

from medallion_platform.contracts import polars_engine
from medallion_platform.contracts.contract import ContractError, Value
from medallion_platform.contracts.expectations_in_words import (
    expectation_sentence,
    rule_in_words,
    value_in_words,
)
from medallion_platform.contracts.model import ContractModel, Field, expect


class Orders(ContractModel):
    order_id: T.StringType = Field(str_matches=r"^\d+-'x'$")
    state: T.StringType = Field(isin=["paid", "open", "sent"], str_length={"min_value": 2, "max_value": 9})
    note: T.StringType = Field(str_matches="x", str_contains="x")
    paid_at: T.TimestampType = Field(ge=datetime(2020, 1, 1))
    amount: T.DecimalType = Field(ge=0, lt=1000, ne="0.10", dtype_kwargs={"precision": 8, "scale": 2})
    country: T.StringType = Field(isin=[f"C{n:02}" for n in range(40)])
    kind: T.StringType = Field(notin=["test"], str_startswith="k-", str_endswith="z", nullable=True)
    items: T.IntegerType = Field(gt=0, le=99, unique=True)
    share: T.DoubleType = Field(in_range={"min_value": 0, "max_value": 1, "include_max": False})
    code: T.StringType = Field(str_length={"min_value": 1})
    iso: T.StringType = Field(str_length={"min_value": 2, "max_value": 2})

    class Config:
        unique = ("state", "country")
        metadata = {"rows": {"sent after paid": expect("state = 'open' or items > 1")}}  # noqa: RUF012


def test_each_expectation_is_told_in_words() -> None:
    told = [expectation_sentence(e) for e in Orders.contract.expectations]
    for expected in (
        r"order_id: matches ^\d+-'x'$",
        "order_id: not null",
        "state: one of open, paid, sent",
        "state: at least 2, at most 9 characters",
        "kind: none of test",
        "kind: starts with k-",
        "kind: ends with z",
        "items: is an integer",
        "items: above 0",
        "items: at most 99",
        "items: unique",
        "share: at least 0, below 1",
        "note: matches x",
        "note: contains x",
        "paid_at: at least 2020-01-01T00:00:00Z",
        "amount: at least 0",
        "amount: below 1000",
        "amount: other than 0.1",
        "code: at least 1 character",
        "iso: 2 characters",
        "unique by state, country",
        "sent after paid: state = 'open' or items > 1",
    ):
        assert expected in told
    (listed,) = (rule_in_words(e) for e in Orders.contract.expectations if "one of C00" in e.name)
    assert listed.startswith("one of C00, C01, ")
    assert listed.endswith(", ...")
    assert len(listed) < 80


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "0"),
        (-90.0, "-90"),
        (0.25, "0.25"),
        (1e300, "1e+300"),
        (Decimal("0.00"), "0"),
        (Decimal("1E+3"), "1000"),
        (Decimal("100"), "100"),
        (Decimal("12.50"), "12.5"),
        (True, "True"),
        ("0.00", "0.00"),
        (date(2024, 2, 29), "2024-02-29"),
        (datetime(2024, 2, 29, 12, tzinfo=UTC), "2024-02-29T12:00:00Z"),
    ],
)
def test_a_bound_is_told_alike_for_every_type_of_column(value: Value, told: str) -> None:
    assert value_in_words(value) == told


def test_an_expectation_has_one_name_and_lakes_keep_their_hashes() -> None:
    """Checks in Dagster, dead letters and commits name it alike; what made a table is not another for it."""
    names = {e.name: e.former_name for e in Orders.contract.expectations}
    assert all(expectation_sentence(e).startswith(e.name) for e in Orders.contract.expectations)
    assert names["share: at least 0, below 1"] == "share: in_range(0.0, 1.0, high excluded)"
    assert names["order_id: not null"] == "", "it was called so before"
    assert Orders.contract.fingerprint == "cc5ac6be8d7577cc"


def _lists_of_values(*values: list[str]) -> type[ContractModel]:
    field = Field(isin=values[0], nullable=True)
    field.checks += [Check.isin(more) for more in values[1:]]

    class Rows(ContractModel):
        country: T.StringType = field

    return Rows


def test_lists_of_values_that_begin_alike_have_names_of_their_own() -> None:
    """The contract was refused: a name has room for as many values as are read at a glance."""
    many = [f"C{n:02}" for n in range(40)]
    lists = _lists_of_values(many, many[:-1], many[:-2], many[1:]).contract.expectations[1:]
    first, *others = (e.name for e in lists)
    assert others[:2] == [f"{first} (2)", f"{first} (3)"]
    assert others[2].startswith("country: one of C01, C02, ")
    rows = pl.DataFrame({"country": ["C00", "C38", "C39"]})
    found = polars_engine.validate(_lists_of_values(many, many[:-1]).contract, rows)
    assert {name: n for name, n in found.violations.items() if n} == {f"{first} (2)": 1}
    with pytest.raises(ContractError, match="two expectations are called 'country: one of a, b'"):
        _lists_of_values(["a", "b"], ["b", "a"])


@pytest.mark.parametrize("share", [-0.1, 1.5, "much", True])
def test_the_tolerated_share_is_a_share(share: object) -> None:
    def declared() -> object:
        class Rows(ContractModel):
            id: T.LongType = Field()

            class Config:
                metadata = {"tolerated_share": share}  # noqa: RUF012

        return Rows.contract

    with pytest.raises(ContractError, match="tolerated_share"):
        declared()
    assert Orders.contract.tolerated_share == 0.05
