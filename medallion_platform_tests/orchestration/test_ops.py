"""The group `ops`: what its pages say of incidents, of maintenance and of backups, and how often."""

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    SensorInstigatorData,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from medallion_platform.errors import Kind
from medallion_platform.healing.decide import Look, Want, decide, pause, resume
from medallion_platform.healing.evidence import Evidence
from medallion_platform.healing.incident import known_from
from medallion_platform.lakehouse import incidents
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration import runs
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.ops import LEFT_OUT, MAINTAINED, report_ops
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform_tests.healing.small_ledger import NOON, evidence

INCIDENTS, MAINTENANCE = dg.AssetKey("incidents"), dg.AssetKey("maintenance")
BACKUP, DRILLS = dg.AssetKey("backup"), dg.AssetKey("drills")
EVENTS, ORDERS = "silver.events", "silver.orders"
HOUR = timedelta(hours=1)


class World:
    """A lake with a ledger, and what Dagster was told."""

    def __init__(self, root: Path, on: dg.DagsterInstance) -> None:
        self.lake, self.on, self.now = Lake(str(root)), on, NOON

    def look(self, *found: Evidence, made: str = "") -> None:
        """What fails is decided about, after what was made again."""
        ledger = incidents.read(self.lake)
        wanted = {table: Want("refresh", "1") for table in (EVENTS, ORDERS) if table != made}
        rows = decide(known_from(ledger), Look(self.now, wanted, (), found)).rows
        incidents.decide(self.lake, rows, ledger.seen)

    def fail(self, table: str, kind: Kind) -> None:
        self.look(evidence(f"run/{self.now}", kind, table, self.now))

    def say(self, rows: Any) -> None:
        incidents.decide(self.lake, rows, incidents.read(self.lake).seen)

    @property
    def known(self) -> Any:
        return known_from(incidents.read(self.lake))

    def report(self) -> None:
        report_ops(self.lake, self.on, self.now)

    def told(self, key: dg.AssetKey) -> list[dict[str, Any]]:
        """What Dagster was told of an asset, the newest first."""
        records = self.on.fetch_materializations(key, limit=100).records
        events = [record.asset_materialization for record in records]
        return [{n: m.value for n, m in event.metadata.items()} for event in events if event]

    def check(self, key: dg.AssetCheckKey) -> tuple[bool, dict[str, Any]] | None:
        record = self.on.event_log_storage.get_latest_asset_check_execution_by_key([key]).get(key)
        event = record.event.dagster_event if record and record.event else None
        if event is None:
            return None
        found = event.asset_check_evaluation_data
        return found.passed, {name: entry.value for name, entry in found.metadata.items()}

    def fresh(self, key: dg.AssetKey) -> FreshnessState | None:
        record = self.on.get_freshness_state_records([key]).get(key)
        return record.freshness_state if record else None

    def events(self) -> int:
        """How many events there are without a run."""
        return len(self.on.all_logs(""))

    def run_maintenance(self, *, bad: bool = False) -> str:
        """Run a job of its name, which tells of two tables or fails at one."""
        job = _job(bad)
        return job.execute_in_process(instance=self.on, raise_on_error=False).run_id


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with dg.DagsterInstance.ephemeral() as on:
        yield World(tmp_path / "lake", on)


def _job(bad: bool) -> dg.JobDefinition:
    def step(name: str) -> dg.OpDefinition:
        @dg.op(name=f"maintain_{name}")
        def body(context: dg.OpExecutionContext) -> None:
            if bad and name == "events":
                raise ValueError("no")
            figures = {"files": 3, "live_bytes": 100, "maintenance_seconds": 0.5}
            context.log_event(dg.AssetObservation(f"silver_{name}", metadata=figures))

        return body

    events, orders = step("events"), step("orders")

    @dg.job(name="maintenance", executor_def=dg.in_process_executor)
    def job() -> None:
        events()
        orders()

    return job


def looked(on: dg.DagsterInstance, name: str, at: datetime, *, well: bool = True) -> None:
    """What Dagster's daemon keeps of a sensor that has looked."""
    target = LoadableTargetOrigin(module_name="medallion_platform.definitions")
    location = RemoteRepositoryOrigin(InProcessCodeLocationOrigin(target), "__repository__")
    data = SensorInstigatorData(
        last_tick_timestamp=at.timestamp(), last_tick_success_timestamp=at.timestamp() if well else None
    )
    origin = RemoteInstigatorOrigin(location, name)
    state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, data)
    there = on.get_instigator_state(origin.get_id(), origin.get_selector().get_id())
    (on.update_instigator_state if there else on.add_instigator_state)(state)


