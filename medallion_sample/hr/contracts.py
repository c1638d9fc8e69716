"""What a good row of each hr table is.

An employee who misses a name, a department or a job still counts where that is not needed; without
a hire date a row has no place in silver, which is partitioned by it.
"""

# A model's options are data that nobody changes.
# ruff: noqa: RUF012

from __future__ import annotations

import pyspark.sql.types as T
from pandera.api.pyspark.model_config import BaseConfig

from medallion_platform.contracts.model import ContractModel, Field, expect

_MAY_BE_MISSING = {"not_null": "warn"}


class BronzeDepartments(ContractModel):
    """Departments as they came; every file is a full snapshot."""

    id: T.LongType = Field(ge=1)
    name: T.StringType = Field(severity=_MAY_BE_MISSING)


class BronzeJobs(ContractModel):
    """Jobs as they came; every file is a full snapshot."""

    id: T.LongType = Field(ge=1)
    title: T.StringType = Field(severity=_MAY_BE_MISSING)


class BronzeHiredEmployees(ContractModel):
    """Hired employees as they came; every file is a full snapshot."""

    id: T.LongType = Field(ge=1)
    name: T.StringType = Field(severity=_MAY_BE_MISSING)
    hired_at: T.TimestampType = Field(severity=_MAY_BE_MISSING)
    department_id: T.LongType = Field(severity=_MAY_BE_MISSING)
    job_id: T.LongType = Field(severity=_MAY_BE_MISSING)

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

    id: T.LongType = Field(ge=1)
    name: T.StringType = Field()

    class Config(BaseConfig):
        """Table options."""

        metadata = {"key": ["id"]}


class SilverJobs(ContractModel):
    """Jobs, as the newest snapshot that names them says."""

    id: T.LongType = Field(ge=1)
    title: T.StringType = Field()

    class Config(BaseConfig):
        """Table options."""

        metadata = {"key": ["id"]}


class SilverHiredEmployees(ContractModel):
    """Hired employees, as the newest snapshot that names them says."""

    id: T.LongType = Field(ge=1)
    name: T.StringType = Field(severity=_MAY_BE_MISSING)
    hired_at: T.TimestampType = Field()
    department_id: T.LongType = Field(severity=_MAY_BE_MISSING)
    job_id: T.LongType = Field(severity=_MAY_BE_MISSING)
    # Null only where hired_at is, which is the one violation to name.
    hire_year: T.IntegerType = Field(nullable=True)
    hire_quarter: T.IntegerType = Field(nullable=True, ge=1, le=4)

    class Config(BaseConfig):
        """Table options."""

        metadata = {
            "key": ["id"],
            "partitioned_by": ["hire_year", "hire_quarter"],
        }


class GoldQuarterlyHires(ContractModel):
    """Hires of a year by department and job, quarter by quarter."""

    hire_year: T.IntegerType = Field()
    department_id: T.LongType = Field()
    department: T.StringType = Field(severity=_MAY_BE_MISSING)
    job_id: T.LongType = Field()
    job: T.StringType = Field(severity=_MAY_BE_MISSING)
    q1: T.LongType = Field(ge=0)
    q2: T.LongType = Field(ge=0)
    q3: T.LongType = Field(ge=0)
    q4: T.LongType = Field(ge=0)
    hires: T.LongType = Field(ge=1)

    class Config(BaseConfig):
        """Table options."""

        metadata = {
            "key": ["hire_year", "department_id", "job_id"],
            "row_count_column": "hires",
            "rows": {"quarters add up": expect("q1 + q2 + q3 + q4 = hires", severity="fail")},
        }


class GoldDepartmentMetrics(ContractModel):
    """Hires of a year by department, against the mean of all departments."""

    hire_year: T.IntegerType = Field()
    department_id: T.LongType = Field()
    department: T.StringType = Field(severity=_MAY_BE_MISSING)
    hires: T.LongType = Field(ge=0)
    mean_hires: T.DoubleType = Field(ge=0, description="of all departments, those without hires included")
    above_mean: T.BooleanType = Field()
    hires_rank: T.IntegerType = Field(ge=1, description="1 for most hires of the year")
    share_of_hires: T.DoubleType = Field(nullable=True, ge=0, le=1)

    class Config(BaseConfig):
        """Table options."""

        metadata = {"key": ["hire_year", "department_id"], "row_count_column": "hires"}


class GoldEmployeeAnalytics(ContractModel):
    """One row per employee, placed among the colleagues of the department."""

    id: T.LongType = Field(ge=1)
    name: T.StringType = Field(nullable=True)
    department_id: T.LongType = Field(nullable=True)
    department: T.StringType = Field(nullable=True)
    job_id: T.LongType = Field(nullable=True)
    job: T.StringType = Field(nullable=True)
    hired_at: T.TimestampType = Field()
    hire_year: T.IntegerType = Field()
    hire_quarter: T.IntegerType = Field(ge=1, le=4)
    tenure_days: T.LongType = Field(ge=0, description="at the newest hire of the company")
    tenure_rank: T.IntegerType = Field(
        nullable=True, ge=1, description="within the department, 1 for the longest"
    )
    tenure_percentile: T.DoubleType = Field(nullable=True, ge=0, le=1)
    department_size: T.LongType = Field(nullable=True, ge=1)
    days_since_previous_hire: T.LongType = Field(nullable=True, ge=0, description="of the department")
    cohort_size: T.LongType = Field(
        nullable=True, ge=1, description="hires of the department in the same quarter"
    )

    class Config(BaseConfig):
        """Table options."""

        metadata = {"key": ["id"]}
