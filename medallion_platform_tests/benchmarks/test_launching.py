"""How launches become figures."""

from __future__ import annotations

import pytest

from medallion_platform.observability.launch import Launch
from medallion_platform_tests.benchmarks.launching import measure, rows


def test_phases_are_told_in_their_order_and_together() -> None:
    launches = [
        Launch("threads", {"queued": queued, "session": 2.0, "first_task": 4.0}) for queued in (1.0, 5.0, 2.0)
    ]
    assert [(row["phase"], row["p50, s"], row["max, s"]) for row in rows("threads", launches)] == [
        ("queued", "2.0", "5.0"),
        ("session", "2.0", "2.0"),
        ("first task", "4.0", "4.0"),
        ("together", "8.0", "11.0"),
    ]


def test_without_a_cluster_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert measure(1, 1) == [{"launch": "not measured: KUBECONFIG names no cluster"}]
