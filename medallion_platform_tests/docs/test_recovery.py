"""The page about recovery, made of figures."""

from __future__ import annotations

from typing import Any

from medallion_platform_tests.docs.recovery import page

ROW: dict[str, Any] = {
    "drill": "killed-intake",
    "verdict": "Resilient",
    "detected_after": 1.2,
    "fault_lasted": 0.0,
    "healed_after": 5.6,
    "target_seconds": 120.0,
    "rows_lost": 0,
    "rows_doubled": 0,
    "dead_lettered": 0,
    "done": ["bronze.a: evicted, tried again 1x, healed"],
}
NOT_HEALED = {**ROW, "verdict": "Failed", "healed_after": None, "rows_lost": 40, "done": []}


def test_each_drill_has_a_line_with_the_healer_and_one_without_and_beside_it_what_others_do() -> None:
    bare = [
        {"drill": "killed-intake", "system": "Dagster", "lost": 0, "doubled": 1, "by_itself": True},
        {"drill": "killed-intake", "system": "Spark", "lost": 0, "doubled": 0, "by_itself": False},
    ]
    other = {"drill": "broken-rows", "verdict": "Resilient"}
    healed, without = page([ROW], [NOT_HEALED, {**ROW, **other}], bare).split("## What heals it")
    line = next(line for line in healed.splitlines() if "`killed-intake`" in line)
    assert line.endswith(
        "| Resilient | 1 s | 0 s | 6 s | 120 s | 0 | 0 | 0 | evicted, tried again 1x, healed |"
    )
    lines = [line for line in without.splitlines() if line.startswith("| `")]
    assert lines == [
        "| `killed-intake` | Failed: 40 rows missing, 0 doubled | 0 rows lost, 1 doubled "
        "| ends; started again: 0 rows lost, 0 doubled |",
        "| `broken-rows` | Resilient, by the intake itself |  |  |",
    ]
