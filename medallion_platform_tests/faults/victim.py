"""A process that takes a topic in and is killed: by itself at a named step, or from outside at any instant.

It is one intake of what is there, or a continuous worker.

Processes are forked from one that has imported everything and has done nothing yet, so that hundreds of
them cost seconds each and not a start of Python.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event
from typing import Any

import confluent_kafka
import deltalake
import polars

from medallion_platform.lakehouse import dead_letters
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.pipeline.intake import polars_engine as steps
from medallion_platform.pipeline.intake import stream as worker
from medallion_platform.pipeline.run import Run
from medallion_platform.sources.connectors.kafka import bounded_run
from medallion_platform.sources.connectors.kafka.follow import TopicFollower
from medallion_platform.sources.formats.jsonlines import JsonLinesParser
from medallion_platform.sources.formats.records import ParseResult
from medallion_platform.sources.formats.slices import Block, Ints
from medallion_platform_tests.kafka.broker import Broker
from medallion_platform_tests.kafka.test_kafka import source_of
from medallion_platform_tests.kafka.worker import Printing

_IMPORTED = (confluent_kafka, polars)

STEPS: dict[str, tuple[Any, str]] = {
    "a look at the topic": (bounded_run, "look_at_topics"),
    "triage": (steps, "triage"),
    "dead letters": (dead_letters, "append"),
    "rows and positions": (steps.polars_writer, "append_rows"),
    "their files": (steps.polars_writer, "write_partition_file"),
    "the commit itself": (deltalake.DeltaTable, "create_write_transaction"),
}
"""What happens between a message that was read and a position that is known, in this order."""

STREAM_STEPS = STEPS | {
    "a look at the topic": (TopicFollower, "poll"),
    "a whole batch": (worker, "intake"),
}
"""The same in a continuous worker."""


@dataclass(frozen=True)
class Aim:
    """Die before or after the nth call of a step."""

    step: str
    call: int
    after: bool


def start(broker: Broker, topic: str, lake: Path, rows: int, aim: Aim | None) -> BaseProcess:
    """A process that takes in what is there, in batches of some rows."""
    return _forked(_take, broker.address, topic, str(lake), rows, aim)


def follow(broker: Broker, topic: str, lake: Path, aim: Aim) -> BaseProcess:
    """A continuous worker, which ends only by its aim."""
    return _forked(_follow, broker.address, topic, str(lake), aim)


def read_fatal(work: Callable[..., None], *arguments: object) -> BaseProcess:
    """A process that works, and dies as soon as it parses a line with the word `fatal`."""
    return _forked(_reads_fatal, work, *arguments)


def follow_topic(address: str, topic: str, lake: str, messages: int) -> None:
    """A continuous worker, which stops once it has taken in so many messages, dead letters among them."""
    source = source_of(Broker(address, None), topic)  # type: ignore[arg-type]
    there, stop = Lake(Path(lake)), Event()

    class Watch(Printing):
        def idle(self) -> None:
            if there.rows(source.table) + dead_letters.count(there, source.table) >= messages:
                stop.set()

    # A group of its own: the broker waits for seconds until it believes that the one before is dead.
    group = f"{source.group(lake)}-{os.getpid()}"
    follower = TopicFollower(source, group, lambda: there.positions(source.table))
    worker.stream(follower, there, lambda: Run.now(f"run-{os.getpid()}"), stop, Watch())
    follower.close()


def load(steps: Mapping[str, tuple[Any, str]], aim: Aim) -> None:
    """Put the shot into the step that is aimed at."""
    module, name = steps[aim.step]
    setattr(module, name, _shot(getattr(module, name), aim))


def _forked(body: Callable[..., None], *arguments: object) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=body, args=arguments)
    process.start()
    return process


def _reads_fatal(work: Callable[..., None], *arguments: object) -> None:
    parse = JsonLinesParser.parse

    def dies(parser: JsonLinesParser, block: Block, starts: Ints, ends: Ints) -> ParseResult:
        if b"fatal" in bytes(block.text):
            _die()
        return parse(parser, block, starts, ends)

    JsonLinesParser.parse = dies
    work(*arguments)


def _follow(address: str, topic: str, lake: str, aim: Aim) -> None:
    load(STREAM_STEPS, aim)
    source = source_of(Broker(address, None), topic)  # type: ignore[arg-type]
    there = Lake(Path(lake))
    # A group of its own: the broker waits for seconds until it believes that the one before is dead.
    group = f"{source.group(lake)}-{os.getpid()}"
    follower = TopicFollower(source, group, lambda: there.positions(source.table))
    worker.stream(follower, there, lambda: Run.now(f"run-{os.getpid()}"), Event(), Printing())


def _take(address: str, topic: str, lake: str, rows: int, aim: Aim | None) -> None:
    if aim:
        load(STEPS, aim)
    source = source_of(Broker(address, None), topic)  # type: ignore[arg-type]
    run = Run(f"run-{os.getpid()}", datetime(2026, 11, 21, 12, tzinfo=UTC))
    steps.intake(bounded_run.look_at_topics(source), Lake(Path(lake)), run, batch_rows=rows)


def _shot(step: Callable[..., Any], aim: Aim) -> Callable[..., Any]:
    calls = 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == aim.call and not aim.after:
            _die()
        done = step(*arguments, **named)
        if calls == aim.call:
            _die()
        return done

    return counted


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
