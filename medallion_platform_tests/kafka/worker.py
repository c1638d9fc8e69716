"""A worker that follows a topic: a program, `worker.py BROKERS TOPIC LAKE keyed|keyless [polars|spark]`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from threading import Event

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from medallion_platform.installation.local_spark import local_spark
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.intake import spark_engine
from medallion_platform.pipeline.intake.stream import stream
from medallion_platform.pipeline.run import Run
from medallion_platform.sources.connectors.kafka.follow import TopicFollower
from medallion_platform_tests.kafka.broker import Broker
from medallion_platform_tests.kafka.test_kafka import KEYLESS, source_of
from medallion_platform_tests.pipeline.toy import EVENTS


class Printing:
    """Says each commit on a line of its own."""

    def taken(self, taken, behind) -> None:  # type: ignore[no-untyped-def]
        print("taken", taken.counts.read, flush=True)

    def working(self) -> None:
        pass

    def idle(self) -> None:
        pass

    def waits(self, why: str) -> None:
        print("waits", why, flush=True)

    def failed(self, error: Exception, begun: object) -> None:
        pass


if __name__ == "__main__":
    address, topic, root, keyed, engine = sys.argv[1:]
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    contract = EVENTS if keyed == "keyed" else KEYLESS
    source = source_of(Broker(address, None), topic, contract=contract)  # type: ignore[arg-type]
    lake = Lake(root)

    def run() -> Run:
        return Run.now(f"worker-{topic}")

    print("begins", flush=True)
    if engine == "spark":
        spark = local_spark(root, topics=True, cores=2).session()
        spark_engine.stream(source, lake, spark, run, stop, Printing())
    else:
        follower = TopicFollower(source, source.group(root), lambda: lake.positions(source.table))
        stream(follower, lake, run, stop, Printing())
        follower.close()
    print("ends", flush=True)
