"""A consumer ends with the newest edition, whatever dies on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medallion_platform.lakehouse import maintenance
from medallion_platform.pipeline.publish import Delivery, Edition, NothingToPublish, publish
from medallion_platform_tests.serving.world import FIRST, RUN, TABLE, lake_of, write

COLUMNS = ["event_date", "user_id", "events_7d"]


class Died(Exception):
    """As if the process had been killed here."""


@dataclass
class Mirror:
    """A consumer that keeps a copy of the table, and dies after so many steps if it is told to."""

    name: str = "mirror"
    table: str = TABLE
    partition_column: str | None = "event_date"
    held: Edition | None = None
    rows: dict[Any, dict[str, int]] = field(default_factory=dict)
    steps_to_live: int = 1_000
    taken: list[Delivery] = field(default_factory=list)
    place: str = "publish/mirror"

    def prepare(self) -> None: ...

    def holds(self) -> Edition | None:
        return self.held

    def _step(self) -> None:
        self.steps_to_live -= 1
        if self.steps_to_live < 0:
            raise Died

    def take(self, delivery: Delivery) -> int:
        self._step()
        self.taken.append(delivery)
        found = delivery.rows(COLUMNS) if delivery.partitions is None or delivery.partitions else None
        named = set(self.rows) if delivery.partitions is None else delivery.partitions
        for partition in sorted(named):
            self.rows.pop(partition, None)
            self._step()
        for row in found.to_dicts() if found is not None else ():
            self.rows.setdefault(str(row["event_date"]), {})[row["user_id"]] = row["events_7d"]
            self._step()
        self.held = delivery.edition
        return 0 if found is None else found.height

    def forget(self) -> None:
        self.held = None
        self.rows = {}


def day(n: int) -> str:
    return str(FIRST.fromordinal(FIRST.toordinal() + n))


days = st.dictionaries(
    st.integers(0, 3), st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)), min_size=1, max_size=2
)


@given(st.lists(st.one_of(days, st.integers(0, 6), st.just("optimize"), st.just("checkpoint")), max_size=8))
@settings(max_examples=20, deadline=None)
def test_after_any_history_and_any_crash_the_copy_is_the_table(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    """A number is a publish that dies after so many steps."""
    lake, mirror = lake_of(tmp_path_factory.mktemp("lake")), Mirror()
    truth: dict[str, dict[str, int]] = {}
    for step in steps:
        if isinstance(step, dict):
            write(lake, step)
            truth |= {day(n): dict(users) for n, users in step.items()}
        elif step == "optimize":
            maintenance.optimize(lake, TABLE, ("user_id",))
        elif step == "checkpoint":
            table = lake.open(TABLE)
            assert table is not None
            table.create_checkpoint()
        else:
            mirror.steps_to_live = step
            try:
                publish(mirror, lake, RUN)
            except Died:
                continue
    mirror.steps_to_live = 1_000
    done = publish(mirror, lake, RUN)
    assert {partition: users for partition, users in mirror.rows.items() if users} == {
        u: x for u, x in truth.items() if x
    }
    assert mirror.held == done.edition
    assert done.edition.version == lake.version(TABLE)
    before = len(mirror.taken)
    assert publish(mirror, lake, RUN).reason == "up to date"
    assert len(mirror.taken) == before


def test_only_changed_partitions_are_handed_over(tmp_path: Path) -> None:
    lake, mirror = lake_of(tmp_path), Mirror()
    write(lake, {0: {"a": 1}, 1: {"a": 2}})
    assert publish(mirror, lake, RUN).partitions is None
    write(lake, {2: {"b": 3}})
    write(lake, {0: {}})
    done = publish(mirror, lake, RUN)
    assert done.partitions == {day(0), day(2)}
    assert done.written == 1
    maintenance.optimize(lake, TABLE, ("user_id",), target_bytes=1)
    write(lake, {1: {"a": 2, "c": 4}})
    assert publish(mirror, lake, RUN).partitions == {day(1)}
    mirror.rows.clear()
    publish(mirror, lake, RUN, anew=True)
    assert mirror.rows == {day(1): {"a": 2, "c": 4}, day(2): {"b": 3}}


def test_what_changed_only_in_its_files_is_remembered_without_rows(tmp_path: Path) -> None:
    lake, mirror = lake_of(tmp_path), Mirror()
    for n in range(2):
        write(lake, {0: {"a": n}, 1: {"a": 1}})
    table = lake.open(TABLE)
    assert table is not None
    publish(mirror, lake, RUN)
    table.alter.set_table_properties({"delta.appendOnly": "false"})
    done = publish(mirror, lake, RUN)
    assert (done.partitions, done.written, done.reason) == (frozenset(), 0, "no row changed")
    assert mirror.held == done.edition


def test_a_table_made_anew_or_a_lost_log_means_everything(tmp_path: Path) -> None:
    lake, mirror = lake_of(tmp_path / "a"), Mirror()
    write(lake, {0: {"a": 1}})
    publish(mirror, lake, RUN)
    other = lake_of(tmp_path / "b")
    write(other, {1: {"b": 1}})
    assert publish(mirror, other, RUN).reason == "everything: the table was recomputed"
    assert mirror.rows == {day(1): {"b": 1}}
    for n in range(2):
        write(other, {n: {"c": n}})
    table = other.open(TABLE)
    assert table is not None
    table.create_checkpoint()
    (Path(other.path(TABLE)) / "_delta_log" / f"{2:020}.json").unlink()
    assert publish(mirror, other, RUN).reason == "everything: the log no longer reaches back"


def test_rows_are_those_of_the_edition_whatever_is_committed_meanwhile(tmp_path: Path) -> None:
    lake, mirror = lake_of(tmp_path), Mirror()
    write(lake, {0: {"a": 1}})

    class Slow(Mirror):
        def take(self, delivery: Delivery) -> int:
            write(lake, {0: {"a": 2}, 1: {"a": 3}})
            return super().take(delivery)

    slow = Slow()
    publish(slow, lake, RUN)
    assert slow.rows == {day(0): {"a": 1}}
    assert publish(mirror, lake, RUN).edition.version == lake.version(TABLE)


@pytest.mark.failure("permanent")
def test_two_at_once_and_nothing_there(tmp_path: Path) -> None:
    from medallion_platform.lakehouse.lake import Lake

    mirror = Mirror()
    with pytest.raises(NothingToPublish, match=r"gold\.user_features, which does not exist yet"):
        publish(mirror, Lake(tmp_path), RUN)
