"""One broker and one schema registry for all tests of topics, and a topic of its own for each."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from medallion_platform.spark.jars import JarsUnavailable

from .broker import Broker
from .registry import Registry


def running_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker, for a fixture of any scope."""
    try:
        started = Broker.start(tmp_path_factory.mktemp("broker"))
    except JarsUnavailable as error:
        pytest.skip(f"no Kafka broker: {error}")
    yield started
    started.stop()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    yield from running_broker(tmp_path_factory)


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    try:
        started = Registry.start()
    except JarsUnavailable as error:
        pytest.skip(f"no schema registry: {error}")
    yield started
    started.stop()


@pytest.fixture
def topic() -> str:
    return f"clicks-{uuid.uuid4().hex[:8]}"
