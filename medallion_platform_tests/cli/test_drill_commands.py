"""The commands for drills, as far as they cause no fault; `faults/test_drills.py` does."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from medallion_platform.cli import drill_commands
from medallion_platform.cli.exits import USAGE, Stop
from medallion_platform.drills.run import all_drills
from medallion_platform.lakehouse import drill_verdicts
from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.lakehouse.test_drill_verdicts import VERDICT


def test_every_drill_is_listed_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    drill_commands.list_drills(as_json=True)
    rows = {row["drill"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {drill.name for drill in all_drills()}
    assert rows["enrichment-source-away"]["target"] == "a source that others are enriched by"
    killed = rows["killed-refresh"]
    assert killed["steady_state"] == "conserved, caughtUp"
    assert (killed["target_seconds"], killed["blast_radius"]) == (120, "target")


def test_a_drill_that_is_not_there_is_refused_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill_commands, "quiet_libraries", lambda: None)
    with pytest.raises(Stop, match="there is no drill no-such; there are broken-rows, ") as stopped:
        drill_commands.run_drill(["no-such"], unhealed=False, junit=None, home=tmp_path, as_json=True)
    assert stopped.value.code == USAGE
    assert list(tmp_path.iterdir()) == []


def test_the_trend_shows_what_drills_have_said_the_last_one_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = replace(VERDICT, at=VERDICT.at + timedelta(days=7), verdict="Failed")
    drill_verdicts.append(Lake(str(tmp_path / "lake")), [VERDICT, late])
    drill_commands.show_trend(home=tmp_path, as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [(row["at"], row["verdict"]) for row in rows] == [
        ("2026-12-07T12:00:00Z", "Failed"),
        ("2026-11-30T12:00:00Z", "Resilient"),
    ]
    assert rows[0]["done"] == list(VERDICT.done)
