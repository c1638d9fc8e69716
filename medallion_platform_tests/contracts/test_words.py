"""What an expectation asks, as a person reads it."""

from __future__ import annotations

import pyspark.sql.types as T
import pytest

from medallion_platform.contracts.contract import ContractError
from medallion_platform.contracts.model import ContractModel, Field, expect
from medallion_platform.contracts.words import in_words, sentence


class Orders(ContractModel):
    order_id: T.StringType = Field(str_matches=r"^\d+-'x'$")
    state: T.StringType = Field(isin=["paid", "open", "sent"], str_length={"min_value": 2, "max_value": 9})
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
    told = [sentence(e) for e in Orders.contract.expectations]
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
        "share: at least 0.0, below 1.0",
        "code: at least 1 character",
        "iso: 2 characters",
        "unique by state, country",
        "sent after paid: state = 'open' or items > 1",
    ):
        assert expected in told
    (listed,) = (in_words(e) for e in Orders.contract.expectations if "isin(C00" in e.name)
    assert listed.startswith("one of C00, C01, ")
    assert listed.endswith(", ...")
    assert len(listed) < 80


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
