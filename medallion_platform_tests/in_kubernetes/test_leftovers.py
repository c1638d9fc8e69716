"""What is deleted of a dead run, and what is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from medallion_platform.kubernetes.leftovers import JobState, PodState, leftovers

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
START_TIMEOUT = timedelta(seconds=300)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def executor(owner: str) -> PodState:
    return PodState("run-1-exec-1", "e1", owner=owner, executor=True)


@pytest.mark.parametrize(
    ("driver", "deleted"),
    [
        (PodState("run-1", "d1"), False),
        (PodState("run-1", "d1", over=True, ended=ago(19)), False),
        (PodState("run-1", "d1", over=True, ended=ago(21)), True),
        (PodState("run-1", "d1", over=True), True),
        (PodState("run-1", "of a later run"), True),
        (PodState("other", "d2"), True),
    ],
    ids=["works", "ends just now", "ended", "evicted", "came again", "gone"],
)
def test_executors_go_with_their_driver(driver: PodState, deleted: bool) -> None:
    found = leftovers([driver, executor("d1")], [], START_TIMEOUT, NOW)
    assert [(left.kind, left.uid) for left in found] == ([("pod", "e1")] if deleted else [])


def test_what_is_no_executor_of_ours_stays() -> None:
    failed = PodState("run-1", "d1", job="dagster-run-1", over=True, ended=ago(3600))
    alone = PodState("somebody's", "x", executor=True)
    web = PodState("web", "w", owner="a replica set that is no pod")
    assert leftovers([failed, alone, web], [], START_TIMEOUT, NOW) == []


@pytest.mark.parametrize(
    ("pods", "age", "over", "deleted"),
    [
        ([], 359, False, False),
        ([], 361, False, True),
        ([], 361, True, False),
        ([PodState("p", "p", job="dagster-run-1", waits=True)], 361, False, True),
        ([PodState("p", "p", job="dagster-run-1")], 361, False, False),
        ([PodState("p", "p", job="dagster-run-1", over=True)], 361, False, False),
        ([PodState("p", "p", job="dagster-run-2")], 361, False, True),
    ],
    ids=["young", "no pod", "failed", "pending", "runs", "ended", "another's pod"],
)
def test_a_job_whose_pod_never_started_goes(
    pods: list[PodState], age: float, over: bool, deleted: bool
) -> None:
    found = leftovers(pods, [JobState("dagster-run-1", "j", ago(age), over)], START_TIMEOUT, NOW)
    assert [(left.kind, left.name) for left in found] == ([("job", "dagster-run-1")] if deleted else [])


def test_a_job_goes_a_minute_after_its_run_was_given_up() -> None:
    job = JobState("dagster-run-1", "j", ago(100))
    assert leftovers([], [job], timedelta(seconds=30), NOW)
    assert not leftovers([], [job], timedelta(seconds=50), NOW)
