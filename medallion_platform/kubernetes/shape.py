"""The shape of a run: how large its pod is, and how many executors it may ask for. Pure.

A run's pod holds Spark's driver. Below a size the driver does all the work in threads; above it executors do,
in pods of their own. A run gets what the most demanding of its tables needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil

from medallion_platform.pipeline.memory import next_step
from medallion_platform.pipeline.need import Layer, Need

GIB = 1 << 30
GB = 10**9


@dataclass(frozen=True)
class Work:
    """What a run was asked for.

    tables: each with the number of its partitions that were asked for; None for what is out of date. rebuild:
    up to date or not.
    """

    tables: Mapping[str, int | None]
    rebuild: bool = False


@dataclass(frozen=True)
class Limits:
    """What a cluster has for one run.

    local_bytes: up to so many bytes of data files are read without executors. own_run_bytes: a table with
    more to read gets a run of its own. most_memory: bytes of the largest pod. most_executors: of one run.
    """

    local_bytes: int
    own_run_bytes: int
    most_memory: int
    most_executors: int


@dataclass(frozen=True)
class Shape:
    """What a run's pod gets, and what it may ask for; memory in bytes.

    executors: the most that may run at the same time; 0: the work is done by threads of the run's pod.
    executor_memory: of an executor's pod, Spark's heap and what lies beside it. spark: whether it is known to
    need Spark, which then starts while the code is loaded. reason: for people.
    """

    memory: int
    cores: int
    executors: int = 0
    executor_memory: int = 0
    executor_cores: int = 0
    spark: bool = False
    reason: str = ""


@dataclass(frozen=True)
class _Profile:
    """An executor for tables of a layer, and the bytes of data files that one of them is asked for."""

    cores: int
    heap: int
    bytes: int

    @property
    def memory(self) -> int:
        """Of its pod: a quarter of the heap lies beside it."""
        return self.heap + self.heap // 4


_PROFILES: Mapping[Layer, _Profile] = {
    "bronze": _Profile(cores=4, heap=4 * GIB, bytes=8 * GB),
    "silver": _Profile(cores=4, heap=8 * GIB, bytes=6 * GB),
    "gold": _Profile(cores=8, heap=16 * GIB, bytes=4 * GB),
}
_FEWEST_EXECUTORS = 2
"""One would only be a driver that is further away."""
_INTAKE_MEMORY = 2 * GIB
"""Of a run that starts no JVM."""
_LEAST_MEMORY = 3 * GIB
_BESIDE_ROWS = 2 * GIB
"""What Python and a JVM take before they read a row."""
_MEMORY_OF_A_CORE = 2 * GIB
_MOST_CORES = 4
"""Of a run's pod: a table that needs more has executors."""
_PIECE = 256 << 20
"""Memory is asked for in whole pieces."""


def decide_shape(work: Work, needs: Mapping[str, Need], at_least: Shape | None, limits: Limits) -> Shape:
    """The shape of a run.

    needs: of the tables that are known. at_least: what the run gets at the least, since another one like it
    had too little; its reason says so.
    """
    known = {name: needs[name] for name in work.tables if name in needs}
    planned = {
        name: planned_bytes(need, work.tables[name], rebuild=work.rebuild) for name, need in known.items()
    }
    shapes = [_shape_for(need, planned[name], limits) for name, need in known.items()]
    shape = _largest([*(shapes or [_in_threads(0, limits)]), *([at_least] if at_least else [])])
    if shape.executors:
        worked = [need.executor_memory for need in known.values() if need.executor_memory]
        shape = replace(shape, executor_memory=max(shape.executor_memory, *worked, 0))
    shape = _within(shape, limits)
    why = "; ".join(_reasons(shape, planned, known, at_least, limits))
    spark = bool(shape.executors) or any(planned[n] and known[n].layer != "bronze" for n in known)
    return replace(shape, spark=spark, reason=f"{why}: {_in_words(shape)}")


def after_kill(killed: int, limits: Limits, run: str) -> Shape:
    """What a run gets at the least, since another one was killed for its memory with so many bytes.

    run: how people know that one.
    """
    reason = f"run {run} was killed with {gibibytes(killed)}"
    more = next_step(killed, limits.most_memory) or limits.most_memory
    return replace(_more_memory(more), reason=reason)


def largest_shape(most_memory: int, most_executors: int) -> Shape:
    """The largest shape that any run may get: of the largest pods (bytes), and with all executors."""
    if not most_executors:
        return Shape(most_memory, _MOST_CORES)
    cores = max(profile.cores for profile in _PROFILES.values())
    return Shape(most_memory, _MOST_CORES, most_executors, most_memory, cores)


