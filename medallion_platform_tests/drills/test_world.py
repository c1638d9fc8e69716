"""A world without its processes: what its looks ask for, what is kept from being tried, what remains."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medallion_platform.drills.traffic import Piece
from medallion_platform.drills.world import Workers, World, new_world
from medallion_platform.orchestration.memory_reports import ENDED_BY, WORKING_ON

DEPARTMENTS = "bronze.departments"
FILE = Piece(DEPARTMENTS, "hr/departments/1.csv", b"1,first\n")


def killed(world: World, at: str) -> Callable[[Any], None]:
    """What becomes of each run: it is killed at a table."""

    def execute(request: Any) -> None:
        job = world.definitions.resolve_job_def(request.job_name)
        tags = {**request.tags, ENDED_BY: "killed", WORKING_ON: at}
        world.on.report_run_failed(world.on.create_run_for_job(job, run_config=request.run_config, tags=tags))

    return execute


def test_what_failed_is_tried_again_unless_it_is_paused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_world(tmp_path, (DEPARTMENTS,), Workers(tmp_path / "log")) as world:
        monkeypatch.setattr(world, "_execute", killed(world, DEPARTMENTS))
        assert world.look() == 0
        world.land(FILE)
        assert world.look()
        assert world.failed_runs()
        assert world.look(), "a process that was killed is replaced at once"
        (incident,) = world.known().incidents.values()
        assert (incident.table, len(incident.tries)) == (DEPARTMENTS, 1)
        world.pause_what_failed()
        assert set(world.known().paused) == {DEPARTMENTS}
        assert [world.look() for _ in range(3)] == [0, 0, 0]
        (incident,) = world.known().incidents.values()
        assert (len(incident.tries), incident.closed) == (1, "")
        assert world.violated(("caughtUp",)) == [f"{DEPARTMENTS}: 1 files wait"]
        assert world.violated(("caughtUp",), without=DEPARTMENTS) == []


def test_of_a_world_nothing_remains(tmp_path: Path) -> None:
    before = dict(os.environ)
    with new_world(tmp_path, (DEPARTMENTS,), Workers(tmp_path / "log"), in_bucket=True) as world:
        world.land(FILE)
        assert world.violated(("caughtUp",)) == [f"{DEPARTMENTS}: 1 files wait"]
        assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
    assert dict(os.environ) == before
    assert list(tmp_path.iterdir()) == []


def test_a_look_that_fails_is_one_to_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_world(tmp_path, (DEPARTMENTS,), Workers(tmp_path / "log")) as world:
        monkeypatch.setattr("medallion_platform.orchestration.sensors.out_of_date_tables", lambda *_: 1 / 0)
        assert world.look() == 0
        assert world.failed_look == ("the last look failed: ZeroDivisionError: division by zero",)
