"""What a refresh decides to do, from logs alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medallion_platform.contracts.contract import Column, ColumnType, Contract
from medallion_platform.lakehouse.commit_record import UNPARTITIONED, CommitRecord
from medallion_platform.lakehouse.delta_log import Commit, PartitionChanges, touched
from medallion_platform.pipeline.refresh.plan import (
    CODE,
    RefreshPlan,
    Upstreams,
    code_version,
    partitions_reached,
    plan_refresh,
    upstream_days,
)
from medallion_platform.pipeline.table import Table, TimePartition, Upstream, daily, table, weekly

MONDAY = date(2026, 1, 5)
DAYS = [str(MONDAY + timedelta(days=n)) for n in range(10)]


def contract(partition: str | None = "day", *columns: str) -> Contract:
    return Contract(
        "C",
        tuple(
            Column(c, ColumnType("date" if c == partition else "string"))
            for c in (partition, "k", *columns)
            if c
        ),
        key=("k",),
        partitioned_by=(partition,) if partition else (),
    )


DAY = daily("day")


def declared(
    incremental: Any = "append",
    partition: TimePartition | None = DAY,
    lookback_days: int = 0,
    more: bool = False,
) -> Table:
    def transform(up: Any) -> Any:
        return up

    def transform_two(up: Any, other: Any) -> Any:
        return up, other

    inputs: dict[str, Any] = {"up": Upstream("silver.up", lookback_days)}
    if more:
        inputs["other"] = "silver.other"
    return table(
        "gold.t",
        contract=contract(partition.column if partition else None),
        inputs=inputs,
        incremental=incremental,
        partition=partition,
        recompute_key=("k",) if incremental == "merge_by_key" else (),
    )(transform_two if more else transform)


def made(t: Table, version: int = 0, **ahead: int) -> CommitRecord:
    """The record of a refresh from a version of each upstream."""
    position = {u: {UNPARTITIONED: version, **ahead} for u in t.upstream_names}
    position[CODE] = dict.fromkeys([UNPARTITIONED, *ahead], code_version(t))
    return CommitRecord("refresh", "r", "", position=position)


def up(appended: Iterable[str] = (), rewritten: Iterable[str] = (), t: Table | None = None) -> Upstreams:
    """One commit to the upstream since the position."""
    log = [Commit(5, frozenset(appended), frozenset(rewritten))]
    seen = touched(log, 0, {}, partitions_reached(t, t.main_upstream)) if t else touched(log, 0, {})
    return Upstreams({"silver.up": 5}, {"silver.up": seen}, {"silver.up": DAYS})


# one decision at a time ---------------------------------------------------------------------------


def test_the_first_refresh_makes_the_whole_table() -> None:
    work = plan_refresh(declared(), None, up())
    assert work.whole
    assert work.position["silver.up"] == {UNPARTITIONED: 5}


def test_a_log_that_was_cleaned_up_makes_the_whole_table() -> None:
    t = declared()
    assert plan_refresh(t, made(t), Upstreams({"silver.up": 5}, {"silver.up": None})).whole


def test_nothing_new_is_nothing_to_do() -> None:
    for t in (
        declared(),
        declared("replace_partitions"),
        declared("merge_by_key", None),
        declared(partition=None),
    ):
        assert plan_refresh(t, made(t), up(), existing=DAYS).nothing


def test_new_rows_are_appended_and_rewritten_partitions_made_anew() -> None:
    t = declared()
    work = plan_refresh(t, made(t), up({DAYS[0], DAYS[1]}, {DAYS[1], DAYS[2]}), existing=DAYS)
    assert (work.append, work.replace) == ({DAYS[0]}, {DAYS[1], DAYS[2]})
    assert work.position["silver.up"] == {UNPARTITIONED: 5}


def test_an_aggregate_makes_its_partitions_anew() -> None:
    t = declared("replace_partitions")
    work = plan_refresh(t, made(t), up({DAYS[0]}), existing=DAYS)
    assert (work.append, work.replace) == (frozenset(), {DAYS[0]})


def test_after_a_crash_nothing_is_appended() -> None:
    t = declared()
    work = plan_refresh(t, made(t), up({DAYS[0]}), existing=DAYS, recovering=True)
    assert (work.append, work.replace) == (frozenset(), {DAYS[0]})
    assert plan_refresh(
        t, made(t), up({DAYS[0]}), existing=DAYS, recovering=True, requested=[DAYS[5]]
    ).replace == {DAYS[0]}
    whole = declared(partition=None)
    assert plan_refresh(whole, made(whole), up({UNPARTITIONED}), recovering=True).whole
    assert plan_refresh(whole, made(whole), up({UNPARTITIONED})).append == {UNPARTITIONED}


def test_dead_letters_of_a_refresh_that_died_under_other_code_are_made_anew() -> None:
    for t in (
        declared(),
        declared("replace_partitions"),
        declared("merge_by_key", None),
        declared(partition=None),
    ):
        assert plan_refresh(t, made(t), up(), existing=DAYS, recovering=True).whole


def test_a_rebuild_of_a_partition_with_new_rows_makes_it_anew() -> None:
    t = declared()
    work = plan_refresh(t, made(t), up({DAYS[0]}), existing=DAYS, requested=[DAYS[0]], rebuild=True)
    assert (work.append, work.replace) == (frozenset(), {DAYS[0]})


def test_a_window_reaches_forward() -> None:
    t = declared("replace_partitions", lookback_days=2)
    work = plan_refresh(t, made(t), up({DAYS[3]}, t=t), existing=DAYS)
    assert work.replace == set(DAYS[3:6])
    assert upstream_days(t, "silver.up", [DAYS[3]]) == set(DAYS[1:4])


def test_a_window_makes_no_partition_without_rows_of_its_own() -> None:
    t = declared("replace_partitions", lookback_days=2)
    changes = replace(up({DAYS[3]}, t=t), partitions={"silver.up": DAYS[:4]})
    assert plan_refresh(t, made(t), changes, existing=DAYS[:3]).replace == {DAYS[3]}


def test_a_week_is_made_from_its_seven_days() -> None:
    t = declared("replace_partitions", weekly("day"))
    work = plan_refresh(t, made(t), up({DAYS[2], DAYS[8]}, t=t), existing=[DAYS[0]])
    assert work.replace == {DAYS[0], DAYS[7]}
    assert upstream_days(t, "silver.up", [DAYS[0]]) == set(DAYS[:7])


def test_new_code_makes_everything_anew() -> None:
    t = declared()
    other = replace(t, contract=contract("day", "another"))
    assert code_version(t) != code_version(other)
    assert plan_refresh(other, made(t), up(), existing=DAYS).whole
    one = plan_refresh(other, made(t), up(), existing=DAYS, requested=[DAYS[2]])
    assert one.replace == {DAYS[2]}
    rest = plan_refresh(other, CommitRecord("refresh", "r", "", position=one.position), up(), existing=DAYS)
    assert rest.replace == set(DAYS) - {DAYS[2]}
    assert not rest.append
    whole = declared(partition=None)
    assert plan_refresh(replace(whole, contract=contract("day", "another")), made(whole), up()).whole


def test_partitions_whose_lookups_changed_are_made_anew() -> None:
    t = declared()
    work = plan_refresh(t, made(t), up({DAYS[0], DAYS[1]}), existing=DAYS, affected=[DAYS[1], "2031-01-01"])
    assert (work.append, work.replace) == ({DAYS[0]}, {DAYS[1]})


def test_a_changed_upstream_that_is_not_the_main_one_makes_partitions_anew() -> None:
    t = declared(more=True)
    changed = {"silver.up": PartitionChanges(), "silver.other": PartitionChanges({DAYS[0]})}
    changes = Upstreams({"silver.up": 5, "silver.other": 7}, changed, {"silver.up": DAYS})
    assert plan_refresh(t, made(t), changes, existing=DAYS).replace == {DAYS[0]}


def test_rows_of_an_unpartitioned_main_upstream_reach_new_partitions() -> None:
    """Its log cannot say which partitions got rows, so that all are recomputed, also ones not there yet."""
    t = declared()
    work = plan_refresh(
        t,
        made(t),
        Upstreams({"silver.up": 5}, {"silver.up": PartitionChanges({UNPARTITIONED})}),
        existing=DAYS[:2],
    )
    assert work.whole


def test_keys_are_merged_and_all_else_is_made_anew() -> None:
    t = declared("merge_by_key", None)
    assert plan_refresh(t, made(t), up({UNPARTITIONED})).merge
    assert plan_refresh(t, made(t), up(set(), {UNPARTITIONED})).merge
    assert plan_refresh(t, made(t), up({UNPARTITIONED}), rebuild=True).whole
    two = declared("merge_by_key", None, more=True)
    changed = {"silver.up": PartitionChanges(), "silver.other": PartitionChanges({UNPARTITIONED})}
    assert plan_refresh(two, made(two), Upstreams({"silver.up": 5, "silver.other": 7}, changed)).whole


def test_a_partition_that_lost_all_its_rows_upstream_is_made_anew() -> None:
    """Its dead letters are: the table itself may hold no row of it."""
    t = declared()
    changes = Upstreams(
        {"silver.up": 5}, {"silver.up": PartitionChanges(set(), {DAYS[4]})}, {"silver.up": DAYS[:4]}
    )
    assert plan_refresh(t, made(t), changes, existing=DAYS[:4]).replace == {DAYS[4]}


def test_asked_for_rebuilds() -> None:
    t = declared()
    assert plan_refresh(t, made(t), up(), existing=DAYS, rebuild=True).whole
    work = plan_refresh(t, made(t), up({DAYS[0]}), existing=DAYS, rebuild=True, requested=[DAYS[3]])
    assert work.replace == {DAYS[3]}
    assert work.position["silver.up"] == {UNPARTITIONED: 0, DAYS[3]: 5}


def test_a_partition_that_is_ahead_is_never_appended_to() -> None:
    """What came since the others' version is in it already, in part."""
    t = declared()
    last = made(t, 0, **{DAYS[0]: 3})
    log = [Commit(n, frozenset({DAYS[0], DAYS[1]})) for n in range(1, 6)]
    seen = touched(log, 0, {DAYS[0]: 3}, partitions_reached(t, t.main_upstream))
    work = plan_refresh(
        t, last, Upstreams({"silver.up": 5}, {"silver.up": seen}, {"silver.up": DAYS}), existing=DAYS
    )
    assert (work.append, work.replace) == ({DAYS[1]}, {DAYS[0]})


