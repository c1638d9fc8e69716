"""The policy: each class has one, and the page that people read is made from it."""

from __future__ import annotations

from itertools import count, takewhile
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.errors import Kind
from medallion_platform.healing.policy import ACTS, POLICY, Act, last_act, next_try, with_jitter
from medallion_platform_tests.docs.policy import PAGE, pause_in_words, renewed


def tries(kind: Kind) -> list[float]:
    found = (next_try(kind, n) for n in count())
    return [following[1] for following in takewhile(bool, found) if following]


def test_every_class_has_a_policy_and_those_of_outside_go_on() -> None:
    assert POLICY.keys() == set(Kind)
    endless = {kind for kind, policy in POLICY.items() if policy.endless}
    assert endless == {Kind.RATE_LIMIT, Kind.NETWORK, Kind.TRANSIENT, Kind.AUTH}
    assert all(next_try(kind, n) for kind in endless for n in (0, 5, 1000))
    assert max(next_try(kind, n)[1] for kind in endless for n in range(1000)) == 600  # type: ignore[index]


@pytest.mark.parametrize(
    ("kind", "pauses"),
    [
        (Kind.CONFLICT, [15, 60, 300, 1800, 7200, 21600]),
        (Kind.EVICTED, [0, 0, 15, 60, 300, 1800]),
        (Kind.UNKNOWN, [15, 300]),
        (Kind.CORRUPT, [15, 15, 300]),
        (Kind.PERMANENT, []),
        (Kind.GAP, []),
    ],
)
def test_tries_end_where_the_policy_says_so(kind: Kind, pauses: list[float]) -> None:
    assert tries(kind) == pauses


@given(st.floats(0, 1e5), st.integers())
def test_jitter_takes_half_of_a_pause_at_the_most(pause: float, seed: int) -> None:
    assert pause / 2 <= with_jitter(pause, Random(seed)) <= pause


def test_jitter_sends_no_two_at_once() -> None:
    assert len({with_jitter(15, Random(n)) for n in range(100)}) > 90


def test_each_act_says_what_it_may_change_and_what_it_never_touches() -> None:
    assert ACTS.keys() == set(Act)
    assert all(reach.what and reach.changes and reach.never for reach in ACTS.values())


def test_damage_is_tried_again_first_then_repaired_and_so_it_is_by_every_later_try() -> None:
    planned = [next_try(Kind.CORRUPT, n) for n in range(4)]
    assert [found and found[0] for found in planned] == [Act.AGAIN, Act.REPAIR, Act.REPAIR, None]
    assert last_act(Kind.CORRUPT) is Act.REPAIR
    assert {kind for kind in Kind if last_act(kind) is Act.REPAIR} == {Kind.CORRUPT}


def test_the_tables_of_the_page_are_those_of_the_code() -> None:
    page = PAGE.read_text()
    assert page == renewed(page), "docs/healing.md is stale: python -m medallion_platform_tests.docs.policy"


def test_pauses_are_told_as_people_say_them() -> None:
    assert [pause_in_words(s) for s in (0, 15, 60, 300, 7200)] == ["at once", "15 s", "1 min", "5 min", "2 h"]
