"""Topics into a lake in a bucket, by either engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.kafka.broker import Broker
from medallion_platform_tests.kafka.conftest import running_broker
from medallion_platform_tests.kafka.test_kafka import conserved, event, ids, letters, source_of, take
from medallion_platform_tests.pipeline.toy import EVENTS

pytestmark = [pytest.mark.s3, pytest.mark.broker]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    yield from running_broker(tmp_path_factory)


@pytest.mark.usefixtures("spark")
def test_either_engine_takes_topics_into_a_bucket(broker: Broker, bucket: str) -> None:
    """Executors write there as well; duplicates of the turn before are found in what the other wrote."""
    broker.create("clicks", 2)
    lake = Lake(bucket)
    for turn in range(4):
        for n in range(2):
            again = [event(f"{turn - 1}-{n}-0")] if turn else []
            broker.send("clicks", [event(f"{turn}-{n}-{i}") for i in range(20)] + [b"[", *again], n)
        engine = ["polars", "spark"][turn % 2]
        taken = take(source_of(broker, "clicks", contract=EVENTS, engine=engine), lake)
        assert (taken.counts.written, taken.counts.duplicate) == (40, 2 if turn else 0)
    assert len(set(ids(lake))) == 160
    assert letters(lake).height == 8
    conserved(lake)
