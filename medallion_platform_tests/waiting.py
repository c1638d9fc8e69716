"""How a test waits for what has to come, however slow the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def until(
    holds: Callable[[], Found],
    seconds: float,
    says: Callable[[], str] = lambda: "it never came",
    pause: float = 0.2,
) -> Found:
    """What a condition is as soon as it holds; after so many seconds it fails with what `says` says."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, says()
        time.sleep(pause)
    return found
