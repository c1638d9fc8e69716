"""Keys of several columns, against the histories of keys of one; the examples of the docstrings."""

from __future__ import annotations

import doctest
from typing import TYPE_CHECKING

from hypothesis import given

from medallion_platform import transforms
from medallion_platform.pipeline.code import text_of
from medallion_platform.transforms import current, history, versions
from medallion_platform_tests.frames import frame, rows
from medallion_platform_tests.transforms.test_history import (
    CHANGES,
    ONE_JOB_EACH,
    Change,
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


def test_tables_with_a_key_of_one_column_are_not_computed_again() -> None:
    """Before keys could have several columns, these functions stood in the tables' code themselves."""
    assert text_of(versions) == text_of(history.versions)
    assert text_of(current) == text_of(history.current)


def test_the_examples_of_the_docstrings(spark: SparkSession) -> None:
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    names = {name: getattr(transforms, name) for name in transforms.__all__}
    for name in ("versions", "current", "as_of"):
        (example,) = finder.find(names[name], name, module=False, globs={"spark": spark, **names})
        assert example.examples
        runner.run(example)
    assert runner.summarize().failed == 0
