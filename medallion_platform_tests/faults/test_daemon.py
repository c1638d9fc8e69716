"""The real daemon: whatever happens to a refresh, what arrived is in every table in the end, unasked."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from medallion_platform.healing.incident import known_from
from medallion_platform.lakehouse import incidents
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration import runs
from medallion_platform.orchestration.catch_up import UNFINISHED
from medallion_platform.orchestration.memory_reports import ENDED_BY
from medallion_platform.orchestration.names import CATCH_UP, INTAKE
from medallion_platform.orchestration.pools import process_of
from medallion_platform.pipeline.out_of_date import out_of_date_tables
from medallion_platform_tests.faults.toy_location import FAIL, HELD, HOLD, TODAY, TOMORROW, catalog
from medallion_platform_tests.ui.server import DAGSTER, serving

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

DAYS = [str(TODAY + timedelta(days=n)) for n in (-1, 0, 1)]
"""Yesterday, today and tomorrow, which is no partition of Dagster's yet."""
FRAGILE, SUMS = dg.AssetKey("gold_fragile"), dg.AssetKey("gold_sums")
GOLD = ("gold.fragile", "gold.sums")


class World:
    """A home with its landing zone, and what should be in the tables."""

    def __init__(self, home: Path) -> None:
        self.home, self.lake = home, Lake(home / "lake")
        self.landed = 0

    def land(self, name: str, days: list[str]) -> None:
        """A file with a sale of each day."""
        file = self.home / "landing" / "shop" / f"{name}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text("till,sold_at,euros\n" + "".join(f"{name},{d}T08:00:00Z,10\n" for d in days))
        part.rename(file)
        self.landed += len(days)

    def sales(self, table: str) -> int:
        """How many sales are in a table."""
        if not self.lake.exists(table):
            return 0
        rows = pl.read_delta(self.lake.path(table))
        return int(rows["sales"].sum()) if "sales" in rows.columns else rows.height

    def whole(self) -> bool:
        """Whether all that landed is in every table, and the logs say so too."""
        return all(self.sales(t) == self.landed for t in GOLD) and not out_of_date_tables(catalog, self.lake)


def wait(what: str, until: Callable[[], object], log: Path, seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, f"{what}: never\n{log.read_text()[-6000:]}"
        time.sleep(0.2)


@pytest.fixture
def world(tmp_path: Path) -> Generator[World]:
    (tmp_path / "landing").mkdir()
    yield World(tmp_path)


def daemon(world: World, stack: ExitStack, log: Path) -> int:
    """Start Dagster on the toy location; gives its process group."""
    env = {
        "MEDALLION_HOME": str(world.home),
        "DAGSTER_HOME": str(world.home / "dagster"),
        "MEDALLION_SETTLE_SECONDS": "0",
        TOMORROW: "yes",
        "MEDALLION_HUNG_AFTER_MINUTES": "0.25",
    }
    started: list[int] = []

    def command(port: int) -> list[str]:
        location = ("-m", "medallion_platform_tests.faults.toy_location")
        return [*DAGSTER, "dev", "-h", "127.0.0.1", "-p", str(port), *location]

    stack.enter_context(serving(command, log, env, started.append))
    return started[0]


def test_what_arrived_is_in_every_table_whatever_happens(world: World, tmp_path: Path) -> None:
    log = tmp_path / "dev.log"
    with ExitStack() as stack, runs.open_instance(world.home / "dagster") as on:

        def check(key: dg.AssetKey) -> tuple[bool, str] | None:
            name = dg.AssetCheckKey(key, "refresh_succeeds")
            record = on.event_log_storage.get_latest_asset_check_execution_by_key([name]).get(name)
            event = record.event.dagster_event if record and record.event else None
            if event is None:
                return None
            told = event.asset_check_evaluation_data
            return told.passed, str(told.metadata["why"].value) if "why" in told.metadata else ""

        # A refresh fails; its sibling does not, and tomorrow is made like any other day.
        (world.home / FAIL).touch()
        world.land("first", DAYS)
        group = daemon(world, stack, log)
        wait("sums of three days", lambda: world.sales("gold.sums") == 3, log)
        wait("the failure is on the table's page", lambda: check(FRAGILE), log)
        failed = check(FRAGILE)
        assert failed is not None
        assert not failed[0]
        assert "the test wants it so" in failed[1]
        assert world.sales("gold.fragile") == 0
        assert set(out_of_date_tables(catalog, world.lake)) == {"gold.fragile"}, "no table without upstream"
        # What failed comes again though nothing arrives.
        (world.home / FAIL).unlink()
        wait("what failed comes again", world.whole, log)
        wait("and its page says so", lambda: check(FRAGILE) == (True, ""), log)
        assert DAYS[-1] in on.get_materialized_partitions(SUMS)

        # Rows land between two looks, and while a refresh is at work.
        (world.home / HOLD).touch()
        world.land("second", DAYS[:1])
        world.land("third", DAYS[1:])
        wait("a refresh is at work", (world.home / HELD).exists, log)
        world.land("beside", DAYS)
        wait("an intake beside it", lambda: world.sales("bronze.sales") == world.landed, log)
        assert not world.whole()
        (world.home / HOLD).unlink()
        wait("what landed during a refresh", world.whole, log)

        # The process of a run is stopped in the middle of a refresh.
        (world.home / HELD).unlink()
        (world.home / HOLD).touch()
        world.land("stopped", DAYS)
        wait("a refresh is at work", (world.home / HELD).exists, log)
        (record,) = on.get_run_records(
            dg.RunsFilter(job_name=CATCH_UP, statuses=[dg.DagsterRunStatus.STARTED])
        )
        process = process_of(on, record)
        assert process
        process.suspend()
        (world.home / HOLD).unlink()
        wait("what a stopped run left", world.whole, log)
        assert not process.is_running()
        stopped = on.get_run_by_id(record.dagster_run.run_id)
        assert stopped
        assert stopped.tags[ENDED_BY] == "hung"
        known = known_from(incidents.read(world.lake))
        assert "hung" in {incident.kind for incident in known.incidents.values()}

        # Everything is killed in the middle of a refresh, and started again.
        (world.home / HELD).unlink()
        (world.home / HOLD).touch()
        world.land("killed", DAYS)
        wait("a refresh is at work", (world.home / HELD).exists, log)
        os.killpg(group, signal.SIGKILL)
        (world.home / HOLD).unlink()
        log = tmp_path / "again.log"
        daemon(world, stack, log)
        wait("what a killed daemon left", world.whole, log)

        # Then it rests: nothing is asked for that is not out of date.
        at_work = dg.RunsFilter(statuses=UNFINISHED)
        wait("the last run ends", lambda: not on.get_run_ids(at_work), log)
        before = len(on.get_run_ids())
        time.sleep(12)
        assert len(on.get_run_ids()) == before
        jobs = [run.job_name for run in on.get_runs()]
        assert jobs.count(INTAKE) <= 8
        assert jobs.count(CATCH_UP) <= 12, "no storm"
