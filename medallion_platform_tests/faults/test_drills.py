"""Each drill as a user runs it: all is well again, and without the healer it is not.

With `--long`, what was said is kept in the file `MEDALLION_TEST_FIGURES`: docs/recovery.md is made of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import dagster as dg
import pytest

from medallion_platform import new_project
from medallion_platform.drills.run import all_drills
from medallion_platform.drills.traffic import BROKEN
from medallion_platform.installation.project import MODULE
from medallion_platform.installation.settings import Settings
from medallion_platform.lakehouse import drill_verdicts
from medallion_platform.orchestration.drills import drills_asset
from medallion_platform.orchestration.lakehouse_resource import lakehouse_of
from medallion_platform.orchestration.names import asset_key
from medallion_platform_tests import command as commands
from medallion_platform_tests.faults import drilled_shop
from medallion_platform_tests.notifications.servers import http_server
from medallion_platform_tests.pipeline.shop import change, event
from medallion_platform_tests.pipeline.toy import Zone

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

DRILLS = {drill.name: drill for drill in all_drills()}
IN_A_NEW_PROJECT = ("broken-rows", "failing-transform", "killed-refresh")
"""Among them one that a new project, with its one source and its one table, has nothing for."""
UNHEALED = ("broken-rows", "killed-intake", "second-writer")
"""Without the healer all others are run with `--long` only; docs/recovery.md says what came of them."""
NEEDS_ROOT = ("full-disk",)
WELL = ("Resilient", "Degraded")

Rows = Mapping[str, Mapping[str, Any]]


def drilled(where: Path, env: Mapping[str, str], *arguments: str) -> Rows:
    """What `medallion drill run` says, by drill."""
    asked = ("drill", "run", *arguments, "--json")
    usual = {name: value for name, value in os.environ.items() if not name.startswith("MEDALLION_")}
    usual |= {"MEDALLION_SPARK_MEMORY": "1g", "PYTHONPATH": str(commands.REPOSITORY), **env}
    done = commands.medallion(*asked, where=where, env=usual, seconds=800)
    assert done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    rows = {row["drill"]: row for row in map(json.loads, done.stdout.splitlines())}
    failed = [name for name, row in rows.items() if row["verdict"] == "Failed"]
    assert done.returncode == (1 if failed else 0), done.stderr
    return rows


def entries(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, without what Python and Spark leave where they are called."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if not {"__pycache__", "spark-warehouse"} & set(path.parts)
    }


LEFT = {"drills", "drills/.lock", "drills/runs.log"}
"""What is there when all drills are over, beside what is kept of them in the lake."""


def left(before: Mapping[str, bytes], after: Mapping[str, bytes], home: str = "") -> set[str]:
    """What drills left in the home, which lies below what was listed."""
    assert before.items() <= after.items()
    new = {name.removeprefix(home) for name in after.keys() - before}
    kept = {name for name in new if name.startswith("lake/_medallion/")}
    assert {"drills", "format"} == {name.split("/")[2] for name in kept}
    return new - kept - {"lake", "lake/_medallion"}


@pytest.fixture(scope="module")
def in_a_new_project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rows, Path]:
    """Some drills in a project as `medallion init` makes it."""
    where = tmp_path_factory.mktemp("project") / "corner_shop"
    new_project.make_project("corner_shop", where)
    before = entries(where)
    rows = drilled(where, {}, *IN_A_NEW_PROJECT, "--junit", str(where.parent / "junit.xml"))
    assert left(before, entries(where), ".medallion/") == {".medallion", *LEFT}
    return rows, where.parent / "junit.xml"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, str]]:
    """A home with files that landed, and what a command needs to find its catalog."""
    zone = Zone(tmp_path_factory.mktemp("shop"))
    for n in range(2):
        zone.json(f"users/{n}.json", [change("u", n, n, "gold"), change("v", n, n, "silver")])
        amounts = [{7: -1, 8: 150}.get(i, i) for i in range(20)]  # one is refused by bronze, one by silver
        rows = [event(f"{n}-{i}", i % 3, i, user_id="uv"[i % 2], amount=a) for i, a in enumerate(amounts)]
        zone.json(f"events/{n}.json", rows)
    return zone.root, {MODULE: drilled_shop.__name__, "MEDALLION_HOME": str(zone.root)}


@pytest.fixture(scope="module")
def healed(shop: tuple[Path, Mapping[str, str]]) -> Rows:
    """All drills, in an installation that tells people of incidents: of none of these it does."""
    where, env = shop
    before = entries(where)
    with http_server() as people:
        rows = drilled(where, {**env, "MEDALLION_WEBHOOK_URL": people.url}, "all")
        assert people.asked == []
    assert left(before, entries(where)) == LEFT
    return rows


@pytest.fixture(scope="module")
def unhealed(request: pytest.FixtureRequest, shop: tuple[Path, Mapping[str, str]]) -> Rows:
    """Drills where nothing is tried again."""
    where, env = shop
    if not request.config.getoption("--long"):
        return drilled(where, env, "--unhealed", *UNHEALED)
    rows = drilled(where, env, "--unhealed", "all")
    if file := os.environ.get("MEDALLION_TEST_FIGURES"):
        healed: Rows = request.getfixturevalue("healed")
        told = {"healed": [*healed.values()], "unhealed": [*rows.values()]}
        Path(file).write_text(json.dumps(told))
    return rows


def skip_without_root(name: str) -> None:
    """A small disk is mounted by root only."""
    if name in NEEDS_ROOT and os.geteuid():
        pytest.skip("no small disk without root")


@pytest.mark.parametrize("name", DRILLS)
def test_all_is_well_again_by_itself_and_nothing_is_lost_or_doubled(name: str, healed: Rows) -> None:
    skip_without_root(name)
    drill, row = DRILLS[name], healed[name]
    assert row["verdict"] in WELL, row
    assert (row["rows_lost"], row["rows_doubled"]) == (0, 0)
    assert row["healed_after"] is not None
    if not drill.resilient_by:
        assert row["detected_after"] is not None
        assert any(", tried " in told and told.endswith(", healed") for told in row["done"]), row


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in UNHEALED else pytest.mark.long) for n in DRILLS]
)
def test_where_nothing_is_tried_again_it_fails_or_is_said_to_heal_by_others(
    name: str, unhealed: Rows
) -> None:
    skip_without_root(name)
    row = unhealed[name]
    if DRILLS[name].resilient_by:
        assert row["verdict"] in WELL, row
        assert not any(", tried " in told for told in row["done"])
    else:
        assert row["verdict"] == "Failed", row
        assert row["reason"]
        assert row["healed_after"] is None


def test_what_drills_have_said_is_kept_but_not_what_they_do_without_the_healer(
    shop: tuple[Path, Mapping[str, str]], healed: Rows, unhealed: Rows
) -> None:
    where, env = shop
    done = commands.medallion("drill", "trend", "--json", where=where, env={**os.environ, **env})
    kept = json.loads(done.stdout)
    assert len(unhealed) > 0
    assert {row["drill"]: {**row, "unhealed": False} for row in kept} == healed
    assert [row["at"] for row in kept] == sorted((row["at"] for row in healed.values()), reverse=True)


def test_dagster_runs_them_too_and_shows_them_where_they_concern(
    shop: tuple[Path, Mapping[str, str]], unhealed: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the command has: what it said is counted, too."""
    where, env = shop
    for name, value in {**env, "MEDALLION_SPARK_MEMORY": "1g", "MEDALLION_RUN_EXECUTORS": "0"}.items():
        monkeypatch.setenv(name, value)
    place = lakehouse_of(Settings(home=where), drilled_shop.catalog)
    with dg.DagsterInstance.ephemeral() as on:
        done = dg.materialize(
            [drills_asset()],
            instance=on,
            resources={"lakehouse": place},
            run_config={"ops": {"drills": {"config": {"drills": ["killed-intake"]}}}},
        )
    (check,) = done.get_asset_check_evaluations()
    assert check.passed
    (seen,) = (e.asset_observation_data.asset_observation for e in done.all_events if e.is_asset_observation)
    assert seen.asset_key == asset_key("bronze.events")
    assert seen.metadata["verdict"].value in WELL
    (newest, *_) = reversed(drill_verdicts.read(place.lake))
    assert (newest.drill, newest.verdict) == ("killed-intake", seen.metadata["verdict"].value)


