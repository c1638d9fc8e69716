"""What a row broke, in fields: the same for every expectation that there is, and no personal value."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pyspark.sql.types as T
import pytest

from medallion_platform.contracts import polars_engine
from medallion_platform.contracts.codes import Rule
from medallion_platform.contracts.model import ContractModel, Field, expect
from medallion_platform.contracts.violation_fields import LONGEST, broken, demand_of, polars_type


class Orders(ContractModel):
    order: T.StringType = Field(str_matches=r"^\d+$", unique=True)
    email: T.StringType = Field(pii="email", str_length={"min_value": 5})
    state: T.StringType = Field(isin=["paid", "open"], nullable=True)
    kind: T.StringType = Field(notin=["test"], str_startswith="k", str_endswith="z", nullable=True)
    items: T.IntegerType = Field(gt=0, le=99, nullable=True)
    price: T.DecimalType = Field(
        dtype_kwargs={"precision": 6, "scale": 2}, ge=Decimal("0.50"), ne=Decimal("1.00"), nullable=True
    )
    share: T.DoubleType = Field(
        in_range={"min_value": 0, "max_value": 1, "include_max": False}, nullable=True
    )
    day: T.DateType = Field(lt=date(2030, 1, 1), nullable=True)
    at: T.TimestampType = Field(eq=datetime(2026, 1, 1, tzinfo=UTC), nullable=True)
    shop: T.StringType = Field(str_length={"min_value": 1, "max_value": 3}, nullable=True)

    class Config:
        metadata = {  # noqa: RUF012
            "rows": {"few are cheap": expect("items < 10 or price < 5", severity="reject")},
            "partitioned_by": ["shop"],
        }


CONTRACT = Orders.contract
GOOD: dict[str, str | None] = {
    **{
        "order": "1",
        "email": "jane@example.org",
        "state": "paid",
        "kind": "k-z",
        "items": "1",
        "price": "2.00",
    },
    **{"share": "0.5", "day": "2026-01-01", "at": "2026-01-01T00:00:00Z", "shop": "a"},
}
EVERY: list[tuple[dict[str, str | None], tuple[str, list[str], Any, list[str | None]]]] = [
    ({"order": "x"}, ("matches", ["order"], r"^\d+$", ["x"])),
    ({"order": None}, ("not_null", ["order"], None, [None])),
    ({"order": "7"}, ("unique", ["order"], None, ["7"])),
    ({"email": "j@d"}, ("length", ["email"], {"at_least": 5}, [None])),
    ({"state": "lost"}, ("one_of", ["state"], ["open", "paid"], ["lost"])),
    ({"kind": "test"}, ("none_of", ["kind"], ["test"], ["test"])),
    ({"kind": "xz"}, ("starts_with", ["kind"], "k", ["xz"])),
    ({"kind": "kx"}, ("ends_with", ["kind"], "z", ["kx"])),
    ({"items": "many"}, ("type", ["items"], "integer", ["many"])),
    ({"items": "0"}, ("above", ["items"], 0, ["0"])),
    ({"items": "100", "price": "2"}, ("at_most", ["items"], 99, ["100"])),
    ({"price": "0.1"}, ("at_least", ["price"], "0.50", ["0.1"])),
    ({"price": "1"}, ("other_than", ["price"], "1.00", ["1"])),
    ({"share": "1.0"}, ("between", ["share"], {"at_least": 0.0, "below": 1.0}, ["1.0"])),
    ({"day": "2030-01-01"}, ("below", ["day"], "2030-01-01", ["2030-01-01"])),
    ({"at": "2026-01-02T00:00Z"}, ("equal_to", ["at"], "2026-01-01T00:00:00+00:00", ["2026-01-02T00:00Z"])),
    ({"shop": ""}, ("names_folder", ["shop"], {"at_most": 250}, [""])),
    (
        {"items": "20", "price": "9.00"},
        ("sql", ["items", "price"], "items < 10 or price < 5", ["20", "9.00"]),
    ),
]


def told(rows: list[dict[str, str | None]]) -> list[list[dict[str, Any]]]:
    """What each of the bad rows broke, with its bound as a value."""
    frame = pl.DataFrame(rows, schema=dict.fromkeys(GOOD, pl.String))
    bad = polars_engine.validate(CONTRACT, frame).bad
    found = broken(CONTRACT, CONTRACT.expectations, bad, bad[polars_engine.VIOLATIONS])
    assert found.dtype == polars_type()
    for entries, names in zip(found, bad[polars_engine.VIOLATIONS], strict=True):
        assert len(entries) == len(names)
    return [[{**e, "bound": e["bound"] and json.loads(e["bound"])} for e in entries] for entries in found]


@pytest.mark.parametrize(
    ("spoiled", "expected"), EVERY, ids=lambda v: str(v[0]) if type(v) is tuple else None
)
def test_each_rule_says_its_columns_bound_and_values(
    spoiled: dict[str, str | None], expected: tuple[str, list[str], Any, list[str | None]]
) -> None:
    code, columns, bound, values = expected
    twice = [{**GOOD, "order": "7"}] if spoiled.get("order") == "7" else []
    (entries, *_) = told([{**GOOD, **spoiled}, *twice])
    assert {"code": code, "columns": columns, "bound": bound, "values": values} in entries


def test_every_rule_is_among_these() -> None:
    # One of the frame as a whole rejects no row.
    assert {expected[0] for _, expected in EVERY} == set(Rule) - {Rule.VALUES}
    assert {demand_of(e, CONTRACT).code for e in CONTRACT.expectations} == {e[0] for _, e in EVERY}


def test_entries_stand_in_the_order_of_the_violations_and_good_rows_between_do_not_move_them() -> None:
    rows = [GOOD, {**GOOD, "order": "2", "state": "a", "items": "-1"}, {**GOOD, "order": "3"}]
    rows.append({**GOOD, "order": "4", "state": "b", "share": "2"})
    found = [[(e["code"], e["values"]) for e in entries] for entries in told(rows)]
    assert found == [
        [("one_of", ["a"]), ("above", ["-1"])],
        [("one_of", ["b"]), ("between", ["2"])],
    ]


def test_a_long_value_is_cut_and_one_that_is_no_text_is_left_out() -> None:
    long = {**GOOD, "state": "\u00e4" * (LONGEST + 1)}
    ((entry, *_),) = told([long])
    assert entry["values"] == ["\u00e4" * LONGEST]
    frame = pl.DataFrame({"items": [[1], [2]]}, schema={"items": pl.List(pl.Int64)})
    violations = pl.Series([["items: is an integer"], []], dtype=pl.List(pl.String))
    first, second = broken(CONTRACT, CONTRACT.expectations, frame, violations)
    assert first.to_list() == [{"code": "type", "columns": ["items"], "bound": '"integer"', "values": [None]}]
    assert second.to_list() == []


def test_of_no_rows_nothing_is_told() -> None:
    none = pl.Series([], dtype=pl.List(pl.String))
    assert broken(CONTRACT, CONTRACT.expectations, pl.DataFrame(), none).dtype == polars_type()
