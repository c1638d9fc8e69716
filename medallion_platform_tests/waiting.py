"""How a test waits for what has to come, however slow the machine is, and looks at what happens meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Event, Thread
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


@contextmanager
def meanwhile(look: Callable[[], object], every: float = 1) -> Generator[None]:
    """Look again and again in the `with` block."""
    stop = Event()

    def go_on() -> None:
        while not stop.wait(every):
            look()

    thread = Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
