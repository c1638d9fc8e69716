"""Where hr rows land: CSV without a header, each file a full snapshot with ids."""

from __future__ import annotations

from medallion_platform import Csv, FileSource
from medallion_sample.hr.contracts import (
    BronzeDepartments,
    BronzeHiredEmployees,
    BronzeJobs,
)

DEPARTMENTS = FileSource(
    name="hr.departments",
    table="bronze.departments",
    contract=BronzeDepartments.contract,
    claims=("hr/departments*", "hr/departments/**"),
    format=Csv(header=False, columns=BronzeDepartments.contract.column_names),
    domain="hr",
)

JOBS = FileSource(
    name="hr.jobs",
    table="bronze.jobs",
    contract=BronzeJobs.contract,
    claims=("hr/jobs*", "hr/jobs/**"),
    format=Csv(header=False, columns=BronzeJobs.contract.column_names),
    domain="hr",
)

HIRED_EMPLOYEES = FileSource(
    name="hr.hired_employees",
    table="bronze.hired_employees",
    contract=BronzeHiredEmployees.contract,
    claims=("hr/hired_employees*", "hr/hired_employees/**"),
    format=Csv(header=False, columns=BronzeHiredEmployees.contract.column_names),
    domain="hr",
)

SOURCES = (DEPARTMENTS, JOBS, HIRED_EMPLOYEES)
