from __future__ import annotations

import pickle
from typing import Any

import pyspark.sql.types as T
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.contracts.model import ContractModel, Field
from medallion_platform.sources.connectors.files import FileSource, claims, folders_of, offset_of, place_of
from medallion_platform.sources.errors import UnreadableFile
from medallion_platform.sources.formats.csv import Csv
from medallion_platform.sources.formats.debezium import Debezium
from medallion_platform.sources.formats.jsonlines import JsonLines


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1))
def test_an_offset_is_a_place_and_back(sequence: int, row: int):
    assert place_of(offset_of(sequence, row)) == (sequence, row)
    assert offset_of(sequence, row) < 2**63


@given(*[st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1))] * 2)
def test_offsets_sort_as_files_and_rows_do(a: tuple[int, int], b: tuple[int, int]):
    assert (offset_of(*a) < offset_of(*b)) == (a < b)


@pytest.mark.parametrize(("sequence", "row"), [(0, -1), (0, 2**32), (-1, 0), (2**31, 0)])
def test_what_is_no_place_has_no_offset(sequence: int, row: int):
    with pytest.raises(ValueError, match="outside"):
        offset_of(sequence, row)


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
    assert folders_of(globs) == folders


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
    with pytest.raises(ValueError, match="Csv"):
        Csv(**wrong)  # type: ignore[arg-type]


def test_encodings_are_checked_where_they_are_declared():
    for kind in (JsonLines, Debezium):
        with pytest.raises(ValueError, match="no such encoding"):
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
    with pytest.raises(ValueError, match=reason):
        FileSource("hr", "bronze.people", contract.contract, format, "hr", claims=("hr/**",), **options)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ("hr/*.csv", "is one text"),
        (("hr/../../other/*.csv",), "leads out of the landing zone"),
        (("hr/**", ".."), "leads out of the landing zone"),
    ],
)
def test_claims_that_cannot_be_meant_are_refused(claims: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"source 'hr': .*{reason}"):
        FileSource("hr", "bronze.people", People.contract, Csv(), "hr", claims=claims)


def test_what_agrees_with_the_contract_is_taken() -> None:
    for format in (
        Debezium(key=("person",)),
        Csv(header=False, columns=("person",)),
        Csv(columns=("person",)),
    ):
        FileSource("hr", "bronze.people", People.contract, format, "hr", claims=("hr/**",))
