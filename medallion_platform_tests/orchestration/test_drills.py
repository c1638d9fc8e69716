"""The asset of drills: what it makes of what the command says. `faults/test_drills.py` runs the real one."""

import base64
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import dagster as dg
import pytest

from medallion_platform.lakehouse import drill_verdicts
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration.drills import drills_asset, drills_schedule, heals_result
from medallion_platform.orchestration.failures import failures_of
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.pictures import picture_of_drills
from medallion_platform_tests.lakehouse.test_drill_verdicts import VERDICT

FAILED = replace(VERDICT, drill="full-disk", verdict="Failed", reason="it did not heal", healed_after=None)
Command = Callable[..., Path]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Puts another command in the place of `medallion`; gives the file with what it was started with."""

    def put(*lines: str, code: int) -> Path:
        (tmp_path / "said").write_text("".join(f"{line}\n" for line in lines))
        program = tmp_path / "medallion"
        program.write_text(
            f'#!/bin/sh\n(echo "$@"; env) > {tmp_path}/asked\ncat {tmp_path}/said\nexit {code}\n'
        )
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        return tmp_path / "asked"

    return put


def made(root: Path, **config: Any) -> dg.ExecuteInProcessResult:
    lakehouse = Lakehouse(lake_root=str(root / "lake"), landing=str(root / "landing"), feature_repo="")
    with dg.DagsterInstance.ephemeral() as on:
        return dg.materialize(
            [drills_asset()],
            instance=on,
            resources={"lakehouse": lakehouse},
            run_config={"ops": {"drills": {"config": config}}},
            raise_on_error=False,
        )


def line(of: drill_verdicts.DrillVerdict) -> str:
    return json.dumps({**asdict(of), "at": of.at.isoformat(), "unhealed": False})


def told(of: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry.value for name, entry in of.items()}


def test_it_runs_the_drills_that_it_is_asked_for_with_the_same_lake_and_for_no_run(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDALLION_RUN_EXECUTORS", "2")
    asked = command(line(VERDICT), code=0)
    assert made(tmp_path, drills=["killed-refresh", "full-disk"]).success
    arguments, *variables = asked.read_text().splitlines()
    assert arguments == "drill run killed-refresh full-disk --json"
    assert f"MEDALLION_LAKE={tmp_path / 'lake'}" in variables
    assert f"MEDALLION_LANDING={tmp_path / 'landing'}" in variables
    assert not [variable for variable in variables if variable.startswith("MEDALLION_RUN_")]
    assert made(tmp_path).success
    assert asked.read_text().startswith("drill run all --json\n")


def test_its_page_shows_what_was_kept_and_that_of_a_table_the_drill_that_came_to_it(
    tmp_path: Path, command: Command
) -> None:
    drill_verdicts.append(Lake(str(tmp_path / "lake")), [VERDICT, FAILED])
    unfit = replace(VERDICT, drill="broken-rows", verdict="Inconclusive", table="")
    command(
        "a warning",
        '{"level": "WARNING"}',
        "1",
        line(VERDICT),
        line(unfit),
        line(FAILED),
        "not healed",
        code=1,
    )
    done = made(tmp_path)
    assert done.success, "that a drill failed is no failure of the run"
    (event,) = done.get_asset_materialization_events()
    metadata = told(event.step_materialization_data.materialization.metadata)
    assert (metadata["resilient"], metadata["failed"], metadata["longest_seconds_to_heal"]) == (1, 1, 20)
    assert "| killed-refresh | 2026-11-30 12:00:00Z | Resilient | silver.a | 1.5 | 20.0 |" in metadata["last"]
    (check,) = done.get_asset_check_evaluations()
    assert (check.passed, told(check.metadata)) == (False, {"full-disk": "it did not heal"})
    seen = [e.asset_observation_data.asset_observation for e in done.all_events if e.is_asset_observation]
    assert [one.asset_key for one in seen] == [dg.AssetKey("silver_a")] * 2
    assert told(seen[0].metadata)["verdict"] == "Resilient"
    assert "reason" not in seen[0].metadata


@pytest.mark.parametrize("verdict", ["Resilient", "Degraded", "Inconclusive"])
def test_only_what_has_failed_is_red_and_only_the_last_time_counts(verdict: str) -> None:
    later = replace(FAILED, verdict=verdict, at=FAILED.at + timedelta(days=7))
    assert heals_result([FAILED, later]).passed
    assert not heals_result([replace(later, at=FAILED.at - timedelta(days=7)), FAILED]).passed
    assert heals_result([]).passed


@pytest.mark.parametrize("code", [1, 3])
def test_a_command_that_ends_before_it_ran_the_drills_fails_the_run_with_its_sentence(
    tmp_path: Path, command: Command, code: int
) -> None:
    command(line(VERDICT), "medallion: another command runs drills", code=code)
    done = made(tmp_path)
    assert not done.success
    (failed,) = (e for e in done.all_events if e.is_step_failure)
    assert "another command runs drills" in failures_of(failed.step_failure_data)["drills"].why


def test_nothing_runs_weekly_before_a_person_says_so() -> None:
    assert drills_schedule().default_status is dg.DefaultScheduleStatus.STOPPED


def test_the_picture_shows_when_each_was_seen_and_had_healed_to_scale() -> None:
    late = replace(VERDICT, verdict="Degraded", healed_after=150.0)
    shown = str(picture_of_drills({"full-disk": [FAILED], "killed-refresh": [VERDICT, late]}))
    encoded = re.fullmatch(r"!\[\w+\]\(data:image/svg\+xml;base64,([\w+/=]+)\)", shown)
    assert encoded
    picture = ElementTree.fromstring(base64.b64decode(encoded[1]))
    titles = [str(title.text).partition(":")[0] for title in picture.findall("{*}text")]
    assert titles == ["full-disk", "killed-refresh"]
    bars = picture.findall("{*}rect")
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert [heights[n] / heights[-1] for n in (2, 3, 4)] == pytest.approx(
        [1.5 / 150, 20 / 150, 1.5 / 150], rel=0.2
    )
    colours = [bar.attrib["fill"] for bar in bars]
    assert len({colours[1], colours[3], colours[5]}) == 3, "failed, resilient and degraded"
