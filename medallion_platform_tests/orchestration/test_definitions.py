"""What Dagster is shown: exactly these assets, with the partitions, checks and policies they need."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
import yaml
from dagster._core.asset_graph_view.asset_graph_view import AssetGraphView, TemporalContext
from dagster._core.execution.asset_backfill import AssetBackfillData, execute_asset_backfill_iteration_inner
from dagster._core.test_utils import in_process_test_workspace
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster_graphql.schema.run_config import default_values_yaml_from_type_snap
from deltalake import write_deltalake

from medallion_platform.healing.incident import report_of
from medallion_platform.installation.settings import Settings
from medallion_platform.lakehouse import incidents, maintenance, memory_uses
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.lakehouse.memory_uses import MemoryUse
from medallion_platform.orchestration import build, runs
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.intakes import waiting_arrivals
from medallion_platform.orchestration.lakehouse_resource import Lakehouse
from medallion_platform.orchestration.location import catalog, definitions_of, lakehouse_of
from medallion_platform.orchestration.names import asset_key
from medallion_platform.orchestration.partitions import range_tags
from medallion_platform.orchestration.work import RUN_SPARK
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake.landing_zone import landed_files
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.pipeline.run import Run
from medallion_platform.pipeline.table import Table, TimePartition, Upstream, weekly
from medallion_platform.sources.connectors import landing_scan
from medallion_platform_tests.healing.small_ledger import evidence

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

OPS = {"drills", "incidents", "maintenance"}
SCHEDULES = {"catch_up_by_the_hour", "drills_schedule", "maintenance_schedule"}


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    return definitions_of(Settings())


def test_exact_asset_keys(defs: dg.Definitions) -> None:
    found = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    tables = {
        *(f"bronze_{t}" for t in BRONZE),
        *(f"silver_{t}" for t in SILVER),
        *(f"gold_{t}" for t in GOLD),
    }
    assert found == tables | {"serving_user_features", *OPS}
    assert {name.replace(".", "_") for name in catalog.names} == tables


def test_no_two_nodes_of_the_graph_look_the_same(defs: dg.Definitions) -> None:
    """A node shows the end of its key; zoomed out, the first ten and the last seven characters of that."""
    graph = defs.resolve_asset_graph()
    keys = graph.get_all_asset_keys()
    labels = [key.path[-1] for key in keys]
    shown = [label if len(label) <= 18 else f"{label[:10]}...{label[-7:]}" for label in labels]
    assert len({*shown}) == len(keys)
    for key in keys:
        if graph.get(key).group_name == "ops":
            continue
        layer = key.path[-1].partition("_")[0]
        assert str(graph.get(key).group_name).endswith(f"_{layer}")
        assert layer in graph.get(key).kinds


def test_columns_and_checks_are_told_in_words(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    node = graph.get(dg.AssetKey("silver_events"))
    (column,) = (c for c in node.metadata["dagster/column_schema"].columns if c.name == "event_type")
    (listed,) = column.constraints.other
    assert listed.startswith("one of add_to_cart, click, ")
    check = graph.get_check_spec(dg.AssetCheckKey(node.key, "contract_holds"))
    assert check.description
    assert "no more than 5%" in check.description
    assert "- `amount: at least 0` (reject)" in check.description
    assert "- `session in order: session_end >= session_start` (warn)" in check.description


def test_every_table_and_column_of_the_sample_is_described(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, key
        if node.group_name == "ops":
            continue
        columns = node.metadata["dagster/column_schema"].columns
        assert [c.name for c in columns if not c.description] == [], key


def test_time_based_tables_are_partitioned_and_dimensions_are_not(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    daily = {
        key.to_user_string()
        for key in graph.get_all_asset_keys()
        if isinstance(graph.get(key).partitions_def, dg.DailyPartitionsDefinition)
    }
    assert daily == {
        "bronze_events",
        "silver_events",
        "gold_daily_user_metrics",
        "gold_regional_rollups_hourly",
        "gold_regional_rollups_daily",
        "gold_user_features",
    }
    weekly = graph.get(dg.AssetKey("gold_regional_rollups_weekly")).partitions_def
    assert isinstance(weekly, dg.WeeklyPartitionsDefinition)


def test_every_table_has_freshness_a_pool_and_checks_from_its_own_counts(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    for name in catalog.by_name:
        node = graph.get(asset_key(name))
        assert node.freshness_policy is not None, name
        assert node.pools == {name.replace(".", "_")}, name
        checks = {key.name for key in node.check_keys}
        assert {"rows_are_conserved", "contract_holds"} <= checks, name
        assert node.backfill_policy == dg.BackfillPolicy.single_run(), name


DAYS = ["2026-01-05", "2026-01-06", "2026-01-07"]
OF_DAYS = ("bronze_events", "silver_events", "gold_daily_user_metrics", "gold_regional_rollups_daily")


@pytest.mark.parametrize("tables", [OF_DAYS[1:2], OF_DAYS], ids=["of one table", "of many"])
def test_a_backfill_of_three_days_is_one_run(tables: Sequence[str], tmp_path: Path) -> None:
    """By Dagster's own plan of it, made of what the daemon sees of a code location."""
    target = LoadableTargetOrigin(module_name="medallion_platform.definitions", attribute="defs")
    now = datetime(2026, 2, 1, tzinfo=UTC)
    with runs.open_instance(tmp_path) as on, in_process_test_workspace(on, target) as workspace:
        graph = workspace.asset_graph
        view = AssetGraphView(
            temporal_context=TemporalContext(effective_dt=now, last_event_id=None),
            instance=on,
            asset_graph=graph,
        )
        asked = AssetBackfillData.from_asset_partitions(
            asset_graph=graph,
            partition_names=DAYS,
            asset_selection=[dg.AssetKey(name) for name in tables],
            dynamic_partitions_store=on,
            all_partitions=False,
            backfill_start_timestamp=now.timestamp(),
        )
        (request,) = execute_asset_backfill_iteration_inner(
            "backfill", asked, view, now.timestamp(), logging.getLogger(), None
        ).run_requests
    assert {key.to_user_string() for key in request.asset_selection or ()} == set(tables)
    assert request.tags == range_tags(DAYS[0], DAYS[-1])


