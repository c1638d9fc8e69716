"""The memory of this process's container, as its control group counts it.

Linux has two versions of control groups, with other names of the same numbers ("Memory Resource Controller"
and "Control Group v2" in the kernel's documentation).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

GROUP = Path("/sys/fs/cgroup")
"""Where a container finds its own control group."""

_NO_LIMIT = 1 << 60
"""The first version says a number like this one, the second one a word."""
_EVERY = 0.5


def memory_limit(group: Path = GROUP) -> int | None:
    """The most bytes that this container may use; None without a limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limit = int((group / name).read_text())
            return limit if limit < _NO_LIMIT else None
    return None


def memory_used(group: Path = GROUP) -> int:
    """Bytes that the container's processes use and nobody could take from them, 0 where nobody counts them.

    It is what Kubernetes calls the working set: without the part of the cache of files that is not in use.
    """
    for current, stat, inactive in (
        ("memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):
            used = int((group / current).read_text())
            counts = dict(line.split() for line in (group / stat).read_text().splitlines())
            return max(used - int(counts.get(inactive, 0)), 0)
    return 0


@contextmanager
def watch_peak(measure: Callable[[], int], every: float = _EVERY) -> Generator[Callable[[], int]]:
    """Give what tells, after the `with` block, the highest value of a measure during it.

    every: seconds between two looks, which a thread of its own takes. A look that fails is left out: what is
    measured may end meanwhile.
    """
    peak, ended = 0, Event()

    def look() -> None:
        nonlocal peak
        with suppress(Exception):
            peak = max(peak, measure())

    def watch() -> None:
        look()
        while not ended.wait(every):
            look()
        look()

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: peak
    finally:
        ended.set()
        watcher.join()
