"""Hr transforms: the known figures of the real files, and small cases by hand."""

from __future__ import annotations

import csv
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from medallion_platform_tests.frames import SHARED, frame, minutes, needs_shared, rows, schema_of
from medallion_sample.hr import gold, silver
from medallion_sample.hr.contracts import (
    BronzeDepartments,
    BronzeHiredEmployees,
    BronzeJobs,
    SilverDepartments,
    SilverHiredEmployees,
    SilverJobs,
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from medallion_platform.contracts.contract import Contract

PROVENANCE = ("_payload string", "_offset bigint")


def bronze(spark: SparkSession, contract: Contract, given: list[dict[str, Any]]) -> DataFrame:
    numbered = [{"_offset": n, "_payload": "as it came", **row} for n, row in enumerate(given, 1)]
    return frame(spark, schema_of(contract, *PROVENANCE), numbered)


def read_csv(name: str, contract: Contract) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with (SHARED / "hr" / name).open(encoding="utf-8", newline="") as file:
        for values in csv.reader(file):
            row: dict[str, Any] = dict(zip(contract.column_names, values, strict=True))
            for column in contract.columns:
                text = row[column.name]
                if text == "":
                    row[column.name] = None
                elif column.type.kind == "long":
                    row[column.name] = int(text)
                elif column.type.kind == "timestamp":
                    row[column.name] = datetime.fromisoformat(text)
            found.append(row)
    return found


@pytest.fixture(scope="module")
def real(spark: SparkSession) -> dict[str, DataFrame]:
    """Silver of the real files, without what its contract rejects."""
    departments = bronze(
        spark, BronzeDepartments.contract, read_csv("departments.csv", BronzeDepartments.contract)
    )
    jobs = bronze(spark, BronzeJobs.contract, read_csv("jobs.csv", BronzeJobs.contract))
    hired = bronze(
        spark, BronzeHiredEmployees.contract, read_csv("hired_employees.csv", BronzeHiredEmployees.contract)
    )
    employees = silver.hired_employees.transform(rows=hired)
    return {
        "all": employees.cache(),
        "employees": employees.where("hired_at is not null").cache(),
        "departments": silver.departments.transform(rows=departments).cache(),
        "jobs": silver.jobs.transform(rows=jobs).cache(),
    }


@needs_shared
def test_silver_holds_who_has_a_hire_date(real: dict[str, DataFrame]) -> None:
    everybody = rows(real["all"])
    assert len(everybody) == 1999
    needed = ("name", "hired_at", "department_id", "job_id")
    missing = Counter(c for r in everybody for c in needed if r[c] is None)
    assert missing == {"name": 19, "hired_at": 14, "department_id": 21, "job_id": 16}
    assert sum(any(r[c] is None for c in needed) for r in everybody) == 70
    assert real["employees"].count() == 1985
    assert (real["departments"].count(), real["jobs"].count()) == (12, 183)


@needs_shared
def test_hires_of_2021_by_quarter_department_and_job(real: dict[str, DataFrame]) -> None:
    frames = {name: real[name] for name in gold.quarterly_hires.inputs}
    found = [r for r in rows(gold.quarterly_hires.transform(**frames)) if r["hire_year"] == 2021]
    assert len(found) == 938
    assert sum(r["hires"] for r in found) == 1659
    assert [sum(r[f"q{q}"] for r in found) for q in (1, 2, 3, 4)] == [254, 458, 456, 491]
    assert all(r["department"] and r["job"] for r in found)


@needs_shared
def test_departments_that_hired_more_than_the_mean_in_2021(real: dict[str, DataFrame]) -> None:
    frames = {name: real[name] for name in gold.department_metrics.inputs}
    found = [r for r in rows(gold.department_metrics.transform(**frames)) if r["hire_year"] == 2021]
    assert len(found) == 12
    assert {round(r["mean_hires"], 2) for r in found} == {139.17}
    above = sorted((r for r in found if r["above_mean"]), key=lambda r: (r["hires_rank"], r["department"]))
    assert [(r["department"], r["hires"]) for r in above] == [
        ("Support", 221),
        ("Engineering", 208),
        ("Human Resources", 204),
        ("Services", 204),
        ("Business Development", 187),
        ("Research and Development", 151),
        ("Marketing", 143),
    ]


@needs_shared
def test_everybody_has_a_place_in_employee_analytics(real: dict[str, DataFrame]) -> None:
    frames = {name: real[name] for name in gold.employee_analytics.inputs}
    found = rows(gold.employee_analytics.transform(**frames))
    assert len(found) == 1985
    for department in range(1, 13):
        mine = [r for r in found if r["department_id"] == department]
        assert sorted(r["tenure_rank"] for r in mine) == list(range(1, len(mine) + 1))
        assert {r["department_size"] for r in mine} == {len(mine)}
        mine.sort(key=lambda r: r["tenure_rank"])
        assert [r["hired_at"] for r in mine] == sorted(r["hired_at"] for r in mine)
    cohorts = Counter(
        (r["department_id"], r["hire_year"], r["hire_quarter"]) for r in found if r["department_id"]
    )
    for r in found:
        place = (r["department_id"], r["hire_year"], r["hire_quarter"])
        assert r["cohort_size"] == (cohorts[place] if r["department_id"] else None)
    assert min(r["tenure_days"] for r in found) == 0


def test_the_newest_snapshot_wins_whatever_order_rows_are_read_in(spark: SparkSession) -> None:
    given = [
        {"id": 1, "name": " old ", "_offset": 5},
        {"id": 1, "name": " new", "_offset": 9},
        {"id": 1, "name": "older", "_offset": 2},
        {"id": 2, "name": "  ", "_offset": 3},
    ]
    made = silver.departments.transform(rows=bronze(spark, BronzeDepartments.contract, given))
    assert "_payload" not in made.columns
    assert [(r["id"], r["name"]) for r in rows(made, ["id"])] == [(1, "new"), (2, None)]


def test_small_company(spark: SparkSession) -> None:
    """Unknown department, department without a row, without hires, and equal hire times."""
    departments = frame(
        spark,
        schema_of(SilverDepartments.contract),
        [{"id": 1, "name": "One"}, {"id": 2, "name": "Two"}],
    )
    jobs = frame(spark, schema_of(SilverJobs.contract), [{"id": 1, "title": "Job"}])
    people = [
        {"id": 2, "hired_at": minutes(0), "department_id": 1, "job_id": 1},
        {"id": 1, "hired_at": minutes(0), "department_id": 1, "job_id": 1},
        {"id": 3, "hired_at": minutes(1440 * 100), "department_id": 1},
        {"id": 4, "hired_at": minutes(0)},
        {"id": 5, "hired_at": minutes(0), "department_id": 9, "job_id": 9},
    ]
    for person in people:
        person |= {"hire_year": 2026, "hire_quarter": 2 if person["id"] == 3 else 1}
    employees = frame(spark, schema_of(SilverHiredEmployees.contract), people)

    hires = rows(
        gold.quarterly_hires.transform(employees=employees, departments=departments, jobs=jobs),
        ["department_id"],
    )
    assert [(r["department"], r["job"], r["q1"], r["hires"]) for r in hires] == [
        ("One", "Job", 2, 2),
        (None, None, 1, 1),
    ]
    metrics = rows(
        gold.department_metrics.transform(employees=employees, departments=departments), ["department_id"]
    )
    assert [(r["department"], r["hires"], r["above_mean"], r["hires_rank"]) for r in metrics] == [
        ("One", 3, True, 1),
        ("Two", 0, False, 3),
        (None, 1, False, 2),
    ]
    analytics = rows(
        gold.employee_analytics.transform(employees=employees, departments=departments, jobs=jobs), ["id"]
    )
    assert [(r["tenure_days"], r["tenure_rank"], r["department_size"]) for r in analytics] == [
        (100, 1, 3),
        (100, 2, 3),
        (0, 3, 3),
        (100, None, None),
        (100, 1, 1),
    ]
    assert [r["days_since_previous_hire"] for r in analytics] == [None, 0, 100, None, None]
