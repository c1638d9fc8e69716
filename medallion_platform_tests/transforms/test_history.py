"""Histories from change events, against a replay one by one; lookups in them, against a loop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from medallion_platform.sources.formats.debezium.source_position import changed_at, source_position
from medallion_platform.transforms.history import UNTOLD, as_of, current, versions
from medallion_platform_tests.frames import SHARED, frame, minutes, needs_shared, rows

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CHANGES = "id string, name string, size int, _op string, _sequence string, _changed_at timestamp"
ONE_JOB_EACH = settings(
    max_examples=6,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # every try is a Spark job: no shrinking
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@dataclass(frozen=True)
class Change:
    key: str | None
    position: int
    op: str
    at: int
    name: str | None = None
    size: int | None = None

    @property
    def gone(self) -> bool:
        return self.op in ("d", "t")

    @property
    def row(self) -> dict[str, Any]:
        return {
            "id": self.key,
            "name": self.name,
            "size": self.size,
            "_op": self.op,
            "_sequence": f"{self.position:06}",
            "_changed_at": minutes(self.at),
        }


def upsert(key: str, position: int, name: str | None, op: str = "u", at: int | None = None) -> Change:
    return Change(key, position, op, position if at is None else at, name, 1)


def delete(key: str, position: int) -> Change:
    return Change(key, position, "d", position)


def truncate(position: int) -> Change:
    return Change(None, position, "t", position)


TOMBSTONE = Change(None, 0, "tombstone", 0)


def changes_frame(spark: SparkSession, changes: Iterable[Change]) -> DataFrame:
    return frame(spark, CHANGES, (c.row for c in changes))


_RANK = {"r": 0, "c": 1, "u": 1, "d": 2, "t": 2}
"""Which of several events at one position is the later one."""


def replayed(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """The oracle: one key after the other, one event after the other."""
    changes = list(changes)
    found: list[dict[str, Any]] = []
    for key in {c.key for c in changes if c.key is not None and c.op in ("c", "r", "u", "d")}:
        mine = [c for c in changes if (c.key == key and c.op in ("c", "r", "u", "d")) or c.op == "t"]
        mine.sort(key=lambda c: (c.position, _RANK[c.op], c.at, *_order(c)))
        at_position = {c.position: c for c in mine}  # the last one there wins
        state: tuple[Any, ...] | None = None
        begins = None
        open_version: dict[str, Any] | None = None
        for change in at_position.values():
            name = (state[0] if state else UNTOLD) if change.name == UNTOLD else change.name
            new = None if change.gone else (name, change.size)
            if new == state:
                continue
            state = new
            begins = change.at if begins is None else max(begins, change.at)
            if open_version is not None:
                open_version |= {"effective_to": minutes(begins), "is_current": False}
                open_version = None
            if not change.gone:
                open_version = {
                    "id": key,
                    "name": name,
                    "size": change.size,
                    "effective_from": minutes(begins),
                    "effective_to": None,
                    "is_current": True,
                    "source_position": f"{change.position:06}",
                }
                found.append(open_version)
    return sorted(found, key=lambda r: (r["id"], r["source_position"]))


def _order(change: Change) -> tuple[Any, ...]:
    if change.gone:
        return (False,)
    return (True, change.name is not None, change.name or "", change.size is not None, change.size or 0)


def history_of(spark: SparkSession, changes: Iterable[Change]) -> list[dict[str, Any]]:
    return rows(versions(changes_frame(spark, changes), "id"), ["id", "source_position"])


@st.composite
def worlds(draw: st.DrawFn) -> list[Change]:
    """Change events of a few keys, in any order, some twice, clocks not always in step."""
    keys = st.sampled_from([*"abcdef"])
    position = st.integers(1, 40)
    jitter = st.sampled_from([0, 0, 0, 0, -15, 7])
    images = st.builds(
        lambda key, op, position, jitter, name, size: Change(
            key, position, op, position + jitter, name, size
        ),
        keys,
        st.sampled_from("cruu"),
        position,
        jitter,
        st.sampled_from(["x", "y", None, UNTOLD]),
        st.sampled_from([1, None]),
    )
    deletes = st.builds(lambda k, p, j: Change(k, p, "d", p + j), keys, position, jitter)
    found = draw(st.lists(st.one_of(images, images, images, deletes), max_size=60))
    found += draw(st.lists(st.builds(truncate, position), max_size=2))
    found += draw(st.lists(st.sampled_from(found), max_size=10)) if found else []
    return draw(st.permutations([*found, TOMBSTONE]))


@given(world=worlds())
@ONE_JOB_EACH
def test_any_change_events_in_any_order_are_as_if_replayed(spark: SparkSession, world: list[Change]) -> None:
    assert history_of(spark, world) == replayed(world)


def test_a_key_does_not_depend_on_other_keys(spark: SparkSession) -> None:
    """What a refresh relies on that makes only the touched keys anew, with all rows without a key."""
    world = [
        upsert("a", 1, "x", "c"),
        upsert("b", 2, "x", "c"),
        truncate(5),
        upsert("a", 7, "x", "c"),
        upsert("b", 3, "y"),
        delete("b", 9),
        TOMBSTONE,
    ]
    only_b = [c for c in world if c.key in ("b", None)]
    assert history_of(spark, only_b) == [r for r in history_of(spark, world) if r["id"] == "b"]


def test_what_arrives_late_lands_in_the_right_place(spark: SparkSession) -> None:
    """One job for many small stories, each about a key of its own."""
    stories = {
        # An older update after the delete: the row stays deleted, the update is in its history.
        "late": [upsert("late", 1, "x", "c"), delete("late", 9), upsert("late", 4, "y")],
        # A snapshot read again tells nothing new.
        "again": [upsert("again", 1, "x", "r"), upsert("again", 5, "x", "r"), upsert("again", 5, "x", "r")],
        # Created again after a delete: a gap in between.
        "back": [upsert("back", 1, "x", "c"), delete("back", 2), upsert("back", 6, "x", "c")],
        # A key change is a delete of the old key and a create of the new one at one position.
        "old": [upsert("old", 1, "x", "c"), delete("old", 3)],
        "new": [upsert("new", 3, "x", "c")],
        # At one position the snapshot's read is the earlier event.
        "tie": [upsert("tie", 4, "y"), upsert("tie", 4, "x", "r")],
        "tied": [delete("tied", 4), upsert("tied", 4, "x", "r")],
        # A delete of what was never seen, and a row whose columns are all null.
        "never": [delete("never", 4)],
        "null": [Change("null", 2, "c", 2)],
        # The source's clock runs backwards: validities still do not overlap.
        "clock": [upsert("clock", 1, "x", "c", at=30), upsert("clock", 2, "y", at=10)],
    }
    world = [change for story in stories.values() for change in story]
    found = history_of(spark, reversed(world))
    assert found == replayed(world)

    def seen(key: str) -> list[tuple[str | None, datetime, datetime | None]]:
        return [(r["name"], r["effective_from"], r["effective_to"]) for r in found if r["id"] == key]

    assert seen("late") == [("x", minutes(1), minutes(4)), ("y", minutes(4), minutes(9))]
    assert seen("again") == [("x", minutes(1), None)]
    assert seen("back") == [("x", minutes(1), minutes(2)), ("x", minutes(6), None)]
    assert seen("old") == [("x", minutes(1), minutes(3))]
    assert seen("new") == [("x", minutes(3), None)]
    assert seen("tie") == [("y", minutes(4), None)]
    assert seen("tied") == seen("never") == []
    assert seen("null") == [(None, minutes(2), None)]
    assert seen("clock") == [("x", minutes(30), minutes(30)), ("y", minutes(30), None)]


def test_a_truncate_closes_the_open_versions_before_it(spark: SparkSession) -> None:
    world = [
        upsert("a", 1, "x", "c"),
        upsert("b", 8, "x", "c"),
        delete("c", 3),
        upsert("c", 2, "x", "c"),
        upsert("a", 6, "x", "c"),
        truncate(5),
    ]
    found = history_of(spark, world)
    assert [(r["id"], r["effective_from"], r["effective_to"]) for r in found] == [
        ("a", minutes(1), minutes(5)),
        ("a", minutes(6), None),
        ("b", minutes(8), None),
        ("c", minutes(2), minutes(3)),
    ]


def test_current_rows_are_those_whose_version_is_open(spark: SparkSession) -> None:
    world = [upsert("a", 1, "x", "c"), upsert("a", 2, "y"), upsert("b", 1, "x", "c"), delete("b", 3)]
    found = rows(current(changes_frame(spark, world), "id"))
    assert found == [
        {"id": "a", "name": "y", "size": 1, "changed_at": minutes(2), "source_position": "000002"}
    ]


def test_a_new_column_is_part_of_the_history(spark: SparkSession) -> None:
    world = [upsert("a", 1, "x", "c"), upsert("a", 2, "x")]
    rows_in = [world[0].row, world[1].row | {"colour": "red"}]
    found = rows(versions(frame(spark, f"colour string, {CHANGES}", rows_in), "id"), ["source_position"])
    assert [r["colour"] for r in found] == [None, "red"]


@needs_shared
def test_a_real_postgres_capture_gives_its_table_and_history(spark: SparkSession) -> None:

    from medallion_platform.sources.formats.debezium import Debezium

    events: list[dict[str, Any]] = []
    for chunk in Debezium(key=("id",)).read(SHARED / "debezium" / "postgres-products.jsonl"):
        events += chunk.to_dicts()
    assert len(events) == 16
    schema = "id string, name string, description string, weight string, _op string, _sequence string"
    for event in events:
        event["_changed_at"] = event["_changed_at"].replace("T", " ").removesuffix("Z")
    changes = frame(spark, f"{schema}, _changed_at string", reversed(events))
    table = {r["id"]: r for r in rows(current(changes, "id"))}
    assert sorted(table) == [str(i) for i in range(101, 111)]
    assert table["106"]["description"] == "18oz carpenter hammer"
    assert float(table["107"]["weight"]) == 5.1
    assert table["110"]["description"] == "new water resistent white wind breaker"
    assert float(table["110"]["weight"]) == 0.5
    history = rows(versions(changes, "id"), ["id", "source_position"])
    several = {k: [r["weight"] for r in history if r["id"] == k] for k in ("106", "107", "110", "111")}
    assert {k: [float(w) for w in v] for k, v in several.items()} == {
        "106": [1.0, 1.0],
        "107": [5.3, 5.1],
        "110": [0.2, 0.5],
        "111": [5.18, 5.17],
    }
    assert len(history) == 9 + 2 + 4
    assert [r["is_current"] for r in history if r["id"] == "111"] == [False, False]


# --- logs that begin anew --------------------------------------------------------------------------

CAME = f"_source string, _offset long, {CHANGES.replace('_changed_at timestamp', '_changed_at string')}"


@dataclass(frozen=True)
class Told:
    """An event as a connector writes it: the state of a row, and where its source says that it stands."""

    state: str | None
    source: dict[str, str]
    op: str = "u"
    key: str | None = "k"

    def row(self, log: str, offset: int) -> dict[str, Any]:
        place = source_position(self.source, self.op)
        return {
            "_source": log,
            "_offset": offset,
            "id": self.key,
            "name": self.state,
            "_op": self.op,
            # As the intake completes it.
            "_sequence": place + f"{offset:020}" if place.endswith("+") else place,
            "_changed_at": changed_at(self.source, "1767571200000"),
        }


def mysql(file: int, pos: int, second: float, gtid: str = "", base: str = "mysql-bin") -> dict[str, str]:
    return {
        "connector": "mysql",
        "file": f"{base}.{file:06}",
        "pos": str(pos),
        "row": "0",
        "ts_ms": str(1_767_571_200_000 + int(second * 1000)),
        **({"gtid": gtid} if gtid else {}),
    }


def postgres(lsn: int, second: float) -> dict[str, str]:
    ts = str(1_767_571_200_000 + int(second * 1000))
    return {"connector": "postgresql", "lsn": str(lsn), "sequence": f'["{lsn - 8}","{lsn}"]', "ts_ms": ts}


def sqlserver(lsn: int, second: float) -> dict[str, str]:
    commit = f"{lsn:08x}:00000758:0005"
    ts = str(1_767_571_200_000 + int(second * 1000))
    return {"connector": "sqlserver", "commit_lsn": commit, "change_lsn": commit, "ts_ms": ts}


def states_of(spark: SparkSession, stories: dict[str, list[list[Told]]]) -> dict[str, list[str | None]]:
    """The versions of each story's row, the last None where it is gone; a story is what each log told."""
    told = [
        replace(event, key=story if event.op != "t" else None).row(f"{story}/{n}", offset)
        for story, logs in stories.items()
        for n, log in enumerate(logs)
        for offset, event in enumerate(log)
    ]
    found = rows(versions(frame(spark, CAME, reversed(told)), "id"), ["id", "source_position"])
    gone = {story for story in stories if not any(r["is_current"] for r in found if r["id"] == story)}
    for story in stories:
        mine = [r for r in found if r["id"] == story]
        assert [r["effective_from"] for r in mine] == sorted(r["effective_from"] for r in mine)
        assert sum(r["is_current"] for r in mine) == (story not in gone)
        assert not mine or mine[-1]["is_current"] or story in gone
    return {s: [r["name"] for r in found if r["id"] == s] + [None] * (s in gone) for s in stories}


