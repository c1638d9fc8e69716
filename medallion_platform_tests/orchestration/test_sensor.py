"""What the sensor asks for, off the real logs, and what it tells a table's page."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import dagster as dg
import pytest
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.retries import auto_reexecution_should_retry_run

from medallion_platform.errors import Kind, MedallionError
from medallion_platform.healing.incident import Incident, known_from
from medallion_platform.healing.policy import POLICY
from medallion_platform.installation.settings import Settings
from medallion_platform.lakehouse import incidents, memory_uses
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration import catch_up, runs, sensors
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.failures import TableFailure, report_failure
from medallion_platform.orchestration.healing import Memory
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.location import catalog, lakehouse_of
from medallion_platform.orchestration.memory_reports import ENDED_BY, MEMORY_LIMIT, WORKING_ON
from medallion_platform.orchestration.names import BRING_UP, CATCH_UP, INTAKE
from medallion_platform.orchestration.needs import read_needs
from medallion_platform.orchestration.sensors import ONLY_TAG
from medallion_platform.pipeline import out_of_date
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.out_of_date import out_of_date_tables
from medallion_platform.pipeline.refresh.plan import CODE

SILVER = "silver.departments"
FEW = Catalog((catalog.source_of["bronze.departments"],), (catalog.by_name[SILVER],))


@dataclass
class World:
    place: Lakehouse
    on: dg.DagsterInstance
    cursor: str | None = None

    @property
    def defs(self) -> dg.Definitions:
        return build_defs(FEW, self.place)

    def land(self, name: str) -> None:
        file = Path(self.place.landing) / "hr" / "departments" / f"{name}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"1,{name}\n")

    def take_in(self) -> None:
        assert self.defs.resolve_job_def(INTAKE).execute_in_process(instance=self.on).success

    def tick(self) -> Any:
        sensor = self.defs.get_repository_def().get_sensor_def("catch_up_sensor")
        context = dg.build_sensor_context(self.on, cursor=self.cursor, resources={"lakehouse": self.place})
        result: Any = sensor(context)
        self.cursor = result.cursor
        return result

    def jobs(self) -> list[str]:
        return [request.job_name for request in self.tick().run_requests]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """The time that looks see, as a test sets it."""
    found = [datetime.now(UTC)]
    monkeypatch.setattr(sensors, "datetime", Mock(now=lambda _: found[0]))
    return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with runs.open_instance(tmp_path / "dagster") as on:
        yield World(lakehouse_of(Settings(home=tmp_path, settle_seconds=0)), on)


def test_a_file_asks_for_an_intake_and_for_what_follows_beside_it(world: World) -> None:
    assert world.jobs() == []
    world.land("first")
    assert world.jobs() == [INTAKE, CATCH_UP]


def test_what_no_event_told_of_is_asked_for(world: World) -> None:
    """The rows are in bronze, whoever put them there; nobody told Dagster of a partition."""
    world.land("first")
    world.take_in()
    (request,) = world.tick().run_requests
    assert request.job_name == CATCH_UP
    assert world.jobs() == [], "asked for already: the next attempt comes later"


def test_rows_that_came_after_the_last_run_are_asked_for_at_once(world: World) -> None:
    world.land("first")
    world.take_in()
    (request,) = world.tick().run_requests
    job = world.defs.resolve_job_def(CATCH_UP)
    assert job.execute_in_process(request.run_config, instance=world.on).success
    world.land("second")
    world.take_in()
    (again,) = world.tick().run_requests
    assert again.run_key != request.run_key


def test_a_source_whose_intake_fails_is_left_out_while_another_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tuple(catalog.source_of[table] for table in ("bronze.departments", "bronze.jobs"))
    monkeypatch.setattr(sys.modules[__name__], "FEW", Catalog(few, ()))
    lake = world.place.lake
    world.land("first")
    world.take_in()
    for commit in (Path(lake.path("bronze.departments")) / "_delta_log").glob("*.json"):
        commit.write_text("{ damaged")
    world.land("second")

    def take_in() -> list[str]:
        """The sources that the next run of the intake leaves out; it does all others."""
        (request, *_) = world.tick().run_requests
        job = world.defs.resolve_job_def(INTAKE)
        job.execute_in_process(request.run_config, instance=world.on, raise_on_error=False)
        return [op for op, given in request.run_config["ops"].items() if given["config"]["held"]]

    assert take_in() == []
    assert world.jobs() == [], "its next try comes later"
    for n in range(2):
        file = Path(world.place.landing) / "hr" / "jobs" / f"{n}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{n + 1},Engineer\n")
        assert take_in() == ["intake_hr_departments"]
        assert lake.rows("bronze.jobs") == n + 1
    (incident,) = known_from(incidents.read(world.place.lake.snapshot())).incidents.values()
    assert (incident.table, incident.kind) == ("bronze.departments", Kind.CORRUPT)


def tags_of(request: Any) -> dict[str, str]:
    """The tags of the run that Dagster makes of a request."""
    return {**request.tags, "dagster/run_key": request.run_key}


def fail(world: World, request: Any, error: Exception) -> str:
    """A run of `catch_up` fails at its table with an error; returns its id."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catch_up, "refresh", raising(error))
        job = world.defs.resolve_job_def(CATCH_UP)
        done = job.execute_in_process(
            request.run_config, instance=world.on, raise_on_error=False, tags=tags_of(request)
        )
    assert not done.success
    return done.run_id


