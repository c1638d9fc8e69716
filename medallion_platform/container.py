"""What this process's container may use of its machine, and what it uses, as its control group counts it.

Linux has two versions of control groups, with other names of the same numbers ("Memory Resource Controller",
"CFS Bandwidth Control" and "Control Group v2" in the kernel's documentation). Outside of a container neither
sets a limit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from math import ceil
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


def memory_kills(group: Path = GROUP) -> int:
    """How many processes of this container the system has killed for its memory, 0 where nobody counts them.

    With the first version it kills one of them, and the others go on.
    """
    for name in ("memory.events", "memory/memory.oom_control"):
        with suppress(OSError, ValueError, KeyError):
            return int(dict(line.split() for line in (group / name).read_text().splitlines())["oom_kill"])
    return 0


def cores(group: Path = GROUP) -> int:
    """How many threads can work at the same time: of the machine's cores, those that this process may use."""
    try:
        here = len(os.sched_getaffinity(0))
    except AttributeError:  # Linux only
        here = os.cpu_count() or 1
    quota, period = _cpu_quota(group)
    return max(min(here, ceil(quota / period)), 1) if quota > 0 else here


def _cpu_quota(group: Path) -> tuple[int, int]:
    """Microseconds of work that are allowed within so many of time; not above 0 where nobody limits them."""
    with suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota), int(period)
    with suppress(OSError, ValueError):
        quota, period = ((group / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota), int(period)
    return 0, 1


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