def test_rows_that_nobody_can_read_are_counted_and_all_others_arrive(healed: Rows) -> None:
    row = healed["broken-rows"]
    assert row["dead_lettered"] == BROKEN
    assert row["done"] == []


def test_a_transform_that_always_fails_is_left_alone_and_no_other_is(healed: Rows) -> None:
    row = healed["failing-transform"]
    assert row["done"] == [f"{row['table']}: permanent, not tried again, open"]


def test_a_new_project_can_be_drilled_as_far_as_it_has_something_for_it(
    in_a_new_project: tuple[Rows, Path],
) -> None:
    rows, _ = in_a_new_project
    assert {name: row["verdict"] in WELL for name, row in rows.items()} == {
        "broken-rows": True,
        "failing-transform": False,
        "killed-refresh": True,
    }
    lacking = rows["failing-transform"]
    assert lacking["verdict"] == "Inconclusive"
    assert lacking["reason"] == "nothing in this catalog is a table beside others"


def test_a_ci_server_reads_the_same_of_a_file(in_a_new_project: tuple[Rows, Path]) -> None:
    rows, file = in_a_new_project
    suite = ET.fromstring(file.read_text())
    told = {case.get("name"): json.loads(str(case.findtext("system-out"))) for case in suite}
    assert told == rows
    assert suite.get("failures") == "0"
