"""What Dagster is shown: exactly these assets, with the partitions, checks and policies they need."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from medallion_platform.definitions import catalog, definitions_of
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.settings import Settings

BRONZE = {"events", "users", "regions", "departments", "jobs", "hired_employees"}
SILVER = {
    "events",
    "users",
    "regions",
    "users_history",
    "regions_history",
    "departments",
    "jobs",
    "hired_employees",
}
GOLD = {
    "daily_user_metrics",
    "regional_rollups_hourly",
    "regional_rollups_daily",
    "regional_rollups_weekly",
    "user_features",
    "users_history",
    "quarterly_hires",
    "department_metrics",
    "employee_analytics",
}


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    return definitions_of(Settings())


def test_exact_asset_keys(defs: dg.Definitions) -> None:
    found = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    tables = {
        *(f"bronze/{t}" for t in BRONZE),
        *(f"silver/{t}" for t in SILVER),
        *(f"gold/{t}" for t in GOLD),
    }
    assert found == tables | {"serving/user_features"}
    assert {name.replace(".", "/") for name in catalog.names} == tables


def test_time_based_tables_are_partitioned_and_dimensions_are_not(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    daily = {
        key.to_user_string()
        for key in graph.get_all_asset_keys()
        if isinstance(graph.get(key).partitions_def, dg.DailyPartitionsDefinition)
    }
    assert daily == {
        "bronze/events",
        "silver/events",
        "gold/daily_user_metrics",
        "gold/regional_rollups_hourly",
        "gold/regional_rollups_daily",
        "gold/user_features",
    }
    weekly = graph.get(dg.AssetKey(["gold", "regional_rollups_weekly"])).partitions_def
    assert isinstance(weekly, dg.WeeklyPartitionsDefinition)


def test_every_table_has_freshness_a_pool_and_checks_from_its_own_counts(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    for name in catalog.by_name:
        node = graph.get(dg.AssetKey(name.split(".")))
        assert node.freshness_policy is not None, name
        assert node.pools == {name.replace(".", "_")}, name
        checks = {key.name for key in node.check_keys}
        assert {"rows_are_conserved", "contract_holds"} <= checks, name
        assert node.backfill_policy == dg.BackfillPolicy.single_run(), name


def test_a_window_reaches_back_thirty_days(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    features = dg.AssetKey(["gold", "user_features"])
    metrics = dg.AssetKey(["gold", "daily_user_metrics"])
    mapping = graph.get_partition_mapping(features, metrics)
    assert isinstance(mapping, dg.TimeWindowPartitionMapping)
    assert (mapping.start_offset, mapping.end_offset) == (-30, 0)


def test_jobs_sensors_and_schedules(defs: dg.Definitions) -> None:
    repository = defs.get_repository_def()
    assert {"intake", "maintenance"} <= set(repository.job_names)
    assert {s.name for s in repository.sensor_defs} == {"files_landed", "refresh_what_changed"}
    assert {s.name for s in repository.schedule_defs} == {"maintenance_schedule"}


def test_maintenance_runs_as_a_job(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    defs = definitions_of(settings)
    lake = Lake(settings.lake)
    schema = pa.schema([("id", pa.int64())])
    for n in range(4):
        table = lake.ensure("gold.numbers", schema)
        write_deltalake(table, pa.table({"id": [n]}), mode="append")
    with dg.DagsterInstance.ephemeral() as on:
        result = defs.resolve_job_def("maintenance").execute_in_process(instance=on)
    assert result.success
    after = lake.open("gold.numbers")
    assert after is not None
    assert len(after.file_uris()) == 1
    assert lake.rows("gold.numbers") == 4
