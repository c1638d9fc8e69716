"""Drift: two deviations from the trailing distribution, and quiet on a short history."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.queries.drift import LEAST_HISTORY, WINDOW, drift

values = st.floats(-1e9, 1e9)
steady = st.lists(st.floats(95, 105), min_size=LEAST_HISTORY, max_size=60)


@given(st.lists(values, max_size=LEAST_HISTORY - 1), values)
def test_a_short_history_says_nothing(history: list[float], value: float) -> None:
    found = drift(history, value)
    assert found.deviations is None
    assert not found.drifted


@given(steady, st.floats(95, 105))
def test_what_lies_in_a_steady_history_is_usual_within_its_noise(history: list[float], value: float) -> None:
    found = drift([*history, *[95.0, 105.0] * 15], value)
    assert not found.drifted


@given(steady)
def test_a_doubling_is_seen(history: list[float]) -> None:
    assert drift(history, 250).drifted
    assert drift(history, 0).drifted


@given(st.lists(values, min_size=WINDOW, max_size=2 * WINDOW), st.lists(values), values)
def test_only_the_window_counts(history: list[float], older: list[float], value: float) -> None:
    assert drift([*older, *history], value) == drift(history[-WINDOW:], value)


@given(st.lists(st.floats(99, 101), min_size=9, max_size=30), st.floats(1e5, 1e9))
def test_one_outlier_hides_no_other(history: list[float], outlier: float) -> None:
    assert drift([*history, outlier], 300).drifted
    assert not drift([*history, outlier], 100).drifted


@pytest.mark.parametrize(
    ("value", "drifted"), [(104, False), (111, True), (90, False), (89, True), (100, False)]
)
def test_a_history_without_spread_allows_five_percent_as_its_deviation(value: float, drifted: bool) -> None:
    assert drift([100.0] * 10, value).drifted is drifted


def test_zeros_drift_with_anything_else() -> None:
    assert not drift([0.0] * 10, 0).drifted
    assert drift([0.0] * 10, 1).drifted
