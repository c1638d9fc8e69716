"""A table over time: its transform changes while intake goes on; it is made as of an earlier instant."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import dagster as dg
import polars as pl
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medallion_platform.installation.settings import Settings
from medallion_platform.lakehouse.commit_record import UNPARTITIONED
from medallion_platform.lakehouse.lake import Lake
from medallion_platform.orchestration.build import build_defs
from medallion_platform.orchestration.location import lakehouse_of
from medallion_platform.orchestration.partitions import range_tags
from medallion_platform.orchestration.sensors import code_sensor
from medallion_platform.pipeline.catalog import Catalog
from medallion_platform.pipeline.intake import landing_zone
from medallion_platform.pipeline.intake.polars_engine import intake
from medallion_platform.pipeline.run import Run
from medallion_platform.pipeline.table import Table, daily, table
from medallion_platform.sources.connectors import landing_scan
from medallion_platform_tests.sales import DailySales, source, summed

FIRST = date(2026, 2, 1)
DAYS = [str(FIRST + timedelta(days=n)) for n in range(3)]
GOLD = dg.AssetKey("gold_daily_sales")


SOURCE = source(FIRST)


def declared(transform: Callable[..., DataFrame]) -> Table:
    return table(
        "gold.daily_sales",
        contract=DailySales.contract,
        inputs={"sales": "bronze.sales"},
        incremental="replace_partitions",
        partition=daily("event_date"),
    )(transform)


def gross(sales: DataFrame) -> DataFrame:
    """The sum of a day."""
    return summed(sales)


def doubled(sales: DataFrame) -> DataFrame:
    """Twice the sum of a day."""
    return summed(sales).withColumn("euros", F.col("euros") * 2)


def land(settings: Settings, lake: Lake, name: str, days: list[str]) -> None:
    """Take in a file with a sale of each day; the name is in it, because equal files are one file."""
    file = settings.landing / "shop" / f"{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("sold_at,euros,till\n" + "".join(f"{d}T08:00:00Z,10,{name}\n" for d in days))
    seen = landing_scan.scan_landing_zone(settings.landing, [SOURCE], datetime.now(UTC), 0).claimed[
        SOURCE.name
    ]
    run = Run.now(name)
    intake(landing_zone.landed_files(SOURCE, settings.landing, seen, lake, run), lake, run)


def test_a_changed_transform_is_shown_and_one_backfill_mends_it(spark: SparkSession, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, settle_seconds=0)
    place = lakehouse_of(settings)
    lake = place.lake

    def definitions(transform: Callable[..., DataFrame]) -> tuple[Catalog, dg.Definitions]:
        catalog = Catalog((SOURCE,), (declared(transform),))
        return catalog, build_defs(catalog, place)

    def materialize(defs: dg.Definitions, on: dg.DagsterInstance) -> None:
        job = defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection={GOLD})
        assert job.execute_in_process(instance=on, tags=range_tags(DAYS[0], DAYS[-1])).success

    def stale(defs: dg.Definitions, on: dg.DagsterInstance) -> list[str]:
        told = CachingStaleStatusResolver(on, defs.resolve_asset_graph(), LoadingContextForTest(on))
        return [d for d in DAYS if told.get_status(GOLD, d) is StaleStatus.STALE]

    def tick(catalog: Catalog, on: dg.DagsterInstance, cursor: str | None) -> tuple[list[Any], str | None]:
        context = dg.build_sensor_context(on, cursor=cursor, resources={"lakehouse": place})
        result: Any = code_sensor(catalog)(context)
        return list(result.asset_events), result.cursor

    land(settings, lake, "first", DAYS)
    with dg.DagsterInstance.ephemeral() as on:
        before, defs = definitions(gross)
        materialize(defs, on)
        told = on.fetch_materializations(GOLD, limit=3).records
        assert [r.asset_materialization.metadata["dagster/partition_row_count"].value for r in told] == [
            1
        ] * 3
        assert stale(defs, on) == []
        (told,), cursor = tick(before, on, None)
        assert told.passed
        assert tick(before, on, cursor) == ([], cursor), "nothing changed: nothing is told again"

        after, defs = definitions(doubled)
        assert stale(defs, on) == DAYS
        (told,), cursor = tick(after, on, cursor)
        assert not told.passed
        assert told.metadata["partitions_of_former_code"].value == len(DAYS)
        assert f"{DAYS[0]} to {DAYS[-1]}" in told.metadata["what_to_do"].value
        assert json.loads(str(cursor)).keys() == {"gold_daily_sales"}

        done = Event()
        landed = 0

        def keep_landing() -> None:
            nonlocal landed
            while not done.is_set():
                land(settings, lake, f"beside-{landed}", DAYS[:1])
                landed += 1

        beside = Thread(target=keep_landing)
        beside.start()
        try:
            materialize(defs, on)
        finally:
            done.set()
            beside.join()
        assert stale(defs, on) == []
        last = on.event_log_storage.get_latest_asset_check_execution_by_key(
            [dg.AssetCheckKey(GOLD, "made_by_current_code")]
        )
        (check,) = last.values()
        assert check.event
        assert check.event.dagster_event
        assert check.event.dagster_event.asset_check_evaluation_data.passed

        record = lake.last_record("gold.daily_sales")
        assert record
        assert record.position["bronze.sales"][UNPARTITIONED] < lake.version("bronze.sales"), (
            "intake went on beside"
        )
        materialize(defs, on)
    made = pl.read_delta(lake.path("gold.daily_sales")).sort("event_date")
    assert made["sales"].to_list() == [1 + landed, 1, 1]
    assert made["euros"].to_list() == [20 * (1 + landed), 20, 20]


def test_a_table_is_made_as_of_an_instant_and_catches_up(spark: SparkSession, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, settle_seconds=0)
    place = lakehouse_of(settings)
    defs = build_defs(Catalog((SOURCE,), (declared(gross),)), place)
    job = defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection={GOLD})

    def sales(config: dict[str, Any]) -> list[int]:
        with dg.DagsterInstance.ephemeral() as on:
            done = job.execute_in_process(
                instance=on,
                tags=range_tags(DAYS[0], DAYS[-1]),
                run_config={"ops": {"gold_daily_sales": {"config": config}}},
            )
            assert done.success
        return pl.read_delta(place.lake.path("gold.daily_sales")).sort("event_date")["sales"].to_list()

    land(settings, place.lake, "first", DAYS)
    between = datetime.now(UTC).isoformat()
    land(settings, place.lake, "second", DAYS[1:])
    assert sales({}) == [1, 2, 2]
    assert sales({"as_of": between}) == [1, 1, 1]
    assert sales({}) == [1, 2, 2]