def raising(error: Exception) -> Any:
    def refresh(*_: Any, **__: Any) -> None:
        raise error

    return refresh


def of_table(world: World) -> list[Incident]:
    known = known_from(incidents.read(world.place.lake.snapshot()))
    return [i for i in known.incidents.values() if i.table == SILVER]


def test_a_failure_is_an_incident_that_the_page_and_the_run_tell_of_until_it_is_healed(world: World) -> None:
    world.land("first")
    world.take_in()
    (request,) = world.tick().run_requests
    run_id = fail(world, request, MedallionError("the disk is full", kind=Kind.DISK))
    result = world.tick()
    (incident,) = of_table(world)
    assert (incident.kind, incident.closed, incident.evidence[0].run_id) == (Kind.DISK, "", run_id)
    assert not result.run_requests
    assert f"{SILVER}: failed disk" in result.skip_reason.skip_message
    (page,) = result.asset_events
    assert (page.asset_key.path, page.check_name, page.passed) == (
        ["silver_departments"],
        "refresh_succeeds",
        False,
    )
    said = {name: entry.value for name, entry in page.metadata.items()}
    assert (said["why"], said["class"], said["incident"]) == ("the disk is full", "disk", incident.id)
    assert f"medallion incidents resume {SILVER}" in said["what_next"]
    run = world.on.get_run_by_id(run_id)
    assert run
    assert run.tags["medallion/incident"] == incident.id
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", run.tags["medallion/next_try"])
    assert world.tick().asset_events == [], "it is told once"
    job = world.defs.resolve_job_def(CATCH_UP)
    assert job.execute_in_process(instance=world.on).success, "a person does not wait"
    (page,) = world.tick().asset_events
    assert page.passed
    assert of_table(world)[0].closed == "passed"
    ended = {name: entry.value for name, entry in page.metadata.items()}
    assert (ended["incident"], ended["class"]) == (incident.id, "disk")
    assert re.fullmatch(r"passed [\d,]+ seconds? after it failed; tried 0 times", ended["ended"])
    assert said["all_incidents"] == ended["all_incidents"] == dg.AssetKey("incidents")


def test_it_is_tried_again_as_its_class_says_and_rows_that_land_meanwhile_do_not_reset_it(
    world: World, now: list[datetime]
) -> None:
    tries = 0
    for look in range(120):
        if look % 8 == 0:
            world.land(f"file {look}")
            world.take_in()
        for request in world.tick().run_requests or ():
            tries += 1
            fail(world, request, TypeError("no such argument"))
        now[0] += timedelta(minutes=4)
    (incident,) = of_table(world)
    planned = len([pause for step in POLICY[incident.kind].steps for pause in step.pauses])
    assert tries == 1 + len(incident.tries)
    assert incident.tried == planned
    # After 1, 2, 4, ... minutes at the earliest, so no more than nine times in eight hours.
    assert 1 < len(incident.tries) - planned <= 9
    now[0] += timedelta(days=1)
    (request,) = world.tick().run_requests
    job = world.defs.resolve_job_def(CATCH_UP)
    assert job.execute_in_process(request.run_config, instance=world.on).success
    (page,) = world.tick().asset_events
    assert page.passed
    assert of_table(world)[0].closed == "healed"


