"""SIGKILL, hundreds of times: each message that was acknowledged is a row or a dead letter, once.

Of an intake, of a continuous worker, and of a refresh, whose tables are what a rebuild makes.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from medallion_platform.lakehouse.lake import Lake
from medallion_platform.sources.connectors.kafka.bounded_run import look_at_topics
from medallion_platform_tests.faults import shop_driver
from medallion_platform_tests.faults.shop_driver import Killed, Shop, small_shop
from medallion_platform_tests.faults.victim import STEPS, STREAM_STEPS, Aim, follow, start
from medallion_platform_tests.kafka.broker import Broker
from medallion_platform_tests.kafka.test_kafka import conserved, event, ids, letters, source_of, take
from medallion_platform_tests.pipeline.shop import EVENTS, assert_same, change, rebuilt, take_all
from medallion_platform_tests.pipeline.shop import event as row
from medallion_platform_tests.pipeline.toy import Zone, check

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]
PARTITIONS, AT_ONCE = 3, 30


@pytest.mark.parametrize("aimed", [True, False], ids=["at each step", "at any instant"])
def test_killed_hundreds_of_times_nothing_is_lost_or_doubled(
    broker: Broker, topic: str, tmp_path: Path, long: bool, recovering: Any, aimed: bool
) -> None:
    kills = (1000 if long else 200) // 2
    broker.create(topic, PARTITIONS)
    lake = Lake(tmp_path / "lake")
    chance = random.Random(20)
    sent: list[str] = []
    bad: list[bytes] = []

    def send(turn: int) -> None:
        for partition in range(PARTITIONS):
            keys = [f"{turn}-{partition}-{i}" for i in range(AT_ONCE)]
            broken = [b"[%d,%d,%d" % (turn, partition, i) for i in range(chance.randint(0, 5))]
            messages = [*(event(k) for k in keys), *broken]
            chance.shuffle(messages)
            broker.send(topic, messages, partition)  # flushed: every one is acknowledged
            sent.extend(keys)
            bad.extend(broken)

    killed = 0
    turn = 0
    while killed < kills:
        if turn % 4 == 0:
            send(turn)
        turn += 1
        aim = Aim(chance.choice(list(STEPS)), chance.randint(1, 4), chance.random() < 0.5) if aimed else None
        victim = start(broker, topic, lake.root, chance.randint(5, 60), aim)
        if not aimed:
            time.sleep(chance.random() ** 2 * 0.5)
            victim.kill()
        victim.join(60)
        assert victim.exitcode in (0, -signal.SIGKILL), victim.exitcode
        killed += victim.exitcode == -signal.SIGKILL
    with recovering(f"{kills} kills {'at each step' if aimed else 'at any instant'}"):
        source = source_of(broker, topic)
        take(source, lake)
    assert ids(lake) == sorted(sent)
    assert sorted(letters(lake)["payload"].to_list()) == sorted(bad)
    assert look_at_topics(source).waiting(lake.positions("bronze.clicks")) == []
    conserved(lake)


def test_a_worker_that_is_killed_at_each_step_loses_and_doubles_nothing(
    broker: Broker, topic: str, tmp_path: Path, long: bool
) -> None:
    broker.create(topic)
    lake = Lake(tmp_path / "lake")
    sent: list[str] = []
    for turn in range(10 if long else 1):
        for step in STREAM_STEPS:
            for after in (False, True):
                keys = [f"{turn}-{step}-{after}-{i}" for i in range(AT_ONCE)]
                broker.send(topic, [*(event(k) for k in keys), b"{"])
                sent.extend(keys)
                victim = follow(broker, topic, lake.root, Aim(step, 1 + turn % 3 if turn else 1, after))
                try:
                    while victim.is_alive():  # as long as it comes to that step
                        broker.send(topic, [event(f"{len(sent)}")])
                        sent.append(f"{len(sent)}")
                        victim.join(1)
                    assert victim.exitcode == -signal.SIGKILL
                finally:
                    victim.kill()
    source = source_of(broker, topic)
    take(source, lake)
    assert ids(lake) == sorted(sent)
    assert letters(lake).height == len(STREAM_STEPS) * 2 * (10 if long else 1)
    conserved(lake)


def test_a_refresh_that_is_killed_at_each_step_ends_as_a_rebuild(
    tmp_path: Path, spark: SparkSession, long: bool, recovering: Any
) -> None:
    """The driver dies; its Spark ends itself, whatever it was about to do."""
    zone, chance, steps = Zone(tmp_path), random.Random(11), list(shop_driver.STEPS)
    aims = [Aim(step, call, after) for step in steps for call in (1, 2) for after in (False, True)]
    killed = 0
    for n, aim in enumerate(aims * 3 if long else chance.sample(aims, 3)):
        zone.json(f"users/{n}.json", [change("u", n, n % 3, chance.choice(["gold", "wrong", "forbidden"]))])
        rows = [row(f"{n}-{i}", i % 4, i, user_id="u", amount=chance.randint(0, 150)) for i in range(9)]
        zone.json(f"events/{n}.json", rows)
        take_all(zone)
        with Shop(tmp_path, aim=aim) as shop:
            try:
                assert shop("refresh") is None
            except Killed:
                killed += 1
    assert killed >= 2
    with recovering("a refresh that was killed"), Shop(tmp_path) as shop:
        assert shop("refresh") is None
    check(zone, EVENTS)
    assert_same(zone.lake, rebuilt(zone.lake, spark, tmp_path / "rebuilt", small_shop()), small_shop().tables)
    for table in small_shop().tables:
        assert not [r for _, r in zone.lake.records(table.name) if r.counts.missing]