def test_before_anything_happened_it_says_so_once(world: World) -> None:
    world.report()
    (told,) = world.told(INCIDENTS)
    assert (told["incidents"], told["open"], told["tables_left_out"]) == (0, 0, 0)
    assert told["open_incidents"] == told["by_class"] == "none"
    assert "healed_share" not in told
    assert world.check(LEFT_OUT) == (True, {})
    assert world.check(MAINTAINED) is None
    assert [world.fresh(key) for key in (INCIDENTS, MAINTENANCE, BACKUP)] == [None] * 3
    before = world.events()
    assert before == 2, "of the figures and of the check"
    world.report()
    assert world.events() == before


def test_what_fails_is_told_and_what_heals(world: World) -> None:
    world.fail(EVENTS, Kind.NETWORK)
    world.report()
    world.now += timedelta(seconds=20)
    world.look()
    world.now += timedelta(seconds=20)
    world.look(made=EVENTS)
    world.report()
    healed, open_one = world.told(INCIDENTS)[:2]
    assert (open_one["incidents"], open_one["open"], open_one["tables_left_out"]) == (1, 1, 0)
    assert re.search(
        rf"\| {EVENTS} \| network \| waiting \| 2026-11-30 12:00:00Z \| 0 \|", open_one["open_incidents"]
    )
    assert (healed["incidents"], healed["open"], healed["healed_share"]) == (1, 0, 1)
    assert (healed["seconds_to_heal"], healed["open_incidents"]) == (40, "none")
    assert "| network | 1 | 0 | 1 | 1.0 |" in healed["by_class"]
    assert world.check(LEFT_OUT) == (True, {}), "it waits, as its class says, and is not left out"


def test_a_table_that_is_left_out_fails_the_check_until_a_person_goes_on(world: World) -> None:
    world.fail(EVENTS, Kind.DATA)
    world.say(pause(ORDERS, world.now, "ada"))
    world.report()
    passed, said = world.check(LEFT_OUT) or (True, {})
    assert not passed
    assert said.keys() == {EVENTS, ORDERS}
    (incident,) = world.known.incidents.values()
    assert "failed data" in said[EVENTS] and incident.id in said[EVENTS]
    assert f"`medallion incidents resume {EVENTS}`" in said[EVENTS]
    assert "paused by ada" in said[ORDERS] and f"`medallion incidents resume {ORDERS}`" in said[ORDERS]
    assert world.told(INCIDENTS)[0]["tables_left_out"] == 2
    before = world.events()
    world.report()
    assert world.events() == before, "it is told once"
    for table in (EVENTS, ORDERS):
        world.say(resume(world.known, table, world.now, "ada"))
    world.report()
    assert world.check(LEFT_OUT) == (True, {})


def test_of_many_tables_it_names_some(world: World) -> None:
    for n in range(30):
        world.say(pause(f"silver.t{n:02}", world.now, "ada"))
    world.report()
    passed, said = world.check(LEFT_OUT) or (True, {})
    assert not passed
    assert len(said) == 21
    assert said["more"].startswith("10 others")


def test_a_damaged_ledger_is_told_as_what_it_means(world: World) -> None:
    world.fail(EVENTS, Kind.NETWORK)
    for file in (Path(world.lake.path(incidents.INCIDENTS)) / "_delta_log").iterdir():
        file.write_text("{")
    world.lake = Lake(world.lake.root)
    world.report()
    passed, said = world.check(LEFT_OUT) or (True, {})
    assert not passed
    assert "delete" in said["all tables"]
    assert world.told(INCIDENTS) == []


def test_incidents_are_fresh_while_the_sensor_looks_that_decides(tmp_path: Path) -> None:
    with runs.open_instance(tmp_path / "dagster") as on:
        world = World(tmp_path / "lake", on)

        def after(elapsed: timedelta) -> FreshnessState | None:
            report_ops(world.lake, on, NOON + elapsed)
            return world.fresh(INCIDENTS)

        looked(on, "data_grew_old", NOON)
        assert after(timedelta()) is None
        looked(on, "catch_up_sensor", NOON, well=False)
        assert after(timedelta()) is None
        looked(on, "catch_up_sensor", NOON)
        assert after(timedelta(minutes=14)) is FreshnessState.PASS
        assert after(timedelta(minutes=16)) is FreshnessState.FAIL
        looked(on, "catch_up_sensor", NOON + HOUR)
        assert after(HOUR) is FreshnessState.PASS


