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
from medallion_platform.lakehouse.log import Commit, Touched, touched
from medallion_platform.lakehouse.record import WHOLE, Record
from medallion_platform.pipeline.plan import CODE, Upstreams, Work, code_version, plan, reach, upstream_days
from medallion_platform.pipeline.table import Table, Unit, Upstream, daily, table, weekly

MONDAY = date(2026, 1, 5)
DAYS = [str(MONDAY + timedelta(days=n)) for n in range(10)]


def contract(unit: str | None = "day", *columns: str) -> Contract:
    return Contract(
        "C",
        tuple(Column(c, ColumnType("date" if c == unit else "string")) for c in (unit, "k", *columns) if c),
        key=("k",),
        partitioned_by=(unit,) if unit else (),
    )


DAY = daily("day")


def declared(recompute: Any = "rows", unit: Unit | None = DAY, back: int = 0, more: bool = False) -> Table:
    def transform(up: Any) -> Any:
        return up

    def transform_two(up: Any, other: Any) -> Any:
        return up, other

    made_from: dict[str, Any] = {"up": Upstream("silver.up", back)}
    if more:
        made_from["other"] = "silver.other"
    return table(
        "gold.t",
        contract=contract(unit.column if unit else None),
        made_from=made_from,
        recompute=recompute,
        unit=unit,
        keyed_by=("k",) if recompute == "keys" else (),
    )(transform_two if more else transform)


def made(t: Table, version: int = 0, **ahead: int) -> Record:
    """The record of a refresh from a version of each upstream."""
    position = {u: {WHOLE: version, **ahead} for u in t.upstream_names}
    position[CODE] = dict.fromkeys([WHOLE, *ahead], code_version(t))
    return Record("refresh", "r", "", position=position)


def up(appended: Iterable[str] = (), rewritten: Iterable[str] = (), t: Table | None = None) -> Upstreams:
    """One commit to the upstream since the position."""
    log = [Commit(5, frozenset(appended), frozenset(rewritten))]
    seen = touched(log, 0, {}, reach(t, t.main[1])) if t else touched(log, 0, {})
    return Upstreams({"silver.up": 5}, {"silver.up": seen}, {"silver.up": DAYS})


# one decision at a time ---------------------------------------------------------------------------


def test_the_first_refresh_makes_the_whole_table() -> None:
    work = plan(declared(), None, up())
    assert work.whole
    assert work.position["silver.up"] == {WHOLE: 5}


def test_a_log_that_was_cleaned_up_makes_the_whole_table() -> None:
    t = declared()
    assert plan(t, made(t), Upstreams({"silver.up": 5}, {"silver.up": None})).whole


def test_nothing_new_is_nothing_to_do() -> None:
    for t in (declared(), declared("partitions"), declared("keys", None), declared(unit=None)):
        assert plan(t, made(t), up(), existing=DAYS).nothing


def test_new_rows_are_appended_and_rewritten_units_made_anew() -> None:
    t = declared()
    work = plan(t, made(t), up({DAYS[0], DAYS[1]}, {DAYS[1], DAYS[2]}), existing=DAYS)
    assert (work.append, work.replace) == ({DAYS[0]}, {DAYS[1], DAYS[2]})
    assert work.position["silver.up"] == {WHOLE: 5}


def test_an_aggregate_makes_its_units_anew() -> None:
    t = declared("partitions")
    work = plan(t, made(t), up({DAYS[0]}), existing=DAYS)
    assert (work.append, work.replace) == (frozenset(), {DAYS[0]})


def test_after_a_crash_nothing_is_appended() -> None:
    t = declared()
    work = plan(t, made(t), up({DAYS[0]}), existing=DAYS, recovering=True)
    assert (work.append, work.replace) == (frozenset(), {DAYS[0]})
    assert plan(t, made(t), up({DAYS[0]}), existing=DAYS, recovering=True, requested=[DAYS[5]]).replace == {
        DAYS[0]
    }
    whole = declared(unit=None)
    assert plan(whole, made(whole), up({WHOLE}), recovering=True).whole
    assert plan(whole, made(whole), up({WHOLE})).append == {WHOLE}


