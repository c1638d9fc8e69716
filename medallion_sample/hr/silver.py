"""Hr, silver: each thing as the newest snapshot that names it says."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from medallion_platform import table
from medallion_platform.transforms import trimmed
from medallion_sample.hr.contracts import (
    SilverDepartments,
    SilverHiredEmployees,
    SilverJobs,
)


@table(
    "silver.departments",
    contract=SilverDepartments.contract,
    inputs={"rows": "bronze.departments"},
    incremental="merge_by_key",
    recompute_key=("id",),
)
def departments(rows: DataFrame) -> DataFrame:
    """One row per department id; an older snapshot's row is superseded."""
    return _newest(rows).withColumn("name", trimmed("name"))


@table(
    "silver.jobs",
    contract=SilverJobs.contract,
    inputs={"rows": "bronze.jobs"},
    incremental="merge_by_key",
    recompute_key=("id",),
)
def jobs(rows: DataFrame) -> DataFrame:
    """One row per job id; an older snapshot's row is superseded."""
    return _newest(rows).withColumn("title", trimmed("title"))


@table(
    "silver.hired_employees",
    contract=SilverHiredEmployees.contract,
    inputs={"rows": "bronze.hired_employees"},
    incremental="merge_by_key",
    recompute_key=("id",),
)
def hired_employees(rows: DataFrame) -> DataFrame:
    """One row per employee id; an older snapshot's row is superseded."""
    newest = _newest(rows)
    made = newest.withColumns(
        {
            "name": trimmed("name"),
            "hire_year": F.year("hired_at"),
            "hire_quarter": F.quarter("hired_at"),
        }
    )
    declared = SilverHiredEmployees.contract.column_names
    return made.select(*declared, *(c for c in made.columns if c not in declared))


def _newest(rows: DataFrame) -> DataFrame:
    """The last row of each id in the order of intake, without its raw payload."""
    columns = [c for c in rows.columns if c != "_payload"]
    newest = rows.groupBy("id").agg(F.max_by(F.struct(*columns), "_offset").alias("_row_"))
    return newest.select("_row_.*")


TABLES = (departments, jobs, hired_employees)