def test_where_the_log_began_anew_the_newer_one_wins(spark: SparkSession) -> None:
    a, b = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "b2c1a5f0-0000-11ee-9e33-c80aa9429562"
    old = [Told("x", mysql(149, 900, 1), "c"), Told("y", mysql(150, 4, 2))]
    none = {"connector": "mysql", "file": "", "pos": "0", "row": "0"}
    ts = {"ts_ms": "1767571200000"}
    stories: dict[str, tuple[list[list[Told]], list[str | None]]] = {
        "failover": ([[*old, Told("z", mysql(3, 120, 9))]], ["x", "y", "z"]),
        "again": ([[*old, Told("z", mysql(3, 120, 9)), Told("w", mysql(3, 400, 12))]], ["x", "y", "z", "w"]),
        "deleted": ([[*old, Told("y", mysql(3, 120, 9), "d")]], ["x", "y", None]),
        "base": ([[*old, Told("z", mysql(7, 120, 9, base="binlog"))]], ["x", "y", "z"]),
        # A snapshot is told late; what was changed while it ran comes after it all the same.
        "snapshot": (
            [[*old, Told("z", mysql(3, 120, 60), "r"), Told("w", mysql(3, 500, 30))]],
            ["x", "y", "z", "w"],
        ),
        # The old server's events once more, and there and back.
        "repeated": ([[*old, *old, Told("z", mysql(3, 120, 9)), *old]], ["x", "y", "z"]),
        "back": (
            [[*old, Told("z", mysql(3, 4, 9)), Told("w", mysql(3, 8, 10)), Told("v", mysql(151, 4, 20))]],
            ["x", "y", "z", "w", "v"],
        ),
        # Another connector, another topic, and the name of the new one comes first.
        "topics": ([[Told("z", mysql(3, 120, 9)), Told("w", mysql(3, 130, 10))], old], ["x", "y", "z", "w"]),
        "twice": (
            [[*old, Told("z", mysql(3, 120, 9))], [*old, Told("z", mysql(3, 120, 9))]],
            ["x", "y", "z"],
        ),
        "restored": (
            [[Told("x", postgres(9_000, 1), "c"), Told("y", postgres(9_900, 2)), Told("z", postgres(70, 9))]],
            ["x", "y", "z"],
        ),
        "sqlserver": (
            [[Told("x", sqlserver(0x27AB, 1), "c"), Told("y", sqlserver(0x27, 9))]],
            ["x", "y"],
        ),
        # With GTIDs: the new server tells old transactions again, and one that the old one did not tell.
        "gtid": (
            [
                [
                    Told("x", mysql(150, 4, 1, f"{a}:99"), "c"),
                    Told("y", mysql(150, 8, 2, f"{a}:100")),
                    Told("x", mysql(3, 4, 1, f"{a}:99"), "c"),
                    Told("y", mysql(3, 8, 2, f"{a}:100")),
                    Told("z", mysql(3, 12, 2, f"{a}:101")),
                    Told("w", mysql(3, 16, 2, f"{a}:102")),
                    Told("v", mysql(3, 20, 7, f"{b}:1")),
                ]
            ],
            ["x", "y", "z", "w", "v"],
        ),
        "mariadb": (
            [[Told("x", mysql(9, 4, 1, "0-1-7"), "c"), Told("y", mysql(2, 4, 1, "0-2-8"))]],
            ["x", "y"],
        ),
        # No place at all: clock, then arrival; before what has one.
        "nowhere": ([[Told("Wels", none | ts, "c"), Told("Enns", none | ts)]], ["Wels", "Enns"]),
        "neither": (
            [[Told("Wels", none, "c"), Told("Enns", none), Told("Linz", none)]],
            ["Wels", "Enns", "Linz"],
        ),
        "half": (
            [[Told("x", none | {"ts_ms": "0"}, "r"), Told("y", mysql(3, 8, 1)), Told("z", mysql(3, 9, 1))]],
            ["x", "y", "z"],
        ),
        "unsaid": (
            [[Told("x", {"connector": "postgresql", **ts}, "r"), Told("y", postgres(70, 9))]],
            ["x", "y"],
        ),
        "no pos": ([[Told("x", mysql(3, 0, 1), "c"), Told("y", mysql(3, 0, 1))]], ["x", "y"]),
        # One log, however it comes: late files, a clock that ran back.
        "late": ([[old[1], old[0]]], ["x", "y"]),
        "late gtid": (
            [[Told(n, mysql(9, i, 1, f"{a}:{i}")) for n, i in (("z", 30), ("x", 28), ("y", 29), ("w", 31))]],
            ["x", "y", "z", "w"],
        ),
        "clock": ([[Told("x", mysql(3, 4, 30), "c"), Told("y", mysql(3, 8, 10))]], ["x", "y"]),
        "incremental": (
            [[Told("x", mysql(3, 8, 10)), Told("x", mysql(3, 8, 20), "r"), Told("y", mysql(3, 9, 30))]],
            ["x", "y"],
        ),
    }
    found = states_of(spark, {story: logs for story, (logs, _) in stories.items()})
    assert found == {story: expected for story, (_, expected) in stories.items()}


