"""Evidence is the same after it was kept, whatever it says, and reading it never fails."""

from __future__ import annotations

from datetime import UTC
from json import dumps
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.healing.classify import classify, fingerprint, signature
from medallion_platform.healing.evidence import Evidence, Work
from medallion_platform_tests.test_error_chain import CHAINS, JSON, WORDS

EVIDENCE = st.builds(
    Evidence,
    occurrence=WORDS.map("run/{}".format),
    at=st.datetimes(timezones=st.just(UTC)),
    work=st.sampled_from(get_args(Work)),
    table=st.just("") | WORDS,
    run_id=st.just("") | WORDS,
    chain=CHAINS,
    ended_by=st.sampled_from(("", "oom", "evicted", "deadline", "killed", "of a later version")),
    run_failure=st.sampled_from(("", "STEP_FAILURE", "START_TIMEOUT", "OF_A_LATER_VERSION")),
    exit_code=st.none() | st.integers(-100, 300),
    seconds=st.none() | st.floats(0, 1e9),
    deaths=st.integers(0, 30),
)


@given(EVIDENCE)
def test_evidence_is_the_same_after_it_was_kept(evidence: Evidence) -> None:
    again = Evidence.from_json(evidence.to_json())
    assert again == evidence
    assert classify(again) == classify(evidence)
    assert signature(again) == signature(evidence)


@given(
    st.text()
    | JSON.map(str)
    | st.dictionaries(st.sampled_from(tuple(Evidence.__annotations__)), JSON).map(dumps)
)
def test_any_text_can_be_read_and_classified(text: str) -> None:
    evidence = Evidence.from_json(text)
    assert Evidence.from_json(evidence.to_json()) == evidence
    assert len(fingerprint(evidence, classify(evidence))) == 12


def test_a_text_that_is_nested_without_end_is_none() -> None:
    assert Evidence.from_json("[" * 100_000) == Evidence.from_json("")
