"""SIGKILL, hundreds of times: each message that was acknowledged is a row or a dead letter, once."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from medallion_platform.lakehouse.lake import Lake
from medallion_platform.sources import kafka
from medallion_platform_tests.faults.victim import STEPS, Aim, start
from medallion_platform_tests.kafka.broker import Broker
from medallion_platform_tests.kafka.test_kafka import conserved, event, ids, letters, source_of, take

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
    assert kafka.look(source).waiting(lake.positions("bronze.clicks")) == []
    conserved(lake)
