"""Incremental equals rebuild: whatever happens in whatever order, the tables are the same at the end."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from medallion_platform.pipeline.refresh import commit as steps

from .shop import SHOP, assert_same, bring, bring_all, change, event, rebuilt, take_all
from .toy import Row, Zone, bad

STEPS = int(os.environ.get("MEDALLION_TEST_STEPS", "5"))
SEEDS = range(int(os.environ.get("MEDALLION_TEST_SEQUENCES", "1")))


class Crashed(BaseException):
    """The process died here."""


class Shop:
    """One life of the shop: random steps, each told in `said`."""

    def __init__(self, zone: Zone, spark: SparkSession, seed: int) -> None:
        self.zone, self.spark, self.chance = zone, spark, random.Random(seed)
        self.said: list[str] = []
        self.files: list[tuple[str, list[Row]]] = []
        self.keys = self.position = 0

    def act(self, steps: int) -> None:
        self.deliver_events()
        self.deliver_users()
        self.refresh_all()
        for _ in range(steps):
            step = self.chance.choice(
                [self.deliver_events, self.deliver_events, self.deliver_users, self.again, self.optimize]
            )
            step()
            then = self.chance.choice(
                [self.refresh_some, self.refresh_some, self.crash, self.nothing, self.nothing]
            )
            then()

    def deliver_events(self) -> None:
        rows = []
        for _ in range(self.chance.randint(1, 6)):
            if self.chance.random() < 0.1:
                rows.append(bad(b"{"))
                continue
            self.keys += 1
            key = f"e{self.keys if self.chance.random() < 0.8 else self.chance.randint(0, self.keys)}"
            more: dict[str, Any] = {"user_id": self.chance.choice(["u1", "u2", "u3", None])}
            more["amount"] = self.chance.choice([1, 2, 3, 50, 100, 1000, None, -1])
            if self.chance.random() < 0.2:
                more["color"] = self.chance.choice(["red", "blue"])
            rows.append(
                event(key, self.chance.choice([0, 1, 2, 3, 6, 7, 8, 15]), self.chance.randint(0, 30), **more)
            )
        self.deliver("events", rows)

    def deliver_users(self) -> None:
        rows = []
        for _ in range(self.chance.randint(1, 3)):
            self.position += 1
            position = self.position if self.chance.random() < 0.7 else self.chance.randint(1, self.position)
            segment = self.chance.choice(["gold", "silver", "wrong", "forbidden", None])
            rows.append(
                change(f"u{self.chance.randint(1, 4)}", position, self.chance.randint(0, 15), segment)
            )
        self.deliver("users", rows)

    def deliver(self, source: str, rows: list[Row]) -> None:
        path = f"{source}/{len(self.files)}.json"
        self.files.append((path, rows))
        self.zone.json(path, rows)
        take_all(self.zone)
        self.say("deliver", path, [r.text for r in rows])

    def again(self) -> None:
        path, rows = self.chance.choice(self.files)
        self.zone.json(f"{path.removesuffix('.json')}-again.json", rows)
        take_all(self.zone)
        self.say("again", path)

    def optimize(self) -> None:
        name = self.chance.choice([n for n in SHOP.names if self.zone.lake.exists(n)])
        found = self.zone.lake.open(name)
        assert isinstance(found, DeltaTable)
        found.optimize.compact()
        self.say("optimize", name)

    def refresh_all(self) -> None:
        for done in bring_all(self.zone.lake, self.spark):
            self.say("refresh", done.table, done.reason)

    def refresh_some(self) -> None:
        """Some tables, some of some partitions only, without minding their order."""
        for t in self.chance.sample(SHOP.in_order, self.chance.randint(1, 2)):
            partitions = None
            if t.partition and self.chance.random() < 0.6:
                known = sorted(
                    self.zone.lake.partitions(t.main_upstream.table, "event_date") | {"2026-01-08"}
                )
                partitions = {
                    str(t.partition.of(day_of(u))) for u in self.chance.sample(known, min(2, len(known)))
                }
            done = bring(t, self.zone.lake, self.spark, partitions=partitions)
            self.say("refresh some", t.name, partitions, done.reason)

    def crash(self) -> None:
        """Die between the dead letters and the commit of a refresh."""
        t = self.chance.choice(SHOP.in_order)

        def die(*_: object, **__: object) -> int:
            raise Crashed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps, "commit_files", die)
            try:
                bring(t, self.zone.lake, self.spark)
                self.say("nothing to crash", t.name)
            except Crashed:
                self.say("crash", t.name)

    def nothing(self) -> None:
        """Let changes gather."""

    def say(self, *what: object) -> None:
        self.said.append(" ".join(map(str, what)))
        print(self.said[-1])


def day_of(text: str) -> Any:
    from datetime import date

    return date.fromisoformat(text)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
def test_any_life_of_the_shop_equals_its_rebuild(tmp_path: Path, spark: SparkSession, seed: int) -> None:
    shop = Shop(Zone(tmp_path), spark, seed)
    shop.act(steps=STEPS)
    lake = shop.zone.lake
    shop.refresh_all()
    assert {r.reason for r in bring_all(lake, None)} == {"up to date"}
    assert_same(lake, rebuilt(lake, spark, tmp_path / "rebuilt"))
    for t in SHOP.tables:
        assert not [r for _, r in lake.records(t.name) if r.counts.missing]
