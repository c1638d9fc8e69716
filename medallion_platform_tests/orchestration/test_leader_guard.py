"""One of several workers leads; who led before writes nothing, whatever it believes."""

from __future__ import annotations

import shutil
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from medallion_platform.kubernetes.lease import DURATION, Lease
from medallion_platform.lakehouse import polars_writer
from medallion_platform.lakehouse.commit import CommitConflict, next_sequence
from medallion_platform.lakehouse.commit_record import CommitRecord
from medallion_platform.lakehouse.guard import Guard, NotAllowed
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.observability.worker import WorkerMetrics
from medallion_platform.orchestration import stream_reports
from medallion_platform.orchestration.leader_guard import Alone, LeaderGuard
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.run import Run
from medallion_platform_tests.in_kubernetes.memory import Memory
from medallion_platform_tests.pipeline import shop
from medallion_platform_tests.pipeline.toy import Zone
from medallion_platform_tests.waiting import until

TABLE = "silver.t"


class World:
    """Two candidates for one lease, which share a clock, and a table that the leader writes to."""

    def __init__(self, root: Path) -> None:
        self.lake, self.api, self.now = Lake(root), Memory(), 0.0
        self.lake.ensure(TABLE, pa.schema([("n", pa.int64())]))
        self.leases = [Lease(self.api, name, lambda: self.now) for name in ("one", "other")]
        self.one, self.other = (LeaderGuard(lease, self.lake, "refresh-s", [TABLE]) for lease in self.leases)

    def turn(self, *which: int, after: float = 0) -> None:
        self.now += after
        for n in which:
            self.leases[n].turn()

    def write(self, guard: Guard) -> None:
        table = self.lake.open(TABLE)
        assert table is not None
        sequence = next_sequence(table)
        record = CommitRecord("refresh", "r", "", sequence=sequence)
        polars_writer.append_rows(table, pl.DataFrame({"n": [sequence]}), record, {}, guard)

    def token(self) -> int | None:
        return self.lake.positions(TABLE)("leader/refresh-s")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "lake")


@pytest.mark.failure("conflict")
def test_only_the_leader_writes_and_its_token_grows(world: World) -> None:
    assert not world.one.leads()
    world.turn(0, 1)
    assert (world.one.leads(), world.other.leads()) == (True, False)
    world.write(world.one)
    world.write(world.one)
    assert world.token() == 1
    with pytest.raises(NotAllowed):
        world.write(world.other)
    # It is paused, and another one leads.
    world.turn(1, after=DURATION)
    assert world.other.leads()
    world.write(world.other)
    assert world.token() == 2
    with pytest.raises(NotAllowed, match="another worker leads by now; nothing was written"):
        world.write(world.one)
    assert not world.one.leads()
    # And back again.
    world.turn(0)
    world.turn(0, after=DURATION)
    assert world.one.leads()
    world.write(world.one)
    assert world.token() == 3
    assert world.lake.version(TABLE) == 4


@pytest.mark.failure("conflict")
def test_a_leader_that_is_paused_after_it_was_asked_is_refused_by_the_table(world: World) -> None:
    world.turn(0, 1)
    assert world.one.leads()

    class Paused(Guard):
        def check(self) -> Any:
            token = world.one.check()
            world.turn(1, after=DURATION)
            assert world.other.leads()
            world.write(world.other)
            return token

    with pytest.raises(CommitConflict):
        world.write(Paused())
    assert world.token() == 2


@pytest.mark.failure("conflict")
def test_a_deleted_lease_makes_two_leaders_of_which_one_writes(world: World) -> None:
    world.turn(0)
    assert world.one.leads()
    world.api.record = type(world.api.record)()
    world.turn(1)
    assert world.other.leads()
    assert world.leases[0].term() is not None
    with pytest.raises(NotAllowed):
        world.write(world.one)
    world.write(world.other)


def test_a_lake_that_came_from_a_backup_has_lost_its_claims_and_not_its_tokens(world: World) -> None:
    for n in (0, 1, 0):
        world.turn(n)
        world.turn(n, after=DURATION)
        leader = (world.one, world.other)[n]
        assert leader.leads()
        world.write(leader)
    had = world.token()
    assert had is not None
    shutil.rmtree(Path(world.lake.root) / "_medallion" / "fences")
    fresh = LeaderGuard(Lease(Memory(), "fresh"), world.lake, "refresh-s", [TABLE])
    fresh._lease.turn()
    assert fresh.leads()
    world.write(fresh)
    assert world.token() == had + 1


def test_where_there_is_no_cluster_everybody_may(world: World) -> None:
    assert Alone().leads()
    world.write(Alone())
    assert world.token() is None


def test_the_leader_refreshes_what_any_worker_took_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone = Zone(tmp_path)
    catalog = Catalog((shop.EVENTS, shop.USERS), (shop.history, shop.events))
    api, done = Memory(), list[tuple[str, str]]()
    stop, lakehouse = Event(), SimpleNamespace(lake=zone.lake, session=lambda **_: None)

    def refresh(table: Any, lake: Lake, spark: Any, run: Run, **_: Any) -> Any:
        run.guard.check()
        done.append((run.run_id.split("-")[1], table.name))
        return SimpleNamespace(record=None)

    monkeypatch.setattr(stream_reports, "refresh", refresh)
    workers = [
        stream_reports._Worker(shop.EVENTS, WorkerMetrics("s"), zone.lake, name=f"stream-{n}") for n in "ab"
    ]
    leases = [Lease(api, worker.name) for worker in workers]
    for lease in leases:
        lease.turn()
    threads = [
        Thread(
            target=stream_reports._refresh_silver,
            args=(worker, catalog, lakehouse, LeaderGuard(lease, zone.lake, "w", ["silver.events"]), stop),
        )
        for worker, lease in zip(workers, leases, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(done) == 1, 30)
        zone.json("events/1.json", [shop.event("a", 0)])
        zone.take(shop.EVENTS)  # by neither of them
        until(lambda: len(done) == 2, 30)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert done == [("a", "silver.events")] * 2
