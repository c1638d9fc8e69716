"""What goes wrong at an object store under a continuous worker, while a producer goes on sending."""

from __future__ import annotations

import json
import os
import signal
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from medallion_platform.lakehouse.lake import Lake
from medallion_platform_tests.command import streaming
from medallion_platform_tests.faults.test_broker import Sending
from medallion_platform_tests.faults.test_bucket import Weather
from medallion_platform_tests.kafka.broker import Broker
from medallion_platform_tests.kafka.test_kafka import conserved, ids
from medallion_platform_tests.kafka.test_stream import Worker, region, until, workers
from medallion_platform_tests.s3.conftest import bucket
from medallion_platform_tests.s3.credentials import expiring
from medallion_platform_tests.s3.server import (
    EXPIRED,
    KEYS,
    SKEWED,
    SLOW_DOWN,
    Refusal,
    Request,
    Server,
    proxy,
)

__all__ = ["bucket"]

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


# S3A asks again for minutes where it is told to slow down; what it then says is no sooner to be had.
@pytest.mark.parametrize(("engine", "refusals"), [("polars", [SLOW_DOWN, SKEWED]), ("spark", [EXPIRED])])
def test_a_bucket_in_bad_weather_under_a_worker(
    server: Server,
    bucket: str,
    broker: Broker,
    topic: str,
    tmp_path: Path,
    engine: str,
    refusals: list[Refusal],
    long: bool,
    recovering: Any,
) -> None:
    """It gets over what passes within seconds, and over lost answers to commits; where a bucket refuses all
    for longer, it says why it waits, and goes on by itself.
    """
    broker.create(topic, 2)
    lake, weather = Lake(bucket), Weather()
    commits, lost = count(), list[str]()

    def meddle(request: Request) -> str | Refusal | None:
        todo = weather(request)
        if todo is None and request.is_commit and next(commits) % 3 == 1:
            lost.append(request.path)
            return "lose"
        return todo

    with (
        proxy(server, meddle) as through,
        workers(
            Worker(broker, topic, bucket, engine=engine, home=tmp_path, told=through.environment)
        ) as running,
    ):
        sending = Sending(broker, topic)
        for turn, refusal in enumerate(refusals * (5 if long else 1), 1):
            weather.bad = 0.04
            before = lake.rows("bronze.clicks")
            until(lambda: lake.rows("bronze.clicks") > before + 1000, running)  # noqa: B023
            weather.refusal, weather.after = refusal, weather.chance.randint(0, 20)
            until(lambda: running[0].said().count("waits ") >= turn, running)  # noqa: B023
            assert "the server says" in running[0].said()
            there = lake.rows("bronze.clicks")
            weather.renewed()
            weather.burst_until = time.monotonic() + weather.chance.uniform(0, 3)
            with recovering(f"a bucket that refused a worker ({engine}) for a while"):
                until(lambda: lake.rows("bronze.clicks") > there, running)  # noqa: B023
        until(lambda: weather.met_each(1), running)
        acknowledged = sending.end()
        until(lambda: lake.rows("bronze.clicks") >= len(acknowledged), running)
        assert running[0].end(signal.SIGTERM) == 0, running[0].said()
    assert lost
    assert ids(lake) == sorted(acknowledged)
    conserved(lake)


def test_credentials_that_expire_under_a_worker_are_renewed(
    server: Server, bucket: str, broker: Broker, tmp_path: Path
) -> None:
    """Each client asks for new ones by itself: delta-rs, obstore and Polars, and S3A for the refresh."""
    broker.create("clickstream.public.regions")
    lake, log, sent = Lake(f"{bucket}/lake"), tmp_path / "said.log", 0
    with expiring(tmp_path) as credentials, proxy(server, credentials.refuse) as through:
        told = {**os.environ, **through.environment, **credentials.environment}
        told |= {"MEDALLION_LAKE": str(lake.root), "MEDALLION_HOME": str(tmp_path)}
        told["MEDALLION_KAFKA"] = json.dumps({"bootstrap.servers": broker.address})
        for name in KEYS:
            del told[name]
        with streaming("clickstream.regions", told, log) as process:
            end = time.monotonic() + 480
            while lake.rows("silver.regions") < sent or sent < 2 or not credentials.outlived:
                if lake.rows("silver.regions") == sent:
                    broker.send("clickstream.public.regions", [region(f"R{sent}")])
                    sent += 1
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()
    assert lake.rows("bronze.regions") == sent
    assert {"object_store", "polars", "aws-sdk-java"} <= set(credentials.used)
    assert "Traceback" not in log.read_text()
