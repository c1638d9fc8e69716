"""How large a run is made: as large as its most demanding table needs, never larger than a cluster allows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.kubernetes.shape import (
    GB,
    GIB,
    Limits,
    Shape,
    Work,
    decide_shape,
    largest_shape,
    needs_own_run,
    planned_bytes,
)
from medallion_platform.pipeline.need import Layer, Need

LIMITS = Limits(local_bytes=10 * GB, own_run_bytes=100 * GB, most_memory=16 * GIB, most_executors=20)
EVENTS, DAYS, RAW = "silver.events", "gold.days", "bronze.events"


def shaped(
    needs: dict[str, Need], at_least: Shape | None = None, limits: Limits = LIMITS, **work: Any
) -> Shape:
    """The shape of a run of all tables, or of what `work` says."""
    asked = Work(**{"tables": dict.fromkeys(needs), **work})
    return decide_shape(asked, needs, at_least, limits)


def silver(due: int = 0, partition: int = 0, whole: int = 0, **learned: int) -> dict[str, Need]:
    return {EVENTS: Need("silver", due, partition, whole, **learned)}


# one decision at a time ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needs", "shape"),
    [
        ({RAW: Need("bronze")}, Shape(2 * GIB, 1)),
        (silver(0), Shape(3 * GIB, 1)),
        (silver(8 * GIB), Shape(4 * GIB, 2)),
        (silver(10 * GB + 1), Shape(9 * GIB // 2, 2, 2, 10 * GIB, 4)),
        (silver(41 * GB), Shape(9 * GIB // 2, 2, 7, 10 * GIB, 4)),
        (silver(10**15), Shape(9 * GIB // 2, 2, 20, 10 * GIB, 4)),
        ({DAYS: Need("gold", 41 * GB)}, Shape(9 * GIB // 2, 2, 11, 16 * GIB, 6)),
        ({**silver(41 * GB), RAW: Need("bronze")}, Shape(9 * GIB // 2, 2, 7, 10 * GIB, 4)),
        (silver(1, driver_memory=6 * GIB), Shape(6 * GIB, 1)),
        (silver(1, executor_memory=15 * GIB), Shape(3 * GIB, 1)),
        (silver(41 * GB, executor_memory=15 * GIB), Shape(9 * GIB // 2, 2, 7, 15 * GIB, 4)),
        (silver(1, driver_memory=99 * GIB), Shape(16 * GIB, 1)),
    ],
)
def test_what_is_due_decides(needs: dict[str, Need], shape: Shape) -> None:
    assert replace(shaped(needs), spark=False, reason="") == shape


@pytest.mark.parametrize(
    ("needs", "spark"),
    [
        ({RAW: Need("bronze", 1)}, False),
        ({RAW: Need("bronze", 41 * GB)}, True),
        (silver(0), False),
        (silver(1), True),
        ({RAW: Need("bronze", 1), **silver(1)}, True),
        ({}, False),
    ],
)
def test_spark_is_wanted_where_tables_are_refreshed_or_there_are_executors(
    needs: dict[str, Need], spark: bool
) -> None:
    assert shaped(needs).spark == spark


def test_a_small_table_keeps_what_its_executors_needed_in_a_run_with_a_large_one() -> None:
    needs = {**silver(41 * GB), DAYS: Need("gold", 1, executor_memory=15 * GIB)}
    assert shaped(needs).executor_memory == 15 * GIB


@pytest.mark.parametrize(
    ("partitions", "rebuild", "planned"),
    [(None, False, 50), (1, False, 7), (9, False, 50), (None, True, 400), (1, True, 7), (99, True, 400)],
)
def test_what_was_asked_for_is_no_more_than_what_there_is(
    partitions: int | None, rebuild: bool, planned: int
) -> None:
    assert planned_bytes(Need("silver", 50, 7, 400), partitions, rebuild=rebuild) == planned


def test_a_rebuild_of_a_table_that_is_up_to_date_is_as_large_as_the_table() -> None:
    needs = silver(0, GB, 60 * GB)
    assert shaped(needs).executors == 0
    assert shaped(needs, rebuild=True).executors == 10
    assert shaped(needs, rebuild=True, tables={EVENTS: 3}).executors == 0


def test_of_what_nothing_is_known_the_run_is_small() -> None:
    found = shaped({}, tables={EVENTS: None})
    assert (found.memory, found.executors) == (3 * GIB, 0)
    assert found.reason == "nothing is known of what it reads: threads in a pod of 3 GiB"


def test_a_table_that_is_not_asked_for_counts_for_nothing() -> None:
    needs = {**silver(1), DAYS: Need("gold", 10**15, driver_memory=16 * GIB)}
    assert shaped(needs, tables={EVENTS: None}) == shaped(silver(1))


def test_an_earlier_run_that_had_too_little_is_heard() -> None:
    too_small = Shape(6 * GIB, 3, reason="run 1a2b was killed with 4 GiB")
    found = shaped(silver(1), too_small)
    assert (found.memory, found.cores) == (6 * GIB, 3)
    assert found.reason == (
        "silver.events: 0.0 GB planned, no more than 10 GB; run 1a2b was killed with 4 GiB: "
        "threads in a pod of 6 GiB"
    )


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        (silver(41 * GB), "silver.events: 41 GB planned, more than 10 GB: 7 executors of 10 GiB"),
        (
            silver(41 * GB, executor_memory=12 * GIB),
            "silver.events: 41 GB planned, more than 10 GB; executors of silver.events were killed with less "
            "than 12 GiB: 7 executors of 12 GiB",
        ),
        (
            silver(1200 * 10**6, driver_memory=6 * GIB),
            "silver.events: 1.2 GB planned, no more than 10 GB; silver.events was killed with less than 6 GiB"
            ": threads in a pod of 6 GiB",
        ),
        (
            {**silver(2 * GB), DAYS: Need("gold", 3 * GB)},
            "gold.days: 3.0 GB planned, no more than 10 GB: threads in a pod of 3 GiB",
        ),
    ],
)
def test_the_reason_names_the_table_and_what_follows(needs: dict[str, Need], reason: str) -> None:
    assert shaped(needs).reason == reason


def test_a_cluster_without_executors_does_all_in_threads() -> None:
    found = shaped(silver(10**15), limits=replace(LIMITS, most_executors=0))
    assert (found.executors, found.executor_memory, found.executor_cores) == (0, 0, 0)
    assert shaped(silver(10**15), limits=replace(LIMITS, most_executors=1)).executors == 1


def test_a_run_of_its_own_is_for_what_is_due_beyond_the_bound() -> None:
    assert needs_own_run(Need("silver", 100 * GB + 1), LIMITS)
    assert not needs_own_run(Need("silver", 100 * GB, 10**15, 10**15), LIMITS)
    assert needs_own_run(Need("silver", 1, config={"pod_spec_config": {"priority": 1}}), LIMITS)


# any work -----------------------------------------------------------------------------------------

BYTES = st.integers(0, 10**14)
MEMORY = st.none() | st.integers(1, 64 * GIB)
NEEDS = st.builds(Need, st.sampled_from(get_args(Layer)), BYTES, BYTES, BYTES, MEMORY, MEMORY)
TABLES = st.dictionaries(st.sampled_from("abcd"), NEEDS, max_size=4)
ASKED = st.dictionaries(st.sampled_from("abcde"), st.none() | st.integers(0, 5000), max_size=5)
SOME_LIMITS = st.builds(Limits, BYTES, BYTES, st.integers(GIB, 64 * GIB), st.integers(0, 50))
FORMER = st.none() | st.builds(
    Shape, st.integers(GIB, 64 * GIB), st.integers(1, 4), st.integers(0, 50), st.integers(1, 64 * GIB)
)


@given(ASKED, TABLES, FORMER, SOME_LIMITS, st.booleans())
def test_no_run_is_larger_than_the_cluster_allows(
    asked: dict[str, int | None], needs: dict[str, Need], former: Shape | None, limits: Limits, rebuild: bool
) -> None:
    found = decide_shape(Work(asked, rebuild), needs, former, limits)
    largest = largest_shape(limits.most_memory, limits.most_executors)
    for part in ("memory", "cores", "executors", "executor_memory", "executor_cores"):
        assert getattr(found, part) <= getattr(largest, part), part
    assert 0 < found.memory <= limits.most_memory
    assert found.cores >= 1
    assert 0 <= found.executors <= limits.most_executors
    assert 0 <= found.executor_memory <= limits.most_memory
    assert bool(found.executors) == bool(found.executor_memory)
    assert found.reason


@given(ASKED, TABLES, FORMER, SOME_LIMITS, st.booleans(), st.data())
def test_who_needs_more_never_gets_less(
    asked: dict[str, int | None],
    needs: dict[str, Need],
    former: Shape | None,
    limits: Limits,
    rebuild: bool,
    data: st.DataObject,
) -> None:
    def more(amount: int) -> int:
        return amount + data.draw(st.integers(0, 10**13))

    grown = {
        name: Need(n.layer, more(n.due_bytes), more(n.partition_bytes), more(n.whole_bytes), n.driver_memory)
        for name, n in needs.items()
    }
    unlearned = {name: replace(n, executor_memory=None) for name, n in needs.items()}
    less = decide_shape(Work(asked, rebuild), unlearned, former, limits)
    found = decide_shape(Work(asked, rebuild), grown, former, limits)
    for name in ("memory", "cores", "executors", "executor_memory"):
        assert getattr(found, name) >= getattr(less, name), name
    # Where the cluster bounds its memory, an executor has fewer cores: a task never has less memory.
    assert found.executor_memory * less.executor_cores >= less.executor_memory * found.executor_cores


@given(ASKED, TABLES, FORMER, SOME_LIMITS)
def test_who_repeats_a_run_never_gets_less_than_it_had(
    asked: dict[str, int | None], needs: dict[str, Need], former: Shape | None, limits: Limits
) -> None:
    alone, again = (decide_shape(Work(asked), needs, f, limits) for f in (None, former))
    assert again.memory >= alone.memory
    assert again.executors >= alone.executors
    if former:
        assert again.memory >= min(former.memory, limits.most_memory)
        assert again.executors >= min(former.executors, limits.most_executors)
