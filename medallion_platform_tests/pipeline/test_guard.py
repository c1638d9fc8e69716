"""A run's guard is asked before each commit: what it refuses is not written, and nothing is lost by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from medallion_platform.lakehouse import dead_letters, file_registry
from medallion_platform.lakehouse.guard import Guard, NotAllowed
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake.replay import parse_table_again, replay
from medallion_platform.pipeline.refresh import refresh
from medallion_platform.pipeline.rollback import rollback
from medallion_platform.pipeline.run import Run
from medallion_platform_tests.pipeline import shop
from medallion_platform_tests.pipeline.test_replay import LAX, stricter
from medallion_platform_tests.pipeline.toy import (
    CSV,
    FIELDS,
    NOW,
    RUN,
    Zone,
    bad,
    good,
    letters,
    table_rows,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TOKEN = "leader/somebody"


class Allowing(Guard):
    """Allows so many commits, and counts how often it is asked."""

    def __init__(self, most: int) -> None:
        self.most, self.asked = most, 0

    def check(self) -> Mapping[str, int]:
        self.asked += 1
        if self.asked > self.most:
            raise NotAllowed("the test does not want it")
        return {TOKEN: 7}


def commits(lake: Lake, table: str) -> int:
    """How many commits a table has beside the one that made it."""
    return max(lake.version(table), 0)


@dataclass(frozen=True)
class Operation:
    """What is done to a zone, after what, and in how many commits."""

    prepare: Callable[[Zone], object]
    work: Callable[[Zone, Run], object]
    commits: int


def take(zone: Zone, run: Run) -> object:
    return zone.take_seen(CSV, zone.seen(CSV), zone.lake, run)


def land(zone: Zone) -> None:
    zone.csv("events/1.csv", [good("a"), good("b", 0, "-1"), bad(), good("c", 1, "2"), good("d", 2, "9")])


def taken(zone: Zone) -> None:
    land(zone)
    take(zone, Run("taken", NOW))


OPERATIONS = {
    "intake": Operation(land, take, 3),  # files, letters, rows
    "replay": Operation(taken, lambda zone, run: replay(LAX, zone.lake, run), 2),
    "reparse": Operation(taken, lambda zone, run: parse_table_again(stricter(5), zone.lake, run), 2),
    "rollback": Operation(taken, lambda zone, run: rollback(Catalog((CSV,), ()), zone.lake, "taken", run), 2),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.failure("conflict")
def test_the_guard_is_asked_before_each_commit(name: str, tmp_path: Path) -> None:
    operation = OPERATIONS[name]
    tables = (CSV.table, dead_letters.name(CSV.table), file_registry.registry_table(CSV.name))
    undisturbed = Zone(tmp_path / "undisturbed")
    operation.prepare(undisturbed)
    operation.work(undisturbed, RUN)
    for allowed in range(operation.commits + 1):
        zone = Zone(tmp_path / str(allowed))
        operation.prepare(zone)
        before = {table: commits(zone.lake, table) for table in tables}
        guard = Allowing(allowed)
        work = partial(operation.work, zone, Run("guarded", NOW, guard=guard))
        if allowed < operation.commits:
            with pytest.raises(NotAllowed):
                work()
        else:
            work()
            assert guard.asked == operation.commits
        written = [table for table in tables for _ in range(commits(zone.lake, table) - before[table])]
        assert len(written) == allowed
        for table in written:
            found = zone.lake.open(table)
            assert found is not None
            assert found.transaction_version(TOKEN) == 7
        if allowed < operation.commits:
            operation.work(zone, RUN)
        assert table_rows(zone.lake).equals(table_rows(undisturbed.lake))
        assert letters(zone.lake).equals(letters(undisturbed.lake))


@pytest.mark.failure("conflict")
def test_a_new_column_is_not_added_by_who_may_not_write(tmp_path: Path) -> None:
    zone = Zone(tmp_path)
    taken(zone)
    zone.csv("events/2.csv", [good("e", 0, "5", "", "red")], (*FIELDS, "color"))
    before = commits(zone.lake, CSV.table)
    with pytest.raises(NotAllowed):
        take(zone, Run("guarded", NOW, guard=Allowing(1)))  # the registry's
    assert commits(zone.lake, CSV.table) == before
    take(zone, RUN)
    assert table_rows(zone.lake)["event_id"].to_list() == ["a", "c", "d", "e"]


@pytest.mark.failure("conflict")
def test_a_refresh_asks_before_letters_and_rows(tmp_path: Path, spark: SparkSession) -> None:
    zone = Zone(tmp_path)
    rows = [shop.event(str(n), n % 3, n, user_id="u", amount=n * 30) for n in range(9)]
    zone.json("events/1.json", rows)
    zone.json("users/1.json", [shop.change("u", 1, 0, "gold")])
    shop.take_all(zone)
    lake, silver = zone.lake, shop.events.name
    shop.bring(shop.history, lake, spark)

    def bring(guard: Guard) -> None:
        columns = shop.SHOP.partition_columns
        refresh(shop.events, lake, lambda: spark, Run("r", NOW, guard=guard), partition_columns=columns)

    for allowed in (0, 1):
        with pytest.raises(NotAllowed):
            bring(Allowing(allowed))
        assert (commits(lake, dead_letters.name(silver)), commits(lake, silver)) == (allowed, 0)
    guard = Allowing(2)
    bring(guard)
    assert guard.asked == 2
    assert lake.rows(silver) + dead_letters.count(lake, silver) == len(rows)
    bring(Allowing(0))  # nothing to do, nothing to ask