def test_dead_letters_of_a_refresh_that_died_under_other_code_are_made_anew() -> None:
    for t in (declared(), declared("partitions"), declared("keys", None), declared(unit=None)):
        assert plan(t, made(t), up(), existing=DAYS, recovering=True).whole


def test_a_rebuild_of_a_unit_with_new_rows_makes_it_anew() -> None:
    t = declared()
    work = plan(t, made(t), up({DAYS[0]}), existing=DAYS, requested=[DAYS[0]], rebuild=True)
    assert (work.append, work.replace) == (frozenset(), {DAYS[0]})


def test_a_window_reaches_forward() -> None:
    t = declared("partitions", back=2)
    work = plan(t, made(t), up({DAYS[3]}, t=t), existing=DAYS)
    assert work.replace == set(DAYS[3:6])
    assert upstream_days(t, "silver.up", [DAYS[3]]) == set(DAYS[1:4])


def test_a_window_makes_no_unit_without_rows_of_its_own() -> None:
    t = declared("partitions", back=2)
    changes = replace(up({DAYS[3]}, t=t), units={"silver.up": DAYS[:4]})
    assert plan(t, made(t), changes, existing=DAYS[:3]).replace == {DAYS[3]}


def test_a_week_is_made_from_its_seven_days() -> None:
    t = declared("partitions", weekly("day"))
    work = plan(t, made(t), up({DAYS[2], DAYS[8]}, t=t), existing=[DAYS[0]])
    assert work.replace == {DAYS[0], DAYS[7]}
    assert upstream_days(t, "silver.up", [DAYS[0]]) == set(DAYS[:7])


def test_new_code_makes_everything_anew() -> None:
    t = declared()
    other = replace(t, contract=contract("day", "another"))
    assert code_version(t) != code_version(other)
    assert plan(other, made(t), up(), existing=DAYS).whole
    one = plan(other, made(t), up(), existing=DAYS, requested=[DAYS[2]])
    assert one.replace == {DAYS[2]}
    rest = plan(other, Record("refresh", "r", "", position=one.position), up(), existing=DAYS)
    assert rest.replace == set(DAYS) - {DAYS[2]}
    assert not rest.append


def test_units_whose_lookups_changed_are_made_anew() -> None:
    t = declared()
    work = plan(t, made(t), up({DAYS[0], DAYS[1]}), existing=DAYS, affected=[DAYS[1], "2031-01-01"])
    assert (work.append, work.replace) == ({DAYS[0]}, {DAYS[1]})


def test_a_changed_upstream_that_is_not_the_main_one_makes_units_anew() -> None:
    t = declared(more=True)
    changed = {"silver.up": Touched(), "silver.other": Touched({DAYS[0]})}
    changes = Upstreams({"silver.up": 5, "silver.other": 7}, changed, {"silver.up": DAYS})
    assert plan(t, made(t), changes, existing=DAYS).replace == {DAYS[0]}


def test_rows_of_an_unpartitioned_main_upstream_reach_new_units() -> None:
    """Its log cannot say which units got rows, so that all are made anew, also ones not there yet."""
    t = declared()
    work = plan(t, made(t), Upstreams({"silver.up": 5}, {"silver.up": Touched({WHOLE})}), existing=DAYS[:2])
    assert work.whole


def test_keys_are_merged_and_all_else_is_made_anew() -> None:
    t = declared("keys", None)
    assert plan(t, made(t), up({WHOLE})).merge
    assert plan(t, made(t), up(set(), {WHOLE})).merge
    assert plan(t, made(t), up({WHOLE}), rebuild=True).whole
    two = declared("keys", None, more=True)
    changed = {"silver.up": Touched(), "silver.other": Touched({WHOLE})}
    assert plan(two, made(two), Upstreams({"silver.up": 5, "silver.other": 7}, changed)).whole


def test_a_unit_that_lost_all_its_rows_upstream_is_made_anew() -> None:
    """Its dead letters are: the table itself may hold no row of it."""
    t = declared()
    changes = Upstreams({"silver.up": 5}, {"silver.up": Touched(set(), {DAYS[4]})}, {"silver.up": DAYS[:4]})
    assert plan(t, made(t), changes, existing=DAYS[:4]).replace == {DAYS[4]}