def test_a_window_reaches_back_thirty_days(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    features = dg.AssetKey("gold_user_features")
    metrics = dg.AssetKey("gold_daily_user_metrics")
    mapping = graph.get_partition_mapping(features, metrics)
    assert isinstance(mapping, dg.TimeWindowPartitionMapping)
    assert (mapping.start_offset, mapping.end_offset) == (-30, 0)


def test_jobs_sensors_and_schedules(defs: dg.Definitions) -> None:
    repository = defs.get_repository_def()
    assert {"intake", "catch_up", "maintenance"} <= set(repository.job_names)
    assert {s.name for s in repository.sensor_defs} == {
        "catch_up_sensor",
        "dead_letters_surge",
        "code_changed",
        "data_grew_old",
    }
    assert {s.name for s in repository.schedule_defs} == SCHEDULES


def test_the_launchpad_offers_no_setting_of_the_machine(tmp_path: Path) -> None:
    place = Settings(home=tmp_path / "a home")
    repository = definitions_of(place).get_repository_def()
    for name in repository.job_names:
        snapshot = repository.get_job(name).get_job_snapshot()
        root = snapshot.mode_def_snaps[0].root_config_key
        assert root
        offered = snapshot.config_schema_snapshot.get_config_snap(root)
        text = default_values_yaml_from_type_snap(snapshot.config_schema_snapshot, offered)
        assert str(tmp_path) not in text
        resources = yaml.safe_load(text).get("resources") or {}
        assert not any(resources.values()), text


LEAP = date(2020, 2, 29)


def _days(
    domain: str, first_day: date, layer: str = "gold", partition: TimePartition | None = None
) -> tuple[Any, Table]:
    """A source and a table by day (or what `partition` says), with a first day of their own."""
    events = catalog.source_of["bronze.events"]
    source = replace(
        events,
        name=f"{domain}.events",
        table=f"bronze.{domain}",
        domain=domain,
        first_day=first_day,
        claims=(f"{domain}/**",),
    )
    made = catalog.by_name["gold.regional_rollups_weekly" if partition else "gold.regional_rollups_daily"]
    upstream = {name: Upstream(source.table) for name in list(made.inputs)[:1]}
    return source, replace(made, name=f"{layer}.{domain}", inputs=upstream, source_row_count="1")


@pytest.mark.parametrize(
    "made",
    [
        [],
        [_days("shop", LEAP), _days("fleet", date(2026, 7, 1)), _days("web", date(2024, 12, 30))],
        [
            _days("shop", LEAP, partition=weekly("week")),
            _days("fleet", date(2026, 7, 1), partition=weekly("week")),
        ],
        [_days("shop", LEAP, "silver"), _days("fleet", date(2026, 7, 1), "silver")],
        [_days("shop", date(2026, 11, 29)), _days("fleet", date(1999, 1, 1), partition=weekly("week"))],
    ],
    ids=["dimensions only", "three first days", "weeks only", "no gold", "days and weeks"],
)
def test_any_catalog_is_loaded_with_all_its_jobs_and_schedules(
    made: list[tuple[Any, Table]], tmp_path: Path
) -> None:
    few = Catalog(
        sources=(catalog.source_of["bronze.departments"], *(source for source, _ in made)),
        tables=(catalog.by_name["silver.departments"], *(table for _, table in made)),
    )
    defs = build_defs(few, lakehouse_of(Settings(home=tmp_path)))
    dg.Definitions.validate_loadable(defs)
    repository = defs.get_repository_def()
    for name in repository.job_names:
        assert defs.resolve_job_def(name)
    assert {s.name for s in repository.schedule_defs} == SCHEDULES


def test_where_nothing_is_published_nothing_asks_for_it(tmp_path: Path) -> None:
    place = lakehouse_of(Settings(home=tmp_path))
    Path(place.feature_repo).mkdir(parents=True)

    def served() -> set[str]:
        return {key.to_user_string() for key in build_defs(catalog, place).resolve_all_asset_keys()} & {
            "serving_user_features"
        }

    assert served() == {"serving_user_features"}
    (Path(place.feature_repo) / "feature_store.yaml").write_text("project: shop\nonline_store: null")
    assert served() == set()


def test_an_intake_is_checked_after_what_it_wrote(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, settle_seconds=0)
    file = settings.landing / "hr" / "departments" / "departments.csv"
    file.parent.mkdir(parents=True)
    file.write_text("1,Sales\nx,Nobody\n")
    bronze = dg.AssetKey("bronze_departments")
    with dg.DagsterInstance.ephemeral() as on:
        result = definitions_of(settings).resolve_job_def("intake").execute_in_process(instance=on)
        assert result.success
        written = on.get_latest_materialization_event(bronze)
        assert written
        for name, passed in (("contract_holds", False), ("rows_are_conserved", True)):
            (check,) = on.event_log_storage.get_asset_check_execution_history(
                dg.AssetCheckKey(bronze, name), limit=2
            )
            # The UI takes a result for that of the newest write if it is of the same run or later.
            assert check.run_id == written.run_id == result.run_id
            assert check.evaluation
            assert check.evaluation.passed is passed


def test_an_intake_that_died_is_tried_again(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    place = lakehouse_of(settings)
    file = settings.landing / "hr" / "departments" / "departments.csv"
    file.parent.mkdir(parents=True)
    file.write_text("1,Sales\n")
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert len(waiting_arrivals(catalog, place, later, place.lake)) == 1
    source = catalog.source_of["bronze.departments"]
    seen = landing_scan.scan_landing_zone(settings.landing, [source], later, 0).claimed[source.name]
    assert len(seen) == 1
    registered = landed_files(source, settings.landing, seen, place.lake, Run.now())  # and died here
    assert len(waiting_arrivals(catalog, place, later, place.lake)) == 1
    intake(registered, place.lake, Run.now())
    assert waiting_arrivals(catalog, place, later, place.lake) == {}


@pytest.mark.parametrize(
    ("spark", "executor", "starts"),
    [("1", None, True), ("", None, False), ("1", dg.multiprocess_executor, False)],
)
def test_spark_starts_while_the_project_loads_where_the_run_needs_it(
    spark: str,
    executor: dg.ExecutorDefinition | None,
    starts: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not in the steps' parent process, nor for an intake, which needs no JVM."""
    if spark:
        monkeypatch.setenv(RUN_SPARK, spark)
    started: list[Lakehouse] = []
    monkeypatch.setattr(build, "start_spark_early", started.append)
    place = Lakehouse(lake_root=str(tmp_path), landing=str(tmp_path), feature_repo=str(tmp_path))
    build_defs(Catalog((), ()), place, executor=executor)
    assert started == [place] * starts


def test_maintenance_runs_as_a_job(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    defs = definitions_of(settings)
    lake = Lake(settings.lake)
    schema = pa.schema([("id", pa.int64())])
    for n in range(4):
        table = lake.ensure("gold.quarterly_hires", schema)
        write_deltalake(table, pa.table({"id": [n]}), mode="append")
    killed = MemoryUse("gold.quarterly_hires", "r", datetime.now(UTC), "driver", 1 << 30, 1 << 30, "killed")
    for n in range(20):
        memory_uses.append(lake, [replace(killed, at=killed.at + timedelta(seconds=n))])
        incidents.report(lake, [report_of(evidence("worker/1", work="stream"), "worker")])
    with dg.DagsterInstance.ephemeral() as on:
        result = defs.resolve_job_def("maintenance").execute_in_process(instance=on)
        observed = on.fetch_observations(dg.AssetKey("gold_quarterly_hires"), limit=2).records
    assert result.success
    assert len(observed) == 1
    told = observed[0].asset_observation
    assert told
    assert (told.metadata["files_before"].value, told.metadata["files"].value) == (4, 1)
    assert int(str(told.metadata["kept_bytes"].value)) > 0, (
        "replaced files stay for readers of older versions"
    )
    after = lake.open("gold.quarterly_hires")
    assert after is not None
    assert len(after.file_uris()) == 1
    assert lake.rows("gold.quarterly_hires") == 4
    assert len(memory_uses.read(lake)) == 2, "what it was killed with last, and what it learned"
    assert len(incidents.read(lake).rows) == 1, "told once"
    found = lake.open(incidents.INCIDENTS)
    assert found is not None
    assert len(found.file_uris()) == 1


def test_maintenance_that_dagster_ended_while_it_was_paused_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its table's pool may be another run's by then."""
    settings = Settings(home=tmp_path)
    lake, table = Lake(settings.lake), "gold.quarterly_hires"
    for n in range(4):
        found = lake.ensure(table, pa.schema([("id", pa.int64())]))
        write_deltalake(found, pa.table({"id": [n]}), mode="append")
    use = MemoryUse(table, "r", datetime.now(UTC), "driver", 1 << 30, 1 << 30, "killed")
    for n in range(20):
        memory_uses.append(lake, [replace(use, at=use.at + timedelta(seconds=n))])
    before = {name: lake.version(name) for name in (table, memory_uses.MEMORY_USES)}
    job = definitions_of(settings).resolve_job_def("maintenance")
    with runs.open_instance(tmp_path / "dagster") as on:

        def ended(step: Callable[..., Any]) -> Callable[..., Any]:
            def paused(*arguments: Any, **named: Any) -> Any:
                for run in on.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
                    on.report_run_failed(run, "The worker does not answer.")
                return step(*arguments, **named)

            return paused

        monkeypatch.setattr(maintenance, "move_staged_files", ended(maintenance.move_staged_files))
        monkeypatch.setattr(memory_uses, "condense_rows", ended(memory_uses.condense_rows))
        done = job.execute_in_process(instance=on, raise_on_error=False)
        told = [str(e.step_failure_data.error) for e in done.all_events if e.is_step_failure]
    assert {name: lake.version(name) for name in before} == before
    assert len(told) > 1
    assert all("was ended meanwhile (FAILURE); nothing was written" in text for text in told)
