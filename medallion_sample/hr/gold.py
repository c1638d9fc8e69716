"""Hr, gold: hires by quarter, department and job, and each employee among the colleagues."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from medallion_platform import table
from medallion_sample.hr.contracts import (
    GoldDepartmentMetrics,
    GoldEmployeeAnalytics,
    GoldQuarterlyHires,
)


@table(
    "gold.quarterly_hires",
    contract=GoldQuarterlyHires.contract,
    inputs={
        "employees": "silver.hired_employees",
        "departments": "silver.departments",
        "jobs": "silver.jobs",
    },
    incremental="replace_partitions",
    source_row_count="department_id is not null and job_id is not null",
)
def quarterly_hires(employees: DataFrame, departments: DataFrame, jobs: DataFrame) -> DataFrame:
    """Hires per year, department and job, where both are known; a missing name counts as well."""
    known = employees.where(F.col("department_id").isNotNull() & F.col("job_id").isNotNull())
    hires = known.groupBy("hire_year", "department_id", "job_id").agg(
        *(F.count_if(F.col("hire_quarter") == q).alias(f"q{q}") for q in (1, 2, 3, 4)),
        F.count(F.lit(1)).alias("hires"),
    )
    named = _with_names(hires, departments, jobs)
    return named.select(*GoldQuarterlyHires.contract.column_names)


@table(
    "gold.department_metrics",
    contract=GoldDepartmentMetrics.contract,
    inputs={"employees": "silver.hired_employees", "departments": "silver.departments"},
    incremental="replace_partitions",
    source_row_count="department_id is not null",
)
def department_metrics(employees: DataFrame, departments: DataFrame) -> DataFrame:
    """Hires per year and department against the mean of all departments, also those without any.

    A department that only employees name counts as one, without a name.
    """
    hired = employees.where(F.col("department_id").isNotNull())
    counted = hired.groupBy("hire_year", "department_id").agg(F.count(F.lit(1)).alias("hires"))
    names = departments.select(F.col("id").alias("department_id"), F.col("name").alias("department"))
    unnamed = hired.select("department_id", F.lit(None).cast("string").alias("department"))
    everyone = (
        names.unionByName(unnamed).groupBy("department_id").agg(F.max("department").alias("department"))
    )
    years = employees.select("hire_year").distinct()
    grid = everyone.crossJoin(F.broadcast(years)).join(
        F.broadcast(counted), ["hire_year", "department_id"], "left"
    )
    of_year = Window.partitionBy("hire_year")
    hires = F.coalesce("hires", F.lit(0).cast("long"))
    total, number = F.sum("hires").over(of_year), F.count(F.lit(1)).over(of_year)
    return grid.withColumn("hires", hires).select(
        "hire_year",
        "department_id",
        "department",
        "hires",
        (total / number).alias("mean_hires"),
        # In whole numbers, so that no rounding decides.
        (F.col("hires") * number > total).alias("above_mean"),
        F.rank().over(of_year.orderBy(F.desc("hires"))).alias("hires_rank"),
        F.when(total > 0, F.col("hires") / total).alias("share_of_hires"),
    )


@table(
    "gold.employee_analytics",
    contract=GoldEmployeeAnalytics.contract,
    inputs={
        "employees": "silver.hired_employees",
        "departments": "silver.departments",
        "jobs": "silver.jobs",
    },
    incremental="replace_partitions",
)
def employee_analytics(employees: DataFrame, departments: DataFrame, jobs: DataFrame) -> DataFrame:
    """One row per employee: tenure, and the place among the colleagues of the department.

    Tenure is measured at the newest hire of the company, not at the clock. Equal times rank by id.
    """
    newest = employees.agg(F.max("hired_at").alias("_newest"))
    department = Window.partitionBy("department_id")
    by_tenure = department.orderBy("hired_at", "id")
    cohort = Window.partitionBy("department_id", "hire_year", "hire_quarter")

    def in_department(value: Column) -> Column:
        return F.when(F.col("department_id").isNotNull(), value)

    previous = F.lag("hired_at").over(by_tenure)
    placed = employees.crossJoin(F.broadcast(newest)).withColumns(
        {
            "tenure_days": F.date_diff("_newest", "hired_at").cast("long"),
            "tenure_rank": in_department(F.row_number().over(by_tenure)),
            "tenure_percentile": in_department(F.percent_rank().over(by_tenure)),
            "department_size": in_department(F.count(F.lit(1)).over(department)),
            "days_since_previous_hire": in_department(F.date_diff("hired_at", previous).cast("long")),
            "cohort_size": in_department(F.count(F.lit(1)).over(cohort)),
        }
    )
    named = _with_names(placed, departments, jobs)
    return named.select(*GoldEmployeeAnalytics.contract.column_names)


def _with_names(rows: DataFrame, departments: DataFrame, jobs: DataFrame) -> DataFrame:
    """`rows` with the names of their department and job, null where there is none of that id."""
    department = departments.select(F.col("id").alias("department_id"), F.col("name").alias("department"))
    job = jobs.select(F.col("id").alias("job_id"), F.col("title").alias("job"))
    return rows.join(F.broadcast(department), "department_id", "left").join(
        F.broadcast(job), "job_id", "left"
    )


TABLES = (quarterly_hires, department_metrics, employee_analytics)
