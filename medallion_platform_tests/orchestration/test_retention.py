"""Dagster's storage is bounded: old runs go, and what pages and sensors go by stays."""

import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    SensorInstigatorData,
    TickData,
    TickStatus,
)

from medallion_platform.installation.settings import Settings
from medallion_platform.orchestration import runs
from medallion_platform.orchestration.location import definitions_of
from medallion_platform.orchestration.retention import forget_runs
from medallion_platform_tests.debezium.stack import Postgres, running_postgres

TABLE = dg.AssetKey("gold_made")
HOLDS = dg.AssetCheckKey(TABLE, "holds")
DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-05")


@dg.asset(key=TABLE, partitions_def=DAYS, check_specs=[dg.AssetCheckSpec("holds", asset=TABLE)], pool="made")
def made(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
    print("said", context.partition_key)
    version = dg.DataVersion(context.run.run_id)
    check = dg.AssetCheckResult(passed=context.partition_key != "2026-01-02", check_name="holds")
    return dg.MaterializeResult(metadata={"n": 1}, check_results=[check], data_version=version)


DEFS = dg.Definitions([made], executor=dg.in_process_executor)


def run(on: dg.DagsterInstance, day: str) -> str:
    job = DEFS.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=on, partition_key=day, tags={"why": "test"})
    assert result.success
    return result.run_id


def now() -> datetime:
    time.sleep(1.1)  # SQLite keeps seconds
    return datetime.now(UTC)


def files_of(home: Path, run_id: str) -> list[Path]:
    return [path for path in home.rglob(f"*{run_id}*") if path.is_file() or any(path.rglob("*.out"))]


def rows(home: Path, run_id: str) -> int:
    """Rows of any table of any of Dagster's databases that name a run."""
    found = 0
    for file in home.rglob("*.db"):
        with sqlite3.connect(file) as base:
            for (table,) in base.execute("select name from sqlite_master where type = 'table'").fetchall():
                for row in base.execute(f'select * from "{table}"').fetchall():
                    found += run_id in map(str, row)
    return found


def state(on: dg.DagsterInstance) -> dict[str, Any]:
    """What pages, checks and sensors go by."""
    check = on.event_log_storage.get_latest_asset_check_execution_by_key([HOLDS])[HOLDS]
    latest = on.get_latest_materialization_event(TABLE)
    version = on.get_latest_data_version_record(TABLE, partition_key="2026-01-02")
    (record,) = on.get_asset_records([TABLE])
    return {
        "partitions": on.get_materialized_partitions(TABLE),
        "check": (check.id, check.status, check.event and check.event.timestamp),
        "latest": latest and (latest.run_id, latest.timestamp),
        "version": version and version.storage_id,
        "entry": record.asset_entry.last_materialization_storage_id,
    }


def test_old_runs_go_and_tables_stay_as_they_are(on: dg.DagsterInstance, tmp_path: Path) -> None:
    home = tmp_path / "dagster"
    superseded, first, failed = run(on, "2026-01-01"), run(on, "2026-01-01"), run(on, "2026-01-02")
    waiting = on.create_run_for_job(DEFS.resolve_implicit_global_asset_job_def()).run_id
    started = on.create_run_for_job(
        DEFS.resolve_implicit_global_asset_job_def(), status=dg.DagsterRunStatus.STARTED
    ).run_id
    before = now()
    new = run(on, "2026-01-03")
    told, known = state(on), rows(home, new)
    assert told["partitions"] == {"2026-01-01", "2026-01-02", "2026-01-03"}
    assert files_of(home, superseded)

    assert forget_runs(on, before) == 3
    assert state(on) == told
    assert {r.run_id for r in on.get_runs()} == {waiting, started, new}
    for gone in (superseded, first, failed):
        assert files_of(home, gone) == []
    assert rows(home, superseded) == 0, "nothing is left of what was recomputed since"
    assert rows(home, new) == known
    assert len(on.all_logs(new)) > 5
    with sqlite3.connect(home / "history" / "runs.db") as base:
        orphans = "select count(*) from run_tags where run_id not in (select run_id from runs)"
        assert base.execute(orphans).fetchone() == (0,)
    assert forget_runs(on, before) == 0
    assert state(on) == told
    again = run(on, "2026-01-02")
    assert on.get_latest_data_version_record(TABLE, partition_key="2026-01-02").run_id == again  # type: ignore[union-attr]


def test_one_maintenance_forgets_so_many_and_the_next_one_the_rest(on: dg.DagsterInstance) -> None:
    for _ in range(3):
        run(on, "2026-01-01")
    before = now()
    assert forget_runs(on, before, most=2) == 2
    assert len(on.get_runs()) == 1
    assert forget_runs(on, before, most=2) == 1
    assert on.get_materialized_partitions(TABLE) == {"2026-01-01"}