def test_a_truncate_of_a_restored_database_is_the_newer_one(spark: SparkSession) -> None:
    told = [Told("x", postgres(9_000, 1), "c"), Told(None, postgres(70, 9), "t")]
    assert states_of(spark, {"truncated": [told]}) == {"truncated": ["x", None]}


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[Told], list[str | None]]:
    """A row's changes on one server after the other, told with repetitions; and the versions they make."""
    log: list[Told] = []
    second, states, place = 0, [], draw(st.integers(50, 60))
    for server in range(draw(st.integers(1, 4))):
        place = draw(st.integers(1, 60)) if server else place
        here: list[Told] = []
        for _ in range(draw(st.integers(1, 5))):
            second += draw(st.integers(1, 3))
            place += draw(st.integers(1, 3))
            op = draw(st.sampled_from("uuud"))
            event = Told(None if op == "d" else f"s{second}", mysql(place, 4, second), op)
            here.append(event)
            log.append(event)
            if draw(st.booleans()):  # the connector dies, and tells again what this server told
                log += here[draw(st.integers(0, len(here) - 1)) :]
            states.append(event.state)
    changes = [s for n, s in enumerate(states) if s is not None or n == len(states) - 1]
    return log, changes


@given(st.lists(lives(), min_size=50, max_size=60))
@settings(ONE_JOB_EACH, max_examples=3)
def test_any_life_over_any_servers_is_told_right(
    spark: SparkSession, world: list[tuple[list[Told], list[str | None]]]
) -> None:
    found = states_of(spark, {f"k{n}": [log] for n, (log, _) in enumerate(world)})
    assert found == {f"k{n}": states for n, (_, states) in enumerate(world)}