def test_asked_for_rebuilds() -> None:
    t = declared()
    assert plan(t, made(t), up(), existing=DAYS, rebuild=True).whole
    work = plan(t, made(t), up({DAYS[0]}), existing=DAYS, rebuild=True, requested=[DAYS[3]])
    assert work.replace == {DAYS[3]}
    assert work.position["silver.up"] == {WHOLE: 0, DAYS[3]: 5}


def test_a_unit_that_is_ahead_is_never_appended_to() -> None:
    """What came since the others' version is in it already, in part."""
    t = declared()
    last = made(t, 0, **{DAYS[0]: 3})
    log = [Commit(n, frozenset({DAYS[0], DAYS[1]})) for n in range(1, 6)]
    seen = touched(log, 0, {DAYS[0]: 3}, reach(t, t.main[1]))
    work = plan(t, last, Upstreams({"silver.up": 5}, {"silver.up": seen}, {"silver.up": DAYS}), existing=DAYS)
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
        self.last: Record | None = None

    def commit(self, appended: list[str], rewritten: set[str]) -> None:
        version = len(self.log)
        now = [(d, -r if d in rewritten else r) for d, r in self.at[version - 1]]
        now += [(d, version * 100 + n) for n, d in enumerate(appended)]
        self.at[version] = now
        self.log.append(Commit(version, frozenset(set(appended) - rewritten), frozenset(rewritten)))

    def units(self, version: int, only: set[str] | None = None) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        assert self.t.unit
        back = self.t.main[1].back
        own = {str(self.t.unit.of(date.fromisoformat(d))) for d, _ in self.at[version]}
        for unit in own if only is None else own & only:
            days = upstream_days(self.t, "silver.up", [unit])
            assert len(days) == back + self.t.unit.days
            found[unit] = sorted(r for d, r in self.at[version] if d in days)
        return found

    def refresh(self, requested: set[str] | None = None, **options: Any) -> Work:
        head = len(self.log) - 1
        changed: dict[str, Touched | None] = {}
        if self.last:
            versions = self.last.position["silver.up"]
            base = versions[WHOLE]
            ahead = {u: v for u, v in versions.items() if u != WHOLE}
            changed["silver.up"] = touched(self.log, base, ahead, reach(self.t, self.t.main[1]))
        days = {d for d, _ in self.at[head]}
        work = plan(
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
            self.made = self.units(head)
        else:
            assert self.last
            since = self.last.position["silver.up"][WHOLE]
            old = self.at[since]
            for unit in work.append:
                days = upstream_days(self.t, "silver.up", [unit])
                new = [r for d, r in self.at[head] if d in days and (d, r) not in old]
                self.made[unit] = sorted(self.made.get(unit, []) + new)
            for unit in work.replace:
                self.made.pop(unit, None)
                self.made |= self.units(head, {unit})
        self.last = Record("refresh", "r", "", position=work.position)
        return work


shapes = st.sampled_from(
    [
        declared(),
        declared("rows", weekly("day")),
        declared("partitions"),
        declared("partitions", back=2),
        declared("partitions", weekly("day")),
        declared("partitions", weekly("day"), back=3),
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
            None if one is None else {str(t.unit.of(date.fromisoformat(d))) for d in one} if t.unit else one
        )
        work = world.refresh(wanted, **two)
        assert not work.append & work.replace
        if wanted is not None and world.last and not work.whole and not two.get("recovering"):
            assert work.append | work.replace <= wanted
    world.refresh()
    assert world.made == world.units(len(world.log) - 1)
    assert world.refresh().nothing


@pytest.mark.parametrize("recompute", ["rows", "keys"])
def test_a_table_without_units_is_up_to_date_after_its_work(recompute: Any) -> None:
    t = declared(recompute, None)
    work = plan(t, made(t), up({WHOLE}))
    assert plan(t, Record("refresh", "r", "", position=work.position), up()).nothing
