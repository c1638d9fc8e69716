"""The needs of tables in Dagster's storage: what the launcher finds there, and what keeping them costs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.runs import SqliteRunStorage
from hypothesis import given
from hypothesis import strategies as st

from medallion_platform.installation.settings import Settings
from medallion_platform.orchestration import needs as needs_module
from medallion_platform.orchestration import sensors
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.location import lakehouse_of
from medallion_platform.orchestration.needs import (
    FRESH,
    Published,
    are_read,
    publish_needs,
    read_needs,
)
from medallion_platform.pipeline.need import Need
from medallion_platform_tests.orchestration.test_sensor import FEW, SILVER, World

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
NEEDS = {"silver.a": Need("silver", 1, 2, 3, driver_memory=4), "bronze.b": Need("bronze")}


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the storage."""
    found: list[str] = []

    def watched(name: str, of: Any) -> Any:
        return lambda *given: (found.append(name), of(*given))[1]

    for name in ("get_cursor_values", "set_cursor_values"):
        monkeypatch.setattr(SqliteRunStorage, name, watched(name, getattr(SqliteRunStorage, name)))
    return found


def test_what_is_kept_is_what_is_read(on: dg.DagsterInstance) -> None:
    assert read_needs(on).needs == {}
    kept = publish_needs(on, NEEDS, NOW, None)
    assert read_needs(on) == kept == Published(NOW, NEEDS)


def test_nothing_is_asked_of_the_storage_while_nothing_changes(
    on: dg.DagsterInstance, stored: list[str]
) -> None:
    kept = publish_needs(on, NEEDS, NOW, None)
    stored.clear()
    for seconds in range(0, 60, 5):
        assert publish_needs(on, dict(NEEDS), NOW + timedelta(seconds=seconds), kept) is kept
    assert stored == []
    kept = publish_needs(on, NEEDS, NOW + timedelta(seconds=60), kept)
    assert (read_needs(on), stored.count("set_cursor_values")) == (kept, 1)
    changed = {**NEEDS, "silver.a": Need("silver", 9, 9, 9)}
    kept = publish_needs(on, changed, NOW + timedelta(seconds=61), kept)
    assert read_needs(on) == kept == Published(NOW + timedelta(seconds=61), changed)


@given(st.timedeltas(timedelta(), timedelta(days=9)))
def test_of_old_needs_all_may_be_due(age: timedelta) -> None:
    found = Published(NOW, NEEDS).by(NOW + age)["silver.a"]
    assert found == Need("silver", 1 if age < FRESH else 3, 2, 3, driver_memory=4)


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"at": "now"}', '{"needs": {"a": {"size": 1}}}'])
def test_what_another_version_kept_is_as_nothing(on: dg.DagsterInstance, text: str) -> None:
    on.daemon_cursor_storage.set_cursor_values({needs_module._NEEDS: text})
    assert read_needs(on).by(NOW) == {}


def test_where_runs_are_no_pods_nobody_reads_needs(on: dg.DagsterInstance, tmp_path: Path) -> None:
    assert not are_read(on)
    with dg.instance_for_test() as other:
        assert not are_read(other)
    assert not are_read(dg.DagsterInstance.ephemeral())


def test_a_look_keeps_what_the_runs_that_it_asks_for_need(
    on: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: list[str]
) -> None:
    place: Lakehouse = lakehouse_of(Settings(home=tmp_path, settle_seconds=0))
    world = World(place, on)
    world.land("first")
    world.take_in()
    assert world.jobs() == ["catch_up"]
    assert read_needs(on).needs == {}, "they are read by nobody"

    monkeypatch.setattr(sensors, "are_read", lambda _: True)
    sensor = build_defs(FEW, place).get_repository_def().get_sensor_def("catch_up_sensor")

    def look() -> None:
        sensor(dg.build_sensor_context(on, resources={"lakehouse": place}))

    look()
    found = read_needs(on).needs
    assert found[SILVER].due_bytes == found[SILVER].whole_bytes > 0
    stored.clear()
    look()
    assert stored == []
    world.land("second")
    world.take_in()
    stored.clear()
    look()
    assert stored == ["set_cursor_values"]
    assert read_needs(on).needs[SILVER].due_bytes > found[SILVER].due_bytes
