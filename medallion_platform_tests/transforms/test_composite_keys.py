"""Keys of several columns, against the histories of keys of one; the examples of the docstrings."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given

from medallion_platform import transforms
from medallion_platform.errors import DeclarationError
from medallion_platform.pipeline.code import code_text
from medallion_platform.transforms import as_of, current, history, versions
from medallion_platform_tests.frames import frame, rows
from medallion_platform_tests.transforms.test_history import (
    CHANGES,
    HISTORY,
    ONE_JOB_EACH,
    Change,
    looked_up,
    lookups,
    replayed,
    upsert,
    worlds,
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def in_two_columns(spark: SparkSession, world: list[Change]) -> DataFrame:
    """The same change events with each key told by two columns, of which neither tells it alone."""
    told = [
        change.row | ({"left": change.key in "abc", "right": ord(change.key) % 3} if change.key else {})
        for change in world
    ]
    return frame(spark, f"left boolean, right int, {CHANGES.replace('id string, ', '')}", told)


@pytest.mark.parametrize(
    ("function", "keys"), [(versions, ["key"]), (current, ["key"]), (as_of, ["key", "by"])]
)
def test_help_shows_that_a_key_may_have_several_columns(
    function: Callable[..., Any], keys: list[str]
) -> None:
    told = inspect.signature(function).parameters
    assert {told[key].annotation for key in keys} == {"str | Sequence[str]"}
    assert {function.__annotations__[key] for key in keys} == {"str | Sequence[str]"}
    assert "several columns" in (inspect.getdoc(function) or "")


@given(world=worlds())
@ONE_JOB_EACH
def test_a_key_of_two_columns_is_as_one_of_one(spark: SparkSession, world: list[Change]) -> None:
    found = rows(versions(in_two_columns(spark, world), ["left", "right"]))
    assert list(found[0])[:2] == ["left", "right"] if found else True
    expected = [
        {"left": r["id"] in "abc", "right": ord(r["id"]) % 3} | {n: v for n, v in r.items() if n != "id"}
        for r in replayed(world)
    ]

    def order(row: dict[str, object]) -> str:
        return str([row[n] for n in ("left", "right", "source_position")])

    assert sorted(found, key=order) == sorted(expected, key=order)


def test_current_rows_by_several_columns_and_what_has_half_a_key(spark: SparkSession) -> None:
    world = [upsert("a", 1, "x", "c"), upsert("d", 2, "y", "c"), upsert("a", 3, "z")]
    changes = in_two_columns(spark, world)
    half = frame(spark, ", ".join(f"{c} {t}" for c, t in changes.dtypes), [{"left": True, "_op": "c"}])
    found = rows(current(changes.unionByName(half), ["left", "right"]), ["left"])
    assert [(r["left"], r["right"], r["name"]) for r in found] == [(False, 1, "y"), (True, 1, "z")]


@given(case=lookups())
@ONE_JOB_EACH
def test_a_lookup_by_two_columns_is_as_one_by_one(
    spark: SparkSession, case: tuple[list[dict[str, Any]], list[dict[str, Any]]]
) -> None:
    """Rows may have wider numbers than the history; half a key finds nothing."""
    versions_of, events = case
    keyed = [{**v, "left": v["k"] in "abc", "right": ord(v["k"]) % 3} for v in versions_of]
    asked = [
        {**e, "n": n, "l": e["by"] and e["by"] in "abc", "r": e["by"] and ord(e["by"]) % 3}
        for n, e in enumerate(events)
    ]
    asked += [{**e, "n": -1 - e["n"], half: None} for e in asked for half in "lr"][:9]
    found = as_of(
        frame(spark, "n int, by string, l boolean, r bigint, at timestamp", asked),
        frame(spark, f"{HISTORY}, left boolean, right int", keyed),
        key=["left", "right"],
        by=["l", "r"],
        at="at",
        take={"v": "value", "right": "right"},
        known="is_known",
    )
    expected: list[dict[str, Any]] = []
    for event in asked:
        whole = event["l"] is not None and event["r"] is not None
        version = looked_up(versions_of, event["by"], event["at"]) if whole else None
        right = ord(version["k"]) % 3 if version else None
        told = {"value": version and version["v"], "right": right, "is_known": version is not None}
        expected.append({**event, **told})
    assert sorted(rows(found), key=lambda r: r["n"]) == sorted(expected, key=lambda r: r["n"])


def test_a_lookup_names_as_many_columns_on_both_sides(spark: SparkSession) -> None:
    one = frame(spark, "a string, b string, at timestamp", [])
    with pytest.raises(DeclarationError, match="as many columns"):
        as_of(one, one, key=["a", "b"], by="a", at="at", take={}, known="known")


def test_tables_with_a_key_of_one_column_are_not_computed_again() -> None:
    """Before keys could have several columns, these functions stood in the tables' code themselves."""
    assert code_text(versions) == code_text(history.versions)
    assert code_text(current) == code_text(history.current)
    assert code_text(as_of) == code_text(history.as_of)


def test_the_examples_of_the_docstrings(spark: SparkSession) -> None:
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    names = {name: getattr(transforms, name) for name in transforms.__all__}
    for name in ("versions", "current", "as_of"):
        (example,) = finder.find(names[name], name, module=False, globs={"spark": spark, **names})
        assert example.examples
        runner.run(example)
    assert runner.summarize().failed == 0
