"""Takes a topic in until it is killed: run as a program, `driver.py BROKERS TOPIC LAKE`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.sources.connectors.kafka.bounded_run import look_at_topics
from medallion_platform_tests.kafka.broker import Broker
from medallion_platform_tests.kafka.test_kafka import source_of
from medallion_platform_tests.pipeline.toy import RUN

if __name__ == "__main__":
    address, topic, lake = sys.argv[1:]
    source = source_of(Broker(address, None), topic)  # type: ignore[arg-type]
    print("begins", flush=True)
    intake(look_at_topics(source), Lake(Path(lake)), RUN, batch_rows=7)
