"""What is launched as a run, and what is said of one that failed."""

from __future__ import annotations

from dagster_shared.error import SerializableErrorInfo

from medallion_platform.orchestration.runs import _in_words, _spans


def test_a_late_date_plans_no_years_in_between() -> None:
    assert _spans({"2021-03-01", "2026-01-05", "2026-01-07", "2026-01-06"}) == [
        ("2021-03-01", "2021-03-01"),
        ("2026-01-05", "2026-01-07"),
    ]
    assert _spans(set()) == []


def test_a_failure_is_told_by_our_own_sentence() -> None:
    engine = SerializableErrorInfo("py4j.Py4JJavaError: john.doe@example.com\n", [], "Py4JJavaError")
    ours = SerializableErrorInfo(
        "medallion_platform.pipeline.refresh.RefreshFailed: silver.x: its transform failed (Error: y).\n",
        [],
        "RefreshFailed",
        engine,
    )
    wrapper = SerializableErrorInfo(
        "dagster.DagsterExecutionStepExecutionError: Error\n", [], "DagsterExecutionStepExecutionError", ours
    )
    assert _in_words(wrapper) == "silver.x: its transform failed (Error: y)."
    assert _in_words(None) == "failed"
