"""Runs one contract over one frame in both engines and brings the results into one form."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import polars as pl
from hypothesis import HealthCheck, Phase, settings
from polars.testing import assert_frame_equal, assert_series_equal
from pyspark.sql import Observation, SparkSession
from pyspark.sql import functions as F

from medallion_platform.contracts import polars_engine
from medallion_platform.contracts import spark_engine as in_spark
from medallion_platform.contracts.contract import Column, ColumnType, Contract, Expectation, Severity
from medallion_platform.contracts.violation_fields import broken, demand_of

ROW = "_row"
"""A column that passes through and tells the rows apart."""


def quick(examples: int) -> settings:
    """Few large examples, each a Spark job or two; not made smaller on failure, which would take hours.

    MEDALLION_TEST_EXAMPLES is a factor for a long run.
    """
    return settings(
        max_examples=examples * int(os.environ.get("MEDALLION_TEST_EXAMPLES", "1")),
        deadline=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
            HealthCheck.filter_too_much,
        ],
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
    )


@dataclass(frozen=True)
class Result:
    good: pl.DataFrame
    bad: pl.DataFrame
    counts: dict[str, int]


def numbered(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.int_range(pl.len()).alias(ROW))


def by_polars(contract: Contract, frame: pl.DataFrame) -> Result:
    validated = polars_engine.validate(contract, frame)
    return Result(
        validated.good, validated.bad, validated.violations | validated.warnings | validated.failures
    )


def by_spark(contract: Contract, frame: pl.DataFrame, spark: SparkSession) -> Result:
    given = spark.createDataFrame(frame.to_arrow())
    naive = [name for name, dtype in frame.schema.items() if dtype == pl.Datetime("us")]
    given = given.withColumns({name: F.col(name).cast("timestamp_ntz") for name in naive})
    validated = in_spark.validate(contract, given)
    observation = Observation()
    df = validated.df
    if validated.counters:
        df = df.observe(observation, *(c.alias(name) for name, c in validated.counters.items()))
    hidden = df.withColumns({"_ok": validated.ok, "_names": validated.violations})
    rows = to_polars(hidden).sort(ROW)
    good = rows.filter("_ok").select(validated.columns)
    came = [
        pl.col("__was_" + name).alias(name) if "__was_" + name in rows.columns else pl.col(name)
        for name in frame.columns
    ]
    bad = rows.filter(~pl.col("_ok")).select(*came, pl.col("_names").alias(in_spark.VIOLATIONS))
    return Result(good, bad, dict(observation.get) if validated.counters else {})


def to_polars(df: Any) -> pl.DataFrame:
    frame = pl.DataFrame(pl.from_arrow(df.toArrow()))
    return frame


def bits(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with floating numbers as text, so that -0.0 is not 0.0 and NaN is NaN."""
    return frame.with_columns(pl.selectors.float().cast(pl.String))


def assert_agree(contract: Contract, frame: pl.DataFrame, spark: SparkSession) -> Result:
    """Both engines call the same rows good, with the same values, and name the same violations."""
    frame = numbered(frame)
    ours, theirs = by_polars(contract, frame), by_spark(contract, frame, spark)
    told = ours.bad.select(ROW, polars_engine.VIOLATIONS), theirs.bad.select(ROW, polars_engine.VIOLATIONS)
    assert_frame_equal(*told)
    assert ours.counts == theirs.counts
    assert_frame_equal(bits(ours.good), bits(theirs.good))
    assert_frame_equal(ours.bad, theirs.bad)
    assert ours.good.height + ours.bad.height == frame.height
    fields = [
        broken(contract, contract.expectations, bad, bad[polars_engine.VIOLATIONS])
        for bad in (ours.bad, theirs.bad)
    ]
    assert_series_equal(*fields)
    names = {e.name: demand_of(e, contract) for e in contract.expectations}
    for entries, violated in zip(fields[0], ours.bad[polars_engine.VIOLATIONS], strict=True):
        told = [(e["code"], tuple(e["columns"]), e["bound"]) for e in entries]
        assert told == [(names[n].code, names[n].columns, names[n].bound) for n in violated]
    return ours


def contract_of(
    columns: dict[str, ColumnType], *expectations: Expectation, nullable: bool = True
) -> Contract:
    """A contract without pandera, for the tests of the engines alone."""
    return Contract(
        name="made up",
        columns=tuple(Column(name, type_, nullable) for name, type_ in columns.items()),
        expectations=expectations,
    )


def expectation(
    name: str, columns: tuple[str, ...], test: Any, severity: Severity = Severity.REJECT
) -> Expectation:
    return Expectation(name, columns, severity, test)
