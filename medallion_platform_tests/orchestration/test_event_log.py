"""Partitions are told to Dagster at once: the same as one by one, for a fraction of the work."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, StepMaterializationData
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from sqlalchemy import Connection, Engine, event

from medallion_platform.installation.settings import Settings
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.event_log import report_in_bulk, store_events_in_batches
from medallion_platform.orchestration.location import catalog, lakehouse_of
from medallion_platform.orchestration.names import asset_key
from medallion_platform.pipeline.catalog import Catalog

KEY = dg.AssetKey("bronze_bulk")
MADE = dg.DagsterEventType.ASSET_MATERIALIZATION


@pytest.fixture
def on(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    store_events_in_batches()
    with dg.DagsterInstance.local_temp(str(tmp_path)) as found:
        yield found


def entry(run: str, n: int, kind: dg.DagsterEventType = MADE) -> EventLogEntry:
    made = dg.AssetMaterialization(
        KEY, partition=f"day {n}", metadata={"n": n}, tags={"dagster/data_version": str(n)}
    )
    return EventLogEntry(
        error_info=None,
        level=10,
        user_message="",
        run_id=run,
        timestamp=1e9 + n,
        dagster_event=DagsterEvent(kind.value, "job", event_specific_data=StepMaterializationData(made)),
    )


def held(tmp_path: Path, run: str) -> dict[str, Any]:
    """What the storage holds of a run, ids and the run's name left out."""

    def rows(file: str, query: str) -> list[Any]:
        with sqlite3.connect(tmp_path / "history" / "runs" / f"{file}.db") as base:
            return [tuple(str(v).replace(run, "RUN") for v in row) for row in base.execute(query).fetchall()]

    of_event = "event, dagster_event_type, timestamp, asset_key, partition from event_logs"
    return {
        "log": rows(run, f"select {of_event}"),
        "index": rows("index", f"select {of_event} where run_id = '{run}'"),
        "tags": rows(
            "index",
            "select t.key, t.value, t.asset_key, t.event_timestamp from asset_event_tags t "
            f"join event_logs e on e.id = t.event_id where e.run_id = '{run}'",
        ),
        "last": rows("index", "select last_run_id, last_materialization_timestamp from asset_keys"),
    }


@contextmanager
def commits() -> Iterator[list[str]]:
    """The databases that were committed to meanwhile, once for each commit."""
    found: list[str] = []

    def note(connection: Connection) -> None:
        found.append(str(connection.engine.url))

    event.listen(Engine, "commit", note)
    try:
        yield found
    finally:
        event.remove(Engine, "commit", note)


def test_a_batch_is_stored_as_its_events_are_one_by_one_for_a_fraction(
    on: dg.DagsterInstance, tmp_path: Path
) -> None:
    storage, many = on.event_log_storage, 60
    storage.store_event(entry("first", 0))
    storage.store_event_batch([entry("first", 1)])
    with commits() as single:
        for n in range(many):
            storage.store_event(entry("one-by-one", n))
    one_by_one = held(tmp_path, "one-by-one")
    with commits() as batch:
        storage.store_event_batch([entry("at-once", n) for n in range(many)])
    assert held(tmp_path, "at-once") == one_by_one
    assert len(one_by_one["tags"]) == many
    record = on.get_latest_materialization_event(KEY)
    assert record
    assert (record.run_id, record.dagster_event and record.dagster_event.partition) == ("at-once", "day 59")
    assert len(single) >= 2 * many
    new_log = 2  # its schema, and the stamp of its version
    assert len(batch) == new_log + 2, "one of the run's log, one of the index"


def test_a_batch_of_anything_else_is_stored_as_ever(on: dg.DagsterInstance) -> None:
    storage = on.event_log_storage
    storage.store_event_batch([entry("a", 1), entry("b", 2)])
    started = EventLogEntry(
        error_info=None, level=10, user_message="said", run_id="a", timestamp=1e9, dagster_event=None
    )
    storage.store_event_batch([started, entry("a", 3)])
    assert [e.user_message for e in on.all_logs("a")] == ["", "said", ""]
    assert on.get_materialized_partitions(KEY) == {"day 1", "day 2", "day 3"}