def needs_own_run(need: Need, limits: Limits) -> bool:
    """Whether a table gets a run of its own: no other waits for it, or gets a pod that only it wants."""
    return need.due_bytes > limits.own_run_bytes or bool(need.config)


def planned_bytes(need: Need, partitions: int | None, *, rebuild: bool) -> int:
    """The bytes that work on a table reads: on so many partitions, or (None) on all."""
    every = need.whole_bytes if rebuild else need.due_bytes
    return every if partitions is None else min(every, partitions * need.partition_bytes)


def _shape_for(need: Need, planned: int, limits: Limits) -> Shape:
    """The shape for one table."""
    shape = _in_threads(planned, limits) if need.layer != "bronze" or planned else _shape(_INTAKE_MEMORY)
    if need.driver_memory:
        shape = _largest([shape, _more_memory(need.driver_memory)])
    if planned <= limits.local_bytes:
        return shape
    profile = _PROFILES[need.layer]
    return replace(
        shape,
        executors=max(ceil(planned / profile.bytes), _FEWEST_EXECUTORS),
        executor_memory=profile.memory,
        executor_cores=profile.cores,
    )


def _in_threads(planned: int, limits: Limits) -> Shape:
    """A run's pod that reads so many bytes; what is beyond the limit is read by executors."""
    wanted = _BESIDE_ROWS + min(planned, limits.local_bytes) // 4
    return _shape(max(min(wanted, limits.most_memory // 2), _LEAST_MEMORY))


def _shape(memory: int) -> Shape:
    """A run's pod of this memory, in whole pieces, with the cores that go with it."""
    cores = min(max(memory // _MEMORY_OF_A_CORE, 1), _MOST_CORES)
    return replace(_more_memory(memory), cores=cores)


def _more_memory(memory: int) -> Shape:
    """This memory, in whole pieces, for a pod that has cores: more of them would take more at a time."""
    return Shape(-(-memory // _PIECE) * _PIECE, cores=1)


def _largest(shapes: Iterable[Shape]) -> Shape:
    """The most of everything."""
    found = list(shapes)
    return Shape(
        max(s.memory for s in found),
        max(s.cores for s in found),
        max(s.executors for s in found),
        max(s.executor_memory for s in found),
        max(s.executor_cores for s in found),
    )


def _within(shape: Shape, limits: Limits) -> Shape:
    """The shape, no larger than a cluster allows."""
    memory = min(shape.memory, limits.most_memory)
    executors = min(shape.executors, limits.most_executors)
    if not executors:
        return Shape(memory, shape.cores)
    executor_memory = min(shape.executor_memory, limits.most_memory)
    # A task needs the memory that it was meant to have: a smaller executor has fewer of them at a time.
    cores = max(shape.executor_cores * executor_memory // shape.executor_memory, 1)
    return Shape(memory, shape.cores, executors, executor_memory, cores)


def _reasons(
    shape: Shape,
    planned: Mapping[str, int],
    needs: Mapping[str, Need],
    at_least: Shape | None,
    limits: Limits,
) -> Iterator[str]:
    """Why a run is shaped like this, for people."""
    if planned:
        name = max(planned, key=lambda name: planned[name])
        more = "more" if planned[name] > limits.local_bytes else "no more"
        yield f"{name}: {_gigabytes(planned[name])} planned, {more} than {_gigabytes(limits.local_bytes)}"
    else:
        yield "nothing is known of what it reads"
    for name, need in needs.items():
        if need.driver_memory and need.driver_memory >= shape.memory:
            yield f"{name} was killed with less than {gibibytes(shape.memory)}"
        if need.executor_memory and shape.executors and need.executor_memory >= shape.executor_memory:
            yield f"executors of {name} were killed with less than {gibibytes(shape.executor_memory)}"
    if at_least:
        yield at_least.reason


def _in_words(shape: Shape) -> str:
    if not shape.executors:
        return f"threads in a pod of {gibibytes(shape.memory)}"
    several = "executors" if shape.executors > 1 else "executor"
    return f"{shape.executors} {several} of {gibibytes(shape.executor_memory)}"


def _gigabytes(size: int) -> str:
    return f"{size / GB:,.0f} GB" if size >= 10 * GB else f"{size / GB:.1f} GB"


def gibibytes(memory: int) -> str:
    """Bytes of memory in words."""
    return f"{memory / GIB:g} GiB"