# any sequence of decisions ------------------------------------------------------------------------


class World:
    """An upstream of numbered rows by day, and a table that does what its plans say."""

    def __init__(self, t: Table) -> None:
        self.t = t
        self.log: list[Commit] = [Commit(0)]
        self.rows: list[tuple[str, int, int]] = []
        """(day, row, version that added it): a rewrite gives its day's rows new names."""
        self.at: dict[int, list[tuple[str, int]]] = {0: []}
        self.made: dict[str, list[int]] = {}
        self.last: CommitRecord | None = None

    def commit(self, appended: list[str], rewritten: set[str]) -> None:
        version = len(self.log)
        now = [(d, -r if d in rewritten else r) for d, r in self.at[version - 1]]
        now += [(d, version * 100 + n) for n, d in enumerate(appended)]
        self.at[version] = now
        self.log.append(Commit(version, frozenset(set(appended) - rewritten), frozenset(rewritten)))

    def partitions(self, version: int, only: set[str] | None = None) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        assert self.t.partition
        lookback_days = self.t.main_upstream.lookback_days
        own = {str(self.t.partition.of(date.fromisoformat(d))) for d, _ in self.at[version]}
        for partition in own if only is None else own & only:
            days = upstream_days(self.t, "silver.up", [partition])
            assert len(days) == lookback_days + self.t.partition.days
            found[partition] = sorted(r for d, r in self.at[version] if d in days)
        return found

    def refresh(self, requested: set[str] | None = None, **options: Any) -> RefreshPlan:
        head = len(self.log) - 1
        changed: dict[str, PartitionChanges | None] = {}
        if self.last:
            versions = self.last.position["silver.up"]
            base = versions[UNPARTITIONED]
            ahead = {u: v for u, v in versions.items() if u != UNPARTITIONED}
            changed["silver.up"] = touched(
                self.log, base, ahead, partitions_reached(self.t, self.t.main_upstream)
            )
        days = {d for d, _ in self.at[head]}
        work = plan_refresh(
            self.t,
            self.last,
            Upstreams({"silver.up": head}, changed, {"silver.up": days}),
            existing=self.made,
            requested=requested,
            **options,
        )
        if work.nothing:
            return work
        if work.whole:
            self.made = self.partitions(head)
        else:
            assert self.last
            since = self.last.position["silver.up"][UNPARTITIONED]
            old = self.at[since]
            for partition in work.append:
                days = upstream_days(self.t, "silver.up", [partition])
                new = [r for d, r in self.at[head] if d in days and (d, r) not in old]
                self.made[partition] = sorted(self.made.get(partition, []) + new)
            for partition in work.replace:
                self.made.pop(partition, None)
                self.made |= self.partitions(head, {partition})
        self.last = CommitRecord("refresh", "r", "", position=work.position)
        return work


