"""When what is out of date is asked for: always again, never in a storm, whatever happens in between."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.orchestration.run_requests import (
    ATTEMPTS,
    PAUSES,
    RETRY_FOREVER_PAUSE,
    Decision,
    Request,
    decide_requests,
    requests_from_text,
    requests_to_text,
)

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
LONG = timedelta(days=1)


def look(
    wanted: dict[str, str],
    after: Decision | None = None,
    at: datetime = NOON,
    retry_forever: tuple[str, ...] = (),
) -> Decision:
    """A look at `wanted` after an earlier one, whose memory went through the sensor's cursor."""
    return decide_requests(
        wanted, requests_from_text(requests_to_text(after.requested)) if after else {}, at, retry_forever
    )


def test_what_is_out_of_date_is_asked_for_at_once_and_all_together() -> None:
    first = look({"silver.orders": "v1", "gold.sums": "v7"})
    assert first.ask == {"silver.orders": 1, "gold.sums": 1}
    assert (first.on_hold, first.given_up, first.recovered) == ({}, (), ())
    assert look({}, first).ask == {}


def test_a_failure_comes_again_after_ever_longer_pauses_and_not_for_ever() -> None:
    at, told, asks = NOON, look({"gold.sums": "v7"}), [NOON]
    keys = {told.key}
    for _ in range(30 * 60 * 4):  # a look every 15 s for 30 hours
        at += timedelta(seconds=15)
        told = look({"gold.sums": "v7"}, told, at)
        if told.ask:
            asks.append(at)
            keys.add(told.key)
        assert told.ask or told.on_hold == {"gold.sums": "v7"}
    assert len(asks) == ATTEMPTS == len(keys)
    assert all(b - a >= pause for a, b, pause in zip(asks, asks[1:], PAUSES, strict=False))


def test_giving_up_is_told_once_and_a_change_upstream_or_in_the_code_begins_anew() -> None:
    told = look({"gold.sums": "v7"})
    for n in range(1, ATTEMPTS):
        told = look({"gold.sums": "v7"}, told, NOON + n * LONG)
    assert told.ask == {"gold.sums": ATTEMPTS}
    told = look({"gold.sums": "v7"}, told, NOON + ATTEMPTS * LONG)
    assert (told.ask, told.given_up, told.on_hold) == ({}, ("gold.sums",), {"gold.sums": "v7"})
    told = look({"gold.sums": "v7"}, told, NOON + 99 * LONG)
    assert (told.ask, told.given_up) == ({}, ())
    mended = look({"gold.sums": "v8"}, told, NOON + 99 * LONG)
    assert mended.ask == {"gold.sums": 1}
    assert mended.key != look({"gold.sums": "v7"}).key
    by_hand = look({}, told, NOON + 99 * LONG)
    assert by_hand.recovered == ("gold.sums",)
    assert look({}, by_hand).recovered == ()


def test_what_may_pass_by_itself_is_asked_for_as_long_as_it_waits() -> None:
    told, at = look({"intake": "f"}, retry_forever=("intake",)), NOON
    for n in range(2, 50):
        at += RETRY_FOREVER_PAUSE
        told = look({"intake": "f"}, told, at, retry_forever=("intake",))
        assert told.ask == {"intake": n}


def test_one_that_always_fails_delays_no_other() -> None:
    broken = look({"gold.broken": "v1"})
    both = look({"gold.broken": "v1", "silver.orders": "v1"}, broken, NOON + timedelta(seconds=1))
    assert (both.ask, both.on_hold) == ({"silver.orders": 1}, {"gold.broken": "v1"})


def test_who_forgot_what_was_asked_for_asks_under_another_key() -> None:
    """Dagster starts no second run of a key, and says nothing."""
    once, again = look({"gold.sums": "v7"}), look({"gold.sums": "v7"}, at=NOON + LONG)
    assert once.ask == again.ask
    assert once.key != again.key


def test_a_memory_that_is_not_ours_is_none() -> None:
    for text in (None, "", "{", "[]", '{"a": 1}', '{"a": ["s", "x", "never", false]}', '{"version": "old"}'):
        assert requests_from_text(text) == {}
    requested = {"gold.sums": Request("v7", 3, NOON, True)}
    assert requests_from_text(requests_to_text(requested)) == requested


tables = st.sampled_from(["silver.a", "silver.b", "gold.c"])
Step = st.tuples(tables, st.sampled_from(["change", "fail", "succeed"]), st.integers(0, 9000))


@given(st.lists(Step, max_size=60))
def test_whatever_happens_all_is_made_or_said_to_be_given_up(steps: list[tuple[str, str, int]]) -> None:
    """A world of tables that change and whose refreshes fail or succeed, looked at whenever time passes."""
    heads = dict.fromkeys(["silver.a", "silver.b", "gold.c"], 0)
    made = dict(heads)
    tries: dict[tuple[str, int], int] = {}
    given_up: set[tuple[str, int]] = set()
    told, at = look({}), NOON

    def tick(succeed: set[str]) -> None:
        nonlocal told
        wanted = {t: str(v) for t, v in heads.items() if made[t] < v}
        told = look(wanted, told, at)
        for name in told.ask:
            tries[name, heads[name]] = tries.get((name, heads[name]), 0) + 1
            if name in succeed:
                made[name] = heads[name]
        given_up.update((name, heads[name]) for name in told.given_up)

    for name, what, seconds in steps:
        at += timedelta(seconds=seconds)
        if what == "change":
            heads[name] += 1
        tick({name} if what == "succeed" else set())
    assert all(n <= ATTEMPTS for n in tries.values()), "no storm"
    for _ in range(ATTEMPTS + 1):
        at += LONG
        tick(set(heads))
    assert all(made[t] == v or (t, v) in given_up for t, v in heads.items()), "nothing is forgotten"
