from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime
from typing import Any, cast

import pyspark.sql.types as T
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.errors import DeclarationError, Kind
from medallion_platform.sources.connectors.files import (
    FileSource,
    claims,
    folders_of_globs,
    record_offset,
    sequence_and_row,
)
from medallion_platform.sources.connectors.rest import ById, ByTime, CursorPaginator, PageNumberPaginator
from medallion_platform.sources.errors import UnreadableFile
from medallion_platform.sources.formats.csv import Csv
from medallion_platform.sources.formats.debezium import Debezium
from medallion_platform.sources.formats.jsonlines import JsonLines


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1))
def test_an_offset_is_a_place_and_back(sequence: int, row: int):
    assert sequence_and_row(record_offset(sequence, row)) == (sequence, row)
    assert record_offset(sequence, row) < 2**63


@given(*[st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1))] * 2)
def test_offsets_sort_as_files_and_rows_do(a: tuple[int, int], b: tuple[int, int]):
    assert (record_offset(*a) < record_offset(*b)) == (a < b)


@pytest.mark.parametrize(("sequence", "row"), [(0, -1), (0, 2**32), (-1, 0), (2**31, 0)])
def test_what_is_no_place_has_no_offset(sequence: int, row: int):
    with pytest.raises(ValueError, match="outside"):
        record_offset(sequence, row)


@pytest.mark.parametrize(
    ("glob", "path", "hit"),
    [
        ("a/*.csv", "a/x.csv", True),
        ("a/*.csv", "a/b/x.csv", False),
        ("a/*.csv", "b/a/x.csv", False),
        ("a/**/*.csv", "a/x.csv", True),
        ("a/**/*.csv", "a/b/c/x.csv", True),
        ("**/*.csv", "x.csv", True),
        ("a/**", "a/b/c", True),
        ("a/**", "a", False),
        ("a?.csv", "ab.csv", True),
        ("a?.csv", "a/.csv", False),
        ("a[0-9].csv", "a7.csv", True),
        ("a[!0-9].csv", "a7.csv", False),
        ("a[!0-9].csv", "a/.csv", False),
        ("a.csv*", "a.csv.gz", True),
        ("a.csv", "axcsv", False),
        ("*.csv", "a\n.csv", True),
        ("a[.csv", "a[.csv", True),
        ("a/*.csv", "A/x.csv", False),
    ],
)
def test_globs(glob: str, path: str, hit: bool):
    assert claims((glob,), path) is hit


@pytest.mark.parametrize(
    ("globs", "folders"),
    [
        (["a/*.csv"], ["a"]),
        (["a/2026-*/b.csv", "a/x/y.csv"], ["a"]),
        (["a/b/**", "ab/**"], ["a/b", "ab"]),
        (["a/[bc]/*.csv"], ["a"]),
        (["*.csv", "a/b.csv"], [""]),
        (["**/b.csv"], [""]),
    ],
)
def test_the_folders_to_list_hold_all_that_is_claimed(globs: list[str], folders: list[str]):
    assert folders_of_globs(globs) == folders


@pytest.mark.parametrize(
    "wrong",
    [
        {"delimiter": ";;"},
        {"delimiter": "\n"},
        {"delimiter": "§"},
        {"quote": ","},
        {"columns": ()},
        {"columns": ("a", "a")},
        {"encoding": "no-such"},
        {"encoding": "hex"},
    ],
)
def test_a_csv_that_cannot_be_is_refused_where_it_is_declared(wrong: dict[str, object]):
    with pytest.raises(DeclarationError, match="Csv"):
        Csv(**wrong)  # type: ignore[arg-type]


def test_encodings_are_checked_where_they_are_declared():
    for kind in (JsonLines, Debezium):
        with pytest.raises(DeclarationError, match="no such encoding"):
            kind(encoding="no-such")


def test_an_unreadable_file_crosses_processes():
    error = pickle.loads(pickle.dumps(UnreadableFile("a", "torn")))
    assert (error.path, error.reason, str(error)) == ("a", "torn", "a: torn")


class People(ContractModel):
    person: T.StringType = Field()
    note: T.StringType = Field(nullable=True)


class Keyed(ContractModel):
    person: T.StringType = Field()

    class Config:
        metadata = {"key": ["person"]}  # noqa: RUF012


@pytest.mark.parametrize(
    ("contract", "format", "options", "reason"),
    [
        (
            People,
            Debezium(),
            {},
            r"^source 'hr': Debezium's key 'id' is in no contract: People knows person, note$",
        ),
        (People, Debezium(key=("person", "since")), {}, "key 'since' is in no contract"),
        (People, Debezium(key=()), {}, "names no key"),
        (Keyed, Debezium(key=("person",)), {}, "only the first change of a row would be kept"),
        (
            People,
            Csv(header=False, columns=("name", "note")),
            {},
            "'person' must not be null",
        ),
        (
            Keyed,
            JsonLines(),
            {"drop_repeated_text": True},
            "Keyed has the key person",
        ),
    ],
)
def test_what_contradicts_the_contract_is_refused(
    contract: type[ContractModel], format: Any, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(DeclarationError, match=reason):
        FileSource("hr", "bronze.people", contract.contract, format, "hr", claims=("hr/**",), **options)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ("hr/*.csv", "claims is 'hr/.*, and not a tuple of texts"),
        ((), "claims no file"),
        (("",), "claims: '' is empty"),
        (("hr/\0.csv",), "has a NUL"),
        ((7,), "7 is no text"),
        (("hr//*.csv",), "has a folder without a name"),
        (("hr//",), "has a folder without a name"),
        (("_in/**",), "never taken in"),
        (("hr/.old/*.csv",), "never taken in"),
        (("hr/*.csv.part",), "never taken in"),
        (("hr/../../other/*.csv",), "leads out of the landing zone"),
        (("hr/**", ".."), "leads out of the landing zone"),
    ],
)
def test_claims_that_cannot_be_meant_are_refused(claims: Any, reason: str) -> None:
    with pytest.raises(DeclarationError, match=rf"source 'hr': .*{reason}"):
        FileSource("hr", "bronze.people", People.contract, Csv(), "hr", claims=claims)


