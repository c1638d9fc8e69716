"""Tiny data frames from Python rows, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from medallion_platform.contracts.contract import Contract

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Real data beside the repository; not everybody has it."""

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data, which is absent")

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)


def minutes(number: float) -> datetime:
    """So many minutes after the first Monday."""
    return MONDAY + timedelta(minutes=number)


def day(number: int) -> date:
    """So many days after the first Monday."""
    return (MONDAY + timedelta(days=number)).date()


def frame(spark: SparkSession, schema: str, rows: Iterable[Mapping[str, Any]]) -> DataFrame:
    """A data frame of `rows`; what a row does not say is null."""
    names = [column.strip().split(" ")[0] for column in _columns(schema)]
    return spark.createDataFrame([tuple(row.get(n) for n in names) for row in rows], schema)


def rows(df: DataFrame, order: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows as dictionaries, in order of these columns; times in UTC."""
    found = [{k: _aware(v) for k, v in row.asDict().items()} for row in df.collect()]
    return sorted(found, key=lambda r: tuple(str(r[c]) for c in order))


def schema_of(contract: Contract, *more: str) -> str:
    """The contract's columns as Spark's schema text."""
    names = {"integer": "int", "long": "bigint"}
    columns = [f"{c.name} {names.get(c.type.kind, str(c.type))}" for c in contract.columns]
    return ", ".join([*columns, *more])


def _columns(schema: str) -> list[str]:
    parts: list[str] = []
    depth = 0
    start = 0
    for place, mark in enumerate(schema):
        depth += (mark == "(") - (mark == ")")
        if mark == "," and not depth:
            parts.append(schema[start:place])
            start = place + 1
    return [*parts, schema[start:]]


def _aware(value: Any) -> Any:
    """Spark gives times in the machine's zone, without saying so."""
    return value.astimezone(UTC) if isinstance(value, datetime) else value
