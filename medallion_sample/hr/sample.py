"""Dirty hr snapshots: CSV without a header, the employees once more three days later."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from medallion_sample.sample_file import SampleFile, count

FIRST_SNAPSHOT = datetime(2026, 1, 5, 6, tzinfo=UTC)
SECOND_SNAPSHOT = datetime(2026, 1, 8, 6, tzinfo=UTC)

DEPARTMENTS = "hr/departments"
JOBS = "hr/jobs"
EMPLOYEES = "hr/hired_employees"

_DEPARTMENTS = (
    "Engineering",
    "Sales",
    "Support",
    "Legal, Risk and Compliance",
    "Marketing",
    "Human Resources",
    "Accounting",
    'Research & "Moonshots"',
)
_JOBS = (
    "Analyst",
    "Account Manager",
    "Engineer I",
    "Engineer II",
    "Engineer III",
    "Designer",
    "Paralegal",
    "Recruiter",
    "VP Sales",
    "Technical Writer",
    "Auditor",
    "Support Agent",
)
_FIRST = ("Ana", "Zoë", "Jürgen", "Łukasz", "Aiko", "Omar", "Siân", "Nuñez", "Ivo", "Maya")
_LAST = ("O'Neil", "Müller", "García, Jr.", "Kowalski", "Sato", "van den Berg", "Øst", "Diaz")

_MISSING = {"name": 6, "hired_at": 5, "department_id": 7, "job_id": 6}


def files(planted: dict[str, dict[str, int]], seed: int) -> Iterator[SampleFile]:
    """All hr files; counts the dirt in `planted`."""
    rng = random.Random(f"{seed} hr")  # noqa: S311
    departments = [(str(i), name) for i, name in enumerate(_DEPARTMENTS, 1)]
    yield SampleFile(f"{DEPARTMENTS}.csv", _csv(departments), FIRST_SNAPSHOT)
    count(planted, DEPARTMENTS, "records", len(departments))
    # Exported from a spreadsheet: a byte order mark and Windows line ends.
    jobs = [(str(i), title) for i, title in enumerate(_JOBS, 1)]
    yield SampleFile(f"{JOBS}.csv", b"\xef\xbb\xbf" + _csv(jobs, "\r\n"), FIRST_SNAPSHOT)
    count(planted, JOBS, "records", len(jobs))

    first = [_employee(number, rng) for number in range(1, 561)]
    spots = iter(rng.sample(range(500), sum(_MISSING.values())))
    for column, number in _MISSING.items():
        for _ in range(number):
            first[next(spots)][_COLUMNS.index(column)] = ""
            count(planted, EMPLOYEES, f"missing {column}")
    yield _snapshot("2026-01-05", first, planted, rng, FIRST_SNAPSHOT)

    # The second snapshot holds everybody again: gaps filled, people moved, people new.
    second = [list(row) for row in first]
    for row in second:
        if not row[1]:
            row[1] = f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"
        if rng.random() < 0.03:
            row[4] = str(rng.randrange(1, len(_JOBS) + 1))
    second += [_employee(number, rng) for number in range(561, 601)]
    yield _snapshot("2026-01-08", second, planted, rng, SECOND_SNAPSHOT)


_COLUMNS = ("id", "name", "hired_at", "department_id", "job_id")


def _employee(number: int, rng: random.Random) -> list[str]:
    hired = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=rng.randrange(2 * 365 * 24 * 60))
    return [
        str(number),
        f"{rng.choice(_FIRST)} {rng.choice(_LAST)}",
        f"{hired:%Y-%m-%dT%H:%M:%SZ}",
        str(min(rng.randrange(1, 9), rng.randrange(1, 11), 8)),
        str(rng.randrange(1, len(_JOBS) + 1)),
    ]


def _snapshot(
    day: str,
    rows: Sequence[Sequence[str]],
    planted: dict[str, dict[str, int]],
    rng: random.Random,
    at: datetime,
) -> SampleFile:
    """A full snapshot with rows twice, ragged rows and rows whose id is none."""
    dirty: list[Sequence[str]] = [*rows]
    twice = rng.sample(rows[500:], 5)
    ragged: list[Sequence[str]] = [["901", "Too Short"], [*rows[7], "one", "two"]]
    no_id: list[Sequence[str]] = [["x17", "Bad Id", "2025-02-01T00:00:00Z", "1", "1"]]
    no_date: list[Sequence[str]] = [["902", "Bad Date", "01.02.2025", "1", "1"]]
    for kind, extra in (
        ("same id twice", twice),
        ("ragged", ragged),
        ("id not a number", no_id),
        ("hired_at not a timestamp", no_date),
    ):
        count(planted, EMPLOYEES, kind, len(extra))
        for row in extra:
            dirty.insert(rng.randrange(len(dirty) + 1), row)
    count(planted, EMPLOYEES, "records", len(dirty))
    return SampleFile(f"{EMPLOYEES}/{day}.csv", _csv(dirty), at)


def _csv(rows: Sequence[Sequence[str]], end: str = "\n") -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator=end).writerows(rows)
    return out.getvalue().encode()