def test_what_no_run_did_is_told_in_one_batch(
    on: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = _count_single(monkeypatch)
    events = [dg.AssetMaterialization(KEY, partition=f"day {n}") for n in range(9)]
    report_in_bulk(on, [*events, dg.AssetMaterialization(dg.AssetKey("whole"))])
    assert len(on.get_materialized_partitions(KEY)) == 9
    assert on.get_latest_materialization_event(dg.AssetKey("whole"))
    assert alone == [None]


@pytest.mark.parametrize("by_hand", [False, True], ids=["intake", "a click on all days"])
def test_months_of_days_are_told_in_batches(
    by_hand: bool, on: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, days = datetime.now(UTC).date() - timedelta(days=160), 150
    events = replace(catalog.source_of["bronze.events"], first_day=first)
    place = lakehouse_of(Settings(home=tmp_path / "home", settle_seconds=0))
    defs = build_defs(Catalog((events,), ()), place)
    file = Path(place.landing) / "clickstream" / "events" / "old" / "events.jsonl"
    file.parent.mkdir(parents=True)
    with file.open("w") as out:
        for n in range(days):
            out.write(
                f'{{"event_id": "e{n}", "user_id": "u", "event_type": "click", '
                f'"event_timestamp": "{first + timedelta(days=n)}T10:00:00Z"}}\n'
            )
    alone = _count_single(monkeypatch)
    key = asset_key(events.table)
    if by_hand:
        job = defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection={key})
        tags = {
            "dagster/asset_partition_range_start": str(first),
            "dagster/asset_partition_range_end": str(first + timedelta(days=days - 1)),
        }
        assert job.execute_in_process(instance=on, tags=tags).success
    else:
        assert defs.resolve_job_def("intake").execute_in_process(instance=on).success
    assert place.lake.rows(events.table) == days
    assert len(on.get_materialized_partitions(key)) >= days
    assert len(alone) <= 1, "the last one, which the step yields"


LOADS = "import medallion_platform.definitions as d; d.defs.get_repository_def(); "
SQLITE = "dagster._core.storage.event_log.sqlite.sqlite_event_log"


def _in_own_process(program: str, home: Path) -> str:
    # What this process prepared for itself is not handed on.
    own = {name: value for name, value in os.environ.items() if name != "DAGSTER_EVENT_BATCH_SIZE"}
    own["MEDALLION_HOME"] = str(home)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=own).stdout.strip()


def test_who_runs_steps_stores_batches_those_of_own_assets_too(tmp_path: Path) -> None:
    program = (
        f"import os; import dagster as dg; on = dg.DagsterInstance.local_temp({str(tmp_path)!r}); {LOADS}"
        "how = type(on.event_log_storage).store_event_batch; "
        "print(os.environ['DAGSTER_EVENT_BATCH_SIZE'], how.__module__)"
    )
    assert _in_own_process(program, tmp_path) == "1000 medallion_platform.orchestration.event_log"


def test_who_only_loads_the_definitions_loads_no_storage(tmp_path: Path) -> None:
    heavy = {"sqlalchemy", "alembic", SQLITE}
    program = f"import sys; {LOADS}print({heavy!r} & sys.modules.keys())"
    assert _in_own_process(program, tmp_path) == "set()"


def _count_single(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The partitions of materializations that are stored alone from now on."""
    alone: list[str | None] = []
    store = SqliteEventLogStorage.store_event

    def counting(self: SqliteEventLogStorage, event: EventLogEntry) -> None:
        if event.dagster_event_type == MADE:
            assert event.dagster_event
            alone.append(event.dagster_event.partition)
        store(self, event)

    monkeypatch.setattr(SqliteEventLogStorage, "store_event", counting)
    return alone
