"""What a commit says of itself, and the conservation equation."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.counts import Counts

numbers = st.integers(0, 2**40)
counts = st.builds(Counts, numbers, numbers, numbers, numbers, numbers)
tally = st.dictionaries(st.text(max_size=8), numbers, max_size=3)
records = st.builds(
    CommitRecord,
    verb=st.sampled_from(["intake", "refresh", "replay", "reparse", "restore"]),
    run_id=st.text(max_size=10),
    at=st.text(max_size=10),
    counts=counts,
    position=st.dictionaries(st.text(max_size=8), tally, max_size=3),
    code=st.text(max_size=5),
    sequence=numbers,
    partitions=tally,
    violations=tally,
    warnings=tally,
    stale_partitions=st.lists(st.text(max_size=10), max_size=3),
    notes=st.lists(st.text(max_size=10), max_size=3),
    seconds=st.floats(0, 1e6),
)


@given(records)
def test_a_record_comes_back_as_it_went(record: CommitRecord) -> None:
    assert CommitRecord.from_json(record.to_json()) == record


@given(
    st.none()
    | st.text()
    | st.builds(json.dumps, st.recursive(st.none() | st.integers() | st.text(), st.lists))
)
def test_what_others_wrote_is_no_record(text: str | None) -> None:
    assert CommitRecord.from_json(text) is None


@given(st.dictionaries(st.text(), st.integers() | st.text()))
def test_json_of_another_writer_is_no_record(told: dict[str, int | str]) -> None:
    told.pop("medallion", None)
    assert CommitRecord.from_json(json.dumps(told)) is None


@given(records, st.text(min_size=1), st.integers())
def test_fields_of_a_later_release_are_passed_over(record: CommitRecord, name: str, value: int) -> None:
    told = {f"later_{name}": value, **json.loads(record.to_json())}
    assert CommitRecord.from_json(json.dumps(told)) == record


@given(numbers, numbers, numbers, numbers, st.integers(-5, 5))
def test_missing_is_what_nobody_accounts_for(a: int, b: int, c: int, d: int, lost: int) -> None:
    assert Counts(a + b + c + d + lost, a, b, c, d).missing == lost


@given(counts, counts)
def test_counts_add_up(one: Counts, other: Counts) -> None:
    both = one + other
    assert both.missing == one.missing + other.missing
    assert both.as_dict() == {k: v + other.as_dict()[k] for k, v in one.as_dict().items()}


def test_a_commit_of_the_first_format_is_read() -> None:
    told = {"medallion": 1, "verb": "refresh", "run_id": "r", "at": "", "counts": Counts(3, 2, 1).as_dict()}
    told |= {"units": {"2026-01-05": 2}, "stale_units": ["2026-01-05"], "stands_for": 7}
    assert CommitRecord.from_json(json.dumps(told)) == CommitRecord(
        "refresh",
        "r",
        "",
        Counts(3, 2, 1),
        partitions={"2026-01-05": 2},
        stale_partitions=["2026-01-05"],
        source_row_count=7,
    )
