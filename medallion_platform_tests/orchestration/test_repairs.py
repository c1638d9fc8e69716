"""A damaged data file heals by what the sensor asks for, and all that tells of it says so."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import dagster as dg
import pytest

from medallion_platform.errors import Kind
from medallion_platform.healing.incident import Incident, known_from
from medallion_platform.installation.settings import Settings
from medallion_platform.lakehouse import dead_letters, incidents
from medallion_platform.lakehouse.backup import back_up
from medallion_platform.lakehouse.backup_place import BackupPlace
from medallion_platform.lakehouse.damaged_files import verify_table
from medallion_platform.lakehouse.lake import files_of
from medallion_platform.orchestration import catch_up, repairs, runs, sensors
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.location import lakehouse_of
from medallion_platform.orchestration.memory_reports import ENDED_BY, WORKING_ON
from medallion_platform.orchestration.names import BRING_UP, CATCH_UP, INTAKE
from medallion_platform.pipeline import repair as repairing
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform_tests.faults.test_files import spoil
from medallion_platform_tests.faults.toy_location import SOURCE, TODAY, silver_sales, sums
from medallion_platform_tests.orchestration.test_sensor import World
from medallion_platform_tests.pipeline.shop import content
from medallion_platform_tests.pipeline.toy import CSV as EVENTS
from medallion_platform_tests.pipeline.toy import Zone, bad, good

SHOP = Catalog((SOURCE,), (silver_sales, sums))
SILVER, GOLD = silver_sales.name, sums.name
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


class Shop(World):
    """Sales by day, and a clock that the sensor reads."""

    now = datetime.now(UTC)

    @property
    def defs(self) -> dg.Definitions:
        return build_defs(SHOP, self.place)

    def sell(self, name: str, *euros: int) -> None:
        """Sales of today, taken in."""
        file = Path(self.place.landing) / "shop" / f"{name}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [f"{till},{TODAY}T00:00:00Z,{amount}" for till, amount in enumerate(euros)]
        file.write_text("\n".join(["till,sold_at,euros", *rows, ""]))
        self.take_in()

    def ask(self, after: timedelta = timedelta()) -> list[Any]:
        """What one look of the sensor asks for."""
        self.now += after
        return self.tick().run_requests or []

    def do(self, request: Any) -> bool:
        """Whether the run that was asked for succeeds."""
        job = self.defs.resolve_job_def(request.job_name)
        config, tags = request.run_config, request.tags
        return job.execute_in_process(config, instance=self.on, raise_on_error=False, tags=tags).success

    def incidents(self) -> list[Incident]:
        known = known_from(incidents.read(self.place.lake.snapshot()))
        return list(known.incidents.values())

    def harm(self, table: str, damage: str, column: str) -> None:
        """Damage a data file of a table that holds rows of today."""
        found = self.place.lake.open(table)
        assert found
        file = next(f["path"] for f in files_of(found) if str(TODAY) in f["path"])
        spoil(self.place.lake.path(table), file, damage, column)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    with runs.open_instance(tmp_path / "dagster") as on:
        settings = Settings(home=tmp_path, settle_seconds=0, backup=tmp_path / "backups")
        made = Shop(lakehouse_of(settings), on)
        monkeypatch.setattr(sensors, "datetime", Mock(now=lambda _: made.now))
        yield made


class Toy(World):
    """Events that are searched for duplicates."""

    @property
    def defs(self) -> dg.Definitions:
        return build_defs(Catalog((EVENTS,), ()), self.place)

    def land(self, name: str) -> None:
        Zone(Path(self.place.landing).parent).csv(f"events/{name}.csv", [good("a"), good(name, 1), bad()])


def repair_of(request: Any) -> dict[str, str]:
    return request.run_config["ops"][BRING_UP]["config"].get("repair", {})


def until_repair(shop: Shop) -> Any:
    """The request of the try that repairs, after the work and its first try failed."""
    (first,) = shop.ask()
    assert not shop.do(first)
    assert not shop.ask()
    (again,) = shop.ask(after=15 * SECOND)
    assert repair_of(again) == {}
    assert not shop.do(again)
    assert not shop.ask()
    (request,) = shop.ask(after=15 * SECOND)
    (incident,) = shop.incidents()
    assert (incident.kind, incident.table) == (Kind.CORRUPT, GOLD)
    assert repair_of(request) == {GOLD: incident.id}
    return request


@pytest.mark.usefixtures("spark")
def test_a_damaged_day_of_silver_is_made_again_and_told_of(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.sell("one", 1, 2, 3)
    (request,) = shop.ask()
    assert shop.do(request)
    assert not shop.ask()
    shop.harm(SILVER, "a bit flipped", "euros")
    shop.sell("two", 10, 20)
    request = until_repair(shop)
    (incident,) = shop.incidents()
    (damaged,) = incident.damaged
    assert damaged[0] == SILVER
    held: list[str] = []

    def repair_for(*arguments: Any, **named: Any) -> Any:
        pools = shop.on.event_log_storage.get_concurrency_infos(["silver_sales", "gold_sums"])
        held.extend(pool for pool, info in pools.items() if info.claimed_slots)
        return repairs.repair_for(*arguments, **named)

    monkeypatch.setattr(catch_up, "repair_for", repair_for)
    assert shop.do(request)
    assert held == ["silver_sales"], "one writer at a time, of the table that is written"
    (page,) = shop.tick().asset_events
    (healed,) = shop.incidents()
    assert healed.closed == "healed"
    (action,) = healed.actions
    assert (action.table, action.partitions) == (SILVER, (str(TODAY),))
    assert action.files > 0
    assert action.bytes > 0
    assert page.passed
    assert page.metadata["repaired"].value == action.what
    assert damaged[1] in action.what
    verify_table(shop.place.lake, SILVER)
    (day,) = content(shop.place.lake, GOLD)
    assert "'euros': 36" in day and "'sales': 5" in day
    told = shop.on.get_latest_materialization_event(dg.AssetKey("silver_sales"))
    assert told and told.run_id == action.run_id, "the page of the table that was made again knows it"
    assert not shop.ask(), "nothing is left to do"


@pytest.mark.usefixtures("spark")
def test_a_repair_that_was_killed_is_done_by_the_next_try(shop: Shop) -> None:
    shop.sell("one", 1, 2, 3)
    (request,) = shop.ask()
    assert shop.do(request)
    shop.harm(SILVER, "gone", "euros")
    shop.sell("two", 10, 20)
    request = until_repair(shop)
    job = shop.defs.resolve_job_def(CATCH_UP)
    tags = {**request.tags, WORKING_ON: GOLD, ENDED_BY: "killed"}
    run = shop.on.create_run_for_job(
        job, run_config=request.run_config, tags=tags, status=dg.DagsterRunStatus.STARTED
    )
    assert not shop.ask()
    shop.on.report_run_failed(run)
    assert not shop.ask()
    damage, killed = shop.incidents()
    assert killed.kind is Kind.EVICTED
    (request,) = shop.ask(after=5 * MINUTE)
    assert repair_of(request) == {GOLD: damage.id}
    assert shop.do(request)
    shop.tick()
    assert [i.closed for i in shop.incidents()] == ["healed", "healed"]
    (day,) = content(shop.place.lake, GOLD)
    assert "'euros': 36" in day


@pytest.mark.usefixtures("spark")
def test_an_incident_whose_file_is_damaged_still_is_not_healed_though_its_table_is_made(shop: Shop) -> None:
    shop.sell("one", 1, 2, 3)
    (request,) = shop.ask()
    assert shop.do(request)
    found = shop.place.lake.open(SILVER)
    assert found
    (file,) = (f["path"] for f in files_of(found))
    whole = spoil(shop.place.lake.path(SILVER), file, "gone")
    shop.sell("two", 10, 20)
    request = until_repair(shop)
    path = Path(shop.place.lake.path(SILVER), file)
    path.write_bytes(whole)
    assert shop.do(request)
    path.unlink()
    assert not shop.ask()
    assert [i.closed for i in shop.incidents()] == [""]
    path.write_bytes(whole)
    assert not shop.ask()
    assert [i.closed for i in shop.incidents()] == ["healed"]


def test_damaged_delta_logs_are_repaired_and_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [datetime.now(UTC)]
    monkeypatch.setattr(sensors, "datetime", Mock(now=lambda _: now[0]))
    with runs.open_instance(tmp_path / "dagster") as on:
        world = Toy(lakehouse_of(Settings(home=tmp_path, settle_seconds=0)), on)
        lake, letters = world.place.lake, dead_letters.name(EVENTS.table)
        for name in ("first", "second"):
            world.land(name)
            world.take_in()
        for table in (EVENTS.table, letters):
            opened = lake.open(table)
            assert opened
            opened.create_checkpoint()
            next(Path(lake.path(table)).rglob("*.checkpoint.parquet")).write_bytes(b"")
        world.land("third")

        def take_in(after: timedelta) -> bool:
            """Whether the run succeeds that the first look after so long asks for."""
            now[0] += after
            request = world.tick().run_requests[0]
            job = world.defs.resolve_job_def(INTAKE)
            done = job.execute_in_process(request.run_config, instance=on, raise_on_error=False)
            world.tick()
            return done.success

        assert [take_in(n * SECOND) for n in (0, 15, 15)] == [False, False, True]
        (incident,) = known_from(incidents.read(lake)).incidents.values()
        assert (incident.kind, incident.closed) == (Kind.CORRUPT, "healed")
        assert {action.table for action in incident.actions} == {EVENTS.table, letters}
        assert all("a checkpoint of version" in action.what for action in incident.actions)
        assert lake.rows(EVENTS.table) == 4


@pytest.mark.parametrize("backups", [True, False])
def test_an_intake_that_meets_damage_has_its_file_put_back_or_leaves_it_to_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backups: bool
) -> None:
    now = [datetime.now(UTC)]
    monkeypatch.setattr(sensors, "datetime", Mock(now=lambda _: now[0]))
    with runs.open_instance(tmp_path / "dagster") as on:
        backup = tmp_path / "backups" if backups else None
        world = Toy(lakehouse_of(Settings(home=tmp_path, settle_seconds=0, backup=backup)), on)
        lake, bronze = world.place.lake, EVENTS.table
        world.land("first")
        world.take_in()
        if backup:
            back_up(lake, BackupPlace(str(backup)), now[0])
        (file,) = Path(lake.path(bronze)).rglob("*.parquet")
        file.unlink()
        world.land("second")

        def take_in(after: timedelta) -> tuple[Any, bool]:
            """The first request of the next look that asks for something, and whether its run succeeds."""
            world.tick()
            now[0] += after
            request = world.tick().run_requests[0]
            assert request.job_name == INTAKE
            job = world.defs.resolve_job_def(INTAKE)
            done = job.execute_in_process(request.run_config, instance=on, raise_on_error=False)
            return request.run_config["ops"], done.success

        request = world.tick().run_requests[0]
        job = world.defs.resolve_job_def(INTAKE)
        assert not job.execute_in_process(request.run_config, instance=on, raise_on_error=False).success
        assert take_in(15 * SECOND) == ({}, False)
        (incident,) = (i for i in known_from(incidents.read(lake)).incidents.values() if i.table == bronze)
        repaired = {"intake_events": {"config": {"repair": incident.id}}}
        assert take_in(15 * SECOND) == (repaired, backups)
        world.tick()
        (incident,) = (i for i in known_from(incidents.read(lake)).incidents.values() if i.table == bronze)
        if backups:
            assert incident.closed == "healed"
            assert "was put back from the backup" in incident.actions[0].what
            verify_table(lake, bronze)
            return
        assert (incident.closed, incident.actions) == ("", ())
        assert not file.exists()
        assert take_in(5 * MINUTE) == (repaired, False)
        result = world.tick()
        (page,) = (page for page in result.asset_events if page.asset_key.path == ["bronze_events"])
        assert "put a copy of your own in its place" in page.metadata["why"].value
        assert "medallion incidents resume bronze.events" in page.metadata["what_next"].value


def test_a_wrong_copy_is_taken_back_told_of_and_never_put_back_again_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [datetime.now(UTC)]
    monkeypatch.setattr(sensors, "datetime", Mock(now=lambda _: now[0]))
    with runs.open_instance(tmp_path / "dagster") as on:
        backup = tmp_path / "backups"
        world = Toy(lakehouse_of(Settings(home=tmp_path, settle_seconds=0, backup=backup)), on)
        lake = world.place.lake
        for name in ("first", "other"):
            world.land(name)
            world.take_in()
        back_up(lake, BackupPlace(str(backup)), now[0])
        opened = lake.open(EVENTS.table)
        assert opened
        file, other = (Path(lake.path(EVENTS.table), f["path"]) for f in files_of(opened))
        file.unlink()
        world.land("third")

        def wrong(*_: object) -> None:
            file.write_bytes(other.read_bytes())

        def take_in(after: timedelta) -> bool:
            """Whether the intake repairs that the first look after so long asks for."""
            now[0] += after
            request = world.tick().run_requests[0]
            job = world.defs.resolve_job_def(INTAKE)
            done = job.execute_in_process(request.run_config, instance=on, raise_on_error=False)
            world.tick()
            assert not done.success
            return bool(request.run_config["ops"])

        monkeypatch.setattr(repairing, "put_file_back", wrong)
        assert [take_in(n * SECOND) for n in (0, 15, 15)] == [False, False, True]
        assert not file.exists()
        (incident,) = known_from(incidents.read(lake)).incidents.values()
        (action,) = incident.actions
        assert action.undone
        assert "was put back from the backup; this was taken back, since it has" in action.what
        assert [take_in(n * HOUR) for n in (1, 1, 2)] == [False, False, False]
        (incident,) = known_from(incidents.read(lake)).incidents.values()
        assert incident.actions == (action,)
        assert {t.act for t in incident.tries[2:]} == {"again"}