def test_maintenance_is_told_with_the_sum_of_its_tables_once(world: World) -> None:
    run = world.run_maintenance()
    world.now = datetime.now(UTC)
    world.report()
    (told,) = world.told(MAINTENANCE)
    assert told == {"run": run, "tables": 2, "files": 6, "live_bytes": 200, "maintenance_seconds": 1.0}
    assert world.check(MAINTAINED) == (True, {"run": run})
    assert world.fresh(MAINTENANCE) is FreshnessState.PASS
    before = world.events()
    world.report()
    assert world.events() == before
    world.now += 29 * HOUR
    world.report()
    assert world.fresh(MAINTENANCE) is FreshnessState.PASS
    world.now += 2 * HOUR
    world.report()
    assert world.fresh(MAINTENANCE) is FreshnessState.FAIL


def test_maintenance_that_fails_names_its_steps_and_makes_nothing_fresher(world: World) -> None:
    good, bad = world.run_maintenance(), world.run_maintenance(bad=True)
    world.now = datetime.now(UTC) + 31 * HOUR
    world.report()
    passed, said = world.check(MAINTAINED) or (True, {})
    assert not passed
    assert (said["run"], said["failed"]) == (bad, "maintain_events")
    assert [told["run"] for told in world.told(MAINTENANCE)] == [good]
    assert world.fresh(MAINTENANCE) is FreshnessState.FAIL
    again = world.run_maintenance()
    world.report()
    assert world.check(MAINTAINED) == (True, {"run": again})


@pytest.mark.parametrize(("asset", "hours"), [(BACKUP, 8), (DRILLS, 8 * 24)], ids=["backup", "drills"])
def test_backups_and_drills_are_fresh_for_a_while(asset: dg.AssetKey, hours: int, world: World) -> None:
    world.on.report_runless_asset_event(dg.AssetMaterialization(asset))
    for later, state in ((hours - 1, FreshnessState.PASS), (hours + 1, FreshnessState.FAIL)):
        world.now = datetime.now(UTC) + later * HOUR
        world.report()
        assert world.fresh(asset) is state


def test_a_person_can_ask_for_the_checks(world: World) -> None:
    world.fail(EVENTS, Kind.DATA)
    lakehouse = Lakehouse(lake_root=str(world.lake.root), landing="", feature_repo="")
    defs = build_defs(Catalog(sources=(), tables=()), lakehouse)
    graph = defs.resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {"incidents", "maintenance"}
    assert all(
        graph.get(key).freshness_policy and graph.get(key).group_name == "ops"
        for key in graph.get_all_asset_keys()
    )
    done = defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=world.on)
    assert done.success
    results = {e.check_name: e.passed for e in done.get_asset_check_evaluations()}
    assert results == {"no_table_is_left_out": False, "last_maintenance_succeeded": True}


def test_the_picture_shows_each_day_to_scale(world: World) -> None:
    for days, kinds in ((3, [Kind.DATA]), (1, [Kind.DISK, Kind.CORRUPT, Kind.GAP])):
        world.now = NOON - timedelta(days=days)
        for kind in kinds:
            world.now += HOUR
            world.fail(EVENTS, kind)
    world.now = NOON
    world.report()
    shown = world.told(INCIDENTS)[0]["by_day"]
    encoded = re.fullmatch(r"!\[[\w ]+\]\(data:image/svg\+xml;base64,([\w+/=]+)\)", shown)
    assert encoded
    picture = ElementTree.fromstring(base64.b64decode(encoded[1]))
    one, three = picture.findall("{*}rect")
    assert float(three.attrib["height"]) == pytest.approx(3 * float(one.attrib["height"]), abs=0.2)
    assert float(three.attrib["x"]) - float(one.attrib["x"]) == pytest.approx(2 * 640 / 30, abs=0.2)
    assert "2026-11-01 to 2026-11-30" in str(picture.findtext("{*}text"))