shapes = st.sampled_from(
    [
        declared(),
        declared("append", weekly("day")),
        declared("replace_partitions"),
        declared("replace_partitions", lookback_days=2),
        declared("replace_partitions", weekly("day")),
        declared("replace_partitions", weekly("day"), lookback_days=3),
    ]
)
FEW = [DAYS[0], DAYS[1], DAYS[7]]
some_days = st.sets(st.sampled_from(FEW), max_size=3)
steps = st.one_of(
    st.tuples(st.just("commit"), st.lists(st.sampled_from(FEW), max_size=4), some_days),
    st.tuples(
        st.just("refresh"),
        st.none() | some_days,
        st.fixed_dictionaries(
            {}, optional={"rebuild": st.booleans(), "recovering": st.booleans(), "affected": some_days}
        ),
    ),
)


@settings(max_examples=300, deadline=None)
@given(shapes, st.lists(steps, max_size=12))
def test_any_refreshes_and_a_last_one_equal_the_rebuild(t: Table, actions: list[Any]) -> None:
    world = World(t)
    for kind, one, two in actions:
        if kind == "commit":
            world.commit(one, two & {d for d, _ in world.at[len(world.log) - 1]})
            continue
        wanted = (
            None
            if one is None
            else {str(t.partition.of(date.fromisoformat(d))) for d in one}
            if t.partition
            else one
        )
        work = world.refresh(wanted, **two)
        assert not work.append & work.replace
        if wanted is not None and world.last and not work.whole and not two.get("recovering"):
            assert work.append | work.replace <= wanted
    world.refresh()
    assert world.made == world.partitions(len(world.log) - 1)
    assert world.refresh().nothing


@pytest.mark.parametrize("incremental", ["append", "merge_by_key"])
def test_a_table_without_partitions_is_up_to_date_after_its_work(incremental: Any) -> None:
    t = declared(incremental, None)
    work = plan_refresh(t, made(t), up({UNPARTITIONED}))
    assert plan_refresh(t, CommitRecord("refresh", "r", "", position=work.position), up()).nothing
