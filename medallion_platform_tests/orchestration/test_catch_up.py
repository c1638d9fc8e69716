"""One run brings up what is out of date; a table that fails stops no other one, and says why."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from pyspark.sql import SparkSession

from medallion_platform.errors import Kind
from medallion_platform.installation.settings import Settings
from medallion_platform.orchestration import runs
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.location import lakehouse_of
from medallion_platform.orchestration.names import BRING_UP, CATCH_UP, INTAKE, asset_key
from medallion_platform.orchestration.states import report_tables
from medallion_platform.pipeline.out_of_date import out_of_date_tables
from medallion_platform_tests.faults.toy_location import FAIL, TODAY, catalog

FRAGILE = "gold.fragile"
GOLD = [dg.AssetKey("gold_fragile"), dg.AssetKey("gold_sums")]


def test_a_table_that_fails_stops_no_other_one(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDALLION_HOME", str(tmp_path))
    place = lakehouse_of(Settings(home=tmp_path, settle_seconds=0))
    defs = build_defs(catalog, place)
    file = Path(place.landing) / "shop" / "sales.csv"
    file.parent.mkdir(parents=True)
    file.write_text(f"till,sold_at,euros\n1,{TODAY}T00:00:00Z,10\n")
    with runs.open_instance(tmp_path / "dagster") as on:
        job = defs.resolve_job_def(CATCH_UP)

        def catch_up(**config: object) -> dg.ExecuteInProcessResult:
            ops = {BRING_UP: {"config": config}}
            return job.execute_in_process(instance=on, run_config={"ops": ops}, raise_on_error=False)

        def check() -> dg.AssetCheckEvaluation:
            key = dg.AssetCheckKey(asset_key(FRAGILE), "refresh_succeeds")
            record = on.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
            assert record.event
            assert record.event.dagster_event
            return record.event.dagster_event.asset_check_evaluation_data

        def stale(days: set[str]) -> list[tuple[dg.AssetKey, str]]:
            told = CachingStaleStatusResolver(on, defs.resolve_asset_graph(), LoadingContextForTest(on))
            return [(k, d) for k in GOLD for d in days if told.get_status(k, d) is not StaleStatus.FRESH]

        assert defs.resolve_job_def(INTAKE).execute_in_process(instance=on).success
        (tmp_path / FAIL).touch()
        outcome = runs.Outcome()
        runs._run_catch_up(defs, on, outcome)
        assert outcome.failed.keys() == {FRAGILE}
        assert "the test wants it so" in outcome.failed[FRAGILE].why
        assert outcome.failed[FRAGILE].kind is Kind.UNKNOWN
        late = out_of_date_tables(catalog, place.lake)
        assert late.keys() == {FRAGILE}
        report_tables(catalog, place.lake, on, datetime.now(UTC))
        assert on.get_materialized_partitions(GOLD[0]) == set(), "it failed: nothing of it is done"
        assert not check().passed
        assert check().metadata["why"].value == outcome.failed[FRAGILE].why

        # Who says that it failed in this state is not made to try again, and who says nothing is.
        assert catch_up(held={FRAGILE: late[FRAGILE].state}).success
        assert catch_up(leave=[FRAGILE]).success
        assert not catch_up(held={FRAGILE: "another state"}).success
        (tmp_path / FAIL).unlink()
        done = catch_up()
        assert done.success
        assert check().passed
        assert out_of_date_tables(catalog, place.lake) == {}
        told = [e.partition for e in done.all_events if e.event_type_value == "ASSET_MATERIALIZATION"]
        assert told == [str(TODAY)], "the newest one; the others went to the log in one batch"
        days = {str(TODAY - timedelta(days=n)) for n in range(4)}
        keys = [dg.AssetKey("bronze_sales"), dg.AssetKey("silver_sales"), *GOLD]
        assert {key: on.get_materialized_partitions(key) for key in keys} == dict.fromkeys(keys, days)
        assert stale(days) == []
        tomorrow = datetime.combine(TODAY + timedelta(days=1), time(0, 1), UTC)
        report_tables(catalog, place.lake, on, tomorrow)
        days.add(str(tomorrow.date()))
        assert {key: on.get_materialized_partitions(key) for key in keys} == dict.fromkeys(keys, days)
        assert stale(days) == []
        assert not [e for e in catch_up().all_events if e.event_type_value == "ASSET_MATERIALIZATION"]