# --- lookups --------------------------------------------------------------------------------------

HISTORY = "k string, effective_from timestamp, effective_to timestamp, source_position string, v string"


def looked_up(history: list[dict[str, Any]], by: str | None, at: datetime) -> dict[str, Any] | None:
    """The oracle: the last version that began, else the first one."""
    mine = sorted((h for h in history if h["k"] == by), key=lambda h: h["source_position"])
    begun = [h for h in mine if h["effective_from"] <= at]
    return begun[-1] if begun else (mine[0] if mine else None)


@st.composite
def lookups(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    history: list[dict[str, Any]] = []
    for key in "abcde":
        begins = sorted(draw(st.lists(st.integers(0, 30), max_size=6)))
        for place, begin in enumerate(begins):
            history.append(
                {
                    "k": key,
                    "effective_from": minutes(begin),
                    "source_position": f"{place:03}",
                    "v": draw(st.sampled_from([None, f"{key}{place}"])),
                }
            )
    events = draw(
        st.lists(
            st.fixed_dictionaries(
                {"by": st.sampled_from([*"abcdef", None]), "at": st.integers(-2, 33).map(minutes)}
            ),
            min_size=30,
            max_size=80,
        )
    )
    return draw(st.permutations(history)), events


@given(case=lookups())
@ONE_JOB_EACH
def test_a_lookup_finds_the_version_of_the_rows_own_time(
    spark: SparkSession, case: tuple[list[dict[str, Any]], list[dict[str, Any]]]
) -> None:
    history, events = case
    events = [{**event, "n": n} for n, event in enumerate(events)]
    found = rows(
        as_of(
            frame(spark, "n int, by string, at timestamp", events),
            frame(spark, HISTORY, history),
            key="k",
            by="by",
            at="at",
            take={"v": "value"},
            known="is_known",
        )
    )
    expected: list[dict[str, Any]] = []
    for event in events:
        version = looked_up(history, event["by"], event["at"])
        expected.append({**event, "value": version and version["v"], "is_known": version is not None})
    assert sorted(found, key=lambda r: r["n"]) == expected


def test_a_lookup_leaves_what_a_message_says_of_itself(spark: SparkSession) -> None:
    """Rows of a topic have a column `_key`, `_headers` and `_timestamp` of their own."""
    events = frame(
        spark, "by string, at timestamp, _key string", [{"by": "a", "at": minutes(1), "_key": "x"}]
    )
    history = frame(
        spark, HISTORY, [{"k": "a", "effective_from": minutes(0), "source_position": "1", "v": "one"}]
    )
    (found,) = rows(as_of(events, history, key="k", by="by", at="at", take={"v": "v"}, known="known"))
    assert (found["_key"], found["v"], found["known"]) == ("x", "one", True)


def test_a_lookup_does_not_shuffle_the_rows(spark: SparkSession) -> None:
    """The history may be; the events, which are many, are only joined by broadcast."""
    events = frame(spark, "by string, at timestamp", [{"by": "a", "at": minutes(1)}])
    history = frame(spark, HISTORY, [{"k": "a", "effective_from": minutes(0), "source_position": "1"}])
    found = as_of(events, history, key="k", by="by", at="at", take={"v": "v"}, known="known")
    execution: Any = found._jdf
    plan = execution.queryExecution().executedPlan().toString()
    assert "BroadcastHashJoin" in plan
    assert plan.count("Exchange hashpartitioning") <= 1
    assert "SortMergeJoin" not in plan


@pytest.mark.parametrize("op", ["m", "tombstone"])
def test_events_without_a_row_are_no_changes(spark: SparkSession, op: str) -> None:
    world = [upsert("a", 1, "x", "c"), Change("a", 2, op, 2)]
    assert [r["is_current"] for r in history_of(spark, world)] == [True]
