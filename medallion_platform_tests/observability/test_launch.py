"""The phases of a launch add up, whatever the clocks say, and each launch is counted once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from medallion_platform.observability.launch import PHASES, Launch, LaunchMetrics, launch_of

ENDED = {
    "queued": 101.0,
    "scheduled": 101.5,
    "container": 104.0,
    "code_loaded": 108.0,
    "session": 112.0,
    "first_executor": 119.0,
    "first_task": 119.25,
}


def test_each_phase_lasts_from_the_end_of_the_one_before() -> None:
    launch = launch_of(100.0, ENDED)
    assert launch == Launch("executors", dict(zip(PHASES, (1, 0.5, 2.5, 4, 4, 7, 0.25), strict=True)))
    assert str(launch) == (
        "19.2 s: queued 1.0, scheduled 0.5, container 2.5, code loaded 4.0, session 4.0, first executor 7.0, "
        "first task 0.2"
    )


def test_a_phase_that_a_run_does_not_have_is_part_of_the_next_one() -> None:
    local = {
        name: at for name, at in ENDED.items() if name not in ("scheduled", "container", "first_executor")
    }
    assert launch_of(100.0, local) == Launch(
        "threads", {"queued": 1, "code_loaded": 7, "session": 4, "first_task": 7.25}
    )
    assert launch_of(100.0, {}) == Launch("threads", {})


@given(st.floats(0, 1000), st.dictionaries(st.sampled_from(PHASES), st.floats(0, 1000)))
def test_phases_add_up_to_the_whole_whatever_the_clocks_say(asked: float, ended: dict[str, float]) -> None:
    launch = launch_of(asked, ended)
    assert list(launch.seconds) == [name for name in PHASES if name in ended]
    assert all(took >= 0 for took in launch.seconds.values())
    whole = max([asked, *ended.values()]) - asked
    assert sum(launch.seconds.values()) == pytest.approx(whole, abs=0.01)
    assert Launch.from_json(launch.to_json()) == launch


@pytest.mark.parametrize("text", ["", "1", "[]", "{}", '{"mode": "threads", "seconds": {"queued": []}}'])
def test_another_text_is_no_launch(text: str) -> None:
    with pytest.raises(ValueError):
        Launch.from_json(text)


def test_each_launch_is_counted_once_however_often_it_is_seen() -> None:
    registry, first = CollectorRegistry(), launch_of(100.0, ENDED)
    metrics = LaunchMetrics(registry)

    def seconds(phase: str, of: str) -> float | None:
        labels = {"phase": phase, "mode": "executors"}
        return registry.get_sample_value(f"medallion_launch_seconds_{of}", labels)

    metrics.see({"before": first})
    assert seconds("session", "count") is None, "who looked before has counted it"
    metrics.see({"before": first, "a": first})
    metrics.see({"a": first, "b": first})
    metrics.see({"b": first})
    assert seconds("session", "count") == 2
    assert seconds("session", "sum") == 8
    assert (
        registry.get_sample_value("medallion_launch_seconds_count", {"phase": "session", "mode": "threads"})
        is None
    )
