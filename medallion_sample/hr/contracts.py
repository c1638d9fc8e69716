"""What a good row of each hr table is.

An employee who misses a name, a department or a job still counts where that is not needed; without
a hire date a row has no place in silver, which is partitioned by it.
"""

# A model's options are data that nobody changes.
# ruff: noqa: RUF012

from __future__ import annotations

import pyspark.sql.types as T
from pandera.api.pyspark.model_config import BaseConfig

from medallion_platform import ContractModel, Field, expect

_MAY_BE_MISSING = {"not_null": "warn"}


class BronzeDepartments(ContractModel):
    """Departments as they came; every file is a full snapshot."""

    id: T.LongType = Field(ge=1, description="number in the source")
    name: T.StringType = Field(severity=_MAY_BE_MISSING, description="name of the department")


class BronzeJobs(ContractModel):
    """Jobs as they came; every file is a full snapshot."""

    id: T.LongType = Field(ge=1, description="number in the source")
    title: T.StringType = Field(severity=_MAY_BE_MISSING, description="title of the job")


class BronzeHiredEmployees(ContractModel):
    """Hired employees as they came; every file is a full snapshot."""

    id: T.LongType = Field(ge=1, description="number in the source")
    name: T.StringType = Field(severity=_MAY_BE_MISSING, description="full name")
    hired_at: T.TimestampType = Field(severity=_MAY_BE_MISSING, description="when the employee was hired")
    department_id: T.LongType = Field(severity=_MAY_BE_MISSING, description="number of the department")
    job_id: T.LongType = Field(severity=_MAY_BE_MISSING, description="number of the job")

    class Config(BaseConfig):
        """Table options."""

        metadata = {
            "rows": {
                "record is complete": expect(
                    "name is not null and hired_at is not null "
                    "and department_id is not null and job_id is not null",
                    severity="warn",
                )
            }
        }


class SilverDepartments(ContractModel):
    """Departments, as the newest snapshot that names them says."""

    id: T.LongType = Field(ge=1, description="number in the source")
    name: T.StringType = Field(description="name of the department")

    class Config(BaseConfig):
        """Table options."""

        metadata = {"key": ["id"]}


class SilverJobs(ContractModel):
    """Jobs, as the newest snapshot that names them says."""

    id: T.LongType = Field(ge=1, description="number in the source")
    title: T.StringType = Field(description="title of the job")

    class Config(BaseConfig):
        """Table options."""

        metadata = {"key": ["id"]}


class SilverHiredEmployees(ContractModel):
    """Hired employees, as the newest snapshot that names them says."""

    id: T.LongType = Field(ge=1, description="number in the source")
    name: T.StringType = Field(severity=_MAY_BE_MISSING, description="full name")
    hired_at: T.TimestampType = Field(description="when the employee was hired")
    department_id: T.LongType = Field(severity=_MAY_BE_MISSING, description="number of the department")
    job_id: T.LongType = Field(severity=_MAY_BE_MISSING, description="number of the job")
    # Null only where hired_at is, which is the one violation to name.
    hire_year: T.IntegerType = Field(nullable=True, description="year of hired_at")
    hire_quarter: T.IntegerType = Field(nullable=True, ge=1, le=4, description="quarter of hired_at")

    class Config(BaseConfig):
        """Table options."""

        metadata = {
            "key": ["id"],
            "partitioned_by": ["hire_year", "hire_quarter"],
        }


class GoldQuarterlyHires(ContractModel):
    """Hires of a year by department and job, quarter by quarter."""

    hire_year: T.IntegerType = Field(description="year of hired_at")
    department_id: T.LongType = Field(description="number of the department")
    department: T.StringType = Field(severity=_MAY_BE_MISSING, description="name of the department")
    job_id: T.LongType = Field(description="number of the job")
    job: T.StringType = Field(severity=_MAY_BE_MISSING, description="title of the job")
    q1: T.LongType = Field(ge=0, description="hires from January to March")
    q2: T.LongType = Field(ge=0, description="hires from April to June")
    q3: T.LongType = Field(ge=0, description="hires from July to September")
    q4: T.LongType = Field(ge=0, description="hires from October to December")
    hires: T.LongType = Field(ge=1, description="hires of the year")

    class Config(BaseConfig):
        """Table options."""

        metadata = {
            "key": ["hire_year", "department_id", "job_id"],
            "row_count_column": "hires",
            "rows": {"quarters add up": expect("q1 + q2 + q3 + q4 = hires", severity="fail")},
        }


class GoldDepartmentMetrics(ContractModel):
    """Hires of a year by department, against the mean of all departments."""

    hire_year: T.IntegerType = Field(description="year of hired_at")
    department_id: T.LongType = Field(description="number of the department")
    department: T.StringType = Field(severity=_MAY_BE_MISSING, description="name of the department")
    hires: T.LongType = Field(ge=0, description="hires of the year")
    mean_hires: T.DoubleType = Field(ge=0, description="of all departments, those without hires included")
    above_mean: T.BooleanType = Field(description="whether hires are above mean_hires")
    hires_rank: T.IntegerType = Field(ge=1, description="1 for most hires of the year")
    share_of_hires: T.DoubleType = Field(
        nullable=True, ge=0, le=1, description="share of all hires of the year, 0 to 1"
    )

    class Config(BaseConfig):
        """Table options."""

        metadata = {"key": ["hire_year", "department_id"], "row_count_column": "hires"}


class GoldEmployeeAnalytics(ContractModel):
    """One row per employee, placed among the colleagues of the department."""

    id: T.LongType = Field(ge=1, description="number in the source")
    name: T.StringType = Field(nullable=True, description="full name")
    department_id: T.LongType = Field(nullable=True, description="number of the department")
    department: T.StringType = Field(nullable=True, description="name of the department")
    job_id: T.LongType = Field(nullable=True, description="number of the job")
    job: T.StringType = Field(nullable=True, description="title of the job")
    hired_at: T.TimestampType = Field(description="when the employee was hired")
    hire_year: T.IntegerType = Field(description="year of hired_at")
    hire_quarter: T.IntegerType = Field(ge=1, le=4, description="quarter of hired_at")
    tenure_days: T.LongType = Field(ge=0, description="at the newest hire of the company")
    tenure_rank: T.IntegerType = Field(
        nullable=True, ge=1, description="within the department, 1 for the longest"
    )
    tenure_percentile: T.DoubleType = Field(
        nullable=True, ge=0, le=1, description="percentile rank of tenure in the department, 0 to 1"
    )
    department_size: T.LongType = Field(nullable=True, ge=1, description="employees of the department")
    days_since_previous_hire: T.LongType = Field(nullable=True, ge=0, description="of the department")
    cohort_size: T.LongType = Field(
        nullable=True, ge=1, description="hires of the department in the same quarter"
    )

    class Config(BaseConfig):
        """Table options."""

        metadata = {"key": ["id"]}