@pytest.mark.parametrize("claims", [("/",), ("/hr/*",), ("hr/",), ["hr/**", "hr*"], ("hr/x_*/a.b/*~*",)])
def test_usual_claims_are_taken(claims: Any) -> None:
    assert FileSource("hr", "bronze.people", People.contract, Csv(), "hr", claims=claims).claims == tuple(
        claims
    )


class Daily(ContractModel):
    person: T.StringType = Field()
    at: T.TimestampType = Field()

    class Config:
        metadata = {"event_time": "at", "partitioned_by": ["event_date"]}  # noqa: RUF012


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"name": ""}, "name: '' is empty"),
        ({"name": "h\0r"}, "name: .* has a NUL"),
        ({"table": None}, "table: None is no text"),
        ({"domain": ""}, "domain: '' is empty"),
        ({"contract": Daily}, "contract is the class Daily, and not a contract: MyModel.contract"),
        ({"format": Csv}, r"format is the class Csv, and not a format: Csv\(\)"),
        ({"format": "csv"}, "format is 'csv', and not a format"),
        ({"drop_repeated_text": "no"}, "drop_repeated_text is 'no', and neither True nor False"),
        ({"contract": replace(Daily.contract, row_count_column="n")}, "row_count_column is for aggregates"),
        ({"first_day": "2026-01-01"}, "first_day is '2026-01-01', and not a date"),
        ({"first_day": datetime(2026, 1, 1)}, "first_day is datetime.datetime.*, and not a date"),
        (
            {"first_day": date(2026, 1, 1), "contract": People.contract},
            "first_day is for a contract that is part",
        ),
    ],
)
def test_a_source_that_cannot_be_meant_is_refused(changed: dict[str, Any], reason: str) -> None:
    meant: dict[str, Any] = {
        "name": "hr",
        "table": "bronze.people",
        "contract": Daily.contract,
        "format": Csv(),
        "domain": "hr",
        "claims": ("hr/**",),
        "first_day": date(2026, 1, 1),
    }
    FileSource(**meant)
    with pytest.raises(DeclarationError, match=reason) as refused:
        FileSource(**meant | changed)
    assert refused.value.kind is Kind.PERMANENT


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (lambda: Csv(columns=cast(Any, "abc")), "Csv columns is 'abc', and not a tuple of texts"),
        (lambda: Csv(columns=()), "Csv columns name no field"),
        (lambda: Csv(columns=("a", "a")), "Csv columns names 'a' twice"),
        (lambda: Csv(columns=("a", "b\0")), "has a NUL"),
        (lambda: Debezium(key=cast(Any, "id")), "Debezium key is 'id', and not a tuple of texts"),
        (lambda: CursorPaginator("cursor", path=cast(Any, "next")), "path is 'next', and not a tuple"),
        (lambda: PageNumberPaginator("page", begin=-1), "begin is -1: it has to be at least 0"),
        (lambda: Csv(header=cast(Any, "no")), "Csv header is 'no', and neither True nor False"),
        (lambda: Csv(encoding=cast(Any, None)), "Csv encoding: None is no text"),
        (lambda: CursorPaginator("cursor", path=()), "CursorPaginator path is empty"),
        (lambda: ById("", parameter="since"), "ById field: '' is empty"),
        (lambda: ById("id", parameter="since", overlap=cast(Any, 1.5)), "is 1.5, and not a whole number"),
        (lambda: ByTime("at", parameter="since", overlap=cast(Any, 300)), "is 300, and not a timedelta"),
    ],
)
def test_a_part_of_a_source_that_cannot_be_meant_is_refused(
    declared: Callable[[], object], reason: str
) -> None:
    """One text in the place of several was taken letter by letter."""
    with pytest.raises(DeclarationError, match=reason):
        declared()


class Versions(ContractModel):
    person: T.StringType = Field()
    version: T.LongType = Field()

    class Config:
        metadata = {"key": ["person", "version"]}  # noqa: RUF012


def test_change_events_may_be_told_by_more_than_their_row() -> None:
    format = Debezium(key=("person",))
    assert FileSource("hr", "bronze.people", Versions.contract, format, "hr", claims=("hr/**",)).contract.key


def test_what_agrees_with_the_contract_is_taken() -> None:
    for format in (
        Debezium(key=("person",)),
        Csv(header=False, columns=("person",)),
        Csv(columns=("person",)),
    ):
        FileSource("hr", "bronze.people", People.contract, format, "hr", claims=("hr/**",))