def test_a_run_that_died_is_a_failure_of_the_table_that_it_worked_on_and_of_no_other(world: World) -> None:
    world.land("first")
    world.take_in()
    (request,) = world.tick().run_requests
    job = world.defs.resolve_job_def(CATCH_UP)
    other = {**tags_of(request), WORKING_ON: "gold.other", ENDED_BY: "killed"}
    run = world.on.create_run_for_job(job, tags=other, status=dg.DagsterRunStatus.STARTED)
    assert not world.tick().run_requests
    world.on.report_run_failed(run)
    (again,) = world.tick().run_requests
    assert again.run_key != request.run_key
    assert of_table(world) == []
    tags = {**tags_of(again), WORKING_ON: SILVER, ENDED_BY: "killed"}
    run = world.on.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    world.on.report_run_failed(run)
    world.tick()
    (incident,) = of_table(world)
    assert (incident.kind, incident.code) == (Kind.EVICTED, "killed")
    told = world.on.get_run_by_id(run.run_id)
    assert told and told.tags["medallion/class"] == "evicted"


def test_what_was_asked_for_and_of_which_nothing_is_heard_has_failed(world: World) -> None:
    world.land("first")
    world.take_in()
    assert world.jobs() == [CATCH_UP]
    assert world.jobs() == []
    (incident,) = of_table(world)
    assert incident.kind is Kind.UNKNOWN


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED])
def test_a_run_that_leaves_a_table_to_another_has_not_failed_and_is_asked_for_again_a_little_later(
    world: World, now: list[datetime], status: dg.DagsterRunStatus
) -> None:
    world.land("first")
    world.take_in()
    job, asks = world.defs.resolve_job_def(CATCH_UP), 0
    for _ in range(60):
        for request in world.tick().run_requests or ():
            asks += 1
            world.on.create_run_for_job(job, tags=tags_of(request), status=status)
        now[0] += timedelta(minutes=1)
    assert of_table(world) == []
    assert 8 <= asks <= 10, "after 15 s, 1, 5, and then each ten minutes"
    world.land("second")
    world.take_in()
    assert world.jobs() == [CATCH_UP], "what it is made from has changed"


def test_where_a_run_fails_at_one_table_the_others_have_not_failed(world: World) -> None:
    world.land("first")
    world.take_in()
    (request,) = world.tick().run_requests

    @dg.op
    def fails(context) -> None:  # type: ignore[no-untyped-def]  # its name is no type of this function
        raise report_failure(context, {"gold.other": TableFailure("it is no number")})

    @dg.job(name=CATCH_UP)
    def job() -> None:
        fails()

    for _ in range(2):
        done = job.execute_in_process(instance=world.on, raise_on_error=False, tags=tags_of(request))
        assert not done.success
        assert not world.tick().run_requests
    assert of_table(world) == []


def test_a_ledger_that_cannot_be_read_stops_all_and_the_terminal_says_so_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.land("first")
    world.take_in()
    (request,) = world.tick().run_requests
    fail(world, request, TypeError())
    world.tick()
    folder = Path(world.place.lake.path(incidents.INCIDENTS))
    next((folder / "_delta_log").glob("*.json")).write_text("garbage")
    sensor = world.defs.get_repository_def().get_sensor_def("catch_up_sensor")
    for _ in range(2):
        context = dg.build_sensor_context(world.on, cursor=world.cursor, resources={"lakehouse": world.place})
        skipped: Any = sensor(context)
        assert f"delete {folder}" in skipped.skip_message
    assert caplog.text.count("nothing runs by itself") == 1
    shutil.rmtree(folder)
    assert world.jobs() == [CATCH_UP]