def test_what_sensors_told_is_bounded_and_the_last_tick_stays(on: dg.DagsterInstance) -> None:
    for n in range(5):
        on.report_runless_asset_event(dg.AssetMaterialization(TABLE, partition="2026-01-01"))
        on.report_runless_asset_event(dg.AssetCheckEvaluation(TABLE, "holds", passed=n == 4))
    origin = runs._repository_origin().get_instigator_origin("a_sensor")
    on.add_instigator_state(
        InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, SensorInstigatorData())
    )
    for hour in range(4):
        on.create_tick(
            TickData(
                origin.get_id(),
                "sensor",
                InstigatorType.SENSOR,
                TickStatus.SKIPPED,
                timestamp=1e9 + hour,
                selector_id=origin.get_selector().get_id(),
            )
        )
    told = state(on)
    forget_runs(on, now())
    assert state(on) == told
    assert told["check"][1].value == "SUCCEEDED"
    assert len(on.event_log_storage.get_asset_check_execution_history(HOLDS, limit=9)) == 2
    assert len(on.fetch_materializations(TABLE, limit=9).records) == 1
    assert on.all_logs("") == []
    (tick,) = on.get_ticks(origin.get_id(), origin.get_selector().get_id())
    assert tick.timestamp == 1e9 + 3


def test_pools_of_runs_that_are_gone_are_free(on: dg.DagsterInstance) -> None:
    storage = on.event_log_storage
    storage.set_concurrency_slots("made", 1)
    assert storage.claim_concurrency_slot("made", "a run that nobody knows", "step").is_claimed
    forget_runs(on, datetime.now(UTC))
    assert not storage.get_concurrency_info("made").claimed_slots


def test_the_maintenance_forgets_by_the_setting(on: dg.DagsterInstance, tmp_path: Path) -> None:
    run(on, "2026-01-01")
    assert Settings().keep_runs_days == 30
    job = definitions_of(Settings(home=tmp_path)).resolve_job_def("maintenance")
    with sqlite3.connect(tmp_path / "dagster" / "history" / "runs.db") as base:
        ended = datetime.now(UTC) - timedelta(days=29)
        # As text: Feast, where it is loaded, has SQLite store a datetime as a number.
        base.execute("update runs set update_timestamp = ?", (f"{ended:%Y-%m-%d %H:%M:%S.%f}",))
    assert job.execute_in_process(instance=on).success
    assert len(on.get_runs()) == 2
    with sqlite3.connect(tmp_path / "dagster" / "history" / "runs.db") as base:
        ended = datetime.now(UTC) - timedelta(days=31)
        # As text: Feast, where it is loaded, has SQLite store a datetime as a number.
        base.execute("update runs set update_timestamp = ?", (f"{ended:%Y-%m-%d %H:%M:%S.%f}",))
    done = job.execute_in_process(instance=on)
    assert done.success
    assert [r.run_id for r in on.get_runs()] == [done.run_id]


def backfill(on: dg.DagsterInstance, name: str, at: datetime, status: BulkActionStatus) -> None:
    on.add_backfill(
        PartitionBackfill(
            name,
            status,
            from_failure=False,
            tags={"why": "test"},
            backfill_timestamp=at.timestamp(),
            partition_names=["2026-01-01"],
        )
    )


def test_backfills_go_with_the_last_of_their_runs(on: dg.DagsterInstance) -> None:
    check_backfills(on)


def check_backfills(on: dg.DagsterInstance) -> None:
    """What is kept of backfills: those that are not over, that are new, or that have a run."""
    old, new = datetime.now(UTC) - timedelta(days=40), datetime.now(UTC)
    for status in BulkActionStatus:
        backfill(on, f"old {status.value}", old, status)
    backfill(on, "new", new, BulkActionStatus.COMPLETED_SUCCESS)
    backfill(on, "has a run", old, BulkActionStatus.COMPLETED_SUCCESS)
    job = DEFS.resolve_implicit_global_asset_job_def()
    on.create_run_for_job(job, tags={"dagster/backfill": "has a run"})
    forget_runs(on, new - timedelta(days=30))
    going_on = {f"old {status}" for status in ("REQUESTED", "CANCELING", "FAILING")}
    assert {found.backfill_id for found in on.get_backfills()} == {*going_on, "new", "has a run"}
    tagged = on.get_backfills(BulkActionsFilter(tags={"why": "test"}))
    assert len(tagged) == 5


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    yield from running_postgres()


@pytest.mark.postgres
def test_a_storage_in_postgres_is_bounded_too(server: Postgres, tmp_path: Path) -> None:
    server.sql("postgres", "create database kept")
    url = f"postgresql://postgres@127.0.0.1:{server.port}/kept"
    storage = {"storage": {"postgres": {"postgres_url": url}}}

    def held() -> dict[str, int]:
        return {
            table: int(server.sql("kept", f"select count(*) from {table}"))
            for table in ("runs", "run_tags", "event_logs", "asset_check_executions", "asset_event_tags")
        }

    with dg.instance_for_test(storage, temp_dir=str(tmp_path)) as on:
        run(on, "2026-01-01")
        steady = None
        for _ in range(3):
            superseded = run(on, "2026-01-01")
            before = now()
            newest = run(on, "2026-01-01")
            told = state(on)
            assert forget_runs(on, before) == 2, "the superseded one, and the newest of before"
            assert state(on) == told, "pages and sensors see what they saw"
            assert not on.has_run(superseded)
            assert [r.run_id for r in on.get_runs()] == [newest]
            assert on.all_logs(superseded) == []
            assert steady in (None, held()), "what is kept does not grow"
            steady = held()
        check_backfills(on)
