"""What the fault suite shares: a broker, an object store, and the account of how long each recovery took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from medallion_platform_tests.kafka.conftest import broker, topic
from medallion_platform_tests.s3.conftest import server

__all__ = ["broker", "server", "topic"]

RECOVERED = pytest.StashKey[list[tuple[str, float]]]()


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the long run was asked for."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def recovering(request: pytest.FixtureRequest) -> Callable[[str], AbstractContextManager[None]]:
    """Measures how long it takes until all is well again: `with recovering("a killed broker"):`."""
    told = request.config.stash.setdefault(RECOVERED, [])

    @contextmanager
    def measured(fault: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        told.append((fault, time.monotonic() - began))

    return measured


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The account, one line a fault."""
    told: dict[str, list[float]] = {}
    for fault, seconds in config.stash.get(RECOVERED, []):
        told.setdefault(fault, []).append(seconds)
    for fault, times in told.items():
        times.sort()
        terminalreporter.write_line(
            f"recovered from {fault}: {len(times)} times, median {times[len(times) // 2]:.1f} s, "
            f"longest {times[-1]:.1f} s"
        )