def test_what_newer_code_has_made_is_not_asked_for_by_code_that_was_loaded_before_it(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.land("first")
    world.take_in()
    made = CommitRecord("refresh", "person", "", position={CODE: {"": 1}})
    monkeypatch.setattr(type(world.place.lake), "last_record", lambda _, name, __=(): replace(made))
    monkeypatch.setattr(out_of_date, "out_of_date_partitions", lambda *_: None)
    sensor = world.defs.get_repository_def().get_sensor_def("catch_up_sensor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensors, "changed_files", lambda _: ["/shop/tables.py"])
        for _ in range(2):
            context = dg.build_sensor_context(world.on, resources={"lakehouse": world.place})
            looked: Any = sensor(context)
            assert not looked.run_requests
    assert caplog.text.count("/shop/tables.py: changed after Dagster loaded it") == 1
    assert world.jobs() == [CATCH_UP], "this code is the newest, and makes what older code has made"


def test_what_is_decided_is_asked_for_though_a_run_takes_no_tags(
    world: World, now: list[datetime], caplog: pytest.LogCaptureFixture
) -> None:
    world.land("first")
    world.take_in()
    (request,) = world.tick().run_requests
    fail(world, request, MedallionError("the disk is full", kind=Kind.DISK))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(world.on), "add_run_tags", raising(OSError("no space")))
        world.tick()
    assert "does not say of which incidents it is part: no space" in caplog.text
    now[0] += timedelta(minutes=1)
    assert world.jobs() == [CATCH_UP]
    assert [len(i.tries) for i in of_table(world)] == [1]


def test_two_that_decide_at_once_ask_for_one_try(world: World) -> None:
    world.land("first")
    world.take_in()
    (request,) = world.tick().run_requests
    fail(world, request, TypeError())
    decide = incidents.decide

    def meanwhile(lake: Lake, rows: Any, seen: int) -> None:
        decide(lake, rows, seen)
        decide(lake, rows, seen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(incidents, "decide", meanwhile)
        sensor = world.defs.get_repository_def().get_sensor_def("catch_up_sensor")
        context = dg.build_sensor_context(world.on, cursor=world.cursor, resources={"lakehouse": world.place})
        skipped: Any = sensor(context)
    assert "somebody else has decided" in skipped.skip_message
    world.tick()
    assert len(of_table(world)) == 1


def test_a_table_that_another_run_works_on_is_left_to_it_and_not_counted(world: World) -> None:
    world.land("first")
    world.take_in()
    backfill = world.on.create_run_for_job(world.defs.resolve_job_def("maintenance"))
    with InstanceConcurrencyContext(world.on, backfill) as pools:
        assert pools.claim("silver_departments", "step")
        assert world.jobs() == []
        assert SILVER not in Memory.from_text(world.cursor).asked
        pools.free_step("step")
    assert world.jobs() == [CATCH_UP]


def test_what_was_taken_back_waits_for_a_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.land("first")
    world.take_in()
    state = out_of_date_tables(FEW, world.place.lake)[SILVER].state
    restored = CommitRecord("restore", "rollback", "", taken_back=state)
    monkeypatch.setattr(type(world.place.lake), "last_record", lambda _, name, __=(): replace(restored))
    monkeypatch.setattr(out_of_date, "out_of_date_partitions", lambda *_: None)
    assert out_of_date_tables(FEW, world.place.lake)[SILVER].taken_back
    assert world.jobs() == []
    world.land("second")
    result = world.tick()
    config = result.run_requests[1].run_config["ops"][BRING_UP]["config"]
    assert config["held"][SILVER] == state, "the run that follows the intake leaves it only in that state"


@pytest.fixture
def in_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where runs are pods, and every table is too large to share one."""
    monkeypatch.setattr(sensors, "are_read", lambda _: True)
    monkeypatch.setenv("MEDALLION_OWN_RUN_BYTES", "1")


@pytest.mark.usefixtures("in_pods")
def test_a_table_beyond_the_bound_gets_a_run_of_its_own(world: World) -> None:
    world.land("first")
    world.take_in()
    (request,) = world.tick().run_requests
    assert (request.job_name, request.tags[ONLY_TAG]) == (CATCH_UP, SILVER)
    assert request.run_config["ops"][BRING_UP]["config"] == {"only": [SILVER], "patient": False}
    world.land("second")
    assert world.jobs() == [INTAKE]


def test_where_runs_are_pods_a_refresh_is_asked_for_once_its_size_is_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.land("first")
    monkeypatch.setattr(sensors, "are_read", lambda _: True)
    assert world.jobs() == [INTAKE]
    world.take_in()
    assert world.jobs() == [CATCH_UP]
    assert read_needs(world.on).needs[SILVER].due_bytes > 0


@pytest.mark.usefixtures("in_pods")
def test_while_a_table_has_a_run_of_its_own_others_go_on_without_it(world: World) -> None:
    world.land("first")
    world.take_in()
    (request,) = world.tick().run_requests
    job = world.defs.resolve_job_def(CATCH_UP)
    tags = {**tags_of(request), ENDED_BY: "evicted"}
    run = world.on.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    result = world.tick()
    assert not result.run_requests
    assert "a run is working on it" in result.skip_reason.skip_message
    assert SILVER in Memory.from_text(world.cursor).asked, "the attempt still counts"
    world.land("second")
    assert world.jobs() == [INTAKE]
    world.take_in()
    assert not world.tick().run_requests
    world.on.report_run_failed(run)
    (again,) = world.tick().run_requests
    assert again.tags[ONLY_TAG] == SILVER


def test_where_runs_are_no_pods_a_large_table_has_no_run_of_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDALLION_OWN_RUN_BYTES", "1")
    world.land("first")
    world.take_in()
    (request,) = world.tick().run_requests
    assert ONLY_TAG not in request.tags
    assert request.run_config["ops"][BRING_UP]["config"]["leave"] == []


def test_what_the_sensor_asks_for_dagster_does_not_ask_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two who retry the same work would take turns, each with attempts of its own."""
    monkeypatch.setattr(sensors, "are_read", lambda _: True)
    monkeypatch.setattr(type(world.on), "run_retries_max_retries", 3)
    world.land("first")
    for request in world.tick().run_requests:
        job = world.defs.resolve_job_def(request.job_name)
        run = world.on.create_run_for_job(job, tags=request.tags, status=dg.DagsterRunStatus.FAILURE)
        assert not auto_reexecution_should_retry_run(world.on, run, None)
    by_hand = world.on.create_run_for_job(job, status=dg.DagsterRunStatus.FAILURE)
    assert auto_reexecution_should_retry_run(world.on, by_hand, None)


def test_a_run_that_was_killed_makes_the_next_one_of_its_table_larger(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.land("first")
    world.take_in()
    job = world.defs.resolve_job_def(CATCH_UP)
    tags = {ENDED_BY: "oom", WORKING_ON: SILVER, MEMORY_LIMIT: str(3 << 30)}
    world.on.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.FAILURE)
    assert world.jobs() == [CATCH_UP]
    assert memory_uses.read(world.place.lake) == [], "no pod, no kill"
    monkeypatch.setattr(sensors, "are_read", lambda _: True)
    world.tick()
    (use,) = memory_uses.read(world.place.lake)
    assert (use.table, use.limit, use.outcome) == (SILVER, 3 << 30, "killed")
    need = read_needs(world.on).needs[SILVER]
    assert need.driver_memory == 4608 << 20, "in the same look: the next run is launched by it"
    world.tick()
    assert memory_uses.read(world.place.lake) == [use]


def test_a_run_of_its_own_leaves_all_other_tables(world: World) -> None:
    world.land("first")
    world.take_in()
    config = {"ops": {BRING_UP: {"config": {"only": ["silver.other"]}}}}
    job = world.defs.resolve_job_def(CATCH_UP)
    assert job.execute_in_process(config, instance=world.on).success
    assert world.place.lake.version(SILVER) == -1
